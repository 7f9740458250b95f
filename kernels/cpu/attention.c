/*
 * Attention over the paged cache, with a running maximum (Milakov and Gimelshein 2018, arXiv
 * 1805.02867): keys and values are read once, tile by tile, and nothing is as long as the context.
 *
 * Tiles are counted from position 0 and have a fixed size, so the order of every sum follows from
 * the row's position alone: not from where its prompt was cut, how the cache is divided into
 * blocks, or who else is in the batch.
 */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"

static_assert(CPU_TILE_POSITIONS % VECTOR_LANES == 0, "scores of a tile are whole vectors");
static_assert(CPU_HEAD_DIM_MAX % VECTOR_LANES == 0, "a padded head is whole vectors");

struct attention_job {
    const struct attention_shape *shape;
    const struct batch *batch;
    const float *q;
    const struct kv_cache *cache;
    uint32_t layer;
    float *out;
    struct cpu_tile *tiles;
    uint32_t group;        /* query heads for one key-value head */
    uint32_t group_chunks; /* each of up to CPU_HEADS_AT_ONCE of them */
};

/* Softmax so far, for one head. */
struct running {
    float maximum;
    float sum;
};

SPECIALISED void pad_row(enum tensor_type type, const void *from, size_t width, float *to)
{
    size_t d = 0;
    for (; d + VECTOR_LANES <= width; d += VECTOR_LANES)
        store_f32(to + d, load_elements(type, from, d));
    if (d < width)
        store_f32(to + d, load_tail(type, from, d, width - d));
}

/* Reads keys and values of `count` positions from `first` on. */
static void read_tile(const struct attention_job *job, uint32_t row, uint32_t kv_head,
                      uint32_t first, uint32_t count, struct cpu_tile *tile)
{
    const struct kv_cache *cache = job->cache;
    const uint32_t *table =
        job->batch->block_tables + (size_t)job->batch->sequences[row] * job->batch->table_stride;
    uint32_t dims = cache->options.head_dim;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t block = table[(first + i) / cache->options.block_tokens];
        uint32_t token = (first + i) % cache->options.block_tokens;
        assert(block < cache->options.blocks);
        const char *key = cpu_cache_row(cache, job->layer, block, 0, kv_head, token);
        const char *value = cpu_cache_row(cache, job->layer, block, 1, kv_head, token);
        if (cache->options.type == TENSOR_F16) {
            pad_row(TENSOR_F16, key, dims, tile->keys[i]);
            pad_row(TENSOR_F16, value, dims, tile->values[i]);
        } else {
            pad_row(TENSOR_F32, key, dims, tile->keys[i]);
            pad_row(TENSOR_F32, value, dims, tile->values[i]);
        }
    }
}

static float dot(const float *a, const float *b, size_t width)
{
    vector_f32 lanes = {0};
    for (size_t d = 0; d < width; d += VECTOR_LANES)
        lanes = multiply_add(load_f32(a + d), load_f32(b + d), lanes);
    return vector_sum(lanes);
}

/* Lets one head see the tile's positions. */
static void add_tile(const struct cpu_tile *tile, uint32_t count, float scale, size_t width,
                     const float *query, float *sums, struct running *running)
{
    float scores[CPU_TILE_POSITIONS];
    float maximum = running->maximum;
    for (uint32_t i = 0; i < count; i++) {
        scores[i] = dot(query, tile->keys[i], width) * scale;
        maximum = scores[i] > maximum ? scores[i] : maximum;
    }
    for (uint32_t i = count; i < CPU_TILE_POSITIONS; i++)
        scores[i] = maximum; /* computed with the others, then left out */
    for (uint32_t i = 0; i < CPU_TILE_POSITIONS; i += VECTOR_LANES)
        store_f32(scores + i, vector_exp(load_f32(scores + i) - maximum));

    float correction = vector_exp(vector_all(running->maximum - maximum))[0];
    float sum = running->sum * correction;
    for (uint32_t i = 0; i < count; i++)
        sum += scores[i];
    for (size_t d = 0; d < width; d += VECTOR_LANES) {
        vector_f32 total = load_f32(sums + d) * correction;
        for (uint32_t i = 0; i < count; i++)
            total = multiply_add(vector_all(scores[i]), load_f32(tile->values[i] + d), total);
        store_f32(sums + d, total);
    }
    *running = (struct running){.maximum = maximum, .sum = sum};
}

static void attend(const struct attention_job *job, uint32_t row, uint32_t kv_head,
                   uint32_t first_head, uint32_t heads, struct cpu_tile *tile)
{
    uint32_t dims = job->shape->head_dim;
    size_t width = (dims + VECTOR_LANES - 1) / VECTOR_LANES * VECTOR_LANES;
    size_t offset = ((size_t)row * job->shape->heads + first_head) * dims;
    struct running running[CPU_HEADS_AT_ONCE];
    for (uint32_t h = 0; h < heads; h++) {
        pad_row(TENSOR_F32, job->q + offset + (size_t)h * dims, dims, tile->queries[h]);
        memset(tile->sums[h], 0, width * sizeof *tile->sums[h]);
        running[h] = (struct running){.maximum = -INFINITY};
    }
    uint32_t positions = job->batch->positions[row] + 1;
    for (uint32_t first = 0; first < positions; first += CPU_TILE_POSITIONS) {
        uint32_t left = positions - first;
        uint32_t count = left < CPU_TILE_POSITIONS ? left : CPU_TILE_POSITIONS;
        read_tile(job, row, kv_head, first, count, tile);
        for (uint32_t h = 0; h < heads; h++)
            add_tile(tile, count, job->shape->scale, width, tile->queries[h], tile->sums[h],
                     &running[h]);
    }
    for (uint32_t h = 0; h < heads; h++) {
        float inverse = 1.0f / running[h].sum;
        float *out = job->out + offset + (size_t)h * dims;
        for (uint32_t d = 0; d < dims; d++)
            out[d] = tile->sums[h][d] * inverse;
    }
}

static void attention_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attention_job *job = argument;
    uint32_t part = chunk % job->group_chunks;
    uint32_t kv_head = chunk / job->group_chunks % job->shape->kv_heads;
    uint32_t row = chunk / job->group_chunks / job->shape->kv_heads;
    uint32_t first = part * CPU_HEADS_AT_ONCE;
    uint32_t left = job->group - first;
    attend(job, row, kv_head, kv_head * job->group + first,
           left < CPU_HEADS_AT_ONCE ? left : CPU_HEADS_AT_ONCE, &job->tiles[thread]);
}

int VARIANT(cpu_attention)(struct backend *backend, const struct attention_shape *shape,
                           const struct batch *batch, const float *q, const struct kv_cache *cache,
                           uint32_t layer, float *out)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    assert(shape->head_dim == cache->options.head_dim);
    assert(shape->kv_heads == cache->options.kv_heads && layer < cache->options.layers);
    assert(shape->heads % shape->kv_heads == 0);
    uint32_t group = shape->heads / shape->kv_heads;
    struct attention_job job = {
        .shape = shape,
        .batch = batch,
        .q = q,
        .cache = cache,
        .layer = layer,
        .out = out,
        .tiles = cpu->tiles,
        .group = group,
        .group_chunks = (group + CPU_HEADS_AT_ONCE - 1) / CPU_HEADS_AT_ONCE,
    };
    pool_run(cpu->pool, attention_chunk, &job, batch->rows * shape->kv_heads * job.group_chunks);
    return 0;
}
