#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/safetensors.h"
#include "tests/support/model_files.h"

/* Parses a header in front of body_bytes. */
static int parse(struct safetensors *table, const char *header, uint64_t body_bytes,
                 struct failure *failure)
{
    *failure = (struct failure){""};
    return safetensors_parse(table, header, strlen(header), 8 + strlen(header) + body_bytes,
                             "w.safetensors", failure);
}

static void refuses(const char *header, uint64_t body_bytes, const char *words)
{
    struct safetensors table = {0};
    struct failure failure;
    int err = parse(&table, header, body_bytes, &failure);
    if (err != -EINVAL || !strstr(failure.text, words) || !strstr(failure.text, "w.safetensors"))
        fail_msg("%s: %d \"%s\", wanted \"%s\"", header, err, failure.text, words);
    assert_null(table.tensors);
}

static void takes(const char *header, uint64_t body_bytes, size_t count)
{
    struct safetensors table;
    struct failure failure;
    if (parse(&table, header, body_bytes, &failure) < 0)
        fail_msg("%s: %s", header, failure.text);
    assert_int_equal(table.count, count);
    safetensors_fini(&table);
    safetensors_fini(&table);
}

/* A header with one tensor. */
#define ONE(rest) "{\"t\":{" rest "}}"
#define TYPE(type) "\"dtype\":\"" type "\""

static void takes_scalars_empty_tensors_and_spaces(void **state)
{
    (void)state;
    takes("{}", 0, 0);
    takes("  {}  ", 0, 0);
    takes("{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0);
    takes(ONE(TYPE("F32") ",\"shape\":[],\"data_offsets\":[0,4]"), 4, 1);
    takes(ONE(TYPE("F32") ",\"shape\":[0],\"data_offsets\":[0,0]"), 0, 1);
    takes(ONE(TYPE("F4") ",\"shape\":[2],\"data_offsets\":[0,1]"), 1, 1);
    takes(ONE(TYPE("F6_E2M3") ",\"shape\":[4],\"data_offsets\":[0,3]"), 3, 1);
    takes("{\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[2,6]},"
          "\"e\":{\"dtype\":\"U8\",\"shape\":[0,9],\"data_offsets\":[2,2]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
          6, 3);
}

static void finds_tensors_by_name_with_offsets_from_the_files_begin(void **state)
{
    (void)state;
    struct safetensors table;
    struct failure failure;
    static const char header[] =
        "{\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]},"
        "\"c\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[14,18]}}";
    assert_int_equal(parse(&table, header, 18, &failure), 0);
    assert_string_equal(table.tensors[0].name, "a");
    assert_string_equal(table.tensors[0].type, "F16");
    assert_int_equal(table.tensors[0].offset, 8 + strlen(header) + 8);
    assert_int_equal(table.tensors[0].bytes, 6);
    assert_string_equal(table.tensors[1].name, "b");
    assert_int_equal(table.tensors[1].dimensions, 2);
    assert_int_equal(table.tensors[1].shape[1], 2);
    enum tensor_type type;
    assert_true(safetensors_tensor_type(&table.tensors[0], &type) && type == TENSOR_F16);
    assert_int_equal(table.tensors[0].source_type, GGUF_F16);
    assert_int_equal(table.tensors[1].source_type, GGUF_F32);
    assert_int_equal(table.tensors[2].source_type, GGUF_NONE);
    assert_false(safetensors_tensor_type(&table.tensors[2], &type));
    safetensors_fini(&table);
}

static void header_lengths_are_held_against_the_file(void **state)
{
    (void)state;
    struct failure failure;
    uint64_t length = 77;
    const unsigned char two[8] = {2}, huge[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    const unsigned char limit[8] = {1, 225, 245, 5}; /* 100,000,001 */
    assert_int_equal(safetensors_header_bytes(two, 10, "w", &length, &failure), 0);
    assert_int_equal(length, 2);
    length = 77;
    assert_int_equal(safetensors_header_bytes(two, 9, "w", &length, &failure), -EINVAL);
    assert_non_null(strstr(failure.text, "header: length 2 is beyond the file's end"));
    assert_int_equal(safetensors_header_bytes(two, 7, "w", &length, &failure), -EINVAL);
    assert_non_null(strstr(failure.text, "7 bytes"));
    assert_int_equal(safetensors_header_bytes(huge, UINT64_MAX, "w", &length, &failure), -EFBIG);
    assert_int_equal(safetensors_header_bytes(limit, UINT64_MAX, "w", &length, &failure), -EFBIG);
    assert_int_equal(length, 77);
}

static void refuses_headers_that_are_no_table(void **state)
{
    (void)state;
    refuses("[]", 0, "header: must be an object");
    refuses("", 0, "not valid JSON");
    refuses("{\"t\":", 0, "not valid JSON");
    refuses("{\"t\":1}", 0, "tensor \"t\": must be an object, is a number");
    refuses("{\"t\":{}}", 0, "tensor \"t\": dtype: must be a string, is nothing");
    refuses("{\"__metadata__\":[]}", 0, "__metadata__: must be an object");
    refuses("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: \"a\" must be a string");
}

static void refuses_names_that_stand_twice_or_are_no_names(void **state)
{
    (void)state;
    refuses("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
            2, "the key \"t\" stands twice");
    refuses("{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "name is empty");
    refuses("{\"a\\n\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
            "tensor \"a\\x0a\": the name contains the control byte 0x0a");
    refuses("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "NUL");
    char *header = malloc(SAFETENSORS_NAME_MAX + 200);
    assert_non_null(header);
    char *at = header + sprintf(header, "{\"");
    memset(at, 'n', SAFETENSORS_NAME_MAX + 1);
    at += SAFETENSORS_NAME_MAX + 1;
    strcpy(at, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
    refuses(header, 1, "the limit is 4096");
    free(header);
}

static void refuses_unknown_types(void **state)
{
    (void)state;
    refuses(ONE(TYPE("F33") ",\"shape\":[1],\"data_offsets\":[0,4]"), 4,
            "tensor \"t\": dtype: \"F33\" is not known");
    refuses(ONE(TYPE("f32") ",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "dtype");
    refuses(ONE("\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]"), 4, "dtype");
}

static void refuses_shapes_that_overflow_or_lie(void **state)
{
    (void)state;
    refuses(ONE(TYPE("F32") ",\"data_offsets\":[0,4]"), 4, "shape: must be an array, is nothing");
    refuses(ONE(TYPE("F32") ",\"shape\":4,\"data_offsets\":[0,4]"), 4, "shape");
    refuses(ONE(TYPE("F32") ",\"shape\":[\"1\"],\"data_offsets\":[0,4]"), 4,
            "shape: dimension 0 is no size");
    refuses(ONE(TYPE("F32") ",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "not an integer");
    refuses(ONE(TYPE("F32") ",\"shape\":[1.5],\"data_offsets\":[0,4]"), 4, "not an integer");
    refuses(ONE(TYPE("F32") ",\"shape\":[1e0],\"data_offsets\":[0,4]"), 4, "not an integer");
    refuses(ONE(TYPE("F32") ",\"shape\":[9007199254740993],\"data_offsets\":[0,4]"), 4,
            "not an integer in 0 ... 2^53 - 1");
    refuses(ONE(TYPE("F32") ",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4,
            "more than 8 dimensions");
    /* 2^32 * 2^32 wraps to 0, 2^30 * 2^34 * 4 bytes does so in bits. */
    refuses(ONE(TYPE("F32") ",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0,
            "shape: the product overflows");
    refuses(ONE(TYPE("F32") ",\"shape\":[4294967296,134217728],\"data_offsets\":[0,0]"), 0,
            "elements of F32 overflow");
    refuses(ONE(TYPE("F4") ",\"shape\":[3],\"data_offsets\":[0,1]"), 1, "no whole bytes");
    refuses(ONE(TYPE("F32") ",\"shape\":[2],\"data_offsets\":[0,4]"), 4,
            "hold 4 bytes, dtype and shape ask for 8");
    refuses(ONE(TYPE("F32") ",\"shape\":[0,4294967296],\"data_offsets\":[0,4]"), 4, "ask for 0");
}

static void refuses_offsets_that_leave_the_file_or_go_back(void **state)
{
    (void)state;
    refuses(ONE(TYPE("U8") ",\"shape\":[4]"), 4, "data_offsets: must be two integers, is nothing");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[0]"), 4, "data_offsets");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[0,2,4]"), 4, "data_offsets");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[0,\"4\"]"), 4, "data_offsets");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[4,0]"), 4,
            "the end 0 is before the begin 4");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[0,5]"), 4,
            "the end 5 is beyond the 4 bytes behind the header");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[0,9007199254740991]"), 4,
            "beyond the 4 bytes behind the header");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[-4,0]"), 4, "not an integer");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[0.0,4]"), 4, "not an integer");
}

static void refuses_holes_overlaps_and_bytes_behind_the_end(void **state)
{
    (void)state;
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[1,5]"), 5, "a hole");
    refuses(ONE(TYPE("U8") ",\"shape\":[4],\"data_offsets\":[0,4]"), 5, "the last tensor ends at");
    refuses("{}", 1, "the last tensor ends at");
    refuses("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
            9, "tensor \"b\": data_offsets: begins at 5, the tensor before ends at 4: a hole");
    refuses("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
            7, "begins at 3, the tensor before ends at 4: an overlap");
    refuses("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
            4, "an overlap");
}

static void a_truncated_file_is_refused_wherever_it_ends(void **state)
{
    (void)state;
    char folder[4096], path[4200];
    test_folder(folder);
    static const struct test_tensor tensors[] = {{"a", "F32", 1, {3}}, {"b", "BF16", 2, {2, 5}}};
    test_write_safetensors(folder, "w.safetensors", tensors, 2, 0);
    snprintf(path, sizeof path, "%s/w.safetensors", folder);
    size_t size;
    free(test_read_file(path, &size));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    struct safetensors table;
    struct failure failure;
    assert_int_equal(safetensors_read(&table, fd, size, path, &failure), 0);
    assert_int_equal(table.count, 2);
    safetensors_fini(&table);
    /* The size that fstat() gave may be a lie by the time we read. */
    assert_int_equal(ftruncate(fd, 20), 0);
    assert_int_equal(safetensors_read(&table, fd, size, path, &failure), -EINVAL);
    assert_non_null(strstr(failure.text, "the file ends at 20"));
    close(fd);
    test_write_safetensors(folder, "w.safetensors", tensors, 2, 0);
    fd = open(path, O_RDWR | O_CLOEXEC);
    while (size-- > 0) {
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        int err = safetensors_read(&table, fd, size, path, &failure);
        if (err != -EINVAL || !strstr(failure.text, path))
            fail_msg("%zu bytes: %d %s", size, err, failure.text);
    }
    close(fd);
    test_remove_folder(folder);
}

static void a_hundred_thousand_tensors_take_no_quadratic_time(void **state)
{
    (void)state;
    enum { COUNT = 100000 };
    char *header = malloc(COUNT * 80);
    assert_non_null(header);
    size_t used = (size_t)sprintf(header, "{");
    for (int i = 0; i < COUNT; i++)
        used += (size_t)sprintf(
            header + used, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
            i ? "," : "", i, COUNT - 1 - i, COUNT - i);
    header[used++] = '}';
    header[used] = 0;
    takes(header, COUNT, COUNT);
    free(header);
}

static void more_tensors_than_the_limit_are_refused(void **state)
{
    (void)state;
    size_t count = SAFETENSORS_TENSORS_MAX + 1;
    char *header = malloc(count * 16);
    assert_non_null(header);
    size_t used = (size_t)sprintf(header, "{");
    for (size_t i = 0; i < count; i++)
        used += (size_t)sprintf(header + used, "%s\"t%zu\":1", i ? "," : "", i);
    header[used++] = '}';
    header[used] = 0;
    struct safetensors table;
    struct failure failure;
    assert_int_equal(parse(&table, header, 0, &failure), -EFBIG);
    assert_non_null(strstr(failure.text, "tensors, the limit is"));
    free(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_scalars_empty_tensors_and_spaces),
        cmocka_unit_test(finds_tensors_by_name_with_offsets_from_the_files_begin),
        cmocka_unit_test(header_lengths_are_held_against_the_file),
        cmocka_unit_test(refuses_headers_that_are_no_table),
        cmocka_unit_test(refuses_names_that_stand_twice_or_are_no_names),
        cmocka_unit_test(refuses_unknown_types),
        cmocka_unit_test(refuses_shapes_that_overflow_or_lie),
        cmocka_unit_test(refuses_offsets_that_leave_the_file_or_go_back),
        cmocka_unit_test(refuses_holes_overlaps_and_bytes_behind_the_end),
        cmocka_unit_test(a_truncated_file_is_refused_wherever_it_ends),
        cmocka_unit_test(a_hundred_thousand_tensors_take_no_quadratic_time),
        cmocka_unit_test(more_tensors_than_the_limit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
