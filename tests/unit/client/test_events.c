#include "autoglm.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/support/peer.h"
#include "tests/support/test.h"

enum { MS = 1000000, OUTPUT_BYTES = 8192 };

static struct peer peer;
static struct agl_client *client;

static int connect_with(uint32_t wait_mode, uint32_t output_bytes)
{
    peer_start(&peer, PEER_HONEST);
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = peer.path;
    options.max_requests = 4;
    options.output_bytes = output_bytes;
    options.wait_mode = wait_mode;
    assert_int_equal(agl_connect(&client, &options), 0);
    peer_join(&peer);
    return 0;
}

static int connect_in_mode(uint32_t wait_mode)
{
    return connect_with(wait_mode, OUTPUT_BYTES);
}

static int connect_to_peer(void **state)
{
    return connect_in_mode(AGL_WAIT_ADAPTIVE);
}

static int leave_peer(void **state)
{
    agl_close(client);
    peer_stop(&peer);
    return 0;
}

static void assert_detail(const char *part)
{
    if (!strstr(agl_error_detail(), part))
        fail_msg("the detail \"%s\" does not say \"%s\"", agl_error_detail(), part);
}

static uint32_t submit_one(void)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.prompt_tokens = 1;
    request.max_tokens = 10000;
    uint32_t *ids;
    uint32_t id;
    assert_int_equal(agl_prompt(client, 1, &ids), 0);
    assert_int_equal(agl_submit(client, &request, &id), 0);
    return id;
}

static uint32_t submit_accepted(void)
{
    uint32_t id = submit_one();
    struct agl_event event;
    peer_accept(&peer, id, 1);
    assert_int_equal(agl_poll(client, &event), 1);
    return id;
}

static void expect(struct agl_event *ret_event, uint32_t kind)
{
    int got = agl_poll(client, ret_event);
    if (got != 1)
        fail_msg("agl_poll() gave %d (%s)", got, agl_error_detail());
    assert_int_equal(ret_event->kind, kind);
}

/* ---- events as they should be ---------------------------------------------------------------- */

static void events_come_as_they_were_sent(void **state)
{
    struct agl_event event;
    assert_int_equal(agl_poll(client, &event), 0);
    uint32_t id = submit_one();
    peer_accept(&peer, id, 9);
    expect(&event, AGL_EVENT_ACCEPTED);
    assert_int_equal(event.request, id);
    assert_int_equal(event.prompt_tokens, 9);
    assert_int_equal(event.taken_ns, 77);

    struct event tokens = {.kind = EVENT_TOKENS, .count = 3, .request = id};
    for (uint32_t i = 0; i < EVENT_TOKENS_MAX; i++)
        tokens.tokens[i] = (struct event_token){.id = 10 + i, .logprob = -1.0f - (float)i};
    peer_send(&peer, &tokens);
    expect(&event, AGL_EVENT_TOKENS);
    assert_int_equal(event.index, 0);
    assert_int_equal(event.token_count, 3);
    assert_int_equal(event.tokens[2].id, 12);
    assert_true(event.tokens[2].logprob == -3.0f);
    assert_int_equal(event.tokens[3].id, 0);
    peer_token(&peer, id, 3, 999);
    expect(&event, AGL_EVENT_TOKENS);
    assert_int_equal(event.index, 3);

    struct event overflow = {.kind = EVENT_OVERFLOW, .request = id, .overflow = {.parked_ns = 123}};
    peer_send(&peer, &overflow);
    expect(&event, AGL_EVENT_OVERFLOW);
    assert_int_equal(event.parked_ns, 123);

    struct event done = {.kind = EVENT_DONE,
                         .reason = DONE_LENGTH,
                         .request = id,
                         .done = {.prompt_tokens = 9,
                                  .cached_tokens = 5,
                                  .generated_tokens = 4,
                                  .retry_after_us = 1,
                                  .queued_us = 2,
                                  .prompt_us = 3,
                                  .generate_us = 4,
                                  .taken_ns = 77}};
    peer_send(&peer, &done);
    expect(&event, AGL_EVENT_DONE);
    assert_int_equal(event.reason, AGL_DONE_LENGTH);
    assert_int_equal(event.error, 0);
    assert_int_equal(event.prompt_tokens, 9);
    assert_int_equal(event.cached_tokens, 5);
    assert_int_equal(event.generated_tokens, 4);
    assert_int_equal(event.retry_after_ns, 1000);
    assert_int_equal(event.queued_ns, 2000);
    assert_int_equal(event.prompt_ns, 3000);
    assert_int_equal(event.generate_ns, 4000);
    assert_int_equal(agl_poll(client, &event), 0);
}

static void an_empty_ring_gives_all_its_room_back(void **state)
{
    struct agl_event event;
    submit_accepted();
    assert_int_equal(agl_poll(client, &event), 0);
    assert_int_equal(peer.client_words->event_cursor, peer.events.tail);
}

static void a_long_stream_wraps_the_ring_many_times(void **state)
{
    struct agl_event event;
    uint32_t id = submit_accepted();
    for (uint32_t i = 0; i < 10000; i++) {
        peer_token(&peer, id, i, i % PEER_VOCAB_SIZE);
        expect(&event, AGL_EVENT_TOKENS);
        assert_int_equal(event.index, i);
        assert_int_equal(event.tokens[0].id, i % PEER_VOCAB_SIZE);
    }
}

static void send_output(uint32_t id, uint32_t offset, uint32_t bytes, uint64_t release)
{
    struct event output = {.kind = EVENT_OUTPUT,
                           .request = id,
                           .output = {.offset = offset, .bytes = bytes, .release = release}};
    peer_send(&peer, &output);
}

static void logits_are_read_in_place_and_given_back_at_the_next_call(void **state)
{
    struct agl_event event;
    uint32_t id = submit_accepted();
    float *row = (float *)(void *)(peer.output + 4096);
    row[0] = 1.5f;
    row[7] = -2.5f;
    enum { ROW = PEER_VOCAB_SIZE * sizeof(float) };
    send_output(id, 4096, ROW, 4096 + ROW);
    expect(&event, AGL_EVENT_LOGITS);
    assert_int_equal(event.logit_count, PEER_VOCAB_SIZE);
    assert_true(event.logits[0] == 1.5f && event.logits[7] == -2.5f);
    assert_int_equal(peer.client_words->output_cursor, 0);
    peer_token(&peer, id, 0, 3);
    expect(&event, AGL_EVENT_TOKENS);
    assert_int_equal(peer.client_words->output_cursor, 4096 + ROW);
    send_output(id, 0, ROW, 4096 + 2 * ROW);
    expect(&event, AGL_EVENT_LOGITS);
    assert_int_equal(event.logit_count, PEER_VOCAB_SIZE);
    assert_int_equal(agl_wait(client, &event, 0), -ETIMEDOUT);
    assert_int_equal(peer.client_words->output_cursor, 4096 + 2 * ROW);
}

/* ---- events as they should not be ------------------------------------------------------------ */

static void assert_broken_by(const struct event *event, const char *why)
{
    struct agl_event got = {.kind = 77};
    peer_send(&peer, event);
    if (agl_poll(client, &got) != -EPROTO)
        fail_msg("the event was believed that should fail with: %s", why);
    assert_int_equal(got.kind, 77);
    assert_detail(why);
    uint32_t *ids;
    assert_int_equal(agl_poll(client, &got), -EPROTO);
    assert_int_equal(agl_wait(client, &got, UINT64_MAX), -EPROTO);
    assert_int_equal(agl_prompt(client, 1, &ids), -EPROTO);
    assert_detail(why);
}

/* Each on a session of its own: the first breach ends it. */
#define BREAKS(why, ...)                      \
    do {                                      \
        connect_to_peer(NULL);                \
        uint32_t fresh = submit_one();        \
        uint32_t running = submit_accepted(); \
        struct event breach = {__VA_ARGS__};  \
        (void)fresh;                          \
        (void)running;                        \
        assert_broken_by(&breach, why);       \
        leave_peer(NULL);                     \
    } while (0)

static void every_breach_of_the_contract_ends_the_session(void **state)
{
    BREAKS("no such kind", .kind = 0, .request = running);
    BREAKS("no such kind", .kind = 99, .request = running);
    BREAKS("no such request", .kind = EVENT_ACCEPTED, .request = 0);
    BREAKS("no such request", .kind = EVENT_ACCEPTED, .request = UINT32_MAX);
    BREAKS("no such request", .kind = EVENT_TOKENS, .request = running + 4, .count = 1);
    BREAKS("accepted before", .kind = EVENT_ACCEPTED, .request = running);
    BREAKS("before it was accepted", .kind = EVENT_TOKENS, .request = fresh, .count = 1);
    BREAKS("before it was accepted", .kind = EVENT_OUTPUT, .request = fresh);
    BREAKS("a number of tokens", .kind = EVENT_TOKENS, .request = running, .count = 0);
    BREAKS("a number of tokens", .kind = EVENT_TOKENS, .request = running, .count = 7);
    BREAKS("a number of tokens", .kind = EVENT_TOKENS, .request = running, .count = 0xffff);
    BREAKS("missing or come twice", .kind = EVENT_TOKENS, .request = running, .count = 1,
           .index = 1);
    BREAKS("beyond the vocabulary", .kind = EVENT_TOKENS, .request = running, .count = 1,
           .tokens = {{.id = PEER_VOCAB_SIZE}});
    BREAKS("a reason", .kind = EVENT_DONE, .request = running, .reason = 0);
    BREAKS("a reason", .kind = EVENT_DONE, .request = running, .reason = 8);
    BREAKS("an error", .kind = EVENT_DONE, .request = running, .reason = 1, .done = {.error = 1});
    BREAKS("an error", .kind = EVENT_DONE, .request = running, .reason = 1,
           .done = {.error = INT32_MIN});
    BREAKS("shutdown", .kind = EVENT_SHUTDOWN, .request = 3);
    BREAKS("shutdown", .kind = EVENT_SHUTDOWN, .shutdown = {.error = 5});
    BREAKS("shutdown", .kind = EVENT_SHUTDOWN, .shutdown = {.error = -5000});
}

static void more_tokens_than_were_asked_for_end_the_session(void **state)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.prompt_tokens = 1;
    request.max_tokens = 2;
    struct agl_event event;
    uint32_t *ids;
    uint32_t id;
    assert_int_equal(agl_prompt(client, 1, &ids), 0);
    assert_int_equal(agl_submit(client, &request, &id), 0);
    peer_accept(&peer, id, 1);
    expect(&event, AGL_EVENT_ACCEPTED);
    peer_token(&peer, id, 0, 1);
    expect(&event, AGL_EVENT_TOKENS);
    struct event more = {.kind = EVENT_TOKENS, .request = id, .index = 1, .count = 2};
    assert_broken_by(&more, "more tokens than were asked for");
}

static void output_outside_of_its_arena_ends_the_session(void **state)
{
    enum { ROW = PEER_VOCAB_SIZE * sizeof(float) };
    static const struct event_output bad[] = {
        {.offset = 0, .bytes = 0, .release = 0},
        {.offset = 0, .bytes = OUTPUT_BYTES + 4, .release = 4},
        {.offset = OUTPUT_BYTES, .bytes = ROW, .release = ROW},
        {.offset = OUTPUT_BYTES - ROW + 4, .bytes = ROW, .release = ROW},
        {.offset = UINT32_MAX - 3, .bytes = ROW, .release = ROW},
        {.offset = 8, .bytes = UINT32_MAX - 3, .release = 8},
        {.offset = 2, .bytes = ROW, .release = ROW},
        {.offset = 0, .bytes = 6, .release = 8},
        {.offset = 0, .bytes = 8, .release = 8}, /* not a number for each token */
        {.offset = 0, .bytes = ROW, .release = OUTPUT_BYTES + 1},
        {.offset = 0, .bytes = ROW, .release = UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        BREAKS("output", .kind = EVENT_OUTPUT, .request = running, .output = bad[i]);
}

static void output_that_nobody_made_room_for_ends_the_session(void **state)
{
    connect_with(AGL_WAIT_ADAPTIVE, 0);
    struct event output = {.kind = EVENT_OUTPUT,
                           .request = submit_accepted(),
                           .output = {.bytes = PEER_VOCAB_SIZE * sizeof(float)}};
    assert_broken_by(&output, "output outside of its arena");
    leave_peer(NULL);
}

static void a_slot_with_another_number_is_no_event(void **state)
{
    struct agl_event event;
    submit_accepted();
    _Atomic uint32_t *slot =
        (_Atomic uint32_t *)(void *)(peer.events.slots + (peer.events.tail * EVENT_SLOT_BYTES));
    static const uint32_t numbers[] = {1, 3, 0x80000002, UINT32_MAX};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        atomic_store(slot, numbers[i]);
        assert_int_equal(agl_poll(client, &event), 0);
    }
    assert_int_equal(agl_wait(client, &event, 1 * MS), -ETIMEDOUT);
}

/* Whatever bytes the daemon writes, the worst is -EPROTO. */
static void noise_in_the_ring_never_does_harm(void **state)
{
    srandom(11);
    int survived = 0;
    for (int round = 0; round < 60; round++) {
        connect_to_peer(NULL);
        uint32_t id = submit_accepted();
        int got = 1;
        for (int i = 0; i < 100 && got >= 0; i++) {
            struct event event;
            uint8_t *bytes = (void *)&event;
            for (size_t k = 0; k < sizeof event; k++)
                bytes[k] = (uint8_t)random();
            event.kind = (uint8_t)(random() % 8);
            event.request = random() % 8 ? id : event.request;
            event.count = (uint16_t)(random() % 8);
            event.index = 0;
            struct agl_event taken;
            peer_send(&peer, &event);
            got = agl_poll(client, &taken);
            assert_true(got == 1 || got == -EPROTO || got == -EPIPE);
            survived += got == 1;
        }
        leave_peer(NULL);
    }
    assert_true(survived > 0);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void assert_everything_says(int error)
{
    struct agl_event event;
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *ids;
    uint32_t id;
    assert_int_equal(agl_poll(client, &event), error);
    assert_int_equal(agl_wait(client, &event, UINT64_MAX), error);
    assert_int_equal(agl_prompt(client, 1, &ids), error);
    assert_int_equal(agl_submit(client, &request, &id), error);
    assert_int_equal(agl_cancel(client, 1), error);
    assert_int_equal(agl_set_priority(client, 1, 1), error);
    assert_int_equal(agl_forget(client, 1), error);
}

static void a_shutdown_is_an_event_and_then_the_end(void **state)
{
    struct agl_event event;
    struct event shutdown = {.kind = EVENT_SHUTDOWN, .shutdown = {.error = -ESHUTDOWN}};
    submit_accepted();
    assert_int_equal(agl_forget(client, 999), -ENOENT);
    char detail[512];
    snprintf(detail, sizeof detail, "%s", agl_error_detail());
    peer_send(&peer, &shutdown);
    expect(&event, AGL_EVENT_SHUTDOWN);
    assert_string_equal(agl_error_detail(), detail); /* a call that succeeds leaves it */
    assert_int_equal(event.error, -ESHUTDOWN);
    assert_int_equal(event.request, 0);
    assert_everything_says(-EPIPE);
    assert_detail("the daemon ended the session");
}

static void a_dead_daemons_last_events_still_come(void **state)
{
    struct agl_event event;
    uint32_t id = submit_accepted();
    peer_token(&peer, id, 0, 5);
    peer_done(&peer, id, DONE_STOP, 0);
    peer_die(&peer);
    assert_int_equal(agl_wait(client, &event, UINT64_MAX), 1);
    assert_int_equal(event.kind, AGL_EVENT_TOKENS);
    assert_int_equal(agl_wait(client, &event, UINT64_MAX), 1);
    assert_int_equal(event.kind, AGL_EVENT_DONE);
    assert_int_equal(agl_wait(client, &event, UINT64_MAX), -EPIPE);
    assert_detail("the daemon is gone");
    assert_everything_says(-EPIPE);
}

static void a_dead_daemons_nonsense_changes_no_reason(void **state)
{
    struct agl_event event;
    struct event nonsense = {.kind = 99};
    submit_accepted();
    agl_fd(client);
    assert_int_equal(agl_poll(client, &event),
                     0); /* announced: the next call looks at the socket */
    peer_send(&peer, &nonsense);
    peer_die(&peer);
    assert_int_equal(agl_poll(client, &event), -EPIPE);
    assert_detail("the daemon is gone");
    assert_everything_says(-EPIPE);
}

static void a_wait_without_time_still_notices_death(void **state)
{
    struct agl_event event;
    assert_int_equal(agl_wait(client, &event, 0), -ETIMEDOUT);
    peer_die(&peer);
    assert_int_equal(agl_wait(client, &event, 0), -EPIPE);
}

static void polling_alone_notices_the_daemons_death(void **state)
{
    struct agl_event event;
    int got;
    submit_accepted();
    peer_live(&peer);
    assert_int_equal(agl_poll(client, &event), 0);
    peer_die(&peer);
    uint64_t start_ns = agl_now_ns();
    while ((got = agl_poll(client, &event)) == 0 && agl_now_ns() - start_ns < 5000ULL * MS)
        continue;
    assert_int_equal(got, -EPIPE);
    assert_int_equal(agl_poll(client, &event), -EPIPE);
}

/* The socket is closed, but the board says that the daemon lives: nobody asks the kernel. */
static void polling_believes_in_a_fresh_heartbeat(void **state)
{
    struct agl_event event;
    submit_accepted();
    peer_die(&peer);
    uint64_t start_ns = agl_now_ns();
    while (agl_now_ns() - start_ns < 300ULL * MS) {
        peer_live(&peer);
        assert_int_equal(agl_poll(client, &event), 0);
    }
}

/* No clock runs so far ahead: that is no heartbeat. */
static void polling_believes_in_no_heartbeat_of_the_future(void **state)
{
    struct agl_event event;
    int got;
    submit_accepted();
    atomic_store(&peer.board->heartbeat_ns, (uint64_t)1 << 62);
    peer_die(&peer);
    uint64_t start_ns = agl_now_ns();
    while ((got = agl_poll(client, &event)) == 0 && agl_now_ns() - start_ns < 5000ULL * MS)
        continue;
    assert_int_equal(got, -EPIPE);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void *die_later(void *argument)
{
    usleep(20000);
    peer_die(&peer);
    return NULL;
}

static void every_mode_of_waiting_notices_the_daemons_death(void **state)
{
    for (uint32_t mode = AGL_WAIT_ADAPTIVE; mode <= AGL_WAIT_SLEEP; mode++) {
        struct agl_event event;
        pthread_t thread;
        connect_in_mode(mode);
        submit_accepted();
        pthread_create(&thread, NULL, die_later, NULL);
        uint64_t start_ns = agl_now_ns();
        assert_int_equal(agl_wait(client, &event, UINT64_MAX), -EPIPE);
        assert_true(agl_now_ns() - start_ns < 2000ULL * MS);
        pthread_join(thread, NULL);
        leave_peer(NULL);
    }
}

enum { TOKENS_LATER = 100 };

static void *send_later(void *argument)
{
    const uint32_t *id = argument;
    for (uint32_t i = 0; i < TOKENS_LATER; i++) {
        usleep(1500);
        peer_token(&peer, *id, i, i);
    }
    return NULL;
}

static void every_mode_of_waiting_is_woken_by_events(void **state)
{
    for (uint32_t mode = AGL_WAIT_ADAPTIVE; mode <= AGL_WAIT_SLEEP; mode++) {
        struct agl_event event;
        pthread_t thread;
        connect_in_mode(mode);
        uint32_t id = submit_accepted();
        pthread_create(&thread, NULL, send_later, &id);
        uint64_t start_ns = agl_now_ns();
        for (uint32_t i = 0; i < TOKENS_LATER; i++) {
            assert_int_equal(agl_wait(client, &event, 5000ULL * MS), 1);
            assert_int_equal(event.index, i);
        }
        /* A hundred lost wake-ups would each cost 100 ms. */
        assert_true(agl_now_ns() - start_ns < 9000ULL * MS);
        pthread_join(thread, NULL);
        assert_int_equal(peer.client_words->sleep & DOORBELL_HOW_MASK, DOORBELL_NONE);
        leave_peer(NULL);
    }
}

static void *send_after_long(void *argument)
{
    const uint32_t *id = argument;
    uint32_t *how = (uint32_t *)(uintptr_t)(id + 1);
    for (uint32_t i = 0; i < 3; i++) {
        for (int ms = 0; ms < 10000 && (atomic_load(&peer.client_words->sleep) &
                                        DOORBELL_HOW_MASK) != DOORBELL_FD;
             ms++) /* beyond the first, short sleep */
            usleep(1000);
        how[i] = atomic_load(&peer.client_words->sleep) & DOORBELL_HOW_MASK;
        peer_token(&peer, *id, i, i);
    }
    return NULL;
}

/* A futex does not tell of the daemon's death, so who sleeps on it has to get up and look; who
 * sleeps on the socket need not. */
static void a_long_sleep_is_on_the_socket_and_is_ended_by_events(void **state)
{
    struct agl_event event;
    pthread_t thread;
    uint32_t id_and_how[4] = {0};
    connect_in_mode(AGL_WAIT_SLEEP);
    id_and_how[0] = submit_accepted();
    pthread_create(&thread, NULL, send_after_long, id_and_how);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(agl_wait(client, &event, 20000ULL * MS), 1);
        assert_int_equal(event.index, i);
        assert_int_equal(peer.client_words->sleep & DOORBELL_HOW_MASK, DOORBELL_NONE);
    }
    pthread_join(thread, NULL);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(id_and_how[1 + i], DOORBELL_FD);
    leave_peer(NULL);
}

static void a_timeout_is_kept(void **state)
{
    for (uint32_t mode = AGL_WAIT_ADAPTIVE; mode <= AGL_WAIT_SLEEP; mode++) {
        struct agl_event event = {.kind = 77};
        connect_in_mode(mode);
        uint64_t start_ns = agl_now_ns();
        assert_int_equal(agl_wait(client, &event, 15ULL * MS), -ETIMEDOUT);
        uint64_t took_ns = agl_now_ns() - start_ns;
        assert_in_range(took_ns, 15ULL * MS, 1500ULL * MS);
        assert_int_equal(event.kind, 77);
        assert_int_equal(peer.client_words->sleep & DOORBELL_HOW_MASK, DOORBELL_NONE);
        leave_peer(NULL);
    }
}

static void on_alarm(int number)
{
    (void)number;
}

static void a_signal_ends_a_sleep(void **state)
{
    struct agl_event event;
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct itimerval soon = {.it_value = {.tv_usec = 20000}, .it_interval = {.tv_usec = 20000}};
    struct itimerval never = {0};
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    setitimer(ITIMER_REAL, &soon, NULL); /* again and again: the first may come before the sleep */
    assert_int_equal(agl_wait(client, &event, 5000ULL * MS), -EINTR);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
}

static void signals_that_keep_coming_hide_no_death(void **state)
{
    connect_in_mode(AGL_WAIT_SLEEP); /* else spinning looks for itself */
    struct agl_event event;
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct itimerval soon = {.it_value = {.tv_usec = 20000}, .it_interval = {.tv_usec = 20000}};
    struct itimerval never = {0};
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    peer_die(&peer);
    setitimer(ITIMER_REAL, &soon, NULL); /* again and again: the first may come before the sleep */
    uint64_t start_ns = agl_now_ns();
    int got;
    while ((got = agl_wait(client, &event, UINT64_MAX)) == -EINTR &&
           agl_now_ns() - start_ns < 5000ULL * MS)
        continue;
    assert_int_equal(got, -EPIPE);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    leave_peer(NULL);
}

/* ---- the descriptor -------------------------------------------------------------------------- */

static int readable(int fd, int timeout_ms)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    return poll(&entry, 1, timeout_ms);
}

static void the_descriptor_wakes_a_sleeper_and_only_then(void **state)
{
    struct agl_event event;
    int fd = agl_fd(client);
    uint32_t id = submit_accepted();
    assert_int_equal(agl_poll(client, &event), 0); /* now the daemon knows */
    assert_int_equal(readable(fd, 0), 0);
    peer_token(&peer, id, 0, 1);
    assert_int_equal(readable(fd, 1000), 1);
    peer_token(&peer, id, 1, 2); /* no second packet in the same sleep */
    expect(&event, AGL_EVENT_TOKENS);
    assert_int_equal(readable(fd, 0), 0);
    peer_token(&peer, id, 2, 3); /* we are awake: no packet at all */
    assert_int_equal(readable(fd, 0), 0);
    expect(&event, AGL_EVENT_TOKENS);
    expect(&event, AGL_EVENT_TOKENS);
    assert_int_equal(agl_poll(client, &event), 0);
    peer_token(&peer, id, 3, 4);
    assert_int_equal(readable(fd, 1000), 1);
}

static void the_descriptor_shows_the_daemons_death(void **state)
{
    struct agl_event event;
    int fd = agl_fd(client);
    uint32_t id = submit_accepted();
    assert_int_equal(agl_poll(client, &event), 0);
    peer_token(&peer, id, 0, 1);
    peer_die(&peer);
    assert_int_equal(readable(fd, 1000), 1);
    expect(&event, AGL_EVENT_TOKENS);
    assert_int_equal(agl_poll(client, &event), -EPIPE);
}

static void waiting_works_beside_the_descriptor(void **state)
{
    struct agl_event event;
    int fd = agl_fd(client);
    uint32_t id = submit_accepted();
    assert_int_equal(agl_poll(client, &event), 0);
    assert_int_equal(agl_wait(client, &event, 1ULL * MS), -ETIMEDOUT);
    peer_token(&peer, id, 0, 1);
    assert_int_equal(agl_wait(client, &event, 1000ULL * MS), 1);
    assert_int_equal(agl_poll(client, &event), 0);
    peer_token(&peer, id, 1, 1);
    assert_int_equal(readable(fd, 1000), 1);
    expect(&event, AGL_EVENT_TOKENS);
}

int main(void)
{
#define WITH_PEER(test) cmocka_unit_test_setup_teardown(test, connect_to_peer, leave_peer)
    const struct CMUnitTest tests[] = {
        WITH_PEER(events_come_as_they_were_sent),
        WITH_PEER(an_empty_ring_gives_all_its_room_back),
        WITH_PEER(a_long_stream_wraps_the_ring_many_times),
        WITH_PEER(logits_are_read_in_place_and_given_back_at_the_next_call),
        cmocka_unit_test(every_breach_of_the_contract_ends_the_session),
        WITH_PEER(more_tokens_than_were_asked_for_end_the_session),
        cmocka_unit_test(output_outside_of_its_arena_ends_the_session),
        cmocka_unit_test(output_that_nobody_made_room_for_ends_the_session),
        WITH_PEER(a_slot_with_another_number_is_no_event),
        cmocka_unit_test(noise_in_the_ring_never_does_harm),
        WITH_PEER(a_shutdown_is_an_event_and_then_the_end),
        WITH_PEER(a_dead_daemons_last_events_still_come),
        WITH_PEER(a_dead_daemons_nonsense_changes_no_reason),
        WITH_PEER(a_wait_without_time_still_notices_death),
        WITH_PEER(polling_alone_notices_the_daemons_death),
        WITH_PEER(polling_believes_in_a_fresh_heartbeat),
        WITH_PEER(polling_believes_in_no_heartbeat_of_the_future),
        cmocka_unit_test(every_mode_of_waiting_notices_the_daemons_death),
        cmocka_unit_test(every_mode_of_waiting_is_woken_by_events),
        cmocka_unit_test(a_long_sleep_is_on_the_socket_and_is_ended_by_events),
        cmocka_unit_test(a_timeout_is_kept),
        WITH_PEER(a_signal_ends_a_sleep),
        cmocka_unit_test(signals_that_keep_coming_hide_no_death),
        WITH_PEER(the_descriptor_wakes_a_sleeper_and_only_then),
        WITH_PEER(the_descriptor_shows_the_daemons_death),
        WITH_PEER(waiting_works_beside_the_descriptor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
