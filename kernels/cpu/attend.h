/*
 * The arithmetic of attention: one split of one sequence's positions, for the query heads that
 * share its keys and values.
 *
 * A few heads meet a few positions at once, in registers; every score is a sum of its own in the
 * order of vector.h, every sum of values one in ascending positions.
 */
#ifndef AGL_KERNELS_CPU_ATTEND_H
#define AGL_KERNELS_CPU_ATTEND_H

#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"

enum {
#if VECTOR_LANES == 16
    HEADS_TOGETHER = 4, /* 32 registers: 16 of sums, 4 of keys or values */
#else
    HEADS_TOGETHER = 2, /* 16 registers: 8 of sums, 4 of keys or values */
#endif
    ROWS_TOGETHER = 4,
    CACHE_LINE = 64,
};

struct split {
    const struct kv_cache *cache;
    uint32_t layer, kv_head;
    uint32_t first, count; /* positions */
    uint32_t heads;
    float scale;
};

/* Where the keys and values of a tile's positions are. */
struct tile {
    const char *keys[CPU_TILE_POSITIONS + ROWS_TOGETHER];
    const char *values[CPU_TILE_POSITIONS + ROWS_TOGETHER];
    uint32_t count;
};

static_assert(CPU_TILE_POSITIONS % VECTOR_LANES == 0, "scores of a tile are whole vectors");
static_assert(CPU_TILE_POSITIONS % ROWS_TOGETHER == 0, "and whole groups of rows");

static void find_tile(const struct split *split, uint32_t first, const uint32_t *blocks,
                      struct tile *tile)
{
    const struct kv_cache *cache = split->cache;
    uint32_t tokens = cache->options.block_tokens, left = split->count - first;
    uint32_t block = (split->first + first) / tokens - split->first / tokens;
    uint32_t token = (split->first + first) % tokens;
    tile->count = left < CPU_TILE_POSITIONS ? left : CPU_TILE_POSITIONS;
    for (uint32_t i = 0; i < tile->count; i++, token++) {
        if (token == tokens) {
            token = 0;
            block++;
        }
        tile->keys[i] = cpu_cache_row(cache, split->layer, blocks[block], 0, split->kv_head, token);
        tile->values[i] = tile->keys[i] + cache->half_bytes;
    }
    /* Groups of rows are filled up with the first: computed, and left out. */
    for (uint32_t i = tile->count; i < tile->count + ROWS_TOGETHER; i++) {
        tile->keys[i] = tile->keys[0];
        tile->values[i] = tile->values[0];
    }
}

/* vector_sum() of four vectors. */
SPECIALISED void four_sums(const vector_f32 v[4], float *ret_sums)
{
    typedef float vector_4 __attribute__((vector_size(16)));
    vector_4 q[4];
    for (int i = 0; i < 4; i++) {
#if VECTOR_LANES == 16
        typedef float vector_8 __attribute__((vector_size(32)));
        vector_8 half = __builtin_shufflevector(v[i], v[i], 0, 1, 2, 3, 4, 5, 6, 7) +
                        __builtin_shufflevector(v[i], v[i], 8, 9, 10, 11, 12, 13, 14, 15);
#else
        vector_f32 half = v[i];
#endif
#if VECTOR_LANES >= 8
        q[i] = __builtin_shufflevector(half, half, 0, 1, 2, 3) +
               __builtin_shufflevector(half, half, 4, 5, 6, 7);
#else
        q[i] = half;
#endif
    }
    vector_4 low = __builtin_shufflevector(q[0], q[1], 0, 1, 4, 5) +
                   __builtin_shufflevector(q[0], q[1], 2, 3, 6, 7);
    vector_4 high = __builtin_shufflevector(q[2], q[3], 0, 1, 4, 5) +
                    __builtin_shufflevector(q[2], q[3], 2, 3, 6, 7);
    vector_4 sums = __builtin_shufflevector(low, high, 0, 2, 4, 6) +
                    __builtin_shufflevector(low, high, 1, 3, 5, 7);
    memcpy(ret_sums, &sums, sizeof sums);
}

/* What is left of a row when whole vectors are done. */
SPECIALISED vector_f32 load_rest(enum tensor_type type, const char *row, size_t dims)
{
    return load_tail(type, row, dims - dims % VECTOR_LANES, dims % VECTOR_LANES);
}

/* scores[h][0..3] of the queries of `heads` heads and four keys. */
SPECIALISED void score_rows(enum tensor_type type, int heads, const char *const keys[ROWS_TOGETHER],
                            float (*queries)[CPU_HEAD_DIM_MAX], size_t dims, float scale,
                            float (*scores)[CPU_TILE_POSITIONS], uint32_t at)
{
    vector_f32 sums[HEADS_TOGETHER][ROWS_TOGETHER] = {0};
    size_t whole = dims - dims % VECTOR_LANES;
    for (size_t d = 0; d < whole; d += VECTOR_LANES) {
        vector_f32 k[ROWS_TOGETHER];
        for (int r = 0; r < ROWS_TOGETHER; r++)
            k[r] = load_elements(type, keys[r], d);
        for (int h = 0; h < heads; h++) {
            vector_f32 query = load_f32(queries[h] + d);
            for (int r = 0; r < ROWS_TOGETHER; r++)
                sums[h][r] = multiply_add(query, k[r], sums[h][r]);
        }
    }
    for (int h = 0; whole < dims && h < heads; h++)
        for (int r = 0; r < ROWS_TOGETHER; r++)
            sums[h][r] = multiply_add(load_f32(queries[h] + whole), load_rest(type, keys[r], dims),
                                      sums[h][r]);
    for (int h = 0; h < heads; h++) {
        float four[4];
        four_sums(sums[h], four);
        for (int r = 0; r < ROWS_TOGETHER; r++)
            scores[h][at + (uint32_t)r] = four[r] * scale;
    }
}

/* Asks for a row that is read a little later. */
SPECIALISED void prefetch_row(const char *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += CACHE_LINE)
        __builtin_prefetch(row + i);
}

/* The scores of all heads; meanwhile the tile's values come in, and the keys of the next. */
SPECIALISED void score_tile(enum tensor_type type, const struct split *split,
                            const struct tile *tile, const struct tile *next,
                            struct cpu_attention *own)
{
    size_t dims = split->cache->options.head_dim, bytes = split->cache->row_bytes;
    for (uint32_t i = 0; i < tile->count; i += ROWS_TOGETHER) {
        for (uint32_t r = i; r < i + ROWS_TOGETHER; r++) {
            prefetch_row(tile->values[r], bytes);
            if (r < next->count)
                prefetch_row(next->keys[r], bytes);
        }
        uint32_t h = 0;
        for (; h + HEADS_TOGETHER <= split->heads; h += HEADS_TOGETHER)
            score_rows(type, HEADS_TOGETHER, tile->keys + i, own->queries + h, dims, split->scale,
                       own->scores + h, i);
        for (; h < split->heads; h++)
            score_rows(type, 1, tile->keys + i, own->queries + h, dims, split->scale,
                       own->scores + h, i);
    }
}

/* Turns one head's scores into weights. Returns what the sums so far are to be multiplied by. */
static float weigh_tile(uint32_t count, float *scores, struct cpu_running *running)
{
    for (uint32_t i = count; i < CPU_TILE_POSITIONS; i++)
        scores[i] = -INFINITY;
    float maximum = running->maximum;
    for (uint32_t i = 0; i < CPU_TILE_POSITIONS; i++)
        maximum = scores[i] > maximum ? scores[i] : maximum;
    for (uint32_t i = 0; i < CPU_TILE_POSITIONS; i += VECTOR_LANES)
        store_f32(scores + i, vector_exp(load_f32(scores + i) - maximum));
    for (uint32_t i = count; i < CPU_TILE_POSITIONS; i++)
        scores[i] = 0;
    vector_f32 sum = {0};
    for (uint32_t i = 0; i < CPU_TILE_POSITIONS; i += VECTOR_LANES)
        sum += load_f32(scores + i);
    float correction = vector_exp(vector_all(running->maximum - maximum))[0];
    running->sum = running->sum * correction + vector_sum(sum);
    running->maximum = maximum;
    return correction;
}

/* sums[h] = sums[h] * correction[h] + weights * values, for `vectors` vectors from d on. */
SPECIALISED void add_values(enum tensor_type type, int heads, int vectors, const struct tile *tile,
                            size_t d, float (*scores)[CPU_TILE_POSITIONS], const float *corrections,
                            float (*sums)[CPU_HEAD_DIM_MAX])
{
    vector_f32 total[HEADS_TOGETHER][ROWS_TOGETHER];
    for (int h = 0; h < heads; h++)
        for (int v = 0; v < vectors; v++)
            total[h][v] = load_f32(sums[h] + d + (size_t)v * VECTOR_LANES) * corrections[h];
    for (uint32_t i = 0; i < tile->count; i++) {
        vector_f32 values[ROWS_TOGETHER];
        for (int v = 0; v < vectors; v++)
            values[v] = load_elements(type, tile->values[i], d + (size_t)v * VECTOR_LANES);
        for (int h = 0; h < heads; h++) {
            vector_f32 weight = vector_all(scores[h][i]);
            for (int v = 0; v < vectors; v++)
                total[h][v] = multiply_add(weight, values[v], total[h][v]);
        }
    }
    for (int h = 0; h < heads; h++)
        for (int v = 0; v < vectors; v++)
            store_f32(sums[h] + d + (size_t)v * VECTOR_LANES, total[h][v]);
}

SPECIALISED void add_rest(enum tensor_type type, const struct tile *tile, size_t dims,
                          const float *scores, float correction, float *sums)
{
    size_t whole = dims - dims % VECTOR_LANES;
    vector_f32 total = load_f32(sums + whole) * correction;
    for (uint32_t i = 0; i < tile->count; i++)
        total = multiply_add(vector_all(scores[i]), load_rest(type, tile->values[i], dims), total);
    store_f32(sums + whole, total);
}

SPECIALISED void add_heads(enum tensor_type type, int heads, const struct tile *tile, size_t dims,
                           float (*scores)[CPU_TILE_POSITIONS], const float *corrections,
                           float (*sums)[CPU_HEAD_DIM_MAX])
{
    enum { STEP = ROWS_TOGETHER * VECTOR_LANES };
    size_t d = 0;
    for (; d + STEP <= dims; d += STEP)
        add_values(type, heads, ROWS_TOGETHER, tile, d, scores, corrections, sums);
    for (; d + VECTOR_LANES <= dims; d += VECTOR_LANES)
        add_values(type, heads, 1, tile, d, scores, corrections, sums);
    for (int h = 0; d < dims && h < heads; h++)
        add_rest(type, tile, dims, scores[h], corrections[h], sums[h]);
}

SPECIALISED void add_tile(enum tensor_type type, const struct split *split, const struct tile *tile,
                          struct cpu_attention *own)
{
    float corrections[CPU_HEADS_AT_ONCE];
    size_t dims = split->cache->options.head_dim;
    for (uint32_t h = 0; h < split->heads; h++)
        corrections[h] = weigh_tile(tile->count, own->scores[h], &own->split_running[h]);
    uint32_t h = 0;
    for (; h + HEADS_TOGETHER <= split->heads; h += HEADS_TOGETHER)
        add_heads(type, HEADS_TOGETHER, tile, dims, own->scores + h, corrections + h,
                  own->split_sums + h);
    for (; h < split->heads; h++)
        add_heads(type, 1, tile, dims, own->scores + h, corrections + h, own->split_sums + h);
}

/* own->split_running and split_sums, from the queries and blocks in `own`. */
SPECIALISED void sum_split(enum tensor_type type, const struct split *split,
                           struct cpu_attention *own)
{
    size_t dims = split->cache->options.head_dim;
    size_t width = (dims + VECTOR_LANES - 1) / VECTOR_LANES * VECTOR_LANES;
    for (uint32_t h = 0; h < split->heads; h++) {
        memset(own->split_sums[h], 0, width * sizeof(float));
        own->split_running[h] = (struct cpu_running){.maximum = -INFINITY};
    }
    struct tile tiles[2];
    find_tile(split, 0, own->blocks, &tiles[0]);
    for (uint32_t first = 0, turn = 0; first < split->count;
         first += CPU_TILE_POSITIONS, turn ^= 1) {
        struct tile *next = &tiles[turn ^ 1];
        next->count = 0;
        if (first + CPU_TILE_POSITIONS < split->count)
            find_tile(split, first + CPU_TILE_POSITIONS, own->blocks, next);
        score_tile(type, split, &tiles[turn], next, own);
        add_tile(type, split, &tiles[turn], own);
    }
}

#endif
