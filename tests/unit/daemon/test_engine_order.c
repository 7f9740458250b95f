/* The engine on the echo model: cancelling, the order of requests, deadlines, and the end. */
#include <errno.h>
#include <string.h>

#include "tests/support/engine_stand.h"
#include "tests/support/test.h"

/* ---- cancel ---------------------------------------------------------------------------------- */

static void a_running_request_is_cancelled_within_a_step(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 400, 0);
    rig_turn(&s.rig, 5);
    stand_tell(&s, SUBMISSION_CANCEL, 1);
    rig_turn(&s.rig, 1);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    for (int i = 0; i < 5; i++)
        rig_expect(&s.rig, &s.client, EVENT_TOKENS, 1);
    struct event done = rig_expect(&s.rig, &s.client, EVENT_DONE, 1);
    assert_done(done, 1, DONE_CANCELLED);
    assert_int_equal(done.done.generated_tokens, 5);
    stand_silent(&s);
    stand_close(&s);
}

static void a_request_is_cancelled_while_its_prompt_is_read(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 200, 10, 0);
    rig_turn(&s.rig, 2);
    stand_tell(&s, SUBMISSION_CANCEL, 1);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    struct event done = rig_expect(&s.rig, &s.client, EVENT_DONE, 1);
    assert_done(done, 1, DONE_CANCELLED);
    assert_int_equal(done.done.generated_tokens, 0);
    stand_close(&s);
}

static void a_waiting_request_is_cancelled(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    stand_open(&s);
    stand_ask(&s, 1, 3, 10, 0);
    stand_ask(&s, 2, 3, 10, 0);
    stand_tell(&s, SUBMISSION_CANCEL, 2);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 2);
    struct event done = rig_expect(&s.rig, &s.client, EVENT_DONE, 2);
    assert_done(done, 2, DONE_CANCELLED);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    stand_close(&s);
}

static void changes_of_what_is_gone_do_nothing(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 2, 0);
    stand_answer(&s, 1, ids);
    stand_tell(&s, SUBMISSION_CANCEL, 1);
    stand_tell(&s, SUBMISSION_CANCEL, 12345);
    stand_tell(&s, SUBMISSION_DETACH, 1);
    stand_tell(&s, SUBMISSION_SET_PRIORITY, 1);
    stand_silent(&s);
    stand_ask(&s, 17, 3, 2, 0); /* the same entry */
    stand_tell(&s, SUBMISSION_CANCEL, 1);
    assert_done(stand_answer(&s, 17, ids), 17, DONE_LENGTH);
    stand_close(&s);
}

/* ---- order ----------------------------------------------------------------------------------- */

static void higher_classes_are_started_first(void **state)
{
    (void)state;
    struct stand s;
    static const uint8_t classes[] = {PRIORITY_NORMAL, PRIORITY_BATCH, PRIORITY_REALTIME,
                                      PRIORITY_NORMAL, PRIORITY_HIGH};
    static const uint32_t order[] = {3, 5, 1, 4, 2};
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    stand_open(&s);
    for (uint32_t i = 0; i < 5; i++) {
        struct submission submission = client_half_request(&s.client, i + 1, 3, 2);
        submission.priority = classes[i];
        client_half_submit(&s.client, &submission);
    }
    for (uint32_t i = 0; i < 5;) {
        struct event event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_DONE)
            assert_int_equal(event.request, order[i++]);
    }
    stand_close(&s);
}

static void a_waiting_request_changes_its_class(void **state)
{
    (void)state;
    struct stand s;
    static const uint32_t order[] = {1, 3, 2};
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    stand_open(&s);
    for (uint32_t id = 1; id <= 3; id++)
        stand_ask(&s, id, 3, 8, 0);
    rig_turn(&s.rig, 1);
    struct submission change = {
        .op = SUBMISSION_SET_PRIORITY, .priority = PRIORITY_HIGH, .request = 3};
    client_half_submit(&s.client, &change);
    for (uint32_t i = 0; i < 3;) {
        struct event event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_DONE)
            assert_int_equal(event.request, order[i++]);
    }
    stand_close(&s);
}

static void all_that_run_get_a_token_in_each_step(void **state)
{
    (void)state;
    struct stand s;
    struct event event;
    uint32_t tokens[RIG_RUNNING + 1] = {0};
    rig_init(&s.rig);
    stand_open(&s);
    for (uint32_t id = 1; id <= RIG_RUNNING; id++)
        stand_ask(&s, id, 3, 50, 0);
    for (int turn = 0; turn < 20; turn++) {
        rig_turn(&s.rig, 1);
        while (client_half_poll(&s.client, &event))
            tokens[event.request] += event.kind == EVENT_TOKENS;
    }
    for (uint32_t id = 1; id <= RIG_RUNNING; id++)
        assert_int_equal(tokens[id], 20);
    stand_close(&s);
}

static void many_sessions_with_many_requests_all_get_their_own_answers(void **state)
{
    (void)state;
    enum { SESSIONS = 20, REQUESTS = 12 };
    static struct client_half clients[SESSIONS];
    static uint32_t told[SESSIONS][REQUESTS + 1];
    struct engine_rig rig;
    rig_init(&rig);
    rig.config.queue_requests = SESSIONS * REQUESTS;
    rig_open(&rig);
    uint32_t left = SESSIONS * REQUESTS;
    for (uint32_t i = 0; i < SESSIONS; i++) {
        struct geometry geometry = CLIENT_HALF_GEOMETRY;
        geometry.stagger = i;
        client_half_open(&clients[i], &geometry);
        rig_attach(&rig, &clients[i]);
        for (uint32_t id = 1; id <= REQUESTS; id++) {
            struct submission submission = {.op = SUBMISSION_GENERATE,
                                            .request = id,
                                            .prompt_offset = id * 64,
                                            .prompt_tokens = 2,
                                            .max_tokens = id,
                                            .top_p = 1};
            clients[i].arena[id * 16] = i;
            clients[i].arena[id * 16 + 1] = id;
            client_half_submit(&clients[i], &submission);
        }
        memset(told[i], 0, sizeof told[i]);
    }
    for (uint32_t turn = 0; left && turn < 5000; turn++) {
        rig_turn(&rig, 1);
        for (uint32_t i = 0; i < SESSIONS; i++) {
            struct event event;
            while (client_half_poll(&clients[i], &event)) {
                if (event.kind == EVENT_TOKENS)
                    assert_int_equal(event.tokens[0].id,
                                     told[i][event.request]++ % 2 ? event.request : i);
                if (event.kind == EVENT_DONE) {
                    assert_int_equal(told[i][event.request], event.request);
                    left--;
                }
            }
        }
    }
    assert_int_equal(left, 0);
    assert_int_equal(atomic_load(&rig.board->requests_done), SESSIONS * REQUESTS);
    for (uint32_t i = 0; i < SESSIONS; i++) {
        rig_detach(&rig, &clients[i]);
        client_half_close(&clients[i]);
    }
    rig_close(&rig);
}

/* ---- deadlines ------------------------------------------------------------------------------- */

static void what_is_late_already_is_never_taken(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    struct submission submission = client_half_request(&s.client, 1, 3, 5);
    submission.deadline_ns = rig_now_ns;
    client_half_submit(&s.client, &submission);
    assert_done(rig_event(&s.rig, &s.client), 1, DONE_DEADLINE);
    submission.deadline_ns = 0;
    submission.first_token_deadline_ns = rig_now_ns - 1;
    client_half_submit(&s.client, &submission);
    assert_done(rig_event(&s.rig, &s.client), 1, DONE_DEADLINE);
    assert_int_equal(atomic_load(&s.rig.board->models[0].steps), 0);
    stand_close(&s);
}

static void a_waiting_request_ends_at_its_first_tokens_deadline(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    stand_open(&s);
    stand_ask(&s, 1, 3, 50, 0);
    struct submission submission = client_half_request(&s.client, 2, 3, 5);
    submission.first_token_deadline_ns = rig_now_ns + 10 * RIG_MS;
    client_half_submit(&s.client, &submission);
    rig_turn(&s.rig, 3);
    rig_now_ns += 10 * RIG_MS;
    struct event done = stand_answer(&s, 2, ids);
    assert_done(done, 2, DONE_DEADLINE);
    assert_int_equal(done.done.generated_tokens, 0);
    assert_int_equal(done.done.queued_us, 10000);
    stand_close(&s);
}

static void the_first_tokens_deadline_is_over_with_the_first_token(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    struct submission submission = client_half_request(&s.client, 1, 3, 50);
    submission.first_token_deadline_ns = rig_now_ns + RIG_MS;
    client_half_submit(&s.client, &submission);
    rig_turn(&s.rig, 1);
    rig_now_ns += 10 * RIG_MS;
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    stand_close(&s);
}

static void a_running_request_ends_at_its_deadline(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    struct submission submission = client_half_request(&s.client, 1, 3, 500);
    submission.deadline_ns = rig_now_ns + 5 * RIG_MS;
    client_half_submit(&s.client, &submission);
    for (int i = 0; i < 10; i++) {
        rig_now_ns += RIG_MS;
        rig_turn(&s.rig, 1);
    }
    struct event done = stand_answer(&s, 1, ids);
    assert_done(done, 1, DONE_DEADLINE);
    assert_int_equal(done.done.generated_tokens, 4);
    assert_int_equal(done.done.done_ns - done.done.taken_ns, 4 * RIG_MS);
    assert_int_equal(done.done.generate_us, 3000);
    stand_close(&s);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void detaching_ends_everything_of_the_session_and_nothing_else(void **state)
{
    (void)state;
    struct stand s;
    struct client_half other;
    uint32_t ids[STAND_IDS];
    uint32_t count;
    rig_init(&s.rig);
    s.rig.config.running_max = 3;
    stand_open(&s);
    client_half_open(&other, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &other);
    stand_ask(&s, 1, 3, 2, SUBMISSION_KEEP); /* will be kept */
    stand_answer(&s, 1, ids);
    stand_ask(&s, 2, 200, 200, 0); /* will run */
    stand_ask(&s, 3, 3, 200, 0);
    struct submission theirs = client_half_request(&other, 1, 3, 100);
    client_half_submit(&other, &theirs);
    stand_ask(&s, 4, 3, 200, SUBMISSION_KEEP); /* will wait */
    rig_turn(&s.rig, 3);
    assert_int_equal(s.rig.engine->queued_requests, 1);

    rig_detach(&s.rig, &s.client);
    assert_int_equal(rig_answer(&s.rig, &other, 1, ids, &count).reason, DONE_LENGTH);
    assert_int_equal(count, 100);
    rig_detach(&s.rig, &other);
    rig_close(&s.rig);
    client_half_close(&s.client);
    client_half_close(&other);
}

static void draining_refuses_what_waits_and_finishes_what_runs(void **state)
{
    (void)state;
    struct stand s;
    struct engine_report report;
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    stand_open(&s);
    stand_ask(&s, 1, 3, 4, 0);
    stand_ask(&s, 2, 3, 4, SUBMISSION_KEEP);
    rig_turn(&s.rig, 1);
    engine_drain(s.rig.engine, rig_now_ns + 100 * RIG_MS);
    stand_ask(&s, 3, 3, 4, 0);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
    rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 2);
    rig_expect(&s.rig, &s.client, EVENT_TOKENS, 1);
    struct event done = rig_expect(&s.rig, &s.client, EVENT_DONE, 2);
    assert_done(done, 2, DONE_REFUSED);
    assert_int_equal(done.done.error, -ESHUTDOWN);
    done = rig_expect(&s.rig, &s.client, EVENT_DONE, 3);
    assert_done(done, 3, DONE_REFUSED);
    assert_int_equal(done.done.error, -ESHUTDOWN);
    assert_int_equal(engine_next_report(s.rig.engine, &report), 0);
    for (int i = 0; i < 3; i++)
        rig_expect(&s.rig, &s.client, EVENT_TOKENS, 1);
    assert_done(rig_event(&s.rig, &s.client), 1, DONE_LENGTH);
    struct event shutdown = rig_expect(&s.rig, &s.client, EVENT_SHUTDOWN, 0);
    assert_int_equal(shutdown.shutdown.error, -ESHUTDOWN);
    assert_int_equal(rig_report(&s.rig).kind, ENGINE_DRAINED);

    struct client_half late;
    client_half_open(&late, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &late);
    rig_expect(&s.rig, &late, EVENT_SHUTDOWN, 0);
    rig_detach(&s.rig, &late);
    client_half_close(&late);
    stand_close(&s);
}

static void draining_ends_at_its_deadline(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 500, SUBMISSION_KEEP);
    rig_turn(&s.rig, 2);
    engine_drain(s.rig.engine, rig_now_ns + RIG_MS);
    rig_turn(&s.rig, 2);
    rig_now_ns += RIG_MS;
    struct event done = stand_answer(&s, 1, ids);
    assert_done(done, 1, DONE_FAILED);
    assert_int_equal(done.done.error, -ESHUTDOWN);
    rig_expect(&s.rig, &s.client, EVENT_SHUTDOWN, 0);
    assert_int_equal(rig_report(&s.rig).kind, ENGINE_DRAINED);
    stand_close(&s);
}

static void the_board_tells_what_goes_on(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    s.rig.config.running_max = 2;
    stand_open(&s);
    struct board *board = s.rig.board;
    assert_int_equal(board->models[0].blocks, (2 + 4) * RIG_CONTEXT / 16);
    assert_int_equal(board->models[0].block_tokens, 16);
    assert_int_equal(board->models[0].context_tokens, RIG_CONTEXT);
    for (uint32_t id = 1; id <= 5; id++)
        stand_ask(&s, id, 16, 16, 0);
    rig_now_ns += 7;
    rig_turn(&s.rig, 1);
    assert_int_equal(atomic_load(&board->heartbeat_ns), rig_now_ns);
    assert_int_equal(atomic_load(&board->requests_total), 5);
    assert_int_equal(atomic_load(&board->requests_running), 2);
    assert_int_equal(atomic_load(&board->requests_queued), 3);
    assert_int_equal(atomic_load(&board->models[0].blocks_free), board->models[0].blocks - 4);
    uint32_t ids[STAND_IDS];
    stand_answer(&s, 5, ids);
    rig_turn(&s.rig, 20);
    assert_int_equal(atomic_load(&board->requests_running), 0);
    assert_int_equal(atomic_load(&board->requests_queued), 0);
    assert_int_equal(atomic_load(&board->requests_done), 5);
    assert_int_equal(atomic_load(&board->models[0].blocks_free), board->models[0].blocks);
    stand_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_running_request_is_cancelled_within_a_step),
        cmocka_unit_test(a_request_is_cancelled_while_its_prompt_is_read),
        cmocka_unit_test(a_waiting_request_is_cancelled),
        cmocka_unit_test(changes_of_what_is_gone_do_nothing),
        cmocka_unit_test(higher_classes_are_started_first),
        cmocka_unit_test(a_waiting_request_changes_its_class),
        cmocka_unit_test(all_that_run_get_a_token_in_each_step),
        cmocka_unit_test(many_sessions_with_many_requests_all_get_their_own_answers),
        cmocka_unit_test(what_is_late_already_is_never_taken),
        cmocka_unit_test(a_waiting_request_ends_at_its_first_tokens_deadline),
        cmocka_unit_test(the_first_tokens_deadline_is_over_with_the_first_token),
        cmocka_unit_test(a_running_request_ends_at_its_deadline),
        cmocka_unit_test(detaching_ends_everything_of_the_session_and_nothing_else),
        cmocka_unit_test(draining_refuses_what_waits_and_finishes_what_runs),
        cmocka_unit_test(draining_ends_at_its_deadline),
        cmocka_unit_test(the_board_tells_what_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
