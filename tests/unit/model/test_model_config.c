#include "tests/support/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_config.h"

static int parse(const char *text, struct model_config *config, struct model_config_hints *hints,
                 struct failure *failure)
{
    *failure = (struct failure){""};
    return model_config_parse(config, hints, text, strlen(text), "config.json", failure);
}

/* The smallest configuration of an architecture, with `fields` in front: a field given there hides
 * the one below, since the latter is left out. */
static void compose(char *text, size_t bytes, const char *architecture, const char *fields)
{
    static const char *const hf[] = {"\"num_hidden_layers\": 2",   "\"hidden_size\": 64",
                                     "\"num_attention_heads\": 4", "\"intermediate_size\": 96",
                                     "\"vocab_size\": 128",        "\"head_dim\": 16",
                                     "\"num_key_value_heads\": 2", NULL};
    static const char *const chatglm[] = {"\"num_layers\": 2",
                                          "\"hidden_size\": 64",
                                          "\"num_attention_heads\": 4",
                                          "\"ffn_hidden_size\": 96",
                                          "\"padded_vocab_size\": 128",
                                          "\"kv_channels\": 16",
                                          NULL};
    const char *const *lines = strncmp(architecture, "ChatGLM", 7) == 0 ? chatglm : hf;
    size_t used = (size_t)snprintf(text, bytes, "{\"architectures\": [\"%s\"]", architecture);
    for (; *lines; lines++) {
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)(strchr(*lines, ':') - *lines), *lines);
        if (!strstr(fields, key))
            used += (size_t)snprintf(text + used, bytes - used, ", %s", *lines);
    }
    snprintf(text + used, bytes - used, "%s%s}", *fields ? ", " : "", fields);
}

static struct model_config takes(const char *architecture, const char *fields)
{
    char text[2048];
    struct model_config config = {0};
    struct model_config_hints hints;
    struct failure failure;
    compose(text, sizeof text, architecture, fields);
    if (parse(text, &config, &hints, &failure) < 0)
        fail_msg("%s: %s", text, failure.text);
    return config;
}

static void refuses(const char *architecture, const char *fields, int wanted, const char *words)
{
    char text[2048];
    struct model_config config, before;
    struct model_config_hints hints;
    struct failure failure;
    memset(&config, 0x5A, sizeof config);
    before = config;
    compose(text, sizeof text, architecture, fields);
    int err = parse(text, &config, &hints, &failure);
    if (err != wanted || !strstr(failure.text, words) || !strstr(failure.text, "config.json"))
        fail_msg("%s: %d \"%s\", wanted %d with \"%s\"", text, err, failure.text, wanted, words);
    assert_memory_equal(&config, &before, sizeof config);
}

static void reads_the_real_configuration_of_glm_4_9b_chat(void **state)
{
    (void)state;
    char path[4096];
    if (!test_shared_data("glm-4-9b-chat", path))
        skip();
    struct model_config config;
    struct failure failure = {""};
    if (model_config_read(&config, path, &failure) < 0)
        fail_msg("%s", failure.text);
    assert_int_equal(config.architecture, MODEL_CHATGLM);
    assert_int_equal(config.layers, 40);
    assert_int_equal(config.dim, 4096);
    assert_int_equal(config.heads, 32);
    assert_int_equal(config.kv_heads, 2);
    assert_int_equal(config.head_dim, 128);
    assert_int_equal(config.ffn_dim, 13696);
    assert_int_equal(config.vocab_rows, 151552);
    assert_int_equal(config.vocab_size, 151343);
    assert_true(config.qkv_bias && !config.tied_head);
    assert_int_equal(config.rotary, ROTARY_INTERLEAVED);
    assert_int_equal(config.rotary_dims, 64);
    assert_true(config.rope_base == 5e6);
    assert_true(config.norm_eps == 1.5625e-7f);
    assert_int_equal(config.eos_count, 3);
    assert_int_equal(config.eos_ids[0], 151329);
    assert_int_equal(config.eos_ids[2], 151338);
}

static void silence_means_the_architectures_own_default(void **state)
{
    (void)state;
    struct model_config glm = takes("GlmForCausalLM", "\"head_dim\": null");
    assert_int_equal(glm.head_dim, 128);
    assert_int_equal(glm.rotary_dims, 64);
    assert_int_equal(glm.rotary, ROTARY_INTERLEAVED);
    assert_true(glm.norm_eps == 1.5625e-7f);
    assert_int_equal(glm.context_tokens, 131072);
    assert_false(glm.sandwich_norms);
    assert_true(takes("Glm4ForCausalLM", "").sandwich_norms);
    struct model_config llama =
        takes("LlamaForCausalLM", "\"head_dim\": null, \"num_key_value_heads\": null");
    assert_int_equal(llama.head_dim, 16);
    assert_int_equal(llama.kv_heads, 4);
    assert_int_equal(llama.rotary_dims, 16);
    assert_int_equal(llama.rotary, ROTARY_HALVES);
    assert_true(llama.norm_eps == 1e-6f && llama.rope_base == 10000);
    assert_int_equal(takes("Qwen2ForCausalLM", "").context_tokens, 32768);
    struct model_config chatglm = takes("ChatGLMModel", "");
    assert_int_equal(chatglm.kv_heads, 4);
    assert_int_equal(chatglm.rotary_dims, 8);
    assert_int_equal(chatglm.rotary, ROTARY_INTERLEAVED);
    assert_true(chatglm.norm_eps == 1e-5f && chatglm.rope_base == 10000 && !chatglm.qkv_bias);
    assert_int_equal(takes("ChatGLMForConditionalGeneration", "").architecture, MODEL_CHATGLM);
}

static void original_names_are_read(void **state)
{
    (void)state;
    struct model_config config =
        takes("ChatGLMModel", "\"multi_query_attention\": true, \"multi_query_group_num\": 2, "
                              "\"rope_ratio\": 500, \"original_rope\": false, \"seq_length\": 77, "
                              "\"add_qkv_bias\": true, \"layernorm_epsilon\": 1.5625e-07, "
                              "\"rmsnorm\": true, \"post_layer_norm\": true, "
                              "\"quantization_bit\": 0, \"pre_seq_len\": null");
    assert_int_equal(config.kv_heads, 2);
    assert_true(config.rope_base == 5e6 && config.qkv_bias);
    assert_int_equal(config.rotary, ROTARY_HALVES);
    assert_int_equal(config.context_tokens, 77);
}

static void dimensions_are_held_in_their_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *field, *words;
    } cases[] = {
        {"\"num_hidden_layers\": 0", "num_hidden_layers: 0 is not"},
        {"\"num_hidden_layers\": 513", "num_hidden_layers: 513 is not an integer in 1 ... 512"},
        {"\"num_hidden_layers\": \"2\"", "num_hidden_layers: must be an integer, is a string"},
        {"\"num_hidden_layers\": 2.5", "num_hidden_layers: 2.5"},
        {"\"num_hidden_layers\": null", "num_hidden_layers: missing"},
        {"\"hidden_size\": -64", "hidden_size: -64"},
        {"\"hidden_size\": 1048577", "hidden_size"},
        {"\"hidden_size\": 1e300", "hidden_size"},
        {"\"num_attention_heads\": 0", "num_attention_heads: 0"},
        {"\"num_key_value_heads\": 0", "num_key_value_heads: 0"},
        {"\"num_key_value_heads\": 3", "num_key_value_heads: 3 does not divide the 4 heads"},
        {"\"num_key_value_heads\": 8", "num_key_value_heads: 8 is not an integer in 1 ... 4"},
        {"\"head_dim\": 0", "head_dim: 0"},
        {"\"head_dim\": 15", "head_dim: 15 is odd"},
        {"\"head_dim\": 1026", "head_dim"},
        {"\"num_attention_heads\": 4096, \"head_dim\": 512", "4096 heads of 512 dimensions"},
        {"\"intermediate_size\": 0", "intermediate_size"},
        {"\"vocab_size\": 0", "vocab_size"},
        {"\"vocab_size\": 4194305", "vocab_size"},
        {"\"max_position_embeddings\": 0", "max_position_embeddings"},
        {"\"max_position_embeddings\": 16777217", "max_position_embeddings"},
        {"\"rms_norm_eps\": 0", "rms_norm_eps"},
        {"\"rms_norm_eps\": 1e999", "rms_norm_eps"},
        {"\"rms_norm_eps\": \"1e-5\"", "rms_norm_eps"},
        {"\"rms_norm_eps\": NaN", "not valid JSON"},
        {"\"attention_bias\": 1", "attention_bias: must be true or false"},
        {"\"tie_word_embeddings\": \"no\"", "tie_word_embeddings"},
        {"\"rope_theta\": 0", "rope_theta"},
        {"\"rope_theta\": 1", "rope_theta"},
        {"\"rope_theta\": 1e13", "rope_theta"},
        {"\"partial_rotary_factor\": 0", "partial_rotary_factor"},
        {"\"partial_rotary_factor\": 1.01", "partial_rotary_factor"},
        {"\"partial_rotary_factor\": 0.2", "0.2 of 16 dimensions are 3"},
        {"\"rope_parameters\": 5", "rope_parameters: must be an object"},
        {"\"rope_scaling\": [1]", "rope_scaling: must be an object"},
        {"\"eos_token_id\": 128", "eos_token_id: 128 is none of the vocabulary's 128 rows"},
        {"\"eos_token_id\": [2, 128]", "eos_token_id: 128"},
        {"\"eos_token_id\": -1", "eos_token_id"},
        {"\"eos_token_id\": \"</s>\"", "eos_token_id"},
        {"\"eos_token_id\": [1,2,3,4,5,6,7,8,9]", "eos_token_id: more than 8 ids"},
        {"\"layer_types\": 7", "layer_types"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuses("GlmForCausalLM", cases[i].field, -EINVAL, cases[i].words);
    refuses("LlamaForCausalLM", "\"num_attention_heads\": 3, \"head_dim\": null", -EINVAL,
            "num_attention_heads: 3 does not divide hidden_size, which is 64");
    refuses("ChatGLMModel", "\"multi_query_attention\": true", -EINVAL,
            "multi_query_group_num: missing");
    refuses("ChatGLMModel", "\"multi_query_attention\": true, \"multi_query_group_num\": 3",
            -EINVAL, "multi_query_group_num: 3 does not divide");
    refuses("ChatGLMModel", "\"kv_channels\": 6", -EINVAL, "kv_channels: 6 is no multiple of 4");
    refuses("ChatGLMModel", "\"rope_ratio\": 0", -EINVAL, "rope_ratio");
    refuses("ChatGLMModel", "\"layernorm_epsilon\": -1", -EINVAL, "layernorm_epsilon");
}

static void what_we_do_not_compute_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *architecture, *field, *words;
    } cases[] = {
        {"GPT2LMHeadModel", "", "architectures: \"GPT2LMHeadModel\" is not supported"},
        {"Glm4MoeForCausalLM", "", "architectures"},
        {"GlmForCausalLM", "\"hidden_act\": \"gelu\"", "hidden_act: \"gelu\" is not supported"},
        {"Qwen2ForCausalLM", "\"use_sliding_window\": true", "use_sliding_window: true"},
        {"Qwen2ForCausalLM", "\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "layer_types: \"sliding_attention\""},
        {"LlamaForCausalLM", "\"quantization_config\": {\"quant_method\": \"gptq\"}",
         "quantization_config: quant_method \"gptq\" is not supported"},
        {"LlamaForCausalLM", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}",
         "rope_scaling.type: \"dynamic\" is not supported"},
        {"LlamaForCausalLM", "\"rope_parameters\": {\"rope_type\": \"longrope\"}",
         "rope_parameters.rope_type: \"longrope\" is not supported"},
        {"ChatGLMModel", "\"rmsnorm\": false", "rmsnorm: false is not supported"},
        {"ChatGLMModel", "\"post_layer_norm\": false", "post_layer_norm"},
        {"ChatGLMModel", "\"add_bias_linear\": true", "add_bias_linear: true"},
        {"ChatGLMModel", "\"apply_residual_connection_post_layernorm\": true",
         "apply_residual_connection_post_layernorm"},
        {"ChatGLMModel", "\"quantization_bit\": 4", "quantization_bit: 4 is not supported"},
        {"ChatGLMModel", "\"pre_seq_len\": 128", "pre_seq_len: 128 is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuses(cases[i].architecture, cases[i].field, -ENOTSUP, cases[i].words);
    takes("Qwen2ForCausalLM", "\"use_sliding_window\": false, \"sliding_window\": 4096");
    takes("Qwen2ForCausalLM", "\"layer_types\": [\"full_attention\"]");
    takes("GlmForCausalLM", "\"hidden_act\": \"silu\", \"torch_dtype\": \"float8\"");
}

static void files_that_are_no_configuration_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "must be an object"},
        {"{}", "architectures: missing"},
        {"{\"architectures\": []}", "architectures: must be an array of strings"},
        {"{\"architectures\": \"GlmForCausalLM\"}", "architectures"},
        {"{\"architectures\": [7]}", "architectures"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config config;
        struct model_config_hints hints;
        struct failure failure;
        int err = parse(cases[i].text, &config, &hints, &failure);
        if (err != -EINVAL || !strstr(failure.text, cases[i].words))
            fail_msg("%s: %d %s", cases[i].text, err, failure.text);
    }
}

static void rotary_values_are_read_where_they_stand_today_or_stood_before(void **state)
{
    (void)state;
    struct model_config config =
        takes("GlmForCausalLM", "\"rope_theta\": 5000, \"partial_rotary_factor\": 1.0");
    assert_true(config.rope_base == 5000);
    assert_int_equal(config.rotary_dims, 16);
    config =
        takes("GlmForCausalLM", "\"rope_parameters\": {\"rope_theta\": 7000, "
                                "\"partial_rotary_factor\": 0.25, \"rope_type\": \"default\"}");
    assert_true(config.rope_base == 7000);
    assert_int_equal(config.rotary_dims, 4);
    config = takes("LlamaForCausalLM",
                   "\"rope_theta\": 9000, \"rope_parameters\": {\"rope_type\": \"linear\", "
                   "\"factor\": 4}");
    assert_true(config.rope_base == 9000 && config.rope_factor == 4);
    assert_int_equal(config.rope_scaling, ROPE_SCALING_LINEAR);
}

static void stop_ids_are_merged(void **state)
{
    (void)state;
    struct model_config config = takes("GlmForCausalLM", "\"eos_token_id\": 7");
    struct failure failure;
    static const char more[] = "{\"eos_token_id\": [7, 9], \"temperature\": 0.8}";
    assert_int_equal(
        model_config_add_generation(&config, more, strlen(more), "generation.json", &failure), 0);
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos_ids[0], 7);
    assert_int_equal(config.eos_ids[1], 9);
    static const char wrong[] = "{\"eos_token_id\": [3, 1000]}";
    assert_int_equal(
        model_config_add_generation(&config, wrong, strlen(wrong), "generation.json", &failure),
        -EINVAL);
    assert_non_null(strstr(failure.text, "generation.json: eos_token_id: 1000"));
    refuses("GlmForCausalLM", "\"eos_token_id\": [-1]", -EINVAL, "eos_token_id: -1 is none of");
    refuses("GlmForCausalLM", "\"eos_token_id\": [\"x\"]", -EINVAL, "ids, has a string");
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(takes("GlmForCausalLM", "\"eos_token_id\": null").eos_count, 0);
    assert_int_equal(takes("GlmForCausalLM", "").eos_count, 0);
}

static void chatglm3_stops_at_the_next_role_too(void **state)
{
    (void)state;
    struct model_config config =
        takes("ChatGLMModel", "\"padded_vocab_size\": 65024, \"eos_token_id\": 2");
    assert_int_equal(config.eos_count, 3);
    assert_int_equal(config.eos_ids[0], 2);
    assert_int_equal(config.eos_ids[1], 64795);
    assert_int_equal(config.eos_ids[2], 64797);
    assert_int_equal(config.vocab_size, 64798);
    assert_int_equal(config.vocab_rows, 65024);
    config = takes("ChatGLMModel", "\"padded_vocab_size\": 151552, \"eos_token_id\": [2]");
    assert_int_equal(config.eos_count, 1);
    assert_int_equal(config.vocab_size, 151552);
}

static void ids_to_stop_at_are_never_padding(void **state)
{
    (void)state;
    char folder[4096], text[2048];
    test_folder(folder);
    compose(text, sizeof text, "GlmForCausalLM", "\"eos_token_id\": [60, 110, 5]");
    test_write_file(folder, "config.json", text, strlen(text));
    static const char ranks[] = "YQ== 0\nYg== 99\n"; /* ids 100 on are special: not here */
    test_write_file(folder, "tokenizer.model", ranks, strlen(ranks));
    struct model_config config;
    struct failure failure = {""};
    assert_int_equal(model_config_read(&config, folder, &failure), 0);
    assert_int_equal(config.vocab_size, 111);
    test_remove_folder(folder);
}

static void a_folder_is_read_with_its_generation_config_and_tokenizer(void **state)
{
    (void)state;
    char folder[4096], text[2048];
    test_folder(folder);
    compose(text, sizeof text, "GlmForCausalLM", "\"eos_token_id\": 1");
    test_write_file(folder, "config.json", text, strlen(text));
    struct model_config config;
    struct failure failure = {""};
    assert_int_equal(model_config_read(&config, folder, &failure), 0);
    assert_int_equal(config.vocab_size, 128);
    test_write_file(folder, "generation_config.json", "{\"eos_token_id\": 3}", 19);
    static const char tokenizer[] = "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 99}}}";
    test_write_file(folder, "tokenizer.json", tokenizer, strlen(tokenizer));
    assert_int_equal(model_config_read(&config, folder, &failure), 0);
    assert_int_equal(config.vocab_size, 100);
    assert_int_equal(config.vocab_rows, 128);
    assert_int_equal(config.eos_count, 2);
    static const char large[] = "{\"model\": {\"vocab\": {\"a\": 500}}}";
    test_write_file(folder, "tokenizer.json", large, strlen(large));
    assert_int_equal(model_config_read(&config, folder, &failure), 0);
    assert_int_equal(config.vocab_size, 128);
    test_write_file(folder, "generation_config.json", "{", 1);
    assert_int_equal(model_config_read(&config, folder, &failure), -EINVAL);
    assert_non_null(strstr(failure.text, "generation_config.json"));
    test_remove_folder(folder);
}

static void every_architecture_has_a_name(void **state)
{
    (void)state;
    assert_string_equal(model_architecture_name(MODEL_CHATGLM), "ChatGLMModel");
    assert_string_equal(model_architecture_name(MODEL_QWEN2), "Qwen2ForCausalLM");
    assert_string_equal(model_architecture_name(MODEL_ECHO), "echo");
    assert_string_equal(model_architecture_name((enum model_architecture)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_real_configuration_of_glm_4_9b_chat),
        cmocka_unit_test(silence_means_the_architectures_own_default),
        cmocka_unit_test(original_names_are_read),
        cmocka_unit_test(dimensions_are_held_in_their_ranges),
        cmocka_unit_test(what_we_do_not_compute_is_refused_by_name),
        cmocka_unit_test(files_that_are_no_configuration_are_refused),
        cmocka_unit_test(rotary_values_are_read_where_they_stand_today_or_stood_before),
        cmocka_unit_test(stop_ids_are_merged),
        cmocka_unit_test(chatglm3_stops_at_the_next_role_too),
        cmocka_unit_test(ids_to_stop_at_are_never_padding),
        cmocka_unit_test(a_folder_is_read_with_its_generation_config_and_tokenizer),
        cmocka_unit_test(every_architecture_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
