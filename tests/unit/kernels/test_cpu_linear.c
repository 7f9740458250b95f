/*
 * Bit for bit: a row's result depends on that row alone.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/data.h"
#include "tests/conformance/packed.h"
#include "tests/support/test.h"

enum { ROWS = 40 };

struct layer {
    uint32_t in, out;
    struct values norm_weight, weight, bias, post_weight;
    struct rms_norm norm, post_norm;
};

static struct layer make_layer(struct random *random, enum tensor_type type, uint32_t in,
                               uint32_t out)
{
    struct layer layer = {.in = in,
                          .out = out,
                          .norm_weight = values_random(random, type, 1, in, 1.0),
                          .weight = values_random(random, type, out, in, 1.0),
                          .bias = values_random(random, type, 1, out, 1.0),
                          .post_weight = values_random(random, type, 1, out, 1.0)};
    layer.norm = (struct rms_norm){.weight = layer.norm_weight.tensor, .eps = 1e-5f};
    layer.post_norm = (struct rms_norm){.weight = layer.post_weight.tensor, .eps = 1e-5f};
    return layer;
}

static void free_layer(struct layer *layer)
{
    values_free(&layer->norm_weight);
    values_free(&layer->weight);
    values_free(&layer->bias);
    values_free(&layer->post_weight);
}

/* norm + linear + bias, silu, then the sum with the residual (the input's first columns), with and
 * without a norm of its own: all operations that mix no rows. ret_out: [rows, 3 * out] */
static void run(struct backend *backend, const struct layer *layer, const float *in, uint32_t rows,
                float *ret_out)
{
    size_t count = (size_t)rows * layer->out;
    float *parts[3];
    for (int i = 0; i < 3; i++) {
        parts[i] = malloc(count * sizeof(float));
        assert_non_null(parts[i]);
        for (size_t j = 0; j < count; j++)
            parts[i][j] = in[j / layer->out * layer->in + j % layer->out % layer->in];
    }
    struct linear_output output = {layer->weight.tensor, layer->bias.tensor, parts[0]};
    const struct backend_ops *ops = backend->ops;
    assert_int_equal(ops->linear(backend, in, rows, layer->in, &layer->norm, &output, 1), 0);
    assert_int_equal(
        ops->linear_add(backend, in, rows, &layer->weight.tensor, NULL, NULL, parts[1]), 0);
    assert_int_equal(ops->linear_add(backend, in, rows, &layer->weight.tensor, &layer->bias.tensor,
                                     &layer->post_norm, parts[2]),
                     0);
    assert_int_equal(ops->gated_silu(backend, parts[0], parts[1], rows, layer->out), 0);
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < 3; i++)
            memcpy(ret_out + (row * 3 + i) * layer->out, parts[i] + row * layer->out,
                   layer->out * sizeof(float));
    for (int i = 0; i < 3; i++)
        free(parts[i]);
}

/* Runs `rows` of the inputs in an order of the seed's, and compares each with its row alone. */
static void check_batch(struct backend *backend, const struct layer *layer, const float *in,
                        const float *alone, uint32_t rows, uint64_t seed)
{
    uint32_t order[ROWS] = {0};
    struct random random = {seed};
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t j = random_u32(&random) % (i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    size_t width = (size_t)layer->out * 3;
    float *batch = malloc((size_t)rows * layer->in * sizeof *batch);
    float *out = malloc(rows * width * sizeof *out);
    assert_true(batch && out);
    for (uint32_t i = 0; i < rows; i++)
        memcpy(batch + (size_t)i * layer->in, in + (size_t)order[i] * layer->in,
               layer->in * sizeof *in);
    run(backend, layer, batch, rows, out);
    for (uint32_t i = 0; i < rows; i++)
        assert_memory_equal(out + i * width, alone + order[i] * width, width * sizeof *out);
    free(batch);
    free(out);
}

static void check_layer(const char *variant, const struct layer *layer, uint64_t seed)
{
    struct random random = {seed};
    float *in = random_floats(&random, (size_t)ROWS * layer->in, 2.0f);
    size_t width = (size_t)layer->out * 3;
    float *alone = malloc(ROWS * width * sizeof *alone);
    assert_non_null(alone);
    struct backend *backend = open_variant(variant, 1);
    for (uint32_t row = 0; row < ROWS; row++)
        run(backend, layer, in + (size_t)row * layer->in, 1, alone + row * width);
    backend_close(backend);

    for (uint32_t threads = 1; threads <= 4; threads++) {
        backend = open_variant(variant, threads);
        uint32_t step = IS_SANITIZED ? 13 : threads == 1 ? 1 : 5; /* that takes its time */
        for (uint32_t rows = 1; rows <= ROWS; rows += step)
            check_batch(backend, layer, in, alone, rows, seed + rows);
        backend_close(backend);
    }
    free(alone);
    free(in);
}

static void a_row_comes_out_the_same_in_any_batch_order_and_number_of_threads(void **state)
{
    static const uint32_t shapes[][2] = {{64, 172}, {172, 64}, {33, 7},    {5, 18},
                                         {8, 2},    {256, 43}, {1100, 300}};
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
    struct random random = {1};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            struct layer layer = make_layer(&random, types[t], shapes[s][0], shapes[s][1]);
            for (const char *const *variant = runnable_variants(); *variant; variant++)
                check_layer(*variant, &layer, s * 10 + t);
            free_layer(&layer);
        }
}

/* A prompt is cut into blocks of rows and its columns into panels; its rows alone are not. */
static void check_prompt(struct backend *backend, const struct layer *layer, const float *in,
                         uint32_t rows)
{
    size_t width = (size_t)layer->out * 3;
    float *out = malloc(rows * width * sizeof *out);
    float *alone = malloc(width * sizeof *alone);
    assert_true(out && alone);
    run(backend, layer, in, rows, out);
    for (uint32_t row = 0; row < rows; row++) {
        run(backend, layer, in + (size_t)row * layer->in, 1, alone);
        assert_memory_equal(out + row * width, alone, width * sizeof *alone);
    }
    free(alone);
    free(out);
}

static void a_prompt_of_many_blocks_gives_the_bits_of_its_rows(void **state)
{
    enum { PROMPT = IS_SANITIZED ? 141 : 301 }; /* more than a block's 128 rows */
    static const uint32_t shapes[][2] = {{576, 97}, {1029, 33}, {64, 172}};
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
    struct random random = {9};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        struct layer layer = make_layer(&random, types[s], shapes[s][0], shapes[s][1]);
        float *in = random_floats(&random, (size_t)PROMPT * layer.in, 2.0f);
        for (const char *const *variant = runnable_variants(); *variant; variant++)
            for (uint32_t threads = 1; threads <= 3; threads += 2) {
                struct backend *backend = open_variant(*variant, threads);
                check_prompt(backend, &layer, in, threads == 1 ? PROMPT : PROMPT / 2);
                backend_close(backend);
            }
        free(in);
        free_layer(&layer);
    }
}

static void an_output_comes_out_the_same_alone_and_beside_others(void **state)
{
    struct random random = {2};
    struct layer layer = make_layer(&random, TENSOR_BF16, 700, 210);
    float *in = random_floats(&random, 3 * 700, 1.0f);
    float *whole = random_floats(&random, 3 * 210, 1.0f);
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        struct backend *backend = open_variant(*variant, 3);
        struct linear_output output = {.weight = layer.weight.tensor, .out = whole};
        backend->ops->linear(backend, in, 3, 700, &layer.norm, &output, 1);
        for (uint32_t o = 0; o < 210; o++) {
            float one[3];
            output = (struct linear_output){.weight = tensor_rows(layer.weight.tensor, o, 1),
                                            .out = one};
            backend->ops->linear(backend, in, 3, 700, &layer.norm, &output, 1);
            for (uint32_t row = 0; row < 3; row++)
                assert_memory_equal(&one[row], &whole[row * 210 + o], sizeof(float));
        }
        backend_close(backend);
    }
    free(in);
    free(whole);
    free_layer(&layer);
}

/* linear_gated gives the bits of its parts. */
static void check_gated(struct backend *backend, const struct tensor *gate, const struct tensor *up,
                        const struct rms_norm *norm, const float *in, uint32_t rows)
{
    size_t count = (size_t)rows * gate->rows;
    float *out[4];
    for (int i = 0; i < 4; i++) {
        out[i] = calloc(count, sizeof(float));
        assert_non_null(out[i]);
    }
    const struct backend_ops *ops = backend->ops;
    struct linear_output outputs[] = {{.weight = *gate, .out = out[0]},
                                      {.weight = *up, .out = out[1]}};
    assert_int_equal(ops->linear(backend, in, rows, gate->cols, norm, outputs, 2), 0);
    assert_int_equal(ops->gated_silu(backend, out[0], out[1], rows, gate->rows), 0);
    assert_int_equal(
        ops->linear_gated(backend, in, rows, gate->cols, norm, gate, up, out[2], out[3]), 0);
    assert_memory_equal(out[2], out[0], count * sizeof(float));
    for (int i = 0; i < 4; i++)
        free(out[i]);
}

static void gate_and_up_in_one_pass_give_the_bits_of_two(void **state)
{
    enum { IN = 170, OUT = 331 };
    struct random random = {7};
    float *in = random_floats(&random, (size_t)ROWS * IN, 2.0f);
    struct values norm_weight = values_random(&random, TENSOR_F32, 1, IN, 1.0);
    struct rms_norm norm = {.weight = norm_weight.tensor, .eps = 1e-5f};
    struct values plain[] = {values_random(&random, TENSOR_BF16, OUT, IN, 1.0),
                             values_random(&random, TENSOR_F32, OUT, IN, 1.0)};
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        struct backend *backend = open_variant(*variant, 3);
        struct packed packed[] = {packed_random(backend, &random, TENSOR_Q4, OUT, IN),
                                  packed_random(backend, &random, TENSOR_Q8_MIN, OUT, IN)};
        const struct tensor *tensors[] = {&plain[0].tensor, &plain[1].tensor, &packed[0].tensor,
                                          &packed[1].tensor};
        for (uint32_t pair = 0; pair < 16; pair++)
            for (uint32_t rows = 1; rows <= ROWS; rows += 8)
                check_gated(backend, tensors[pair / 4], tensors[pair % 4], pair % 3 ? &norm : NULL,
                            in, rows);
        packed_free(backend, &packed[0]);
        packed_free(backend, &packed[1]);
        backend_close(backend);
    }
    values_free(&plain[0]);
    values_free(&plain[1]);
    values_free(&norm_weight);
    free(in);
}

/* A queue of operations, of which each needs the last one's results: a decoding step in small. */
static void a_queue_of_operations_gives_what_they_give_one_by_one(void **state)
{
    enum { DIM = 320, LAYERS = 60, STEPS = IS_SANITIZED ? 5 : 20 };
    struct random random = {8};
    struct layer layer = make_layer(&random, TENSOR_BF16, DIM, DIM);
    float *first = random_floats(&random, DIM, 2.0f);
    for (const char *const *variant = runnable_variants(); *variant; variant++) {
        float expected[DIM], residual[DIM], gate[DIM], up[DIM];
        for (uint32_t threads = 1; threads <= 4; threads++) {
            struct backend *backend = open_variant(*variant, threads);
            const struct backend_ops *ops = backend->ops;
            for (int step = 0; step < STEPS; step++) {
                memcpy(residual, first, sizeof residual);
                bool queue = threads > 1 || step > 0;
                assert_int_equal(queue ? ops->begin(backend) : 0, 0);
                for (int i = 0; i < LAYERS; i++) {
                    assert_int_equal(ops->linear_gated(backend, residual, 1, DIM, &layer.norm,
                                                       &layer.weight.tensor, &layer.weight.tensor,
                                                       gate, up),
                                     0);
                    assert_int_equal(ops->linear_add(backend, gate, 1, &layer.weight.tensor,
                                                     &layer.bias.tensor,
                                                     i % 2 ? &layer.post_norm : NULL, residual),
                                     0);
                }
                assert_int_equal(queue ? ops->end(backend) : 0, 0);
                if (!queue)
                    memcpy(expected, residual, sizeof expected);
                assert_memory_equal(residual, expected, sizeof expected);
            }
            backend_close(backend);
        }
    }
    free(first);
    free_layer(&layer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_comes_out_the_same_in_any_batch_order_and_number_of_threads),
        cmocka_unit_test(a_prompt_of_many_blocks_gives_the_bits_of_its_rows),
        cmocka_unit_test(an_output_comes_out_the_same_alone_and_beside_others),
        cmocka_unit_test(gate_and_up_in_one_pass_give_the_bits_of_two),
        cmocka_unit_test(a_queue_of_operations_gives_what_they_give_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
