/*
 * Rotary embedding, cache and attention of every variant against the same in float64.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/world.h"
#include "tests/support/test.h"

struct attention_case {
    uint32_t heads, kv_heads, head_dim, rotary_dims;
    enum rotary_kind rotary;
    uint32_t lengths[3];
    uint32_t block_tokens;
    uint32_t step; /* positions of each sequence in a batch */
};

static const struct attention_case cases[] = {
    {1, 1, 4, 4, ROTARY_INTERLEAVED, {1, 2, 3}, 16, 3},
    {8, 2, 4, 2, ROTARY_INTERLEAVED, {5, 17, 33}, 4, 5},
    {8, 4, 8, 8, ROTARY_INTERLEAVED, {16, 40, 9}, 16, 1},
    {4, 4, 12, 6, ROTARY_INTERLEAVED, {31, 32, 33}, 5, 7},
    {16, 1, 16, 16, ROTARY_HALVES, {50, 3, 20}, 7, 10},
    {6, 2, 20, 8, ROTARY_HALVES, {64, 1, 15}, 32, 13},
    {9, 1, 33, 10, ROTARY_INTERLEAVED, {18, 19, 48}, 1, 6},
    {12, 6, 64, 32, ROTARY_HALVES, {70, 10, 2}, 16, 40},
    {32, 2, 128, 64, ROTARY_INTERLEAVED, {20, 35, 1}, 16, 20},
    {2, 1, 256, 256, ROTARY_HALVES, {24, 5, 5}, 16, 12},
    {3, 3, 5, 0, ROTARY_INTERLEAVED, {260, 100, 16}, 16, 40},
    {20, 2, 24, 0, ROTARY_HALVES, {130, 47, 90}, 16, 32},
};

enum { CASES = sizeof cases / sizeof *cases };

static struct attention_shape shape_of(const struct attention_case *test)
{
    return (struct attention_shape){.heads = test->heads,
                                    .kv_heads = test->kv_heads,
                                    .head_dim = test->head_dim,
                                    .rotary_dims = test->rotary_dims,
                                    .rotary = test->rotary,
                                    .scale = (float)(1 / sqrt(test->head_dim))};
}

/* One head turned, in float64. */
static void exact_turn(const struct world *world, uint32_t position, const float *in,
                       double *ret_out)
{
    const struct attention_shape *shape = &world->shape;
    uint32_t pairs = shape->rotary_dims / 2;
    for (uint32_t d = 0; d < shape->head_dim; d++)
        ret_out[d] = (double)in[d];
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t first = shape->rotary == ROTARY_INTERLEAVED ? 2 * i : i;
        uint32_t second = shape->rotary == ROTARY_INTERLEAVED ? 2 * i + 1 : i + pairs;
        double cosine = (double)world->cos_sin[((size_t)position * pairs + i) * 2];
        double sine = (double)world->cos_sin[((size_t)position * pairs + i) * 2 + 1];
        ret_out[first] = (double)in[first] * cosine - (double)in[second] * sine;
        ret_out[second] = (double)in[second] * cosine + (double)in[first] * sine;
    }
}

/* Compares one row and head. cache_roundoff: what keys and values lose on their way into the
 * cache. */
static void check_head(const struct world *world, uint32_t s, uint32_t position, uint32_t head,
                       double cache_roundoff)
{
    const struct attention_shape *shape = &world->shape;
    const struct sequence *sequence = &world->sequences[s];
    uint32_t dims = shape->head_dim;
    uint32_t kv_head = head / (shape->heads / shape->kv_heads);
    size_t q_at = ((size_t)position * shape->heads + head) * dims;
    double q[256] = {0}, k[256] = {0}, *scores = malloc((position + 1) * sizeof *scores);
    assert_non_null(scores);
    exact_turn(world, position, sequence->q + q_at, q);

    double maximum = -INFINITY, score_max = 0, score_error = 0;
    /* Turning: two products and a sum, and pairs share their length. The dot product, one chain of
     * all dimensions; the scale. */
    double turn_error = rounding_bound(3) * sqrt(2);
    double product_error = rounding_bound(dims + 2) + 2.01 * turn_error + cache_roundoff;
    for (uint32_t j = 0; j <= position; j++) {
        exact_turn(world, j, sequence->k + ((size_t)j * shape->kv_heads + kv_head) * dims, k);
        double score = 0, length_q = 0, length_k = 0;
        for (uint32_t d = 0; d < dims; d++) {
            score += q[d] * k[d];
            length_q += q[d] * q[d];
            length_k += k[d] * k[d];
        }
        scores[j] = score * (double)shape->scale;
        /* Cauchy-Schwarz: sum |q k| <= |q| |k|, errors of turned pairs included. */
        double magnitude = sqrt(length_q * length_k) * (double)shape->scale;
        score_error = fmax(score_error, magnitude * product_error);
        score_max = fmax(score_max, fabs(scores[j]));
        maximum = fmax(maximum, scores[j]);
    }
    double total = 0;
    for (uint32_t j = 0; j <= position; j++)
        total += scores[j] = exp(scores[j] - maximum);

    /* Relative error of a weight: its score's, absolute; then for every tile (of at least 16
     * positions) an exponential (4 roundoffs, and its argument's rounding times the argument) and
     * a product. Weights sum up above and below the line, in one chain of all positions. */
    double tiles = position / 16.0 + 2;
    double weight_error = score_error + tiles * ROUNDOFF_F32 * (6 + 2 * score_max);
    double error = 2 * (weight_error * 1.01 + rounding_bound(position + 4)) + cache_roundoff;
    for (uint32_t d = 0; d < dims; d++) {
        double sum = 0, magnitude = 0;
        for (uint32_t j = 0; j <= position; j++) {
            double v = (double)sequence->v[((size_t)j * shape->kv_heads + kv_head) * dims + d];
            sum += scores[j] * v / total;
            magnitude += scores[j] * fabs(v) / total;
        }
        double got = (double)sequence->out[q_at + d];
        if (!(fabs(got - sum) <= error * magnitude + 0x1p-25))
            fail_msg("sequence %u, position %u, head %u, dimension %u: %.9g instead of %.9g, "
                     "allowed %.3g",
                     s, position, head, d, got, sum, error * magnitude);
    }
    free(scores);
}

/* All positions of all sequences, `step` of each in a batch. */
static void run_all(struct world *world, uint32_t step)
{
    for (uint32_t first = 0; first < world->length_max; first += step) {
        struct segment segments[WORLD_SEQUENCES_MAX];
        uint32_t count = 0;
        for (uint32_t s = 0; s < world->sequence_count; s++) {
            uint32_t length = world->sequences[s].length;
            if (first < length)
                segments[count++] = (struct segment){
                    .sequence = s,
                    .first = first,
                    .count = length - first < step ? length - first : step,
                };
        }
        world_run(world, segments, count, NULL);
    }
}

static void check_case(struct backend *backend, const struct attention_case *test,
                       enum tensor_type cache_type, uint64_t seed)
{
    struct attention_shape shape = shape_of(test);
    struct world world;
    /* Nothing turns where there are no rotary dimensions: then f16 can hold keys and values
     * exactly, and the sharp bound holds for it too. */
    bool exact = test->rotary_dims == 0 || cache_type == TENSOR_F32;
    world_init(&world, seed, &shape, test->lengths, 3, test->rotary_dims == 0);
    world_open_cache(&world, backend, cache_type, test->block_tokens, seed);
    run_all(&world, test->step);
    for (uint32_t s = 0; s < 3; s++)
        for (uint32_t position = 0; position < world.sequences[s].length; position++)
            for (uint32_t head = 0; head < shape.heads; head++)
                check_head(&world, s, position, head, exact ? 0 : 0x1p-11);
    world_close_cache(&world);
    world_fini(&world);
}

static void check_cases(enum tensor_type cache_type)
{
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        struct backend *backend = open_variant(*variant, 2);
        for (size_t i = 0; i < CASES; i++)
            check_case(backend, &cases[i], cache_type, 100 + i);
        backend_close(backend);
    }
}

static void attention_over_an_f32_cache_is_exact_to_rounding(void **state)
{
    check_cases(TENSOR_F32);
}

static void attention_over_an_f16_cache_is_exact_to_the_caches_rounding(void **state)
{
    check_cases(TENSOR_F16);
}

static void queries_are_turned_in_place(void **state)
{
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        struct backend *backend = open_variant(*variant, 2);
        for (size_t i = 0; i < CASES; i++) {
            struct attention_shape shape = shape_of(&cases[i]);
            struct world world;
            world_init(&world, i, &shape, cases[i].lengths, 3, false);
            world_open_cache(&world, backend, TENSOR_F32, cases[i].block_tokens, i);
            uint32_t length = world.sequences[1].length;
            size_t width = (size_t)shape.heads * shape.head_dim;
            float *q = malloc(length * width * sizeof *q);
            assert_non_null(q);
            world_run(&world, &(struct segment){.sequence = 1, .count = length}, 1, q);
            for (uint32_t at = 0; at < length * shape.heads; at++) {
                double exact[256] = {0};
                const float *from = world.sequences[1].q + (size_t)at * shape.head_dim;
                exact_turn(&world, at / shape.heads, from, exact);
                for (uint32_t d = 0; d < shape.head_dim; d++)
                    /* Two products and a sum of numbers below 2. */
                    assert_true(fabs((double)q[at * shape.head_dim + d] - exact[d]) <=
                                (d < shape.rotary_dims ? rounding_bound(3) * 4 : 0));
            }
            free(q);
            world_close_cache(&world);
            world_fini(&world);
        }
        backend_close(backend);
    }
}

/* Thousands of positions, at the edges of tiles and splits and of chunks of the prompt. */
static void check_long(struct backend *backend, const struct attention_shape *shape)
{
    static const uint32_t positions[] = {0,   63,   64,   510,  511,  512,  513,
                                         767, 1023, 1024, 2047, 4094, 4095, 4096};
    const uint32_t lengths[] = {4097, 600};
    struct world world;
    world_init(&world, 77, shape, lengths, 2, true);
    world_open_cache(&world, backend, TENSOR_F16, 16, 5);
    for (uint32_t first = 0; first < lengths[0]; first += 256) {
        uint32_t left = lengths[0] - first;
        /* The last ones are decoded, beside another sequence. */
        if (left > 256)
            world_run(&world, &(struct segment){.first = first, .count = 256}, 1, NULL);
        for (uint32_t i = 0; left <= 256 && i < left; i++)
            world_run(&world, (struct segment[]){{0, first + i, 1}, {1, i, 1}}, 2, NULL);
    }
    for (size_t i = 0; i < sizeof positions / sizeof *positions; i++)
        for (uint32_t head = 0; head < shape->heads; head++)
            check_head(&world, 0, positions[i], head, 0);
    world_close_cache(&world);
    world_fini(&world);
}

static void long_contexts_are_exact_to_rounding(void **state)
{
    static const struct attention_shape shapes[] = {
        {4, 1, 32, 0, ROTARY_HALVES, 0.17f},
        {16, 1, 8, 0, ROTARY_HALVES, 0.35f},
        {1, 1, 100, 0, ROTARY_HALVES, 0.1f},
    };
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        struct backend *backend = open_variant(*variant, 2);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_long(backend, &shapes[i]);
        backend_close(backend);
    }
}

static void scores_beyond_the_range_of_exp_leave_no_trace(void **state)
{
    /* The second key is the only one that counts: the others are e^-3000 and less beside it. */
    struct attention_shape shape = {
        .heads = 1, .kv_heads = 1, .head_dim = 4, .rotary = ROTARY_INTERLEAVED, .scale = 1};
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        struct backend *backend = open_variant(*variant, 1);
        struct world world;
        const uint32_t length = 40;
        world_init(&world, 1, &shape, &length, 1, true);
        for (uint32_t i = 0; i < length * 4; i++) {
            world.sequences[0].q[i] = 100;
            world.sequences[0].k[i] = i / 4 == 1 ? 10 : -10 + (float)(i & ~3u) / 32;
        }
        world_open_cache(&world, backend, TENSOR_F16, 16, 1);
        run_all(&world, 40);
        for (uint32_t position = 1; position < length; position++)
            assert_memory_equal(world.sequences[0].out + (size_t)position * 4,
                                world.sequences[0].v + 4, 4 * sizeof(float));
        world_close_cache(&world);
        world_fini(&world);
        backend_close(backend);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_over_an_f32_cache_is_exact_to_rounding),
        cmocka_unit_test(attention_over_an_f16_cache_is_exact_to_the_caches_rounding),
        cmocka_unit_test(queries_are_turned_in_place),
        cmocka_unit_test(long_contexts_are_exact_to_rounding),
        cmocka_unit_test(scores_beyond_the_range_of_exp_leave_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
