/*
 * The tokens of a tokenizer and the pairs that merge: filled once by a reader of files, then
 * read-only and shared by any number of threads.
 *
 * Three kinds of tokens:
 *  - ordinary ones are found by their bytes, and text is made of nothing else;
 *  - added ones (special or not) are found by vocabulary_find_added() alone, so text cannot become
 *    one by accident; a special one gives no text to users;
 *  - an added, not special one may be ordinary as well.
 * Ids may have gaps.
 */
#ifndef AGL_CLIENT_VOCABULARY_H
#define AGL_CLIENT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VOCABULARY_IDS_MAX = 1 << 22,      /* ids are below this */
    VOCABULARY_TOKEN_BYTES_MAX = 1024, /* of one token; the known vocabularies stay below 300 */
    VOCABULARY_NONE = -1               /* no such token */
};

enum vocabulary_flags {
    VOCABULARY_USED = 1 << 0,
    VOCABULARY_ORDINARY = 1 << 1,
    VOCABULARY_ADDED = 1 << 2,
    VOCABULARY_SPECIAL = 1 << 3
};

struct vocabulary_token {
    uint32_t offset; /* into bytes */
    uint16_t bytes;
    uint16_t flags;
};

/* Two tokens that become one. The pair with the lowest rank merges first. */
struct vocabulary_pair {
    uint32_t left; /* UINT32_MAX: an empty place of the table */
    uint32_t right;
    uint32_t rank;
    uint32_t merged;
};

struct vocabulary {
    struct vocabulary_token *tokens; /* [token_count], by id */
    uint32_t token_count;            /* one more than the highest id */
    uint32_t token_capacity;
    uint32_t used_count;
    char *bytes;
    uint32_t bytes_used;
    uint32_t bytes_capacity;
    int32_t *places; /* ids of ordinary tokens, by the hash of their bytes; -1: empty */
    uint32_t place_count;
    uint32_t ordinary_count;
    struct vocabulary_pair *pairs; /* by the hash of left and right */
    uint32_t pair_places;
    uint32_t pair_count;
    uint32_t *added; /* ids of added tokens, sorted by their bytes once vocabulary_seal() ran */
    uint32_t added_count;
    uint32_t added_capacity;
    uint32_t longest_bytes;
    int32_t byte_ids[256]; /* VOCABULARY_NONE: that byte has no token */
};

/* Makes an empty vocabulary. */
void vocabulary_init(struct vocabulary *vocabulary);

void vocabulary_fini(struct vocabulary *vocabulary);

/* Adds a token; ids may come in any order, and a token may be added a second time with the same
 * bytes to gain flags. flags: enum vocabulary_flags without USED. A special token is never
 * ordinary: adding one takes that flag away. -EEXIST: the id has other bytes, or these bytes have
 * another ordinary id; -ERANGE: id or length beyond the limits, or no bytes; -ENOMEM. */
int vocabulary_add(struct vocabulary *vocabulary, uint32_t id, const char *bytes, size_t length,
                   uint32_t flags);

/* Says that left and right, both ordinary, merge. -EEXIST: the pair is already there; -ENOMEM. */
int vocabulary_add_pair(struct vocabulary *vocabulary, struct vocabulary_pair pair);

/* For vocabularies of ranks: every way to cut an ordinary token into two ordinary ones becomes a
 * pair, its rank the token's id. -ENOMEM. */
int vocabulary_add_all_pairs(struct vocabulary *vocabulary);

/* Ends the adding of tokens: looks up the bytes' own ones and sorts the added ones. -EEXIST: two
 * added tokens have the same text. */
int vocabulary_seal(struct vocabulary *vocabulary);

/* The ordinary token with exactly these bytes, or VOCABULARY_NONE. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t length);

/* The added token with exactly this text, or VOCABULARY_NONE. Only after vocabulary_seal(). */
int32_t vocabulary_find_added(const struct vocabulary *vocabulary, const char *text, size_t length);

/* The pair of these two ids, or NULL. */
const struct vocabulary_pair *vocabulary_pair(const struct vocabulary *vocabulary, uint32_t left,
                                              uint32_t right);

/* The token of that id, or NULL. */
const struct vocabulary_token *vocabulary_token(const struct vocabulary *vocabulary, uint32_t id);

/* Its bytes. */
const char *vocabulary_bytes(const struct vocabulary *vocabulary,
                             const struct vocabulary_token *token);

#endif
