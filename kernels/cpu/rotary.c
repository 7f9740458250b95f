/*
 * Rotary position embedding, and the way into the cache.
 */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/half.h"

struct rotary_job {
    struct attention_shape shape;
    struct batch batch;
    const float *cos_sin;
    float *q;
    const float *k;
    const float *v;
    struct kv_cache *cache;
    uint32_t layer;
};

/* Turns the pairs of one head, in place. */
static void turn_head(const struct attention_shape *shape, const float *cos_sin, float *head)
{
    uint32_t pairs = shape->rotary_dims / 2;
    uint32_t stride = shape->rotary == ROTARY_HALVES ? 1 : 2;
    uint32_t partner = shape->rotary == ROTARY_HALVES ? pairs : 1;
    for (uint32_t i = 0; i < pairs; i++) {
        float cosine = cos_sin[2 * i];
        float sine = cos_sin[2 * i + 1];
        float x0 = head[i * stride];
        float x1 = head[i * stride + partner];
        head[i * stride] = x0 * cosine - x1 * sine;
        head[i * stride + partner] = x1 * cosine + x0 * sine;
    }
}

static void store_row(const struct kv_cache *cache, const float *from, char *to)
{
    uint32_t dims = cache->options.head_dim;
    if (cache->options.type == TENSOR_F32) {
        memcpy(to, from, dims * sizeof *from);
        return;
    }
    for (uint32_t d = 0; d < dims; d++) {
        uint16_t half = half_from_float(from[d]);
        memcpy(to + d * sizeof half, &half, sizeof half);
    }
}

static void rotary_chunk(void *argument, uint32_t row, uint32_t thread)
{
    const struct rotary_job *job = argument;
    const struct attention_shape *shape = &job->shape;
    const struct batch *batch = &job->batch;
    const struct kv_cache *cache = job->cache;
    const float *cos_sin = job->cos_sin + (size_t)row * shape->rotary_dims;
    uint32_t dims = shape->head_dim;

    float *q = job->q + (size_t)row * shape->heads * dims;
    for (uint32_t head = 0; head < shape->heads; head++)
        turn_head(shape, cos_sin, q + (size_t)head * dims);

    uint32_t position = batch->positions[row];
    uint32_t entry = position / cache->options.block_tokens;
    uint32_t token = position % cache->options.block_tokens;
    assert(batch->sequences[row] < batch->sequence_count && entry < batch->table_stride);
    uint32_t block =
        batch->block_tables[(size_t)batch->sequences[row] * batch->table_stride + entry];
    assert(block < cache->options.blocks);

    const float *k = job->k + (size_t)row * shape->kv_heads * dims;
    const float *v = job->v + (size_t)row * shape->kv_heads * dims;
    for (uint32_t head = 0; head < shape->kv_heads; head++) {
        float turned[CPU_HEAD_DIM_MAX];
        memcpy(turned, k + (size_t)head * dims, dims * sizeof *turned);
        turn_head(shape, cos_sin, turned);
        store_row(cache, turned, cpu_cache_row(cache, job->layer, block, 0, head, token));
        store_row(cache, v + (size_t)head * dims,
                  cpu_cache_row(cache, job->layer, block, 1, head, token));
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
                             .layer = layer};
    /* A late thread's attention may be looking at blocks that had another owner. */
    struct pool_stage stage = {
        .work = rotary_chunk, .chunks = batch->rows, .after = cache->layer_reads[layer]};
    pool_push(cpu->pool, &stage, &job, sizeof job);
    cpu_finish(cpu);
    return 0;
}
