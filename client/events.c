/* Events: taken from the ring, checked against what was asked for, and waited for. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "client/deadline.h"
#include "client/error.h"
#include "client/private.h"
#include "shm/message.h"

enum {
    SPINS_PER_CLOCK = 32,    /* about a microsecond of cpu_relax() */
    LOOK_NS = 100 * 1000000, /* without a sign of life for so long, the socket is looked at */
    PACKETS_PER_LOOK = 16,   /* a flood of packets may not keep us */
};

void client_end(struct agl_client *client, int err, const char *why)
{
    if (!client->end) {
        client->end = err;
        snprintf(client->end_detail, sizeof client->end_detail, "%s", why);
    }
}

/* ---- checking -------------------------------------------------------------------------------- */

static int broken(struct agl_client *client, const struct event *event, const char *what)
{
    char why[sizeof client->end_detail];
    snprintf(why, sizeof why, "event of kind %u for request %u: %s", event->kind, event->request,
             what);
    client_end(client, -EPROTO, why);
    return client_ended(client);
}

static int take_accepted(struct agl_client *client, struct client_request *request,
                         const struct event *event, struct agl_event *ret_event)
{
    if (request->state != REQUEST_SUBMITTED)
        return broken(client, event, "it was accepted before");
    client_request_accepted(client, request);
    *ret_event = (struct agl_event){.kind = AGL_EVENT_ACCEPTED,
                                    .request = event->request,
                                    .prompt_tokens = event->accepted.prompt_tokens,
                                    .taken_ns = event->accepted.taken_ns,
                                    .published_ns = event->accepted.published_ns};
    return 1;
}

static int take_tokens(struct agl_client *client, struct client_request *request,
                       const struct event *event, struct agl_event *ret_event)
{
    if (request->state != REQUEST_RUNNING)
        return broken(client, event, "tokens before it was accepted");
    if (event->count == 0 || event->count > EVENT_TOKENS_MAX)
        return broken(client, event, "a number of tokens that no event can hold");
    if (event->index != request->tokens)
        return broken(client, event, "tokens are missing or come twice");
    if (event->count > request->max_tokens - request->tokens)
        return broken(client, event, "more tokens than were asked for");
    for (uint32_t i = 0; i < event->count; i++)
        if (event->tokens[i].id >= request->vocab_size)
            return broken(client, event, "a token beyond the vocabulary");

    request->tokens += event->count;
    *ret_event = (struct agl_event){.kind = AGL_EVENT_TOKENS,
                                    .request = event->request,
                                    .index = event->index,
                                    .token_count = event->count};
    for (uint32_t i = 0; i < event->count; i++)
        ret_event->tokens[i] =
            (struct agl_token){.id = event->tokens[i].id, .logprob = event->tokens[i].logprob};
    return 1;
}

static int take_output(struct agl_client *client, struct client_request *request,
                       const struct event *event, struct agl_event *ret_event)
{
    const struct event_output *output = &event->output;
    uint32_t room = client->geometry.output_bytes;
    if (request->state != REQUEST_RUNNING)
        return broken(client, event, "output before it was accepted");
    if (output->bytes != (uint64_t)request->vocab_size * sizeof(float))
        return broken(client, event, "output that is not one number for each token");
    if (output->bytes > room || output->offset > room - output->bytes ||
        output->offset % sizeof(float))
        return broken(client, event, "output outside of its arena");
    if (output->release - client->output_cursor > room)
        return broken(client, event, "output gives back more than there is");

    client->output_release = output->release;
    *ret_event = (struct agl_event){
        .kind = AGL_EVENT_LOGITS,
        .request = event->request,
        .index = event->index,
        .logit_count = request->vocab_size,
        .logits = (const float *)(const void *)(client->output + output->offset)};
    return 1;
}

static int take_done(struct agl_client *client, struct client_request *request,
                     const struct event *event, struct agl_event *ret_event)
{
    const struct event_done *done = &event->done;
    if (event->reason < DONE_STOP || event->reason > DONE_OVERFLOW)
        return broken(client, event, "a reason that does not exist");
    if (done->error > 0 || done->error < -4095)
        return broken(client, event, "an error that is none");

    client_request_done(client, request, event->reason);
    *ret_event = (struct agl_event){.kind = AGL_EVENT_DONE,
                                    .request = event->request,
                                    .reason = event->reason,
                                    .error = done->error,
                                    .retry_after_ns = (uint64_t)done->retry_after_us * 1000,
                                    .prompt_tokens = done->prompt_tokens,
                                    .cached_tokens = done->cached_tokens,
                                    .generated_tokens = done->generated_tokens,
                                    .taken_ns = done->taken_ns,
                                    .queued_ns = (uint64_t)done->queued_us * 1000,
                                    .prompt_ns = (uint64_t)done->prompt_us * 1000,
                                    .generate_ns = (uint64_t)done->generate_us * 1000};
    return 1;
}

static int take_shutdown(struct agl_client *client, const struct event *event,
                         struct agl_event *ret_event)
{
    int err = event->shutdown.error;
    if (event->request != 0 || err > 0 || err < -4095)
        return broken(client, event, "a shutdown that makes no sense");
    char why[sizeof client->end_detail];
    snprintf(why, sizeof why, "the daemon ended the session: %s", agl_strerror(err));
    client_end(client, -EPIPE, why);
    *ret_event = (struct agl_event){.kind = AGL_EVENT_SHUTDOWN, .error = err};
    return 1;
}

static int translate(struct agl_client *client, const struct event *event,
                     struct agl_event *ret_event)
{
    if (event->kind == EVENT_SHUTDOWN)
        return take_shutdown(client, event, ret_event);
    struct client_request *request = client_find_live(client, event->request);
    if (!request)
        return broken(client, event, "no such request is in flight");

    switch (event->kind) {
    case EVENT_ACCEPTED:
        return take_accepted(client, request, event, ret_event);
    case EVENT_TOKENS:
        return take_tokens(client, request, event, ret_event);
    case EVENT_OUTPUT:
        return take_output(client, request, event, ret_event);
    case EVENT_DONE:
        return take_done(client, request, event, ret_event);
    case EVENT_OVERFLOW:
        *ret_event = (struct agl_event){.kind = AGL_EVENT_OVERFLOW,
                                        .request = event->request,
                                        .parked_ns = event->overflow.parked_ns};
        return 1;
    default:
        return broken(client, event, "no such kind");
    }
}

/* ---- taking ---------------------------------------------------------------------------------- */

/* The caller is done with the logits of the last event. */
static void give_back_output(struct agl_client *client)
{
    if (client->output_release == client->output_cursor)
        return;
    client->output_cursor = client->output_release;
    /* release: pairs with the acquire in the daemon's session.c; our reads of the logits are over
     * before the daemon writes there again. */
    atomic_store_explicit(&client->words->output_cursor, client->output_cursor,
                          memory_order_release);
}

/* 1: *ret_event is filled; 0: nothing there; or why there never will be. A dead daemon's last
 * events still count; those of one that broke the contract do not. */
static int take(struct agl_client *client, struct agl_event *ret_event)
{
    if (client->end == -EPROTO)
        return client_ended(client);
    struct event event;
    if (ring_pop(&client->events, &event) == 0)
        return translate(client, &event, ret_event);
    ring_return(&client->events);
    return client->end ? client_ended(client) : 0;
}

/* Empties the control socket, on which only wake-ups come, and notices its end. */
static void look_at_socket(struct agl_client *client)
{
    for (int i = 0; i < PACKETS_PER_LOOK && !client->end; i++) {
        union message message;
        ssize_t got = recv(client->socket_fd, &message, sizeof message, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0)
            client_end(client, -EPIPE, "the daemon is gone");
    }
}

/* To a few milliseconds, for a few nanoseconds. */
static uint64_t coarse_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Who never sleeps is not told of the daemon's death. It shows in the heartbeat, which is in
 * memory; only when that stands still is it worth a system call. */
static void look_if_silent(struct agl_client *client, uint64_t now_ns)
{
    /* Either may lie a little ahead of a clock that is coarse, or another processor's; far ahead it
     * is no heartbeat. */
    uint64_t beat_ns = board_heartbeat_ns(client);
    bool is_fresh = beat_ns - now_ns + LOOK_NS < (uint64_t)2 * LOOK_NS;
    if (client->looked_ns + LOOK_NS > now_ns || is_fresh)
        return;
    client->looked_ns = now_ns;
    look_at_socket(client);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void take_back_announcement(struct agl_client *client)
{
    doorbell_awake(&client->words->sleep);
    client->is_fd_announced = false;
}

/* Spins until until_ns. */
static int spin(struct agl_client *client, struct agl_event *ret_event, uint64_t until_ns)
{
    for (uint32_t turn = 1;; turn++) {
        if (ring_is_ready(&client->events))
            return take(client, ret_event);
        cpu_relax();
        if (turn % SPINS_PER_CLOCK)
            continue;
        uint64_t now_ns = agl_now_ns();
        if (now_ns >= until_ns)
            return 0;
        look_if_silent(client, now_ns);
        if (client->end)
            return take(client, ret_event);
    }
}

static int came_by_signal(void)
{
    return error_set(-EINTR, "a signal came");
}

/* Sleeps on the next slot, for at most LOOK_NS: the quickest way to be woken, but the daemon's
 * death wakes nobody from it. As take(), or -EINTR. */
static int sleep_on_slot(struct agl_client *client, struct agl_event *ret_event, uint64_t left_ns)
{
    doorbell_announce(&client->words->sleep, DOORBELL_FUTEX);
    /* relaxed: only a value to sleep on; ring_pop() looks again, with acquire. */
    uint32_t seen = atomic_load_explicit(ring_next(&client->events), memory_order_relaxed);
    int err = 0;
    if (seen != ring_expected(&client->events))
        err =
            doorbell_wait(ring_next(&client->events), seen, left_ns < LOOK_NS ? left_ns : LOOK_NS);
    doorbell_awake(&client->words->sleep);
    if (err == -EINTR && !ring_is_ready(&client->events))
        return came_by_signal();
    return take(client, ret_event);
}

/* Sleeps on the socket, on which the daemon wakes us and which shows its death: however long that
 * is, it costs nothing. As take(), or -EINTR. */
static int sleep_on_socket(struct agl_client *client, struct agl_event *ret_event, uint64_t left_ns)
{
    struct timespec left = deadline_timespec(left_ns);
    struct pollfd entry = {.fd = client->socket_fd, .events = POLLIN};
    int ready = 0;
    doorbell_announce(&client->words->sleep, DOORBELL_FD);
    if (!ring_is_ready(&client->events))
        ready = ppoll(&entry, 1, left_ns == UINT64_MAX ? NULL : &left, NULL);
    int err = ready < 0 ? errno : 0;
    doorbell_awake(&client->words->sleep);
    if (ready > 0)
        look_at_socket(client);
    if (err == EINTR && !ring_is_ready(&client->events))
        return came_by_signal();
    if (err && err != EINTR) /* no memory for a poll */
        return sleep_on_slot(client, ret_event, left_ns);
    return take(client, ret_event);
}

/* The first sleep is most likely a short one. */
static int sleep_until(struct agl_client *client, struct agl_event *ret_event, uint64_t deadline_ns)
{
    uint64_t left_ns = deadline_left_ns(deadline_ns);
    int got = left_ns ? sleep_on_slot(client, ret_event, left_ns) : 0;
    while (got == 0 && (left_ns = deadline_left_ns(deadline_ns)) > 0)
        got = sleep_on_socket(client, ret_event, left_ns);
    return got;
}

static int wait_by_mode(struct agl_client *client, struct agl_event *ret_event, uint64_t now_ns,
                        uint64_t deadline_ns)
{
    if (client->wait_mode == AGL_WAIT_SPIN)
        return spin(client, ret_event, deadline_ns);
    if (client->wait_mode == AGL_WAIT_SLEEP)
        return sleep_until(client, ret_event, deadline_ns);

    spinner_begin(&client->spinner, now_ns);
    uint64_t until_ns = deadline_after(now_ns, spinner_budget_ns(&client->spinner));
    int got = 0;
    if (until_ns > now_ns)
        got = spin(client, ret_event, until_ns < deadline_ns ? until_ns : deadline_ns);
    if (got == 0)
        got = sleep_until(client, ret_event, deadline_ns);
    if (got == 1)
        spinner_arrival(&client->spinner, agl_now_ns());
    return got;
}

int agl_wait(struct agl_client *client, struct agl_event *ret_event, uint64_t timeout_ns)
{
    if (client->is_fd_announced)
        take_back_announcement(client);
    give_back_output(client);
    int got = take(client, ret_event);
    if (got != 0)
        return got;

    uint64_t now_ns = agl_now_ns();
    got = wait_by_mode(client, ret_event, now_ns, deadline_after(now_ns, timeout_ns));
    if (got == -EINTR) {
        /* Signals that come often would keep us from ever sleeping on the socket. */
        look_if_silent(client, agl_now_ns());
        if (client->end)
            got = take(client, ret_event);
    } else if (got == 0) {
        look_at_socket(client);
        got = take(client, ret_event);
    }
    return got != 0 ? got : error_set(-ETIMEDOUT, "no event came in time");
}

int agl_poll(struct agl_client *client, struct agl_event *ret_event)
{
    if (client->is_fd_announced) {
        take_back_announcement(client);
        look_at_socket(client);
    }
    give_back_output(client);
    int got = take(client, ret_event);
    if (got != 0)
        return got;
    if (!client->is_fd_used) {
        look_if_silent(client, coarse_now_ns());
        return client->end ? take(client, ret_event) : 0;
    }

    /* The caller is about to sleep on the descriptor. */
    doorbell_announce(&client->words->sleep, DOORBELL_FD);
    client->is_fd_announced = true;
    if (!ring_is_ready(&client->events))
        return 0;
    take_back_announcement(client);
    return take(client, ret_event);
}

int agl_fd(struct agl_client *client)
{
    client->is_fd_used = true;
    return client->socket_fd;
}
