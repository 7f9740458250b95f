/*
 * Bit for bit: a row's attention depends on its own sequence alone.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/world.h"
#include "tests/support/test.h"

enum { SEQUENCES = 5 };
static const uint32_t short_lengths[SEQUENCES] = {1, 45, 16, 70, 33};
static const uint32_t long_lengths[SEQUENCES] = {1100, 3, 520, 64, 513}; /* beyond a split of 512 */
static const uint32_t *lengths = short_lengths;

static const struct attention_shape shapes[] = {
    {8, 2, 12, 6, ROTARY_INTERLEAVED, 0.3f},
    {20, 1, 16, 16, ROTARY_HALVES, 0.25f},
    {3, 3, 33, 32, ROTARY_INTERLEAVED, 0.2f},
};

/* Fills every sequence's out: `chunk` positions at a time; `together`: all sequences in a batch, in
 * descending order, else each alone. */
static void run(struct world *world, uint32_t chunk, bool together)
{
    for (uint32_t first = 0; first < world->length_max; first += chunk) {
        struct segment segments[SEQUENCES];
        uint32_t count = 0;
        for (uint32_t i = 0; i < SEQUENCES; i++) {
            uint32_t s = SEQUENCES - 1 - i;
            if (first >= lengths[s])
                continue;
            uint32_t left = lengths[s] - first;
            segments[count++] = (struct segment){s, first, left < chunk ? left : chunk};
            if (!together) {
                world_run(world, segments, 1, NULL);
                count = 0;
            }
        }
        if (count)
            world_run(world, segments, count, NULL);
    }
}

/* Some sequences read their prompts while others are at single tokens. */
static void run_mixed(struct world *world)
{
    uint32_t next[SEQUENCES] = {0};
    for (uint32_t step = 0;; step++) {
        struct segment segments[SEQUENCES];
        uint32_t count = 0;
        for (uint32_t s = 0; s < SEQUENCES; s++) {
            uint32_t chunk = (step + s) % 3 ? 1 : 11;
            uint32_t left = lengths[s] - next[s];
            if (!left)
                continue;
            segments[count++] = (struct segment){s, next[s], left < chunk ? left : chunk};
            next[s] += segments[count - 1].count;
        }
        if (!count)
            return;
        world_run(world, segments, count, NULL);
    }
}

static size_t out_floats(const struct world *world, uint32_t s)
{
    return (size_t)lengths[s] * world->shape.heads * world->shape.head_dim;
}

static void take_outputs(struct world *world, float **ret_outputs)
{
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        ret_outputs[s] = malloc(out_floats(world, s) * sizeof(float));
        assert_non_null(ret_outputs[s]);
        memcpy(ret_outputs[s], world->sequences[s].out, out_floats(world, s) * sizeof(float));
    }
}

static void compare_and_clear(struct world *world, float *const *expected)
{
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        assert_memory_equal(world->sequences[s].out, expected[s],
                            out_floats(world, s) * sizeof(float));
        memset(world->sequences[s].out, 0, out_floats(world, s) * sizeof(float));
    }
}

static void check_shape(const char *variant, const struct attention_shape *shape,
                        enum tensor_type type)
{
    struct world world;
    world_init(&world, 9, shape, lengths, SEQUENCES, false);
    float *expected[SEQUENCES];
    struct backend *backend = open_variant(variant, 1);
    world_open_cache(&world, backend, type, 16, 1);
    run(&world, 1000, false);
    take_outputs(&world, expected);
    world_close_cache(&world);
    backend_close(backend);

    /* A sanitizer takes its time. */
    uint32_t least = IS_SANITIZED ? 2 : 1, most = IS_SANITIZED ? 3 : 4;
    for (uint32_t threads = least; threads <= most; threads++) {
        backend = open_variant(variant, threads);
        /* 7: blocks that do not line up with attention's own tiles. */
        world_open_cache(&world, backend, type, threads % 2 ? 16 : 7, threads);
        run(&world, 1, false);
        compare_and_clear(&world, expected);
        run(&world, 1, true);
        compare_and_clear(&world, expected);
        run(&world, 13, true);
        compare_and_clear(&world, expected);
        run(&world, 1000, true);
        compare_and_clear(&world, expected);
        run_mixed(&world);
        compare_and_clear(&world, expected);
        world_close_cache(&world);
        backend_close(backend);
    }
    for (uint32_t s = 0; s < SEQUENCES; s++)
        free(expected[s]);
    world_fini(&world);
}

static void a_sequence_comes_out_the_same_in_any_company_and_cut(void **state)
{
    for (const char *const *variant = runnable_variants(); *variant; variant++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            check_shape(*variant, &shapes[i], TENSOR_F32);
            check_shape(*variant, &shapes[i], TENSOR_F16);
        }
}

/* One row's context is shared out between threads, a prompt's rows are: both sum alike. */
static void long_contexts_come_out_the_same_whoever_shares_them(void **state)
{
    static const struct attention_shape narrow = {6, 2, 8, 0, ROTARY_HALVES, 0.3f};
    /* Whole vectors for every variant: read as they lie in the cache, or converted once. */
    static const struct attention_shape whole = {4, 1, 16, 0, ROTARY_HALVES, 0.25f};
    lengths = long_lengths;
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        check_shape(*variant, &narrow, TENSOR_F16);
        check_shape(*variant, &whole, TENSOR_F16);
    }
    lengths = short_lengths;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_comes_out_the_same_in_any_company_and_cut),
        cmocka_unit_test(long_contexts_come_out_the_same_whoever_shares_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
