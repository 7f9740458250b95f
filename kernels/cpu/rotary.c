/*
 * Rotary position embedding, and the way into the cache.
 */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"

struct rotary_job {
    struct attention_shape shape;
    struct batch batch;
    const float *cos_sin;
    float *q;
    const float *k;
    const float *v;
    struct kv_cache *cache;
    uint32_t layer;
    uint32_t chunk_rows;
};

/* Of many rows: neighbours share the cache's lines. */
enum { CHUNK_ROWS = CPU_KEY_LANES };

/* A row's angles, cosines and sines apart, as vectors want them. */
struct angles {
    float cosines[CPU_HEAD_DIM_MAX / 2], sines[CPU_HEAD_DIM_MAX / 2];
};

static void take_angles(const struct rotary_job *job, uint32_t row, struct angles *ret_angles)
{
    uint32_t pairs = job->shape.rotary_dims / 2;
    const float *cos_sin = job->cos_sin + (size_t)row * job->shape.rotary_dims;
    for (uint32_t i = 0; i < pairs; i++) {
        ret_angles->cosines[i] = cos_sin[2 * i];
        ret_angles->sines[i] = cos_sin[2 * i + 1];
    }
}

SPECIALISED void turn_pairs(const struct angles *angles, uint32_t pairs, uint32_t stride,
                            float *restrict first, float *restrict second)
{
    for (uint32_t i = 0; i < pairs; i++) {
        float x0 = first[i * stride], x1 = second[i * stride];
        first[i * stride] = x0 * angles->cosines[i] - x1 * angles->sines[i];
        second[i * stride] = x1 * angles->cosines[i] + x0 * angles->sines[i];
    }
}

/* Turns the pairs of one head, in place. */
static void turn_head(const struct attention_shape *shape, const struct angles *angles, float *head)
{
    uint32_t pairs = shape->rotary_dims / 2;
    if (shape->rotary == ROTARY_HALVES)
        turn_pairs(angles, pairs, 1, head, head + pairs);
    else
        turn_pairs(angles, pairs, 2, head, head + 1);
}

/* As the cache has them; `to` has room for whole vectors. */
static void convert_head(enum tensor_type type, const float *from, uint32_t dims, char *to)
{
    if (type == TENSOR_F32) {
        memcpy(to, from, dims * sizeof *from);
        return;
    }
    uint32_t d = 0;
    for (; d + VECTOR_LANES <= dims; d += VECTOR_LANES)
        store_f16(to + d * sizeof(uint16_t), load_f32(from + d));
    if (d < dims)
        store_f16(to + d * sizeof(uint16_t), load_tail(TENSOR_F32, from, d, dims - d));
}

/* Every key_lanes'th element. */
SPECIALISED void scatter(const char *from, size_t bytes, uint32_t dims, size_t step, char *to)
{
    for (uint32_t d = 0; d < dims; d++, from += bytes, to += step)
        memcpy(to, from, bytes);
}

static void store_key(const struct kv_cache *cache, const char *key, char *head, uint32_t token)
{
    uint32_t dims = cache->options.head_dim;
    char *to = head + cpu_key_offset(cache, token);
    if (cache->options.type == TENSOR_F32)
        scatter(key, sizeof(float), dims, cache->key_lanes * sizeof(float), to);
    else
        scatter(key, sizeof(uint16_t), dims, cache->key_lanes * sizeof(uint16_t), to);
}

static uint32_t find_block(const struct rotary_job *job, uint32_t row)
{
    const struct batch *batch = &job->batch;
    uint32_t entry = batch->positions[row] / job->cache->options.block_tokens;
    assert(batch->sequences[row] < batch->sequence_count && entry < batch->table_stride);
    uint32_t block =
        batch->block_tables[(size_t)batch->sequences[row] * batch->table_stride + entry];
    assert(block < job->cache->options.blocks);
    return block;
}

static void store_row(const struct rotary_job *job, const struct angles *angles, uint32_t row)
{
    const struct kv_cache *cache = job->cache;
    uint32_t block = find_block(job, row), kv_heads = job->shape.kv_heads;
    uint32_t token = job->batch.positions[row] % cache->options.block_tokens;
    size_t dims = job->shape.head_dim;
    float turned[CPU_HEAD_DIM_MAX];
    char converted[CPU_HEAD_DIM_MAX * sizeof(float)];
    for (uint32_t head = 0; head < kv_heads; head++) {
        size_t at = ((size_t)row * kv_heads + head) * dims;
        char *keys = cpu_cache_head(cache, job->layer, block, 0, head);
        memcpy(turned, job->k + at, dims * sizeof *turned);
        turn_head(&job->shape, angles, turned);
        convert_head(cache->options.type, turned, (uint32_t)dims, converted);
        store_key(cache, converted, keys, token);
        convert_head(cache->options.type, job->v + at, (uint32_t)dims, converted);
        memcpy(keys + cache->half_bytes + token * cache->row_bytes, converted, cache->row_bytes);
    }
}

static void rotary_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct rotary_job *job = argument;
    uint32_t row = chunk * job->chunk_rows, left = job->batch.rows - row;
    uint32_t end = row + (left < job->chunk_rows ? left : job->chunk_rows);
    struct angles angles;
    for (; row < end; row++) {
        size_t dims = job->shape.head_dim;
        take_angles(job, row, &angles);
        for (uint32_t head = 0; head < job->shape.heads; head++)
            turn_head(&job->shape, &angles, job->q + (row * job->shape.heads + head) * dims);
        store_row(job, &angles, row);
    }
}

int VARIANT(cpu_rotary_store)(struct backend *backend, const struct attention_shape *shape,
                              const struct batch *batch, const float *cos_sin, float *q,
                              const float *k, const float *v, struct kv_cache *cache,
                              uint32_t layer)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    assert(shape->head_dim == cache->options.head_dim);
    assert(shape->kv_heads == cache->options.kv_heads && layer < cache->options.layers);
    assert(shape->rotary_dims <= shape->head_dim && shape->rotary_dims % 2 == 0);
    struct rotary_job job = {.shape = *shape,
                             .batch = *batch,
                             .cos_sin = cos_sin,
                             .q = q,
                             .k = k,
                             .v = v,
                             .cache = cache,
                             .layer = layer,
                             .chunk_rows = batch->rows > CHUNK_ROWS ? CHUNK_ROWS : 1};
    /* A late thread's attention may be looking at blocks that had another owner. */
    struct pool_stage stage = {.work = rotary_chunk,
                               .chunks = (batch->rows + job.chunk_rows - 1) / job.chunk_rows,
                               .after = cache->layer_reads[layer]};
    pool_push(cpu->pool, &stage, &job, sizeof job);
    cpu_finish(cpu);
    return 0;
}
