/* Whom the control thread refuses: wrong packets, and more than is allowed. */
#include "tests/support/control_stand.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/connection.h"
#include "daemon/loop.h"
#include "tests/support/test.h"

/* ---- wrong packets --------------------------------------------------------------------------- */

struct wrong_hello {
    void (*spoil)(struct message_hello *hello);
    size_t bytes;
    uint32_t fds;
    int error;
    const char *text;
};

static void leave_right(struct message_hello *hello)
{
}
static void spoil_magic(struct message_hello *hello)
{
    hello->header.magic++;
}
static void spoil_kind(struct message_hello *hello)
{
    hello->header.kind = MESSAGE_ATTACH;
}
static void spoil_size(struct message_hello *hello)
{
    hello->header.bytes++;
}
static void spoil_major(struct message_hello *hello)
{
    hello->major = LAYOUT_MAJOR + 7;
}
static void spoil_major_to_an_older(struct message_hello *hello)
{
    hello->major = LAYOUT_MAJOR - 1;
    hello->minor = 9;
}
static void spoil_features(struct message_hello *hello)
{
    hello->features = 4;
}
static void spoil_stagger(struct message_hello *hello)
{
    hello->geometry.stagger = 1;
}
static void spoil_reserved(struct message_hello *hello)
{
    hello->reserved[3] = 1;
}

static void every_wrong_hello_is_refused_by_name(void **state)
{
    enum { ALL = sizeof(struct message_hello) };
    static const struct wrong_hello cases[] = {
        {leave_right, 1, 0, -EPROTO, "hello: 1 bytes are no message"},
        {leave_right, 7, 0, -EPROTO, "hello: 7 bytes"},
        {leave_right, 8, 0, -EPROTO, "hello: 8 bytes, its header says 88, must be 88"},
        {leave_right, ALL / 2, 0, -EPROTO, "hello: 44 bytes"},
        {leave_right, ALL - 1, 0, -EPROTO, "hello: 87 bytes"},
        {leave_right, ALL + 1, 0, -EPROTO, "hello: 89 bytes"},
        {leave_right, 200, 0, -EPROTO, "and more"},
        {leave_right, ALL, 1, -EPROTO, "hello: descriptors came with it, none may"},
        {leave_right, ALL, RIG_FDS_MAX, -EPROTO, "hello: descriptors came"},
        {spoil_magic, ALL, 0, -EPROTO, "hello: magic number is 0x4d4c4742"},
        {spoil_kind, ALL, 0, -EPROTO, "hello: message kind is 3, must be 1"},
        {spoil_size, ALL, 0, -EPROTO, "its header says 89"},
        {spoil_major, ALL, 0, -EPROTONOSUPPORT,
         "the client speaks version 8.0, the daemon 1.0: update the daemon"},
        {spoil_major_to_an_older, ALL, 0, -EPROTONOSUPPORT,
         "the client speaks version 0.9, the daemon 1.0: update the client's library"},
        {spoil_major, 12, 0, -EPROTONOSUPPORT, "the client speaks version 8.0"},
        {spoil_major, 120, 0, -EPROTONOSUPPORT, "the client speaks version 8.0"},
        {spoil_features, ALL, 0, -EPROTONOSUPPORT,
         "features 0x4 are asked for, the daemon knows none: update the daemon"},
        {spoil_stagger, ALL, 0, -EPROTO, "stagger is 1"},
        {spoil_reserved, ALL, 0, -EPROTO, "hello: a reserved field is not 0"},
    };
    control_begin();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char packet[256] = {0};
        struct message_hello hello = rig_hello();
        int fds[RIG_FDS_MAX];
        cases[i].spoil(&hello);
        memcpy(packet, &hello, sizeof hello);
        int fd = rig_connect(&rig);
        for (int j = 0; j < RIG_FDS_MAX; j++)
            fds[j] = STDERR_FILENO;
        assert_true(rig_send(fd, packet, cases[i].bytes, fds, cases[i].fds) > 0);
        rig_expect_error(&rig, fd, cases[i].error, cases[i].text);
        close(fd);
    }
    control_nothing_left();
    assert_int_equal(rig.board.board->sessions_total, 0);
    assert_int_equal(rig.board.board->sessions_refused, sizeof cases / sizeof *cases);
}

struct wrong_attach {
    enum half_kind half;
    uint32_t fds;
    size_t bytes;
    uint16_t kind;
    uint32_t reserved;
    const char *text;
};

static void every_wrong_attach_is_refused_by_name(void **state)
{
    enum { ALL = sizeof(struct message_attach) };
    static const struct wrong_attach cases[] = {
        {HALF_RIGHT, 0, ALL, MESSAGE_ATTACH, 0, "attach: no descriptor came with it, must be 1"},
        {HALF_RIGHT, 2, ALL, MESSAGE_ATTACH, 0, "attach: more than 1 descriptor came with it"},
        {HALF_RIGHT, 4, ALL, MESSAGE_ATTACH, 0, "attach: more than 1 descriptor"},
        {HALF_RIGHT, 6, ALL, MESSAGE_ATTACH, 0, "attach: more than 1 descriptor"},
        {HALF_RIGHT, 1, 4, MESSAGE_ATTACH, 0, "attach: 4 bytes are no message"},
        {HALF_RIGHT, 1, ALL - 1, MESSAGE_ATTACH, 0, "attach: 15 bytes"},
        {HALF_RIGHT, 1, ALL + 8, MESSAGE_ATTACH, 0, "attach: 24 bytes"},
        {HALF_RIGHT, 1, ALL, MESSAGE_HELLO, 0, "attach: message kind is 1, must be 3"},
        {HALF_RIGHT, 1, ALL, MESSAGE_ATTACH, 9, "attach: a reserved field is not 0"},
        {HALF_UNSEALED, 1, ALL, MESSAGE_ATTACH, 0, "client half: not sealed"},
        {HALF_HALF_SEALED, 1, ALL, MESSAGE_ATTACH, 0, "client half: not sealed"},
        {HALF_TOO_SMALL, 1, ALL, MESSAGE_ATTACH, 0, "client half: not of the agreed size"},
        {HALF_TOO_LARGE, 1, ALL, MESSAGE_ATTACH, 0, "client half: not of the agreed size"},
        {HALF_FILE, 1, ALL, MESSAGE_ATTACH, 0, "client half: not a"},
        {HALF_PIPE, 1, ALL, MESSAGE_ATTACH, 0, "client half: not a memfd"},
        {HALF_SOCKET, 1, ALL, MESSAGE_ATTACH, 0, "client half: not a memfd"},
    };
    enum { COUNT = sizeof cases / sizeof *cases };
    control_begin();
    for (size_t i = 0; i < COUNT; i++) {
        char packet[64] = {0};
        int fd = rig_connect(&rig), fds[RIG_FDS_MAX];
        struct geometry geometry = rig_enter_hall(&rig, fd);
        struct message_attach attach = rig_attach();
        attach.header.kind = cases[i].kind;
        attach.reserved[1] = cases[i].reserved;
        memcpy(packet, &attach, sizeof attach);
        int half = control_make_half(cases[i].half, client_half_bytes(&geometry));
        for (int j = 0; j < RIG_FDS_MAX; j++)
            fds[j] = half;
        assert_true(rig_send(fd, packet, cases[i].bytes, fds, cases[i].fds) > 0);
        close(half);
        rig_expect_error(&rig, fd, -EPROTO, cases[i].text);
        close(fd);
    }
    control_nothing_left();
    assert_int_equal(rig.board.board->sessions_total, 0);
    assert_int_equal(rig.board.board->sessions_broken, COUNT);
}

static void a_packet_after_the_handshake_ends_the_session(void **state)
{
    control_begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    assert_int_equal(rig_send(fd, "x", 1, NULL, 0), 1);
    rig_expect_error(&rig, fd, -EPROTO, "a packet came after the handshake");
    assert_int_equal(rig.board.board->sessions_broken, 1);
    close(fd);
    control_nothing_left();
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void a_user_gets_no_more_sessions_than_allowed(void **state)
{
    rig.config.sessions_per_user = 2;
    control_begin();
    int first = rig_connect(&rig), second = rig_connect(&rig), third = rig_connect(&rig);
    struct message_hello hello = rig_hello();
    rig_enter(&rig, first);
    rig_enter_hall(&rig, second); /* promised counts as given */
    rig_send(third, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, third, -EUSERS, "sessions_per_user");
    close(third);

    close(first);
    rig_until_sessions(&rig, 0);
    third = rig_connect(&rig);
    rig_enter(&rig, third);
    close(second);
    close(third);
    control_nothing_left();
}

static void a_user_gets_no_more_memory_than_allowed(void **state)
{
    struct message_hello hello = rig_hello();
    hello.geometry.arena_bytes = 600 << 10;
    rig.config.user_memory_bytes = 1 << 20;
    control_begin();
    int first = rig_connect(&rig), second = rig_connect(&rig), third = rig_connect(&rig);
    struct answer answer;
    rig_send(first, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, first, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    rig_close_fds(&answer);
    rig_send(second, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, second, -EDQUOT, "user_memory_mib");
    hello.geometry.arena_bytes = 4096; /* a small one still fits */
    rig_send(third, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, third, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    rig_close_fds(&answer);
    close(first);
    close(second);
    close(third);
    control_nothing_left();

    hello.geometry.arena_bytes = 600 << 10; /* what was given back can be had again */
    first = rig_connect(&rig);
    rig_send(first, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, first, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    rig_close_fds(&answer);
    close(first);
    control_nothing_left();
}

static void who_is_not_on_the_list_is_sent_away(void **state)
{
    snprintf(rig.config.allow_users, sizeof rig.config.allow_users, "%u", (unsigned)getuid() + 1);
    control_begin();
    int fd = rig_connect(&rig);
    rig_expect_error(&rig, fd, -EACCES, "allow_users");
    close(fd);
    control_nothing_left();
    assert_int_equal(rig.board.board->sessions_refused, 1);
}

static void all_users_together_get_no_more_sessions_than_allowed(void **state)
{
    rig.config.sessions_max = 1;
    control_begin();
    int first = rig_connect(&rig), second = rig_connect(&rig);
    struct message_hello hello = rig_hello();
    rig_enter(&rig, first);
    rig_send(second, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, second, -EUSERS, "sessions_max");
    close(first);
    close(second);
    control_nothing_left();
}

static void a_user_has_a_bounded_number_of_open_handshakes(void **state)
{
    control_begin();
    int fds[CONNECTION_HALF_OPEN_PER_USER];
    for (int i = 0; i < CONNECTION_HALF_OPEN_PER_USER; i++)
        fds[i] = rig_connect(&rig);
    int surplus = rig_connect(&rig);
    rig_expect_error(&rig, surplus, -EUSERS, "too many handshakes");
    close(surplus);
    rig_enter(&rig, fds[0]); /* leaves a place */
    surplus = rig_connect(&rig);
    rig_enter(&rig, surplus);
    close(surplus);
    for (int i = 0; i < CONNECTION_HALF_OPEN_PER_USER; i++)
        close(fds[i]);
    control_nothing_left();
}

static void without_descriptors_accepting_pauses_and_goes_on(void **state)
{
    enum { LIMIT = 64 };
    int filling[LIMIT], fillings = 0, turns = 0;
    struct rlimit few = descriptor_limit;
    few.rlim_cur = LIMIT;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    control_begin();
    int fd = rig_connect(&rig);
    while ((filling[fillings] = dup(fd)) >= 0)
        fillings++;

    for (uint64_t end_ns = loop_now_ns() + 250000000; loop_now_ns() < end_ns; turns++)
        assert_int_equal(control_turn(rig.control, 50000000), 1);
    assert_true(turns < 50); /* it does not spin */

    while (fillings)
        close(filling[--fillings]);
    rig_enter(&rig, fd);
    close(fd);
    control_nothing_left();
}

static void without_a_limit_of_memory_a_user_has_what_the_sessions_need(void **state)
{
    struct message_hello hello = rig_hello();
    hello.geometry.arena_bytes = rig.config.geometry_max.arena_bytes;
    rig.config.user_memory_bytes = 0;
    control_begin();
    int fds[8];
    for (int i = 0; i < 8; i++) {
        struct answer answer;
        fds[i] = rig_connect(&rig);
        rig_send(fds[i], &hello, sizeof hello, NULL, 0);
        rig_receive(&rig, fds[i], &answer);
        assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
        rig_close_fds(&answer);
    }
    for (int i = 0; i < 8; i++)
        close(fds[i]);
    control_nothing_left();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, control_setup, control_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_wrong_hello_is_refused_by_name),
        TEST(every_wrong_attach_is_refused_by_name),
        TEST(a_packet_after_the_handshake_ends_the_session),
        TEST(a_user_gets_no_more_sessions_than_allowed),
        TEST(a_user_gets_no_more_memory_than_allowed),
        TEST(without_a_limit_of_memory_a_user_has_what_the_sessions_need),
        TEST(who_is_not_on_the_list_is_sent_away),
        TEST(all_users_together_get_no_more_sessions_than_allowed),
        TEST(a_user_has_a_bounded_number_of_open_handshakes),
        TEST(without_descriptors_accepting_pauses_and_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
