#include "tests/conformance/world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test.h"

static void *allocate(size_t count, size_t bytes)
{
    void *memory = calloc(count + 1, bytes);
    assert_non_null(memory);
    return memory;
}

static float *cached_floats(struct random *random, size_t count, bool exact_half)
{
    float *floats = random_floats(random, count, 2.0f);
    for (size_t i = 0; exact_half && i < count; i++)
        floats[i] = (float)(rint((double)floats[i] * 512) / 512);
    return floats;
}

void world_init(struct world *ret_world, uint64_t seed, const struct attention_shape *shape,
                const uint32_t *lengths, uint32_t sequence_count, bool exact_half)
{
    assert_true(sequence_count <= WORLD_SEQUENCES_MAX);
    struct world world = {.shape = *shape, .sequence_count = sequence_count};
    struct random random = {seed};
    size_t q_width = (size_t)shape->heads * shape->head_dim;
    size_t kv_width = (size_t)shape->kv_heads * shape->head_dim;
    for (uint32_t s = 0; s < sequence_count; s++) {
        size_t length = lengths[s];
        world.sequences[s] =
            (struct sequence){.length = lengths[s],
                              .q = random_floats(&random, length * q_width, 2.0f),
                              .k = cached_floats(&random, length * kv_width, exact_half),
                              .v = cached_floats(&random, length * kv_width, exact_half),
                              .out = allocate(length * q_width, sizeof(float))};
        world.length_max = lengths[s] > world.length_max ? lengths[s] : world.length_max;
    }
    uint32_t pairs = shape->rotary_dims / 2;
    world.cos_sin = allocate((size_t)world.length_max * pairs * 2, sizeof(float));
    for (uint32_t position = 0; position < world.length_max; position++)
        for (uint32_t i = 0; i < pairs; i++) {
            double angle = position * pow(100.0, -(double)i / pairs);
            world.cos_sin[((size_t)position * pairs + i) * 2] = (float)cos(angle);
            world.cos_sin[((size_t)position * pairs + i) * 2 + 1] = (float)sin(angle);
        }
    *ret_world = world;
}

void world_fini(struct world *world)
{
    for (uint32_t s = 0; s < world->sequence_count; s++) {
        free(world->sequences[s].q);
        free(world->sequences[s].k);
        free(world->sequences[s].v);
        free(world->sequences[s].out);
    }
    free(world->cos_sin);
}

static void poison_cache(struct world *world)
{
    /* Blocks are reached through the operations alone, so poison goes the same way. */
    const struct attention_shape *shape = &world->shape;
    size_t kv_width = (size_t)shape->kv_heads * shape->head_dim;
    float *q = allocate((size_t)shape->heads * shape->head_dim, sizeof *q);
    float *nan = allocate(kv_width, sizeof *nan);
    float *cos_sin = allocate(shape->rotary_dims, sizeof *cos_sin);
    for (size_t i = 0; i < kv_width; i++)
        nan[i] = NAN;
    uint32_t tokens = world->cache_options.block_tokens;
    for (uint32_t block = 0; block < world->cache_options.blocks; block++)
        for (uint32_t token = 0; token < tokens; token++) {
            uint32_t id = 0, sequence = 0;
            struct batch batch = {.rows = 1,
                                  .ids = &id,
                                  .positions = &token,
                                  .sequences = &sequence,
                                  .sequence_count = 1,
                                  .block_tables = &block,
                                  .table_stride = 1};
            world->backend->ops->rotary_store(world->backend, shape, &batch, cos_sin, q, nan, nan,
                                              world->cache, 0);
        }
    free(q);
    free(nan);
    free(cos_sin);
}

void world_open_cache(struct world *world, struct backend *backend, enum tensor_type type,
                      uint32_t block_tokens, uint64_t shuffle_seed)
{
    world->backend = backend;
    world->table_stride = (world->length_max + block_tokens - 1) / block_tokens;
    uint32_t blocks = world->sequence_count * world->table_stride;
    world->cache_options = (struct kv_cache_options){.type = type,
                                                     .layers = 1,
                                                     .kv_heads = world->shape.kv_heads,
                                                     .head_dim = world->shape.head_dim,
                                                     .blocks = blocks,
                                                     .block_tokens = block_tokens};
    assert_int_equal(backend->ops->cache_open(backend, &world->cache_options, &world->cache), 0);
    world->tables = allocate(blocks, sizeof *world->tables);
    struct random random = {shuffle_seed};
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t j = random_u32(&random) % (i + 1);
        world->tables[i] = world->tables[j];
        world->tables[j] = i;
    }
    poison_cache(world);
}

void world_close_cache(struct world *world)
{
    world->backend->ops->cache_close(world->backend, world->cache);
    free(world->tables);
}

void world_run(struct world *world, const struct segment *segments, uint32_t segment_count,
               float *ret_q)
{
    const struct attention_shape *shape = &world->shape;
    size_t q_width = (size_t)shape->heads * shape->head_dim;
    size_t kv_width = (size_t)shape->kv_heads * shape->head_dim;
    uint32_t rows = 0;
    for (uint32_t i = 0; i < segment_count; i++)
        rows += segments[i].count;

    uint32_t *ids = allocate(rows, sizeof *ids);
    uint32_t *positions = allocate(rows, sizeof *positions);
    uint32_t *sequences = allocate(rows, sizeof *sequences);
    float *q = allocate(rows * q_width, sizeof *q);
    float *k = allocate(rows * kv_width, sizeof *k);
    float *v = allocate(rows * kv_width, sizeof *v);
    float *out = allocate(rows * q_width, sizeof *out);
    float *cos_sin = allocate((size_t)rows * shape->rotary_dims, sizeof *cos_sin);
    for (uint32_t i = 0, row = 0; i < segment_count; i++)
        for (uint32_t j = 0; j < segments[i].count; j++, row++) {
            const struct sequence *from = &world->sequences[segments[i].sequence];
            size_t position = segments[i].first + j;
            assert_true(position < from->length);
            positions[row] = (uint32_t)position;
            sequences[row] = segments[i].sequence;
            memcpy(q + row * q_width, from->q + position * q_width, q_width * sizeof *q);
            memcpy(k + row * kv_width, from->k + position * kv_width, kv_width * sizeof *k);
            memcpy(v + row * kv_width, from->v + position * kv_width, kv_width * sizeof *v);
            memcpy(cos_sin + (size_t)row * shape->rotary_dims,
                   world->cos_sin + position * shape->rotary_dims,
                   shape->rotary_dims * sizeof *cos_sin);
        }

    struct batch batch = {.rows = rows,
                          .ids = ids,
                          .positions = positions,
                          .sequences = sequences,
                          .sequence_count = world->sequence_count,
                          .block_tables = world->tables,
                          .table_stride = world->table_stride};
    struct backend *backend = world->backend;
    assert_int_equal(
        backend->ops->rotary_store(backend, shape, &batch, cos_sin, q, k, v, world->cache, 0), 0);
    assert_int_equal(backend->ops->attention(backend, shape, &batch, q, world->cache, 0, out), 0);
    for (uint32_t row = 0; row < rows; row++)
        memcpy(world->sequences[sequences[row]].out + positions[row] * q_width, out + row * q_width,
               q_width * sizeof *out);
    if (ret_q)
        memcpy(ret_q, q, rows * q_width * sizeof *q);
    free(ids);
    free(positions);
    free(sequences);
    free(q);
    free(k);
    free(v);
    free(out);
    free(cos_sin);
}
