/*
 * What one user may have at once at a daemon, over all of his sessions: one who has used it up
 * takes nothing from another, and what he frees he can use again; as different users of the
 * machine.
 *
 * Needs root, to be somebody else.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "tests/integration/users.h"
#include "tests/support/test.h"

static const uint64_t second_ns = 1000000000;

/* ---- budgets ----------------------------------------------------------------------------------
 */

static int try_session(struct agl_client **ret_client, uint32_t prompt_tokens)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = world->socket_path;
    options.prompt_tokens = prompt_tokens;
    return agl_connect(ret_client, &options);
}

/* What limits the sessions of one user, and how many it leaves. */
struct session_budget {
    uint32_t sessions;      /* that fit */
    uint32_t prompt_tokens; /* of each */
    int error;              /* of the next */
    const char *key;        /* that it names */
};

enum { SESSIONS_MAX = 8 };

/* What is freed comes back when the daemon has unmapped it. */
static int try_for_a_while(struct agl_client **ret_client, const struct session_budget *budget)
{
    uint64_t until_ns = agl_now_ns() + 20 * second_ns;
    int err;
    do {
        err = try_session(ret_client, budget->prompt_tokens);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } while (err == budget->error && agl_now_ns() < until_ns);
    return err;
}

static void use_up_sessions(const struct stage *stage, void *context)
{
    const struct session_budget *budget = context;
    struct agl_client *clients[SESSIONS_MAX], *surplus = NULL;
    for (uint32_t i = 0; i < budget->sessions; i++) {
        int err = try_session(&clients[i], budget->prompt_tokens);
        ACTOR_CHECK(err == 0, "session %u: %s: %s", i, agl_strerror(err), agl_error_detail());
    }
    int err = try_session(&surplus, budget->prompt_tokens);
    ACTOR_CHECK(err == budget->error, "%s", agl_strerror(err));
    ACTOR_CHECK(strstr(agl_error_detail(), budget->key), "%s", agl_error_detail());
    stage_tell(stage);
    stage_hear(stage);
    agl_close(clients[0]);
    err = try_for_a_while(&clients[0], budget);
    ACTOR_CHECK(err == 0, "what was freed: %s: %s", agl_strerror(err), agl_error_detail());
    err = try_session(&surplus, budget->prompt_tokens);
    ACTOR_CHECK(err == budget->error, "%s", agl_strerror(err));
    for (uint32_t i = 0; i < budget->sessions; i++)
        agl_close(clients[i]);
}

/* Both use up theirs at the same time. */
static void try_session_budget(const char *const *flags, struct session_budget budget)
{
    struct daemon daemon;
    struct actor a, b;
    world_start(&daemon, flags);
    actor_start(&a, &user_a, use_up_sessions, &budget);
    actor_hear(&a);
    actor_start(&b, &user_b, use_up_sessions, &budget);
    actor_hear(&b);
    actor_say(&a);
    actor_say(&b);
    actor_end(&a);
    actor_end(&b);
    world_close(&daemon);
}

static void each_user_has_sessions_of_his_own(void **state)
{
    static const char *const flags[] = {
        "--model", "echo=echo:", "--socket-mode", "0666", "--sessions-per-user", "3", NULL};
    try_session_budget(flags, (struct session_budget){.sessions = 3,
                                                      .prompt_tokens = 1000,
                                                      .error = -EUSERS,
                                                      .key = "sessions_per_user"});
}

static void each_user_has_memory_of_his_own(void **state)
{
    static const char *const flags[] = {
        "--model", "echo=echo:", "--socket-mode", "0666", "--user-memory-mib", "1", NULL};
    /* 400,000 bytes of arena each, and a little: two in a MiB. */
    try_session_budget(flags, (struct session_budget){.sessions = 2,
                                                      .prompt_tokens = 100000,
                                                      .error = -EDQUOT,
                                                      .key = "user_memory_mib"});
}

/* Requests that wait behind one that runs and is not read. */
struct queue_budget {
    uint32_t requests;      /* that may wait */
    uint32_t prompt_tokens; /* of each */
};

static void expect_refused(struct stranger *stranger, const struct submission *submission)
{
    struct event event;
    push(stranger, submission);
    next_event(stranger, &event);
    ACTOR_CHECK(event.kind == EVENT_DONE && event.request == submission->request, "kind %u of %u",
                event.kind, event.request);
    ACTOR_CHECK(event.reason == DONE_REFUSED && event.done.error == -EDQUOT, "reason %u, error %d",
                event.reason, event.done.error);
    ACTOR_CHECK(event.done.retry_after_us > 0, "no hint when to come again");
}

static void expect_accepted(struct stranger *stranger, const struct submission *submission)
{
    struct event event;
    push(stranger, submission);
    next_event(stranger, &event);
    ACTOR_CHECK(event.kind == EVENT_ACCEPTED && event.request == submission->request,
                "kind %u of %u, reason %u, error %d", event.kind, event.request, event.reason,
                event.kind == EVENT_DONE ? event.done.error : 0);
}

static void cancel(struct stranger *stranger, uint32_t id)
{
    struct event event;
    struct submission submission = {.op = SUBMISSION_CANCEL, .request = id};
    push(stranger, &submission);
    next_event(stranger, &event);
    ACTOR_CHECK(event.kind == EVENT_DONE && event.reason == DONE_CANCELLED, "kind %u, reason %u",
                event.kind, event.reason);
}

/* Uses up the budget over two sessions, and is refused in both. */
static void use_up_queue(const struct stage *stage, void *context)
{
    const struct queue_budget *budget = context;
    struct stranger sessions[2];
    struct submission submission;
    for (int i = 0; i < 2; i++)
        come_in(&sessions[i], "queue");
    for (uint32_t i = 0; i < budget->requests; i++) {
        struct stranger *stranger = &sessions[i % 2];
        submission = stranger_request(stranger, 16 + i, budget->prompt_tokens, 2);
        expect_accepted(stranger, &submission);
    }
    submission.request = 104;
    expect_refused(&sessions[0], &submission);
    submission.request = 105;
    expect_refused(&sessions[1], &submission);
    stage_tell(stage);
    stage_hear(stage);

    cancel(&sessions[0], 16); /* what is free in one may be used in the other */
    submission = stranger_request(&sessions[1], 106, budget->prompt_tokens, 2);
    expect_accepted(&sessions[1], &submission);
    submission.request = 107;
    expect_refused(&sessions[1], &submission);
    stage_tell(stage);
    stage_hear(stage);
    for (int i = 0; i < 2; i++)
        stranger_leave(&sessions[i]);
}

/* One request that runs for as long as nobody reads it. */
static void hold_the_model(const struct stage *stage, void *context)
{
    struct stranger stranger;
    struct event event = {.kind = 0};
    come_in(&stranger, "holder");
    struct submission submission = stranger_request(&stranger, 16, 1, 30000);
    push(&stranger, &submission);
    while (event.kind != EVENT_TOKENS)
        next_event(&stranger, &event);
    stage_tell(stage);
    stage_hear(stage);
    stranger_leave(&stranger);
}

static void try_queue_budget(const char *const *flags, struct queue_budget budget)
{
    const struct who third = {.uid = ACTOR_B + 1};
    struct daemon daemon;
    struct actor holder, a, b;
    world_start(&daemon, flags);
    actor_start(&holder, &third, hold_the_model, NULL);
    actor_hear(&holder);
    actor_start(&a, &user_a, use_up_queue, &budget);
    actor_hear(&a);
    actor_start(&b, &user_b, use_up_queue, &budget);
    actor_hear(&b);
    for (int step = 0; step < 2; step++) {
        actor_say(&a);
        actor_say(&b);
        if (step == 0) {
            actor_hear(&a);
            actor_hear(&b);
        }
    }
    actor_end(&a);
    actor_end(&b);
    actor_say(&holder);
    actor_end(&holder);
    world_close(&daemon);
}

static void each_user_has_requests_waiting_of_his_own(void **state)
{
    static const char *const flags[] = {"--model",
                                        "echo=echo:",
                                        "--socket-mode",
                                        "0666",
                                        "--slow-reader-ms",
                                        "600000",
                                        "--running-max",
                                        "1",
                                        "--user-queued-requests",
                                        "5",
                                        NULL};
    try_queue_budget(flags, (struct queue_budget){.requests = 5, .prompt_tokens = 3});
}

static void each_user_has_tokens_waiting_of_his_own(void **state)
{
    static const char *const flags[] = {"--model",
                                        "echo=echo:",
                                        "--socket-mode",
                                        "0666",
                                        "--slow-reader-ms",
                                        "600000",
                                        "--running-max",
                                        "1",
                                        "--user-queued-tokens",
                                        "1000",
                                        NULL};
    try_queue_budget(flags, (struct queue_budget){.requests = 4, .prompt_tokens = 250});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_user_has_sessions_of_his_own),
        cmocka_unit_test(each_user_has_memory_of_his_own),
        cmocka_unit_test(each_user_has_requests_waiting_of_his_own),
        cmocka_unit_test(each_user_has_tokens_waiting_of_his_own),
    };
    return users_without_root() ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}
