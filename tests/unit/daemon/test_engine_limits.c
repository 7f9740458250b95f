/* What the engine refuses, and what ends a session. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/engine_stand.h"
#include "tests/support/test.h"

/* ---- refusals -------------------------------------------------------------------------------- */

static void what_cannot_be_served_is_refused_and_the_session_lives(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);

    struct submission submission = client_half_request(&s.client, 1, 3, 5);
    submission.model = 1;
    client_half_submit(&s.client, &submission);
    stand_refused(&s, 1, -ENOENT);
    submission.model = UINT32_MAX;
    client_half_submit(&s.client, &submission);
    stand_refused(&s, 1, -ENOENT);

    submission = client_half_request(&s.client, 2, 3, 5);
    submission.temperature = -1;
    client_half_submit(&s.client, &submission);
    stand_refused(&s, 2, -EINVAL);

    stand_ask(&s, 3, RIG_CONTEXT, 5, 0);
    stand_refused(&s, 3, -EMSGSIZE);

    submission = client_half_request(&s.client, 4, 3, 5);
    s.client.arena[2] = RIG_VOCAB;
    client_half_submit(&s.client, &submission);
    stand_refused(&s, 4, -EINVAL);

    stand_ask(&s, 5, 3, 5, SUBMISSION_LOGITS);
    stand_refused(&s, 5, -EINVAL);

    submission = client_half_request(&s.client, 6, 3, 5);
    submission.op = SUBMISSION_EXTEND;
    submission.parent = 1;
    client_half_submit(&s.client, &submission);
    stand_refused(&s, 6, -ENOENT);

    assert_int_equal(atomic_load(&s.rig.board->requests_refused), 7);
    stand_ask(&s, 1, RIG_CONTEXT - 1, 5, 0);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    stand_close(&s);
}

static void logits_that_do_not_fit_into_the_output_arena_are_refused(void **state)
{
    (void)state;
    struct stand s;
    struct geometry geometry = CLIENT_HALF_GEOMETRY;
    geometry.output_bytes = LAYOUT_PAGE_BYTES;
    rig_init(&s.rig);
    s.rig.model.config.vocab_size = s.rig.model.config.vocab_rows = 1025;
    rig_open(&s.rig);
    client_half_open(&s.client, &geometry);
    rig_attach(&s.rig, &s.client);
    stand_ask(&s, 1, 3, 5, SUBMISSION_LOGITS);
    stand_refused(&s, 1, -ENOSPC);
    stand_close(&s);
}

static void a_full_queue_refuses_and_says_when_to_come_again(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.queue_requests = 2;
    stand_open(&s);
    for (uint32_t id = 1; id <= 2; id++)
        stand_ask(&s, id, 3, 5, 0);
    rig_turn(&s.rig, 1); /* one runs, one waits */
    stand_ask(&s, 3, 3, 5, 0);
    stand_ask(&s, 4, 3, 5, 0);
    struct event done = stand_answer(&s, 4, ids);
    assert_done(done, 4, DONE_REFUSED);
    assert_int_equal(done.done.error, -EAGAIN);
    assert_in_range(done.done.retry_after_us, 1000, 10000000);
    assert_done(stand_answer(&s, 3, ids), 3, DONE_LENGTH);
    stand_close(&s);
}

/* Answers that took so long each, the last one of them refused. Returns the hint. */
static uint32_t hint_after_answers_of(uint64_t took_ns)
{
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.queue_requests = 1;
    stand_open(&s);
    for (uint32_t id = 1; id <= 3; id++) {
        stand_ask(&s, id, 3, 2, 0);
        rig_now_ns += RIG_MS; /* it may have had to ring */
        rig_turn(&s.rig, 1);
        rig_now_ns += took_ns;
        assert_done(stand_answer(&s, id, ids), id, DONE_LENGTH);
    }
    stand_ask(&s, 4, 3, 400, 0);
    rig_now_ns += RIG_MS;
    rig_turn(&s.rig, 1);
    stand_ask(&s, 5, 3, 400, 0);
    stand_ask(&s, 6, 3, 400, 0);
    struct event done = stand_answer(&s, 6, ids);
    assert_int_equal(done.done.error, -EAGAIN);
    stand_close(&s);
    return done.done.retry_after_us;
}

static void when_to_come_again_follows_from_how_long_answers_take(void **state)
{
    (void)state;
    assert_int_equal(hint_after_answers_of(10 * 1000), 1000);
    assert_int_equal(hint_after_answers_of(50 * (uint64_t)RIG_MS), 50000);
    assert_int_equal(hint_after_answers_of(60000 * (uint64_t)RIG_MS), 10000000);
}

static void a_lost_device_refuses_everything(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    s.rig.engine->failed = -EIO;
    stand_ask(&s, 1, 3, 5, 0);
    stand_refused(&s, 1, -EIO);
    stand_close(&s);
}

static void a_queue_full_of_tokens_refuses_too(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.queue_tokens = 100;
    stand_open(&s);
    stand_ask(&s, 1, 200, 5, 0); /* alone it may be as long as it likes */
    rig_turn(&s.rig, 1);
    stand_ask(&s, 2, 90, 5, 0);
    stand_ask(&s, 3, 11, 5, 0);
    stand_ask(&s, 4, 10, 5, 0);
    struct event done = stand_answer(&s, 3, ids);
    assert_done(done, 3, DONE_REFUSED);
    assert_int_equal(done.done.error, -EAGAIN);
    assert_done(stand_answer(&s, 4, ids), 4, DONE_LENGTH);
    stand_close(&s);
}

/* Two sessions of one user have one budget, another user's session its own. */
static void a_user_has_no_more_waiting_than_his_budget(void **state)
{
    (void)state;
    struct stand s;
    struct client_half twin, other;
    struct event event;
    uint32_t ids[STAND_IDS], count;
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.user_queued_requests = 2;
    stand_open(&s);
    client_half_open(&twin, &CLIENT_HALF_GEOMETRY);
    client_half_open(&other, &CLIENT_HALF_GEOMETRY);
    twin.session->queue = s.client.session->queue;
    rig_attach(&s.rig, &twin);
    rig_attach(&s.rig, &other);
    for (uint32_t id = 1; id <= 2; id++)
        stand_ask(&s, id, 3, 5, 0); /* one runs, one waits */
    rig_turn(&s.rig, 1);
    struct submission submission = client_half_request(&twin, 1, 3, 5);
    client_half_submit(&twin, &submission);
    rig_turn(&s.rig, 1);
    submission.request = 2;
    client_half_submit(&twin, &submission);
    submission = client_half_request(&other, 1, 3, 5);
    client_half_submit(&other, &submission);

    rig_expect(&s.rig, &twin, EVENT_ACCEPTED, 1);
    event = rig_event(&s.rig, &twin);
    assert_done(event, 2, DONE_REFUSED);
    assert_int_equal(event.done.error, -EDQUOT);
    assert_in_range(event.done.retry_after_us, 1000, 10000000);
    rig_expect(&s.rig, &other, EVENT_ACCEPTED, 1);
    assert_done(stand_answer(&s, 2, ids), 2, DONE_LENGTH);
    assert_done(rig_answer(&s.rig, &twin, 1, ids, &count), 1, DONE_LENGTH);
    submission = client_half_request(&twin, 3, 3, 5); /* there is room again */
    client_half_submit(&twin, &submission);
    assert_done(rig_answer(&s.rig, &twin, 3, ids, &count), 3, DONE_LENGTH);
    rig_detach(&s.rig, &twin);
    rig_detach(&s.rig, &other);
    assert_int_equal(s.client.session->queue->requests, 0);
    assert_int_equal(s.client.session->queue->tokens, 0);
    client_half_close(&twin);
    client_half_close(&other);
    stand_close(&s);
}

static void a_users_waiting_tokens_are_counted_too(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.user_queued_tokens = 100;
    stand_open(&s);
    stand_ask(&s, 1, 3, 50, 0);
    rig_turn(&s.rig, 1);
    stand_ask(&s, 2, 200, 5, 0); /* alone it may be as long as it likes */
    rig_turn(&s.rig, 1);
    stand_ask(&s, 3, 1, 5, 0);
    struct event done = stand_answer(&s, 3, ids);
    assert_done(done, 3, DONE_REFUSED);
    assert_int_equal(done.done.error, -EDQUOT);
    assert_done(stand_answer(&s, 2, ids), 2, DONE_LENGTH);
    stand_close(&s);
}

/* The end of an extension by one token of a history of 300, of which `kept_max` says whether it is
 * in the cache; ten tokens wait already. */
static struct event extended_while_others_wait(const struct config *limits)
{
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.kept_max = limits->kept_max;
    s.rig.config.user_queued_tokens = limits->user_queued_tokens;
    s.rig.config.queue_tokens = limits->queue_tokens;
    stand_open(&s);
    stand_ask(&s, 1, 300, 2, SUBMISSION_KEEP);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    stand_ask(&s, 2, 3, 100, 0);
    rig_turn(&s.rig, 1);
    stand_ask(&s, 3, 10, 5, 0);
    rig_turn(&s.rig, 1);
    struct submission submission = client_half_request(&s.client, 4, 1, 1);
    submission.op = SUBMISSION_EXTEND;
    submission.parent = 1;
    client_half_submit(&s.client, &submission);
    struct event done = stand_answer(&s, 4, ids);
    stand_close(&s);
    return done;
}

static void a_history_to_be_computed_again_weighs_in_the_queue(void **state)
{
    (void)state;
    struct config limits = {.kept_max = 4, .user_queued_tokens = 100, .queue_tokens = 1 << 20};
    assert_done(extended_while_others_wait(&limits), 4, DONE_LENGTH);
    limits.kept_max = 0;
    struct event done = extended_while_others_wait(&limits);
    assert_done(done, 4, DONE_REFUSED);
    assert_int_equal(done.done.error, -EDQUOT);

    limits = (struct config){.kept_max = 4, .queue_tokens = 100};
    assert_done(extended_while_others_wait(&limits), 4, DONE_LENGTH);
    limits.kept_max = 0;
    done = extended_while_others_wait(&limits);
    assert_done(done, 4, DONE_REFUSED);
    assert_int_equal(done.done.error, -EAGAIN);
}

static void what_is_lost_while_it_waits_weighs_from_then_on(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.kept_max = 1;
    stand_open(&s);
    stand_ask(&s, 1, 300, 2, SUBMISSION_KEEP);
    stand_answer(&s, 1, ids);
    stand_ask(&s, 2, 3, 20, SUBMISSION_KEEP);
    rig_turn(&s.rig, 1);
    struct submission submission = client_half_request(&s.client, 4, 1, 1);
    submission.op = SUBMISSION_EXTEND;
    submission.parent = 1;
    client_half_submit(&s.client, &submission);
    rig_turn(&s.rig, 1);
    const struct user_queue *queue = s.client.session->queue;
    assert_int_equal(queue->tokens, 2); /* the last one told, and the new one */
    stand_answer(&s, 2, ids);           /* kept, it takes the place of the first */
    assert_int_equal(queue->requests, 1);
    assert_int_equal(queue->tokens, 303);
    assert_int_equal(s.rig.engine->queued_tokens, 303);
    assert_int_equal(s.rig.engine->models[0].queue.tokens, 303);
    assert_int_equal(stand_answer(&s, 4, ids).done.cached_tokens, 0);
    assert_int_equal(queue->tokens, 0);
    assert_int_equal(s.rig.engine->models[0].queue.tokens, 0);
    stand_close(&s);
}

/* ---- nonsense -------------------------------------------------------------------------------- */

static struct submission nonsense(struct client_half *client, uint32_t kind)
{
    struct submission submission = client_half_request(client, 9, 3, 5);
    submission.flags = SUBMISSION_WIDE;
    switch (kind) {
    case 0:
        submission.op = 77;
        break;
    case 1:
        submission.request = 0;
        break;
    case 2:
        submission.request = 1; /* runs */
        break;
    case 3:
        submission.request = 17; /* the same entry */
        break;
    case 4:
        submission.request = 2; /* is kept */
        break;
    case 5:
        submission.reserved[3] = 1;
        break;
    case 6:
        submission.prompt_offset = client->geometry.arena_bytes;
        break;
    case 7:
        submission.prompt_tokens = UINT32_MAX;
        break;
    case 8:
        submission.prompt_offset = 2;
        break;
    case 9:
        submission.flags = 0xffff;
        break;
    case 10:
        submission.priority = 200;
        break;
    case 11:
        submission.stop_count = 5;
        break;
    case 12:
        submission = (struct submission){.op = SUBMISSION_CANCEL, .request = 1, .seed = 1};
        break;
    case 13: /* an unfinished request in the entry of its own parent */
        submission.op = SUBMISSION_EXTEND;
        submission.parent = 1;
        submission.request = 1;
        break;
    default:
        submission.op = 0;
        break;
    }
    return submission;
}

enum { NONSENSE = 15, CURSOR_TOO_FAR = NONSENSE, CURSOR_BACK, OUTPUT_CURSOR, KINDS };

/* The session must be told and ended, and everything of it released, while the other one goes on as
 * if nothing had happened. */
static void assert_ends_only_its_session(uint32_t kind)
{
    struct stand s;
    struct client_half other;
    struct geometry geometry = CLIENT_HALF_GEOMETRY;
    uint32_t ids[STAND_IDS];
    uint32_t count;
    geometry.output_bytes = LAYOUT_PAGE_BYTES; /* one row */
    rig_init(&s.rig);
    rig_open(&s.rig);
    client_half_open(&s.client, &geometry);
    rig_attach(&s.rig, &s.client);
    client_half_open(&other, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &other);

    stand_ask(&s, 2, 3, 2, SUBMISSION_KEEP);
    stand_answer(&s, 2, ids);
    stand_ask(&s, 1, 3, 400, kind == OUTPUT_CURSOR ? SUBMISSION_LOGITS : 0);
    struct submission theirs = client_half_request(&other, 1, 3, 200);
    client_half_submit(&other, &theirs);
    rig_turn(&s.rig, 2);

    uint32_t events = s.client.session->events.tail;
    if (kind == CURSOR_TOO_FAR)
        atomic_store(&s.client.words->event_cursor, events + 5000);
    else if (kind == CURSOR_BACK)
        atomic_store(&s.client.words->event_cursor, UINT32_MAX);
    else if (kind == OUTPUT_CURSOR)
        atomic_store(&s.client.words->output_cursor, 1 << 20);
    else {
        struct submission submission = nonsense(&s.client, kind);
        client_half_submit(&s.client, &submission);
    }
    assert_int_equal(rig_answer(&s.rig, &other, 1, ids, &count).reason, DONE_LENGTH);
    assert_int_equal(count, 200);

    struct engine_report report = rig_report(&s.rig);
    assert_int_equal(report.kind, ENGINE_BROKEN);
    assert_ptr_equal(report.session, s.client.session);
    assert_int_equal(s.client.session->broken, -EPROTO);
    assert_non_null(s.client.session->broken_why);
    assert_int_equal(s.client.session->live_requests, 0);

    /* Read on, rightly this time: the last two events are those of the end. */
    struct event event;
    struct event last = {0};
    struct event before = {0};
    while (client_half_poll(&s.client, &event)) {
        before = last;
        last = event;
    }
    assert_done(before, 1, DONE_CANCELLED);
    assert_int_equal(last.kind, EVENT_SHUTDOWN);
    assert_int_equal(last.shutdown.error, -EPROTO);

    struct submission more = client_half_request(&s.client, 5, 3, 5);
    ring_push(&s.client.submissions, &more);
    stand_silent(&s);
    rig_detach(&s.rig, &other);
    client_half_close(&other);
    stand_close(&s);
}

static void nonsense_ends_its_session_and_touches_no_other(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < KINDS; kind++)
        assert_ends_only_its_session(kind);
}

/* With nothing running, only the next submission asks how far the client has read. */
static void a_nonsensical_cursor_is_noticed_by_the_next_submission(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    stand_open(&s);
    struct session *session = s.client.session;
    for (uint32_t id = 1; session->events.tail + 3 <= session->geometry.event_slots; id++) {
        stand_ask(&s, id, 0, 1, 0); /* refused: one event each */
        rig_turn(&s.rig, 1);
    }
    assert_int_equal(session->broken, 0);
    atomic_store(&s.client.words->event_cursor, session->events.tail + 1);
    stand_ask(&s, 1, 3, 1, 0);
    rig_turn(&s.rig, 1);
    assert_int_equal(session->broken, -EPROTO);
    assert_string_equal(session->broken_why, "the event cursor is out of range");
    assert_int_equal(session->live_requests, 0);
    stand_close(&s);
}

/* Between the look at the ring and the taking lies the question whether there is room, which is
 * where a hostile client comes in. */
static struct client_half *taking_back;

int __real_publish_has_room(struct session *session, uint32_t events);
int __wrap_publish_has_room(struct session *session, uint32_t events);
int __wrap_publish_has_room(struct session *session, uint32_t events)
{
    struct client_half *client = taking_back;
    taking_back = NULL;
    if (client)
        memset(client->submissions.slots, 0, SUBMISSION_SLOT_BYTES);
    return __real_publish_has_room(session, events);
}

static void a_submission_that_is_taken_back_was_never_there(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    taking_back = &s.client;
    stand_ask(&s, 1, 3, 5, 0);
    stand_silent(&s);
    assert_null(taking_back);
    assert_int_equal(s.client.session->submissions.head, 0);
    s.client.submissions.tail = 0;
    stand_ask(&s, 2, 3, 5, 0);
    assert_done(stand_answer(&s, 2, ids), 2, DONE_LENGTH);
    stand_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_served_is_refused_and_the_session_lives),
        cmocka_unit_test(logits_that_do_not_fit_into_the_output_arena_are_refused),
        cmocka_unit_test(a_full_queue_refuses_and_says_when_to_come_again),
        cmocka_unit_test(when_to_come_again_follows_from_how_long_answers_take),
        cmocka_unit_test(a_lost_device_refuses_everything),
        cmocka_unit_test(a_queue_full_of_tokens_refuses_too),
        cmocka_unit_test(a_user_has_no_more_waiting_than_his_budget),
        cmocka_unit_test(a_users_waiting_tokens_are_counted_too),
        cmocka_unit_test(a_history_to_be_computed_again_weighs_in_the_queue),
        cmocka_unit_test(what_is_lost_while_it_waits_weighs_from_then_on),
        cmocka_unit_test(nonsense_ends_its_session_and_touches_no_other),
        cmocka_unit_test(a_nonsensical_cursor_is_noticed_by_the_next_submission),
        cmocka_unit_test(a_submission_that_is_taken_back_was_never_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
