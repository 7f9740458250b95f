/* Shapes by name, and what a step reads and multiplies, against figures made by hand. */
#include <string.h>

#include "model/model_synthetic.h"
#include "tests/support/test.h"
#include "tools/bench_shape.h"

static struct model_config shape(const char *name)
{
    struct model_config config;
    assert_true(shape_find(name, &config));
    return config;
}

static uint64_t weights_bytes(const char *name, enum tensor_type type, enum tensor_type head_type)
{
    struct model_config config = shape(name);
    struct model_synthetic_options options = {.type = type, .head_type = head_type};
    return model_synthetic_bytes(&config, &options);
}

static void shapes_and_types_are_found_by_name(void **state)
{
    struct model_config config;
    enum tensor_type type;
    char names[256];
    assert_false(shape_find("edge", &config));
    assert_string_equal(shape_names(names, sizeof names),
                        "edge-1.5b, edge-4b, glm4-9b, smollm2-135m, story");
    assert_true(shape_type_find("q4_super", &type));
    assert_int_equal(type, TENSOR_Q4_SUPER);
    assert_false(shape_type_find("q5", &type));
}

/* Elements of the matrices by hand, and the norms: the models have as many as their makers say. */
static void shapes_have_the_weights_of_their_models(void **state)
{
    /* 28 (2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 2048 * 6144) + 2 * 59264 * 2048 = 1,593 M */
    uint64_t edge = 28 * (UINT64_C(2) * 2048 * 2048 + 2 * 512 * 2048 + 3 * 2048 * 6144) +
                    UINT64_C(2) * 59264 * 2048;
    assert_int_equal(edge / 1000000, 1593);
    assert_int_equal(weights_bytes("edge-1.5b", TENSOR_BF16, TENSOR_BF16),
                     2 * edge + UINT64_C(4) * 57 * 2048);
    /* Tied: one table. 30 (2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536) + 49152 * 576 */
    uint64_t smol =
        30 * (UINT64_C(2) * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536) + UINT64_C(49152) * 576;
    assert_int_equal(smol / 100000, 1344); /* "135M" */
    assert_int_equal(weights_bytes("smollm2-135m", TENSOR_F32, TENSOR_F32),
                     4 * smol + UINT64_C(4) * 61 * 576);
    /* Rounded up to a cache line each, biases are whole lines here. */
    uint64_t glm4 = 40 * (UINT64_C(2) * 4096 * 4096 + 2 * 256 * 4096 + 3 * UINT64_C(4096) * 13696) +
                    UINT64_C(2) * 151552 * 4096;
    assert_int_equal(glm4 / 10000000, 939); /* "9B" */
    assert_int_equal(weights_bytes("glm4-9b", TENSOR_F16, TENSOR_F16),
                     2 * glm4 + UINT64_C(4) * (81 * 4096 + 40 * (4096 + 2 * 256)));
    assert_int_equal(weights_bytes("edge-4b", TENSOR_F16, TENSOR_F16) / 100000000, 86);
}

/* Q8 and Q4 take 8.5 and 4.5 bits a weight: as GGUF's Q8_0 and Q4_0. */
static void packed_weights_take_the_bytes_of_their_blocks(void **state)
{
    uint64_t matrices = 28 * (UINT64_C(2) * 2048 * 2048 + 2 * 512 * 2048 + 3 * 2048 * 6144) +
                        UINT64_C(2) * 59264 * 2048;
    uint64_t norms = UINT64_C(4) * 57 * 2048;
    assert_int_equal(weights_bytes("edge-1.5b", TENSOR_Q8, TENSOR_Q8), matrices / 32 * 34 + norms);
    assert_int_equal(weights_bytes("edge-1.5b", TENSOR_Q4, TENSOR_Q4), matrices / 32 * 18 + norms);
}

static struct step_cost cost_of_story(enum tensor_type cache_type, struct step step)
{
    struct model_config config = shape("story");
    struct model_synthetic_options options = {
        .name = "story", .type = TENSOR_Q8, .head_type = TENSOR_Q8};
    struct backend *backend;
    struct model *model;
    const char *why;
    assert_int_equal(
        backend_open(&backend, &(struct backend_options){.device = "cpu", .threads = 1}, &why), 0);
    assert_int_equal(model_synthetic_open(&model, &config, &options, backend), 0);
    struct step_cost cost = step_cost(model, cache_type, &step);
    model_close(model, backend);
    backend_close(backend);
    return cost;
}

enum {
    /* Of the story shape: q, k and v, o, gate and up and down, of 256 columns or rows. */
    STORY_MATRICES = 5 * (256 * 256 + 2 * 128 * 256 + 256 * 256 + 3 * 512 * 256),
    STORY_HEAD = 1920 * 256,
    STORY_VECTORS = 4 * (5 * (2 * 256 + 256 + 2 * 128) + 256),
};

static void a_step_reads_its_weights_once_whatever_the_batch(void **state)
{
    struct step_cost one = cost_of_story(TENSOR_F16, (struct step){1, 1, 0});
    struct step_cost many = cost_of_story(TENSOR_F16, (struct step){16, 1, 0});
    assert_int_equal(one.weight_bytes, (STORY_MATRICES + STORY_HEAD) / 32 * 34 + STORY_VECTORS);
    assert_int_equal(many.weight_bytes, one.weight_bytes);
}

static void a_step_reads_the_cache_of_all_its_sequences(void **state)
{
    /* A position: 5 layers, keys and values, 2 heads of 64. */
    const uint64_t f16 = UINT64_C(5) * 2 * 2 * 64 * 2;
    assert_int_equal(cost_of_story(TENSOR_F16, (struct step){1, 1, 0}).cache_bytes, f16);
    assert_int_equal(cost_of_story(TENSOR_F16, (struct step){4, 1, 99}).cache_bytes, 400 * f16);
    assert_int_equal(cost_of_story(TENSOR_F32, (struct step){4, 1, 99}).cache_bytes, 800 * f16);
    assert_int_equal(cost_of_story(TENSOR_F16, (struct step){1, 128, 0}).cache_bytes, 128 * f16);
}

static void a_step_multiplies_each_row_and_meets_the_positions_before_it(void **state)
{
    /* A row meets a position with 4 heads of 64, keys and values, in 5 layers. */
    const double meeting = 5.0 * 2 * 4 * 64;
    assert_true(cost_of_story(TENSOR_F16, (struct step){1, 1, 0}).macs ==
                STORY_MATRICES + STORY_HEAD + meeting);
    assert_true(cost_of_story(TENSOR_F16, (struct step){3, 1, 9}).macs ==
                3 * (STORY_MATRICES + STORY_HEAD + 10 * meeting));
    /* A prompt: one row of logits; 1 + 2 + 3 + 4 positions, and 10 before each. */
    assert_true(cost_of_story(TENSOR_F16, (struct step){1, 4, 10}).macs ==
                4.0 * STORY_MATRICES + STORY_HEAD + 50 * meeting);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_and_types_are_found_by_name),
        cmocka_unit_test(shapes_have_the_weights_of_their_models),
        cmocka_unit_test(packed_weights_take_the_bytes_of_their_blocks),
        cmocka_unit_test(a_step_reads_its_weights_once_whatever_the_batch),
        cmocka_unit_test(a_step_reads_the_cache_of_all_its_sequences),
        cmocka_unit_test(a_step_multiplies_each_row_and_meets_the_positions_before_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
