/*
 * How many ids the tokenizer beside a model knows. Rows of the output head beyond that are padding,
 * which no one may sample. The tokenizer itself is the clients' business.
 */
#ifndef AGL_MODEL_VOCABULARY_H
#define AGL_MODEL_VOCABULARY_H

#include <stdint.h>

#include "model/failure.h"

/* The highest id plus one: of tokenizer.json's vocabulary and added tokens, or else of
 * tokenizer.model's ranks and the added tokens of tokenizer_config.json. 0 ids: the folder has no
 * tokenizer that tells. -EINVAL, -EFBIG, -ENOMEM or the errno of a system call, with file and
 * field in *failure. */
int vocabulary_size(const char *folder, uint32_t *ret_size, struct failure *failure);

#endif
