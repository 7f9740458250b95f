#include "tests/support/test.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model_rope.h"

/* Reads the rotary part of `text` into *config, whose head has 64 dimensions. */
static int parse(const char *text, struct model_config *config, struct failure *failure)
{
    cJSON *tree = NULL;
    struct json_object root;
    *config = (struct model_config){
        .head_dim = 64, .context_tokens = 4096, .rope_factor = 1, .rope_attention_factor = 1};
    *failure = (struct failure){""};
    assert_int_equal(json_parse(&tree, text, strlen(text), "c.json", 0, failure), 0);
    assert_int_equal(json_root(&root, tree, "c.json", failure), 0);
    int err = model_rope_parse(config, &root, 1, failure);
    cJSON_Delete(tree);
    return err;
}

static void refuses(const char *text, const char *words)
{
    struct model_config config;
    struct failure failure;
    int err = parse(text, &config, &failure);
    if (err != -EINVAL || !strstr(failure.text, words) || !strstr(failure.text, "c.json"))
        fail_msg("%s: %d \"%s\", wanted \"%s\"", text, err, failure.text, words);
}

static void is_near(float got, double wanted)
{
    if (fabs(got - wanted) > 1e-7 * wanted)
        fail_msg("%.9g, wanted %.9g", got, wanted);
}

static void frequencies_fall_from_one_by_the_base(void **state)
{
    (void)state;
    struct model_config config;
    struct failure failure;
    float frequencies[32];
    assert_int_equal(parse("{\"rope_theta\": 10000}", &config, &failure), 0);
    model_rope_frequencies(&config, frequencies);
    for (int i = 0; i < 32; i++)
        is_near(frequencies[i], pow(10000, -i / 32.0));
    config.rotary_dims = 4;
    model_rope_frequencies(&config, frequencies);
    is_near(frequencies[0], 1);
    is_near(frequencies[1], 0.01);
}

static void linear_scaling_divides_them(void **state)
{
    (void)state;
    struct model_config config;
    struct failure failure;
    float frequencies[32];
    assert_int_equal(
        parse("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}}", &config, &failure), 0);
    model_rope_frequencies(&config, frequencies);
    is_near(frequencies[0], 0.25);
    is_near(frequencies[31], pow(10000, -31 / 32.0) / 4);
    assert_true(config.rope_attention_factor == 1);
}

/* Llama 3.1's own values; the wanted numbers come from the published formula in Python. */
static void llama3_scaling_blends_between_long_and_short_waves(void **state)
{
    (void)state;
    struct model_config config;
    struct failure failure;
    float frequencies[64];
    assert_int_equal(parse("{\"rope_theta\": 500000, \"rope_scaling\": {\"rope_type\": \"llama3\", "
                           "\"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
                           "\"original_max_position_embeddings\": 8192}}",
                           &config, &failure),
                     0);
    config.rotary_dims = 128;
    model_rope_frequencies(&config, frequencies);
    is_near(frequencies[0], 1);
    is_near(frequencies[10], 0.12868737343265052);
    is_near(frequencies[28], 0.003211445994752591);
    is_near(frequencies[29], 0.002166570763503359);
    is_near(frequencies[32], 0.0005248461609929547);
    is_near(frequencies[34], 0.0001785078127679964);
    is_near(frequencies[35], 9.556212353964683e-05);
    is_near(frequencies[63], 3.068925988914511e-07);
}

/* GLM-4-0414's setting for long contexts; the wanted numbers come from the paper's formula. */
static void yarn_scaling_ramps_and_raises_the_attention(void **state)
{
    (void)state;
    struct model_config config;
    struct failure failure;
    float frequencies[32];
    assert_int_equal(parse("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, "
                           "\"original_max_position_embeddings\": 32768}}",
                           &config, &failure),
                     0);
    model_rope_frequencies(&config, frequencies);
    is_near(frequencies[0], 1);
    is_near(frequencies[12], 0.03162277660168379);
    is_near(frequencies[20], 0.0026149603728315442);
    is_near(frequencies[25], 0.00040378918964055304);
    is_near(frequencies[31], 3.33380358040831e-05);
    assert_true(fabs(config.rope_attention_factor - 1.138629436111989) < 1e-15);
    assert_int_equal(config.context_tokens, 4 * 32768);
}

static void yarn_takes_its_attention_factor_from_where_it_is_said(void **state)
{
    (void)state;
    struct model_config config;
    struct failure failure;
    assert_int_equal(parse("{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 8, "
                           "\"attention_factor\": 1.5, \"beta_fast\": 16, \"beta_slow\": 2}}",
                           &config, &failure),
                     0);
    assert_true(config.rope_attention_factor == 1.5);
    assert_true(config.rope_beta_fast == 16 && config.rope_beta_slow == 2);
    assert_int_equal(config.rope_original_tokens, 4096);
    assert_int_equal(parse("{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 8, "
                           "\"mscale\": 1, \"mscale_all_dim\": 1}}",
                           &config, &failure),
                     0);
    assert_true(config.rope_attention_factor == 1);
}

static void what_does_not_fit_is_refused_by_field(void **state)
{
    (void)state;
    refuses("{\"rope_scaling\": {\"factor\": 4}}", "rope_scaling.rope_type: missing");
    refuses("{\"rope_scaling\": {\"type\": 4}}", "rope_scaling.type: must be a string");
    refuses("{\"rope_scaling\": {\"type\": \"linear\"}}", "rope_scaling.factor: missing");
    refuses("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}", "rope_scaling.factor: 0");
    refuses("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 1e999}}", "rope_scaling.factor");
    refuses("{\"rope_scaling\": {\"type\": \"yarn\"}}", "rope_scaling.factor: missing");
    refuses("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, "
            "\"original_max_position_embeddings\": 0}}",
            "rope_scaling.original_max_position_embeddings: 0");
    refuses("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"beta_fast\": 0}}",
            "rope_scaling.beta_fast");
    refuses("{\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
            "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}}",
            "rope_scaling.high_freq_factor: 4 must be above low_freq_factor");
    refuses("{\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
            "\"high_freq_factor\": 4}}",
            "rope_scaling.original_max_position_embeddings: missing");
    refuses("{\"partial_rotary_factor\": 0.01}", "partial_rotary_factor");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_fall_from_one_by_the_base),
        cmocka_unit_test(linear_scaling_divides_them),
        cmocka_unit_test(llama3_scaling_blends_between_long_and_short_waves),
        cmocka_unit_test(yarn_scaling_ramps_and_raises_the_attention),
        cmocka_unit_test(yarn_takes_its_attention_factor_from_where_it_is_said),
        cmocka_unit_test(what_does_not_fit_is_refused_by_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
