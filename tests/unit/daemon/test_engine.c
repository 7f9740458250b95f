/* The engine on the echo model, turned by hand under a clock of the test's own: answers. */
#include <math.h>
#include <string.h>

#include "tests/support/engine_stand.h"
#include "tests/support/test.h"

static void echo_answers_with_the_prompt(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 17, 3, 5, 0);
    struct event event = rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 17);
    assert_int_equal(event.accepted.prompt_tokens, 3);
    assert_int_equal(event.accepted.taken_ns, rig_now_ns);
    struct event done = stand_answer(&s, 17, ids);
    assert_done(done, 17, DONE_LENGTH);
    assert_memory_equal(ids, ((uint32_t[]){1, 2, 3, 1, 2}), 5 * sizeof *ids);
    assert_int_equal(done.done.prompt_tokens, 3);
    assert_int_equal(done.done.cached_tokens, 0);
    assert_int_equal(done.done.generated_tokens, 5);
    stand_close(&s);
}

static void the_first_event_comes_in_the_turn_that_takes_the_submission(void **state)
{
    (void)state;
    struct stand s;
    struct event event;
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 1, 0);
    rig_turn(&s.rig, 1);
    assert_int_equal(client_half_poll(&s.client, &event), 1);
    assert_int_equal(event.kind, EVENT_ACCEPTED);
    assert_int_equal(client_half_poll(&s.client, &event), 1);
    assert_int_equal(event.kind, EVENT_TOKENS);
    assert_int_equal(client_half_poll(&s.client, &event), 1);
    assert_done(event, 1, DONE_LENGTH);
    stand_close(&s);
}

static uint64_t ticking_clock(void)
{
    return rig_now_ns += 1000;
}

static void exact_times_are_told_to_who_asks(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    s.rig.engine->clock_ns = ticking_clock;
    uint64_t begin_ns = rig_now_ns;
    stand_ask(&s, 1, 3, 1, SUBMISSION_TIMES);
    struct event event = rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    assert_true(event.accepted.taken_ns > begin_ns);
    assert_true(event.accepted.published_ns > event.accepted.taken_ns);
    rig_expect(&s.rig, &s.client, EVENT_TOKENS, 1);
    rig_expect(&s.rig, &s.client, EVENT_DONE, 1);
    stand_ask(&s, 2, 3, 1, 0);
    event = rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 2);
    assert_true(event.accepted.taken_ns > begin_ns);
    assert_true(event.accepted.published_ns == 0);
    stand_close(&s);
}

static void slots_are_given_back_when_the_ring_runs_empty(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 1, 0);
    rig_turn(&s.rig, 2);
    assert_int_equal(atomic_load(&s.client.daemon_words->submission_cursor), 1);
    stand_close(&s);
}

static void nobody_is_always_the_first(void **state)
{
    (void)state;
    struct stand s;
    struct client_half other;
    uint32_t firsts[2] = {0};
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    stand_open(&s);
    client_half_open(&other, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &other);
    for (int round = 0; round < 10; round++) {
        struct client_half *clients[] = {&s.client, &other};
        uint64_t ends[2] = {0};
        for (int i = 0; i < 2; i++) {
            struct submission submission = client_half_request(clients[i], 1, 3, 2);
            client_half_submit(clients[i], &submission);
        }
        for (uint64_t turn = 1; !ends[0] || !ends[1]; turn++) {
            struct event event;
            rig_turn(&s.rig, 1);
            for (int i = 0; i < 2; i++)
                while (client_half_poll(clients[i], &event))
                    if (event.kind == EVENT_DONE)
                        ends[i] = turn;
        }
        firsts[ends[1] < ends[0]]++;
        rig_turn(&s.rig, (uint32_t)round % 2);
    }
    assert_true(firsts[0] > 0);
    assert_true(firsts[1] > 0);
    rig_detach(&s.rig, &other);
    client_half_close(&other);
    stand_close(&s);
}

static void the_prompts_place_is_free_once_accepted(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 100, 100, 0);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    memset(s.client.arena, 0xff, 400);
    stand_answer(&s, 1, ids);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(ids[i], i + 1);
    stand_close(&s);
}

static void an_answer_ends_at_a_stop_id_which_is_not_told(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    struct submission submission = client_half_request(&s.client, 1, 6, 100);
    submission.stop_ids[0] = 900;
    submission.stop_ids[1] = 4;
    submission.stop_count = 2;
    submission.flags = SUBMISSION_WIDE;
    client_half_submit(&s.client, &submission);
    struct event done = stand_answer(&s, 1, ids);
    assert_done(done, 1, DONE_STOP);
    assert_int_equal(done.done.generated_tokens, 3);
    stand_close(&s);
}

static void an_answer_ends_at_the_models_own_end_unless_told_otherwise(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.model.config.eos_ids[0] = 700;
    s.rig.model.config.eos_ids[1] = 3;
    s.rig.model.config.eos_count = 2;
    stand_open(&s);
    stand_ask(&s, 1, 5, 10, 0);
    struct event done = stand_answer(&s, 1, ids);
    assert_done(done, 1, DONE_STOP);
    assert_int_equal(done.done.generated_tokens, 2);
    stand_ask(&s, 2, 5, 10, SUBMISSION_IGNORE_EOS);
    done = stand_answer(&s, 2, ids);
    assert_done(done, 2, DONE_LENGTH);
    assert_int_equal(done.done.generated_tokens, 10);
    assert_int_equal(ids[2], 3);
    stand_close(&s);
}

static void an_answer_ends_where_the_context_is_full(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, RIG_CONTEXT - 7, UINT32_MAX, 0);
    struct event done = stand_answer(&s, 1, ids);
    assert_done(done, 1, DONE_LENGTH);
    assert_int_equal(done.done.generated_tokens, 7);
    stand_close(&s);
}

static void a_long_prompt_is_read_in_chunks(void **state)
{
    (void)state;
    struct stand s;
    struct event event;
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 100, 1, 0); /* chunks of 32 */
    for (int turn = 0; turn < 3; turn++)
        rig_turn(&s.rig, 1);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    s.rig.engine->limits.step_tokens = 0; /* no more steps: nothing but ACCEPTED so far? */
    assert_int_equal(client_half_poll(&s.client, &event), 0);
    s.rig.engine->limits.step_tokens = 64;
    rig_turn(&s.rig, 1);
    assert_int_equal(client_half_poll(&s.client, &event), 1);
    assert_int_equal(event.kind, EVENT_TOKENS);
    assert_int_equal(atomic_load(&s.rig.board->models[0].steps), 4);
    assert_int_equal(atomic_load(&s.rig.board->models[0].prompt_tokens), 99);
    stand_close(&s);
}

static void logits_go_before_each_token(void **state)
{
    (void)state;
    struct stand s;
    struct geometry geometry = CLIENT_HALF_GEOMETRY;
    geometry.output_bytes = 2 * LAYOUT_PAGE_BYTES; /* two rows of 1,000 */
    rig_init(&s.rig);
    rig_open(&s.rig);
    client_half_open(&s.client, &geometry);
    rig_attach(&s.rig, &s.client);
    stand_ask(&s, 1, 4, 9, SUBMISSION_LOGITS);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    for (uint32_t i = 0; i < 9; i++) {
        struct event output = rig_expect(&s.rig, &s.client, EVENT_OUTPUT, 1);
        assert_int_equal(output.index, i);
        assert_int_equal(output.output.bytes, RIG_VOCAB * sizeof(float));
        assert_int_equal(output.output.offset % LAYOUT_LINE_BYTES, 0);
        assert_true(output.output.offset + output.output.bytes <= geometry.output_bytes);
        const float *row = (const float *)(const void *)(s.client.output + output.output.offset);
        assert_true(row[i % 4 + 1] == 0);
        assert_true(isinf(row[0]) && row[0] < 0);
        assert_true(isinf(row[RIG_VOCAB - 1]));
        struct event token = rig_event(&s.rig, &s.client);
        if (token.kind == EVENT_OVERFLOW) /* it had to wait for us */
            token = rig_event(&s.rig, &s.client);
        assert_int_equal(token.kind, EVENT_TOKENS);
        assert_int_equal(token.tokens[0].id, i % 4 + 1);
        assert_true(token.tokens[0].logprob == 0);
        atomic_store(&s.client.words->output_cursor, output.output.release);
    }
    assert_done(rig_event(&s.rig, &s.client), 1, DONE_LENGTH);
    stand_close(&s);
}

static void logits_that_are_not_given_back_hold_the_request(void **state)
{
    (void)state;
    struct stand s;
    struct geometry geometry = CLIENT_HALF_GEOMETRY;
    geometry.output_bytes = 2 * LAYOUT_PAGE_BYTES;
    rig_init(&s.rig);
    rig_open(&s.rig);
    client_half_open(&s.client, &geometry);
    rig_attach(&s.rig, &s.client);
    stand_ask(&s, 1, 4, 9, SUBMISSION_LOGITS);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    uint64_t release = 0;
    for (uint32_t i = 0; i < 2; i++) {
        release = rig_expect(&s.rig, &s.client, EVENT_OUTPUT, 1).output.release;
        rig_expect(&s.rig, &s.client, EVENT_TOKENS, 1);
    }
    stand_silent(&s);
    rig_now_ns += 10 * RIG_MS;
    atomic_store(&s.client.words->output_cursor, release);
    struct event overflow = rig_expect(&s.rig, &s.client, EVENT_OVERFLOW, 1);
    assert_int_equal(overflow.overflow.parked_ns, 10 * RIG_MS);
    rig_expect(&s.rig, &s.client, EVENT_OUTPUT, 1);
    stand_close(&s);
}

static void a_stop_token_takes_no_room_of_the_output_arena(void **state)
{
    (void)state;
    struct stand s;
    struct geometry geometry = CLIENT_HALF_GEOMETRY;
    geometry.output_bytes = LAYOUT_PAGE_BYTES; /* one row */
    rig_init(&s.rig);
    rig_open(&s.rig);
    client_half_open(&s.client, &geometry);
    rig_attach(&s.rig, &s.client);
    uint64_t release = 0;
    for (uint32_t id = 1; id <= 5; id++) {
        struct submission submission = client_half_request(&s.client, id, 4, 9);
        submission.flags = SUBMISSION_LOGITS | SUBMISSION_WIDE;
        submission.stop_ids[0] = 2;
        submission.stop_count = 1;
        client_half_submit(&s.client, &submission);
        rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, id);
        struct event output = rig_expect(&s.rig, &s.client, EVENT_OUTPUT, id);
        assert_true(output.output.release - release <= geometry.output_bytes);
        release = output.output.release;
        rig_expect(&s.rig, &s.client, EVENT_TOKENS, id);
        atomic_store(&s.client.words->output_cursor, release);
        struct event event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_OVERFLOW)
            event = rig_event(&s.rig, &s.client);
        assert_done(event, id, DONE_STOP);
    }
    stand_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echo_answers_with_the_prompt),
        cmocka_unit_test(the_first_event_comes_in_the_turn_that_takes_the_submission),
        cmocka_unit_test(exact_times_are_told_to_who_asks),
        cmocka_unit_test(slots_are_given_back_when_the_ring_runs_empty),
        cmocka_unit_test(nobody_is_always_the_first),
        cmocka_unit_test(the_prompts_place_is_free_once_accepted),
        cmocka_unit_test(an_answer_ends_at_a_stop_id_which_is_not_told),
        cmocka_unit_test(an_answer_ends_at_the_models_own_end_unless_told_otherwise),
        cmocka_unit_test(an_answer_ends_where_the_context_is_full),
        cmocka_unit_test(a_long_prompt_is_read_in_chunks),
        cmocka_unit_test(logits_go_before_each_token),
        cmocka_unit_test(logits_that_are_not_given_back_hold_the_request),
        cmocka_unit_test(a_stop_token_takes_no_room_of_the_output_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
