/* The control thread at its end: signals, draining, and the watchdog that may bring it about. */
#include "tests/support/control_stand.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/test.h"

static int turn_until_stopped(void)
{
    int err;
    for (int turn = 0; turn < 5000; turn++)
        if ((err = rig_turn(&rig)) != 1)
            return err;
    fail_msg("it does not stop");
    return 1;
}

static void sigterm_drains_the_engine_and_removes_the_socket(void **state)
{
    control_begin();
    struct answer answer;
    int fd = rig_connect(&rig), half_way = rig_connect(&rig);
    rig_enter(&rig, fd);
    rig_enter_hall(&rig, half_way);
    rig_signal(&rig, SIGTERM);
    assert_int_equal(turn_until_stopped(), 0);
    assert_true(rig.engine.drain_is_asked);
    assert_int_equal(rig.board.board->state, BOARD_DRAINING);
    control_close(rig.control);
    rig.control = NULL;

    assert_int_equal(recv(half_way, &answer.message, sizeof answer.message, MSG_DONTWAIT),
                     sizeof answer.message.error);
    assert_int_equal(answer.message.error.error, -ESHUTDOWN);
    /* A thread that closes for the daemon may hold a copy for a moment. */
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 5},
                                sizeof(struct timeval)),
                     0);
    assert_int_equal(recv(fd, &answer.message, 1, 0), 0);
    assert_int_not_equal(access(rig.config.socket_path, F_OK), 0);
    close(fd);
    close(half_way);
}

/* Says hello, sends a right half, and finds the engine full. */
static int connect_and_wait_for_the_engine(void)
{
    struct message_attach attach = rig_attach();
    int fd = rig_connect(&rig);
    struct geometry geometry = rig_enter_hall(&rig, fd);
    int half = control_make_half(HALF_RIGHT, client_half_bytes(&geometry));
    rig.engine.busy_turns = UINT32_MAX;
    rig_send(fd, &attach, sizeof attach, &half, 1);
    close(half);
    uint32_t before = rig.engine.busy_turns;
    while (rig.engine.busy_turns == before)
        rig_turn(&rig);
    return fd;
}

static void whoever_is_still_in_the_handshake_is_told_that_the_daemon_stops(void **state)
{
    control_begin();
    struct message_hello hello = rig_hello();
    char byte;
    int served = rig_connect(&rig), mute = rig_connect(&rig), in_hall = rig_connect(&rig);
    int refused = rig_connect(&rig), surplus = STDERR_FILENO;
    rig_enter(&rig, served);
    rig_enter_hall(&rig, in_hall);
    rig_send(refused, &hello, sizeof hello, &surplus, 1);
    rig_expect_error(&rig, refused, -EPROTO, "descriptors"); /* and lies there for a while */
    int at_the_door = connect_and_wait_for_the_engine();
    rig.engine.never_drains = true;
    rig.config.drain_ns = 3600000000000;
    rig_signal(&rig, SIGTERM);
    rig_expect_error(&rig, mute, -ESHUTDOWN, "the daemon stops");
    rig_expect_error(&rig, in_hall, -ESHUTDOWN, "the daemon stops");
    rig_expect_error(&rig, at_the_door, -ESHUTDOWN, "the daemon stops");
    assert_int_equal(recv(served, &byte, 1, MSG_PEEK | MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN); /* its requests may end */
    assert_int_equal(rig.engine.session_count, 1);
    assert_int_equal(rig.board.board->sessions_refused, 4);
    close(served);
    close(mute);
    close(in_hall);
    close(refused);
    close(at_the_door);
}

static void a_stopping_daemon_listens_no_more(void **state)
{
    control_begin();
    rig.engine.never_drains = true;
    rig.config.drain_ns = 1000000000;
    rig_signal(&rig, SIGTERM);
    while (rig.board.board->state != BOARD_DRAINING)
        rig_turn(&rig);
    rig_turn(&rig);
    rig_turn(&rig);
    assert_int_not_equal(access(rig.config.socket_path, F_OK), 0);
}

static void a_second_sigterm_stops_at_once(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    rig.engine.never_drains = true;
    rig.config.drain_ns = 3600000000000;
    rig_signal(&rig, SIGTERM);
    for (int turn = 0; turn < 20; turn++)
        assert_int_equal(rig_turn(&rig), 1);
    rig_signal(&rig, SIGINT);
    assert_int_equal(turn_until_stopped(), 0);
    close(fd);
}

static void an_engine_that_never_drains_does_not_keep_the_daemon(void **state)
{
    control_begin();
    rig.engine.never_drains = true;
    rig.config.drain_ns = 1000000;
    rig_signal(&rig, SIGTERM);
    assert_int_equal(turn_until_stopped(), 0);
}

static void sighup_changes_nothing(void **state)
{
    control_begin();
    rig_signal(&rig, SIGHUP);
    for (int turn = 0; turn < 20; turn++)
        assert_int_equal(rig_turn(&rig), 1);
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    close(fd);
    control_nothing_left();
}

static void the_watchdog_is_fed_by_the_engine_alone(void **state)
{
    char path[4200], text[64];
    snprintf(path, sizeof path, "%.80s/notify", rig.folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
    int notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(notify, (struct sockaddr *)&address, sizeof address), 0);
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "30000", 1);
    control_begin();
    for (int turn = 0; turn < 150; turn++)
        rig_turn(&rig);
    assert_int_equal(recv(notify, text, sizeof text, 0), -1); /* nothing moves */
    atomic_store(&rig.board.board->heartbeat_ns, 1);
    for (int turn = 0; turn < 150; turn++)
        rig_turn(&rig);
    ssize_t got = recv(notify, text, sizeof text - 1, 0);
    assert_int_equal(got, strlen("WATCHDOG=1"));
    text[got] = 0;
    assert_string_equal(text, "WATCHDOG=1");
    assert_int_equal(recv(notify, text, sizeof text, 0), -1); /* once */
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    close(notify);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, control_setup, control_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sigterm_drains_the_engine_and_removes_the_socket),
        TEST(whoever_is_still_in_the_handshake_is_told_that_the_daemon_stops),
        TEST(a_stopping_daemon_listens_no_more),
        TEST(a_second_sigterm_stops_at_once),
        TEST(an_engine_that_never_drains_does_not_keep_the_daemon),
        TEST(sighup_changes_nothing),
        TEST(the_watchdog_is_fed_by_the_engine_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
