#include "tests/integration/survivor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/integration/daemon.h"
#include "tests/support/test.h"

enum { MS = 1000000, TIMEOUT_NS = 20 * MS, SPIN_NS = 5 * MS, ANSWER_MS = 20000, LONG_ANSWER = 900 };
enum { NO_REQUEST = 999999 };
enum { ECHO, STORY }; /* the daemon's models */

const char *const survivor_way_names[SURVIVOR_WAYS] = {
    "agl_wait for ever, adaptive", "agl_wait spinning",    "agl_wait for ever, sleeping",
    "agl_wait with a timeout",     "agl_poll in a loop",   "poll on agl_fd",
    "agl_connect in a loop",       "agl_submit in a loop", "agl_wait with queued requests",
    "agl_wait with kept requests"};

static int complain(struct survivor *survivor, const char *what, int err)
{
    if (!*survivor->failure)
        snprintf(survivor->failure, sizeof survivor->failure, "%s: %s: %.120s", what,
                 agl_strerror(err), err == -EPROTO ? "" : agl_error_detail());
    return -1;
}

static uint32_t below(struct survivor *survivor, uint32_t limit)
{
    return (uint32_t)rand_r(&survivor->seed) % limit;
}

/* Stages follow each other, and the last one of a round is before the first of the next. */
static void enter_next_stage(struct survivor *survivor)
{
    /* release: pairs with the acquire in the test's have_all_come(). */
    atomic_fetch_add_explicit(&survivor->progress, 1, memory_order_release);
}

static bool is_killed(const struct survivor *survivor)
{
    return atomic_load_explicit(&survivor->world->kill_ns, memory_order_acquire) != 0;
}

static void pause_ns(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void note_answer(struct survivor *survivor)
{
    survivor->answer_ns = agl_now_ns();
    if (is_killed(survivor))
        survivor->starved_ns = thread_starved_ns(getpid(), survivor->thread_id);
}

/* ---- requests, remembered -------------------------------------------------------------------- */

static struct survivor_request *find(struct survivor *survivor, uint32_t id)
{
    for (int i = 0; i < SURVIVOR_REQUESTS; i++)
        if (survivor->requests[i].id == id)
            return &survivor->requests[i];
    return NULL;
}

/* 0, or what the library said. */
static int submit(struct survivor *survivor, uint32_t model, uint32_t max_tokens, uint32_t flags,
                  uint32_t continues)
{
    struct survivor_request *place = find(survivor, 0);
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *prompt = NULL;
    uint32_t id = 0;
    if (!place)
        return -EAGAIN;
    int err = agl_prompt(survivor->client, 3, &prompt);
    if (err < 0)
        return err;
    prompt[0] = 1;
    prompt[1] = 403;
    prompt[2] = 407;
    request.model = model;
    request.prompt_tokens = 3;
    request.max_tokens = max_tokens;
    request.flags = flags | AGL_IGNORE_EOS;
    request.continues = continues;
    err = agl_submit(survivor->client, &request, &id);
    if (err == 0)
        *place = (struct survivor_request){
            .id = id, .parent = continues, .is_keeping = flags & AGL_KEEP};
    return err;
}

/* Once its continuation is accepted, a kept request is no more. */
static void note_accepted(struct survivor *survivor, struct survivor_request *request)
{
    struct survivor_request *parent = request->parent ? find(survivor, request->parent) : NULL;
    request->is_accepted = true;
    if (parent)
        *parent = (struct survivor_request){0};
}

static int note(struct survivor *survivor, const struct agl_event *event)
{
    struct survivor_request *request = event->request ? find(survivor, event->request) : NULL;
    if (!request)
        return complain(survivor, "an event of no request", -EPROTO);
    if (event->kind == AGL_EVENT_ACCEPTED)
        note_accepted(survivor, request);
    if (event->kind == AGL_EVENT_TOKENS)
        request->tokens += event->token_count;
    if (event->kind != AGL_EVENT_DONE)
        return 0;
    if (event->reason != AGL_DONE_LENGTH)
        return complain(survivor, agl_reason_name(event->reason), event->error);
    if (request->is_keeping)
        request->is_done = true;
    else
        *request = (struct survivor_request){0};
    return 0;
}

/* What the library must say of it. */
static int expected_state(const struct survivor_request *request)
{
    if (request->is_done)
        return AGL_REQUEST_KEPT;
    return request->is_accepted ? AGL_REQUEST_RUNNING : AGL_REQUEST_SUBMITTED;
}

static int check_states(struct survivor *survivor)
{
    for (int i = 0; i < SURVIVOR_REQUESTS; i++) {
        const struct survivor_request *request = &survivor->requests[i];
        uint32_t tokens = UINT32_MAX;
        if (!request->id)
            continue;
        int state = agl_request_state(survivor->client, request->id, &tokens);
        if (state != expected_state(request) || tokens != request->tokens) {
            snprintf(survivor->failure, sizeof survivor->failure,
                     "agl_request_state() says %d with %u tokens, the events said %d with %u",
                     state, tokens, expected_state(request), request->tokens);
            return -1;
        }
        survivor->states[state]++;
    }
    if (agl_request_state(survivor->client, NO_REQUEST, NULL) != -ENOENT)
        return complain(survivor, "the state of a request that never was", -EPROTO);
    return 0;
}

/* ---- before the death ------------------------------------------------------------------------ */

static int take(struct survivor *survivor, uint64_t timeout_ns)
{
    struct agl_event event;
    int got = agl_wait(survivor->client, &event, timeout_ns);
    return got == 1 ? note(survivor, &event) < 0 ? -EBADMSG : 1 : got;
}

/* Makes kept requests, and continues one of them. */
static int prepare_kept(struct survivor *survivor)
{
    int err = 0;
    for (int i = 0; i < 3 && err >= 0; i++)
        err = submit(survivor, ECHO, 2, AGL_KEEP, 0);
    while (err >= 0 && !(survivor->requests[0].is_done && survivor->requests[1].is_done &&
                         survivor->requests[2].is_done))
        err = take(survivor, (uint64_t)ANSWER_MS * MS);
    return err < 0 ? err : submit(survivor, ECHO, 2, AGL_KEEP, survivor->requests[1].id);
}

/* What is in flight when the death comes: for half of those who wait nothing at all. */
static int prepare(struct survivor *survivor)
{
    int err = 0;
    memset(survivor->requests, 0, sizeof survivor->requests);
    switch (survivor->way) {
    case SURVIVOR_KEEP:
        return prepare_kept(survivor);
    case SURVIVOR_QUEUE:
        for (int i = 0; i < 8 && err == 0; i++)
            err = submit(survivor, STORY, LONG_ANSWER, 0, 0);
        return err;
    case SURVIVOR_CONNECT:
    case SURVIVOR_SUBMIT:
        return 0;
    default:
        return survivor->number % 2 ? submit(survivor, STORY, LONG_ANSWER, 0, 0) : 0;
    }
}

/* ---- the ways -------------------------------------------------------------------------------- */

/* Each returns the error that it was told; what it asked for has ended and is asked for anew. */
static int keep_busy(struct survivor *survivor, int got)
{
    if (got == 1 && survivor->number % 2 && find(survivor, 0) == survivor->requests &&
        survivor->way != SURVIVOR_KEEP)
        got = submit(survivor, STORY, LONG_ANSWER, 0, 0);
    return got;
}

static int wait_with(struct survivor *survivor, uint64_t timeout_ns)
{
    int got;
    do
        got = keep_busy(survivor, take(survivor, timeout_ns));
    while (got >= 0 || got == -ETIMEDOUT || got == -EAGAIN);
    return got;
}

static int spin_with_pauses(struct survivor *survivor)
{
    int got;
    do {
        got = keep_busy(survivor, take(survivor, SPIN_NS));
        if (got == -ETIMEDOUT)
            pause_ns(SPIN_NS);
    } while (got >= 0 || got == -ETIMEDOUT || got == -EAGAIN);
    return got;
}

static int poll_in_a_loop(struct survivor *survivor)
{
    struct agl_event event;
    int got;
    do {
        got = agl_poll(survivor->client, &event);
        if (got == 1)
            got = note(survivor, &event) < 0 ? -EBADMSG : keep_busy(survivor, 1);
        else if (got == 0)
            pause_ns(below(survivor, MS / 2));
    } while (got >= 0 || got == -EAGAIN);
    return got;
}

static int poll_descriptor(struct survivor *survivor)
{
    struct agl_event event;
    struct pollfd waiting = {.fd = agl_fd(survivor->client), .events = POLLIN};
    int got;
    do {
        got = agl_poll(survivor->client, &event);
        if (got == 1)
            got = note(survivor, &event) < 0 ? -EBADMSG : keep_busy(survivor, 1);
        else if (got == 0)
            poll(&waiting, 1, -1);
    } while (got >= 0 || got == -EAGAIN);
    return got;
}

static int submit_in_a_loop(struct survivor *survivor)
{
    struct agl_event event;
    for (;;) {
        int got = submit(survivor, ECHO, 1 + below(survivor, 4), 0, 0);
        if (got < 0 && got != -EAGAIN)
            return got;
        while ((got = agl_poll(survivor->client, &event)) == 1)
            if (note(survivor, &event) < 0)
                return -EBADMSG;
        if (got < 0)
            return got;
        if (below(survivor, 8) == 0)
            pause_ns(MS / 4);
    }
}

/* The call during which the daemon died, or the first one after, is what counts. It may have come
 * in time, or reached the next daemon already; else it says what is wrong. */
static int connect_in_a_loop(struct survivor *survivor)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = survivor->world->socket_path;
    options.timeout_ns = (uint64_t)ANSWER_MS * MS;
    for (;;) {
        struct agl_client *client = NULL;
        int err = agl_connect(&client, &options);
        bool was_killed = is_killed(survivor);
        note_answer(survivor);
        if (err < 0 && (!was_killed || (err != -EPIPE && err != -ECONNREFUSED && err != -ENOENT)))
            return complain(survivor, "agl_connect", err);
        agl_close(client);
        if (was_killed) {
            survivor->refusals += err < 0;
            return 0;
        }
    }
}

static int live_on(struct survivor *survivor)
{
    switch (survivor->way) {
    case SURVIVOR_WAIT_TIMED:
        return wait_with(survivor, TIMEOUT_NS);
    case SURVIVOR_WAIT_SPIN:
        return spin_with_pauses(survivor);
    case SURVIVOR_POLL:
        return poll_in_a_loop(survivor);
    case SURVIVOR_DESCRIPTOR:
        return poll_descriptor(survivor);
    case SURVIVOR_SUBMIT:
        return submit_in_a_loop(survivor);
    default:
        return wait_with(survivor, UINT64_MAX);
    }
}

/* ---- after it -------------------------------------------------------------------------------- */

/* Once told, it stays so, for every call. */
static int check_end(struct survivor *survivor)
{
    struct agl_event event;
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *prompt;
    uint32_t id = 0;
    request.prompt_tokens = 1;
    if (agl_poll(survivor->client, &event) != -EPIPE ||
        agl_wait(survivor->client, &event, UINT64_MAX) != -EPIPE ||
        agl_prompt(survivor->client, 1, &prompt) != -EPIPE ||
        agl_submit(survivor->client, &request, &id) != -EPIPE ||
        agl_cancel(survivor->client, 1) != -EPIPE || agl_forget(survivor->client, 1) != -EPIPE)
        return complain(survivor, "a call after the end that does not say so", -EPROTO);
    return 0;
}

static int ask(struct survivor *survivor, uint32_t model)
{
    struct agl_event event = {0};
    memset(survivor->requests, 0, sizeof survivor->requests);
    int err = submit(survivor, model, SURVIVOR_TOKENS, 0, 0);
    while (err >= 0 && event.kind != AGL_EVENT_DONE) {
        err = agl_wait(survivor->client, &event, (uint64_t)ANSWER_MS * MS);
        for (uint32_t i = 0; err == 1 && event.kind == AGL_EVENT_TOKENS && i < event.token_count;
             i++)
            if (event.index + i >= SURVIVOR_TOKENS ||
                event.tokens[i].id != survivor->world->expected[model][event.index + i])
                return complain(survivor, "a wrong token after the reconnection", -EPROTO);
    }
    if (err < 0)
        return complain(survivor, "no answer after the reconnection", err);
    return event.generated_tokens == SURVIVOR_TOKENS ? 0 : complain(survivor, "too short", -EPROTO);
}

static int reconnect(struct survivor *survivor)
{
    static const uint32_t modes[SURVIVOR_WAYS] = {[SURVIVOR_WAIT_SPIN] = AGL_WAIT_SPIN,
                                                  [SURVIVOR_WAIT_SLEEP] = AGL_WAIT_SLEEP,
                                                  [SURVIVOR_QUEUE] = AGL_WAIT_SLEEP};
    struct agl_options options = AGL_OPTIONS_INIT;
    uint64_t end_ns = agl_now_ns() + (uint64_t)ANSWER_MS * MS;
    options.socket_path = survivor->world->socket_path;
    options.wait_mode = modes[survivor->way];
    options.max_requests = SURVIVOR_REQUESTS;
    for (;;) {
        int err = agl_connect(&survivor->client, &options);
        if (err == 0 || agl_now_ns() > end_ns)
            return err < 0 ? complain(survivor, "agl_connect to the next daemon", err) : 0;
        pause_ns(2 * MS);
    }
}

/* Connects, and asks both models. */
static int begin_anew(struct survivor *survivor)
{
    int err = reconnect(survivor);
    if (err == 0)
        err = ask(survivor, ECHO);
    return err == 0 ? ask(survivor, STORY) : err;
}

static int survive(struct survivor *survivor)
{
    int err = prepare(survivor);
    if (err < 0)
        return complain(survivor, "preparing", err);
    enter_next_stage(survivor); /* SURVIVOR_WAITS */
    if (survivor->way == SURVIVOR_CONNECT) {
        if (connect_in_a_loop(survivor) < 0)
            return -1;
        /* Its own client has waited beside it and knows nothing yet. */
        err = wait_with(survivor, TIMEOUT_NS);
    } else {
        err = live_on(survivor);
        note_answer(survivor);
    }
    if (err != -EPIPE)
        return complain(survivor, "the answer is not -EPIPE", err);
    if (!is_killed(survivor))
        return complain(survivor, "-EPIPE from a daemon that lives", err);
    enter_next_stage(survivor); /* SURVIVOR_KNOWS */
    if (check_states(survivor) < 0 || check_end(survivor) < 0)
        return -1;
    agl_close(survivor->client);
    survivor->client = NULL;
    return begin_anew(survivor);
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* Until the world has begun the round. false: there will be none. */
static bool await_round(const struct survivor *survivor, uint32_t number)
{
    uint32_t round;
    while ((round = atomic_load(&survivor->world->round)) < number)
        pause_ns(MS);
    return round != SURVIVOR_END;
}

static void *run(void *argument)
{
    struct survivor *survivor = argument;
    survivor->thread_id = gettid();
    int err = begin_anew(survivor);
    for (uint32_t number = 1; err == 0; number++) {
        enter_next_stage(survivor); /* SURVIVOR_DONE */
        if (!await_round(survivor, number))
            break;
        enter_next_stage(survivor); /* SURVIVOR_PREPARES */
        err = survive(survivor);
    }
    if (err < 0)
        atomic_store(&survivor->has_failed, 1);
    agl_close(survivor->client);
    return NULL;
}

void survivor_start(struct survivor *survivor, struct survivor_world *world, enum survivor_way way,
                    uint32_t number)
{
    *survivor = (struct survivor){
        .world = world, .way = way, .number = number, .seed = number, .progress = SURVIVOR_KNOWS};
    assert_int_equal(pthread_create(&survivor->thread, NULL, run, survivor), 0);
}

void survivor_join(struct survivor *survivor)
{
    pthread_join(survivor->thread, NULL);
}
