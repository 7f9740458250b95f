/* The control thread: sessions from hello to their end, and the engine's reports. */
#include "tests/support/control_stand.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
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

/* The packet and the deadline lie there when the daemon looks again, in this order. */
static void a_deadline_behind_the_last_packet_ends_nothing(void **state)
{
    enum { SECOND_NS = 1000000000 };
    rig.config.handshake_ns = SECOND_NS;
    control_begin();
    struct answer answer;
    struct message_attach attach = rig_attach();
    int fd = rig_connect(&rig);
    struct geometry geometry = rig_enter_hall(&rig, fd);
    int half = control_make_half(HALF_RIGHT, client_half_bytes(&geometry));
    rig_send(fd, &attach, sizeof attach, &half, 1);
    close(half);
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = SECOND_NS / 10}, NULL);
    rig_receive(&rig, fd, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_READY);
    for (int turn = 0; turn < 20; turn++)
        rig_turn(&rig);
    assert_int_equal(rig.engine.session_count, 1);
    close(fd);
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

static void who_is_served_notices_nothing_of_another_one_that_waits_to_go(void **state)
{
    control_begin();
    int first = rig_connect(&rig), second = rig_connect(&rig);
    rig_enter(&rig, first);
    rig_enter(&rig, second);
    rig.engine.busy_turns = 5;
    close(first);
    rig_until_sessions(&rig, 1);
    assert_int_equal(rig.board.board->sessions, 1);
    for (int turn = 0; turn < 20; turn++)
        rig_turn(&rig);
    assert_int_equal(rig.engine.session_count, 1);
    close(second);
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
        TEST(a_deadline_behind_the_last_packet_ends_nothing),
        TEST(a_thousand_quick_connects_leave_nothing),
        TEST(what_the_engine_has_no_room_for_is_tried_again),
        TEST(who_is_served_notices_nothing_of_another_one_that_waits_to_go),
        TEST(a_client_that_goes_before_the_engine_has_room_leaves_nothing),
        TEST(an_engine_that_takes_no_session_is_an_answer),
        TEST(a_session_that_broke_the_contract_is_ended_and_counted_once),
        TEST(a_breach_counts_though_its_client_hung_up_first),
        TEST(nothing_is_closed_while_the_engine_has_it),
        TEST(a_failed_engine_ends_the_daemon_with_its_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
