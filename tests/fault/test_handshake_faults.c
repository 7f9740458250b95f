/*
 * The handshake while the daemon's allocations and system calls fail: the 1st, the 2nd, the 3rd ...
 * until none is left. Each time the client gets an answer or the end of its connection, nothing is
 * left of it, and the next client is served.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/handshake.h"
#include "shm/region.h"
#include "tests/support/control_faults.h"
#include "tests/support/control_stand.h"
#include "tests/support/test.h"

/* ---- the script ------------------------------------------------------------------------------ */

enum { FAULTS_MAX = 200 };

/* What is on the socket now. */
static ssize_t take_answer(int fd, struct answer *ret_answer)
{
    memset(ret_answer, 0, sizeof *ret_answer);
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(RIG_FDS_MAX * sizeof(int))];
    struct iovec part = {.iov_base = &ret_answer->message, .iov_len = sizeof ret_answer->message};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control,
                            .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights = got > 0 ? CMSG_FIRSTHDR(&header) : NULL;
    if (rights) {
        ret_answer->fd_count = (uint32_t)((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(ret_answer->fds, CMSG_DATA(rights), ret_answer->fd_count * sizeof(int));
    }
    return got < 0 ? -errno : got;
}

/* Says hello and attaches as far as it is let; true: it was served. */
static bool try_to_enter(int fd)
{
    struct answer answer;
    struct region half;
    struct message_hello hello = rig_hello();
    struct message_attach attach = rig_attach();
    rig_send(fd, &hello, sizeof hello, NULL, 0);
    faults_turn();
    if (take_answer(fd, &answer) != sizeof answer.message.welcome)
        return false;
    assert_int_equal(answer.fd_count, MESSAGE_WELCOME_FDS);
    struct geometry geometry = answer.message.welcome.geometry;
    rig_close_fds(&answer);

    assert_int_equal(region_create(&half, "test-client", client_half_bytes(&geometry)), 0);
    rig_send(fd, &attach, sizeof attach, &half.fd, 1);
    region_fini(&half);
    faults_turn();
    return take_answer(fd, &answer) == sizeof answer.message.ready &&
           answer.message.header.kind == MESSAGE_READY;
}

/* One client from connect() to close(). */
static bool one_client(void)
{
    int fd = rig_connect(&rig);
    bool was_served = try_to_enter(fd);
    close(fd);
    faults_turn();
    return was_served;
}

/* After the n-th call, `what`, failed; and the next client is served. */
static void nothing_is_left(unsigned n, const char *what, int mappings)
{
    rig_until_descriptors(&rig, descriptors);
    if (rig_mappings() != mappings)
        fail_msg("call %u (%s): %d mappings, not %d", n, what, rig_mappings(), mappings);
    assert_int_equal(rig.engine.session_count, 0);
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    close(fd);
    rig_until_descriptors(&rig, descriptors);
}

static void handshake_survives_each_fault(void **state)
{
    unsigned served = 0, refused = 0;
    memset(&faults, 0, sizeof faults);
    faults.error = *(int *)*state;
    for (unsigned n = 1; n <= FAULTS_MAX; n++) {
        int before = test_open_descriptors();
        rig_init(&rig);
        rig.config.handshake_ns = 2000000000;
        rig_open(&rig);
        rig_turn(&rig);
        int mappings = rig_mappings();
        descriptors = test_open_descriptors();

        faults.failed = NULL;
        faults.calls_left = n;
        bool was_served = one_client();
        served += was_served;
        refused += !was_served;
        const char *what = faults.failed;
        faults.calls_left = 0;
        if (control_turn(rig.control, 0) == 1) /* else it stops, and its end closes everything */
            nothing_is_left(n, what, mappings);
        rig_fini(&rig);
        assert_int_equal(test_open_descriptors(), before);
        if (!what) { /* nothing was left to fail */
            assert_true(was_served);
            assert_true(refused > 10 && served >= 1);
            return;
        }
    }
    fail_msg("more than %d calls", FAULTS_MAX);
}

static void opening_survives_each_fault(void **state)
{
    for (unsigned n = 1; n <= FAULTS_MAX; n++) {
        rig_init(&rig);
        descriptors = test_open_descriptors();
        struct failure failure = {""};
        struct control_options options = {.config = &rig.config,
                                          .access = &rig.access,
                                          .engine = &rig.engine,
                                          .board = &rig.board,
                                          .signal_fd = rig.signal_pipe[0]};
        faults = (struct faults){.calls_left = n, .is_armed = true};
        int err = control_open(&rig.control, &options, &failure);
        faults.is_armed = false;
        if (err < 0) {
            assert_non_null(faults.failed);
            if (!failure.text[0])
                fail_msg("%s failed, and nothing is said of it", faults.failed);
            assert_null(rig.control);
            assert_int_equal(test_open_descriptors(), descriptors);
            if (access(rig.config.socket_path, F_OK) == 0)
                fail_msg("%s failed, and the socket is left behind", faults.failed);
        }
        bool is_done = !faults.failed;
        faults.calls_left = 0;
        rig_fini(&rig);
        if (is_done) {
            assert_int_equal(err, 0);
            assert_true(n > 8);
            return;
        }
    }
    fail_msg("more than %d calls", FAULTS_MAX);
}

/* ---- who it is ------------------------------------------------------------------------------- */

static int peer_of_pair(int peerpidfd, int pidfd_open, struct peer *ret_peer)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    faults.peerpidfd_errno = peerpidfd;
    faults.pidfd_open_errno = pidfd_open;
    int err = handshake_peer(ret_peer, pair[0]);
    faults.peerpidfd_errno = faults.pidfd_open_errno = 0;
    close(pair[0]);
    close(pair[1]);
    return err;
}

/* Before Linux 6.5 the kernel does not know SO_PEERPIDFD. */
static void an_older_kernel_names_the_process_by_its_number(void **state)
{
    static const int unknown[] = {ENOPROTOOPT, EINVAL};
    for (size_t i = 0; i < 2; i++) {
        struct peer peer = PEER_EMPTY;
        assert_int_equal(peer_of_pair(unknown[i], 0, &peer), 0);
        assert_int_equal(peer.pid, getpid());
        assert_true(peer.process >= 0);
        handshake_peer_fini(&peer);
        assert_int_equal(peer_of_pair(unknown[i], ESRCH, &peer), -ESRCH);
        assert_int_equal(peer.process, -1);
    }
}

static void a_peer_that_is_gone_or_cannot_be_watched_is_an_error(void **state)
{
    struct peer peer = PEER_EMPTY;
    assert_int_equal(peer_of_pair(ENODATA, 0, &peer), -ESRCH);
    assert_int_equal(peer_of_pair(ESRCH, 0, &peer), -ESRCH);
    assert_int_equal(peer_of_pair(EMFILE, 0, &peer), -EMFILE);
    assert_int_equal(peer.process, -1);
}

static void a_peer_of_another_process_namespace_has_its_socket_alone(void **state)
{
    struct peer peer = PEER_EMPTY;
    int before = test_open_descriptors();
    faults.is_peer_hidden = true;
    assert_int_equal(peer_of_pair(0, 0, &peer), 0);
    faults.is_peer_hidden = false;
    assert_int_equal(peer.uid, getuid());
    assert_int_equal(peer.pid, 0);
    assert_int_equal(peer.process, -1);
    assert_int_equal(test_open_descriptors(), before);
}

static void packets_without_end_are_not_thrown_away_for_ever(void **state)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    faults.is_flooded = true;
    assert_false(handshake_hush(pair[0])); /* and it comes back */
    faults.is_flooded = false;
    assert_true(handshake_hush(pair[0]));
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    /* What suits each call; and some that have a meaning of their own in the daemon. */
    static int suitable = 0, none = ENOMEM, again = EAGAIN, full = EMFILE, absent = ENOPROTOOPT;
    const struct CMUnitTest tests[] = {
        {"handshake_survives_each_fault", handshake_survives_each_fault, NULL, NULL, &suitable},
        {"handshake_survives_enomem", handshake_survives_each_fault, NULL, NULL, &none},
        {"handshake_survives_eagain", handshake_survives_each_fault, NULL, NULL, &again},
        {"handshake_survives_emfile", handshake_survives_each_fault, NULL, NULL, &full},
        {"handshake_survives_enoprotoopt", handshake_survives_each_fault, NULL, NULL, &absent},
        cmocka_unit_test(opening_survives_each_fault),
        cmocka_unit_test(an_older_kernel_names_the_process_by_its_number),
        cmocka_unit_test(a_peer_that_is_gone_or_cannot_be_watched_is_an_error),
        cmocka_unit_test(a_peer_of_another_process_namespace_has_its_socket_alone),
        cmocka_unit_test(packets_without_end_are_not_thrown_away_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
