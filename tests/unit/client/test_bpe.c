#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/bpe.h"
#include "tests/support/test.h"

/* A vocabulary of the letters a to d with their own ids 0 to 3, and random merges. */
static void make_random(struct vocabulary *vocabulary, uint32_t seed, bool by_rank)
{
    uint32_t random = seed * 2654435761u + 1;
    vocabulary_init(vocabulary);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(vocabulary_add(vocabulary, i, &"abcd"[i], 1, VOCABULARY_ORDINARY), 0);
    uint32_t rank = 0;
    for (int tries = 0; tries < 60; tries++) {
        char bytes[2 * VOCABULARY_TOKEN_BYTES_MAX];
        random = random * 1664525u + 1013904223u;
        uint32_t left = (random >> 8) % vocabulary->token_count;
        random = random * 1664525u + 1013904223u;
        uint32_t right = (random >> 8) % vocabulary->token_count;
        const struct vocabulary_token *a = vocabulary_token(vocabulary, left);
        const struct vocabulary_token *b = vocabulary_token(vocabulary, right);
        size_t length = (size_t)a->bytes + b->bytes;
        if (length > 12)
            continue;
        memcpy(bytes, vocabulary_bytes(vocabulary, a), a->bytes);
        memcpy(bytes + a->bytes, vocabulary_bytes(vocabulary, b), b->bytes);
        int32_t merged = vocabulary_find(vocabulary, bytes, length);
        if (merged < 0) {
            merged = (int32_t)vocabulary->token_count;
            assert_int_equal(
                vocabulary_add(vocabulary, (uint32_t)merged, bytes, length, VOCABULARY_ORDINARY),
                0);
        }
        if (!by_rank)
            vocabulary_add_pair(vocabulary, (struct vocabulary_pair){.left = left,
                                                                     .right = right,
                                                                     .rank = rank++,
                                                                     .merged = (uint32_t)merged});
    }
    assert_int_equal(vocabulary_seal(vocabulary), 0);
    if (by_rank)
        assert_int_equal(vocabulary_add_all_pairs(vocabulary), 0);
}

/* The definition itself: look for the best pair again and again. */
static size_t merge_plainly(const struct vocabulary *vocabulary, const char *text, size_t bytes,
                            uint32_t *ret_ids)
{
    size_t count = bytes;
    for (size_t i = 0; i < bytes; i++)
        ret_ids[i] = (uint32_t)vocabulary->byte_ids[(uint8_t)text[i]];
    for (;;) {
        const struct vocabulary_pair *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            const struct vocabulary_pair *pair =
                vocabulary_pair(vocabulary, ret_ids[i], ret_ids[i + 1]);
            if (pair && (!best || pair->rank < best->rank)) {
                best = pair;
                at = i;
            }
        }
        if (!best)
            return count;
        ret_ids[at] = best->merged;
        memmove(ret_ids + at + 1, ret_ids + at + 2, (count - at - 2) * sizeof *ret_ids);
        count--;
    }
}

static void assert_same(struct bpe *bpe, const struct vocabulary *vocabulary, const char *text,
                        size_t bytes)
{
    uint32_t expected[256];
    size_t count = merge_plainly(vocabulary, text, bytes, expected);
    struct id_list ids = {0};
    assert_int_equal(bpe_encode_long(bpe, vocabulary, text, bytes, &ids), 0);
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.ids, expected, count * sizeof *expected);
    if (bytes <= BPE_SHORT_BYTES) {
        ids.count = 0;
        assert_int_equal(bpe_encode_short(vocabulary, text, bytes, &ids), 0);
        assert_int_equal(ids.count, count);
        assert_memory_equal(ids.ids, expected, count * sizeof *expected);
    }
    free(ids.ids);
}

static void both_ways_do_what_the_definition_says(void **state)
{
    uint32_t random = 4711;
    struct bpe bpe;
    bpe_init(&bpe);
    for (uint32_t seed = 0; seed < 200; seed++) {
        struct vocabulary vocabulary;
        make_random(&vocabulary, seed, seed % 2 == 0);
        for (int round = 0; round < 30; round++) {
            char text[200];
            random = random * 1664525u + 1013904223u;
            size_t bytes = 1 + (random >> 8) % (round % 3 ? BPE_SHORT_BYTES : sizeof text);
            for (size_t i = 0; i < bytes; i++) {
                random = random * 1664525u + 1013904223u;
                text[i] = "abcd"[(random >> 16) % (round % 4 + 1)];
            }
            assert_same(&bpe, &vocabulary, text, bytes);
        }
        vocabulary_fini(&vocabulary);
    }
    bpe_fini(&bpe);
}

static void the_leftmost_of_equal_pairs_merges_first(void **state)
{
    struct vocabulary vocabulary;
    struct id_list ids = {0};
    uint8_t byte = 0;
    struct bpe bpe;
    bpe_init(&bpe);
    vocabulary_init(&vocabulary);
    vocabulary_add(&vocabulary, 0, "a", 1, VOCABULARY_ORDINARY);
    vocabulary_add(&vocabulary, 1, "aa", 2, VOCABULARY_ORDINARY);
    assert_int_equal(vocabulary_add_all_pairs(&vocabulary), 0);
    vocabulary_seal(&vocabulary);
    assert_int_equal(bpe_encode(&bpe, &vocabulary, "aaaaa", 5, &ids, &byte), 0);
    const uint32_t expected[] = {1, 1, 0};
    assert_int_equal(ids.count, 3);
    assert_memory_equal(ids.ids, expected, sizeof expected);
    free(ids.ids);
    bpe_fini(&bpe);
    vocabulary_fini(&vocabulary);
}

static void a_long_piece_queues_each_byte_three_times_at_most(void **state)
{
    const size_t bytes = 300000;
    char *text = malloc(bytes);
    assert_non_null(text);
    for (uint32_t seed = 0; seed < 8; seed++) {
        struct vocabulary vocabulary;
        struct id_list ids = {0};
        uint32_t random = seed + 1;
        uint8_t byte = 0;
        struct bpe bpe;
        bpe_init(&bpe);
        make_random(&vocabulary, seed, seed % 2 == 0);
        for (size_t i = 0; i < bytes; i++) {
            random = random * 1664525u + 1013904223u;
            text[i] = "abcd"[(random >> 16) % (seed % 4 + 1)];
        }
        assert_int_equal(bpe_encode(&bpe, &vocabulary, text, bytes, &ids, &byte), 0);
        assert_true(bpe.queue.pushes <= 3 * bytes);
        /* What the heap and the lists cost: n log n with a small factor would be 18 n. */
        assert_true(bpe.queue.steps <= 18 * bytes);
        free(ids.ids);
        bpe_fini(&bpe);
        vocabulary_fini(&vocabulary);
    }
    free(text);
}

static void a_byte_without_token_is_named(void **state)
{
    struct vocabulary vocabulary;
    struct id_list ids = {0};
    uint8_t byte = 0;
    struct bpe bpe;
    bpe_init(&bpe);
    make_random(&vocabulary, 1, true);
    assert_int_equal(bpe_encode(&bpe, &vocabulary, "abxd", 4, &ids, &byte), -EILSEQ);
    assert_int_equal(byte, 'x');
    assert_int_equal(bpe_encode(&bpe, &vocabulary, "", 0, &ids, &byte), 0);
    assert_int_equal(ids.count, 0);
    free(ids.ids);
    bpe_fini(&bpe);
    vocabulary_fini(&vocabulary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways_do_what_the_definition_says),
        cmocka_unit_test(the_leftmost_of_equal_pairs_merges_first),
        cmocka_unit_test(a_long_piece_queues_each_byte_three_times_at_most),
        cmocka_unit_test(a_byte_without_token_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
