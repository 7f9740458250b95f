/*
 * A connection while the kernel says something unusual about it: nothing, that it is gone, or that
 * it cannot be watched. Each step once, by name; test_handshake_faults.c goes through them all.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/control_faults.h"
#include "tests/support/control_stand.h"
#include "tests/support/test.h"

/* ---- who it is ------------------------------------------------------------------------------- */

static void who_is_gone_already_is_nobody_to_refuse(void **state)
{
    char byte;
    control_begin();
    int fd = rig_connect(&rig);
    faults.peerpidfd_errno = ENODATA;
    faults_turn();
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0); /* not a word */
    assert_int_equal(rig.board.board->sessions_refused, 0);
    close(fd);
    control_nothing_left();
}

static void who_cannot_be_known_for_want_of_descriptors_is_told(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    faults.peerpidfd_errno = EMFILE;
    rig_expect_error(&rig, fd, -EMFILE, "out of descriptors or memory");
    assert_int_equal(rig.board.board->sessions_refused, 1);
    close(fd);
    control_nothing_left();
}

static void a_client_of_another_process_namespace_is_served_until_its_socket_ends(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    faults.is_peer_hidden = true;
    rig_enter(&rig, fd);
    for (int i = 0; i < 20; i++)
        rig_turn(&rig);
    assert_int_equal(rig.engine.session_count, 1);
    close(fd);
    rig_until_sessions(&rig, 0);
    control_nothing_left();
}

/* ---- the handshake --------------------------------------------------------------------------- */

static void a_watch_that_cannot_be_had_is_told_with_what_it_needs(void **state)
{
    static const struct {
        int error;
        const char *text;
    } cases[] = {
        {ENOENT, "cannot watch its memory: No such file or directory (it needs /proc)"},
        {ENOSPC, "(fs.inotify.max_user_watches)"},
        {ENOMEM, "cannot watch its memory: Cannot allocate memory"},
    };
    control_begin();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct message_hello hello = rig_hello();
        int fd = rig_connect(&rig);
        rig_send(fd, &hello, sizeof hello, NULL, 0);
        faults_fail("inotify_add_watch", 1, cases[i].error);
        faults_until_done();
        rig_expect_error(&rig, fd, -cases[i].error, cases[i].text);
        close(fd);
        control_nothing_left();
    }
}

static void a_welcome_that_meets_a_reset_refuses_nobody(void **state)
{
    control_begin();
    struct message_hello hello = rig_hello();
    int fd = rig_connect(&rig);
    rig_send(fd, &hello, sizeof hello, NULL, 0);
    faults_fail("sendmsg", 1, ECONNRESET);
    faults_until_done();
    close(fd);
    control_nothing_left();
    assert_int_equal(rig.board.board->sessions_refused, 0);
}

static void a_socket_that_the_kernel_cannot_watch_is_refused(void **state)
{
    control_begin();
    struct loop_op *poll = NULL;
    int fd = rig_connect(&rig);
    faults.kept_poll = &poll;
    while (!poll)
        rig_turn(&rig);
    poll->state = LOOP_IDLE;
    poll->handler(poll, -ENOMEM);
    rig_expect_error(&rig, fd, -ENOMEM, "the connection");
    close(fd);
    control_nothing_left();
}

/* ---- a hang-up that was none ----------------------------------------------------------------- */

static void a_hang_up_that_was_nothing_is_waited_for_again(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    assert_int_equal(rig_send(fd, "x", 1, NULL, 0), 1);
    faults_fail("recv", 1, EAGAIN);
    faults_until_done();
    assert_int_equal(rig.engine.session_count, 1);
    rig_expect_error(&rig, fd, -EPROTO, "a packet came after the handshake"); /* the next look */
    close(fd);
    control_nothing_left();
    assert_int_equal(rig.board.board->sessions_broken, 1);
}

static void who_cannot_be_watched_any_more_is_ended(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    assert_int_equal(rig_send(fd, "x", 1, NULL, 0), 1);
    faults_fail("recv", 1, EAGAIN);
    faults_fail("loop_poll", 1, EAGAIN);
    faults_until_done();
    rig_until_sessions(&rig, 0);
    assert_int_equal(rig.board.board->sessions_broken, 0);
    close(fd);
    control_nothing_left();
}

static void a_hang_up_is_one_though_nothing_is_to_be_read(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    faults_fail("recv", 1, EAGAIN);
    faults_until_done();
    assert_int_equal(rig.engine.session_count, 0); /* nobody looks again */
    close(fd);
    control_nothing_left();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, faults_setup, control_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_is_gone_already_is_nobody_to_refuse),
        TEST(who_cannot_be_known_for_want_of_descriptors_is_told),
        TEST(a_client_of_another_process_namespace_is_served_until_its_socket_ends),
        TEST(a_watch_that_cannot_be_had_is_told_with_what_it_needs),
        TEST(a_welcome_that_meets_a_reset_refuses_nobody),
        TEST(a_socket_that_the_kernel_cannot_watch_is_refused),
        TEST(a_hang_up_that_was_nothing_is_waited_for_again),
        TEST(who_cannot_be_watched_any_more_is_ended),
        TEST(a_hang_up_is_one_though_nothing_is_to_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
