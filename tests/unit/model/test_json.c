#include "tests/support/test.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "model/json.h"

/* Parses and throws away; the message is in *failure. */
static int parse(const char *text, size_t bytes, unsigned flags, struct failure *failure)
{
    cJSON *root = NULL;
    *failure = (struct failure){""};
    int err = json_parse(&root, text, bytes, "a.json", flags, failure);
    if (err < 0)
        assert_null(root);
    cJSON_Delete(root);
    return err;
}

static void refuses(const char *text, unsigned flags, int wanted, const char *words)
{
    struct failure failure;
    int err = parse(text, strlen(text), flags, &failure);
    if (err != wanted || !strstr(failure.text, words) || !strstr(failure.text, "a.json"))
        fail_msg("%s: %d \"%s\", wanted %d with \"%s\"", text, err, failure.text, wanted, words);
}

static void takes(const char *text, unsigned flags)
{
    struct failure failure;
    if (parse(text, strlen(text), flags, &failure) < 0)
        fail_msg("%s: %s", text, failure.text);
}

static void takes_what_the_grammar_allows(void **state)
{
    (void)state;
    takes("{}", 0);
    takes(" \t\r\n[ ]\n", 0);
    takes("0", 0);
    takes("-0.5e+10", 0);
    takes("[1E400]", 0);
    takes("\"\\u00e4\\ud83d\\ude00 \xc3\xa4 \xf0\x9f\x98\x80 \\\"\\/\\b\\f\\n\\r\\t\\\\\"", 0);
    takes("{\"a\":{\"a\":[true,false,null]},\"A\":1}", 0);
    takes("[0, 9007199254740991]", JSON_INTEGERS);
}

static void refuses_what_the_grammar_forbids(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1]",
        "[1 2]",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "0x10",
        "nan",
        "NaN",
        "Infinity",
        "-Infinity",
        "True",
        "nul",
        "\"a",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\t\"",
        "1 1",
        "{} {}",
        "/**/1",
        "\xEF\xBB\xBF{}",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\",
        "\"\\ud800\\n\"",
        "\"\\ud800\\u0041\"",
        "[\"a\"\"b\"]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        refuses(texts[i], 0, -EINVAL, "not valid JSON");
}

static void refuses_bytes_that_are_not_utf8(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\"\x80\"",         "\"\xC3\"",     "\"\xC0\x80\"",         "\"\xE0\x80\x80\"",
        "\"\xED\xA0\x80\"", "\"\xFF\"",     "\"\xF4\x90\x80\x80\"", "\"\xF0\x80\x80\x80\"",
        "\"\xE2\x82",       "\"\xC3\x28\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        refuses(texts[i], 0, -EINVAL, "not UTF-8");
}

static void refuses_nul_in_text_and_in_strings(void **state)
{
    (void)state;
    struct failure failure;
    assert_int_equal(parse("[\"a\0b\"]", 7, 0, &failure), -EINVAL);
    assert_int_equal(parse("[1]\0", 4, 0, &failure), -EINVAL);
    refuses("{\"a\\u0000b\":1}", 0, -EINVAL, "NUL");
}

static void refuses_a_key_that_stands_twice(void **state)
{
    (void)state;
    refuses("{\"a\":1,\"b\":2,\"a\":3}", 0, -EINVAL, "\"a\" stands twice");
    refuses("[{\"x\":{\"k\":1,\"\\u006b\":2}}]", 0, -EINVAL, "\"k\" stands twice");
}

static void refuses_depth_and_numbers_without_end(void **state)
{
    (void)state;
    char text[4 * JSON_DEPTH_MAX] = "";
    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    takes(text, 0);
    memset(text, '[', JSON_DEPTH_MAX + 1);
    refuses(text, 0, -EFBIG, "nesting");
    memset(text, '1', 100);
    memset(text + 100, 0, sizeof text - 100);
    refuses(text, 0, -EFBIG, "too many digits");
}

static void integers_only_means_integers_only(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "[1.0]", "[1e3]", "[-1]", "[-0]", "[9007199254740992]", "[18446744073709551616]"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        refuses(texts[i], JSON_INTEGERS, -EINVAL, "not an integer in 0 ... 2^53 - 1");
}

static void names_line_and_column_also_behind_comments(void **state)
{
    (void)state;
    refuses("{\n  \"a\": 1,\n  b\n}", 0, -EINVAL, "a.json:3:3:");
    refuses("", 0, -EINVAL, "a.json:1:1: not valid JSON: the text ends");
    takes("// head\n{ /* in \" between */ \"a//b\": \"/*x*/\" } // end", JSON_COMMENTS);
    refuses("// head\n/* two\nlines */ {\"a\": x}", JSON_COMMENTS, -EINVAL, "a.json:3:16:");
    refuses("{} /* without end", JSON_COMMENTS, -EINVAL, "a.json:1:4:");
    refuses("{} // not here", 0, -EINVAL, "something follows");
}

static void a_million_comments_without_an_end_take_no_longer_than_one(void **state)
{
    (void)state;
    enum { COMMENTS = 1 << 20 };
    char *text = malloc(3 * (size_t)COMMENTS);
    assert_non_null(text);
    for (size_t i = 0; i < COMMENTS; i++)
        memcpy(text + 3 * i, "/* ", 3);
    struct failure failure;
    clock_t start = clock();
    assert_int_equal(parse(text, 3 * (size_t)COMMENTS, JSON_COMMENTS, &failure), -EINVAL);
    assert_true(clock() - start < 5 * CLOCKS_PER_SEC);
    assert_non_null(strstr(failure.text, "a.json:1:1:"));
    free(text);
}

static void refuses_more_values_than_fit_in_memory(void **state)
{
    (void)state;
    size_t count = JSON_VALUES_MAX, bytes = 2 * count + 1;
    char *text = malloc(bytes);
    assert_non_null(text);
    for (size_t i = 0; i < count; i++) {
        text[2 * i] = i ? ',' : '[';
        text[2 * i + 1] = '0';
    }
    text[bytes - 1] = ']';
    struct failure failure;
    assert_int_equal(parse(text, bytes, 0, &failure), -EFBIG);
    assert_non_null(strstr(failure.text, "too many values"));
    free(text);
}

static void reads_only_regular_files_within_the_limit(void **state)
{
    (void)state;
    char folder[4096], path[4200];
    test_folder(folder);
    test_write_file(folder, "good.json", "{\"a\": 1}", 8);
    snprintf(path, sizeof path, "%s/good.json", folder);
    struct failure failure;
    cJSON *root;
    assert_int_equal(json_read_file(&root, path, 8, 0, &failure), 0);
    cJSON_Delete(root);
    assert_int_equal(json_read_file(&root, path, 7, 0, &failure), -EFBIG);
    assert_non_null(strstr(failure.text, path));
    assert_int_equal(json_read_file(&root, folder, 100, 0, &failure), -EINVAL);
    snprintf(path, sizeof path, "%s/none.json", folder);
    assert_int_equal(json_read_file(&root, path, 100, 0, &failure), -ENOENT);
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(json_read_file(&root, path, 100, 0, &failure), -EINVAL);
    assert_non_null(strstr(failure.text, "not a regular file"));
    test_remove_folder(folder);
}

static const char FIELDS[] =
    "{\"n\": 7, \"big\": 4294967296, \"half\": 0.5, \"minus\": -1, \"yes\": true, \"s\": \"x\","
    " \"null\": null, \"inf\": 1e999, \"o\": {\"p\": {\"n\": 9}}}";

struct fields {
    cJSON *tree;
    struct json_object root;
};

static int open_fields(void **state)
{
    static struct fields fields;
    struct failure failure;
    assert_int_equal(json_parse(&fields.tree, FIELDS, strlen(FIELDS), "a.json", 0, &failure), 0);
    assert_int_equal(json_root(&fields.root, fields.tree, "a.json", &failure), 0);
    *state = &fields;
    return 0;
}

static int close_fields(void **state)
{
    cJSON_Delete(((struct fields *)*state)->tree);
    return 0;
}

static void reads_fields_of_every_type(void **state)
{
    const struct json_object *root = &((struct fields *)*state)->root;
    struct failure failure;
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    double number = 0;
    bool flag = false;
    const char *string = NULL;
    assert_int_equal(json_u32(root, "n", 0, 7, &u32, &failure), 0);
    assert_int_equal(u32, 7);
    assert_int_equal(json_u64(root, "big", 0, UINT64_MAX, &u64, &failure), 0);
    assert_true(u64 == UINT64_C(4294967296));
    assert_int_equal(json_double(root, "half", 0, 1, &number, &failure), 0);
    assert_true(number == 0.5);
    assert_int_equal(json_bool_or(root, "yes", false, &flag, &failure), 0);
    assert_true(flag);
    assert_int_equal(json_string(root, "s", &string, &failure), 0);
    assert_string_equal(string, "x");
    assert_int_equal(json_u32_or(root, "null", 0, 9, 5, &u32, &failure), 0);
    assert_int_equal(u32, 5);
    assert_int_equal(json_string_or(root, "none", "there", &string, &failure), 0);
    assert_string_equal(string, "there");
    struct json_object outer, inner;
    assert_int_equal(json_enter(root, "o", &outer, &failure), 0);
    assert_int_equal(json_enter(&outer, "p", &inner, &failure), 0);
    assert_int_equal(json_u32(&inner, "n", 0, 8, &u32, &failure), -EINVAL);
    assert_string_equal(failure.text, "a.json: o.p.n: 9 is not an integer in 0 ... 8");
}

static void refuses_fields_of_another_type_or_range_and_changes_nothing(void **state)
{
    const struct json_object *root = &((struct fields *)*state)->root;
    struct failure failure;
    uint32_t u32 = 77;
    double number = 77;
    bool flag = true;
    const char *string = "77";
    assert_int_equal(json_u32(root, "none", 0, 9, &u32, &failure), -ENOENT);
    assert_string_equal(failure.text, "a.json: none: missing");
    assert_int_equal(json_u32(root, "s", 0, 9, &u32, &failure), -EINVAL);
    assert_string_equal(failure.text, "a.json: s: must be an integer, is a string");
    assert_int_equal(json_u32(root, "half", 0, 9, &u32, &failure), -EINVAL);
    assert_int_equal(json_u32(root, "minus", 0, 9, &u32, &failure), -EINVAL);
    assert_int_equal(json_u32(root, "inf", 0, 9, &u32, &failure), -EINVAL);
    assert_int_equal(json_u32(root, "big", 0, UINT32_MAX, &u32, &failure), -EINVAL);
    assert_int_equal(json_u32(root, "n", 8, 9, &u32, &failure), -EINVAL);
    assert_int_equal(json_double(root, "inf", 0, 1e300, &number, &failure), -EINVAL);
    assert_int_equal(json_double(root, "yes", 0, 1, &number, &failure), -EINVAL);
    assert_int_equal(json_bool_or(root, "n", false, &flag, &failure), -EINVAL);
    assert_int_equal(json_string(root, "n", &string, &failure), -EINVAL);
    struct json_object inner;
    assert_int_equal(json_enter(root, "n", &inner, &failure), -EINVAL);
    assert_int_equal(json_enter(root, "null", &inner, &failure), -ENOENT);
    assert_int_equal(u32, 77);
    assert_true(number == 77 && flag);
    assert_string_equal(string, "77");
}

static void foreign_text_is_escaped_and_cut(void **state)
{
    (void)state;
    assert_string_equal(json_quote("plain \xc3\xa4").text, "\"plain \xc3\xa4\"");
    assert_string_equal(json_quote("a\n\x1b\"\\").text, "\"a\\x0a\\x1b\\x22\\x5c\"");
    char text[300];
    memset(text, 'x', 299);
    text[299] = 0;
    struct json_quoted quoted = json_quote(text);
    assert_true(strlen(quoted.text) < sizeof quoted.text);
    assert_string_equal(quoted.text + strlen(quoted.text) - 5, "x...\"");
    for (size_t first = 60; first < 80; first++) { /* cut anywhere, but never within a character */
        memset(text, 'x', first);
        for (size_t i = first; i + 2 < 299; i += 2)
            memcpy(text + i, "\xc3\xa4", 3);
        quoted = json_quote(text);
        struct failure failure;
        char json[100];
        snprintf(json, sizeof json, "[%s]", quoted.text);
        assert_int_equal(parse(json, strlen(json), 0, &failure), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_the_grammar_allows),
        cmocka_unit_test(refuses_what_the_grammar_forbids),
        cmocka_unit_test(refuses_bytes_that_are_not_utf8),
        cmocka_unit_test(refuses_nul_in_text_and_in_strings),
        cmocka_unit_test(refuses_a_key_that_stands_twice),
        cmocka_unit_test(refuses_depth_and_numbers_without_end),
        cmocka_unit_test(integers_only_means_integers_only),
        cmocka_unit_test(names_line_and_column_also_behind_comments),
        cmocka_unit_test(a_million_comments_without_an_end_take_no_longer_than_one),
        cmocka_unit_test(refuses_more_values_than_fit_in_memory),
        cmocka_unit_test(reads_only_regular_files_within_the_limit),
        cmocka_unit_test_setup_teardown(reads_fields_of_every_type, open_fields, close_fields),
        cmocka_unit_test_setup_teardown(refuses_fields_of_another_type_or_range_and_changes_nothing,
                                        open_fields, close_fields),
        cmocka_unit_test(foreign_text_is_escaped_and_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
