/*
 * Packed weights: every type on every variant against float64, and bit for bit against each other.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/packed.h"
#include "tests/support/test.h"

static void on_each_backend(void (*test)(struct backend *backend))
{
    for (const char *const *variant = runnable_variants(); *variant; variant++)
        for (uint32_t threads = IS_SANITIZED ? 3 : 1; threads <= 3; threads += 2) {
            struct backend *backend = open_variant(*variant, threads);
            test(backend);
            backend_close(backend);
        }
}

struct shape {
    uint32_t rows, in, out;
};

static const struct shape shapes[] = {{1, 32, 1},    {1, 64, 16},  {2, 172, 64},  {3, 576, 172},
                                      {4, 33, 7},    {5, 1, 40},   {7, 100, 97},  {8, 256, 33},
                                      {9, 512, 80},  {12, 31, 20}, {16, 128, 96}, {17, 260, 50},
                                      {33, 300, 70}, {1, 6144, 9}, {64, 172, 66}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Inputs of which some groups are zero, some tiny, some large, some all of one magnitude. */
static float *random_inputs(struct random *random, uint32_t rows, uint32_t width)
{
    float *in = random_floats(random, (size_t)rows * width, 3.0f);
    for (size_t i = 0; i < (size_t)rows * width; i += 32) {
        size_t count = (size_t)rows * width - i < 32 ? (size_t)rows * width - i : 32;
        uint32_t kind = random_u32(random) % 16;
        static const float factors[] = {0, 1e-35f, 1e6f};
        for (size_t j = i; j < i + count; j++)
            if (kind < 3)
                in[j] *= factors[kind];
            else if (kind < 6)
                in[j] = kind == 3 ? -2.5f : kind == 4 ? 2.5f : in[j] < 0 ? -2.5f : 2.5f;
    }
    return in;
}

/* What a row and an output make in float64, with the most that f32 may err. Each group brings one
 * scaled product and one fused sum, and with a min two more of the same; halves of a group are
 * joined by two operations before. */
static double exact_product(const struct packed *weight, uint32_t out, const int *numbers,
                            const double *scales, double *ret_tolerance)
{
    uint32_t width = weight->tensor.cols;
    double sum = 0, magnitude = 0;
    for (uint32_t half = 0; half < width; half += 16) {
        double products = 0, inputs = 0;
        struct packed_element element = packed_element(weight, out, half);
        for (uint32_t k = half; k < width && k < half + 16; k++) {
            products += packed_element(weight, out, k).number * numbers[k];
            inputs += numbers[k];
        }
        double in_scale = scales[half / PACKED_GROUP];
        sum += in_scale * (products * element.scale + inputs * element.min);
        magnitude += in_scale * (fabs(products * element.scale) + fabs(inputs * element.min));
    }
    *ret_tolerance = rounding_bound(2.0 * weight->group_count + 1 + 2) * magnitude + 1e-40;
    return sum;
}

static void check_product(struct backend *backend, const struct shape *shape, enum tensor_type type,
                          uint64_t seed)
{
    struct random random = {seed};
    struct packed weight = packed_random(backend, &random, type, shape->out, shape->in);
    float *in = random_inputs(&random, shape->rows, shape->in);
    float *out = random_floats(&random, (size_t)shape->rows * shape->out, 1e9f);
    int *numbers = calloc(shape->in, sizeof *numbers);
    double *scales = calloc(weight.group_count, sizeof *scales);
    assert_true(numbers && scales);
    struct linear_output output = {.weight = weight.tensor, .out = out};
    assert_int_equal(backend->ops->linear(backend, in, shape->rows, shape->in, NULL, &output, 1),
                     0);
    for (uint32_t row = 0; row < shape->rows; row++) {
        round_inputs(in + (size_t)row * shape->in, shape->in, numbers, scales);
        for (uint32_t o = 0; o < shape->out; o++) {
            double tolerance;
            double expected = exact_product(&weight, o, numbers, scales, &tolerance);
            double got = (double)out[(size_t)row * shape->out + o];
            if (!(fabs(got - expected) <= tolerance))
                fail_msg("%s, %s, [%u, %u] of %u inputs: %.9g instead of %.9g, allowed %.3g",
                         backend->ops->describe(backend), tensor_type_name(type), row, o, shape->in,
                         got, expected, tolerance);
        }
    }
    free(in);
    free(out);
    free(numbers);
    free(scales);
    packed_free(backend, &weight);
}

static void check_products(struct backend *backend)
{
    for (size_t s = 0; s < SHAPES; s++)
        for (int t = 0; t < PACKED_TYPES; t++)
            check_product(backend, &shapes[s], packed_types[t], s * 100 + (uint64_t)t);
}

static void linear_is_the_product_of_exact_weights_and_rounded_inputs(void **state)
{
    on_each_backend(check_products);
}

/* Rows in batches of any size, beginning anywhere, against `alone`: each row by itself, plain. */
static void check_batches(const char *variant, uint32_t threads, const struct packed *weight,
                          const float *in, const float *alone, uint32_t rows_max)
{
    static const uint32_t sizes[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                     12, 13, 14, 15, 16, 17, 18, 31, 33, 63, 64};
    struct backend *backend = open_variant(variant, threads);
    uint32_t width = weight->tensor.cols, outputs = weight->tensor.rows;
    float *out = calloc((size_t)rows_max * outputs, sizeof *out);
    assert_non_null(out);
    /* All sizes with one thread, some with more. */
    for (size_t i = threads - 1; i < sizeof sizes / sizeof *sizes; i += threads == 1 ? 1 : 4) {
        uint32_t rows = sizes[i], first = (rows_max - rows) / 2;
        struct linear_output output = {.weight = weight->tensor, .out = out};
        assert_int_equal(backend->ops->linear(backend, in + (size_t)first * width, rows, width,
                                              NULL, &output, 1),
                         0);
        if (memcmp(out, alone + (size_t)first * outputs, (size_t)rows * outputs * sizeof *out))
            fail_msg("%s, %s: %u rows at once come out differently",
                     backend->ops->describe(backend), tensor_type_name(weight->tensor.type), rows);
    }
    free(out);
    backend_close(backend);
}

static void check_bits(const struct shape *shape, enum tensor_type type, uint64_t seed)
{
    enum { ROWS = 64 };
    struct random random = {seed};
    struct backend *plain = open_variant("plain", 1);
    struct packed weight = packed_random(plain, &random, type, shape->out, shape->in);
    float *in = random_inputs(&random, ROWS, shape->in);
    float *alone = calloc((size_t)ROWS * shape->out, sizeof *alone);
    assert_non_null(alone);
    for (uint32_t row = 0; row < ROWS; row++) {
        struct linear_output output = {.weight = weight.tensor,
                                       .out = alone + (size_t)row * shape->out};
        assert_int_equal(
            plain->ops->linear(plain, in + (size_t)row * shape->in, 1, shape->in, NULL, &output, 1),
            0);
    }
    for (const char *const *variant = runnable_variants(); *variant; variant++)
        for (uint32_t threads = IS_SANITIZED ? 3 : 1; threads <= 4; threads++)
            check_batches(*variant, threads, &weight, in, alone, ROWS);
    free(in);
    free(alone);
    packed_free(plain, &weight);
    backend_close(plain);
}

static void a_row_comes_out_the_same_in_any_batch_on_any_threads_and_instructions(void **state)
{
    static const struct shape bit_shapes[] = {
        {0, 172, 130}, {0, 576, 48}, {0, 40, 300}, {0, 2100, 20}};
    for (size_t s = 0; s < sizeof bit_shapes / sizeof *bit_shapes; s++)
        for (int t = 0; t < PACKED_TYPES; t++)
            check_bits(&bit_shapes[s], packed_types[t], 10000 + s * 100 + (uint64_t)t);
}

/* norm(in), through the product with the matrix that changes nothing. */
static float *normed(struct backend *backend, const float *in, uint32_t rows, uint32_t width,
                     const struct rms_norm *norm)
{
    float *identity = calloc((size_t)width * width, sizeof *identity);
    float *out = calloc((size_t)rows * width, sizeof *out);
    assert_true(identity && out);
    for (uint32_t i = 0; i < width; i++)
        identity[(size_t)i * width + i] = 1;
    struct linear_output output = {
        .weight = {.data = identity, .type = TENSOR_F32, .rows = width, .cols = width}, .out = out};
    assert_int_equal(backend->ops->linear(backend, in, rows, width, norm, &output, 1), 0);
    free(identity);
    return out;
}

static void check_norm(struct backend *backend)
{
    enum { ROWS = 21, IN = 172, OUT = 90 };
    struct random random = {77};
    float *in = random_floats(&random, (size_t)ROWS * IN, 2.0f);
    struct values norm_weight = values_random(&random, TENSOR_F16, 1, IN, 2.0);
    struct values plain_weight = values_random(&random, TENSOR_BF16, OUT, IN, 1.0);
    struct values bias = values_random(&random, TENSOR_F16, 1, OUT, 1.0);
    struct rms_norm norm = {.weight = norm_weight.tensor, .eps = 1e-5f};
    float *norm_in = normed(backend, in, ROWS, IN, &norm);
    float *got[2], *expected[2];
    for (int i = 0; i < 2; i++) {
        got[i] = random_floats(&random, (size_t)ROWS * OUT, 1.0f);
        expected[i] = random_floats(&random, (size_t)ROWS * OUT, 1.0f);
    }
    for (int t = 0; t < PACKED_TYPES; t++) {
        struct packed weight = packed_random(backend, &random, packed_types[t], OUT, IN);
        struct linear_output both[2] = {{weight.tensor, bias.tensor, got[0]},
                                        {plain_weight.tensor, {0}, got[1]}};
        assert_int_equal(backend->ops->linear(backend, in, ROWS, IN, &norm, both, 2), 0);
        struct linear_output packed_one = {.weight = weight.tensor, .out = expected[0]};
        assert_int_equal(backend->ops->linear(backend, norm_in, ROWS, IN, NULL, &packed_one, 1), 0);
        struct linear_output plain_one = {.weight = plain_weight.tensor, .out = expected[1]};
        assert_int_equal(backend->ops->linear(backend, norm_in, ROWS, IN, NULL, &plain_one, 1), 0);
        for (size_t i = 0; i < (size_t)ROWS * OUT; i++)
            expected[0][i] += (float)bias.exact[i % OUT];
        for (int i = 0; i < 2; i++)
            assert_memory_equal(got[i], expected[i], sizeof(float) * ROWS * OUT);
        packed_free(backend, &weight);
    }
    for (int i = 0; i < 2; i++) {
        free(got[i]);
        free(expected[i]);
    }
    free(in);
    free(norm_in);
    values_free(&norm_weight);
    values_free(&plain_weight);
    values_free(&bias);
}

static void packed_and_plain_weights_share_one_normed_input(void **state)
{
    on_each_backend(check_norm);
}

static void check_linear_add(struct backend *backend)
{
    enum { ROWS = 19, IN = 260, OUT = 50 };
    struct random random = {78};
    float *in = random_floats(&random, (size_t)ROWS * IN, 2.0f);
    struct values norm_weight = values_random(&random, TENSOR_F32, 1, OUT, 2.0);
    struct values bias = values_random(&random, TENSOR_F32, 1, OUT, 1.0);
    struct rms_norm norm = {.weight = norm_weight.tensor, .eps = 1e-5f};
    float *product = random_floats(&random, (size_t)ROWS * OUT, 1.0f);
    for (int t = 0; t < PACKED_TYPES * 2; t++) {
        bool with_norm = t >= PACKED_TYPES;
        struct packed weight =
            packed_random(backend, &random, packed_types[t % PACKED_TYPES], OUT, IN);
        float *residual = random_floats(&random, (size_t)ROWS * OUT, 5.0f);
        float *expected = malloc(sizeof(float) * ROWS * OUT);
        assert_non_null(expected);
        struct linear_output output = {weight.tensor, bias.tensor, product};
        assert_int_equal(backend->ops->linear(backend, in, ROWS, IN, NULL, &output, 1), 0);
        float *branch = with_norm ? normed(backend, product, ROWS, OUT, &norm) : product;
        for (size_t i = 0; i < (size_t)ROWS * OUT; i++)
            expected[i] = residual[i] + branch[i];
        assert_int_equal(backend->ops->linear_add(backend, in, ROWS, &weight.tensor, &bias.tensor,
                                                  with_norm ? &norm : NULL, residual),
                         0);
        assert_memory_equal(residual, expected, sizeof(float) * ROWS * OUT);
        if (with_norm)
            free(branch);
        free(residual);
        free(expected);
        packed_free(backend, &weight);
    }
    free(in);
    free(product);
    values_free(&norm_weight);
    values_free(&bias);
}

static void linear_add_adds_what_linear_gives(void **state)
{
    on_each_backend(check_linear_add);
}

/* 40 rows of this width take more than the memory for rounded inputs. */
static void check_parts(struct backend *backend)
{
    enum { ROWS = 40, IN = 40000, OUT = 5 };
    struct random random = {79};
    struct packed weight = packed_random(backend, &random, TENSOR_Q4, OUT, IN);
    float *in = random_floats(&random, (size_t)ROWS * IN, 2.0f);
    float *whole = random_floats(&random, (size_t)ROWS * OUT, 1.0f);
    float *alone = random_floats(&random, (size_t)ROWS * OUT, 1.0f);
    struct linear_output output = {.weight = weight.tensor, .out = whole};
    assert_int_equal(backend->ops->linear(backend, in, ROWS, IN, NULL, &output, 1), 0);
    memset(alone, 0, sizeof(float) * ROWS * OUT);
    for (uint32_t row = 0; row < ROWS; row++)
        assert_int_equal(backend->ops->linear_add(backend, in + (size_t)row * IN, 1, &weight.tensor,
                                                  NULL, NULL, alone + row * OUT),
                         0);
    assert_memory_equal(whole, alone, sizeof(float) * ROWS * OUT);
    memset(whole, 0, sizeof(float) * ROWS * OUT);
    assert_int_equal(backend->ops->linear_add(backend, in, ROWS, &weight.tensor, NULL, NULL, whole),
                     0);
    assert_memory_equal(whole, alone, sizeof(float) * ROWS * OUT);
    free(in);
    free(whole);
    free(alone);
    packed_free(backend, &weight);
}

static void batches_beyond_the_memory_for_rounded_inputs_go_in_parts(void **state)
{
    on_each_backend(check_parts);
}

static void check_embed(struct backend *backend)
{
    enum { ROWS = 37, COLS = 300 };
    struct random random = {80};
    uint32_t ids[ROWS];
    float *out = calloc((size_t)ROWS * COLS, sizeof *out);
    assert_non_null(out);
    for (uint32_t i = 0; i < ROWS; i++)
        ids[i] = (i * 11 + 5) % ROWS;
    struct batch batch = {.rows = ROWS, .ids = ids};
    for (int t = 0; t < PACKED_TYPES; t++) {
        struct packed table = packed_random(backend, &random, packed_types[t], ROWS, COLS);
        assert_int_equal(backend->ops->embed(backend, &table.tensor, &batch, out), 0);
        for (uint32_t i = 0; i < ROWS; i++)
            for (uint32_t k = 0; k < COLS; k++) {
                struct packed_element element = packed_element(&table, ids[i], k);
                /* Two roundings, the first of which has nothing to do for any file's type. */
                float product = (float)(element.scale * element.number);
                float expected = product + (float)element.min;
                assert_true(out[(size_t)i * COLS + k] == expected);
            }
        packed_free(backend, &table);
    }
    free(out);
}

static void embed_gives_packed_rows_exactly(void **state)
{
    on_each_backend(check_embed);
}

static void check_special(struct backend *backend)
{
    enum { ROWS = 20, IN = 70, OUT = 18 };
    struct random random = {81};
    for (int t = 0; t < PACKED_TYPES; t++) {
        struct packed weight = packed_random(backend, &random, packed_types[t], OUT, IN);
        struct values bias = values_random(&random, TENSOR_F32, 1, OUT, 1.0);
        float *in = random_floats(&random, (size_t)ROWS * IN, 2.0f), out[ROWS * OUT];
        in[3 * IN + 69] = NAN;
        in[17 * IN + 5] = -INFINITY;
        for (uint32_t k = 0; k < IN; k++) {
            in[4 * IN + k] = k % 2 ? 0 : -0.0f;
            in[9 * IN + k] *= 1e-39f;
        }
        struct linear_output output = {weight.tensor, bias.tensor, out};
        assert_int_equal(backend->ops->linear(backend, in, ROWS, IN, NULL, &output, 1), 0);
        for (uint32_t i = 0; i < ROWS * OUT; i++) {
            bool spoilt = i / OUT == 3 || i / OUT == 17, zero = i / OUT == 4 || i / OUT == 9;
            assert_true(spoilt ? isnan(out[i]) : isfinite(out[i]));
            assert_true(!zero || (double)out[i] == bias.exact[i % OUT]);
        }
        free(in);
        values_free(&bias);
        packed_free(backend, &weight);
    }
}

static void what_is_not_finite_spoils_its_own_row_and_what_is_tiny_counts_as_zero(void **state)
{
    on_each_backend(check_special);
}

static int failing_source(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                          struct quant_group *ret_groups)
{
    return row == 33 && first_group ? -EIO : 0;
}

static void check_failing_source(struct backend *backend)
{
    struct tensor tensor = {.type = TENSOR_Q4, .rows = 50, .cols = 96};
    void *memory;
    assert_int_equal(backend->ops->alloc(backend, tensor_bytes(&tensor), &memory), 0);
    assert_int_equal(backend->ops->pack(backend, &tensor, memory, failing_source, NULL), -EIO);
    tensor.rows = 33;
    assert_int_equal(backend->ops->pack(backend, &tensor, memory, failing_source, NULL), 0);
    backend->ops->free(backend, memory, tensor_bytes(&tensor));
}

static void packing_ends_with_the_error_of_its_source(void **state)
{
    on_each_backend(check_failing_source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_the_product_of_exact_weights_and_rounded_inputs),
        cmocka_unit_test(a_row_comes_out_the_same_in_any_batch_on_any_threads_and_instructions),
        cmocka_unit_test(packed_and_plain_weights_share_one_normed_input),
        cmocka_unit_test(linear_add_adds_what_linear_gives),
        cmocka_unit_test(batches_beyond_the_memory_for_rounded_inputs_go_in_parts),
        cmocka_unit_test(embed_gives_packed_rows_exactly),
        cmocka_unit_test(what_is_not_finite_spoils_its_own_row_and_what_is_tiny_counts_as_zero),
        cmocka_unit_test(packing_ends_with_the_error_of_its_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
