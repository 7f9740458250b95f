#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/vocabulary.h"
#include "tests/support/test.h"

static int add(struct vocabulary *vocabulary, uint32_t id, const char *text, uint32_t flags)
{
    return vocabulary_add(vocabulary, id, text, strlen(text), flags);
}

static void tokens_are_found_by_bytes_and_by_id(void **state)
{
    struct vocabulary vocabulary;
    char text[16];
    vocabulary_init(&vocabulary);
    for (uint32_t i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "t%u", i * 7);
        assert_int_equal(add(&vocabulary, 4999 - i, text, VOCABULARY_ORDINARY), 0);
    }
    for (uint32_t i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "t%u", i * 7);
        assert_int_equal(vocabulary_find(&vocabulary, text, strlen(text)), 4999 - i);
        const struct vocabulary_token *token = vocabulary_token(&vocabulary, 4999 - i);
        assert_int_equal(token->bytes, strlen(text));
        assert_memory_equal(vocabulary_bytes(&vocabulary, token), text, token->bytes);
    }
    assert_int_equal(vocabulary_find(&vocabulary, "t1", 2), VOCABULARY_NONE);
    assert_int_equal(vocabulary_find(&vocabulary, "", 0), VOCABULARY_NONE);
    assert_null(vocabulary_token(&vocabulary, 5000));
    vocabulary_fini(&vocabulary);
}

static void an_empty_vocabulary_finds_nothing(void **state)
{
    struct vocabulary vocabulary;
    vocabulary_init(&vocabulary);
    assert_int_equal(vocabulary_find(&vocabulary, "a", 1), VOCABULARY_NONE);
    assert_int_equal(vocabulary_find_added(&vocabulary, "a", 1), VOCABULARY_NONE);
    assert_null(vocabulary_pair(&vocabulary, 0, 0));
    assert_null(vocabulary_token(&vocabulary, 0));
    assert_int_equal(vocabulary_seal(&vocabulary), 0);
    assert_int_equal(vocabulary_add_all_pairs(&vocabulary), 0);
    vocabulary_fini(&vocabulary);
}

static void a_special_token_is_not_found_as_text(void **state)
{
    struct vocabulary vocabulary;
    vocabulary_init(&vocabulary);
    assert_int_equal(add(&vocabulary, 0, "stop", VOCABULARY_ORDINARY), 0);
    assert_int_equal(add(&vocabulary, 0, "stop", VOCABULARY_ADDED | VOCABULARY_SPECIAL), 0);
    assert_int_equal(add(&vocabulary, 3, "halt", VOCABULARY_ADDED | VOCABULARY_SPECIAL), 0);
    assert_int_equal(add(&vocabulary, 3, "halt", VOCABULARY_ORDINARY), 0);
    assert_int_equal(add(&vocabulary, 4, "seen", VOCABULARY_ADDED), 0);
    assert_int_equal(add(&vocabulary, 4, "seen", VOCABULARY_ORDINARY), 0);
    assert_int_equal(vocabulary_seal(&vocabulary), 0);
    assert_int_equal(vocabulary_find(&vocabulary, "stop", 4), VOCABULARY_NONE);
    assert_int_equal(vocabulary_find(&vocabulary, "halt", 4), VOCABULARY_NONE);
    assert_int_equal(vocabulary_find(&vocabulary, "seen", 4), 4);
    assert_int_equal(vocabulary_find_added(&vocabulary, "stop", 4), 0);
    assert_int_equal(vocabulary_find_added(&vocabulary, "halt", 4), 3);
    assert_int_equal(vocabulary_find_added(&vocabulary, "seen", 4), 4);
    assert_int_equal(vocabulary_find_added(&vocabulary, "sto", 3), VOCABULARY_NONE);
    assert_null(vocabulary_token(&vocabulary, 1)); /* a gap */
    vocabulary_fini(&vocabulary);
}

static void what_contradicts_itself_is_refused(void **state)
{
    static char long_text[VOCABULARY_TOKEN_BYTES_MAX + 2];
    struct vocabulary vocabulary;
    memset(long_text, 'x', sizeof long_text - 1);
    vocabulary_init(&vocabulary);
    assert_int_equal(add(&vocabulary, 0, "a", VOCABULARY_ORDINARY), 0);
    assert_int_equal(add(&vocabulary, 0, "b", VOCABULARY_ORDINARY), -EEXIST);
    assert_int_equal(add(&vocabulary, 1, "a", VOCABULARY_ORDINARY), -EEXIST);
    assert_int_equal(add(&vocabulary, VOCABULARY_IDS_MAX, "c", VOCABULARY_ORDINARY), -ERANGE);
    assert_int_equal(add(&vocabulary, 2, "", VOCABULARY_ORDINARY), -ERANGE);
    assert_int_equal(add(&vocabulary, 2, long_text, VOCABULARY_ORDINARY), -ERANGE);
    long_text[VOCABULARY_TOKEN_BYTES_MAX] = 0;
    assert_int_equal(add(&vocabulary, 2, long_text, VOCABULARY_ORDINARY), 0);
    assert_int_equal(vocabulary.used_count, 2);
    assert_int_equal(add(&vocabulary, 5, "<x>", VOCABULARY_ADDED), 0);
    assert_int_equal(add(&vocabulary, 6, "<x>", VOCABULARY_ADDED), 0);
    assert_int_equal(vocabulary_seal(&vocabulary), -EEXIST);
    struct vocabulary_pair pair = {.left = 0, .right = 0, .rank = 1, .merged = 2};
    assert_int_equal(vocabulary_add_pair(&vocabulary, pair), 0);
    assert_int_equal(vocabulary_add_pair(&vocabulary, pair), -EEXIST);
    vocabulary_fini(&vocabulary);
}

static void every_cut_of_a_token_becomes_a_pair(void **state)
{
    static const char *const texts[] = {"a", "b", "c", "ab", "bc", "abc"};
    struct vocabulary vocabulary;
    vocabulary_init(&vocabulary);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(add(&vocabulary, i, texts[i], VOCABULARY_ORDINARY), 0);
    assert_int_equal(vocabulary_add_all_pairs(&vocabulary), 0);
    assert_int_equal(vocabulary.pair_count, 4);
    assert_int_equal(vocabulary_pair(&vocabulary, 0, 1)->merged, 3);
    assert_int_equal(vocabulary_pair(&vocabulary, 1, 2)->merged, 4);
    assert_int_equal(vocabulary_pair(&vocabulary, 3, 2)->merged, 5); /* ab c */
    assert_int_equal(vocabulary_pair(&vocabulary, 0, 4)->rank, 5);   /* a bc */
    assert_null(vocabulary_pair(&vocabulary, 2, 0));
    vocabulary_fini(&vocabulary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_found_by_bytes_and_by_id),
        cmocka_unit_test(an_empty_vocabulary_finds_nothing),
        cmocka_unit_test(a_special_token_is_not_found_as_text),
        cmocka_unit_test(what_contradicts_itself_is_refused),
        cmocka_unit_test(every_cut_of_a_token_becomes_a_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
