/*
 * Every operation but attention (test_attention.c), of every variant, against the same in float64.
 * Tolerances are bounds of the rounding error (Higham, Accuracy and Stability of Numerical
 * Algorithms, chapter 3), not figures found by trying: each says how many operations it counts.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/data.h"
#include "tests/support/test.h"

static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
enum { TYPES = sizeof types / sizeof *types };

/* Runs a test on every variant that this machine has, with one thread and with three. */
static void on_each_backend(void (*test)(struct backend *backend))
{
    for (const char *const *variant = runnable_variants(); *variant; variant++)
        for (uint32_t threads = IS_SANITIZED ? 3 : 1; threads <= 3; threads += 2) {
            struct backend *backend = open_variant(*variant, threads);
            test(backend);
            backend_close(backend);
        }
}

static void check(double got, double expected, double tolerance, const char *what, uint32_t row,
                  uint32_t column)
{
    if (!(fabs(got - expected) <= tolerance))
        fail_msg("%s [%u, %u]: %.9g instead of %.9g, off by %.3g, allowed %.3g", what, row, column,
                 got, expected, fabs(got - expected), tolerance);
}

/* RMSNorm of one row in float64; weight NULL: a copy. */
static void exact_norm(const float *in, uint32_t width, const double *weight, double eps,
                       double *ret_out)
{
    double squares = 0;
    for (uint32_t i = 0; i < width; i++)
        squares += (double)in[i] * (double)in[i];
    double inverse = 1 / sqrt(squares / width + eps);
    for (uint32_t i = 0; i < width; i++)
        ret_out[i] = weight ? (double)in[i] * inverse * weight[i] : (double)in[i];
}

/* Relative error of an element after exact_norm()'s f32 counterpart: half of the sum's and the
 * squares' (under the root), then division, eps, root, reciprocal and two products. */
static double norm_operations(uint32_t width)
{
    return (sum_chain(width) + 1) / 2 + 6;
}

struct linear_case {
    uint32_t rows, in, out;
    bool norm, bias;
};

static const struct linear_case linear_cases[] = {
    {1, 64, 64, false, false}, {1, 1, 1, false, true},     {1, 172, 64, true, false},
    {2, 64, 172, true, true},  {3, 33, 7, true, true},     {4, 15, 5, false, true},
    {5, 16, 4, true, false},   {7, 100, 97, true, true},   {8, 17, 31, false, false},
    {13, 48, 129, true, true}, {16, 128, 96, true, false}, {33, 40, 50, true, true},
    {40, 172, 66, true, true}, {40, 9, 300, false, true},  {2, 3000, 70, true, true},
    {3, 4099, 33, true, true}, {6, 8, 256, false, true},   {9, 256, 8, true, false},
    {17, 520, 35, true, true}, {131, 24, 67, false, true},
};

/* The same with 1 to 40 rows, of a matrix that is no whole number of tiles either way. */
enum { ROWS_MOST = 40 };

static void check_linear(struct backend *backend, const struct linear_case *shape,
                         enum tensor_type type, enum tensor_type norm_type, uint64_t seed)
{
    struct random random = {seed};
    float *in = random_floats(&random, (size_t)shape->rows * shape->in, 3.0f);
    struct values norm_weight = values_random(&random, norm_type, 1, shape->in, 2.0);
    struct values weights[3], biases[3];
    struct linear_output outputs[3];
    /* Three maps of unequal width at once, as q, k and v are. */
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t out = shape->out / (i + 1) + 1;
        weights[i] = values_random(&random, types[(type + i) % TYPES], out, shape->in, 1.0);
        biases[i] = values_random(&random, norm_type, 1, out, 4.0);
        outputs[i] = (struct linear_output){
            .weight = weights[i].tensor,
            .out = random_floats(&random, (size_t)shape->rows * out, 1e9f),
        };
        if (shape->bias)
            outputs[i].bias = biases[i].tensor;
    }
    struct rms_norm norm = {.weight = norm_weight.tensor, .eps = 1e-5f};
    assert_int_equal(backend->ops->linear(backend, in, shape->rows, shape->in,
                                          shape->norm ? &norm : NULL, outputs, 3),
                     0);

    double *normed = malloc(shape->in * sizeof *normed);
    double operations = sum_chain(shape->in) + 3 + (shape->norm ? norm_operations(shape->in) : 0);
    for (uint32_t row = 0; row < shape->rows; row++) {
        exact_norm(in + (size_t)row * shape->in, shape->in, shape->norm ? norm_weight.exact : NULL,
                   (double)norm.eps, normed);
        for (uint32_t i = 0; i < 3; i++)
            for (uint32_t o = 0; o < weights[i].tensor.rows; o++) {
                double sum = shape->bias ? biases[i].exact[o] : 0;
                double magnitude = fabs(sum);
                for (uint32_t k = 0; k < shape->in; k++) {
                    double product = normed[k] * weights[i].exact[(size_t)o * shape->in + k];
                    sum += product;
                    magnitude += fabs(product);
                }
                check((double)outputs[i].out[(size_t)row * weights[i].tensor.rows + o], sum,
                      rounding_bound(operations) * magnitude, "linear", row, o);
            }
    }
    free(normed);
    free(in);
    values_free(&norm_weight);
    for (int i = 0; i < 3; i++) {
        values_free(&weights[i]);
        values_free(&biases[i]);
        free(outputs[i].out);
    }
}

static void check_every_linear(struct backend *backend)
{
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof linear_cases / sizeof *linear_cases; i++)
        for (int t = 0; t < TYPES; t++)
            check_linear(backend, &linear_cases[i], types[t], types[i % TYPES], seed++);
}

static void linear_is_the_matrix_product_of_the_normed_input(void **state)
{
    on_each_backend(check_every_linear);
}

static void check_every_number_of_rows(struct backend *backend)
{
    for (uint32_t rows = 1; rows <= ROWS_MOST; rows++) {
        const struct linear_case shape = {rows, 85, 59, true, true};
        check_linear(backend, &shape, types[rows % TYPES], TENSOR_F32, rows);
    }
}

static void linear_takes_any_number_of_rows(void **state)
{
    on_each_backend(check_every_number_of_rows);
}

static void check_linear_add(struct backend *backend, const struct linear_case *shape,
                             enum tensor_type type, uint64_t seed)
{
    struct random random = {seed};
    size_t count = (size_t)shape->rows * shape->out;
    float *in = random_floats(&random, (size_t)shape->rows * shape->in, 3.0f);
    float *residual = random_floats(&random, count, 5.0f);
    float *before = malloc(count * sizeof *before);
    memcpy(before, residual, count * sizeof *before);
    struct values weight = values_random(&random, type, shape->out, shape->in, 1.0);
    struct values bias = values_random(&random, type, 1, shape->out, 1.0);
    struct values norm_weight = values_random(&random, type, 1, shape->out, 1.0);
    struct rms_norm norm = {.weight = norm_weight.tensor, .eps = 1e-5f};
    assert_int_equal(backend->ops->linear_add(backend, in, shape->rows, &weight.tensor,
                                              shape->bias ? &bias.tensor : NULL,
                                              shape->norm ? &norm : NULL, residual),
                     0);

    double *sums = malloc(shape->out * sizeof *sums);
    double *magnitudes = malloc(shape->out * sizeof *magnitudes);
    double sum_error = rounding_bound(sum_chain(shape->in) + 3);
    for (uint32_t row = 0; row < shape->rows; row++) {
        double squares = 0, squared_errors = 0;
        for (uint32_t o = 0; o < shape->out; o++) {
            sums[o] = shape->bias ? bias.exact[o] : 0;
            magnitudes[o] = fabs(sums[o]);
            for (uint32_t k = 0; k < shape->in; k++) {
                double product = (double)in[(size_t)row * shape->in + k] *
                                 weight.exact[(size_t)o * shape->in + k];
                sums[o] += product;
                magnitudes[o] += fabs(product);
            }
            squares += sums[o] * sums[o];
            squared_errors += magnitudes[o] * magnitudes[o] * sum_error * sum_error;
        }
        double rms = sqrt(squares / shape->out + (double)norm.eps);
        /* The root of the mean square moves by no more than that of the errors (triangle). */
        double rms_error = sqrt(squared_errors / shape->out) / rms;
        for (uint32_t o = 0; o < shape->out; o++) {
            double factor = shape->norm ? norm_weight.exact[o] / rms : 1;
            double branch = sums[o] * factor;
            double tolerance = magnitudes[o] * sum_error * fabs(factor);
            if (shape->norm)
                tolerance = (tolerance + fabs(branch) * rms_error) * 1.001 +
                            fabs(branch) * rounding_bound(norm_operations(shape->out));
            size_t at = (size_t)row * shape->out + o;
            double expected = (double)before[at] + branch;
            tolerance += 2 * ROUNDOFF_F32 * (fabs((double)before[at]) + fabs(branch));
            check((double)residual[at], expected, tolerance, "linear_add", row, o);
        }
    }
    free(sums);
    free(magnitudes);
    free(in);
    free(residual);
    free(before);
    values_free(&weight);
    values_free(&bias);
    values_free(&norm_weight);
}

static void check_every_linear_add(struct backend *backend)
{
    uint64_t seed = 1000;
    for (size_t i = 0; i < sizeof linear_cases / sizeof *linear_cases; i++)
        for (int t = 0; t < TYPES; t++)
            check_linear_add(backend, &linear_cases[i], types[t], seed++);
}

static void linear_add_adds_the_normed_product_to_the_residual(void **state)
{
    on_each_backend(check_every_linear_add);
}

/* More rows than the backend's scratch memory takes at once (2^20 floats): these go in parts. */
static void check_many_wide_rows(struct backend *backend)
{
    const struct linear_case many = {.rows = 300, .in = 4099, .out = 2, .norm = true};
    check_linear(backend, &many, TENSOR_F32, TENSOR_F32, 7);
    const struct linear_case wide = {.rows = 300, .in = 3, .out = 4099, .norm = true};
    check_linear_add(backend, &wide, TENSOR_F32, 8);
}

static void batches_beyond_the_scratch_memory_go_in_parts(void **state)
{
    on_each_backend(check_many_wide_rows);
}

static void check_embed(struct backend *backend)
{
    struct random random = {3};
    static const uint32_t widths[] = {1, 3, 16, 48, 100, 172};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int t = 0; t < TYPES; t++) {
            enum { ROWS = 40, TABLE = 50 };
            struct values table = values_random(&random, types[t], TABLE, widths[w], 3.0);
            uint32_t ids[ROWS];
            for (uint32_t i = 0; i < ROWS; i++)
                ids[i] = random_u32(&random) % TABLE;
            float *out = random_floats(&random, (size_t)ROWS * widths[w], 1.0f);
            struct batch batch = {.rows = ROWS, .ids = ids};
            assert_int_equal(backend->ops->embed(backend, &table.tensor, &batch, out), 0);
            for (uint32_t r = 0; r < ROWS; r++)
                for (uint32_t c = 0; c < widths[w]; c++)
                    check((double)out[r * widths[w] + c], table.exact[ids[r] * widths[w] + c], 0,
                          "embed", r, c);
            free(out);
            values_free(&table);
        }
}

static void embed_gives_the_rows_exactly(void **state)
{
    on_each_backend(check_embed);
}

/* All 65,536 bit patterns of both half types go through embed, which only converts. */
static void check_conversions(struct backend *backend)
{
    static uint16_t bits[0x10000];
    static float out[0x10000];
    for (uint32_t i = 0; i < 0x10000; i++)
        bits[i] = (uint16_t)i;
    uint32_t id = 0;
    struct batch batch = {.rows = 1, .ids = &id};
    struct tensor table = {.data = bits, .type = TENSOR_F16, .rows = 1, .cols = 0x10000};
    assert_int_equal(backend->ops->embed(backend, &table, &batch, out), 0);
    for (uint32_t i = 0; i < 0x10000; i++) {
        if ((i & 0x7C00) != 0x7C00)
            assert_true((double)out[i] == value_of_f16((uint16_t)i) &&
                        !signbit(out[i]) == !(i & 0x8000));
        else if (i & 0x3FF)
            assert_true(isnan(out[i]));
        else
            assert_true(isinf(out[i]) && !signbit(out[i]) == !(i & 0x8000));
    }
    table.type = TENSOR_BF16;
    assert_int_equal(backend->ops->embed(backend, &table, &batch, out), 0);
    for (uint32_t i = 0; i < 0x10000; i++) {
        uint32_t got;
        memcpy(&got, &out[i], sizeof got);
        assert_int_equal(got, i << 16);
    }
}

static void every_f16_and_bf16_is_read_as_what_it_is(void **state)
{
    on_each_backend(check_conversions);
}

static void check_gated_silu(struct backend *backend)
{
    static const struct {
        uint32_t rows, width;
        float scale;
    } cases[] = {{1, 1, 1},     {1, 172, 8},  {3, 17, 20},   {40, 172, 4},
                 {2, 5000, 80}, {7, 33, 200}, {1, 64, 1e-6f}};
    struct random random = {5};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t count = (size_t)cases[i].rows * cases[i].width;
        float *gate = random_floats(&random, count, cases[i].scale);
        float *up = random_floats(&random, count, 3.0f);
        float *before = malloc(count * sizeof *before);
        memcpy(before, gate, count * sizeof *before);
        assert_int_equal(backend->ops->gated_silu(backend, gate, up, cases[i].rows, cases[i].width),
                         0);
        for (size_t j = 0; j < count; j++) {
            double x = (double)before[j];
            double expected = x / (1 + exp(-x)) * (double)up[j];
            /* exp: 2 units in the last place, which is 4 roundoffs; then sum, quotient, product.
             * Beyond e^88 nothing but zero is to be told from the result. */
            double tolerance = rounding_bound(4 + 3) * fabs(expected) + 1e-35;
            check((double)gate[j], expected, tolerance, "gated_silu", 0, (uint32_t)j);
        }
        free(gate);
        free(up);
        free(before);
    }
}

static void gated_silu_is_accurate_over_its_whole_range(void **state)
{
    on_each_backend(check_gated_silu);
}

static void check_special_silu(struct backend *backend)
{
    float gate[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e38f, -1e38f};
    float up[] = {1, 1, 1, 1, 1, 1, 1};
    assert_int_equal(backend->ops->gated_silu(backend, gate, up, 1, 7), 0);
    assert_true(isinf(gate[0]));
    assert_true(isnan(gate[2]));
    assert_true(gate[3] == 0 && gate[4] == 0);
    assert_true(gate[5] == 1e38f);
    assert_true(fabsf(gate[6]) < 1.0f);
}

static void gated_silu_keeps_nan_and_the_extremes(void **state)
{
    on_each_backend(check_special_silu);
}

static void check_select_rows(struct backend *backend)
{
    struct random random = {6};
    enum { ROWS = 9, WIDTH = 13 };
    float *in = random_floats(&random, (size_t)ROWS * WIDTH, 1.0f);
    const uint32_t indices[] = {8, 0, 3, 3, 7};
    float out[5 * WIDTH];
    assert_int_equal(backend->ops->select_rows(backend, in, indices, 5, WIDTH, out), 0);
    for (uint32_t i = 0; i < 5; i++)
        assert_memory_equal(out + i * WIDTH, in + indices[i] * WIDTH, WIDTH * sizeof *in);
    free(in);
}

static void select_rows_copies_the_rows_asked_for(void **state)
{
    on_each_backend(check_select_rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_the_matrix_product_of_the_normed_input),
        cmocka_unit_test(linear_takes_any_number_of_rows),
        cmocka_unit_test(linear_add_adds_the_normed_product_to_the_residual),
        cmocka_unit_test(batches_beyond_the_scratch_memory_go_in_parts),
        cmocka_unit_test(embed_gives_the_rows_exactly),
        cmocka_unit_test(every_f16_and_bf16_is_read_as_what_it_is),
        cmocka_unit_test(gated_silu_is_accurate_over_its_whole_range),
        cmocka_unit_test(gated_silu_keeps_nan_and_the_extremes),
        cmocka_unit_test(select_rows_copies_the_rows_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
