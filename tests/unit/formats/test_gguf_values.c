/* Single values of a GGUF file. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/gguf_files.h"
#include "tests/support/test.h"

struct fixture {
    unsigned char *bytes;
    struct gguf table;
};

static int set_up(void **state)
{
    static struct fixture fixture;
    struct test_gguf gguf;
    size_t size;
    test_gguf_init(&gguf);
    test_gguf_raw(&gguf, "u8", 2, GGUF_VALUE_U8, "\xff", 1);
    test_gguf_raw(&gguf, "i8", 2, GGUF_VALUE_I8, "\xff", 1);
    test_gguf_raw(&gguf, "u16", 3, GGUF_VALUE_U16, "\xff\xff", 2);
    test_gguf_raw(&gguf, "i16", 3, GGUF_VALUE_I16, "\x34\x12", 2);
    test_gguf_u32(&gguf, "u32", UINT32_MAX);
    test_gguf_i32(&gguf, "i32", INT32_MIN);
    test_gguf_u64(&gguf, "u64", UINT64_MAX);
    test_gguf_raw(&gguf, "i64", 3, GGUF_VALUE_I64, &(int64_t){INT64_MIN}, 8);
    test_gguf_f32(&gguf, "f32", 0.5F);
    test_gguf_f32(&gguf, "nan", NAN);
    test_gguf_raw(&gguf, "f64", 3, GGUF_VALUE_F64, &(double){0.1}, 8);
    test_gguf_bool(&gguf, "yes", 1);
    test_gguf_bool(&gguf, "no", 0);
    test_gguf_string(&gguf, "text", "some text");
    test_gguf_strings(&gguf, "texts", (const char *const[]){"one", "", "three"}, 3);
    test_gguf_i32s(&gguf, "numbers", (const int32_t[]){7, -8, INT32_MIN}, 3);
    fixture.bytes = test_gguf_bytes(&gguf, &size);
    test_gguf_fini(&gguf);
    assert_int_equal(gguf_parse(&fixture.table, fixture.bytes, size, size, "x.gguf", NULL), 0);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    gguf_fini(&fixture->table);
    free(fixture->bytes);
    return 0;
}

static const struct gguf *table_of(void **state)
{
    return &((struct fixture *)*state)->table;
}

static void integers_of_every_width_are_read(void **state)
{
    static const struct {
        const char *key;
        uint64_t value;
    } good[] = {
        {"u8", 255}, {"u16", 65535}, {"i16", 0x1234}, {"u32", UINT32_MAX}, {"u64", UINT64_MAX}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t value = 0;
        assert_int_equal(gguf_u64(table_of(state), good[i].key, 0, UINT64_MAX, &value, NULL), 0);
        assert_int_equal(value, good[i].value);
    }
}

static void negative_numbers_are_told_with_their_sign(void **state)
{
    static const char *const keys[] = {"i8", "i32", "i64"};
    static const char *const texts[] = {"x.gguf: i8: -1 is not in", "x.gguf: i32: -2147483648 is",
                                        "x.gguf: i64: -9223372036854775808 is"};
    for (size_t i = 0; i < 3; i++) {
        char why[GGUF_WHY_BYTES];
        uint64_t value = 5;
        assert_int_equal(gguf_u64(table_of(state), keys[i], 0, UINT64_MAX, &value, why), -EINVAL);
        assert_non_null(strstr(why, texts[i]));
        assert_int_equal(value, 5);
    }
}

static void what_is_out_of_range_is_refused_with_the_range(void **state)
{
    char why[GGUF_WHY_BYTES];
    uint32_t value = 5;
    double number = 5;
    assert_int_equal(gguf_u32(table_of(state), "u8", 1, 254, &value, why), -EINVAL);
    assert_string_equal(why, "x.gguf: u8: 255 is not in 1 ... 254");
    assert_int_equal(gguf_u32(table_of(state), "u64", 0, UINT32_MAX, &value, why), -EINVAL);
    assert_int_equal(gguf_double(table_of(state), "f32", 1, 2, &number, why), -EINVAL);
    assert_string_equal(why, "x.gguf: f32: 0.5 is not in 1 ... 2");
    assert_int_equal(gguf_double(table_of(state), "nan", -INFINITY, INFINITY, &number, why),
                     -EINVAL);
    assert_true(value == 5 && number == 5);
}

static void floats_of_both_widths_are_read(void **state)
{
    double value;
    assert_int_equal(gguf_double(table_of(state), "f32", 0, 1, &value, NULL), 0);
    assert_true(value == 0.5);
    assert_int_equal(gguf_double(table_of(state), "f64", 0, 1, &value, NULL), 0);
    assert_true(value == 0.1);
}

static void a_value_of_another_type_is_refused_with_both_types(void **state)
{
    char why[GGUF_WHY_BYTES];
    uint32_t number;
    double real;
    bool is_true;
    const char *text;
    size_t bytes;
    const struct gguf_value *array;
    const struct gguf *table = table_of(state);
    assert_int_equal(gguf_u32(table, "f32", 0, 1, &number, why), -EINVAL);
    assert_string_equal(why, "x.gguf: f32: must be an integer, is an f32");
    assert_int_equal(gguf_u32_or(table, "yes", 0, 1, 1, &number, why), -EINVAL);
    assert_string_equal(why, "x.gguf: yes: must be an integer, is a bool");
    assert_int_equal(gguf_double_or(table, "u8", 0, 1, 1, &real, why), -EINVAL);
    assert_string_equal(why, "x.gguf: u8: must be a float, is a u8");
    assert_int_equal(gguf_bool_or(table, "u8", false, &is_true, why), -EINVAL);
    assert_string_equal(why, "x.gguf: u8: must be a bool, is a u8");
    assert_int_equal(gguf_string(table, "texts", &text, &bytes, why), -EINVAL);
    assert_string_equal(why, "x.gguf: texts: must be a string, is an array of strings");
    assert_int_equal(gguf_array(table, "numbers", GGUF_VALUE_F32, &array, why), -EINVAL);
    assert_string_equal(why, "x.gguf: numbers: must be an array of f32, is an array of i32");
}

static void what_is_missing_gets_the_fallback_or_is_told(void **state)
{
    char why[GGUF_WHY_BYTES];
    uint32_t number = 0;
    double real = 0;
    bool is_true = false;
    assert_int_equal(gguf_u32_or(table_of(state), "absent", 0, 9, 7, &number, why), 0);
    assert_int_equal(number, 7);
    assert_int_equal(gguf_double_or(table_of(state), "absent", 0, 1, 0.25, &real, why), 0);
    assert_true(real == 0.25);
    assert_int_equal(gguf_bool_or(table_of(state), "absent", true, &is_true, why), 0);
    assert_true(is_true);
    assert_int_equal(gguf_u32(table_of(state), "absent", 0, 9, &number, why), -ENOENT);
    assert_string_equal(why, "x.gguf: absent: missing");
    assert_int_equal(gguf_bool_or(table_of(state), "no", true, &is_true, why), 0);
    assert_false(is_true);
}

static void arrays_are_gone_through(void **state)
{
    static const char *const wanted[] = {"one", "", "three"};
    const struct gguf_value *array;
    assert_int_equal(gguf_array(table_of(state), "texts", GGUF_VALUE_STRING, &array, NULL), 0);
    assert_int_equal(array->count, 3);
    const unsigned char *at = array->bytes;
    for (int i = 0; i < 3; i++) {
        const char *text;
        size_t bytes;
        gguf_next_string(&at, &text, &bytes);
        assert_int_equal(bytes, strlen(wanted[i]));
        assert_memory_equal(text, wanted[i], bytes);
    }
    assert_ptr_equal(at, array->bytes + array->size);
    assert_int_equal(gguf_array(table_of(state), "numbers", GGUF_VALUE_I32, &array, NULL), 0);
    assert_int_equal(gguf_item_i32(array, 0), 7);
    assert_int_equal(gguf_item_i32(array, 1), -8);
    assert_int_equal(gguf_item_i32(array, 2), INT32_MIN);
}

static void foreign_text_is_quoted_escaped_and_cut(void **state)
{
    char text[200];
    assert_string_equal(gguf_quote("a\0\n\x7f", 4).text, "\"a\\x00\\x0a\\x7f\"");
    assert_string_equal(gguf_quote("", 0).text, "\"\"");
    for (size_t length = 0; length < sizeof text; length++) {
        memset(text, length % 2 ? 1 : 'x', sizeof text);
        struct gguf_quoted quoted = gguf_quote(text, length);
        size_t used = strlen(quoted.text);
        assert_true(quoted.text[0] == '"' && quoted.text[used - 1] == '"');
        assert_true(length < 10 || length > 100 || used > 10);
    }
    assert_non_null(strstr(gguf_quote(text, 200).text, "...\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_of_every_width_are_read),
        cmocka_unit_test(negative_numbers_are_told_with_their_sign),
        cmocka_unit_test(what_is_out_of_range_is_refused_with_the_range),
        cmocka_unit_test(floats_of_both_widths_are_read),
        cmocka_unit_test(a_value_of_another_type_is_refused_with_both_types),
        cmocka_unit_test(what_is_missing_gets_the_fallback_or_is_told),
        cmocka_unit_test(arrays_are_gone_through),
        cmocka_unit_test(foreign_text_is_quoted_escaped_and_cut),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
