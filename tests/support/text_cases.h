/*
 * Helpers of the text side's tests: tokenizers from files, tables of texts with their ids, a GGUF
 * vocabulary as tokenizer.json.
 */
#ifndef AGL_TESTS_SUPPORT_TEXT_CASES_H
#define AGL_TESTS_SUPPORT_TEXT_CASES_H

#include <stddef.h>
#include <stdint.h>

#include "autoglm.h"

/* Opens a tokenizer; fails the test with the detail if it cannot. */
struct agl_tokenizer *text_open(const char *path);

/* Opens tests/data/tokenizer/NAME.tokenizer.json. */
struct agl_tokenizer *text_open_small(const char *name);

/* Fails the test unless the text has exactly these ids, in whatever room they are asked for. */
void text_assert_ids(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes,
                     const uint32_t *ids, size_t count);

/* Checks every case of a JSON file {"cases": [{"text", "ids"}]}; returns how many. */
int text_assert_cases(const struct agl_tokenizer *tokenizer, const char *path);

/* Checks a pair of files of llama.cpp's form: texts between lines "__ggml_vocab_test__", and a line
 * of ids for each; returns how many. */
int text_assert_vocab_cases(const struct agl_tokenizer *tokenizer, const char *texts_path,
                            const char *ids_path);

/* Writes FOLDER/tokenizer.json with GPT-2's rule from the vocabulary of a GGUF file. */
void text_json_from_gguf(const char *gguf_path, const char *folder);

/* Decodes ids and fails the test unless they give exactly these bytes, taken token by token. */
void text_assert_round_trip(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes);

#endif
