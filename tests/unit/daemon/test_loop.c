#include "daemon/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/test.h"

static struct loop *loop;
static struct failure failure;

/* Refusals of the kernel, in this order; 0: it is asked. */
static int setup_errors[2];
static unsigned setup_calls;

int __real_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    int err = setup_calls < 2 ? setup_errors[setup_calls] : 0;
    setup_calls++;
    return err ? err : __real_io_uring_queue_init(entries, ring, flags);
}

static int closed_fd = -1; /* the last one that was closed by close(2) */

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    closed_fd = fd;
    return __real_close(fd);
}

/* What a handler has seen. */
struct seen {
    struct loop_op op;
    int calls;
    int result;
    unsigned order;
};
static unsigned order;

static void note(struct loop_op *op, int result)
{
    struct seen *seen = op->owner;
    seen->calls++;
    seen->result = result;
    seen->order = ++order;
}

static void prepare(struct seen *seen)
{
    *seen = (struct seen){.op = {.handler = note, .owner = seen}};
}

static int setup(void **state)
{
    memset(setup_errors, 0, sizeof setup_errors);
    setup_calls = 0;
    order = 0;
    return loop_open(&loop, &failure);
}

static int teardown(void **state)
{
    loop_close(loop);
    return 0;
}

static void turn_until_idle(struct loop_op *op)
{
    uint64_t end_ns = loop_now_ns() + 5000000000;
    while (loop_op_active(op)) {
        assert_true(loop_turn(loop, 10000000) >= 0);
        assert_true(loop_now_ns() < end_ns);
    }
}

static void timers_fire_in_the_order_of_their_times(void **state)
{
    struct seen late, early, past;
    uint64_t now_ns = loop_now_ns();
    prepare(&late);
    prepare(&early);
    prepare(&past);
    assert_int_equal(loop_timer(loop, &late.op, now_ns + 30000000), 0);
    assert_int_equal(loop_timer(loop, &early.op, now_ns + 10000000), 0);
    assert_int_equal(loop_timer(loop, &past.op, now_ns - 10000000), 0);
    turn_until_idle(&late.op);
    assert_true(loop_now_ns() >= now_ns + 30000000);
    assert_int_equal(late.result, -ETIME);
    assert_true(past.order < early.order && early.order < late.order);
    assert_int_equal(late.calls, 1);
}

static void a_turn_waits_no_longer_than_asked(void **state)
{
    struct seen timer;
    prepare(&timer);
    uint64_t now_ns = loop_now_ns();
    assert_int_equal(loop_timer(loop, &timer.op, now_ns + 60000000000), 0);
    assert_int_equal(loop_turn(loop, 20000000), 0);
    assert_true(loop_now_ns() - now_ns >= 19000000);
    assert_true(loop_now_ns() - now_ns < 2000000000);
    assert_int_equal(timer.calls, 0);
    loop_cancel(loop, &timer.op);
    turn_until_idle(&timer.op);
    assert_int_equal(timer.result, -ECANCELED);
    assert_int_equal(timer.calls, 1);
}

static void a_poll_reports_once_and_can_be_asked_again(void **state)
{
    struct seen seen;
    uint64_t one = 1;
    int fd = eventfd(0, EFD_NONBLOCK);
    prepare(&seen);
    assert_int_equal(loop_poll(loop, &seen.op, fd, POLLIN), 0);
    loop_turn(loop, 1000000);
    assert_int_equal(seen.calls, 0);
    for (int round = 1; round <= 2; round++) {
        assert_int_equal(write(fd, &one, sizeof one), sizeof one);
        turn_until_idle(&seen.op);
        assert_int_equal(seen.calls, round);
        assert_int_equal(seen.result, POLLIN);
        assert_int_equal(read(fd, &one, sizeof one), sizeof one);
        assert_int_equal(loop_poll(loop, &seen.op, fd, POLLIN), 0);
    }
    loop_cancel(loop, &seen.op);
    loop_cancel(loop, &seen.op); /* once is enough, twice is harmless */
    turn_until_idle(&seen.op);
    assert_int_equal(seen.calls, 3);
    loop_cancel(loop, &seen.op); /* idle: nothing */
    close(fd);
}

static void what_was_faster_than_its_cancellation_is_told(void **state)
{
    struct seen seen;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(send(pair[0], "x", 1, 0), 1);
    prepare(&seen);
    assert_int_equal(loop_poll(loop, &seen.op, pair[1], POLLIN), 0);
    loop_cancel(loop, &seen.op);
    turn_until_idle(&seen.op);
    assert_int_equal(seen.calls, 1);
    assert_int_equal(seen.result, POLLIN);
    close(pair[0]);
    close(pair[1]);
}

static int listen_somewhere(struct sockaddr_un *ret_address, socklen_t *ret_bytes)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(ret_address->sun_path + 1, 64, "autoglm-test-loop-%d", (int)getpid());
    *ret_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)ret_address, *ret_bytes), 0);
    assert_int_equal(listen(fd, 10), 0);
    return fd;
}

static int accepted[8], accepted_count;

static void keep_accepted(struct loop_op *op, int result)
{
    note(op, result);
    if (result >= 0)
        accepted[accepted_count++] = result;
}

static void accepting_goes_on_until_it_is_cancelled(void **state)
{
    struct seen seen;
    struct sockaddr_un address;
    socklen_t bytes;
    int clients[3], fd = listen_somewhere(&address, &bytes);
    prepare(&seen);
    seen.op.handler = keep_accepted;
    accepted_count = 0;
    assert_int_equal(loop_accept(loop, &seen.op, fd), 0);
    for (int i = 0; i < 3; i++) {
        clients[i] = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        assert_int_equal(connect(clients[i], (struct sockaddr *)&address, bytes), 0);
        while (accepted_count <= i)
            assert_true(loop_turn(loop, 1000000000) >= 0);
        assert_true(loop_op_active(&seen.op));
        assert_int_equal(fcntl(accepted[i], F_GETFD), FD_CLOEXEC);
        assert_int_equal(fcntl(accepted[i], F_GETFL) & O_NONBLOCK, 0);
    }
    loop_cancel(loop, &seen.op);
    turn_until_idle(&seen.op);
    assert_int_equal(seen.calls, 4);
    assert_int_equal(seen.result, -ECANCELED);
    for (int i = 0; i < 3; i++) {
        close(clients[i]);
        close(accepted[i]);
    }
    close(fd);
}

static void accepting_on_what_does_not_listen_is_an_error(void **state)
{
    struct seen seen;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    prepare(&seen);
    assert_int_equal(loop_accept(loop, &seen.op, fd), 0);
    turn_until_idle(&seen.op);
    assert_int_equal(seen.calls, 1);
    assert_int_equal(seen.result, -EINVAL);
    close(fd);
}

static void more_operations_than_the_ring_has_entries_all_end(void **state)
{
    enum { COUNT = 1500 };
    static struct seen seen[COUNT];
    int fd = eventfd(0, 0);
    for (int i = 0; i < COUNT; i++) {
        prepare(&seen[i]);
        assert_int_equal(i % 2 ? loop_poll(loop, &seen[i].op, fd, POLLIN)
                               : loop_timer(loop, &seen[i].op, loop_now_ns() + 60000000000),
                         0);
    }
    loop_turn(loop, 0);
    for (int i = 0; i < COUNT; i++)
        loop_cancel(loop, &seen[i].op);
    for (int i = 0; i < COUNT; i++) {
        turn_until_idle(&seen[i].op);
        assert_int_equal(seen[i].calls, 1);
        assert_int_equal(seen[i].result, -ECANCELED);
    }
    close(fd);
}

static void an_old_kernel_gets_a_plain_ring(void **state)
{
    struct loop *plain;
    setup_calls = 0;
    setup_errors[0] = -EINVAL;
    assert_int_equal(loop_open(&plain, &failure), 0);
    assert_int_equal(setup_calls, 2);
    loop_close(plain);
}

static void without_io_uring_it_is_said_what_to_do(void **state)
{
    struct loop *none = NULL;
    static const struct {
        int error;
        const char *text;
    } cases[] = {{-ENOSYS, "CONFIG_IO_URING"},
                 {-EPERM, "kernel.io_uring_disabled"},
                 {-EPERM, "seccomp"},
                 {-ENOMEM, "RLIMIT_MEMLOCK"},
                 {-EMFILE, "Too many open files"}};
    int descriptors = test_open_descriptors();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setup_calls = 0;
        setup_errors[0] = cases[i].error;
        assert_int_equal(loop_open(&none, &failure), cases[i].error);
        assert_non_null(strstr(failure.text, cases[i].text));
        assert_null(none);
    }
    assert_int_equal(test_open_descriptors(), descriptors);
    loop_close(NULL);
}

/* Behind the operation the number may be that of another file, whatever the operation says. */
static void a_close_that_fails_is_not_tried_again(void **state)
{
    enum { NOBODY = 1000000 };
    struct seen seen;
    prepare(&seen);
    closed_fd = -1;
    assert_int_equal(loop_close_fd(loop, &seen.op, NOBODY), 0);
    while (!seen.calls)
        assert_true(loop_turn(loop, 1000 * 1000000ull) >= 0);
    assert_int_equal(seen.result, -EBADF);
    assert_int_equal(closed_fd, -1);
}

static void an_io_uring_is_left_to_close(void **state)
{
    struct seen seen;
    struct io_uring ring;
    prepare(&seen);
    assert_int_equal(__real_io_uring_queue_init(4, &ring, 0), 0);
    assert_int_equal(loop_close_fd(loop, &seen.op, ring.ring_fd), -EOPNOTSUPP);
    io_uring_queue_exit(&ring);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(timers_fire_in_the_order_of_their_times),
        TEST(a_turn_waits_no_longer_than_asked),
        TEST(a_poll_reports_once_and_can_be_asked_again),
        TEST(what_was_faster_than_its_cancellation_is_told),
        TEST(accepting_goes_on_until_it_is_cancelled),
        TEST(accepting_on_what_does_not_listen_is_an_error),
        TEST(more_operations_than_the_ring_has_entries_all_end),
        TEST(an_old_kernel_gets_a_plain_ring),
        TEST(a_close_that_fails_is_not_tried_again),
        TEST(an_io_uring_is_left_to_close),
        TEST(without_io_uring_it_is_said_what_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
