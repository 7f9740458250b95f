#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "client/document.h"
#include "client/vocabulary.h"
#include "tests/support/test.h"

static void only_whole_objects_without_nul_are_json(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
    } bad[] = {
        {"", 0},
        {"{", 1},
        {"[1]", 3},
        {"null", 4},
        {"{} x", 4},
        {"{}{}", 4},
        {"{\"a\":\"\\u0000\"}", 14},
        {"{\"a\":\"\\\\\\u0000\"}", 16},
        {"{\"a\":\"b\0c\"}", 11},
        {"{}\0", 3},
        {"{\"a\":tru}", 9},
        {"{\"a\":\"x}", 8},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cJSON *root = (void *)1;
        assert_int_equal(document_parse("some.json", bad[i].text, bad[i].bytes, &root), -EINVAL);
        assert_non_null(strstr(agl_error_detail(), "some.json"));
        assert_ptr_equal(root, (void *)1);
    }
    static const char good[] = " {\"a\": \"\\\\u0000\"} \n";
    cJSON *root = NULL;
    assert_int_equal(document_parse("some.json", good, sizeof good - 1, &root), 0);
    assert_string_equal(document_string(root, "a"), "\\u0000");
    assert_null(document_string(root, "b"));
    cJSON_Delete(root);
}

static void deep_nesting_is_refused(void **state)
{
    const size_t depth = 1000000;
    char *text = malloc(depth + 6);
    assert_non_null(text);
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', depth);
    cJSON *root = NULL;
    assert_int_equal(document_parse("deep.json", text, depth + 5, &root), -EINVAL);
    free(text);
}

static void files_are_read_whole_within_their_limit(void **state)
{
    char folder[4096];
    char path[8192];
    char *text = NULL;
    size_t bytes = 0;
    test_folder(folder);
    test_write_file(folder, "f", "a\0b", 3);
    snprintf(path, sizeof path, "%s/f", folder);
    int descriptors = test_open_descriptors();
    assert_int_equal(document_read(path, 2, &text, &bytes), -EINVAL);
    assert_null(text);
    assert_int_equal(document_read(path, 3, &text, &bytes), 0);
    assert_int_equal(bytes, 3);
    assert_memory_equal(text, "a\0b", 4);
    free(text);
    assert_int_equal(document_read(folder, 100, &text, &bytes), -EINVAL);
    snprintf(path, sizeof path, "%s/g", folder);
    assert_int_equal(document_read(path, 100, &text, &bytes), -ENOENT);
    assert_non_null(strstr(agl_error_detail(), path));
    assert_int_equal(test_open_descriptors(), descriptors);
    test_remove_folder(folder);
}

static void ids_are_whole_numbers_in_range(void **state)
{
    static const struct {
        const char *json;
        bool good;
        uint32_t id;
    } cases[] = {
        {"0", true, 0},        {"17", true, 17},     {"4194303", true, VOCABULARY_IDS_MAX - 1},
        {"4194304", false, 0}, {"-1", false, 0},     {"1.5", false, 0},
        {"1e300", false, 0},   {"-1e300", false, 0}, {"\"1\"", false, 0},
        {"true", false, 0},    {"null", false, 0},   {"1e999", false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cJSON *number = cJSON_Parse(cases[i].json);
        uint32_t id = 12345;
        assert_non_null(number);
        assert_int_equal(document_id(number, &id), cases[i].good);
        assert_int_equal(id, cases[i].good ? cases[i].id : 12345);
        cJSON_Delete(number);
    }
    uint32_t id = 0;
    assert_false(document_id(NULL, &id));
}

static void a_path_too_long_is_refused(void **state)
{
    static char folder[DOCUMENT_PATH_BYTES];
    char path[DOCUMENT_PATH_BYTES];
    memset(folder, 'x', sizeof folder - 1);
    assert_int_equal(document_path(folder, "name", path), -ENAMETOOLONG);
    assert_int_equal(document_path("a", "b", path), 0);
    assert_string_equal(path, "a/b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_whole_objects_without_nul_are_json),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(files_are_read_whole_within_their_limit),
        cmocka_unit_test(ids_are_whole_numbers_in_range),
        cmocka_unit_test(a_path_too_long_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
