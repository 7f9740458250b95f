/* Ids to text, whole and streamed. The small GLM-4 vocabulary has a token for every byte. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "tests/support/test.h"
#include "tests/support/text_cases.h"

#define BAD "\xEF\xBF\xBD"

static struct agl_tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    tokenizer = text_open_small("glm4");
    return 0;
}

static int close_tokenizer(void **state)
{
    agl_tokenizer_close(tokenizer);
    return 0;
}

static uint32_t byte_id(char byte)
{
    uint32_t id = 0;
    assert_int_equal(agl_encode(tokenizer, &byte, 1, &id, 1), 1);
    return id;
}

/* What Python's bytes.decode("utf-8", errors="replace") gives. */
static const struct {
    const char *bytes;
    const char *text;
} broken[] = {
    {"plain", "plain"},
    {"\xE4\xBD\xA0\xE5\xA5\xBD", "\xE4\xBD\xA0\xE5\xA5\xBD"},
    {"\xF0\x9F\x99\x82", "\xF0\x9F\x99\x82"},
    {"a\xFFz", "a" BAD "z"},
    {"\xE4\xBDz", BAD "z"},
    {"\xE4\xBD", BAD},
    {"\xF0\x9F\x99", BAD},
    {"\x80\x80", BAD BAD},
    {"\xC0\x80", BAD BAD},
    {"\xED\xA0\x80", BAD BAD BAD},
    {"\xF4\x90\x80\x80", BAD BAD BAD BAD},
    {"\xE4\xE4\xBD\xA0", BAD "\xE4\xBD\xA0"},
    {"\xF0\x9F\xF0\x9F\x99\x82", BAD "\xF0\x9F\x99\x82"},
    {"\xF0\x9F\xC3\xA9", BAD "\xC3\xA9"},
};

/* Streams ids and collects the text; checks that each piece is whole characters. */
static size_t stream(const uint32_t *ids, size_t count, char *ret_text)
{
    struct agl_detokenizer *detokenizer = NULL;
    const char *text = NULL;
    size_t bytes = 0;
    size_t total = 0;
    assert_int_equal(agl_detokenizer_open(&detokenizer, tokenizer), 0);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(agl_detokenizer_push(detokenizer, ids[i], &text, &bytes), 0);
        assert_true(bytes == 0 || ((uint8_t)text[0] & 0xC0) != 0x80);
        memcpy(ret_text + total, text, bytes);
        total += bytes;
    }
    assert_int_equal(agl_detokenizer_finish(detokenizer, &text, &bytes), 0);
    memcpy(ret_text + total, text, bytes);
    total += bytes;
    agl_detokenizer_close(detokenizer);
    return total;
}

static void broken_bytes_become_what_python_makes_of_them(void **state)
{
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        uint32_t ids[16];
        char text[64];
        size_t count = strlen(broken[i].bytes);
        size_t expected = strlen(broken[i].text);
        for (size_t k = 0; k < count; k++)
            ids[k] = byte_id(broken[i].bytes[k]);
        assert_int_equal(agl_decode(tokenizer, ids, count, text, sizeof text), expected);
        assert_memory_equal(text, broken[i].text, expected);
        assert_int_equal(stream(ids, count, text), expected);
        assert_memory_equal(text, broken[i].text, expected);
    }
}

static void no_half_character_is_given_out(void **state)
{
    static const char smile[] = "\xF0\x9F\x99\x82";
    struct agl_detokenizer *detokenizer = NULL;
    const char *text = NULL;
    size_t bytes = 9;
    assert_int_equal(agl_detokenizer_open(&detokenizer, tokenizer), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(agl_detokenizer_push(detokenizer, byte_id(smile[i]), &text, &bytes), 0);
        assert_int_equal(bytes, i < 3 ? 0 : 4);
    }
    assert_memory_equal(text, smile, 4);
    assert_int_equal(agl_detokenizer_finish(detokenizer, &text, &bytes), 0);
    assert_int_equal(bytes, 0);
    agl_detokenizer_close(detokenizer);
}

static void finish_gives_the_rest_and_starts_anew(void **state)
{
    struct agl_detokenizer *detokenizer = NULL;
    const char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(agl_detokenizer_open(&detokenizer, tokenizer), 0);
    agl_detokenizer_push(detokenizer, byte_id('\xE4'), &text, &bytes);
    assert_int_equal(agl_detokenizer_finish(detokenizer, &text, &bytes), 0);
    assert_int_equal(bytes, 3);
    assert_memory_equal(text, BAD, 3);
    agl_detokenizer_push(detokenizer, byte_id('\xBD'), &text, &bytes);
    assert_memory_equal(text, BAD, 3); /* a new text: nothing to complete */
    agl_detokenizer_close(detokenizer);
}

static void special_tokens_are_seen_whole_but_not_streamed(void **state)
{
    char text[64];
    int user = agl_special_id(tokenizer, "<|user|>");
    int think = agl_special_id(tokenizer, "<think>");
    assert_true(user > 0 && think > 0);
    const uint32_t ids[] = {byte_id('a'), (uint32_t)user, (uint32_t)think, byte_id('b')};
    assert_int_equal(agl_decode(tokenizer, ids, 4, text, sizeof text), 17);
    assert_memory_equal(text, "a<|user|><think>b", 17);
    assert_int_equal(stream(ids, 4, text), 9);
    assert_memory_equal(text, "a<think>b", 9);
    const uint32_t parted[] = {byte_id('\xC3'), (uint32_t)user, byte_id('\xA9')};
    assert_int_equal(stream(parted, 3, text), 2); /* as if it were not there */
    assert_memory_equal(text, "\xC3\xA9", 2);
}

static void streams_of_any_ids_give_what_decode_gives(void **state)
{
    uint32_t random = 7;
    uint32_t size = agl_tokenizer_size(tokenizer);
    for (int round = 0; round < 300; round++) {
        uint32_t ids[64];
        char streamed[8192];
        char decoded[8192];
        size_t count = 0;
        while (count < 64) {
            random = random * 1664525u + 1013904223u;
            uint32_t id = (random >> 8) % (round % 2 ? size : 256);
            if (!agl_token_is_special(tokenizer, id))
                ids[count++] = id;
        }
        int bytes = agl_decode(tokenizer, ids, count, decoded, sizeof decoded);
        assert_true(bytes > 0);
        assert_int_equal(stream(ids, count, streamed), bytes);
        assert_memory_equal(streamed, decoded, (size_t)bytes);
    }
}

static void decode_counts_what_does_not_fit(void **state)
{
    const uint32_t ids[] = {byte_id('a'), byte_id('\xFF'), byte_id('b')};
    char text[6] = "......";
    assert_int_equal(agl_decode(tokenizer, ids, 3, NULL, 0), 5);
    assert_int_equal(agl_decode(tokenizer, ids, 3, text, 3), 5);
    assert_memory_equal(text, "a\xEF\xBF...", 6);
    assert_int_equal(agl_decode(tokenizer, NULL, 0, NULL, 0), 0);
}

static void unknown_ids_change_nothing(void **state)
{
    struct agl_detokenizer *detokenizer = NULL;
    const uint32_t ids[] = {byte_id('a'), 999999};
    char buffer[4] = "...";
    const char *text = "untouched";
    size_t bytes = 77;
    assert_int_equal(agl_decode(tokenizer, ids, 2, buffer, 3), -EINVAL);
    assert_string_equal(buffer, "...");
    assert_non_null(strstr(agl_error_detail(), "999999"));
    assert_int_equal(agl_detokenizer_open(&detokenizer, tokenizer), 0);
    assert_int_equal(agl_detokenizer_push(detokenizer, 999999, &text, &bytes), -EINVAL);
    assert_string_equal(text, "untouched");
    assert_int_equal(bytes, 77);
    agl_detokenizer_close(detokenizer);
    agl_detokenizer_close(NULL);
    assert_int_equal(agl_detokenizer_open(NULL, tokenizer), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_bytes_become_what_python_makes_of_them),
        cmocka_unit_test(no_half_character_is_given_out),
        cmocka_unit_test(finish_gives_the_rest_and_starts_anew),
        cmocka_unit_test(special_tokens_are_seen_whole_but_not_streamed),
        cmocka_unit_test(streams_of_any_ids_give_what_decode_gives),
        cmocka_unit_test(decode_counts_what_does_not_fit),
        cmocka_unit_test(unknown_ids_change_nothing),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
