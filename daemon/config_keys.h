/*
 * The table of configuration keys: the one source of what files may hold, of the flags, of --help,
 * of the defaults and of what --check-config prints. For the config_*.c files only.
 */
#ifndef AGL_DAEMON_CONFIG_KEYS_H
#define AGL_DAEMON_CONFIG_KEYS_H

#include <stddef.h>

#include "daemon/config.h"

enum config_kind {
    CONFIG_TEXT,   /* a string */
    CONFIG_LIST,   /* strings and numbers; kept, and given as a flag, with commas between */
    CONFIG_WORD,   /* a string out of `words` */
    CONFIG_CHOICE, /* the index of a string in `words`, by `values` */
    CONFIG_NUMBER, /* min to max, times scale */
    CONFIG_OCTAL,  /* a string of octal digits */
};

enum config_shape { CONFIG_ANY = 0, CONFIG_POWER_OF_TWO = 1, CONFIG_PAGES = 2 };

enum { CONFIG_WORDS_MAX = 6 };

struct config_key {
    const char *name;     /* in files: "cache_mib"; inside "session": "session.event_slots" */
    const char *argument; /* in --help: "PATH" */
    const char *help;
    const char *fallback; /* the default, as a flag would give it */
    enum config_kind kind;
    enum config_shape shape;
    size_t offset; /* of the field in struct config */
    size_t bytes;
    uint64_t min, max, scale;
    const char *words[CONFIG_WORDS_MAX];
    uint32_t values[CONFIG_WORDS_MAX];
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;

/* NULL: no such key. */
const struct config_key *config_key_find(const char *name);

/* Sets the key's field; `where` begins the message: "FILE: cache_mib" or "--cache-mib". */
int config_set_text(struct config *config, const struct config_key *key, const char *text,
                    const char *where, struct failure *failure);
int config_set_number(struct config *config, const struct config_key *key, uint64_t number,
                      const char *where, struct failure *failure);

/* What the key takes, for messages: "a number from 1 to 64". */
void config_key_describe(const struct config_key *key, char *ret_text, size_t bytes);

/* The field as it would be written into a file, quotes included. */
void config_key_print(FILE *out, const struct config *config, const struct config_key *key);

/* The flag of a key: "--cache-mib". */
void config_flag_name(const struct config_key *key, char *ret_text, size_t bytes);

/* Adds a model, or replaces the one of that name. A relative folder counts from `base`
 * (empty: the current folder). */
int config_set_model(struct config *config, const char *name, const char *folder, const char *base,
                     const char *where, struct failure *failure);

/* How many letters must change to make one word of the other; for "did you mean". */
size_t config_distance(const char *a, const char *b);

/* Reads the text of one file over *config; `path` is for messages and relative folders. What was
 * set before an error stays set. */
int config_parse(struct config *config, const char *text, size_t bytes, const char *path,
                 struct failure *failure);

/* Reads the file and its drop-ins over *config. A missing file is an error only if is_required. */
int config_read_files(struct config *config, const char *path, bool is_required,
                      struct failure *failure);

#endif
