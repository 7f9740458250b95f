/* The tokenizer of a GGUF file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "client/tokenizer.h"
#include "formats/gguf.h"
#include "tests/support/gguf_files.h"
#include "tests/support/test.h"
#include "tests/support/text_cases.h"

static const char *const TEXTS[] = {
    "a",
    "b",
    "\xC4\xA0", /* a blank, spelled */
    "ab",
    ("\xC4\xA0"
     "ab"),
    "<|im_start|>",
    "<|im_end|>",
    "<tool>",
    "[PAD8]",
    "c",
};
static const int32_t KINDS[] = {1, 1, 1, 1, 1, 3, 2, 4, 5, 1};
static const char *const MERGES[] = {"a b", "\xC4\xA0 ab"};
enum { TEXT_COUNT = sizeof TEXTS / sizeof TEXTS[0] };

/* What a file says: each may be left out (NULL) or put in by hand. */
struct wish {
    const char *model, *pre, *template, *architecture;
    const char *const *texts;
    const int32_t *kinds;
    size_t text_count, kind_count;
    const char *const *merges;
    size_t merge_count;
};

static const struct wish GOOD = {
    .model = "gpt2",
    .pre = "smollm",
    .architecture = "llama",
    .texts = TEXTS,
    .kinds = KINDS,
    .text_count = TEXT_COUNT,
    .kind_count = TEXT_COUNT,
    .merges = MERGES,
    .merge_count = 2,
};

static void make(struct test_gguf *file, const struct wish *wish)
{
    test_gguf_init(file);
    if (wish->architecture)
        test_gguf_string(file, "general.architecture", wish->architecture);
    if (wish->model)
        test_gguf_string(file, "tokenizer.ggml.model", wish->model);
    if (wish->pre)
        test_gguf_string(file, "tokenizer.ggml.pre", wish->pre);
    if (wish->template)
        test_gguf_string(file, "tokenizer.chat_template", wish->template);
    if (wish->texts)
        test_gguf_strings(file, "tokenizer.ggml.tokens", wish->texts, wish->text_count);
    if (wish->kinds)
        test_gguf_i32s(file, "tokenizer.ggml.token_type", wish->kinds, wish->kind_count);
    if (wish->merges)
        test_gguf_strings(file, "tokenizer.ggml.merges", wish->merges, wish->merge_count);
}

/* Parses and frees the file, which must be a right one, and reads its tokenizer. */
static int read_file(struct agl_tokenizer *tokenizer, struct test_gguf *file)
{
    struct gguf table;
    size_t size;
    char why[GGUF_WHY_BYTES];
    unsigned char *bytes = test_gguf_bytes(file, &size);
    memset(tokenizer, 0, sizeof *tokenizer);
    vocabulary_init(&tokenizer->vocabulary);
    if (gguf_parse(&table, bytes, size, size, "x.gguf", why) < 0)
        fail_msg("%s", why);
    int err = tokenizer_gguf_read(tokenizer, "x.gguf", &table);
    gguf_fini(&table);
    free(bytes);
    test_gguf_fini(file);
    return err;
}

static int read_wish(struct agl_tokenizer *tokenizer, const struct wish *wish)
{
    struct test_gguf file;
    make(&file, wish);
    return read_file(tokenizer, &file);
}

static void refused_file(struct test_gguf *file, const char *field, const char *value)
{
    struct agl_tokenizer tokenizer;
    int err = read_file(&tokenizer, file);
    const char *why = agl_error_detail();
    if (err != -EINVAL || !strstr(why, "x.gguf: ") || !strstr(why, field) || !strstr(why, value))
        fail_msg("%d, \"%s\", wanted %s and %s", err, why, field, value);
    vocabulary_fini(&tokenizer.vocabulary);
}

static void refused(const struct wish *wish, const char *field, const char *value)
{
    struct test_gguf file;
    make(&file, wish);
    refused_file(&file, field, value);
}

static void the_vocabulary_merges_and_types_are_taken(void **state)
{
    struct agl_tokenizer tokenizer;
    assert_int_equal(read_wish(&tokenizer, &GOOD), 0);
    text_assert_ids(&tokenizer, "ab ab ba", 8, (const uint32_t[]){3, 4, 2, 1, 0}, 5);
    assert_int_equal(agl_special_id(&tokenizer, "<|im_start|>"), 5);
    assert_true(agl_token_is_special(&tokenizer, 5));
    assert_true(agl_token_is_special(&tokenizer, 6));
    assert_int_equal(agl_special_id(&tokenizer, "<tool>"), 7);
    assert_false(agl_token_is_special(&tokenizer, 7));
    assert_null(vocabulary_token(&tokenizer.vocabulary, 8)); /* unused */
    assert_int_equal(agl_tokenizer_size(&tokenizer), TEXT_COUNT);
    /* Text never becomes a special token; bytes without a token are told. */
    uint32_t ids[8];
    assert_int_equal(agl_encode(&tokenizer, "<|im_start|>", 12, ids, 8), -EILSEQ);
    vocabulary_fini(&tokenizer.vocabulary);
}

static void without_types_all_tokens_are_ordinary(void **state)
{
    struct agl_tokenizer tokenizer;
    struct wish wish = GOOD;
    wish.kinds = NULL;
    assert_int_equal(read_wish(&tokenizer, &wish), 0);
    assert_false(agl_token_is_special(&tokenizer, 5));
    vocabulary_fini(&tokenizer.vocabulary);
}

static void each_rule_is_the_models(void **state)
{
    static const struct {
        const char *name;
        enum pretokenizer_rule rule;
        bool whole, nfc;
    } rules[] = {
        {"glm4", PRETOKENIZER_GLM4, true, false},
        {"chatglm-bpe", PRETOKENIZER_GLM4, true, false},
        {"llama-bpe", PRETOKENIZER_GLM4, true, false},
        {"qwen2", PRETOKENIZER_QWEN2, false, true},
        {"smollm", PRETOKENIZER_SMOLLM, false, false},
        {"gpt-2", PRETOKENIZER_GPT2, false, false},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        struct agl_tokenizer tokenizer;
        struct wish wish = GOOD;
        wish.pre = rules[i].name;
        assert_int_equal(read_wish(&tokenizer, &wish), 0);
        assert_int_equal(tokenizer.pretokenizer.rule, rules[i].rule);
        assert_int_equal(tokenizer.whole_pieces, rules[i].whole);
        assert_int_equal(tokenizer.nfc, rules[i].nfc);
        vocabulary_fini(&tokenizer.vocabulary);
    }
}

static void what_is_missing_or_unknown_is_refused(void **state)
{
    struct wish wish = GOOD;
    wish.model = NULL;
    refused(&wish, "tokenizer.ggml.model", "missing");
    wish.model = "llama";
    refused(&wish, "tokenizer.ggml.model", "\"llama\" is not supported");
    wish = GOOD;
    wish.pre = NULL;
    refused(&wish, "tokenizer.ggml.pre", "missing");
    wish.pre = "default";
    refused(&wish, "tokenizer.ggml.pre", "\"default\" is not supported");
    wish = GOOD;
    wish.texts = NULL;
    refused(&wish, "tokenizer.ggml.tokens", "missing");
    wish = GOOD;
    wish.merges = NULL;
    refused(&wish, "tokenizer.ggml.merges", "missing");
}

static void arrays_of_the_wrong_items_or_counts_are_refused(void **state)
{
    struct wish wish = GOOD;
    struct test_gguf file;
    wish.kind_count = TEXT_COUNT - 1;
    refused(&wish, "tokenizer.ggml.token_type", "9 types of 10 tokens");
    wish = GOOD;
    wish.kinds = NULL;
    make(&file, &wish);
    /* As many as there are tokens, but bytes. */
    test_gguf_raw(&file, "tokenizer.ggml.token_type", 25, GGUF_VALUE_ARRAY,
                  "\1\0\0\0\12\0\0\0\0\0\0\0\1\1\1\1\1\1\1\1\1\1", 22);
    refused_file(&file, "tokenizer.ggml.token_type", "is an array of i8");
    wish = GOOD;
    wish.texts = NULL;
    make(&file, &wish);
    test_gguf_i32s(&file, "tokenizer.ggml.tokens", KINDS, TEXT_COUNT);
    refused_file(&file, "tokenizer.ggml.tokens", "is an array of i32");
    wish = GOOD;
    wish.merges = NULL;
    make(&file, &wish);
    test_gguf_i32s(&file, "tokenizer.ggml.merges", KINDS, TEXT_COUNT);
    refused_file(&file, "tokenizer.ggml.merges", "is an array of i32");
}

/* The good vocabulary with another token 9 of that type. */
static void refused_token(const char *text, int32_t kind, const char *field, const char *value)
{
    const char *texts[TEXT_COUNT];
    int32_t kinds[TEXT_COUNT];
    struct wish wish = GOOD;
    memcpy(texts, TEXTS, sizeof texts);
    memcpy(kinds, KINDS, sizeof kinds);
    texts[9] = text;
    kinds[9] = kind;
    wish.texts = texts;
    wish.kinds = kinds;
    refused(&wish, field, value);
}

static void bad_tokens_are_refused_with_their_id(void **state)
{
    static char long_text[VOCABULARY_TOKEN_BYTES_MAX + 2];
    memset(long_text, 'x', VOCABULARY_TOKEN_BYTES_MAX + 1);
    refused_token("", 1, "tokenizer.ggml.tokens[9]", "is empty");
    refused_token("", 3, "tokenizer.ggml.tokens[9]", "is empty");
    refused_token("with blank", 1, "tokenizer.ggml.tokens[9]", "is not byte-level");
    refused_token("\xE4\xBD", 1, "tokenizer.ggml.tokens[9]", "is not byte-level");
    refused_token(long_text, 1, "tokenizer.ggml.tokens[9]", "too long");
    refused_token(long_text, 3, "tokenizer.ggml.tokens[9]", "is too long");
    refused_token("ab", 1, "tokenizer.ggml.tokens[9]", "occurs twice");
    refused_token("<|im_start|>", 3, "tokenizer.ggml.tokens", "same text");
    refused_token("<0x41>", 6, "tokenizer.ggml.token_type[9]", "6 is not supported");
    refused_token("<0x-1>", 6, "tokenizer.ggml.token_type[9]", "6 is not supported");
    refused_token("c", 0, "tokenizer.ggml.token_type[9]", "0 is not supported");
    refused_token("c", -1, "tokenizer.ggml.token_type[9]", "-1 is not supported");
    refused_token("c", INT32_MAX, "tokenizer.ggml.token_type[9]", "2147483647");
}

static void bad_merges_are_refused_with_their_rank(void **state)
{
    static const struct {
        const char *merge, *value;
    } cases[] = {
        {"ab", "is not \"a b\""},    {"", "is not \"a b\""},  {" b", "is not byte-level"},
        {"a ", "is not byte-level"}, {"a b c", "byte-level"}, {"a c", "vocabulary lacks"},
        {"x b", "vocabulary lacks"}, {"a b", "occurs twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const merges[] = {"a b", cases[i].merge};
        struct wish wish = GOOD;
        wish.merges = merges;
        refused(&wish, "tokenizer.ggml.merges[1]", cases[i].value);
    }
}

static struct agl_tokenizer *open_wish(const char *folder, const struct wish *wish)
{
    struct test_gguf file;
    struct agl_tokenizer *tokenizer = NULL;
    char path[8192];
    make(&file, wish);
    test_gguf_write(&file, folder, "x.gguf");
    test_gguf_fini(&file);
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    if (agl_tokenizer_open(&tokenizer, path) < 0)
        fail_msg("%s", agl_error_detail());
    return tokenizer;
}

static void the_chat_format_is_found_by_template_and_architecture(void **state)
{
    static const char *const glm[] = {"a",        "[gMASK]",       "<sop>",          "<|system|>",
                                      "<|user|>", "<|assistant|>", "<|observation|>"};
    static const int32_t kinds[] = {1, 3, 3, 3, 3, 3, 3};
    static const struct {
        const char *template, *architecture, *format;
    } cases[] = {
        {"[gMASK]<sop>{{ x }}", "chatglm", "glm4"},
        {"[gMASK]<sop>{{ x }}", "glm4", "glm4-0414"},
        {"<|user|><|assistant|>", "chatglm", "glm-edge"},
        {NULL, "chatglm", "glm4"},
        {NULL, "glm4", "glm4-0414"},
        {NULL, "llama", NULL},
    };
    char folder[4096];
    test_folder(folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct wish wish = GOOD;
        wish.texts = glm;
        wish.kinds = kinds;
        wish.text_count = wish.kind_count = 7;
        wish.merge_count = 0;
        wish.template = cases[i].template;
        wish.architecture = cases[i].architecture;
        struct agl_tokenizer *tokenizer = open_wish(folder, &wish);
        const char *format = agl_chat_format(tokenizer);
        if (cases[i].format)
            assert_string_equal(format ? format : "none", cases[i].format);
        else
            assert_null(format);
        agl_tokenizer_close(tokenizer);
    }
    struct wish wish = GOOD;
    wish.template = "{{ '<|im_start|>' }}";
    struct agl_tokenizer *tokenizer = open_wish(folder, &wish);
    assert_string_equal(agl_chat_format(tokenizer), "chatml");
    assert_null(tokenizer->chat_system);
    agl_tokenizer_close(tokenizer);
    wish.template = "{{ '<|im_start|>system\nab ab<|im_end|>\n' }}";
    tokenizer = open_wish(folder, &wish);
    assert_string_equal(tokenizer->chat_system, "ab ab");
    agl_tokenizer_close(tokenizer);
    test_remove_folder(folder);
}

static void a_broken_file_is_refused_with_what_is_wrong(void **state)
{
    struct agl_tokenizer *tokenizer = NULL;
    char folder[4096], path[8192];
    test_folder(folder);
    test_write_file(folder, "x.gguf", "GGUF\3\0\0\0\0", 9);
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    assert_int_equal(agl_tokenizer_open(&tokenizer, path), -EINVAL);
    assert_non_null(strstr(agl_error_detail(), "x.gguf: tensor count: 8 bytes at 8"));
    assert_null(tokenizer);
    test_remove_folder(folder);
}

static void gpt2s_own_vocabulary_gives_its_ids(void **state)
{
    char gguf[4096], texts[4096], ids[4096];
    if (!test_shared_data("vocabs/gpt-2.gguf", gguf) ||
        !test_shared_data("vocabs/gpt-2.inp", texts) || !test_shared_data("vocabs/gpt-2.out", ids))
        skip();
    struct agl_tokenizer *tokenizer = text_open(gguf);
    assert_true(text_assert_vocab_cases(tokenizer, texts, ids) > 30);
    agl_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vocabulary_merges_and_types_are_taken),
        cmocka_unit_test(without_types_all_tokens_are_ordinary),
        cmocka_unit_test(each_rule_is_the_models),
        cmocka_unit_test(what_is_missing_or_unknown_is_refused),
        cmocka_unit_test(arrays_of_the_wrong_items_or_counts_are_refused),
        cmocka_unit_test(bad_tokens_are_refused_with_their_id),
        cmocka_unit_test(bad_merges_are_refused_with_their_rank),
        cmocka_unit_test(the_chat_format_is_found_by_template_and_architecture),
        cmocka_unit_test(a_broken_file_is_refused_with_what_is_wrong),
        cmocka_unit_test(gpt2s_own_vocabulary_gives_its_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
