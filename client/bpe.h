/*
 * Merging: a piece of text begins as single bytes; again and again the adjacent pair with the
 * lowest rank becomes one token, the leftmost such pair first, until no pair is left.
 */
#ifndef AGL_CLIENT_BPE_H
#define AGL_CLIENT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "client/id_list.h"
#include "client/merge_queue.h"
#include "client/vocabulary.h"

enum { BPE_SHORT_BYTES = 48 }; /* up to here plain searching beats the queue */

/* Working memory, kept from piece to piece; one for each thread that encodes. */
struct bpe {
    struct merge_queue queue;
    uint32_t *ids;   /* [capacity]: the token that begins at each byte; UINT32_MAX: none does */
    uint16_t *spans; /* [capacity]: its length, at its first and at its last byte */
    size_t capacity;
};

void bpe_init(struct bpe *bpe);

void bpe_fini(struct bpe *bpe);

/* Appends the ids of a piece. -EILSEQ: a byte has no token, *ret_byte says which; -E2BIG: more than
 * INT32_MAX bytes or ids; -ENOMEM. On failure the list may have grown. */
int bpe_encode(struct bpe *bpe, const struct vocabulary *vocabulary, const char *piece,
               size_t bytes, struct id_list *ids, uint8_t *ret_byte);

/* The two ways that bpe_encode() chooses from, for tests: they give the same. bpe_encode_short():
 * at most BPE_SHORT_BYTES. */
int bpe_encode_short(const struct vocabulary *vocabulary, const char *piece, size_t bytes,
                     struct id_list *ids);
int bpe_encode_long(struct bpe *bpe, const struct vocabulary *vocabulary, const char *piece,
                    size_t bytes, struct id_list *ids);

#endif
