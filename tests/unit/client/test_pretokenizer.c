/* The splitting rules, piece by piece. "|" stands for a cut, so no text here has one of its own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "client/pretokenizer.h"
#include "tests/support/test.h"

static const struct pretokenizer glm4 = {PRETOKENIZER_GLM4, true};
static const struct pretokenizer spelled = {PRETOKENIZER_GLM4, false};
static const struct pretokenizer qwen2 = {PRETOKENIZER_QWEN2, true};
static const struct pretokenizer gpt2 = {PRETOKENIZER_GPT2, false};
static const struct pretokenizer smollm = {PRETOKENIZER_SMOLLM, false};

static void assert_cuts(const struct pretokenizer *rule, const char *expected)
{
    char text[256];
    char cut[512];
    size_t bytes = 0;
    for (const char *c = expected; *c; c++)
        if (*c != '|')
            text[bytes++] = *c;
    size_t cut_bytes = 0;
    for (size_t at = 0; at < bytes;) {
        size_t length = pretokenizer_next(rule, text + at, bytes - at);
        assert_true(length >= 1 && length <= bytes - at);
        if (at > 0)
            cut[cut_bytes++] = '|';
        memcpy(cut + cut_bytes, text + at, length);
        cut_bytes += length;
        at += length;
    }
    cut[cut_bytes] = 0;
    assert_string_equal(cut, expected);
}

static void assert_all_cuts(const struct pretokenizer *rule, const char *const *cases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_cuts(rule, cases[i]);
}

#define ASSERT_ALL_CUTS(rule, cases) assert_all_cuts(rule, cases, sizeof cases / sizeof cases[0])

static void glm4_and_llama3_cut_by_their_rule(void **state)
{
    static const char *const cases[] = {
        "Hello| world",
        "I|'M| we|'Re| '|LL",
        "it|'s",
        "they|'ll|'d",
        "'x",
        "'re|x",
        "'r",
        "(word|)",
        "\tword| a",
        "123|456|7",
        "a|1",
        "a| |1",
        "a| | |1",
        "...|a",
        ".a",
        " ...\n\n|x",
        "!!\r\n|y",
        "a| | b",
        "a|   ",
        "a|\n\n| b",
        "  \t\n| x",
        "a| \n\t\n|  | x",
        "\n\n",
        "a|\xE3\x80\x80|\xE3\x80\x80"
        "b",
        "\xC2\x85"
        "b",
        "\xE4\xBD\xA0\xE5\xA5\xBD|\xEF\xBC\x8C\xE4\xB8\x96",
        "\xF0\x9F\x99\x82\xF0\x9F\x91\x8D",
        "\xFF\xFE|a",
        "\xFF"
        "a",
        "e|\xCC\x81",
    };
    ASSERT_ALL_CUTS(&glm4, cases);
}

static void the_long_s_ends_a_contraction_only_where_case_is_folded(void **state)
{
    assert_cuts(&glm4, "x|'\xC5\xBF|b");
    assert_cuts(&spelled, "x|'\xC5\xBF"
                          "b");
    assert_cuts(&spelled, "x|'S|b");
    assert_cuts(&gpt2, "x|'|\xC5\xBF"
                       "b");
}

static void qwen2_takes_numbers_one_by_one(void **state)
{
    static const char *const cases[] = {"1|2|3| |4", "a|1|\xC2\xBD", "x| | |1", "I|'M| a"};
    ASSERT_ALL_CUTS(&qwen2, cases);
}

static void gpt2_cuts_by_its_rule(void **state)
{
    static const char *const cases[] = {
        "Hello| world|'s", "I|'|M",     "12345| 67", "a| | 1", "(|word|)",     "\t|word",
        "a|\n|\n|b",       "a| \n | x", "!!|\n",     "a|  ",   " ...|\n|\n|x",
    };
    ASSERT_ALL_CUTS(&gpt2, cases);
}

static void smollm_takes_numbers_out_first(void **state)
{
    static const char *const cases[] = {
        "a|1|2", "a| |1", "a|  |1| |2", "a|\n\n|1", " a|  | b", "\xE2\x85\xAB|x| !!", "it|'s|1|s",
    };
    ASSERT_ALL_CUTS(&smollm, cases);
}

static void each_known_spelling_finds_its_rule(void **state)
{
    static const char three[] =
        "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
        "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    struct pretokenizer found = {PRETOKENIZER_GPT2, false};
    char regex[512];
    strcpy(regex, "(?i:'s|'t|'re|'ve|'m|'ll|'d)");
    strcat(regex, three);
    assert_int_equal(pretokenizer_find(regex, &found), 0);
    assert_int_equal(found.rule, PRETOKENIZER_GLM4);
    assert_true(found.long_s);
    strcpy(regex, "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])");
    strcat(regex, three);
    assert_int_equal(pretokenizer_find(regex, &found), 0);
    assert_false(found.long_s);
    assert_int_equal(pretokenizer_find("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                                       " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                                       &found),
                     0);
    assert_int_equal(found.rule, PRETOKENIZER_GPT2);
}

static void an_unknown_spelling_is_not_guessed(void **state)
{
    struct pretokenizer found = {PRETOKENIZER_QWEN2, true};
    assert_int_equal(pretokenizer_find("\\s+", &found), -ENOENT);
    assert_int_equal(pretokenizer_find("", &found), -ENOENT);
    assert_int_equal(pretokenizer_find("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                                       " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s",
                                       &found),
                     -ENOENT);
    assert_int_equal(found.rule, PRETOKENIZER_QWEN2);
}

static void hostile_texts_take_linear_time(void **state)
{
    static const char *const units[] = {" ",  "\n ",          "a",    "'",   " '",
                                        "1 ", "\xE3\x80\x80", "\xFF", "! \n"};
    static const struct pretokenizer *const rules[] = {&glm4, &qwen2, &gpt2, &smollm};
    const size_t bytes = 1u << 20;
    char *text = malloc(bytes);
    assert_non_null(text);
    for (size_t rule = 0; rule < 4; rule++) {
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
            for (size_t k = 0; k < bytes; k++)
                text[k] = units[i][k % strlen(units[i])];
            uint64_t start_ns = agl_now_ns();
            for (size_t at = 0; at < bytes;)
                at += pretokenizer_next(rules[rule], text + at, bytes - at);
            assert_true(agl_now_ns() - start_ns < 10000000000ull);
        }
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(glm4_and_llama3_cut_by_their_rule),
        cmocka_unit_test(the_long_s_ends_a_contraction_only_where_case_is_folded),
        cmocka_unit_test(qwen2_takes_numbers_one_by_one),
        cmocka_unit_test(gpt2_cuts_by_its_rule),
        cmocka_unit_test(smollm_takes_numbers_out_first),
        cmocka_unit_test(each_known_spelling_finds_its_rule),
        cmocka_unit_test(an_unknown_spelling_is_not_guessed),
        cmocka_unit_test(hostile_texts_take_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
