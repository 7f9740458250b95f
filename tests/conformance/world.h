/*
 * Sequences with queries, keys and values at every position, and a paged cache for them: what tests
 * of attention run through a backend, in batches of any make.
 */
#ifndef AGL_TESTS_CONFORMANCE_WORLD_H
#define AGL_TESTS_CONFORMANCE_WORLD_H

#include "tests/conformance/data.h"

enum { WORLD_SEQUENCES_MAX = 8 };

struct sequence {
    uint32_t length;
    float *q;   /* [length, heads * head_dim] */
    float *k;   /* [length, kv_heads * head_dim] */
    float *v;   /* [length, kv_heads * head_dim] */
    float *out; /* [length, heads * head_dim]: filled by world_run() */
};

struct world {
    struct attention_shape shape;
    struct sequence sequences[WORLD_SEQUENCES_MAX];
    uint32_t sequence_count;
    uint32_t length_max;
    float *cos_sin; /* [length_max, rotary_dims / 2, 2], of every position */

    struct kv_cache_options cache_options;
    struct kv_cache *cache;
    struct backend *backend;
    uint32_t *tables; /* [sequence_count, table_stride], shuffled over the whole cache */
    uint32_t table_stride;
};

/* A part of one sequence for a batch: `count` rows from position `first` on. */
struct segment {
    uint32_t sequence;
    uint32_t first;
    uint32_t count;
};

/* The sequences' numbers follow from the seed and the shape alone. With `exact_half` keys and
 * values are numbers that f16 holds. */
void world_init(struct world *ret_world, uint64_t seed, const struct attention_shape *shape,
                const uint32_t *lengths, uint32_t sequence_count, bool exact_half);
void world_fini(struct world *world);

/* Opens an empty cache on a backend, before the first run; its memory is filled with NaN. */
void world_open_cache(struct world *world, struct backend *backend, enum tensor_type type,
                      uint32_t block_tokens, uint64_t shuffle_seed);
void world_close_cache(struct world *world);

/* One batch through rotary_store and attention; results go to the sequences' out. With ret_q (of
 * the batch's rows) the turned queries are copied there. */
void world_run(struct world *world, const struct segment *segments, uint32_t segment_count,
               float *ret_q);

#endif
