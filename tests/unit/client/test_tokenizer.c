/* agl_tokenizer_open(), agl_encode() and what tokens tell, on real vocabularies and small ones. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "autoglm.h"
#include "tests/support/test.h"
#include "tests/support/text_cases.h"

static const char *const small[] = {"glm4", "llama3", "qwen2", "gpt2", "smollm"};

static void the_small_vocabularies_give_the_ids_of_the_reference(void **state)
{
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        char path[4096];
        struct agl_tokenizer *tokenizer = text_open_small(small[i]);
        snprintf(path, sizeof path, AGL_SOURCE_DIR "/tests/data/tokenizer/%s.cases.json", small[i]);
        assert_true(text_assert_cases(tokenizer, path) >= 90);
        agl_tokenizer_close(tokenizer);
    }
}

static void glm4s_tokenizer_model_gives_the_known_ids(void **state)
{
    char cases[4096];
    char folder[4096];
    if (!test_shared_data("glm-4-9b-chat/token_cases.json", cases) ||
        !test_shared_data("glm-4-9b-chat", folder)) {
        skip();
        return;
    }
    struct agl_tokenizer *tokenizer = text_open(folder);
    assert_int_equal(text_assert_cases(tokenizer, cases), 10);
    assert_int_equal(agl_tokenizer_size(tokenizer), 151343);
    assert_int_equal(agl_special_id(tokenizer, "<|endoftext|>"), 151329);
    assert_int_equal(agl_special_id(tokenizer, "[gMASK]"), 151331);
    assert_int_equal(agl_special_id(tokenizer, "<|end_of_video|>"), 151342);
    assert_int_equal(agl_special_id(tokenizer, "<think>"), -ENOENT);

    static const struct {
        const char *text;
        uint32_t ids[8];
        size_t count;
    } known[] = {
        {"12345 67", {108714, 100461, 220, 102952}, 4},
        {"   \t\n x", {262, 1572, 856}, 3},
        {"<think>", {13699, 766, 29}, 3},
        {"\xE4\xBD\xA0\xE5\xA5\xBD", {109377}, 1},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        text_assert_ids(tokenizer, known[i].text, strlen(known[i].text), known[i].ids,
                        known[i].count);
    agl_tokenizer_close(tokenizer);
}

static void glm4s_special_tokens_are_known_without_a_configuration(void **state)
{
    char model[4096];
    char folder[4096];
    char path[8192];
    if (!test_shared_data("glm-4-9b-chat/tokenizer.model", model)) {
        skip();
        return;
    }
    test_folder(folder);
    snprintf(path, sizeof path, "%s/tokenizer.model", folder);
    assert_int_equal(symlink(model, path), 0);
    struct agl_tokenizer *tokenizer = text_open(path);
    assert_int_equal(agl_special_id(tokenizer, "<|observation|>"), 151338);
    assert_int_equal(agl_tokenizer_size(tokenizer), 151343);
    assert_string_equal(agl_chat_format(tokenizer), "glm4");
    agl_tokenizer_close(tokenizer);
    test_remove_folder(folder);
}

static void qwen2s_cases_come_out_id_for_id(void **state)
{
    char packed[4096];
    char texts[4096];
    char ids[4096];
    char folder[4096];
    char command[16384];
    if (!test_shared_data("vocabs/qwen.tokenizer.json.xz", packed) ||
        !test_shared_data("vocabs/qwen2.inp", texts) ||
        !test_shared_data("vocabs/qwen2.out", ids)) {
        skip();
        return;
    }
    test_folder(folder);
    snprintf(command, sizeof command, "xz -dc '%s' > '%s/tokenizer.json'", packed, folder);
    if (system(command) != 0) { /* NOLINT: the test's own command */
        fprintf(stderr, "\n*** SKIPPED: no xz to unpack %s\n\n", packed);
        test_remove_folder(folder);
        skip();
        return;
    }
    struct agl_tokenizer *tokenizer = text_open(folder);
    assert_true(text_assert_vocab_cases(tokenizer, texts, ids) >= 40);
    assert_int_equal(agl_special_id(tokenizer, "<|im_end|>"), 151645);
    assert_int_equal(agl_token_is_special(tokenizer, 151645), 1);
    /* Added, but not special: visible, and still plain text when a text spells it. */
    int think = agl_special_id(tokenizer, "<think>");
    assert_int_equal(think, 151667);
    assert_int_equal(agl_token_is_special(tokenizer, (uint32_t)think), 0);
    assert_true(agl_encode(tokenizer, "<think>", 7, NULL, 0) > 1);
    agl_tokenizer_close(tokenizer);
    test_remove_folder(folder);
}

static void gpt2s_cases_come_out_id_for_id(void **state)
{
    char gguf[4096];
    char texts[4096];
    char ids[4096];
    char folder[4096];
    if (!test_shared_data("vocabs/gpt-2.gguf", gguf) ||
        !test_shared_data("vocabs/gpt-2.inp", texts) ||
        !test_shared_data("vocabs/gpt-2.out", ids)) {
        skip();
        return;
    }
    test_folder(folder);
    text_json_from_gguf(gguf, folder);
    struct agl_tokenizer *tokenizer = text_open(folder);
    assert_true(text_assert_vocab_cases(tokenizer, texts, ids) >= 40);
    agl_tokenizer_close(tokenizer);
    test_remove_folder(folder);
}

static void text_never_becomes_a_special_token(void **state)
{
    static const char *const texts[] = {"<|user|>",          "[gMASK]<sop>",
                                        "<|endoftext|>",     "<|im_end|>",
                                        "<|begin_of_text|>", "a<|user|>\n<|assistant|>b"};
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        struct agl_tokenizer *tokenizer = text_open_small(small[i]);
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++)
            text_assert_round_trip(tokenizer, texts[k], strlen(texts[k])); /* checks for specials */
        agl_tokenizer_close(tokenizer);
    }
}

/* xorshift: the same bytes each time. */
static uint32_t next_random(uint32_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 17;
    *random ^= *random << 5;
    return *random;
}

static void any_bytes_come_back_as_they_were(void **state)
{
    uint32_t random = 12345;
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        struct agl_tokenizer *tokenizer = text_open_small(small[i]);
        for (int round = 0; round < 300; round++) {
            char text[512];
            size_t bytes = next_random(&random) % sizeof text;
            for (size_t k = 0; k < bytes; k++)
                text[k] =
                    (char)(round % 2 ? next_random(&random) : 0x20u + next_random(&random) % 160u);
            if (strcmp(small[i], "qwen2") != 0) /* NFC changes text */
                text_assert_round_trip(tokenizer, text, bytes);
            else
                assert_true(agl_encode(tokenizer, text, bytes, NULL, 0) >= 0);
        }
        agl_tokenizer_close(tokenizer);
    }
}

static void bytes_that_are_no_text_are_split_one_by_one(void **state)
{
    struct agl_tokenizer *tokenizer = text_open_small("glm4");
    uint32_t alone[3];
    uint32_t together[3];
    for (int i = 0; i < 3; i++) {
        char byte = "\xFF\xC0\x80"[i];
        assert_int_equal(agl_encode(tokenizer, &byte, 1, &alone[i], 1), 1);
    }
    assert_int_equal(agl_encode(tokenizer, "\xFF\xC0\x80", 3, together, 3), 3);
    assert_memory_equal(alone, together, sizeof alone);
    agl_tokenizer_close(tokenizer);
}

static void encode_counts_what_does_not_fit(void **state)
{
    struct agl_tokenizer *tokenizer = text_open_small("gpt2");
    uint32_t all[64];
    uint32_t some[3] = {0, 0, 7777};
    int count = agl_encode(tokenizer, "one two three four", 18, all, 64);
    assert_true(count > 3);
    assert_int_equal(agl_encode(tokenizer, "one two three four", 18, some, 2), count);
    assert_memory_equal(all, some, 2 * sizeof *all);
    assert_int_equal(some[2], 7777);
    assert_int_equal(agl_encode(tokenizer, NULL, 0, NULL, 0), 0);
    assert_int_equal(agl_encode(tokenizer, NULL, 1, NULL, 0), -EINVAL);
    assert_int_equal(agl_encode(tokenizer, "x", 1, NULL, 1), -EINVAL);
    agl_tokenizer_close(tokenizer);
}

static void ids_that_no_token_has_are_refused(void **state)
{
    struct agl_tokenizer *tokenizer = text_open_small("glm4");
    const char *text = "untouched";
    size_t bytes = 1;
    assert_int_equal(agl_token_bytes(tokenizer, agl_tokenizer_size(tokenizer), &text, &bytes),
                     -EINVAL);
    assert_int_equal(agl_token_bytes(tokenizer, UINT32_MAX, &text, &bytes), -EINVAL);
    assert_string_equal(text, "untouched");
    assert_int_equal(agl_token_is_special(tokenizer, UINT32_MAX), 0);
    int user = agl_special_id(tokenizer, "<|user|>");
    assert_int_equal(agl_token_bytes(tokenizer, (uint32_t)user, &text, &bytes), 0);
    assert_int_equal(bytes, 8);
    assert_memory_equal(text, "<|user|>", 8);
    assert_int_equal(agl_token_is_special(tokenizer, (uint32_t)user), 1);
    agl_tokenizer_close(tokenizer);
}

static void what_is_not_there_is_told_with_its_path(void **state)
{
    struct agl_tokenizer *tokenizer = (void *)1;
    char folder[4096];
    test_folder(folder);
    assert_int_equal(agl_tokenizer_open(&tokenizer, "/nonexistent/tokenizer.json"), -ENOENT);
    assert_non_null(strstr(agl_error_detail(), "/nonexistent/tokenizer.json"));
    assert_int_equal(agl_tokenizer_open(&tokenizer, folder), -ENOENT);
    assert_non_null(strstr(agl_error_detail(), folder));
    assert_int_equal(agl_tokenizer_open(&tokenizer, ""), -ENOENT);
    assert_int_equal(agl_tokenizer_open(&tokenizer, "/dev/null"), -EINVAL);
    assert_int_equal(agl_tokenizer_open(&tokenizer, NULL), -EINVAL);
    assert_ptr_equal(tokenizer, (void *)1);
    agl_tokenizer_close(NULL);
    test_remove_folder(folder);
}

static void a_file_in_the_working_folder_needs_no_slash(void **state)
{
    char folder[4096];
    char before[4096];
    size_t bytes = 0;
    char *json = test_read_file(AGL_SOURCE_DIR "/tests/data/tokenizer/gpt2.tokenizer.json", &bytes);
    test_folder(folder);
    test_write_file(folder, "mine.json", json, bytes);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(folder), 0);
    agl_tokenizer_close(text_open("mine.json"));
    assert_int_equal(chdir(before), 0);
    free(json);
    test_remove_folder(folder);
}

static char *repeated(const char *unit, size_t bytes)
{
    size_t unit_bytes = strlen(unit);
    char *text = malloc(bytes);
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++)
        text[i] = unit[i % unit_bytes];
    return text;
}

/* Texts of one kind make one piece of the whole text, or pieces of one byte. A quadratic way would
 * take hours; the bound leaves room for sanitizers and busy machines. */
static void assert_encodes_soon(const struct agl_tokenizer *tokenizer, const char *unit,
                                size_t bytes)
{
    char *text = repeated(unit, bytes);
    uint64_t start_ns = agl_now_ns();
    assert_true(agl_encode(tokenizer, text, bytes, NULL, 0) > 0);
    assert_true(agl_now_ns() - start_ns < 120000000000ull);
    free(text);
}

static void eight_megabytes_of_one_kind_take_seconds_at_most(void **state)
{
    static const char *const units[] = {"a", " ", "\n", "\xE4\xB8\x96\xE7\x95\x8C\xE4\xBD\xA0"};
    struct agl_tokenizer *tokenizer = text_open_small("glm4");
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        assert_encodes_soon(tokenizer, units[i], (8u << 20) / 9 * 9);
    agl_tokenizer_close(tokenizer);
}

static void half_a_megabyte_of_anything_takes_little_time_by_every_rule(void **state)
{
    static const char *const units[] = {"a",   " ", "\n", "1", "!", "\xFF", "\xCC\x81\xCC\x96",
                                        "ab ", "'s"};
    for (size_t rule = 0; rule < sizeof small / sizeof small[0]; rule++) {
        struct agl_tokenizer *tokenizer = text_open_small(small[rule]);
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
            assert_encodes_soon(tokenizer, units[i], (1u << 19) / 12 * 12);
        agl_tokenizer_close(tokenizer);
    }
}

struct worker {
    pthread_t thread;
    const struct agl_tokenizer *tokenizer;
    int failures;
};

static void *encode_many(void *argument)
{
    struct worker *worker = argument;
    static const char text[] =
        "It's 1234 o'clock,\n\n  \xE4\xBD\xA0\xE5\xA5\xBD e\xCC\x81 abababababababababababab"
        "ababababababababababababababababababababababababababababab!";
    uint32_t first[256];
    int count = agl_encode(worker->tokenizer, text, sizeof text - 1, first, 256);
    for (int i = 0; i < 200; i++) {
        uint32_t ids[256];
        if (agl_encode(worker->tokenizer, text, sizeof text - 1, ids, 256) != count ||
            memcmp(ids, first, (size_t)count * sizeof *ids) != 0)
            worker->failures++;
    }
    return NULL;
}

static void many_threads_share_one_tokenizer(void **state)
{
    struct agl_tokenizer *tokenizer = text_open_small("qwen2");
    struct worker workers[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (struct worker){.tokenizer = tokenizer};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, encode_many, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].failures, 0);
    }
    agl_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_small_vocabularies_give_the_ids_of_the_reference),
        cmocka_unit_test(glm4s_tokenizer_model_gives_the_known_ids),
        cmocka_unit_test(glm4s_special_tokens_are_known_without_a_configuration),
        cmocka_unit_test(qwen2s_cases_come_out_id_for_id),
        cmocka_unit_test(gpt2s_cases_come_out_id_for_id),
        cmocka_unit_test(text_never_becomes_a_special_token),
        cmocka_unit_test(any_bytes_come_back_as_they_were),
        cmocka_unit_test(bytes_that_are_no_text_are_split_one_by_one),
        cmocka_unit_test(encode_counts_what_does_not_fit),
        cmocka_unit_test(ids_that_no_token_has_are_refused),
        cmocka_unit_test(what_is_not_there_is_told_with_its_path),
        cmocka_unit_test(a_file_in_the_working_folder_needs_no_slash),
        cmocka_unit_test(eight_megabytes_of_one_kind_take_seconds_at_most),
        cmocka_unit_test(half_a_megabyte_of_anything_takes_little_time_by_every_rule),
        cmocka_unit_test(many_threads_share_one_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
