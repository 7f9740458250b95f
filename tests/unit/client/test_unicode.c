#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "client/unicode.h"
#include "tests/support/test.h"

static void every_code_point_is_read_as_it_was_written(void **state)
{
    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        char text[4];
        if (code >= 0xD800 && code <= 0xDFFF)
            continue;
        uint32_t bytes = unicode_write(code, text);
        struct unicode_char c = unicode_read(text, bytes);
        if (c.state != UNICODE_GOOD || c.code != code || c.bytes != bytes)
            fail_msg("U+%04X", code);
    }
}

static void broken_bytes_are_taken_like_python_does(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
        enum unicode_state state;
        uint32_t length;
    } cases[] = {
        {"\x80", 1, UNICODE_BROKEN, 1},
        {"\xC0\x80", 2, UNICODE_BROKEN, 1},
        {"\xC1\xBF", 2, UNICODE_BROKEN, 1},
        {"\xF5\x80\x80\x80", 4, UNICODE_BROKEN, 1},
        {"\xFF", 1, UNICODE_BROKEN, 1},
        {"\xE0\x80\x80", 3, UNICODE_BROKEN, 1},
        {"\xED\xA0\x80", 3, UNICODE_BROKEN, 1},
        {"\xF0\x80\x80\x80", 4, UNICODE_BROKEN, 1},
        {"\xF4\x90\x80\x80", 4, UNICODE_BROKEN, 1},
        {"\xE4\xBD"
         "a",
         3, UNICODE_BROKEN, 2},
        {"\xF0\x9F\x99"
         "a",
         4, UNICODE_BROKEN, 3},
        {"\xC3", 1, UNICODE_INCOMPLETE, 1},
        {"\xE4\xBD", 2, UNICODE_INCOMPLETE, 2},
        {"\xF0\x9F\x99", 3, UNICODE_INCOMPLETE, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct unicode_char c = unicode_read(cases[i].text, cases[i].bytes);
        assert_int_equal(c.state, cases[i].state);
        assert_int_equal(c.bytes, cases[i].length);
        assert_int_equal(c.code, UINT32_MAX);
    }
}

static void classes_are_those_of_the_splitting_rules(void **state)
{
    static const struct {
        uint32_t code;
        enum unicode_class class;
    } cases[] = {
        {'a', UNICODE_LETTER},   {'Z', UNICODE_LETTER},    {0xAA, UNICODE_LETTER},
        {0x17F, UNICODE_LETTER}, {0x2B0, UNICODE_LETTER},  {0x4F60, UNICODE_LETTER},
        {0x1C5, UNICODE_LETTER}, {'7', UNICODE_NUMBER},    {0xBD, UNICODE_NUMBER},
        {0x663, UNICODE_NUMBER}, {0x216B, UNICODE_NUMBER}, {' ', UNICODE_SPACE},
        {'\t', UNICODE_SPACE},   {0x0B, UNICODE_SPACE},    {0x0C, UNICODE_SPACE},
        {0x85, UNICODE_SPACE},   {0xA0, UNICODE_SPACE},    {0x1680, UNICODE_SPACE},
        {0x200A, UNICODE_SPACE}, {0x2028, UNICODE_SPACE},  {0x3000, UNICODE_SPACE},
        {'\n', UNICODE_NEWLINE}, {'\r', UNICODE_NEWLINE},  {0x1C, UNICODE_OTHER},
        {0, UNICODE_OTHER},      {'_', UNICODE_OTHER},     {'@', UNICODE_OTHER},
        {'[', UNICODE_OTHER},    {'`', UNICODE_OTHER},     {'{', UNICODE_OTHER},
        {0x200B, UNICODE_OTHER}, {0x180E, UNICODE_OTHER},  {0xFEFF, UNICODE_OTHER},
        {0x301, UNICODE_OTHER},  {0x1F642, UNICODE_OTHER}, {0x10FFFF, UNICODE_OTHER},
        {0xE000, UNICODE_OTHER},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (unicode_class(cases[i].code) != cases[i].class)
            fail_msg("U+%04X is %d, not %d", cases[i].code, unicode_class(cases[i].code),
                     cases[i].class);
    size_t bytes = 0;
    assert_int_equal(unicode_class_at("\xE4\xBD", 2, &bytes), UNICODE_OTHER);
    assert_int_equal(bytes, 1);
}

static void assert_nfc(const char *text, const char *expected)
{
    char *result = NULL;
    size_t bytes = 0;
    int changed = unicode_nfc(text, strlen(text), &result, &bytes);
    if (strcmp(text, expected) == 0) {
        assert_int_equal(changed, 0);
        assert_null(result);
        return;
    }
    assert_int_equal(changed, 1);
    assert_int_equal(bytes, strlen(expected));
    assert_memory_equal(result, expected, bytes);
    free(result);
}

static void texts_are_brought_into_form_c(void **state)
{
    assert_nfc("plain \xC3\xA9", "plain \xC3\xA9");
    assert_nfc("e\xCC\x81", "\xC3\xA9");                                /* composes */
    assert_nfc("\xE2\x84\xAB", "\xC3\x85");                             /* Angstrom sign */
    assert_nfc("\xCD\x84", "\xCC\x88\xCC\x81");                         /* excluded */
    assert_nfc("a\xCC\x81\xCC\x96", "\xC3\xA1\xCC\x96");                /* over another class */
    assert_nfc("a\xCC\x96\xCC\x81", "\xC3\xA1\xCC\x96");                /* reordered */
    assert_nfc("q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");               /* reordered only */
    assert_nfc("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"); /* Hangul */
    assert_nfc("\xEA\xB0\x80\xE1\x86\xA8", "\xEA\xB0\x81");             /* Hangul, LV + T */
    assert_nfc("\xEF\xAC\x81", "\xEF\xAC\x81");                         /* fi stays: not NFKC */
    assert_nfc("\xF0\x9D\x85\x9E", "\xF0\x9D\x85\x97\xF0\x9D\x85\xA5"); /* grows */
    assert_nfc("e\xFF\xCC\x81 e\xCC\x81", "e\xFF\xCC\x81 \xC3\xA9");    /* a broken byte parts */
    assert_nfc("\xE4\xBD", "\xE4\xBD");
}

static void a_million_combining_marks_are_sorted_in_linear_time(void **state)
{
    const size_t count = 2000000;
    char *text = malloc(count * 2);
    assert_non_null(text);
    for (size_t i = 0; i < count; i++)
        memcpy(text + 2 * i, i % 2 ? "\xCC\x96" : "\xCC\x81", 2);
    char *result = NULL;
    size_t bytes = 0;
    uint64_t start_ns = agl_now_ns();
    assert_int_equal(unicode_nfc(text, count * 2, &result, &bytes), 1);
    assert_true(agl_now_ns() - start_ns < 10000000000ull);
    assert_int_equal(bytes, count * 2);
    assert_memory_equal(result, "\xCC\x96\xCC\x96", 4); /* class 220 goes before 230 */
    assert_memory_equal(result + bytes - 4, "\xCC\x81\xCC\x81", 4);
    free(result);
    free(text);
}

static void long_plain_texts_keep_what_combines_across_a_flush(void **state)
{
    const size_t count = 9000;
    char *text = malloc(count * 3);
    assert_non_null(text);
    for (size_t i = 0; i < count; i++)
        memcpy(text + 3 * i, "e\xCC\x81", 3);
    char *result = NULL;
    size_t bytes = 0;
    assert_int_equal(unicode_nfc(text, count * 3, &result, &bytes), 1);
    assert_int_equal(bytes, count * 2);
    for (size_t i = 0; i < count; i++)
        assert_memory_equal(result + 2 * i, "\xC3\xA9", 2);
    free(result);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_is_read_as_it_was_written),
        cmocka_unit_test(broken_bytes_are_taken_like_python_does),
        cmocka_unit_test(classes_are_those_of_the_splitting_rules),
        cmocka_unit_test(texts_are_brought_into_form_c),
        cmocka_unit_test(a_million_combining_marks_are_sorted_in_linear_time),
        cmocka_unit_test(long_plain_texts_keep_what_combines_across_a_flush),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
