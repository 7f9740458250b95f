#include "daemon/handshake.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/test.h"

static struct failure failure;
static int pair[2];

static int setup(void **state)
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
}

static int teardown(void **state)
{
    close(pair[0]);
    close(pair[1]);
    return 0;
}

static const struct geometry limit = {.submission_slots = 256,
                                      .event_slots = 1024,
                                      .max_requests = 64,
                                      .arena_bytes = 1 << 20,
                                      .output_bytes = 1 << 16};

static struct geometry grant(struct geometry wish)
{
    struct geometry granted;
    handshake_grant(&granted, &wish, &limit, 70);
    assert_true(geometry_is_valid(&granted));
    return granted;
}

static void a_wish_within_the_limits_is_granted_as_it_is(void **state)
{
    struct geometry wish = {64, 256, 32, 65536, 4096, 0};
    struct geometry granted = grant(wish);
    assert_int_equal(granted.stagger, 70 % LAYOUT_STAGGERS);
    granted.stagger = 0;
    assert_memory_equal(&granted, &wish, sizeof wish);
}

static void a_wish_beyond_the_limits_gets_the_limits(void **state)
{
    struct geometry granted = grant((struct geometry){4096, 4096, 1024, 64 << 20, 64 << 20, 0});
    granted.stagger = 0;
    assert_memory_equal(&granted, &limit, sizeof limit);
}

static void an_empty_wish_gets_the_minimum(void **state)
{
    struct geometry granted = grant((struct geometry){0});
    assert_int_equal(granted.submission_slots, GEOMETRY_SLOTS_MIN);
    assert_int_equal(granted.event_slots, GEOMETRY_SLOTS_MIN);
    assert_int_equal(granted.max_requests, 1);
    assert_int_equal(granted.arena_bytes, GEOMETRY_ARENA_BYTES_MIN);
    assert_int_equal(granted.output_bytes, 0);
}

static void crooked_wishes_are_rounded_down(void **state)
{
    struct geometry granted = grant((struct geometry){100, 1023, 63, 10000, 4097, 0});
    assert_int_equal(granted.submission_slots, 64);
    assert_int_equal(granted.event_slots, 512);
    assert_int_equal(granted.max_requests, 32);
    assert_int_equal(granted.arena_bytes, 8192);
    assert_int_equal(granted.output_bytes, 4096);
}

static void requests_are_cut_to_what_the_event_ring_holds(void **state)
{
    struct geometry granted = grant((struct geometry){8, 16, 64, 4096, 0, 0});
    assert_int_equal(granted.event_slots, 16);
    assert_int_equal(granted.max_requests, 4); /* 2 * 4 + 2 <= 16 < 2 * 8 + 2 */
}

static void every_extreme_wish_is_granted_something_valid(void **state)
{
    static const uint32_t values[] = {0,          1,          7,          4095,
                                      0x7fffffff, 0x80000000, 0x80000001, UINT32_MAX};
    enum { VALUES = sizeof values / sizeof *values };
    for (size_t i = 0; i < VALUES * VALUES * VALUES; i++)
        grant((struct geometry){values[i % VALUES], values[i / VALUES % VALUES],
                                values[i / VALUES / VALUES], values[i % VALUES],
                                values[i / VALUES % VALUES], 0});
}

static void names_are_made_printable(void **state)
{
    char clean[32];
    handshake_clean_name(clean, (char[32]){"voice-agent"});
    assert_string_equal(clean, "voice-agent");
    handshake_clean_name(clean, (char[32]){"a b\n\"\x1b\xff"});
    assert_string_equal(clean, "a_b____");
    handshake_clean_name(clean, (char[32]){"~\x7f"});
    assert_string_equal(clean, "~_");
    handshake_clean_name(clean, (char[32]){""});
    assert_string_equal(clean, "?");
    char endless[32];
    memset(endless, 'x', sizeof endless);
    handshake_clean_name(clean, endless);
    assert_int_equal(strlen(clean), 31);
}

static void the_peer_is_who_the_kernel_says(void **state)
{
    struct peer peer;
    assert_int_equal(handshake_peer(&peer, pair[0]), 0);
    assert_int_equal(peer.uid, getuid());
    assert_int_equal(peer.pid, getpid());
    assert_true(peer.process >= 0);
    struct pollfd poll_fd = {.fd = peer.process, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 0), 0); /* we live */
    handshake_peer_fini(&peer);
    handshake_peer_fini(&peer);
    assert_int_equal(peer.process, -1);
    assert_int_equal(handshake_peer(&peer, STDERR_FILENO), -ENOTSOCK);
}

static void messages_arrive_with_their_descriptors(void **state)
{
    struct handshake_packet packet;
    struct message_hello hello = {.header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello)};
    int descriptors = test_open_descriptors();
    int memory = memfd_create("test", MFD_CLOEXEC);
    int fds[3] = {memory, 1, memory};
    assert_int_equal(handshake_send(pair[0], &hello, sizeof hello, fds, 3), 0);
    handshake_packet_init(&packet);
    ssize_t got = recvmsg(pair[1], &packet.header, MSG_CMSG_CLOEXEC);
    assert_int_equal(got, sizeof hello);
    handshake_packet_take(&packet, (size_t)got);
    assert_int_equal(packet.fd_count, 3);
    assert_int_equal(packet.flags & (MSG_TRUNC | MSG_CTRUNC), 0);
    close(memory);
    assert_int_equal(test_open_descriptors(), descriptors + 3);

    /* The one that could make us wait is left to the caller. */
    int strange = packet.fds[1];
    handshake_packet_fini(&packet);
    handshake_packet_fini(&packet);
    assert_int_equal(packet.fd_count, 1);
    assert_int_equal(packet.fds[0], strange);
    close(strange);
    assert_int_equal(test_open_descriptors(), descriptors);
}

/* Appends a control message of one descriptor. */
static void add_control(struct msghdr *header, int level, int type, int fd)
{
    struct cmsghdr *control =
        (struct cmsghdr *)(void *)((char *)header->msg_control + header->msg_controllen);
    *control =
        (struct cmsghdr){.cmsg_level = level, .cmsg_type = type, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(control), &fd, sizeof fd);
    header->msg_controllen += CMSG_SPACE(sizeof fd);
}

static void only_rights_are_taken_for_descriptors(void **state)
{
    struct handshake_packet packet;
    int fd = dup(pair[0]);
    handshake_packet_init(&packet);
    packet.header.msg_controllen = 0;
    add_control(&packet.header, SOL_SOCKET, SCM_CREDENTIALS, 0);
    add_control(&packet.header, SOL_SOCKET + 1, SCM_RIGHTS, 1);
    add_control(&packet.header, SOL_SOCKET, SCM_RIGHTS, fd);
    handshake_packet_take(&packet, 40);
    assert_int_equal(packet.bytes, 40);
    assert_int_equal(packet.fd_count, 1);
    assert_int_equal(packet.fds[0], fd);
    close(fd);
}

/* No kernel lets a packet have so many. */
static void descriptors_beyond_the_most_are_closed(void **state)
{
    enum { SURPLUS = 3 };
    static _Alignas(
        struct cmsghdr) char control[(HANDSHAKE_FDS_MAX + SURPLUS) * CMSG_SPACE(sizeof(int))];
    struct handshake_packet packet;
    int descriptors = test_open_descriptors();
    handshake_packet_init(&packet);
    packet.header.msg_control = control;
    packet.header.msg_controllen = 0;
    for (int i = 0; i < HANDSHAKE_FDS_MAX + SURPLUS; i++)
        add_control(&packet.header, SOL_SOCKET, SCM_RIGHTS, dup(pair[0]));
    handshake_packet_take(&packet, 40);
    assert_int_equal(packet.fd_count, HANDSHAKE_FDS_MAX);
    assert_int_equal(test_open_descriptors(), descriptors + HANDSHAKE_FDS_MAX);
    for (uint32_t i = 0; i < packet.fd_count; i++)
        close(packet.fds[i]);
    assert_int_equal(test_open_descriptors(), descriptors);
}

static void a_peer_that_reads_nothing_does_not_stop_us(void **state)
{
    struct message_ready ready = {.header = MESSAGE_INIT(MESSAGE_READY, struct message_ready)};
    int err = 0, sent = 0;
    for (; err == 0 && sent < 100000; sent++)
        err = handshake_send(pair[0], &ready, sizeof ready, NULL, 0);
    assert_int_equal(err, -EAGAIN);
    close(pair[1]);
    pair[1] = -1;
    err = handshake_send(pair[0], &ready, sizeof ready, NULL, 0); /* and no SIGPIPE */
    assert_true(err == -ECONNRESET || err == -EPIPE);
}

static void refusals_are_terminated_texts(void **state)
{
    union message message;
    char text[300];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    handshake_send_error(pair[0], -EPROTO, text);
    assert_int_equal(recv(pair[1], &message, sizeof message, 0), sizeof message.error);
    assert_int_equal(message.error.error, -EPROTO);
    assert_int_equal(message.error.text[sizeof message.error.text - 1], 0);
    assert_int_equal(strlen(message.error.text), sizeof message.error.text - 1);
}

static void a_right_hello_and_a_right_attach_pass(void **state)
{
    struct handshake_packet packet;
    handshake_packet_init(&packet);
    packet.message.hello =
        (struct message_hello){.header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello),
                               .major = LAYOUT_MAJOR,
                               .minor = 900};
    packet.bytes = sizeof(struct message_hello);
    assert_int_equal(handshake_check_hello(&packet, &failure), 0); /* a newer minor may come */

    handshake_packet_init(&packet);
    packet.message.attach =
        (struct message_attach){.header = MESSAGE_INIT(MESSAGE_ATTACH, struct message_attach)};
    packet.bytes = sizeof(struct message_attach);
    packet.fd_count = 1;
    assert_int_equal(handshake_check_attach(&packet, &failure), 0);
    packet.flags = MSG_CTRUNC;
    assert_int_equal(handshake_check_attach(&packet, &failure), -EPROTO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_wish_within_the_limits_is_granted_as_it_is),
        TEST(a_wish_beyond_the_limits_gets_the_limits),
        TEST(an_empty_wish_gets_the_minimum),
        TEST(crooked_wishes_are_rounded_down),
        TEST(requests_are_cut_to_what_the_event_ring_holds),
        TEST(every_extreme_wish_is_granted_something_valid),
        TEST(names_are_made_printable),
        TEST(the_peer_is_who_the_kernel_says),
        TEST(messages_arrive_with_their_descriptors),
        TEST(only_rights_are_taken_for_descriptors),
        TEST(descriptors_beyond_the_most_are_closed),
        TEST(a_peer_that_reads_nothing_does_not_stop_us),
        TEST(refusals_are_terminated_texts),
        TEST(a_right_hello_and_a_right_attach_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
