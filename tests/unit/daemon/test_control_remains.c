/* What clients leave behind: descriptors whose closing takes long, and memory that they keep. */
#include "tests/support/control_stand.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/connection.h"
#include "daemon/loop.h"
#include "tests/support/test.h"

/* ---- descriptors whose closing takes long ---------------------------------------------------- */

enum { LINGER_S = 20 };

/* A TCP socket with unsent data, whose last close() waits for LINGER_S or for the end of
 * *ret_peer. */
static int lingering_socket(int *ret_peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct linger linger = {.l_onoff = 1, .l_linger = LINGER_S};
    socklen_t bytes = sizeof address;
    static const char data[4096];
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, bytes), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, bytes), 0);
    *ret_peer = accept(listener, NULL, NULL);
    close(listener);
    while (send(fd, data, sizeof data, MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    return fd;
}

/* What the client does with the packet that brings the descriptors. */
enum linger_case {
    WITH_HELLO,
    AS_HALF,
    SURPLUS,
    BEHIND_WRONG,
    EMPTY_BEHIND,
    BEFORE_RESET,
    AFTER_READY,
    CASES
};

static void send_lingering(int fd, enum linger_case which, const int *lingering)
{
    struct message_attach attach = rig_attach();
    struct message_attach wrong = rig_attach();
    wrong.reserved[0] = 1;
    struct message_hello hello = rig_hello();
    if (which == WITH_HELLO) {
        rig_send(fd, &hello, sizeof hello, lingering, 1);
        return;
    }
    if (which == AFTER_READY)
        rig_enter(&rig, fd);
    else if (which == BEFORE_RESET) /* the welcome stays unread: closing resets the connection */
        rig_send(fd, &hello, sizeof hello, NULL, 0);
    else
        rig_enter_hall(&rig, fd);
    for (int i = 0; i < 10; i++)
        rig_turn(&rig);
    if (which != AS_HALF && which != SURPLUS)
        rig_send(fd, &wrong, sizeof wrong, NULL, 0);
    if (which == EMPTY_BEHIND)
        rig_send(fd, &wrong, 0, NULL, 0);
    rig_send(fd, &attach, which == EMPTY_BEHIND ? 0 : sizeof attach, lingering,
             which == SURPLUS ? 6 : 1);
}

static void a_descriptor_whose_closing_takes_long_holds_up_nobody(void **state)
{
    control_begin();
    int before = test_open_descriptors();
    for (enum linger_case which = 0; which < CASES; which++) {
        int lingering[6], peers[6];
        for (int i = 0; i < 6; i++)
            lingering[i] = lingering_socket(&peers[i]);
        int fd = rig_connect(&rig);
        uint64_t begin_ns = loop_now_ns();
        send_lingering(fd, which, lingering);
        int sent = which == SURPLUS ? 6 : 1;
        for (int i = 0; i < sent; i++)
            close(lingering[i]);
        if (which == BEFORE_RESET)
            close(fd);
        for (int i = 0; i < 100; i++)
            rig_turn(&rig);

        int other = rig_connect(&rig);
        rig_enter(&rig, other);
        close(other);
        if (which != BEFORE_RESET)
            close(fd);
        rig_until_sessions(&rig, 0);
        rig_until_descriptors(&rig, before + 12 - sent); /* closed, though it lingers */
        assert_true(loop_now_ns() - begin_ns < LINGER_S * UINT64_C(500000000));
        for (int i = 0; i < 6; i++) {
            close(peers[i]); /* a reset: nothing lingers any more */
            if (i >= sent)
                close(lingering[i]);
        }
        rig_until_descriptors(&rig, before);
    }
    control_nothing_left();
}

/* Also of those that are never received the last close is ours. */
static void descriptors_that_are_not_received_are_closed_at_once(void **state)
{
    enum { CLIENTS = 150 };
    control_begin();
    int peer, lingering = lingering_socket(&peer);
    struct message_hello hello = rig_hello();
    uint64_t begin_ns = loop_now_ns();
    for (int i = 0; i < CLIENTS; i++) {
        int fds[RIG_FDS_MAX], fd = rig_connect(&rig);
        for (int k = 0; k < RIG_FDS_MAX; k++)
            fds[k] = lingering;
        rig_send(fd, &hello, sizeof hello, fds, RIG_FDS_MAX);
        if (i == CLIENTS - 1)
            close(lingering); /* the last ones are in the daemon's socket */
        rig_turn(&rig);
        close(fd);
        assert_true(test_open_descriptors() < descriptors + CONNECTION_SOCKETS_AT_ONCE + 16);
    }
    rig_until_descriptors(&rig, descriptors + 1); /* and the peer */
    assert_int_equal(rig.board.board->sessions_refused, CLIENTS);
    assert_true(loop_now_ns() - begin_ns < LINGER_S * UINT64_C(500000000));
    close(peer);
    control_nothing_left();
}

/* ---- memory that a client keeps -------------------------------------------------------------- */

/* The daemon's half, as the client was given it. */
static int keep_half(int fd)
{
    struct message_hello hello = rig_hello();
    struct answer answer;
    rig_send(fd, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, fd, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    int half = dup(answer.fds[0]);
    rig_close_fds(&answer);
    return half;
}

static void a_half_that_a_client_keeps_counts_until_it_is_given_back(void **state)
{
    rig.config.sessions_per_user = 2;
    control_begin();
    struct message_hello hello = rig_hello();
    int fd = rig_connect(&rig), first = keep_half(fd);
    close(fd);
    fd = rig_connect(&rig);
    int second = keep_half(fd);
    void *mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, second, 0);
    assert_true(mapped != MAP_FAILED);
    close(second);
    close(fd);
    char path[64]; /* a descriptor that is not open for anything keeps the memory, too */
    snprintf(path, sizeof path, "/proc/self/fd/%d", first);
    int bare = open(path, O_PATH);
    assert_true(bare >= 0);
    close(first);
    first = bare;
    for (int i = 0; i < 100; i++)
        rig_turn(&rig);

    fd = rig_connect(&rig);
    rig_send(fd, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, fd, -EUSERS, "has 2 sessions already");
    close(fd);
    close(first); /* at once there is room for one */
    fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    int other = rig_connect(&rig);
    rig_send(other, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, other, -EUSERS, "has 2 sessions already");
    close(other);
    close(fd);
    munmap(mapped, 4096);
    control_nothing_left();
}

static void a_welcome_that_nobody_reads_counts_as_long_as_it_lies_there(void **state)
{
    rig.config.sessions_per_user = 3;
    rig.config.handshake_ns = 20000000;
    control_begin();
    struct message_hello hello = rig_hello();
    int unread[3];
    for (int i = 0; i < 3; i++) {
        unread[i] = rig_connect(&rig);
        rig_send(unread[i], &hello, sizeof hello, NULL, 0);
    }
    for (int i = 0; i < 100; i++)
        rig_turn(&rig);
    int fd = rig_connect(&rig);
    rig_send(fd, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, fd, -EUSERS, "has 3 sessions already");
    close(fd);
    close(unread[0]);
    fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    close(fd);
    close(unread[1]);
    close(unread[2]);
    control_nothing_left();
}

static void memory_without_measure_is_not_freed_by_the_control_thread(void **state)
{
    enum { MIB = 1 << 20 };
    control_begin();
    struct message_attach attach = rig_attach();
    int fd = rig_connect(&rig), half = memfd_create("test", MFD_CLOEXEC);
    rig_enter_hall(&rig, fd);
    assert_int_equal(ftruncate(half, 64 * MIB), 0);
    assert_int_equal(fallocate(half, 0, 0, 64 * MIB), 0);
    rig_send(fd, &attach, sizeof attach, &half, 1);
    close(half);
    rig_expect_error(&rig, fd, -EPROTO, "not sealed");
    close(fd);
    control_nothing_left();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, control_setup, control_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_descriptor_whose_closing_takes_long_holds_up_nobody),
        TEST(descriptors_that_are_not_received_are_closed_at_once),
        TEST(a_half_that_a_client_keeps_counts_until_it_is_given_back),
        TEST(a_welcome_that_nobody_reads_counts_as_long_as_it_lies_there),
        TEST(memory_without_measure_is_not_freed_by_the_control_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
