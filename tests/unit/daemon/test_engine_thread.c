/* The engine on its own thread: who sleeps is woken, whatever the two sides' ways of waiting; an
 * idle engine costs nothing; a step allocates nothing, locks nothing and makes no system call. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "shm/message.h"
#include "tests/support/engine_stand.h"
#include "tests/support/test.h"

enum { PATIENCE_MS = 5000 };
static const uint64_t patience_ns = (uint64_t)PATIENCE_MS * 1000000;

/* ---- what the engine does without being seen --------------------------------------------------
 */

static bool is_counting;
static uint32_t forbidden_calls;

#define WRAPPED(type, name, parameters, arguments) \
    type __real_##name parameters;                 \
    type __wrap_##name parameters;                 \
    type __wrap_##name parameters                  \
    {                                              \
        if (is_counting)                           \
            forbidden_calls++;                     \
        return __real_##name arguments;            \
    }

WRAPPED(void *, malloc, (size_t bytes), (bytes))
WRAPPED(void *, calloc, (size_t count, size_t bytes), (count, bytes))
WRAPPED(void *, realloc, (void *memory, size_t bytes), (memory, bytes))
WRAPPED(int, epoll_wait, (int fd, struct epoll_event *events, int max, int timeout),
        (fd, events, max, timeout))
WRAPPED(int, epoll_ctl, (int fd, int operation, int other, struct epoll_event *event),
        (fd, operation, other, event))
WRAPPED(ssize_t, write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
WRAPPED(ssize_t, send, (int fd, const void *bytes, size_t count, int flags),
        (fd, bytes, count, flags))
WRAPPED(int, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
WRAPPED(long, syscall, (long number, long a, long b, long c, long d, long e, long f),
        (number, a, b, c, d, e, f))

static void counted_turns(struct stand *s, uint32_t turns)
{
    is_counting = true;
    rig_turn(&s->rig, turns);
    is_counting = false;
}

static void serving_allocates_nothing_locks_nothing_and_calls_nobody(void **state)
{
    (void)state;
    struct stand s;
    struct event event;
    uint32_t done = 0;
    rig_init(&s.rig);
    stand_open(&s);
    forbidden_calls = 0;
    for (uint32_t id = 1; done < 200; id++) {
        stand_ask(&s, 1 + id % 15, 40, 5, 0);
        counted_turns(&s, 12);
        while (client_half_poll(&s.client, &event))
            done += event.kind == EVENT_DONE;
    }
    assert_int_equal(forbidden_calls, 0);

    /* And the count would have seen a call: a session that broke the contract is reported. */
    stand_tell(&s, 99, 1);
    counted_turns(&s, 1);
    assert_true(forbidden_calls > 0);
    stand_close(&s);
}

/* ---- ways of waiting --------------------------------------------------------------------------
 */

enum way { WAY_SPIN, WAY_FUTEX, WAY_FD, WAYS };

static struct event sleep_on_futex(struct client_half *client)
{
    struct event event;
    while (!client_half_poll(client, &event)) {
        doorbell_announce(&client->words->sleep, DOORBELL_FUTEX);
        uint32_t seen = atomic_load_explicit(ring_next(&client->events), memory_order_relaxed);
        if (seen != ring_expected(&client->events) &&
            doorbell_wait(ring_next(&client->events), seen, patience_ns) == -ETIMEDOUT)
            fail_msg("nobody woke the sleeper within %d ms", PATIENCE_MS);
        doorbell_awake(&client->words->sleep);
    }
    return event;
}

static struct event sleep_on_socket(struct client_half *client)
{
    struct event event;
    while (!client_half_poll(client, &event)) {
        struct pollfd wait = {.fd = client->socket_fd, .events = POLLIN};
        struct message_wake wake;
        doorbell_announce(&client->words->sleep, DOORBELL_FD);
        if (!ring_is_ready(&client->events) && poll(&wait, 1, PATIENCE_MS) != 1)
            fail_msg("nobody woke the sleeper within %d ms", PATIENCE_MS);
        doorbell_awake(&client->words->sleep);
        while (recv(client->socket_fd, &wake, sizeof wake, MSG_DONTWAIT) > 0) {
            assert_int_equal(wake.header.magic, MESSAGE_MAGIC);
            assert_int_equal(wake.header.kind, MESSAGE_WAKE);
            assert_int_equal(wake.header.bytes, sizeof wake);
        }
    }
    return event;
}

static struct event wait_in_way(struct client_half *client, enum way way)
{
    switch (way) {
    case WAY_FUTEX:
        return sleep_on_futex(client);
    case WAY_FD:
        return sleep_on_socket(client);
    default:
        return client_half_wait(client);
    }
}

/* Requests one at a time and several at once, with pauses in which the engine falls asleep. */
static void talk(struct client_half *client, enum way way, uint32_t rounds)
{
    unsigned seed = 5;
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t left = 1 + (uint32_t)rand_r(&seed) % 4;
        for (uint32_t id = 1; id <= left; id++) {
            struct submission submission =
                client_half_request(client, id, 2, 1 + (uint32_t)rand_r(&seed) % 3);
            client_half_submit(client, &submission);
        }
        while (left)
            left -= wait_in_way(client, way).kind == EVENT_DONE;
        if (round % 64 == 0)
            nanosleep(&(struct timespec){.tv_nsec = (long)(rand_r(&seed) % 1000) * 1000}, NULL);
    }
}

static void no_wake_up_is_lost_whatever_the_ways_of_waiting(void **state)
{
    (void)state;
    static const enum engine_wait waits[] = {ENGINE_WAIT_SLEEP, ENGINE_WAIT_ADAPTIVE,
                                             ENGINE_WAIT_SPIN};
    for (int i = 0; i < 3; i++) {
        for (int way = 0; way < WAYS; way++) {
            struct stand s;
            rig_init(&s.rig);
            s.rig.config.wait = waits[i];
            rig_start(&s.rig);
            client_half_open(&s.client, &CLIENT_HALF_GEOMETRY);
            rig_attach(&s.rig, &s.client);
            talk(&s.client, (enum way)way, 1000);
            /* Nor was one found only by the slow round, save that it may just be on its way. */
            assert_in_range(s.rig.engine->found_by_slow_round, 0, 1);
            stand_close(&s);
        }
    }
}

static void a_silent_session_wakes_the_engine(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    rig_start(&s.rig);
    client_half_open(&s.client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &s.client);
    for (int i = 0; i < 4; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
        stand_ask(&s, 1, 3, 1, 0);
        rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 1);
        rig_expect(&s.rig, &s.client, EVENT_TOKENS, 1);
        rig_expect(&s.rig, &s.client, EVENT_DONE, 1);
    }
    stand_close(&s);
}

/* A reader that comes back does not ring: the engine looks by itself while somebody is parked. */
static void a_slow_reader_goes_on_without_ringing(void **state)
{
    (void)state;
    struct stand s;
    uint32_t tokens = 0;
    uint32_t overflows = 0;
    rig_init(&s.rig);
    s.rig.config.slow_reader_ns = patience_ns;
    rig_start(&s.rig);
    client_half_open(&s.client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &s.client);
    stand_ask(&s, 1, 3, 300, 0);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    for (;;) {
        struct event event = client_half_wait(&s.client);
        tokens += event.kind == EVENT_TOKENS;
        if (event.kind == EVENT_OVERFLOW && overflows++) /* we only kept it waiting once */
            assert_in_range(event.overflow.parked_ns, 0, 700 * RIG_MS);
        if (event.kind == EVENT_DONE) {
            assert_done(event, 1, DONE_LENGTH);
            break;
        }
    }
    assert_int_equal(tokens, 300);
    stand_close(&s);
}

static void a_deadline_is_kept_while_the_engine_sleeps(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    s.rig.config.slow_reader_ns = patience_ns;
    rig_start(&s.rig);
    client_half_open(&s.client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &s.client);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct submission submission = client_half_request(&s.client, 1, 3, 400);
    submission.deadline_ns =
        (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + 30 * RIG_MS;
    client_half_submit(&s.client, &submission);
    nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL); /* parked after 61 events */
    uint32_t ids[STAND_IDS];
    struct event done = stand_answer(&s, 1, ids);
    assert_done(done, 1, DONE_DEADLINE);
    assert_in_range(done.done.done_ns, submission.deadline_ns,
                    submission.deadline_ns + 500 * RIG_MS);
    stand_close(&s);
}

static uint64_t cpu_ns(pthread_t thread)
{
    clockid_t clock;
    struct timespec used;
    assert_int_equal(pthread_getcpuclockid(thread, &clock), 0);
    clock_gettime(clock, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static void an_idle_engine_costs_under_half_a_percent(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    rig_start(&s.rig);
    client_half_open(&s.client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &s.client);
    talk(&s.client, WAY_SPIN, 10);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    uint64_t before_ns = cpu_ns(s.rig.engine->thread);
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 500000000}, NULL);
    uint64_t used_ns = cpu_ns(s.rig.engine->thread) - before_ns;
    assert_in_range(used_ns, 0, 1500000000u / 200);
    assert_true(atomic_load(&s.rig.board->heartbeat_ns) > 0);
    stand_close(&s);
}

static void the_thread_has_a_name_and_takes_no_signals(void **state)
{
    (void)state;
    struct engine_rig rig;
    char name[16] = "";
    rig_init(&rig);
    rig_start(&rig);
    assert_int_equal(pthread_getname_np(rig.engine->thread, name, sizeof name), 0);
    assert_string_equal(name, "engine");
    sigset_t mine;
    pthread_sigmask(SIG_SETMASK, NULL, &mine);
    assert_int_equal(sigismember(&mine, SIGUSR1), 0); /* the caller's mask is as before */
    pthread_kill(rig.engine->thread, SIGUSR1); /* would end the program if it were not blocked */
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    rig_close(&rig);
}

static void sessions_come_and_go_while_others_are_served(void **state)
{
    (void)state;
    struct stand s;
    rig_init(&s.rig);
    rig_start(&s.rig);
    client_half_open(&s.client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &s.client);
    int descriptors = test_open_descriptors();
    for (int i = 0; i < 50; i++) {
        struct client_half other;
        client_half_open(&other, &CLIENT_HALF_GEOMETRY);
        rig_attach(&s.rig, &other);
        struct submission submission = client_half_request(&other, 1, 3, 400);
        client_half_submit(&other, &submission);
        stand_ask(&s, 1, 3, 1, 0);
        if (i % 2)
            client_half_wait(&other);
        rig_detach(&s.rig, &other);
        client_half_close(&other);
        uint32_t ids[STAND_IDS];
        assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    }
    assert_int_equal(test_open_descriptors(), descriptors);
    stand_close(&s);
}

/* ---- a client that writes while it is read -----------------------------------------------------
 */

struct scribbler {
    struct client_half *client;
    _Atomic bool stop;
};

/* Stores at random over everything that the engine reads: words, slots and arena; not over the
 * numbers of the slots, since a slot whose number is wrong is never taken. */
static void scribble(struct client_half *client, unsigned *seed)
{
    const struct geometry *geometry = &client->geometry;
    uint32_t *words = (uint32_t *)(void *)client->client_half.base;
    uint64_t bytes = rand_r(seed) % 4 ? client_half_arena(geometry) : client->client_half.bytes;
    uint64_t at = (uint64_t)rand_r(seed) % (bytes / sizeof *words) * sizeof *words;
    uint32_t value = (uint32_t)rand_r(seed);
    if (rand_r(seed) % 4) /* likely ones, so that more than the first check is reached */
        value %= 64;
    if (at >= client_half_ring(geometry) &&
        (at - client_half_ring(geometry)) % SUBMISSION_SLOT_BYTES == 0)
        return;
    __atomic_store_n(&words[at / sizeof *words], value, __ATOMIC_RELAXED);
}

/* Right submissions, into slots and an arena that change while they are taken. */
static void *live_wildly(void *argument)
{
    struct scribbler *scribbler = argument;
    struct client_half *client = scribbler->client;
    struct event event;
    unsigned seed = 77;
    for (uint32_t id = 1; !atomic_load(&scribbler->stop); id++) {
        struct submission submission = client_half_request(client, 1 + id % 15, 50, 2);
        if (ring_room(&client->submissions, 1) > 0)
            client_half_submit(client, &submission);
        for (int i = 0; i < 50; i++)
            scribble(client, &seed);
        while (client_half_poll(client, &event))
            ;
    }
    return NULL;
}

static void a_client_that_scribbles_over_its_memory_harms_only_itself(void **state)
{
    (void)state;
    struct stand s;
    struct engine_report report;
    uint32_t broken = 0;
    rig_init(&s.rig);
    rig_start(&s.rig);
    client_half_open(&s.client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&s.rig, &s.client);
    for (int round = 0; round < 5; round++) {
        bool is_broken = false;
        struct client_half wild;
        struct scribbler scribbler = {.client = &wild};
        pthread_t thread;
        client_half_open(&wild, &CLIENT_HALF_GEOMETRY);
        rig_attach(&s.rig, &wild);
        assert_int_equal(pthread_create(&thread, NULL, live_wildly, &scribbler), 0);
        for (uint32_t i = 0; i < 2000 && !is_broken; i++) {
            struct event event;
            uint32_t told = 0;
            stand_ask(&s, 1, 7, 50, 0);
            do {
                event = sleep_on_futex(&s.client);
                if (event.kind == EVENT_TOKENS)
                    assert_int_equal(event.tokens[0].id, told++ % 7 + 1);
            } while (event.kind != EVENT_DONE);
            assert_done(event, 1, DONE_LENGTH);
            assert_int_equal(told, 50);
            is_broken = engine_next_report(s.rig.engine, &report);
        }
        atomic_store(&scribbler.stop, true);
        pthread_join(thread, NULL);
        if (is_broken) {
            assert_int_equal(report.kind, ENGINE_BROKEN);
            assert_ptr_equal(report.session, wild.session);
            assert_int_equal(wild.session->broken, -EPROTO);
            broken++;
        }
        rig_detach(&s.rig, &wild);
        client_half_close(&wild);
    }
    assert_true(broken > 0);
    stand_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serving_allocates_nothing_locks_nothing_and_calls_nobody),
        cmocka_unit_test(no_wake_up_is_lost_whatever_the_ways_of_waiting),
        cmocka_unit_test(a_silent_session_wakes_the_engine),
        cmocka_unit_test(a_slow_reader_goes_on_without_ringing),
        cmocka_unit_test(a_deadline_is_kept_while_the_engine_sleeps),
        cmocka_unit_test(an_idle_engine_costs_under_half_a_percent),
        cmocka_unit_test(the_thread_has_a_name_and_takes_no_signals),
        cmocka_unit_test(sessions_come_and_go_while_others_are_served),
        cmocka_unit_test(a_client_that_scribbles_over_its_memory_harms_only_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
