/* tokenizer.json: what is not understood is refused by name. Each case changes one field of a small
 * good file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "autoglm.h"
#include "tests/support/test.h"
#include "tests/support/text_cases.h"

static char folder[4096];

static int make_folder(void **state)
{
    test_folder(folder);
    return 0;
}

static int remove_folder(void **state)
{
    test_remove_folder(folder);
    return 0;
}

static cJSON *small_file(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, AGL_SOURCE_DIR "/tests/data/tokenizer/%s.tokenizer.json", name);
    char *text = test_read_file(path, NULL);
    cJSON *root = cJSON_Parse(text);
    assert_non_null(root);
    free(text);
    return root;
}

/* Writes the file and opens it; returns the error. */
static int open_file(cJSON *root, struct agl_tokenizer **ret_tokenizer)
{
    char path[8192];
    char *text = cJSON_PrintUnformatted(root);
    test_write_file(folder, "tokenizer.json", text, strlen(text));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    free(text);
    cJSON_Delete(root);
    return agl_tokenizer_open(ret_tokenizer, path);
}

static void assert_refused(cJSON *root, const char *named)
{
    struct agl_tokenizer *tokenizer = (void *)1;
    assert_int_equal(open_file(root, &tokenizer), -EINVAL);
    assert_ptr_equal(tokenizer, (void *)1);
    if (!strstr(agl_error_detail(), named) || !strstr(agl_error_detail(), "tokenizer.json"))
        fail_msg("\"%s\" does not name %s", agl_error_detail(), named);
}

/* Follows "a.b.0" into a file. */
static cJSON *at(cJSON *root, const char *path)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *part = strtok(copy, "."); part; part = strtok(NULL, ".")) {
        root = cJSON_IsArray(root) ? cJSON_GetArrayItem(root, atoi(part))
                                   : cJSON_GetObjectItemCaseSensitive(root, part);
        assert_non_null(root);
    }
    return root;
}

/* Sets a field ("a.b", "c") to a JSON text; NULL removes it. */
static cJSON *changed(const char *file, const char *object, const char *field, const char *json)
{
    cJSON *root = small_file(file);
    cJSON *parent = at(root, object);
    cJSON_DeleteItemFromObjectCaseSensitive(parent, field);
    if (json) {
        cJSON *value = cJSON_Parse(json);
        assert_non_null(value);
        cJSON_AddItemToObject(parent, field, value);
    }
    return root;
}

static void other_components_are_refused_by_name(void **state)
{
    static const struct {
        const char *file;
        const char *object;
        const char *field;
        const char *json;
        const char *named;
    } cases[] = {
        {"glm4", "", "model", NULL, "model"},
        {"glm4", "", "model", "[]", "model"},
        {"glm4", "model", "type", "\"Unigram\"", "Unigram"},
        {"glm4", "model", "type", "\"WordPiece\"", "WordPiece"},
        {"glm4", "model", "type", "5", "model"},
        {"glm4", "model", "byte_fallback", "true", "byte_fallback"},
        {"glm4", "model", "dropout", "0.1", "dropout"},
        {"glm4", "model", "continuing_subword_prefix", "\"##\"", "continuing_subword_prefix"},
        {"glm4", "model", "end_of_word_suffix", "\"</w>\"", "end_of_word_suffix"},
        {"glm4", "model", "vocab", NULL, "model.vocab"},
        {"glm4", "model", "vocab", "[]", "model.vocab"},
        {"glm4", "model", "merges", NULL, "model.merges"},
        {"glm4", "model", "merges", "{}", "model.merges"},
        {"glm4", "", "normalizer", "{\"type\":\"NFKC\"}", "NFKC"},
        {"glm4", "", "normalizer", "7", "normalizer"},
        {"glm4", "", "pre_tokenizer", NULL, "pre_tokenizer"},
        {"glm4", "", "pre_tokenizer", "{\"type\":\"Whitespace\"}", "Whitespace"},
        {"glm4", "", "pre_tokenizer", "{\"type\":\"Sequence\"}", "Sequence"},
        {"glm4", "", "pre_tokenizer",
         "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}",
         "add_prefix_space"},
        {"glm4", "", "pre_tokenizer",
         "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", "use_regex"},
        {"glm4", "pre_tokenizer.pretokenizers.0.pattern", "Regex", "\"\\\\w+\"", "\\w+"},
        {"glm4", "pre_tokenizer.pretokenizers.0", "pattern", "{\"String\":\" \"}", "pattern"},
        {"glm4", "pre_tokenizer.pretokenizers.0", "behavior", "\"MergedWithNext\"",
         "MergedWithNext"},
        {"glm4", "pre_tokenizer.pretokenizers.0", "invert", "true", "invert"},
        {"glm4", "pre_tokenizer.pretokenizers.0", "type", "\"Punctuation\"", "Punctuation"},
        {"glm4", "pre_tokenizer.pretokenizers.1", "use_regex", "true", "use_regex"},
        {"smollm", "pre_tokenizer.pretokenizers.0", "individual_digits", "false", "Digits"},
        {"smollm", "pre_tokenizer.pretokenizers.1", "use_regex", "false", "Digits"},
        {"glm4", "", "decoder", NULL, "decoder"},
        {"glm4", "", "decoder", "{\"type\":\"Metaspace\"}", "Metaspace"},
        {"glm4", "", "added_tokens", "{}", "added_tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(changed(cases[i].file, cases[i].object, cases[i].field, cases[i].json),
                       cases[i].named);
}

static void bad_tokens_and_merges_are_refused_by_name(void **state)
{
    static const struct {
        const char *object;
        const char *field;
        const char *json;
        const char *named;
    } cases[] = {
        {"model.vocab", "zz", "0", "twice"}, /* id 0 has another text */
        {"model.vocab", "zz", "-1", "zz"},
        {"model.vocab", "zz", "4194304", "zz"},
        {"model.vocab", "zz", "1.5", "zz"},
        {"model.vocab", "zz", "\"9\"", "zz"},
        {"model.vocab", "a b", "5000", "a b"}, /* a blank is not in the alphabet */
        {"model.vocab", "\xE4\xBD\xA0", "5000", "byte-level"},
        {"model.vocab", "", "5000", "no text"},
        {"model", "merges", "[\"a\"]", "merges[0]"},
        {"model", "merges", "[\"a b c\"]", "merges[0]"},
        {"model", "merges", "[\" b\"]", "merges[0]"},
        {"model", "merges", "[[\"a\"]]", "merges[0]"},
        {"model", "merges", "[[\"a\",\"b\",\"c\"]]", "merges[0]"},
        {"model", "merges", "[[\"a\",5]]", "merges[0]"},
        {"model", "merges", "[5]", "merges[0]"},
        {"model", "merges", "[[\"Q\",\"Z\"]]", "merges[0]"},
        {"model", "merges", "[[\"h\",\"e\"],[\"h\",\"e\"]]", "merges[1]"},
        {"", "added_tokens", "[5]", "added_tokens"},
        {"", "added_tokens", "[{\"id\":9000}]", "9000"},
        {"", "added_tokens", "[{\"id\":9000,\"content\":\"\"}]", "9000"},
        {"", "added_tokens", "[{\"content\":\"<x>\"}]", "added_tokens"},
        {"", "added_tokens", "[{\"id\":1e9,\"content\":\"<x>\"}]", "added_tokens"},
        {"", "added_tokens", "[{\"id\":9000,\"content\":\"<x>\",\"special\":1}]", "special"},
        {"", "added_tokens",
         "[{\"id\":9000,\"content\":\"<x>\"},{\"id\":9001,\"content\":\"<x>\"}]", "same text"},
        {"", "added_tokens",
         "[{\"id\":9000,\"content\":\"<x>\"},{\"id\":9000,\"content\":\"<y>\"}]", "9000"},
        {"", "added_tokens", "[{\"id\":3,\"content\":\"<x>\",\"special\":true}]", "twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(changed("glm4", cases[i].object, cases[i].field, cases[i].json),
                       cases[i].named);
}

static void a_token_longer_than_any_is_refused(void **state)
{
    char json[3000];
    memset(json, 'x', sizeof json);
    memcpy(json, "[{\"id\":9000,\"content\":\"", 23);
    memcpy(json + sizeof json - 4, "\"}]", 4);
    assert_refused(changed("glm4", "", "added_tokens", json), "9000");
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    size_t bytes = 0;
    char path[8192];
    char *text =
        test_read_file(AGL_SOURCE_DIR "/tests/data/tokenizer/llama3.tokenizer.json", &bytes);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    for (size_t cut = 0; cut < bytes - 2; cut += cut < 64 ? 1 : 397) {
        struct agl_tokenizer *tokenizer = NULL;
        test_write_file(folder, "tokenizer.json", text, cut);
        assert_int_equal(agl_tokenizer_open(&tokenizer, path), -EINVAL);
        assert_null(tokenizer);
    }
    free(text);
}

static void old_files_without_a_type_and_other_harmless_fields_open(void **state)
{
    static const struct {
        const char *object;
        const char *field;
        const char *json;
    } cases[] = {
        {"model", "type", NULL},
        {"model", "dropout", "0"},
        {"model", "continuing_subword_prefix", "\"\""},
        {"model", "unk_token", "\"<|endoftext|>\""},
        {"", "truncation", "{\"max_length\":5}"},
        {"", "post_processor", "{\"type\":\"TemplateProcessing\"}"},
        {"", "added_tokens", NULL},
        {"", "unheard_of", "1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct agl_tokenizer *tokenizer = NULL;
        cJSON *root = changed("glm4", cases[i].object, cases[i].field, cases[i].json);
        if (open_file(root, &tokenizer) < 0)
            fail_msg("%s: %s", cases[i].field, agl_error_detail());
        agl_tokenizer_close(tokenizer);
    }
}

static void removed_and_inverted_is_the_same_as_isolated(void **state)
{
    struct agl_tokenizer *tokenizer = NULL;
    cJSON *root = small_file("glm4");
    cJSON *split = at(root, "pre_tokenizer.pretokenizers.0");
    cJSON_ReplaceItemInObject(split, "behavior", cJSON_CreateString("Removed"));
    cJSON_ReplaceItemInObject(split, "invert", cJSON_CreateTrue());
    assert_int_equal(open_file(root, &tokenizer), 0);
    assert_true(
        text_assert_cases(tokenizer, AGL_SOURCE_DIR "/tests/data/tokenizer/glm4.cases.json") > 50);
    agl_tokenizer_close(tokenizer);
}

static void a_merge_that_makes_a_special_token_is_left_out(void **state)
{
    /* "he" is a merge of every small vocabulary; make the token special. */
    struct agl_tokenizer *tokenizer = NULL;
    cJSON *root = small_file("gpt2");
    const cJSON *he = at(root, "model.vocab.he");
    uint32_t id = (uint32_t)he->valueint;
    cJSON *token = cJSON_CreateObject();
    cJSON_AddNumberToObject(token, "id", id);
    cJSON_AddStringToObject(token, "content", "he");
    cJSON_AddTrueToObject(token, "special");
    cJSON_AddItemToArray(at(root, "added_tokens"), token);
    assert_int_equal(open_file(root, &tokenizer), 0);
    assert_int_equal(agl_encode(tokenizer, "he", 2, NULL, 0), 2);
    assert_int_equal(agl_special_id(tokenizer, "he"), id);
    text_assert_round_trip(tokenizer, "the thing", 9);
    agl_tokenizer_close(tokenizer);
}

static void a_byte_without_token_fails_the_text_that_has_it(void **state)
{
    struct agl_tokenizer *tokenizer = NULL;
    cJSON *root = small_file("gpt2");
    cJSON_DeleteItemFromObjectCaseSensitive(at(root, "model.vocab"), "~");
    assert_int_equal(open_file(root, &tokenizer), 0);
    uint32_t ids[4] = {7, 7, 7, 7};
    assert_int_equal(agl_encode(tokenizer, "a ~", 3, ids, 4), -EILSEQ);
    assert_non_null(strstr(agl_error_detail(), "0x7E"));
    assert_int_equal(ids[0], 7);
    assert_int_equal(agl_encode(tokenizer, "a", 1, ids, 4), 1);
    agl_tokenizer_close(tokenizer);
}

static void the_configuration_beside_it_adds_tokens(void **state)
{
    static const char config[] =
        "{\"added_tokens_decoder\":{\"7000\":{\"content\":\"<tool>\",\"special\":true}}}";
    static const char wrong[] = "{\"added_tokens_decoder\":{\"7x\":{\"content\":\"<tool>\"}}}";
    struct agl_tokenizer *tokenizer = NULL;
    test_write_file(folder, "tokenizer_config.json", config, sizeof config - 1);
    assert_int_equal(open_file(small_file("gpt2"), &tokenizer), 0);
    assert_int_equal(agl_special_id(tokenizer, "<tool>"), 7000);
    assert_int_equal(agl_tokenizer_size(tokenizer), 7001);
    agl_tokenizer_close(tokenizer);
    test_write_file(folder, "tokenizer_config.json", wrong, sizeof wrong - 1);
    assert_refused(small_file("gpt2"), "added_tokens_decoder");
    test_write_file(folder, "tokenizer_config.json", "{", 1);
    assert_int_equal(open_file(small_file("gpt2"), &tokenizer), -EINVAL);
    assert_non_null(strstr(agl_error_detail(), "tokenizer_config.json"));
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(other_components_are_refused_by_name),
        IN_FOLDER(bad_tokens_and_merges_are_refused_by_name),
        IN_FOLDER(a_token_longer_than_any_is_refused),
        IN_FOLDER(a_file_cut_anywhere_is_refused),
        IN_FOLDER(old_files_without_a_type_and_other_harmless_fields_open),
        IN_FOLDER(removed_and_inverted_is_the_same_as_isolated),
        IN_FOLDER(a_merge_that_makes_a_special_token_is_left_out),
        IN_FOLDER(a_byte_without_token_fails_the_text_that_has_it),
        IN_FOLDER(the_configuration_beside_it_adds_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
