/*
 * The arithmetic of attention: one sequence's positions for queries that share their keys and
 * values, which are the heads of one row, or of several rows of a prompt.
 *
 * A few queries meet a few vectors at once, in registers. A lane of a score is a position: every
 * score is one sum in ascending dimensions, every sum of values one in ascending positions, and
 * neither depends on who else is there.
 */
#ifndef AGL_KERNELS_CPU_ATTEND_H
#define AGL_KERNELS_CPU_ATTEND_H

#include <math.h>

#include "kernels/cpu/tile.h"

enum {
#if VECTOR_LANES == 16
    QUERIES_TOGETHER = 6, /* 32 registers: 24 of sums, 4 of keys or values */
    VECTORS_TOGETHER = 4,
#else
    QUERIES_TOGETHER = 6, /* 16 registers: 12 of sums, 2 of keys or values */
    VECTORS_TOGETHER = 2,
#endif
    CORRECTIONS = (QUERIES_TOGETHER + VECTOR_LANES - 1) / VECTOR_LANES * VECTOR_LANES,
    CACHE_LINE = 64,
};

/* What is read from the cache a little later, in groups of a tile: asked for by and by. */
struct ahead {
    const char *values[TILE_GROUPS]; /* the tile's, while scores are made */
    const char *keys[TILE_GROUPS];   /* of the next tile, while values are added */
};

/* The groups' lines one after the other and in turns, so that the processor sees streams; n goes up
 * to the number of dimensions. */
SPECIALISED void ask(const char *const groups[TILE_GROUPS], size_t n)
{
    __builtin_prefetch(groups[n % 2 * 2] + n / 2 * CACHE_LINE);
    __builtin_prefetch(groups[n % 2 * 2 + 1] + n / 2 * CACHE_LINE);
}

/* One of the splits of a stretch. */
struct split {
    const struct stretch *stretch;
    uint32_t first; /* position of the stretch */
    float *sums;    /* [queries, width] */
    struct cpu_running *running;
};

/* Some of the queries, in ascending order of the positions that they see. */
struct together {
    const float *queries; /* [.., width] */
    float *sums;          /* [.., width] */
    size_t dims, width;
    float scores[QUERIES_TOGETHER][CPU_TILE_POSITIONS];
    float corrections[CORRECTIONS];
    uint32_t counts[QUERIES_TOGETHER]; /* of the tile's positions */
};

/* Calls an operation with the number of queries as a constant. */
#define WITH_QUERIES(queries, operation)                           \
    do {                                                           \
        static_assert(QUERIES_TOGETHER == 6, "each has its case"); \
        switch (queries) {                                         \
        case 1:                                                    \
            operation(1);                                          \
            break;                                                 \
        case 2:                                                    \
            operation(2);                                          \
            break;                                                 \
        case 3:                                                    \
            operation(3);                                          \
            break;                                                 \
        case 4:                                                    \
            operation(4);                                          \
            break;                                                 \
        case 5:                                                    \
            operation(5);                                          \
            break;                                                 \
        default:                                                   \
            operation(6);                                          \
            break;                                                 \
        }                                                          \
    } while (0)

/* The scores of VECTORS_TOGETHER vectors of positions from `at` on; asks for what is read next. */
SPECIALISED void score_vectors(enum tensor_type type, int queries, const struct tile *tile,
                               uint32_t at, const struct ahead *ahead, float scale,
                               struct together *together)
{
    vector_f32 sums[QUERIES_TOGETHER][VECTORS_TOGETHER] = {0};
    const char *keys[VECTORS_TOGETHER];
    for (uint32_t v = 0; v < VECTORS_TOGETHER; v++) {
        uint32_t position = at + v * VECTOR_LANES;
        keys[v] = tile->keys[position / CPU_KEY_LANES] +
                  position % CPU_KEY_LANES * tensor_type_bytes(type);
    }
    for (size_t d = 0; d < together->dims; d++) {
        vector_f32 k[VECTORS_TOGETHER];
        for (int v = 0; v < VECTORS_TOGETHER; v++)
            k[v] = load_elements(type, keys[v], d * CPU_KEY_LANES);
        if (ahead)
            ask(ahead->values, d);
        for (int q = 0; q < queries; q++) {
            vector_f32 query = vector_all(together->queries[(size_t)q * together->width + d]);
            for (int v = 0; v < VECTORS_TOGETHER; v++)
                sums[q][v] = multiply_add(query, k[v], sums[q][v]);
        }
    }
    for (int q = 0; q < queries; q++)
        for (uint32_t v = 0; v < VECTORS_TOGETHER; v++)
            store_f32(together->scores[q] + at + (size_t)v * VECTOR_LANES, sums[q][v] * scale);
}

SPECIALISED void score_tile(enum tensor_type type, int queries, const struct tile *tile,
                            const struct ahead *ahead, float scale, struct together *together)
{
    for (uint32_t at = 0; at < tile->count; at += VECTORS_TOGETHER * VECTOR_LANES)
        score_vectors(type, queries, tile, at, ahead, scale, together);
}

/* Turns one query's scores, of which `count` are seen, into weights below a maximum. Returns their
 * sum. */
static float weigh(uint32_t count, float *scores, float maximum)
{
    vector_f32 sum = {0};
    for (uint32_t i = 0; i < CPU_TILE_POSITIONS; i += VECTOR_LANES)
        store_f32(scores + i, vector_exp(load_f32(scores + i) - maximum));
    for (uint32_t i = count; i < CPU_TILE_POSITIONS; i++)
        scores[i] = 0;
    for (uint32_t i = 0; i < CPU_TILE_POSITIONS; i += VECTOR_LANES)
        sum += load_f32(scores + i);
    return vector_sum(sum);
}

/* The largest of one query's scores and of those before; what it does not see counts as none. */
static float find_maximum(uint32_t count, float *scores, float before)
{
    for (uint32_t i = count; i < CPU_TILE_POSITIONS; i++)
        scores[i] = -INFINITY;
    vector_f32 largest = vector_all(before);
    for (uint32_t i = 0; i < CPU_TILE_POSITIONS; i += VECTOR_LANES)
        largest = vector_max(load_f32(scores + i), largest);
    return vector_largest(largest);
}

/* Scores become weights; what was summed up before is to be corrected. */
static void weigh_tile(int queries, struct together *together, struct cpu_running *running)
{
    float *corrections = together->corrections, maxima[QUERIES_TOGETHER];
    for (int q = 0; q < queries; q++) {
        maxima[q] = find_maximum(together->counts[q], together->scores[q], running[q].maximum);
        corrections[q] = running[q].maximum - maxima[q];
    }
    for (int q = queries; q < CORRECTIONS; q++)
        corrections[q] = 0;
    for (int q = 0; q < queries; q += VECTOR_LANES)
        store_f32(corrections + q, vector_exp(load_f32(corrections + q)));
    for (int q = 0; q < queries; q++) {
        float sum = weigh(together->counts[q], together->scores[q], maxima[q]);
        running[q] = (struct cpu_running){maxima[q], running[q].sum * corrections[q] + sum};
    }
}

/* sums = sums * correction + weights * values of the positions [from, to), for `vectors` vectors
 * from d on. */
SPECIALISED void add_vectors(enum tensor_type type, int queries, int vectors,
                             const struct tile *tile, size_t d, uint32_t from, uint32_t to,
                             const struct ahead *ahead, float (*weights)[CPU_TILE_POSITIONS],
                             const float *corrections, float *sums, size_t width)
{
    vector_f32 total[QUERIES_TOGETHER][VECTORS_TOGETHER];
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            total[q][v] =
                load_f32(sums + (size_t)q * width + d + (size_t)v * VECTOR_LANES) * corrections[q];
    for (uint32_t i = from; i < to; i++) {
        const char *row = tile->values[i / CPU_KEY_LANES] + i % CPU_KEY_LANES * tile->value_bytes;
        vector_f32 values[VECTORS_TOGETHER];
        if (ahead && d % CPU_TILE_POSITIONS == 0)
            ask(ahead->keys, d + i);
        for (int v = 0; v < vectors; v++)
            values[v] = load_elements(type, row, d + (size_t)v * VECTOR_LANES);
        for (int q = 0; q < queries; q++) {
            vector_f32 weight = vector_all(weights[q][i]);
            for (int v = 0; v < vectors; v++)
                total[q][v] = multiply_add(weight, values[v], total[q][v]);
        }
    }
    for (int q = 0; q < queries; q++)
        for (int v = 0; v < vectors; v++)
            store_f32(sums + (size_t)q * width + d + (size_t)v * VECTOR_LANES, total[q][v]);
}

SPECIALISED void add_positions(enum tensor_type type, int queries, const struct tile *tile,
                               uint32_t from, uint32_t to, const struct ahead *ahead,
                               float (*weights)[CPU_TILE_POSITIONS], const float *corrections,
                               float *sums, size_t width)
{
    enum { STEP = VECTORS_TOGETHER * VECTOR_LANES };
    size_t d = 0;
    for (; d + STEP <= width; d += STEP)
        add_vectors(type, queries, VECTORS_TOGETHER, tile, d, from, to, ahead, weights, corrections,
                    sums, width);
    for (; d < width; d += VECTOR_LANES)
        add_vectors(type, queries, 1, tile, d, from, to, ahead, weights, corrections, sums, width);
}

/* What all queries see together, then what the later ones see in addition. */
SPECIALISED void add_tile(enum tensor_type type, int queries, const struct tile *tile,
                          const struct ahead *ahead, struct together *together)
{
    const float none = 1;
    uint32_t all = together->counts[0];
    add_positions(type, queries, tile, 0, all, ahead, together->scores, together->corrections,
                  together->sums, together->width);
    for (int q = 1; q < queries; q++)
        if (together->counts[q] > all)
            add_positions(type, 1, tile, all, together->counts[q], NULL, together->scores + q,
                          &none, together->sums + (size_t)q * together->width, together->width);
}

/* One tile and a few queries. */
SPECIALISED void attend_tile(enum tensor_type type, int queries, const struct tile *tile,
                             const struct ahead *ahead, float scale, struct cpu_running *running,
                             struct together *together)
{
    score_tile(type, queries, tile, ahead, scale, together);
    weigh_tile(queries, together, running);
    add_tile(type, queries, tile, ahead, together);
}

/* The queries [first, first + queries). */
SPECIALISED void attend_some(enum tensor_type type, uint32_t first, uint32_t queries,
                             const struct split *split, const struct tile *tile,
                             const struct ahead *ahead, struct cpu_attention *own)
{
    size_t dims = split->stretch->cache->options.head_dim, width = padded(dims);
    struct together together; /* (An initialiser would clear the scores, too.) */
    together.queries = own->queries + first * width;
    together.sums = split->sums + first * width;
    together.dims = dims;
    together.width = width;
    for (uint32_t q = 0; q < queries; q++) {
        uint32_t left = own->counts[first + q] - tile->first;
        together.counts[q] = left < tile->count ? left : tile->count;
    }
#define ATTEND(n) \
    attend_tile(type, n, tile, ahead, split->stretch->scale, split->running + first, &together)
    WITH_QUERIES(queries, ATTEND);
#undef ATTEND
}

/* All queries that see some of the tile, in about equal parts. */
SPECIALISED void attend_all(enum tensor_type type, const struct split *split,
                            const struct tile *tile, const struct ahead *ahead,
                            struct cpu_attention *own)
{
    uint32_t first = 0;
    while (own->counts[first] <= tile->first)
        first++;
    while (first < split->stretch->queries) {
        uint32_t left = split->stretch->queries - first;
        uint32_t parts = (left + QUERIES_TOGETHER - 1) / QUERIES_TOGETHER;
        uint32_t queries = (left + parts - 1) / parts;
        attend_some(type, first, queries, split, tile, ahead, own);
        first += queries;
    }
}

/* Whether a stretch's tiles are converted once, for many queries, or as they are read. */
static bool copies_tiles(const struct stretch *stretch)
{
    return !is_direct(stretch) ||
           (stretch->cache->options.type == TENSOR_F16 && stretch->queries > QUERIES_TOGETHER);
}

static void attend_copy(const struct split *split, uint32_t first, struct cpu_attention *own)
{
    struct tile tile;
    if (split->stretch->cache->options.type == TENSOR_F16)
        tile = copy_tile(TENSOR_F16, split->stretch, first, own);
    else
        tile = copy_tile(TENSOR_F32, split->stretch, first, own);
    attend_all(TENSOR_F32, split, &tile, NULL, own);
}

static void attend_direct(const struct split *split, uint32_t first, struct cpu_attention *own)
{
    const struct stretch *stretch = split->stretch;
    uint32_t after = first + CPU_TILE_POSITIONS;
    struct tile tile = find_tile(stretch, first, own->blocks), next = tile;
    if (after < stretch->count)
        next = find_tile(stretch, after, own->blocks);
    struct ahead ahead;
    memcpy(ahead.values, tile.values, sizeof ahead.values);
    memcpy(ahead.keys, next.keys, sizeof ahead.keys);
    if (stretch->cache->options.type == TENSOR_F16)
        attend_all(TENSOR_F16, split, &tile, &ahead, own);
    else
        attend_all(TENSOR_F32, split, &tile, NULL, own);
}

/* The split's sums, from the queries, counts and blocks in `own`. */
static void sum_split(const struct split *split, struct cpu_attention *own)
{
    const struct stretch *stretch = split->stretch;
    size_t width = padded(stretch->cache->options.head_dim);
    uint32_t end = split->first + CPU_SPLIT_POSITIONS;
    end = end < stretch->count ? end : stretch->count;
    memset(split->sums, 0, stretch->queries * width * sizeof *split->sums);
    for (uint32_t q = 0; q < stretch->queries; q++)
        split->running[q] = (struct cpu_running){.maximum = -INFINITY};
    bool copies = copies_tiles(stretch);
    for (uint32_t first = split->first; first < end; first += CPU_TILE_POSITIONS)
        if (copies)
            attend_copy(split, first, own);
        else
            attend_direct(split, first, own);
}

#endif
