/*
 * Attacks on the ways in which a client and the real daemon wake each other: what both hold, the
 * doorbell and the socket, is filled, emptied and made blocking by the client. The daemon goes on,
 * and so does the good client.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/integration/scene.h"
#include "tests/stress/stress.h"
#include "tests/support/test.h"

/* The engine sleeps whenever it can, so that it has to be rung. */
static const char *const flags[] = {"--model", "echo=echo:", "--wait", "sleep", NULL};

static void enter(const struct scene *scene, struct stranger *ret_stranger, const char *name)
{
    struct message_hello hello = stranger_hello(name);
    scene_connect(scene, ret_stranger);
    int err = stranger_enter(ret_stranger, &hello);
    if (err < 0)
        fail_msg("\"%s\" is not let in: %s", name, strerror(-err));
}

static void make_blocking(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
}

/* What is in it, if anything. Never waits, even where somebody else has taken it. */
static void empty(int doorbell_fd)
{
    struct pollfd bell = {.fd = doorbell_fd, .events = POLLIN};
    uint64_t count;
    struct iovec part = {.iov_base = &count, .iov_len = sizeof count};
    if (poll(&bell, 1, 0) == 1 && preadv2(doorbell_fd, &part, 1, -1, RWF_NOWAIT) < 0 &&
        errno == EOPNOTSUPP)
        assert_int_equal(read(doorbell_fd, &count, sizeof count), sizeof count);
}

static void write_bell(int doorbell_fd, uint64_t count)
{
    assert_int_equal(write(doorbell_fd, &count, sizeof count), sizeof count);
}

/* Reads until the request is done. */
static void hear_out(struct stranger *stranger, uint32_t id)
{
    struct event event = {.kind = 0};
    while (event.kind != EVENT_DONE)
        assert_int_equal(stranger_wait(stranger, &event, STRANGER_PATIENCE_MS), 0);
    assert_int_equal(event.request, id);
    assert_int_equal(event.reason, DONE_LENGTH);
}

static void a_doorbell_that_is_full_and_blocks_stops_nobody(void **state)
{
    struct scene scene;
    struct stranger stranger;
    scene_open(&scene, flags);
    enter(&scene, &stranger, "full");
    make_blocking(stranger.doorbell_fd);
    empty(stranger.doorbell_fd);
    write_bell(stranger.doorbell_fd, UINT64_MAX - 1); /* who writes now waits */
    for (uint32_t round = 1; round <= 5; round++) {
        /* Nobody rings: the daemon's slow round finds it. */
        struct submission submission = stranger_request(&stranger, 16 * round, 2, 2);
        assert_int_equal(ring_push(&stranger.submissions, &submission), 0);
        scene_expect_served(&scene);
        hear_out(&stranger, 16 * round);
    }
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* The ring is gone again when the daemon comes to look, and a read would block. It looks only at
 * bells of sessions that were silent for a while, and that have not rung for nothing too often. */
static void a_ring_that_is_taken_back_stops_nobody(void **state)
{
    enum { ROUNDS = 1500, RINGS = 20, SILENCE_NS = 1000000 };
    struct scene scene;
    struct stranger stranger;
    uint32_t random = 5;
    scene_open(&scene, flags);
    enter(&scene, &stranger, "liar");
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        struct submission submission = stranger_request(&stranger, 16 * round, 1, 1);
        assert_int_equal(stranger_submit(&stranger, &submission), 0);
        hear_out(&stranger, 16 * round);
        nanosleep(&(struct timespec){.tv_nsec = SILENCE_NS}, NULL);
        make_blocking(stranger.doorbell_fd);
        empty(stranger.doorbell_fd);
        for (int ring = 0; ring < RINGS; ring++) {
            write_bell(stranger.doorbell_fd, 1);
            stress_delay(stress_random(&random) % 100);
            empty(stranger.doorbell_fd);
        }
        scene_expect_served(&scene);
    }
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* A client that says it sleeps on its descriptor, anew for each event, gets a packet each time and
 * reads none: more than its socket holds. */
static void a_socket_full_of_wakes_stops_nobody(void **state)
{
    enum { ROUNDS = 3000 };
    struct scene scene;
    struct stranger stranger;
    scene_open(&scene, flags);
    enter(&scene, &stranger, "sleeper");
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        struct submission submission = stranger_request(&stranger, 16 * round, 1, 1);
        doorbell_announce(&stranger.words->sleep, DOORBELL_FD);
        assert_int_equal(stranger_submit(&stranger, &submission), 0);
        hear_out(&stranger, 16 * round);
        if (round % 100 == 0)
            scene_expect_served(&scene);
    }
    uint32_t wakes = 0;
    struct stranger_answer answer;
    while (stranger_receive(stranger.socket_fd, &answer, 0) == 0 && answer.bytes > 0) {
        assert_int_equal(answer.message.header.kind, MESSAGE_WAKE);
        wakes++;
    }
    assert_in_range(wakes, 1, ROUNDS - 1); /* it was full */
    stranger_leave(&stranger);
    scene_close(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_doorbell_that_is_full_and_blocks_stops_nobody),
        cmocka_unit_test(a_ring_that_is_taken_back_stops_nobody),
        cmocka_unit_test(a_socket_full_of_wakes_stops_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
