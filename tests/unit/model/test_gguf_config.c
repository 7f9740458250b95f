/* The metadata of GGUF files into a model's configuration: every value checked, what is wrong
 * refused with file, key and value. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_config.h"
#include "tests/support/gguf_files.h"
#include "tests/support/model_files.h"
#include "tests/support/test.h"

/* Parses and frees the file, which must be a right one, and reads its configuration. */
static int read_config(struct test_gguf *file, struct model_config *ret_config,
                       struct failure *failure)
{
    struct gguf table;
    size_t size;
    unsigned char *bytes = test_gguf_bytes(file, &size);
    if (gguf_parse(&table, bytes, size, size, "x.gguf", failure->text) < 0)
        fail_msg("%s", failure->text);
    memset(failure, 0, sizeof *failure);
    int err = gguf_config_read(ret_config, &table, failure);
    gguf_fini(&table);
    free(bytes);
    test_gguf_fini(file);
    return err;
}

static struct model_config read_good(struct test_gguf *file)
{
    struct model_config config;
    struct failure failure;
    if (read_config(file, &config, &failure) < 0)
        fail_msg("%s", failure.text);
    return config;
}

static void refused(struct test_gguf *file, int wanted_err, const char *key, const char *value)
{
    struct model_config config = {.layers = 77};
    struct failure failure;
    char wanted[128];
    int err = read_config(file, &config, &failure);
    snprintf(wanted, sizeof wanted, "x.gguf: %s: ", key);
    if (err != wanted_err || strncmp(failure.text, wanted, strlen(wanted)) != 0 ||
        !strstr(failure.text, value))
        fail_msg("%d, \"%s\", wanted %d with %s and %s", err, failure.text, wanted_err, key, value);
    assert_int_equal(config.layers, 77);
}

/* The values of a model but for one key. */
static void make_without(struct test_gguf *file, const char *architecture, const char *key)
{
    struct test_gguf whole;
    test_gguf_init(&whole);
    test_gguf_model_values(&whole, architecture);
    test_gguf_init(file);
    size_t size;
    struct gguf table;
    unsigned char *bytes = test_gguf_bytes(&whole, &size);
    assert_int_equal(gguf_parse(&table, bytes, size, size, "x.gguf", NULL), 0);
    for (size_t i = 0; i < table.value_count; i++) {
        const struct gguf_value *value = &table.values[i];
        if (!key || strlen(key) != value->key_bytes || memcmp(key, value->key, value->key_bytes))
            test_gguf_raw(file, value->key, value->key_bytes, value->type, value->bytes,
                          value->size);
    }
    gguf_fini(&table);
    free(bytes);
    test_gguf_fini(&whole);
}

static void make(struct test_gguf *file, const char *architecture)
{
    make_without(file, architecture, NULL);
}

static void each_architecture_has_its_own_pairs_and_norms(void **state)
{
    static const struct {
        const char *name;
        enum model_architecture architecture;
        enum rotary_kind rotary;
        bool sandwich;
    } cases[] = {
        {"chatglm", MODEL_GLM, ROTARY_INTERLEAVED, false},
        {"glm4", MODEL_GLM4, ROTARY_INTERLEAVED, true},
        {"llama", MODEL_LLAMA, ROTARY_INTERLEAVED, false},
        {"qwen2", MODEL_QWEN2, ROTARY_HALVES, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_gguf file;
        make(&file, cases[i].name);
        struct model_config config = read_good(&file);
        assert_int_equal(config.architecture, cases[i].architecture);
        assert_string_equal(config.architecture_name, cases[i].name);
        assert_int_equal(config.rotary, cases[i].rotary);
        assert_int_equal(config.sandwich_norms, cases[i].sandwich);
        assert_true(config.gguf);
        assert_int_equal(config.layers, 1);
        assert_int_equal(config.dim, TEST_MODEL_DIM);
        assert_int_equal(config.heads, TEST_MODEL_HEADS);
        assert_int_equal(config.kv_heads, TEST_MODEL_KV_HEADS);
        assert_int_equal(config.head_dim, TEST_MODEL_HEAD_DIM);
        assert_int_equal(config.ffn_dim, TEST_MODEL_FFN);
        assert_int_equal(config.vocab_rows, TEST_MODEL_VOCAB);
        assert_int_equal(config.vocab_size, TEST_MODEL_VOCAB);
        assert_int_equal(config.context_tokens, 256);
        assert_true(config.norm_eps == 1e-5F);
        assert_int_equal(config.rotary_dims, TEST_MODEL_HEAD_DIM);
        assert_true(config.rope_base == 10000 && config.rope_factor == 1);
        assert_int_equal(config.rope_scaling, ROPE_SCALING_NONE);
        assert_int_equal(config.eos_count, 1);
        assert_int_equal(config.eos_ids[0], 2);
    }
}

static void optional_values_are_taken(void **state)
{
    struct test_gguf file;
    make_without(&file, "llama", "llama.attention.head_count_kv");
    test_gguf_u32(&file, "llama.attention.key_length", 24);
    test_gguf_u32(&file, "llama.attention.value_length", 24);
    test_gguf_u32(&file, "llama.rope.dimension_count", 8);
    test_gguf_f32(&file, "llama.rope.freq_base", 500000);
    test_gguf_u32(&file, "tokenizer.ggml.eot_token_id", 9);
    test_gguf_u32(&file, "tokenizer.ggml.eom_token_id", 2);
    test_gguf_u32(&file, "llama.expert_count", 0);
    test_gguf_u32(&file, "llama.attention.sliding_window", 256);
    struct model_config config = read_good(&file);
    assert_int_equal(config.kv_heads, TEST_MODEL_HEADS);
    assert_int_equal(config.head_dim, 24);
    assert_int_equal(config.rotary_dims, 8);
    assert_true(config.rope_base == 500000);
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos_ids[1], 9);
}

static void another_architecture_is_refused_by_name(void **state)
{
    struct test_gguf file;
    make_without(&file, "llama", "general.architecture");
    refused(&file, -EINVAL, "general.architecture", "missing");
    make_without(&file, "llama", "general.architecture");
    test_gguf_string(&file, "general.architecture", "mamba");
    refused(&file, -ENOTSUP, "general.architecture", "\"mamba\" is not supported");
    make_without(&file, "llama", "general.architecture");
    test_gguf_u32(&file, "general.architecture", 1);
    refused(&file, -EINVAL, "general.architecture", "must be a string, is a u32");
}

static void required_numbers_that_are_missing_wrong_or_out_of_range_are_refused(void **state)
{
    static const struct {
        const char *key;
        uint32_t bad[3];
    } cases[] = {
        {"llama.block_count", {0, 513, UINT32_MAX}},
        {"llama.embedding_length", {0, (1 << 20) + 1, UINT32_MAX}},
        {"llama.attention.head_count", {0, 4097, UINT32_MAX}},
        {"llama.attention.head_count_kv", {0, 5, UINT32_MAX}},
        {"llama.feed_forward_length", {0, (1 << 22) + 1, UINT32_MAX}},
        {"llama.context_length", {0, MODEL_CONTEXT_MAX + 1, UINT32_MAX}},
        {"llama.vocab_size", {0, (1 << 22) + 1, UINT32_MAX}},
        {"tokenizer.ggml.eos_token_id", {TEST_MODEL_VOCAB, UINT32_MAX, UINT32_MAX}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_gguf file;
        const char *key = cases[i].key;
        for (int j = 0; j < 3; j++) {
            char value[32];
            snprintf(value, sizeof value, ": %u is not in", cases[i].bad[j]);
            make_without(&file, "llama", key);
            test_gguf_u32(&file, key, cases[i].bad[j]);
            refused(&file, -EINVAL, key, value);
        }
        make_without(&file, "llama", key);
        test_gguf_i32(&file, key, -1);
        refused(&file, -EINVAL, key, ": -1 is not in");
        make_without(&file, "llama", key);
        test_gguf_i32s(&file, key, (const int32_t[]){1, 2}, 2);
        refused(&file, -EINVAL, key, "must be an integer, is an array of i32");
        if (strstr(key, "kv") || strstr(key, "tokenizer"))
            continue;
        make_without(&file, "llama", key);
        refused(&file, -EINVAL, key, "missing");
    }
}

static void heads_must_fit_each_other(void **state)
{
    struct test_gguf file;
    make_without(&file, "llama", "llama.attention.head_count_kv");
    test_gguf_u32(&file, "llama.attention.head_count_kv", 3);
    refused(&file, -EINVAL, "llama.attention.head_count_kv", "3 does not divide the 4 heads");
    make_without(&file, "llama", "llama.attention.head_count");
    test_gguf_u32(&file, "llama.attention.head_count", 7);
    refused(&file, -EINVAL, "llama.attention.head_count", "7 heads do not part the width of 64");
    make(&file, "llama");
    test_gguf_u32(&file, "llama.attention.key_length", 15);
    refused(&file, -EINVAL, "llama.attention.key_length", "15 is odd");
    make(&file, "llama");
    test_gguf_u32(&file, "llama.attention.key_length", 1025);
    refused(&file, -EINVAL, "llama.attention.key_length", "1025 is not in 2 ... 1024");
    make(&file, "llama");
    test_gguf_u32(&file, "llama.attention.value_length", 8);
    refused(&file, -ENOTSUP, "llama.attention.value_length", "8, but the keys have 16");
    make_without(&file, "llama", "llama.attention.head_count");
    test_gguf_u32(&file, "llama.attention.head_count", 4096);
    test_gguf_u32(&file, "llama.attention.key_length", 1024);
    refused(&file, -EINVAL, "llama.attention.key_length", "4096 heads of 1024 dimensions");
}

static void an_epsilon_out_of_range_is_refused(void **state)
{
    static const char key[] = "llama.attention.layer_norm_rms_epsilon";
    static const float bad[] = {0, -1, 1, INFINITY, NAN};
    struct test_gguf file;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        make_without(&file, "llama", key);
        test_gguf_f32(&file, key, bad[i]);
        refused(&file, -EINVAL, key, "is not in 1e-12 ... 0.1");
    }
    make_without(&file, "llama", key);
    refused(&file, -EINVAL, key, "missing");
    make_without(&file, "llama", key);
    test_gguf_u32(&file, key, 1);
    refused(&file, -EINVAL, key, "must be a float, is a u32");
}

static void what_would_be_another_model_is_refused(void **state)
{
    struct test_gguf file;
    make(&file, "llama");
    test_gguf_u32(&file, "llama.expert_count", 8);
    refused(&file, -ENOTSUP, "llama.expert_count", "8 is not supported");
    make(&file, "llama");
    test_gguf_u32(&file, "llama.attention.sliding_window", 255);
    refused(&file, -ENOTSUP, "llama.attention.sliding_window", "255 is not supported");
    make(&file, "llama");
    test_gguf_bool(&file, "llama.attention.causal", 0);
    refused(&file, -ENOTSUP, "llama.attention.causal", "false is not supported");
    make(&file, "glm4");
    test_gguf_i32s(&file, "glm4.rope.dimension_sections", (const int32_t[]){8, 12, 12, 0}, 4);
    refused(&file, -ENOTSUP, "glm4.rope.dimension_sections", "not supported");
}

static void rotary_values_are_checked(void **state)
{
    struct test_gguf file;
    static const uint32_t dims[] = {0, 1, 17, 18, UINT32_MAX};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        make(&file, "llama");
        test_gguf_u32(&file, "llama.rope.dimension_count", dims[i]);
        refused(&file, -EINVAL, "llama.rope.dimension_count", "is not in 2 ... 16");
    }
    make(&file, "llama");
    test_gguf_u32(&file, "llama.rope.dimension_count", 7);
    refused(&file, -EINVAL, "llama.rope.dimension_count", "7 is odd");
    static const float bases[] = {0, 1, -10000, INFINITY, NAN};
    for (size_t i = 0; i < sizeof bases / sizeof bases[0]; i++) {
        make(&file, "llama");
        test_gguf_f32(&file, "llama.rope.freq_base", bases[i]);
        refused(&file, -EINVAL, "llama.rope.freq_base", "is not in 1.0001");
    }
    make(&file, "llama");
    test_gguf_f32(&file, "llama.rope.scaling.factor", 0.5F);
    refused(&file, -EINVAL, "llama.rope.scaling.factor", "0.5 is not 0 or in 1");
    make(&file, "llama");
    test_gguf_f32(&file, "llama.rope.scaling.factor", NAN);
    refused(&file, -EINVAL, "llama.rope.scaling.factor", "nan is not in");
    make(&file, "llama");
    test_gguf_string(&file, "llama.rope.scaling.type", "longrope");
    refused(&file, -ENOTSUP, "llama.rope.scaling.type", "\"longrope\" is not supported");
}

static void a_scaling_factor_is_linear_if_nothing_else_is_said(void **state)
{
    static const char *const keys[] = {"llama.rope.scaling.factor", "llama.rope.scale_linear"};
    struct test_gguf file;
    for (int i = 0; i < 2; i++) {
        make(&file, "llama");
        test_gguf_f32(&file, keys[i], 4);
        struct model_config config = read_good(&file);
        assert_int_equal(config.rope_scaling, ROPE_SCALING_LINEAR);
        assert_true(config.rope_factor == 4);
    }
    make(&file, "llama");
    test_gguf_f32(&file, "llama.rope.scaling.factor", 4);
    test_gguf_string(&file, "llama.rope.scaling.type", "none");
    assert_int_equal(read_good(&file).rope_scaling, ROPE_SCALING_NONE);
}

static void yarn_stretches_the_context(void **state)
{
    struct test_gguf file;
    make(&file, "glm4");
    test_gguf_string(&file, "glm4.rope.scaling.type", "yarn");
    test_gguf_f32(&file, "glm4.rope.scaling.factor", 4);
    test_gguf_u32(&file, "glm4.rope.scaling.original_context_length", 128);
    struct model_config config = read_good(&file);
    assert_int_equal(config.rope_scaling, ROPE_SCALING_YARN);
    assert_int_equal(config.rope_original_tokens, 128);
    assert_int_equal(config.context_tokens, 512);
    assert_true(config.rope_beta_fast == 32 && config.rope_beta_slow == 1);
    assert_true(fabs(config.rope_attention_factor - (0.1 * log(4) + 1)) < 1e-12);
    make(&file, "glm4");
    test_gguf_string(&file, "glm4.rope.scaling.type", "yarn");
    test_gguf_f32(&file, "glm4.rope.scaling.factor", 4);
    test_gguf_f32(&file, "glm4.rope.scaling.yarn_ext_factor", 0.5F);
    refused(&file, -ENOTSUP, "glm4.rope.scaling.yarn_ext_factor", "0.5");
}

static void put_tokens(struct test_gguf *file, uint32_t count, const char *const *first,
                       uint32_t first_count)
{
    static char names[4096][8];
    static const char *texts[4096];
    for (uint32_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "t%u", i);
        texts[i] = i < first_count ? first[i] : names[i];
    }
    test_gguf_strings(file, "tokenizer.ggml.tokens", texts, count);
}

static void unused_tokens_at_the_end_are_padding(void **state)
{
    struct test_gguf file;
    static int32_t types[TEST_MODEL_VOCAB];
    for (int i = 0; i < TEST_MODEL_VOCAB; i++)
        types[i] = i == 5 || i >= 100 ? 5 : 1;
    make_without(&file, "llama", "llama.vocab_size");
    put_tokens(&file, TEST_MODEL_VOCAB, NULL, 0);
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", types, TEST_MODEL_VOCAB);
    struct model_config config = read_good(&file);
    assert_int_equal(config.vocab_rows, TEST_MODEL_VOCAB);
    assert_int_equal(config.vocab_size, 100);
    /* Ids to stop at are no padding. */
    make(&file, "llama");
    put_tokens(&file, TEST_MODEL_VOCAB, NULL, 0);
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", types, TEST_MODEL_VOCAB);
    test_gguf_u32(&file, "tokenizer.ggml.eot_token_id", 110);
    assert_int_equal(read_good(&file).vocab_size, 111);
    /* Fewer tokens than rows. */
    make(&file, "llama");
    put_tokens(&file, 90, NULL, 0);
    assert_int_equal(read_good(&file).vocab_size, 90);
}

static void types_without_tokens_are_not_looked_at(void **state)
{
    struct test_gguf file;
    static int32_t unused[2 * TEST_MODEL_VOCAB];
    for (int i = 0; i < 2 * TEST_MODEL_VOCAB; i++)
        unused[i] = 5;
    make(&file, "llama");
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", NULL, 0);
    /* What stands behind it in memory would make padding of every row. */
    test_gguf_i32s(&file, "zzzz", unused, 2 * TEST_MODEL_VOCAB);
    assert_int_equal(read_good(&file).vocab_size, TEST_MODEL_VOCAB);
}

static void glm_and_chatml_stop_at_all_their_ends(void **state)
{
    static const char *const ends[] = {"x", "<|endoftext|>", "<|user|>", "y", "<|observation|>"};
    struct test_gguf file;
    make(&file, "chatglm");
    put_tokens(&file, 100, ends, 5);
    struct model_config config = read_good(&file);
    assert_int_equal(config.eos_count, 3);
    assert_int_equal(config.eos_ids[0], 2);
    assert_int_equal(config.eos_ids[1], 1);
    assert_int_equal(config.eos_ids[2], 4);
    make(&file, "llama");
    put_tokens(&file, 100, ends, 5);
    assert_int_equal(read_good(&file).eos_count, 1);
    /* ChatML's end, as a token of its own alone. */
    static const char *const turns[] = {"x", "<|im_start|>", "y", "<|im_end|>"};
    static const int32_t special[] = {1, 3, 1, 3}, ordinary[] = {1, 1, 1, 1};
    make(&file, "llama");
    put_tokens(&file, 4, turns, 4);
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", special, 4);
    config = read_good(&file);
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos_ids[1], 3);
    make(&file, "qwen2");
    put_tokens(&file, 4, turns, 4);
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", ordinary, 4);
    assert_int_equal(read_good(&file).eos_count, 1);
    static const char *const many[] = {"<|user|>", "<|user|>", "<|user|>", "<|user|>", "<|user|>",
                                       "<|user|>", "<|user|>", "<|user|>", "<|user|>", "<|user|>"};
    make(&file, "glm4");
    put_tokens(&file, 100, many, 10);
    refused(&file, -EINVAL, "tokenizer.ggml.tokens", "more than 8 ids");
}

static void a_vocabulary_that_does_not_fit_is_refused(void **state)
{
    struct test_gguf file;
    make(&file, "llama");
    put_tokens(&file, TEST_MODEL_VOCAB + 1, NULL, 0);
    refused(&file, -EINVAL, "tokenizer.ggml.tokens", "129 tokens");
    make_without(&file, "llama", "llama.vocab_size");
    put_tokens(&file, 0, NULL, 0);
    refused(&file, -EINVAL, "tokenizer.ggml.tokens", "0 tokens");
    make(&file, "llama");
    test_gguf_i32s(&file, "tokenizer.ggml.tokens", (const int32_t[]){1}, 1);
    refused(&file, -EINVAL, "tokenizer.ggml.tokens", "is an array of i32");
    make(&file, "llama");
    put_tokens(&file, 3, NULL, 0);
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", (const int32_t[]){1, 1}, 2);
    refused(&file, -EINVAL, "tokenizer.ggml.token_type", "2 types of 3 tokens");
    /* The right count of the wrong items. */
    make(&file, "llama");
    put_tokens(&file, 3, NULL, 0);
    test_gguf_raw(&file, "tokenizer.ggml.token_type", 25, GGUF_VALUE_ARRAY,
                  "\1\0\0\0\3\0\0\0\0\0\0\0\1\1\1", 15);
    refused(&file, -EINVAL, "tokenizer.ggml.token_type", "is an array of i8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_architecture_has_its_own_pairs_and_norms),
        cmocka_unit_test(optional_values_are_taken),
        cmocka_unit_test(another_architecture_is_refused_by_name),
        cmocka_unit_test(required_numbers_that_are_missing_wrong_or_out_of_range_are_refused),
        cmocka_unit_test(heads_must_fit_each_other),
        cmocka_unit_test(an_epsilon_out_of_range_is_refused),
        cmocka_unit_test(what_would_be_another_model_is_refused),
        cmocka_unit_test(rotary_values_are_checked),
        cmocka_unit_test(a_scaling_factor_is_linear_if_nothing_else_is_said),
        cmocka_unit_test(yarn_stretches_the_context),
        cmocka_unit_test(unused_tokens_at_the_end_are_padding),
        cmocka_unit_test(types_without_tokens_are_not_looked_at),
        cmocka_unit_test(glm_and_chatml_stop_at_all_their_ends),
        cmocka_unit_test(a_vocabulary_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
