/*
 * What the files of the text side share: the tokenizer behind agl_tokenizer_open(), and its
 * readers. Once open it is read-only (but for agl_chat_set_format()); encoding keeps its working
 * memory on its own stack and heap.
 */
#ifndef AGL_CLIENT_TOKENIZER_H
#define AGL_CLIENT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "autoglm.h"
#include "client/id_list.h"
#include "client/pretokenizer.h"
#include "client/vocabulary.h"

struct chat_format;

struct agl_tokenizer {
    struct vocabulary vocabulary;
    struct pretokenizer pretokenizer;
    bool nfc;          /* text is brought into normalisation form C first */
    bool whole_pieces; /* a piece that is a token is that token, whatever the merges say */
    const struct chat_format *chat; /* NULL: none known */
    char *chat_system; /* chatml: the message that the model's template begins with; NULL: none */
};

/* Appends the ids of a text. Errors as agl_encode(), with the detail set. */
int tokenizer_encode(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes,
                     struct id_list *ids);

/* Fill an empty tokenizer (but for its chat format) from the text of a file; path is for the
 * detail. config is the tokenizer_config.json beside it, NULL if there is none, and may add added
 * tokens. -EINVAL, -ENOMEM, with the detail set; the caller closes the tokenizer. */

/* A Hugging Face tokenizer.json: byte-level BPE. Fields that change what ids a text gets are all
 * looked at, and one that is not understood is refused by name. post_processor, truncation and
 * padding are for whole prompts and not used here. A merge that makes a special token, or is made
 * of one, is left out: text never becomes a special token. */
int tokenizer_json_read(struct agl_tokenizer *tokenizer, const char *path, const char *text,
                        size_t bytes, const cJSON *config);

/* A GLM-4 tokenizer.model: lines of base64 and rank. Without added tokens in the config, the 14 of
 * GLM-4 are taken if the ranks are as many as GLM-4's, else none. */
int tokenizer_model_read(struct agl_tokenizer *tokenizer, const char *path, const char *text,
                         size_t bytes, const cJSON *config);

struct gguf;

/* The metadata of a GGUF file: byte-level BPE ("gpt2") with one of the known splitting rules.
 * Control tokens are special, user-defined ones added, unused ones no tokens at all. */
int tokenizer_gguf_read(struct agl_tokenizer *tokenizer, const char *path, const struct gguf *gguf);

/* The same from a file, of which the header alone is read, and its chat format. */
int tokenizer_gguf_open(struct agl_tokenizer *tokenizer, const char *path);

/* Whether a file begins as a GGUF file does. */
bool tokenizer_is_gguf(const char *path);

/* Adds the added_tokens_decoder of a tokenizer_config.json (none: does nothing). Returns how many.
 */
int tokenizer_config_read(struct agl_tokenizer *tokenizer, const char *path, const cJSON *config);

#endif
