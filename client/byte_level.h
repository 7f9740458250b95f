/*
 * Byte-level BPE as files spell it: tokens in GPT-2's alphabet, where every byte is a printable
 * character, and merges as pairs of such tokens.
 */
#ifndef AGL_CLIENT_BYTE_LEVEL_H
#define AGL_CLIENT_BYTE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

#include "client/vocabulary.h"

/* Turns a token's spelling into its bytes [VOCABULARY_TOKEN_BYTES_MAX]; returns how many, or -1:
 * not in that alphabet, or too long. */
int byte_level_spell(const char *text, size_t length, char *ret_bytes);

/* Adds the merge of two spelled halves to a sealed vocabulary. One that makes a special token, or
 * is made of one, is left out. -EINVAL, with a detail that names path, field and rank; -ENOMEM. */
int byte_level_add_merge(struct vocabulary *vocabulary, uint32_t rank, const char *const half[2],
                         const size_t length[2], const char *path, const char *field);

#endif
