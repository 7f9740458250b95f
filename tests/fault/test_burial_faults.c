/*
 * What a client sends instead of memory: while closing it takes long, and while the kernel has no
 * room, no thread or no answer for who is to close it.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/control_faults.h"
#include "tests/support/control_stand.h"
#include "tests/support/test.h"

/* Sends the attach with what is no memory (-1: nothing). */
static void attach_with(int fd, int half)
{
    struct message_attach attach = rig_attach();
    assert_int_equal(rig_send(fd, &attach, sizeof attach, &half, half >= 0), sizeof attach);
}

static void expect_silence(int fd)
{
    char byte;
    for (int i = 0; i < 50; i++)
        rig_turn(&rig);
    assert_int_equal(recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

static int connect_and_enter_hall(void)
{
    int fd = rig_connect(&rig);
    rig_enter_hall(&rig, fd);
    return fd;
}

static void refuse_no_memory(int fd)
{
    rig_expect_error(&rig, fd, -EPROTO, "not a memfd");
    close(fd);
}

/* ---- a slow close ---------------------------------------------------------------------------- */

/* Ends it; whether somebody's socket is looked at again for that, which then cannot be had. */
static bool looks_again_after_close(uint32_t index)
{
    faults_fail("loop_poll", 1, EAGAIN);
    faults.is_armed = true;
    faults_end_close(index);
    faults.is_armed = false;
    bool has_looked = faults.named[0].calls_left == 0;
    faults.named[0].calls_left = 0;
    return has_looked;
}

static void while_a_descriptor_is_not_closed_no_other_of_its_user_is_received(void **state)
{
    control_begin();
    int first = connect_and_enter_hall(), second = connect_and_enter_hall();
    faults.are_closes_slow = true;
    attach_with(first, STDERR_FILENO);
    refuse_no_memory(first);
    assert_int_equal(faults.close_count, 1);
    attach_with(second, STDERR_FILENO); /* nobody looks at it */
    expect_silence(second);

    faults.are_closes_slow = false;
    faults_end_close(0);
    refuse_no_memory(second);
    control_nothing_left();
}

static void a_slow_close_of_one_user_ends_no_wait_of_another(void **state)
{
    control_begin();
    int first = connect_and_enter_hall();
    faults.uid_shift = 1;
    int second = connect_and_enter_hall(), third = connect_and_enter_hall();
    faults.are_closes_slow = true;
    attach_with(first, STDERR_FILENO);
    refuse_no_memory(first);
    attach_with(second, STDERR_FILENO); /* is received, though the other user's is not closed */
    refuse_no_memory(second);
    assert_int_equal(faults.close_count, 2);
    attach_with(third, STDERR_FILENO);
    expect_silence(third);

    faults.are_closes_slow = false;
    assert_false(looks_again_after_close(0)); /* the other user's */
    expect_silence(third);
    faults_end_close(1);
    refuse_no_memory(third);
    control_nothing_left();
}

static void who_waits_for_a_slow_close_has_a_deadline(void **state)
{
    rig.config.handshake_ns = 1000000000;
    control_begin();
    int first = connect_and_enter_hall(), second = connect_and_enter_hall();
    faults.are_closes_slow = true;
    attach_with(first, STDERR_FILENO);
    refuse_no_memory(first);
    attach_with(second, STDERR_FILENO); /* lies there for a while */
    rig_expect_error(&rig, second, -ETIMEDOUT, "handshake_ms");
    assert_false(looks_again_after_close(0));
    close(second);
    control_nothing_left();
}

static void who_cannot_be_watched_after_a_slow_close_is_refused(void **state)
{
    control_begin();
    int first = connect_and_enter_hall(), second = connect_and_enter_hall();
    faults.are_closes_slow = true;
    attach_with(first, STDERR_FILENO);
    refuse_no_memory(first);
    attach_with(second, -1);
    expect_silence(second);
    assert_true(looks_again_after_close(0));
    rig_expect_error(&rig, second, -EAGAIN, "the connection");
    close(second);
    control_nothing_left();
}

/* The kernel ends it some day; nobody waits for that. */
static void what_is_not_closed_at_the_end_is_left_to_it(void **state)
{
    control_begin();
    int first = connect_and_enter_hall();
    faults.are_closes_slow = true;
    attach_with(first, STDERR_FILENO);
    refuse_no_memory(first);
    control_close(rig.control);
    rig.control = NULL;
    close(faults.closes[0].fd);
}

/* ---- a close that cannot be had now ---------------------------------------------------------- */

static void a_close_that_the_loop_has_no_room_for_is_tried_again(void **state)
{
    control_begin();
    int fd = connect_and_enter_hall();
    attach_with(fd, STDERR_FILENO);
    faults_fail("loop_close_fd", 1, EAGAIN);
    faults_until_done();
    refuse_no_memory(fd);
    control_nothing_left();
}

/* The last close has to be the socket's, whatever time the other one takes. */
static void a_socket_stays_open_as_long_as_what_came_out_of_it(void **state)
{
    control_begin();
    int fd = connect_and_enter_hall();
    attach_with(fd, STDERR_FILENO);
    faults.are_closes_refused = true;
    rig_expect_error(&rig, fd, -EPROTO, "not a memfd");
    uint64_t end_ns = loop_now_ns() + 500000000; /* some sweeps, and the time for a farewell */
    while (loop_now_ns() < end_ns)
        rig_turn(&rig);
    assert_int_equal(test_open_descriptors(), descriptors + 3); /* both ends, and the copy */
    faults.are_closes_refused = false;
    close(fd);
    control_nothing_left();
}

/* The loop says so of an io_uring. */
static void what_the_loop_cannot_close_is_closed_at_once(void **state)
{
    control_begin();
    int fd = connect_and_enter_hall();
    attach_with(fd, STDERR_FILENO);
    faults_fail("loop_close_fd", 1, EOPNOTSUPP);
    int before = test_open_descriptors();
    faults_until_done();
    assert_true(test_open_descriptors() <= before); /* no copy of it is left */
    int second = connect_and_enter_hall();
    attach_with(second, STDERR_FILENO); /* and nobody waits */
    refuse_no_memory(second);
    refuse_no_memory(fd);
    control_nothing_left();
}

/* The socket seems to be empty and goes at once; what came out of it does not. */
static void what_outlives_its_socket_is_closed_all_the_same(void **state)
{
    enum { LOOK = 1, REFUSE, CLOSE }; /* the socket is read three times */
    control_begin();
    int first = connect_and_enter_hall();
    attach_with(first, STDERR_FILENO);
    faults_fail("recvmsg", CLOSE, EAGAIN);
    faults_fail("loop_close_fd", 1, EAGAIN);
    faults_until_done();
    close(first); /* which was reset */
    control_nothing_left();

    int second = connect_and_enter_hall();
    attach_with(second, STDERR_FILENO);
    faults_fail("recvmsg", CLOSE, EAGAIN);
    faults.are_closes_slow = true;
    faults_until_done();
    close(second);
    for (int i = 0; i < 50; i++) /* and its half, too */
        rig_turn(&rig);
    faults_end_close(0);
    control_nothing_left();
}

/* ---- sockets with something in them ---------------------------------------------------------- */

/* Is refused; what came with it lies in the socket. */
static int leave_a_descriptor(void)
{
    struct message_hello hello = rig_hello();
    int fd = rig_connect(&rig), surplus = STDERR_FILENO;
    assert_int_equal(rig_send(fd, &hello, sizeof hello, &surplus, 1), sizeof hello);
    return fd;
}

static void sockets_that_no_thread_can_be_had_for_are_closed_later(void **state)
{
    control_begin();
    int fd = leave_a_descriptor();
    rig_expect_error(&rig, fd, -EPROTO, "descriptors came with it");
    faults_fail("pthread_create", 1, EAGAIN);
    faults_until_done();                                        /* at the sweep */
    assert_int_equal(test_open_descriptors(), descriptors + 2); /* both ends */
    close(fd);
    control_nothing_left();
}

static void an_end_in_the_middle_of_a_sweep_closes_everything(void **state)
{
    int before = test_open_descriptors();
    control_begin();
    int refused = leave_a_descriptor(), served = rig_connect(&rig), surplus = STDERR_FILENO;
    rig_expect_error(&rig, refused, -EPROTO, "descriptors came with it");
    rig_enter(&rig, served);
    assert_int_equal(rig_send(served, "x", 1, &surplus, 1), 1); /* nobody gets to see it */
    faults_fail("loop_timer", 1, EAGAIN);
    faults.is_armed = true;
    control_close(rig.control);
    faults.is_armed = false;
    rig.control = NULL;
    assert_int_equal(faults.named[0].calls_left, 1); /* no other sweep is waited for */
    close(refused);
    close(served);
    while (test_open_descriptors() != before) /* a thread that ends holds copies for a moment */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, faults_setup, control_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(while_a_descriptor_is_not_closed_no_other_of_its_user_is_received),
        TEST(a_slow_close_of_one_user_ends_no_wait_of_another),
        TEST(who_waits_for_a_slow_close_has_a_deadline),
        TEST(who_cannot_be_watched_after_a_slow_close_is_refused),
        TEST(what_is_not_closed_at_the_end_is_left_to_it),
        TEST(a_close_that_the_loop_has_no_room_for_is_tried_again),
        TEST(a_socket_stays_open_as_long_as_what_came_out_of_it),
        TEST(what_the_loop_cannot_close_is_closed_at_once),
        TEST(what_outlives_its_socket_is_closed_all_the_same),
        TEST(sockets_that_no_thread_can_be_had_for_are_closed_later),
        TEST(an_end_in_the_middle_of_a_sweep_closes_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
