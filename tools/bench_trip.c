#include "tools/bench_trip.h"

#include <errno.h>
#include <stdbool.h>

#include "tools/bench_clock.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

enum { VARIOUS_IDS = 512 }; /* any model knows so many */

/* Unless we are told to stop, places the prompt, as a client does that makes it anew each time: its
 * lines are ours then. */
static int begin_trip(struct agl_client *client, uint32_t tokens)
{
    uint32_t *place = NULL;
    if (bench_stop_signal())
        return bench_stop_status();
    int err = agl_prompt(client, tokens, &place);
    if (err < 0)
        return cli_error("cannot place a prompt", err);
    for (uint32_t i = 0; i < tokens; i++)
        place[i] = 1 + i % VARIOUS_IDS;
    return 0;
}

static struct agl_request make_request(const struct trip_request *asked, uint32_t flags)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.model = asked->model;
    request.prompt_tokens = asked->prompt_tokens;
    request.max_tokens = 1;
    request.flags = flags;
    return request;
}

/* Waits for the next event, with a look now and then whether to go on. */
static int next_event(struct agl_client *client, struct agl_event *ret_event)
{
    uint64_t give_up_ns = 0; /* the clock is not read by who gets the event at once */
    for (;;) {
        int got = agl_wait(client, ret_event, BENCH_LOOK_NS);
        if (got == 1)
            return 0;
        give_up_ns = give_up_ns ? give_up_ns : bench_give_up_ns();
        if (bench_stop_signal())
            return bench_stop_status();
        if ((got != -ETIMEDOUT && got != -EINTR) || !bench_may_wait(give_up_ns))
            return cli_error("cannot wait for an event", got);
    }
}

static int check_end(const struct agl_event *done)
{
    if (done->reason == AGL_DONE_LENGTH || done->reason == AGL_DONE_STOP)
        return 0;
    return cli_fail("a request ended with %s: %s", agl_reason_name(done->reason),
                    agl_strerror(done->error));
}

int trip_make(struct agl_client *client, const struct trip_request *asked, struct trip *ret_trip)
{
    struct agl_request request = make_request(asked, 0);
    struct agl_event event = {0};
    struct trip trip = {0};
    uint32_t id = 0;
    int status = begin_trip(client, asked->prompt_tokens);
    if (status)
        return status;
    uint64_t start_ns = agl_now_ns();
    uint64_t token_ns = 0;
    uint64_t start = bench_ticks();
    int err = agl_submit(client, &request, &id);
    if (err < 0)
        return cli_error("cannot submit", err);
    for (bool is_first = true; event.kind != AGL_EVENT_DONE; is_first = false) {
        status = next_event(client, &event);
        uint64_t ticks = bench_ticks() - start;
        if (status)
            return status;
        if (is_first)
            trip.first_event = ticks;
        /* The end comes with the token; a model may end without one. */
        if (event.kind == AGL_EVENT_TOKENS || (event.kind == AGL_EVENT_DONE && !token_ns)) {
            token_ns = agl_now_ns();
            trip.first_token = ticks;
        }
    }
    trip.step_ns = event.prompt_ns;
    trip.rest_ns = (int64_t)(token_ns - start_ns - trip.step_ns);
    *ret_trip = trip;
    return check_end(&event);
}

int trip_make_parts(struct agl_client *client, const struct trip_request *asked,
                    struct trip_parts *ret_parts)
{
    struct agl_request request = make_request(asked, AGL_TIMES);
    struct agl_event event = {0};
    uint32_t id = 0;
    int status = begin_trip(client, asked->prompt_tokens);
    if (status)
        return status;
    uint64_t start_ns = agl_now_ns();
    int err = agl_submit(client, &request, &id);
    if (err < 0)
        return cli_error("cannot submit", err);
    status = next_event(client, &event);
    uint64_t seen_ns = agl_now_ns();
    if (!status && event.kind == AGL_EVENT_ACCEPTED)
        *ret_parts =
            (struct trip_parts){.taken = (int64_t)(event.taken_ns - start_ns),
                                .published = (int64_t)(event.published_ns - event.taken_ns),
                                .seen = (int64_t)(seen_ns - event.published_ns)};
    while (!status && event.kind != AGL_EVENT_DONE)
        status = next_event(client, &event);
    return status ? status : check_end(&event);
}

/* ---- the caller's own time ------------------------------------------------------------------- */

static int submit_batch(struct agl_client *client, const struct trip_request *asked,
                        uint64_t *ret_ticks)
{
    struct agl_request request = make_request(asked, 0);
    uint32_t *place = NULL;
    uint32_t id = 0;
    int err = 0;
    request.prompt_tokens = 1;
    uint64_t start = bench_ticks();
    for (int i = 0; i < TRIP_BATCH && err == 0; i++) {
        err = agl_prompt(client, 1, &place);
        if (err < 0)
            break;
        *place = 1;
        err = agl_submit(client, &request, &id);
    }
    *ret_ticks = (bench_ticks() - start) / TRIP_BATCH;
    return err < 0 ? cli_error("cannot submit", err) : 0;
}

/* Takes the events that are there until none is or the batch has ended; how many, and how many
 * requests ended with them. */
static int poll_events(struct agl_client *client, int *ret_events, int *ret_ends)
{
    struct agl_event event;
    int events = 0;
    int ends = 0;
    int got = 0;
    while (ends < TRIP_BATCH && (got = agl_poll(client, &event)) == 1) {
        events++;
        ends += event.kind == AGL_EVENT_DONE;
    }
    *ret_events = events;
    *ret_ends = ends;
    return got < 0 ? cli_error("cannot take an event", got) : 0;
}

/* Gives the daemon time to answer everything, without a look at what it writes. */
static void wait_ns(uint64_t ns)
{
    uint64_t end_ns = agl_now_ns() + ns;
    while (agl_now_ns() < end_ns)
        continue;
}

/* true: all events of the batch lay there, and the time of one is in *ret_ticks. The rest is waited
 * for if not. */
static int take_batch(struct agl_client *client, uint64_t *ret_ticks, bool *ret_whole)
{
    int events = 0;
    int ends = 0;
    uint64_t start = bench_ticks();
    int status = poll_events(client, &events, &ends);
    uint64_t ticks = bench_ticks() - start;
    *ret_whole = ends == TRIP_BATCH;
    *ret_ticks = events ? ticks / (uint64_t)events : 0;
    while (!status && ends < TRIP_BATCH) {
        struct agl_event event;
        status = next_event(client, &event);
        ends += !status && event.kind == AGL_EVENT_DONE;
    }
    return status;
}

static int poll_nothing(struct agl_client *client, uint64_t *ret_ticks)
{
    struct agl_event event;
    int got = 0;
    uint64_t start = bench_ticks();
    for (int i = 0; i < TRIP_BATCH && got == 0; i++)
        got = agl_poll(client, &event);
    *ret_ticks = (bench_ticks() - start) / TRIP_BATCH;
    if (got < 0)
        return cli_error("cannot look for an event", got);
    return got ? cli_fail("an event came that nobody asked for") : 0;
}

int trip_time_calls(struct agl_client *client, const struct trip_request *asked,
                    struct trip_calls *ret_calls)
{
    enum { FIRST_WAIT_NS = 20000 };
    uint64_t give_up_ns = bench_give_up_ns();
    struct trip_calls calls = {0};
    bool is_whole = false;
    /* On a busy machine the daemon may not get to run in time: wait longer then. */
    for (uint64_t wait = FIRST_WAIT_NS; !is_whole; wait *= wait < BENCH_LOOK_NS ? 2 : 1) {
        int status = submit_batch(client, asked, &calls.submit);
        wait_ns(wait);
        if (!status)
            status = take_batch(client, &calls.poll_event, &is_whole);
        if (status)
            return status;
        if (!is_whole && !bench_may_wait(give_up_ns))
            return bench_stop_signal()
                       ? bench_stop_status()
                       : cli_fail("%d answers of the echo model take for ever", TRIP_BATCH);
    }
    int status = poll_nothing(client, &calls.poll_empty);
    if (!status)
        *ret_calls = calls;
    return status;
}
