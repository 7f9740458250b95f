/* What a slow reader does to itself alone, and which sessions have to ring. */
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/engine_stand.h"
#include "tests/support/test.h"

/* ---- slow readers ---------------------------------------------------------------------------- */

static void who_does_not_read_stands_still_until_it_reads(void **state)
{
    (void)state;
    struct stand s;
    struct client_half other;
    uint32_t ids[STAND_IDS];
    uint32_t count;
    rig_init(&s.rig);
    stand_open(&s);
    client_half_open(&other, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &other);
    stand_ask(&s, 1, 3, 300, 0);
    struct submission theirs = client_half_request(&other, 1, 3, 400);
    client_half_submit(&other, &theirs);

    assert_int_equal(rig_answer(&s.rig, &other, 1, ids, &count).reason, DONE_LENGTH);
    assert_int_equal(count, 400); /* untouched by the one that does not read */
    /* 64 slots: one is for the end of the request, one for the end of the session. */
    assert_int_equal(s.client.session->events.tail, 62);
    assert_int_equal(s.rig.engine->parked_requests, 1);

    rig_now_ns += 50 * RIG_MS;
    struct event event;
    uint32_t tokens = 0;
    uint32_t overflows = 0;
    do {
        event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_TOKENS)
            assert_int_equal(event.index, tokens++);
        if (event.kind == EVENT_OVERFLOW) {
            assert_int_equal(event.overflow.parked_ns, 50 * RIG_MS);
            assert_int_equal(event.index, tokens);
            overflows++;
        }
    } while (event.kind != EVENT_DONE);
    assert_done(event, 1, DONE_LENGTH);
    assert_int_equal(tokens, 300);
    assert_int_equal(overflows, 1);
    rig_detach(&s.rig, &other);
    client_half_close(&other);
    stand_close(&s);
}

static void who_does_not_read_for_too_long_is_ended(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 300, 0);
    stand_ask(&s, 2, 3, 300, SUBMISSION_KEEP);
    rig_turn(&s.rig, 100);
    rig_now_ns += 100 * RIG_MS;
    rig_turn(&s.rig, 1);
    assert_int_equal(s.rig.engine->running_requests, 0);
    assert_int_equal(s.rig.engine->parked_requests, 0);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_OVERFLOW);
    /* The other one's sequence was to be kept, and is. */
    struct event done = rig_event(&s.rig, &s.client);
    assert_done(done, 2, DONE_OVERFLOW);
    struct submission more = client_half_request(&s.client, 3, 2, 4);
    more.op = SUBMISSION_EXTEND;
    more.parent = 2;
    client_half_submit(&s.client, &more); /* by doorbell: it was silent for long */
    rig_now_ns += RIG_MS;
    assert_done(stand_answer(&s, 3, ids), 3, DONE_LENGTH);
    stand_close(&s);
}

static void what_waits_of_who_does_not_read_takes_no_place_of_others(void **state)
{
    (void)state;
    struct stand s;
    struct client_half other;
    uint32_t ids[STAND_IDS];
    uint32_t count;
    rig_init(&s.rig);
    stand_open(&s);
    client_half_open(&other, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &other);
    for (uint32_t id = 1; id < 16; id++) /* more than can run at once */
        stand_ask(&s, id, 3, 300, 0);
    rig_turn(&s.rig, 100);
    assert_int_equal(s.rig.engine->running_requests, RIG_RUNNING);
    assert_int_equal(s.rig.engine->parked_requests, RIG_RUNNING);
    struct submission theirs = client_half_request(&other, 1, 3, 4);
    client_half_submit(&other, &theirs);
    rig_now_ns += 100 * RIG_MS;
    rig_turn(&s.rig, 2);
    assert_int_equal(s.rig.engine->queued_requests, 0);
    assert_int_equal(s.rig.engine->parked_requests, 0);
    assert_int_equal(rig_answer(&s.rig, &other, 1, ids, &count).reason, DONE_LENGTH);

    /* Who reads again is served again. */
    for (uint32_t done = 0; done < 15;) {
        struct event event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_DONE) {
            assert_int_equal(event.reason, DONE_OVERFLOW);
            done++;
        }
    }
    stand_ask(&s, 17, 3, 4, 0);
    rig_now_ns += RIG_MS;
    assert_done(stand_answer(&s, 17, ids), 17, DONE_LENGTH);
    rig_detach(&s.rig, &other);
    client_half_close(&other);
    stand_close(&s);
}

static void a_prompt_is_read_even_while_its_client_does_not_read(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 300, 0);
    rig_turn(&s.rig, 100); /* the ring is full */
    struct event event;
    for (int i = 0; i < 4; i++)
        assert_int_equal(client_half_poll(&s.client, &event), 1);
    ring_return(&s.client.events);
    stand_ask(&s, 2, 100, 300, 0); /* takes two places: accepted and the end */
    rig_turn(&s.rig, 10);
    assert_int_equal(atomic_load(&s.rig.board->models[0].prompt_tokens), 2 + 99);
    stand_close(&s);
}

static void submissions_wait_while_there_is_no_room_for_their_answers(void **state)
{
    (void)state;
    struct stand s;
    struct event event;
    uint32_t refused = 0;
    rig_init(&s.rig);
    stand_open(&s);
    for (uint32_t i = 0; i < 100; i++) { /* each one is refused, with an event */
        struct submission submission = client_half_request(&s.client, 1, 3, 0);
        if (ring_push(&s.client.submissions, &submission) == 0)
            refused--;
        rig_turn(&s.rig, 1);
    }
    assert_int_equal(s.client.session->events.tail, 62);
    assert_int_equal(s.rig.engine->stalled_sessions, 1);
    for (int turn = 0; turn < 100; turn++) {
        while (client_half_poll(&s.client, &event))
            refused++;
        ring_return(&s.client.events);
        rig_turn(&s.rig, 1);
    }
    assert_int_equal(refused, 0);
    assert_int_equal(s.rig.engine->stalled_sessions, 0);
    stand_close(&s);
}

/* ---- hot and cold ---------------------------------------------------------------------------- */

static void a_silent_session_has_to_ring_and_is_heard(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    assert_int_equal(atomic_load(&s.client.daemon_words->sleep) & DOORBELL_HOW_MASK, DOORBELL_NONE);
    rig_now_ns += 25 * RIG_MS;
    rig_turn(&s.rig, 1);
    assert_int_equal(s.client.session->place, SESSION_COLD);
    assert_int_equal(atomic_load(&s.client.daemon_words->sleep) & DOORBELL_HOW_MASK, DOORBELL_FD);
    rig_now_ns += RIG_MS;
    stand_ask(&s, 1, 3, 5, 0); /* rings */
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    assert_int_equal(s.client.session->place, SESSION_HOT);
    assert_int_equal(atomic_load(&s.client.daemon_words->sleep) & DOORBELL_HOW_MASK, DOORBELL_NONE);
    stand_close(&s);
}

/* The engine's first store into its own half while it lets a session go cold is the announcement:
 * the page is made read-only, so that a handler runs exactly before that store. */
static struct stand *announcing;

static void submit_before_the_announcement(int signal_number)
{
    (void)signal_number;
    struct region *half = &announcing->client.session->options.daemon_half;
    mprotect(half->base, half->bytes, PROT_READ | PROT_WRITE);
    stand_ask(announcing, 1, 3, 5, 0); /* sees that the engine is awake, and does not ring */
}

static void a_submission_at_the_moment_of_the_announcement_is_not_lost(void **state)
{
    (void)state;
    struct stand s;
    struct sigaction before;
    struct sigaction action = {.sa_handler = submit_before_the_announcement};
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    announcing = &s;
    assert_int_equal(sigaction(SIGSEGV, &action, &before), 0);
    struct region *half = &s.client.session->options.daemon_half;
    rig_now_ns += 25 * RIG_MS;
    s.rig.engine->heartbeat_ns = s.rig.engine->looked_ns = rig_now_ns; /* nothing else helps */
    assert_int_equal(mprotect(half->base, half->bytes, PROT_READ), 0);
    rig_turn(&s.rig, 1);
    sigaction(SIGSEGV, &before, NULL);
    assert_int_equal(ring_room(&s.client.submissions, 32), 31); /* it was submitted */
    assert_int_equal(s.client.session->place, SESSION_HOT);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    assert_int_equal(s.rig.engine->found_by_slow_round, 0);
    stand_close(&s);
}

static void who_does_not_ring_is_found_within_a_second(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    rig_now_ns += 25 * RIG_MS;
    rig_turn(&s.rig, 1);
    struct submission submission = client_half_request(&s.client, 1, 3, 5);
    assert_int_equal(ring_push(&s.client.submissions, &submission), 0);
    rig_now_ns += 10 * RIG_MS;
    stand_silent(&s);
    rig_now_ns += 1000 * (uint64_t)RIG_MS;
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    stand_close(&s);
}

/* One doorbell wakes the engine, and it looks at everybody again who was active lately: of several
 * sessions that ask in turn only the first has to ring. */
static void who_was_active_lately_is_looked_at_after_a_sleep(void **state)
{
    (void)state;
    struct stand s;
    struct client_half recent, old;
    struct event event;
    rig_init(&s.rig);
    s.rig.config.wait = ENGINE_WAIT_SLEEP;
    stand_open(&s);
    client_half_open(&recent, &CLIENT_HALF_GEOMETRY);
    client_half_open(&old, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &old);
    rig_now_ns += 15 * RIG_MS;
    rig_attach(&s.rig, &recent);
    stand_ask(&s, 1, 3, 1, 0);
    rig_turn(&s.rig, 3);
    assert_int_equal(old.session->place, SESSION_HOT);
    rig_now_ns += 10 * RIG_MS; /* too long for the old one */
    assert_int_equal(write(s.client.doorbell_fd, &(uint64_t){1}, 8), 8);
    engine_wait(s.rig.engine, rig_now_ns);
    assert_int_equal(s.client.session->place, SESSION_HOT);
    assert_int_equal(recent.session->place, SESSION_HOT);
    assert_int_equal(recent.daemon_words->sleep & DOORBELL_HOW_MASK, DOORBELL_NONE);
    assert_int_equal(old.session->place, SESSION_COLD);
    assert_int_equal(old.daemon_words->sleep & DOORBELL_HOW_MASK, DOORBELL_FD);
    while (client_half_poll(&s.client, &event))
        continue;
    rig_detach(&s.rig, &recent);
    rig_detach(&s.rig, &old);
    client_half_close(&recent);
    client_half_close(&old);
    stand_close(&s);
}

static void a_doorbell_is_heard_while_the_engine_spins(void **state)
{
    (void)state;
    struct stand s;
    struct client_half silent;
    rig_init(&s.rig);
    s.rig.config.wait = ENGINE_WAIT_SPIN;
    stand_open(&s);
    client_half_open(&silent, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &silent);
    session_list_remove(&s.rig.engine->hot, silent.session); /* as one of too many to be hot */
    silent.session->place = SESSION_COLD;
    session_list_add(&s.rig.engine->cold, silent.session);
    doorbell_announce(&silent.session->daemon_words->sleep, DOORBELL_FD);
    engine_wait(s.rig.engine, rig_now_ns); /* looks, and finds nothing */
    struct submission submission = client_half_request(&silent, 1, 3, 1);
    client_half_submit(&silent, &submission);
    engine_wait(s.rig.engine, rig_now_ns);
    struct event event;
    assert_int_equal(client_half_poll(&silent, &event), 0); /* not before some time has passed */
    rig_now_ns += ENGINE_SPIN_LOOK_NS;
    engine_wait(s.rig.engine, rig_now_ns);
    assert_int_equal(client_half_poll(&silent, &event), 1);
    assert_int_equal(event.kind, EVENT_ACCEPTED);
    rig_detach(&s.rig, &silent);
    client_half_close(&silent);
    stand_close(&s);
}

/* A look at the doorbells in the middle of a turn takes the edge of a command that came after the
 * turn's look at the commands: the engine may not sleep on it. */
static void a_command_whose_edge_was_taken_is_not_slept_over(void **state)
{
    (void)state;
    struct stand s;
    struct timespec before, after;
    rig_init(&s.rig);
    s.rig.config.wait = ENGINE_WAIT_SLEEP;
    stand_open(&s);
    rig_now_ns += 25 * RIG_MS;
    rig_turn(&s.rig, 3);
    assert_int_equal(s.rig.engine->cold.count, 1);
    rig_now_ns += 5 * RIG_MS;
    assert_int_equal(engine_detach(s.rig.engine, s.client.session), 0);
    assert_false(engine_sweep(s.rig.engine, rig_now_ns)); /* the edge is gone */
    clock_gettime(CLOCK_MONOTONIC, &before);
    engine_wait(s.rig.engine, rig_now_ns);
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_true(after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) / 1e9 < 0.5);
    rig_turn(&s.rig, 1);
    struct engine_report report = {.kind = 0};
    assert_int_equal(engine_next_report(s.rig.engine, &report), 1);
    assert_int_equal(report.kind, ENGINE_DETACHED);
    rig_close(&s.rig);
    client_half_close(&s.client);
}

/* The slow round looks at some sessions in each turn, until it has seen them all. */
static void many_silent_sessions_are_looked_at_piece_by_piece(void **state)
{
    (void)state;
    enum { COUNT = 3 * ENGINE_COLD_SESSIONS };
    static struct client_half clients[COUNT];
    struct engine_rig rig;
    uint32_t ids[STAND_IDS], count;
    rig_init(&rig);
    rig.config.sessions_max = COUNT;
    rig.config.queue_requests = COUNT;
    rig_open(&rig);
    for (uint32_t i = 0; i < COUNT; i++) {
        client_half_open(&clients[i], &CLIENT_HALF_GEOMETRY);
        rig_attach(&rig, &clients[i]);
    }
    rig_now_ns += 25 * RIG_MS;
    rig_turn(&rig, 1);
    assert_int_equal(rig.engine->cold.count, COUNT);
    rig_turn(&rig, 5); /* whatever round has begun is over */
    for (uint32_t i = 0; i < COUNT; i++) {
        struct submission submission = client_half_request(&clients[i], 1, 3, 5);
        assert_int_equal(ring_push(&clients[i].submissions, &submission), 0);
    }
    rig_now_ns += 1000 * (uint64_t)RIG_MS;
    for (uint32_t turn = 1; turn <= 3; turn++) {
        rig_turn(&rig, 1);
        assert_int_equal(rig.engine->found_by_slow_round, turn * ENGINE_COLD_SESSIONS);
    }
    for (uint32_t i = 0; i < COUNT; i++)
        assert_done(rig_answer(&rig, &clients[i], 1, ids, &count), 1, DONE_LENGTH);
    for (uint32_t i = 0; i < COUNT; i++) {
        rig_detach(&rig, &clients[i]);
        client_half_close(&clients[i]);
    }
    rig_close(&rig);
}

static void a_slow_round_ends_with_its_sessions(void **state)
{
    (void)state;
    enum { COUNT = 2 * ENGINE_COLD_SESSIONS };
    static struct client_half clients[COUNT];
    struct engine_rig rig;
    rig_init(&rig);
    rig.config.sessions_max = COUNT;
    rig_open(&rig);
    for (uint32_t i = 0; i < COUNT; i++) {
        client_half_open(&clients[i], &CLIENT_HALF_GEOMETRY);
        rig_attach(&rig, &clients[i]);
    }
    rig_now_ns += 25 * RIG_MS;
    rig_turn(&rig, 5);
    rig_now_ns += 1000 * (uint64_t)RIG_MS;
    rig_turn(&rig, 1);
    assert_int_equal(rig.engine->cold_left, COUNT - ENGINE_COLD_SESSIONS);
    for (uint32_t i = 0; i < COUNT; i++) {
        rig_detach(&rig, &clients[i]);
        client_half_close(&clients[i]);
    }
    rig_turn(&rig, 1);
    assert_int_equal(rig.engine->cold_left, 0); /* else it would not sleep */
    rig_close(&rig);
}

/* Given up after it: the one that was active is found behind it all the same. */
static void who_is_given_up_hides_nobody_who_was_active(void **state)
{
    (void)state;
    struct stand s;
    struct client_half active, ringing;
    struct event event;
    rig_init(&s.rig);
    s.rig.config.wait = ENGINE_WAIT_SLEEP;
    stand_open(&s);
    client_half_open(&active, &CLIENT_HALF_GEOMETRY);
    client_half_open(&ringing, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &ringing);
    rig_attach(&s.rig, &active);
    struct submission submission = client_half_request(&active, 1, 3, 1);
    client_half_submit(&active, &submission);
    rig_turn(&s.rig, 3);
    s.client.session->stalled_since_ns = rig_now_ns - s.rig.config.slow_reader_ns;
    session_list_remove(&s.rig.engine->hot, s.client.session); /* the last to be cooled */
    session_list_add(&s.rig.engine->hot, s.client.session);
    assert_int_equal(write(ringing.doorbell_fd, &(uint64_t){1}, 8), 8);
    engine_wait(s.rig.engine, rig_now_ns);
    assert_int_equal(active.session->place, SESSION_HOT);
    assert_int_equal(s.client.session->place, SESSION_COLD);
    assert_int_equal(s.rig.engine->cold.count, 1);
    s.client.session->stalled_since_ns = 0;
    while (client_half_poll(&active, &event))
        continue;
    rig_detach(&s.rig, &active);
    rig_detach(&s.rig, &ringing);
    client_half_close(&active);
    client_half_close(&ringing);
    stand_close(&s);
}

static void a_doorbell_that_rings_for_nothing_is_muted_for_a_while(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    for (int i = 0; i < ENGINE_EMPTY_WAKES; i++) {
        rig_now_ns += 25 * RIG_MS;
        rig_turn(&s.rig, 1);
        assert_int_equal(write(s.client.doorbell_fd, &(uint64_t){1}, 8), 8);
        rig_now_ns += RIG_MS;
        s.rig.engine->heartbeat_ns = rig_now_ns; /* not a second has passed */
        rig_turn(&s.rig, 1);
    }
    assert_true(s.client.session->is_muted);
    rig_now_ns += 25 * RIG_MS;
    rig_turn(&s.rig, 1);
    assert_int_equal(s.client.session->place, SESSION_COLD);
    stand_ask(&s, 1, 3, 5, 0);
    rig_now_ns += RIG_MS;
    stand_silent(&s);
    rig_now_ns += 1000 * (uint64_t)RIG_MS;
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    assert_int_equal(s.client.session->empty_wakes, 0);
    rig_now_ns += 1000 * (uint64_t)RIG_MS; /* cold once more, and heard again */
    rig_turn(&s.rig, 2);
    assert_false(s.client.session->is_muted);
    stand_close(&s);
}

static void a_filled_and_blocking_doorbell_harms_nobody(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    assert_int_equal(write(s.client.doorbell_fd, &(uint64_t){UINT64_MAX - 1}, 8), 8);
    rig_now_ns += 25 * RIG_MS;
    rig_turn(&s.rig, 3);
    struct submission submission = client_half_request(&s.client, 1, 3, 5);
    assert_int_equal(ring_push(&s.client.submissions, &submission), 0);
    rig_now_ns += 1000 * (uint64_t)RIG_MS;
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    stand_close(&s);
}

static void an_engine_that_spins_never_asks_to_be_rung(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    s.rig.config.wait = ENGINE_WAIT_SPIN;
    stand_open(&s);
    rig_now_ns += 10000 * (uint64_t)RIG_MS;
    rig_turn(&s.rig, 2);
    assert_int_equal(s.client.session->place, SESSION_HOT);
    stand_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_does_not_read_stands_still_until_it_reads),
        cmocka_unit_test(who_does_not_read_for_too_long_is_ended),
        cmocka_unit_test(what_waits_of_who_does_not_read_takes_no_place_of_others),
        cmocka_unit_test(a_prompt_is_read_even_while_its_client_does_not_read),
        cmocka_unit_test(submissions_wait_while_there_is_no_room_for_their_answers),
        cmocka_unit_test(a_silent_session_has_to_ring_and_is_heard),
        cmocka_unit_test(a_submission_at_the_moment_of_the_announcement_is_not_lost),
        cmocka_unit_test(who_does_not_ring_is_found_within_a_second),
        cmocka_unit_test(who_was_active_lately_is_looked_at_after_a_sleep),
        cmocka_unit_test(a_doorbell_is_heard_while_the_engine_spins),
        cmocka_unit_test(a_command_whose_edge_was_taken_is_not_slept_over),
        cmocka_unit_test(many_silent_sessions_are_looked_at_piece_by_piece),
        cmocka_unit_test(a_slow_round_ends_with_its_sessions),
        cmocka_unit_test(who_is_given_up_hides_nobody_who_was_active),
        cmocka_unit_test(a_doorbell_that_rings_for_nothing_is_muted_for_a_while),
        cmocka_unit_test(a_filled_and_blocking_doorbell_harms_nobody),
        cmocka_unit_test(an_engine_that_spins_never_asks_to_be_rung),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
