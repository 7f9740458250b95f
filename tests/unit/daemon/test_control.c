/* The control thread: sessions from hello to their end, the engine's reports, and stopping. */
#include "tests/support/control_stand.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/region.h"
#include "tests/support/test.h"

/* ---- the right way --------------------------------------------------------------------------- */

static void a_client_gets_two_halves_a_board_and_a_doorbell(void **state)
{
    control_begin();
    struct answer answer;
    struct message_hello hello = rig_hello();
    int fd = rig_connect(&rig);
    rig_send(fd, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, fd, &answer);

    const struct message_welcome *welcome = &answer.message.welcome;
    const struct geometry *granted = &welcome->geometry;
    assert_int_equal(answer.bytes, sizeof *welcome);
    assert_int_equal(welcome->header.kind, MESSAGE_WELCOME);
    assert_int_equal(welcome->major, LAYOUT_MAJOR);
    assert_int_equal(granted->submission_slots, 16);
    assert_int_equal(granted->event_slots, 64);
    assert_int_equal(granted->max_requests, 16);
    assert_int_equal(granted->arena_bytes, 8192);
    assert_int_equal(granted->output_bytes, 0);
    assert_int_equal(granted->stagger, welcome->session % LAYOUT_STAGGERS);

    const char *why = NULL;
    struct region daemon_half, board;
    assert_int_equal(answer.fd_count, 3);
    assert_int_equal(region_map_peer(&daemon_half, answer.fds[0], daemon_half_bytes(granted), &why),
                     0);
    assert_int_equal(region_map_peer(&board, answer.fds[1], welcome->board_bytes, &why), 0);
    assert_string_equal(((const struct board *)board.base)->instance, rig.config.instance);
    assert_true(fcntl(answer.fds[2], F_GETFL) & O_NONBLOCK);
    region_fini(&daemon_half);
    region_fini(&board);
    close(answer.fds[2]);
    close(fd);
    control_nothing_left();
}

static void a_session_lives_until_its_socket_is_closed(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    assert_int_equal(rig.engine.session_count, 1);
    assert_int_equal(rig.engine.sessions[0]->options.uid, getuid());
    assert_int_equal(rig.board.board->sessions, 1);
    assert_int_equal(rig.board.board->sessions_total, 1);
    close(fd);
    rig_until_sessions(&rig, 0);
    control_nothing_left();
    assert_int_equal(rig.board.board->sessions_total, 1);
    assert_int_equal(rig.board.board->sessions_broken, 0);
    assert_int_equal(rig.board.board->sessions_refused, 0);
}

static void a_session_ends_with_its_process_though_a_child_keeps_the_socket(void **state)
{
    control_begin();
    int release[2];
    assert_int_equal(pipe(release), 0);
    pid_t client = fork();
    if (client == 0) {
        /* The blocking client; its child inherits the socket and outlives it. */
        struct message_hello hello = rig_hello();
        struct message_attach attach = rig_attach();
        struct message_welcome welcome;
        struct message_ready ready;
        struct region half;
        char byte;
        int fd = rig_connect(&rig);
        rig_send(fd, &hello, sizeof hello, NULL, 0);
        if (recv(fd, &welcome, sizeof welcome, 0) != sizeof welcome ||
            region_create(&half, "test-client", client_half_bytes(&welcome.geometry)) < 0)
            _exit(1);
        rig_send(fd, &attach, sizeof attach, &half.fd, 1);
        if (recv(fd, &ready, sizeof ready, 0) != sizeof ready)
            _exit(1);
        if (fork() == 0) {
            close(release[1]);
            (void)!read(release[0], &byte, 1);
        }
        _exit(0);
    }
    close(release[0]);
    rig_until_sessions(&rig, 1);
    rig_until_sessions(&rig, 0);
    close(release[1]);
    waitpid(client, NULL, 0);
    control_nothing_left();
}

/* ---- clients that go, or do nothing ---------------------------------------------------------- */

static void closing_at_each_step_leaves_nothing(void **state)
{
    control_begin();
    for (int step = 0; step < 5; step++) {
        struct message_hello hello = rig_hello();
        struct message_attach attach = rig_attach();
        int fd = rig_connect(&rig);
        if (step == 1)
            rig_send(fd, &hello, sizeof hello, NULL, 0);
        if (step == 2 || step == 3) {
            struct geometry geometry = rig_enter_hall(&rig, fd);
            int half = control_make_half(HALF_RIGHT, client_half_bytes(&geometry));
            if (step == 3) /* and does not wait for the answer */
                rig_send(fd, &attach, sizeof attach, &half, 1);
            close(half);
        }
        if (step == 4)
            rig_enter(&rig, fd);
        close(fd);
        for (int turn = 0; turn < 3; turn++)
            rig_turn(&rig);
        control_nothing_left();
    }
}

static void who_hangs_up_before_the_welcome_is_not_refused(void **state)
{
    struct message_hello hello = rig_hello();
    control_begin();
    int fd = rig_connect(&rig);
    assert_true(rig_send(fd, &hello, sizeof hello, NULL, 0) > 0);
    close(fd);
    for (int i = 0; i < 10; i++)
        assert_int_equal(rig_turn(&rig), 1);
    control_nothing_left();
    assert_int_equal(rig.board.board->sessions_refused, 0);
    assert_int_equal(rig.board.board->sessions_broken, 0);
}

static void silence_ends_at_the_deadline(void **state)
{
    rig.config.handshake_ns = 30000000;
    control_begin();
    int mute = rig_connect(&rig);
    rig_expect_error(&rig, mute, -ETIMEDOUT, "handshake_ms");
    int lazy = rig_connect(&rig);
    rig_enter_hall(&rig, lazy);
    rig_expect_error(&rig, lazy, -ETIMEDOUT, "handshake_ms");
    int right = rig_connect(&rig);
    rig_enter(&rig, right);
    for (int turn = 0; turn < 60; turn++) /* the deadline is the handshake's, not the session's */
        rig_turn(&rig);
    assert_int_equal(rig.engine.session_count, 1);
    close(mute);
    close(lazy);
    close(right);
    control_nothing_left();
}

static void a_thousand_quick_connects_leave_nothing(void **state)
{
    control_begin();
    struct message_hello hello = rig_hello();
    for (int i = 0; i < 1000; i++) {
        int fd = rig_connect(&rig);
        if (i % 2)
            rig_send(fd, &hello, sizeof hello, NULL, 0);
        if (i % 3 == 0)
            rig_turn(&rig);
        close(fd);
    }
    control_nothing_left();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    close(fd);
    control_nothing_left();
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void what_the_engine_has_no_room_for_is_tried_again(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig.engine.busy_turns = 5;
    rig_enter(&rig, fd);
    rig.engine.busy_turns = 5;
    close(fd);
    rig_until_sessions(&rig, 0);
    assert_int_equal(rig.engine.busy_turns, 0);
    control_nothing_left();
}

static void a_client_that_goes_before_the_engine_has_room_leaves_nothing(void **state)
{
    rig.config.handshake_ns = 30000000;
    control_begin();
    struct message_attach attach = rig_attach();
    int fd = rig_connect(&rig);
    struct geometry geometry = rig_enter_hall(&rig, fd);
    int half = control_make_half(HALF_RIGHT, client_half_bytes(&geometry));
    rig.engine.busy_turns = UINT32_MAX;
    rig_send(fd, &attach, sizeof attach, &half, 1);
    close(half);
    close(fd);
    control_nothing_left();
}

static void an_engine_that_takes_no_session_is_an_answer(void **state)
{
    control_begin();
    struct message_attach attach = rig_attach();
    int fd = rig_connect(&rig);
    struct geometry geometry = rig_enter_hall(&rig, fd);
    int half = control_make_half(HALF_RIGHT, client_half_bytes(&geometry));
    rig.engine.attach_error = -ESHUTDOWN;
    rig_send(fd, &attach, sizeof attach, &half, 1);
    close(half);
    rig_expect_error(&rig, fd, -ESHUTDOWN, "the engine takes no session");
    close(fd);
    control_nothing_left();
}

static void a_session_that_broke_the_contract_is_ended_and_counted_once(void **state)
{
    control_begin();
    struct answer answer;
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    struct session *session = rig.engine.sessions[0];
    session->broken = -EPROTO;
    session->broken_why = "a test says so";
    fake_engine_report(&rig.engine, ENGINE_BROKEN, session, 0);
    fake_engine_report(&rig.engine, ENGINE_BROKEN, session, 0);
    rig_receive(&rig, fd, &answer);
    assert_int_equal(answer.bytes, 0);
    assert_int_equal(rig.board.board->sessions_broken, 1);
    assert_int_equal(rig.engine.detached_total, 1);
    close(fd);
    control_nothing_left();
}

/* The engine's report and the hang-up race each other; the breach counts either way. */
static void a_breach_counts_though_its_client_hung_up_first(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    struct session *session = rig.engine.sessions[0];
    rig.engine.keeps_sessions = true;
    close(fd);
    rig_until_sessions(&rig, 0);
    session->broken = -EPROTO;
    session->broken_why = "a test says so";
    fake_engine_report(&rig.engine, ENGINE_BROKEN, session, 0);
    fake_engine_report(&rig.engine, ENGINE_DETACHED, session, 0);
    while (rig.board.board->sessions_broken == 0 && rig_turn(&rig) == 1)
        ;
    assert_int_equal(rig.board.board->sessions_broken, 1);
    control_nothing_left();
}

static void nothing_is_closed_while_the_engine_has_it(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    struct session *session = rig.engine.sessions[0];
    rig.engine.keeps_sessions = true;
    close(fd);
    rig_until_sessions(&rig, 0);
    for (int turn = 0; turn < 20; turn++)
        rig_turn(&rig);
    assert_true(fcntl(session->options.doorbell_fd, F_GETFD) >= 0);
    assert_true(fcntl(session->options.socket_fd, F_GETFD) >= 0);
    fake_engine_report(&rig.engine, ENGINE_DETACHED, session, 0);
    control_nothing_left();
}

static void a_failed_engine_ends_the_daemon_with_its_error(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    fake_engine_report(&rig.engine, ENGINE_FAILED, NULL, -EIO);
    int err;
    while ((err = rig_turn(&rig)) == 1)
        ;
    assert_int_equal(err, -EIO);
    close(fd);
}

/* ---- stopping -------------------------------------------------------------------------------- */

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
        TEST(a_client_gets_two_halves_a_board_and_a_doorbell),
        TEST(a_session_lives_until_its_socket_is_closed),
        TEST(a_session_ends_with_its_process_though_a_child_keeps_the_socket),
        TEST(closing_at_each_step_leaves_nothing),
        TEST(who_hangs_up_before_the_welcome_is_not_refused),
        TEST(silence_ends_at_the_deadline),
        TEST(a_thousand_quick_connects_leave_nothing),
        TEST(what_the_engine_has_no_room_for_is_tried_again),
        TEST(a_client_that_goes_before_the_engine_has_room_leaves_nothing),
        TEST(an_engine_that_takes_no_session_is_an_answer),
        TEST(a_session_that_broke_the_contract_is_ended_and_counted_once),
        TEST(a_breach_counts_though_its_client_hung_up_first),
        TEST(nothing_is_closed_while_the_engine_has_it),
        TEST(a_failed_engine_ends_the_daemon_with_its_error),
        TEST(sigterm_drains_the_engine_and_removes_the_socket),
        TEST(a_stopping_daemon_listens_no_more),
        TEST(a_second_sigterm_stops_at_once),
        TEST(an_engine_that_never_drains_does_not_keep_the_daemon),
        TEST(sighup_changes_nothing),
        TEST(the_watchdog_is_fed_by_the_engine_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
