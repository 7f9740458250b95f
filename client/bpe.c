#include "client/bpe.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void bpe_init(struct bpe *bpe)
{
    *bpe = (struct bpe){0};
    merge_queue_init(&bpe->queue);
}

void bpe_fini(struct bpe *bpe)
{
    merge_queue_fini(&bpe->queue);
    free(bpe->ids);
    free(bpe->spans);
    bpe_init(bpe);
}

/* ---- short pieces ---------------------------------------------------------------------------- */

static uint32_t rank_of(const struct vocabulary *vocabulary, uint32_t left, uint32_t right)
{
    const struct vocabulary_pair *pair = vocabulary_pair(vocabulary, left, right);
    return pair ? pair->rank : UINT32_MAX;
}

int bpe_encode_short(const struct vocabulary *vocabulary, const char *piece, size_t bytes,
                     struct id_list *ids)
{
    uint32_t id[BPE_SHORT_BYTES];
    uint32_t rank[BPE_SHORT_BYTES]; /* of id[i] with id[i + 1] */
    size_t count = bytes;
    for (size_t i = 0; i < count; i++)
        id[i] = (uint32_t)vocabulary->byte_ids[(uint8_t)piece[i]];
    for (size_t i = 0; i + 1 < count; i++)
        rank[i] = rank_of(vocabulary, id[i], id[i + 1]);

    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == UINT32_MAX)
            break;
        id[best] = vocabulary_pair(vocabulary, id[best], id[best + 1])->merged;
        count--;
        memmove(id + best + 1, id + best + 2, (count - best - 1) * sizeof *id);
        memmove(rank + best, rank + best + 1, (count - best - 1) * sizeof *rank);
        if (best + 1 < count)
            rank[best] = rank_of(vocabulary, id[best], id[best + 1]);
        if (best > 0)
            rank[best - 1] = rank_of(vocabulary, id[best - 1], id[best]);
    }
    for (size_t i = 0; i < count; i++) {
        int err = id_list_push(ids, id[i]);
        if (err < 0)
            return err;
    }
    return 0;
}

/* ---- long pieces ----------------------------------------------------------------------------- */

static int make_room(struct bpe *bpe, size_t bytes)
{
    if (bytes <= bpe->capacity)
        return 0;
    uint32_t *ids = realloc(bpe->ids, bytes * sizeof *ids);
    if (!ids)
        return -ENOMEM;
    bpe->ids = ids;
    uint16_t *spans = realloc(bpe->spans, bytes * sizeof *spans);
    if (!spans)
        return -ENOMEM;
    bpe->spans = spans;
    bpe->capacity = bytes;
    return 0;
}

/* Queues the tokens that begin at left and right if they are a pair. */
static int offer(struct bpe *bpe, const struct vocabulary *vocabulary, uint32_t left,
                 uint32_t right)
{
    const struct vocabulary_pair *pair =
        vocabulary_pair(vocabulary, bpe->ids[left], bpe->ids[right]);
    return pair ? merge_queue_push(&bpe->queue, pair->rank, left) : 0;
}

/* Merges the token at `at` with the one behind it, if they still are a pair of that rank: since the
 * place was queued either may have become part of something longer. */
static int merge_at(struct bpe *bpe, const struct vocabulary *vocabulary, uint32_t rank,
                    uint32_t at, uint32_t bytes)
{
    if (bpe->ids[at] == UINT32_MAX)
        return 0;
    uint32_t right = at + bpe->spans[at];
    if (right >= bytes)
        return 0;
    const struct vocabulary_pair *pair = vocabulary_pair(vocabulary, bpe->ids[at], bpe->ids[right]);
    if (!pair || pair->rank != rank)
        return 0;

    uint16_t span = (uint16_t)(bpe->spans[at] + bpe->spans[right]);
    uint32_t end = at + span;
    bpe->ids[at] = pair->merged;
    bpe->ids[right] = UINT32_MAX;
    bpe->spans[at] = span;
    bpe->spans[end - 1] = span;
    int err = end < bytes ? offer(bpe, vocabulary, at, end) : 0;
    if (err == 0 && at > 0)
        err = offer(bpe, vocabulary, at - bpe->spans[at - 1], at);
    return err;
}

int bpe_encode_long(struct bpe *bpe, const struct vocabulary *vocabulary, const char *piece,
                    size_t bytes, struct id_list *ids)
{
    if (bytes > INT32_MAX)
        return -E2BIG;
    int err = make_room(bpe, bytes);
    if (err < 0)
        return err;
    merge_queue_clear(&bpe->queue);
    for (uint32_t i = 0; i < bytes; i++) {
        bpe->ids[i] = (uint32_t)vocabulary->byte_ids[(uint8_t)piece[i]];
        bpe->spans[i] = 1;
        if (i > 0)
            err = offer(bpe, vocabulary, i - 1, i);
        if (err < 0)
            return err;
    }

    uint32_t rank = 0;
    uint32_t at = 0;
    while (merge_queue_pop(&bpe->queue, &rank, &at)) {
        err = merge_at(bpe, vocabulary, rank, at, (uint32_t)bytes);
        if (err < 0)
            return err;
    }
    for (uint32_t i = 0; i < bytes; i += bpe->spans[i]) {
        err = id_list_push(ids, bpe->ids[i]);
        if (err < 0)
            return err;
    }
    return 0;
}

int bpe_encode(struct bpe *bpe, const struct vocabulary *vocabulary, const char *piece,
               size_t bytes, struct id_list *ids, uint8_t *ret_byte)
{
    for (size_t i = 0; i < bytes; i++) {
        if (vocabulary->byte_ids[(uint8_t)piece[i]] == VOCABULARY_NONE) {
            *ret_byte = (uint8_t)piece[i];
            return -EILSEQ;
        }
    }
    if (bytes <= BPE_SHORT_BYTES)
        return bpe_encode_short(vocabulary, piece, bytes, ids);
    return bpe_encode_long(bpe, vocabulary, piece, bytes, ids);
}
