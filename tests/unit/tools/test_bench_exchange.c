/* The exchanges with another process: all of them answer, and no wait outlasts its reason. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <autoglm.h>

#include "tests/support/test.h"
#include "tools/bench_exchange.h"
#include "tools/bench_stop.h"

enum { TRIPS = 20 };

/* Which process the exchange has started: our newest child. */
static pid_t peer_of_this_process(void)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fscanf(file, "%d", &pid) == 1)
        continue;
    fclose(file);
    assert_true(pid > 0);
    return pid;
}

static void every_kind_answers_again_and_again(void **state)
{
    struct exchange *exchange;
    uint64_t ticks[TRIPS];
    int descriptors = test_open_descriptors();
    assert_int_equal(exchange_open(&exchange, -1), 0);
    for (int round = 0; round < 2; round++) {
        for (int kind = 0; kind < EXCHANGE_KINDS; kind++) {
            if (!exchange_has(exchange, kind))
                continue;
            memset(ticks, 0, sizeof ticks);
            assert_int_equal(exchange_run(exchange, kind, 1000, ticks, TRIPS), 0);
            for (int i = 0; i < TRIPS; i++)
                assert_true(ticks[i] > 0);
            assert_non_null(exchange_name(kind));
        }
    }
    exchange_close(exchange);
    assert_int_equal(test_open_descriptors(), descriptors);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void more_bytes_than_there_are_are_not_read(void **state)
{
    struct exchange *exchange;
    uint64_t ticks[TRIPS];
    assert_int_equal(exchange_open(&exchange, -1), 0);
    assert_int_equal(exchange_run(exchange, EXCHANGE_READ, EXCHANGE_READ_BYTES_MAX, ticks, TRIPS),
                     0);
    assert_int_equal(
        exchange_run(exchange, EXCHANGE_READ, EXCHANGE_READ_BYTES_MAX + 1, ticks, TRIPS), -EINVAL);
    exchange_close(exchange);
}

/* The child that a test is made in; it ends with 0 if all was well. */
static void in_a_child(void (*body)(enum exchange_kind), enum exchange_kind kind)
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        body(kind);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void block(int signal_number)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal_number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* This thread takes the signal, so that it does not interrupt the other one's wait. */
static void *send_signal_soon(void *argument)
{
    block(SIGALRM);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    kill(getpid(), SIGTERM);
    return NULL;
}

/* The peer is held, so that nothing but the signal can end the wait. */
static void be_told_to_stop(enum exchange_kind kind)
{
    struct exchange *exchange;
    pthread_t thread;
    static uint64_t ticks[TRIPS];
    bench_stop_catch();
    /* Once, so that the peer is ready: it ends with us from then on. */
    if (exchange_open(&exchange, -1) < 0 || exchange_run(exchange, EXCHANGE_LINE, 0, ticks, 1) < 0)
        _exit(1);
    if (!exchange_has(exchange, kind))
        _exit(0);
    kill(peer_of_this_process(), SIGSTOP);
    if (pthread_create(&thread, NULL, send_signal_soon, NULL))
        _exit(2);
    block(SIGTERM);
    uint64_t start_ns = agl_now_ns();
    if (exchange_run(exchange, kind, 64, ticks, TRIPS) != -EINTR)
        _exit(3);
    if (agl_now_ns() - start_ns > (uint64_t)BENCH_PATIENCE_S * 1000000000 / 2)
        _exit(4);
    if (bench_stop_signal() != SIGTERM || bench_stop_status() != 128 + SIGTERM)
        _exit(5);
    pthread_join(thread, NULL);
    exchange_close(exchange);
    if (waitpid(-1, NULL, WNOHANG) != -1)
        _exit(6);
}

static void who_is_told_to_stop_stops_waiting(void **state)
{
    for (int kind = 0; kind < EXCHANGE_KINDS; kind++)
        in_a_child(be_told_to_stop, kind);
}

static void lose_the_peer(enum exchange_kind kind)
{
    struct exchange *exchange;
    static uint64_t ticks[TRIPS];
    bench_stop_catch();
    /* Once, so that the peer is ready: it ends with us from then on. */
    if (exchange_open(&exchange, -1) < 0 || exchange_run(exchange, EXCHANGE_LINE, 0, ticks, 1) < 0)
        _exit(1);
    if (!exchange_has(exchange, kind))
        _exit(0);
    kill(peer_of_this_process(), SIGKILL);
    uint64_t start_ns = agl_now_ns();
    if (exchange_run(exchange, kind, 64, ticks, TRIPS) >= 0)
        _exit(2);
    if (agl_now_ns() - start_ns > (uint64_t)BENCH_PATIENCE_S * 1000000000 / 2)
        _exit(3);
    exchange_close(exchange);
}

static void a_dead_other_side_is_an_error(void **state)
{
    in_a_child(lose_the_peer, EXCHANGE_PIPE);
    in_a_child(lose_the_peer, EXCHANGE_STREAM);
    in_a_child(lose_the_peer, EXCHANGE_SEQPACKET);
    in_a_child(lose_the_peer, EXCHANGE_HTTP);
}

/* Tells who its peer is, and keeps it spinning. */
static void exchange_for_ever(int fd)
{
    struct exchange *exchange;
    static uint64_t ticks[1 << 16];
    if (exchange_open(&exchange, -1) < 0)
        _exit(1);
    pid_t peer = peer_of_this_process();
    if (write(fd, &peer, sizeof peer) != sizeof peer)
        _exit(2);
    while (exchange_run(exchange, EXCHANGE_LINE, 0, ticks, sizeof ticks / sizeof ticks[0]) == 0)
        continue;
    _exit(3);
}

static void the_other_side_ends_with_this_one(void **state)
{
    int fds[2];
    int status = 0;
    pid_t peer = 0;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* we inherit the peer */
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        exchange_for_ever(fds[1]);
    assert_int_equal(read(fds[0], &peer, sizeof peer), sizeof peer);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    pid_t ended = 0;
    for (int i = 0; i < 2000 && ended == 0; i++) {
        ended = waitpid(peer, &status, WNOHANG);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    assert_int_equal(ended, peer);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_answers_again_and_again),
        cmocka_unit_test(more_bytes_than_there_are_are_not_read),
        cmocka_unit_test(who_is_told_to_stop_stops_waiting),
        cmocka_unit_test(a_dead_other_side_is_an_error),
        cmocka_unit_test(the_other_side_ends_with_this_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
