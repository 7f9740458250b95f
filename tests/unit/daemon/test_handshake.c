#include "daemon/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
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

static void a_packet_is_looked_at_and_stays(void **state)
{
    struct handshake_packet packet;
    struct message_hello hello = {.header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello)};
    assert_int_equal(handshake_look(&packet, pair[1], true), -EAGAIN);
    assert_int_equal(handshake_send(pair[0], &hello, sizeof hello, NULL, 0), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(handshake_look(&packet, pair[1], i), 1);
        assert_int_equal(packet.bytes, sizeof hello);
        assert_memory_equal(&packet.message, &hello, sizeof hello);
        assert_int_equal(packet.fd, -1);
        assert_int_equal(packet.flags & (MSG_TRUNC | MSG_CTRUNC), 0);
    }
    handshake_discard(pair[1]);
    assert_int_equal(handshake_look(&packet, pair[1], true), -EAGAIN);
    close(pair[0]);
    pair[0] = -1;
    assert_int_equal(handshake_look(&packet, pair[1], true), 0);
}

static void of_descriptors_one_is_copied_if_it_is_asked_for(void **state)
{
    struct handshake_packet packet;
    struct message_hello hello = {.header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello)};
    int descriptors = test_open_descriptors();
    for (uint32_t count = 1; count <= 3; count++) {
        const int fds[3] = {pair[0], 1, 1};
        assert_int_equal(handshake_send(pair[0], &hello, sizeof hello, fds, count), 0);
        assert_int_equal(handshake_look(&packet, pair[1], false), 1);
        assert_int_equal(packet.fd, -1);
        assert_true(packet.flags & MSG_CTRUNC);
        assert_int_equal(test_open_descriptors(), descriptors);

        assert_int_equal(handshake_look(&packet, pair[1], true), 1);
        assert_int_equal(packet.flags & MSG_CTRUNC, count > 1 ? MSG_CTRUNC : 0);
        assert_int_equal(fcntl(packet.fd, F_GETFD), FD_CLOEXEC);
        assert_int_equal(test_open_descriptors(), descriptors + 1);
        close(packet.fd);
        handshake_discard(pair[1]);
        assert_int_equal(test_open_descriptors(), descriptors);
    }
    assert_int_equal(handshake_send(pair[0], &hello, 0, &pair[0], 1), 0);
    assert_int_equal(handshake_look(&packet, pair[1], true), 0); /* like the end, but for this: */
    assert_true(packet.fd >= 0);
    close(packet.fd);
}

static void without_room_for_a_copy_it_is_said(void **state)
{
    struct handshake_packet packet;
    struct message_hello hello = {.header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello)};
    struct rlimit before, none;
    assert_int_equal(handshake_send(pair[0], &hello, sizeof hello, &pair[0], 1), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int err = handshake_look(&packet, pair[1], true);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_int_equal(err, -EMFILE);
    assert_int_equal(packet.fd, -1);
}

static void only_small_memory_closes_at_once(void **state)
{
    enum { MIB = 1 << 20 };
    int memory = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(memory, 100 * MIB), 0);
    assert_true(handshake_closes_at_once(memory, 0)); /* it is empty */
    assert_int_equal(fallocate(memory, 0, 0, 10 * MIB), 0);
    assert_false(handshake_closes_at_once(memory, MIB));
    assert_true(handshake_closes_at_once(memory, 10 * MIB));
    close(memory);
    assert_false(handshake_closes_at_once(pair[0], MIB));
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
    struct handshake_packet packet = {.bytes = sizeof(struct message_hello), .fd = -1};
    packet.message.hello =
        (struct message_hello){.header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello),
                               .major = LAYOUT_MAJOR,
                               .minor = 900};
    assert_int_equal(handshake_check_hello(&packet, &failure), 0); /* a newer minor may come */

    packet = (struct handshake_packet){.bytes = sizeof(struct message_attach), .fd = 0};
    packet.message.attach =
        (struct message_attach){.header = MESSAGE_INIT(MESSAGE_ATTACH, struct message_attach)};
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
        TEST(a_packet_is_looked_at_and_stays),
        TEST(of_descriptors_one_is_copied_if_it_is_asked_for),
        TEST(without_room_for_a_copy_it_is_said),
        TEST(only_small_memory_closes_at_once),
        TEST(a_peer_that_reads_nothing_does_not_stop_us),
        TEST(refusals_are_terminated_texts),
        TEST(a_right_hello_and_a_right_attach_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
