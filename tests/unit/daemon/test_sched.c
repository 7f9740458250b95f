#include <stdlib.h>

#include "daemon/sched.h"
#include "tests/support/test.h"

enum { SEQUENCES = 40 };

static const struct sched_limits limits = {.step_tokens = 20, .chunk_tokens = 8};

static void assert_pick(struct sched_pick pick, uint32_t sequence, uint32_t tokens, bool sample)
{
    assert_int_equal(pick.sequence, sequence);
    assert_int_equal(pick.tokens, tokens);
    assert_int_equal(pick.sample, sample);
}

static void those_who_generate_come_before_prompts(void **state)
{
    (void)state;
    const struct sched_sequence sequences[] = {{100, true}, {1, true}, {100, true}, {1, true}};
    struct sched_pick picks[4];
    assert_int_equal(sched_plan(&limits, sequences, 4, 0, picks), 4);
    assert_pick(picks[0], 1, 1, true);
    assert_pick(picks[1], 3, 1, true);
    assert_pick(picks[2], 0, 8, false);
    assert_pick(picks[3], 2, 8, false);
}

static void the_end_of_a_prompt_gives_a_token(void **state)
{
    (void)state;
    const struct sched_sequence sequences[] = {{8, true}, {9, true}, {3, true}};
    struct sched_pick picks[3];
    assert_int_equal(sched_plan(&limits, sequences, 3, 0, picks), 3);
    assert_pick(picks[0], 0, 8, true);
    assert_pick(picks[1], 1, 8, false);
    assert_pick(picks[2], 2, 3, true);
}

static void a_step_has_no_more_rows_than_allowed(void **state)
{
    (void)state;
    const struct sched_sequence sequences[] = {{100, true}, {100, true}, {100, true}, {100, true}};
    struct sched_pick picks[4];
    assert_int_equal(sched_plan(&limits, sequences, 4, 0, picks), 3);
    assert_pick(picks[2], 2, 4, false);
}

static void who_cannot_be_told_a_token_computes_all_but_the_last(void **state)
{
    (void)state;
    const struct sched_sequence sequences[] = {{1, false}, {5, false}, {9, false}, {0, true}};
    struct sched_pick picks[4];
    assert_int_equal(sched_plan(&limits, sequences, 4, 0, picks), 2);
    assert_pick(picks[0], 1, 4, false);
    assert_pick(picks[1], 2, 8, false);
}

static void with_fewer_rows_than_sequences_all_get_their_turn(void **state)
{
    (void)state;
    const struct sched_limits tight = {.step_tokens = 3, .chunk_tokens = 8};
    struct sched_sequence sequences[8];
    struct sched_pick picks[8];
    uint32_t turns[8] = {0};
    for (int i = 0; i < 8; i++)
        sequences[i] = (struct sched_sequence){.pending = 1, .may_sample = true};
    for (uint32_t step = 0; step < 8; step++) {
        assert_int_equal(sched_plan(&tight, sequences, 8, step, picks), 3);
        for (int i = 0; i < 3; i++)
            turns[picks[i].sequence]++;
    }
    for (int i = 0; i < 8; i++)
        assert_int_equal(turns[i], 3);
}

static void nothing_to_do_gives_no_picks(void **state)
{
    (void)state;
    struct sched_pick picks[1];
    assert_int_equal(sched_plan(&limits, NULL, 0, 0, picks), 0);
}

/* Whatever the input: within the limits, each sequence once, no more than it has pending, a token
 * only from the last pending one and only where it may be told, and no row wasted. */
static void every_plan_keeps_the_rules(void **state)
{
    (void)state;
    unsigned seed = 4;
    for (int round = 0; round < 20000; round++) {
        struct sched_sequence sequences[SEQUENCES];
        struct sched_pick picks[SEQUENCES];
        bool seen[SEQUENCES] = {false};
        struct sched_limits some = {.step_tokens = 1 + (uint32_t)rand_r(&seed) % 50,
                                    .chunk_tokens = 1 + (uint32_t)rand_r(&seed) % 20};
        uint32_t count = 1 + (uint32_t)rand_r(&seed) % SEQUENCES;
        uint32_t useful = 0;
        for (uint32_t i = 0; i < count; i++) {
            sequences[i] = (struct sched_sequence){
                .pending = rand_r(&seed) % 3 ? 1 : (uint32_t)rand_r(&seed) % 60,
                .may_sample = rand_r(&seed) % 4 != 0};
            uint32_t allowed = sequences[i].pending;
            allowed -= allowed && !sequences[i].may_sample;
            useful += allowed < some.chunk_tokens ? allowed : some.chunk_tokens;
        }
        uint32_t picked =
            sched_plan(&some, sequences, count, (uint32_t)rand_r(&seed) % count, picks);
        uint32_t rows = 0;
        for (uint32_t i = 0; i < picked; i++) {
            const struct sched_sequence *sequence = &sequences[picks[i].sequence];
            assert_in_range(picks[i].sequence, 0, count - 1);
            assert_false(seen[picks[i].sequence]);
            seen[picks[i].sequence] = true;
            assert_in_range(picks[i].tokens, 1, some.chunk_tokens);
            assert_true(picks[i].tokens <= sequence->pending);
            assert_int_equal(picks[i].sample, picks[i].tokens == sequence->pending);
            assert_true(sequence->may_sample || !picks[i].sample);
            rows += picks[i].tokens;
        }
        assert_int_equal(rows, useful < some.step_tokens ? useful : some.step_tokens);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(those_who_generate_come_before_prompts),
        cmocka_unit_test(the_end_of_a_prompt_gives_a_token),
        cmocka_unit_test(a_step_has_no_more_rows_than_allowed),
        cmocka_unit_test(who_cannot_be_told_a_token_computes_all_but_the_last),
        cmocka_unit_test(with_fewer_rows_than_sequences_all_get_their_turn),
        cmocka_unit_test(nothing_to_do_gives_no_picks),
        cmocka_unit_test(every_plan_keeps_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
