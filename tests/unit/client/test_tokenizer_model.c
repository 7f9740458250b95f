/* tokenizer.model: ranks in base64. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "client/tokenizer.h"
#include "tests/support/test.h"
#include "tests/support/text_cases.h"

/* The 256 bytes as ranks 0 to 255, and `more` lines. */
static size_t model_text(const char *more, char *ret_text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t bytes = 0;
    for (int i = 0; i < 256; i++)
        bytes += (size_t)sprintf(ret_text + bytes, "%c%c== %d\n", digits[i >> 2],
                                 digits[(i & 3) << 4], i);
    strcpy(ret_text + bytes, more);
    return bytes + strlen(more);
}

static int read_model(struct agl_tokenizer *tokenizer, const char *more)
{
    char text[8192];
    size_t bytes = model_text(more, text);
    memset(tokenizer, 0, sizeof *tokenizer);
    vocabulary_init(&tokenizer->vocabulary);
    return tokenizer_model_read(tokenizer, "some.model", text, bytes, NULL);
}

static void ranks_are_the_order_of_merging(void **state)
{
    struct agl_tokenizer tokenizer;
    /* "ab" "bc" "abc": ab merges first; abc is found whole, and by its cut. */
    assert_int_equal(read_model(&tokenizer, "YWI= 256\nYmM= 257\nYWJj 258\n\n"), 0);
    text_assert_ids(&tokenizer, "abc", 3, (const uint32_t[]){258}, 1);
    text_assert_ids(&tokenizer, "xbc", 3, (const uint32_t[]){'x', 257}, 2);
    text_assert_ids(&tokenizer, "abb", 3, (const uint32_t[]){256, 'b'}, 2);
    text_assert_ids(&tokenizer, "xabc", 4, (const uint32_t[]){'x', 258}, 2);
    assert_int_equal(tokenizer.vocabulary.pair_count, 4);
    assert_int_equal(agl_special_id(&tokenizer, "<|user|>"), -ENOENT);
    vocabulary_fini(&tokenizer.vocabulary);
}

static void a_piece_that_is_a_token_needs_no_merges(void **state)
{
    struct agl_tokenizer tokenizer;
    assert_int_equal(read_model(&tokenizer, "eHl6 300\n"), 0); /* "xyz", which no two tokens make */
    text_assert_ids(&tokenizer, "xyz", 3, (const uint32_t[]){300}, 1);
    text_assert_ids(&tokenizer, "xyzz", 4, (const uint32_t[]){'x', 'y', 'z', 'z'}, 4);
    vocabulary_fini(&tokenizer.vocabulary);
}

static void bad_lines_are_refused_with_their_number(void **state)
{
    static const char *const bad[] = {
        "YWI=\n",     "YWI= \n",        "YWI= x\n",
        "YWI= -1\n",  "YWI= 4194304\n", "YWI= 99999999999\n",
        "YWI 256\n",  "YW!= 256\n",     "YWJ= 256\n",
        " 256\n",     "YWI=  256\n",    "YWI= 256\r\n",
        "YQ== 256\n", "YWI= 97\n",      "==== 256\n",
        "Y=== 256\n", "YW=I 256\n",     "YWI= 256 x\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct agl_tokenizer tokenizer;
        if (read_model(&tokenizer, bad[i]) != -EINVAL)
            fail_msg("%s", bad[i]);
        if (!strstr(agl_error_detail(), "some.model: line 257"))
            fail_msg("%s gives %s", bad[i], agl_error_detail());
        vocabulary_fini(&tokenizer.vocabulary);
    }
}

static void a_missing_byte_is_refused(void **state)
{
    struct agl_tokenizer tokenizer = {0};
    static const char text[] = "YQ== 0\n";
    vocabulary_init(&tokenizer.vocabulary);
    assert_int_equal(tokenizer_model_read(&tokenizer, "m", text, sizeof text - 1, NULL), -EINVAL);
    assert_non_null(strstr(agl_error_detail(), "0x00"));
    vocabulary_fini(&tokenizer.vocabulary);
}

static void a_sentencepiece_model_is_refused_by_name(void **state)
{
    struct agl_tokenizer tokenizer = {0};
    static const char text[] = "\x0E\n\x05<unk>\x15\0\0\0\0\x18\x02";
    vocabulary_init(&tokenizer.vocabulary);
    assert_int_equal(tokenizer_model_read(&tokenizer, "m", text, sizeof text - 1, NULL), -EINVAL);
    assert_non_null(strstr(agl_error_detail(), "sentencepiece"));
    vocabulary_fini(&tokenizer.vocabulary);
}

static void special_tokens_come_from_the_configuration_beside_it(void **state)
{
    static const char config[] =
        "{\"added_tokens_decoder\":{\"400\":{\"content\":\"<|user|>\",\"special\":true},"
        "\"401\":{\"content\":\"<seen>\",\"special\":false}}}";
    char folder[4096];
    char text[8192];
    test_folder(folder);
    size_t bytes = model_text("", text);
    test_write_file(folder, "tokenizer.model", text, bytes);
    test_write_file(folder, "tokenizer_config.json", config, sizeof config - 1);
    struct agl_tokenizer *tokenizer = text_open(folder);
    assert_int_equal(agl_special_id(tokenizer, "<|user|>"), 400);
    assert_int_equal(agl_token_is_special(tokenizer, 400), 1);
    assert_int_equal(agl_special_id(tokenizer, "<seen>"), 401);
    assert_int_equal(agl_token_is_special(tokenizer, 401), 0);
    assert_int_equal(agl_encode(tokenizer, "<seen>", 6, NULL, 0), 6);
    assert_int_equal(agl_tokenizer_size(tokenizer), 402);
    assert_null(agl_chat_format(tokenizer));
    agl_tokenizer_close(tokenizer);
    test_remove_folder(folder);
}

static void the_pairs_of_glm4_are_as_many_as_its_published_merges(void **state)
{
    char path[4096];
    if (!test_shared_data("glm-4-9b-chat/tokenizer.model", path)) {
        skip();
        return;
    }
    uint64_t start_ns = agl_now_ns();
    struct agl_tokenizer *tokenizer = text_open(path);
    assert_true(agl_now_ns() - start_ns < (IS_SANITIZED ? 60000000000ull : 5000000000ull));
    assert_int_equal(tokenizer->vocabulary.pair_count, 318088);
    agl_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_the_order_of_merging),
        cmocka_unit_test(a_piece_that_is_a_token_needs_no_merges),
        cmocka_unit_test(bad_lines_are_refused_with_their_number),
        cmocka_unit_test(a_missing_byte_is_refused),
        cmocka_unit_test(a_sentencepiece_model_is_refused_by_name),
        cmocka_unit_test(special_tokens_come_from_the_configuration_beside_it),
        cmocka_unit_test(the_pairs_of_glm4_are_as_many_as_its_published_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
