/*
 * Where the keys and values of a tile's 64 positions are: in the cache as they lie there, or as
 * f32 in the thread's memory, in the same arrangement, when many queries meet them or when blocks
 * or dimensions are not whole vectors.
 */
#ifndef AGL_KERNELS_CPU_TILE_H
#define AGL_KERNELS_CPU_TILE_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"

enum { TILE_GROUPS = CPU_TILE_POSITIONS / CPU_KEY_LANES };

static_assert(CPU_KEY_LANES % VECTOR_LANES == 0, "a group is whole vectors");

/* Positions of one sequence, from the beginning of a split on, and the queries that meet them. */
struct stretch {
    const struct kv_cache *cache;
    uint32_t layer, kv_head;
    uint32_t first, count; /* positions */
    uint32_t queries;
    float scale;
};

/* Groups without positions are the first one again: read, and left out. */
struct tile {
    const char *keys[TILE_GROUPS];   /* [head_dim, 16] */
    const char *values[TILE_GROUPS]; /* [16, value_bytes] */
    size_t value_bytes;
    uint32_t first, count; /* positions of the stretch */
};

SPECIALISED size_t padded(size_t dims)
{
    return (dims + VECTOR_LANES - 1) / VECTOR_LANES * VECTOR_LANES;
}

/* Whether vectors can be read from the cache. */
static bool is_direct(const struct stretch *stretch)
{
    return stretch->cache->key_lanes == CPU_KEY_LANES &&
           stretch->cache->options.head_dim % VECTOR_LANES == 0;
}

/* The place of a position of the stretch. */
struct place_of {
    const char *keys, *values; /* its head's in its block */
    uint32_t token;
};

static struct place_of find_place(const struct stretch *stretch, uint32_t index,
                                  const uint32_t *blocks)
{
    const struct kv_cache *cache = stretch->cache;
    uint32_t position = stretch->first + index, tokens = cache->options.block_tokens;
    uint32_t block = blocks[position / tokens - stretch->first / tokens];
    const char *keys = cpu_cache_head(cache, stretch->layer, block, 0, stretch->kv_head);
    return (struct place_of){keys, keys + cache->half_bytes, position % tokens};
}

/* A tile as it lies in the cache. */
static struct tile find_tile(const struct stretch *stretch, uint32_t first, const uint32_t *blocks)
{
    uint32_t left = stretch->count - first;
    struct tile tile = {.first = first,
                        .count = left < CPU_TILE_POSITIONS ? left : CPU_TILE_POSITIONS,
                        .value_bytes = stretch->cache->row_bytes};
    for (uint32_t g = 0; g < TILE_GROUPS; g++) {
        uint32_t index = g * CPU_KEY_LANES < tile.count ? g * CPU_KEY_LANES : 0;
        struct place_of place = find_place(stretch, first + index, blocks);
        tile.keys[g] = place.keys + cpu_key_offset(stretch->cache, place.token);
        tile.values[g] = place.values + place.token * stretch->cache->row_bytes;
    }
    return tile;
}

/* The keys of a whole group. */
SPECIALISED void convert_keys(enum tensor_type type, const char *from, size_t dims, float *to)
{
    for (size_t i = 0; i < dims * CPU_KEY_LANES; i += VECTOR_LANES)
        store_f32(to + i, load_elements(type, from, i));
}

/* One position's keys, of blocks that are no whole groups. */
SPECIALISED void gather_keys(enum tensor_type type, const struct kv_cache *cache,
                             const struct place_of *place, float *to)
{
    const char *from = place->keys + cpu_key_offset(cache, place->token);
    size_t step = cache->key_lanes * tensor_type_bytes(type);
    for (size_t d = 0; d < cache->options.head_dim; d++, from += step)
        to[d * CPU_KEY_LANES] = load_tail(type, from, 0, 1)[0];
}

SPECIALISED void convert_values(enum tensor_type type, const char *from, size_t dims, float *to)
{
    size_t d = 0;
    for (; d + VECTOR_LANES <= dims; d += VECTOR_LANES)
        store_f32(to + d, load_elements(type, from, d));
    if (d < dims)
        store_f32(to + d, load_tail(type, from, d, dims - d));
}

/* A tile as f32 in `own`. */
SPECIALISED struct tile copy_tile(enum tensor_type type, const struct stretch *stretch,
                                  uint32_t first, struct cpu_attention *own)
{
    const struct kv_cache *cache = stretch->cache;
    size_t dims = cache->options.head_dim, width = padded(dims);
    struct tile tile = find_tile(stretch, first, own->blocks);
    bool whole = cache->key_lanes == CPU_KEY_LANES;
    for (uint32_t i = 0; i < tile.count; i++) {
        struct place_of place = find_place(stretch, first + i, own->blocks);
        float *keys = own->keys + i / CPU_KEY_LANES * CPU_KEY_LANES * dims;
        if (!whole)
            gather_keys(type, cache, &place, keys + i % CPU_KEY_LANES);
        else if (i % CPU_KEY_LANES == 0)
            convert_keys(type, tile.keys[i / CPU_KEY_LANES], dims, keys);
        convert_values(type, place.values + place.token * cache->row_bytes, dims,
                       own->values + i * width);
    }
    tile.value_bytes = width * sizeof(float);
    for (uint32_t g = 0; g < TILE_GROUPS; g++) {
        size_t index = g * CPU_KEY_LANES < tile.count ? g * CPU_KEY_LANES : 0;
        tile.keys[g] = (const char *)(own->keys + index * dims);
        tile.values[g] = (const char *)(own->values + index * width);
    }
    return tile;
}

#endif
