/*
 * The handshake while the daemon's allocations and system calls fail: the 1st, the 2nd, the 3rd ...
 * until none is left. Each time the client gets an answer or the end of its connection, nothing is
 * left of it, and the next client is served.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "daemon/handshake.h"
#include "daemon/loop.h"
#include "shm/region.h"
#include "tests/support/control_rig.h"
#include "tests/support/test.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* ---- the faults ------------------------------------------------------------------------------ */

static bool is_armed;       /* only while the daemon runs, not while the client does */
static unsigned calls_left; /* until the one that fails */
static const char *failed;  /* its name; NULL: none yet */
static int fault_errno;     /* 0: the one that suits the call */

/* Of these calls each fails so, as long as it is not 0. */
static int peerpidfd_errno, pidfd_open_errno;

static bool fails(const char *name, int error)
{
    if (!is_armed || failed || --calls_left > 0)
        return false;
    failed = name;
    errno = fault_errno ? fault_errno : error;
    return true;
}

/* The declarations come first, for -Wmissing-prototypes. */
#define WRAP(type, name, parameters, arguments, error, failure_value)           \
    type __real_##name parameters;                                              \
    type __wrap_##name parameters;                                              \
    type __wrap_##name parameters                                               \
    {                                                                           \
        return fails(#name, error) ? (failure_value) : __real_##name arguments; \
    }

WRAP(void *, calloc, (size_t count, size_t bytes), (count, bytes), ENOMEM, NULL)
WRAP(void *, malloc, (size_t bytes), (bytes), ENOMEM, NULL)
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), ENOMEM, NULL)
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), EMFILE, -1)
WRAP(int, ftruncate, (int fd, off_t bytes), (fd, bytes), ENOMEM, -1)
WRAP(void *, mmap, (void *at, size_t bytes, int protection, int flags, int fd, off_t offset),
     (at, bytes, protection, flags, fd, offset), ENOMEM, MAP_FAILED)
WRAP(int, madvise, (void *at, size_t bytes, int advice), (at, bytes, advice), ENOMEM, -1)
WRAP(int, fstat, (int fd, struct stat *status), (fd, status), EIO, -1)
WRAP(int, fstatfs, (int fd, struct statfs *status), (fd, status), EIO, -1)
WRAP(int, eventfd, (unsigned value, int flags), (value, flags), EMFILE, -1)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags),
     EAGAIN, -1)
WRAP(int, shutdown, (int fd, int how), (fd, how), ENOTCONN, -1)
WRAP(ssize_t, recv, (int fd, void *bytes, size_t count, int flags), (fd, bytes, count, flags),
     ECONNRESET, -1)
WRAP(int, close_range, (unsigned first, unsigned last, int flags), (first, last, flags), ENOMEM, -1)
WRAP(int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*begin)(void *), void *argument),
     (thread, attributes, begin, argument), EAGAIN, EAGAIN)
WRAP(int, inotify_init1, (int flags), (flags), EMFILE, -1)
WRAP(int, inotify_add_watch, (int fd, const char *path, uint32_t mask), (fd, path, mask), ENOSPC,
     -1)
WRAP(int, socket, (int family, int type, int protocol), (family, type, protocol), EMFILE, -1)
WRAP(int, bind, (int fd, const struct sockaddr *address, socklen_t bytes), (fd, address, bytes),
     EACCES, -1)
WRAP(int, listen, (int fd, int backlog), (fd, backlog), EADDRINUSE, -1)
WRAP(int, chmod, (const char *path, mode_t mode), (path, mode), EPERM, -1)
WRAP(int, loop_accept, (struct loop * loop, struct loop_op *op, int fd), (loop, op, fd), EAGAIN,
     -EAGAIN)
/* A close that waits for the owner of the file's system; NULL: none does. */
static struct loop_op **slow_close;
static int slow_fd;

int __real_loop_close_fd(struct loop *loop, struct loop_op *op, int fd);
int __wrap_loop_close_fd(struct loop *loop, struct loop_op *op, int fd);
int __wrap_loop_close_fd(struct loop *loop, struct loop_op *op, int fd)
{
    if (fails("loop_close_fd", EAGAIN))
        return -EAGAIN;
    if (!slow_close)
        return __real_loop_close_fd(loop, op, fd);
    op->state = LOOP_PENDING;
    *slow_close = op;
    slow_fd = fd;
    return 0;
}

WRAP(int, loop_poll, (struct loop * loop, struct loop_op *op, int fd, uint32_t events),
     (loop, op, fd, events), EAGAIN, -EAGAIN)
WRAP(int, loop_timer, (struct loop * loop, struct loop_op *op, uint64_t deadline_ns),
     (loop, op, deadline_ns), EAGAIN, -EAGAIN)

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return fails("fcntl", EINVAL) ? -1 : __real_fcntl(fd, command, argument);
}

static bool is_peer_hidden; /* it lives in a process namespace that we cannot see */

static int fail_with(int error)
{
    errno = error;
    return -1;
}

int __real_getsockopt(int fd, int level, int option, void *value, socklen_t *bytes);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *bytes);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *bytes)
{
    if (fails("getsockopt", EMFILE))
        return -1;
    if (option == SO_PEERPIDFD && peerpidfd_errno)
        return fail_with(peerpidfd_errno);
    int err = __real_getsockopt(fd, level, option, value, bytes);
    if (option == SO_PEERCRED && is_peer_hidden)
        ((struct ucred *)value)->pid = 0;
    return err;
}

/* pidfd_open() alone goes through syscall(). */
long __real_syscall(long number, long a, long b);
long __wrap_syscall(long number, long a, long b);
long __wrap_syscall(long number, long a, long b)
{
    if (pidfd_open_errno)
        return fail_with(pidfd_open_errno);
    return fails("syscall", ESRCH) ? -1 : __real_syscall(number, a, b);
}

static bool is_flooded; /* there is always one more packet without descriptors */

ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    if (fails("recvmsg", ECONNRESET))
        return -1;
    if (is_flooded) {
        message->msg_flags = 0;
        return 1;
    }
    return __real_recvmsg(fd, message, flags);
}

/* ---- the script ------------------------------------------------------------------------------ */

enum { FAULTS_MAX = 200, TURNS = 12 };

static struct rig rig;

static void turn(void)
{
    is_armed = true;
    int err = 1;
    for (int i = 0; i < TURNS && err == 1; i++)
        err = control_turn(rig.control, 500000);
    is_armed = false;
    /* The signal's, the report's and the tick's operations are what the daemon lives by. */
    if (err != 1 && !(err == -EAGAIN && failed))
        fail_msg("after %s failed the daemon stops: %s", failed ? failed : "nothing",
                 strerror(-err));
}

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
    turn();
    if (take_answer(fd, &answer) != sizeof answer.message.welcome)
        return false;
    assert_int_equal(answer.fd_count, MESSAGE_WELCOME_FDS);
    struct geometry geometry = answer.message.welcome.geometry;
    rig_close_fds(&answer);

    assert_int_equal(region_create(&half, "test-client", client_half_bytes(&geometry)), 0);
    rig_send(fd, &attach, sizeof attach, &half.fd, 1);
    region_fini(&half);
    turn();
    return take_answer(fd, &answer) == sizeof answer.message.ready &&
           answer.message.header.kind == MESSAGE_READY;
}

/* One client from connect() to close(). */
static bool one_client(void)
{
    int fd = rig_connect(&rig);
    bool was_served = try_to_enter(fd);
    close(fd);
    turn();
    return was_served;
}

/* After the n-th call, `what`, failed; and the next client is served. */
static void nothing_is_left(unsigned n, const char *what, int descriptors, int mappings)
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
    fault_errno = *(int *)*state;
    for (unsigned n = 1; n <= FAULTS_MAX; n++) {
        int before = test_open_descriptors();
        rig_init(&rig);
        rig.config.handshake_ns = 2000000000;
        rig_open(&rig);
        rig_turn(&rig);
        int descriptors = test_open_descriptors(), mappings = rig_mappings();

        failed = NULL;
        calls_left = n;
        bool was_served = one_client();
        served += was_served;
        refused += !was_served;
        const char *what = failed;
        failed = "nothing more";
        if (control_turn(rig.control, 0) == 1) /* else it stops, and its end closes everything */
            nothing_is_left(n, what, descriptors, mappings);
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
        int descriptors = test_open_descriptors();
        struct failure failure = {""};
        struct control_options options = {.config = &rig.config,
                                          .access = &rig.access,
                                          .engine = &rig.engine,
                                          .board = &rig.board,
                                          .signal_fd = rig.signal_pipe[0]};
        fault_errno = 0;
        failed = NULL;
        calls_left = n;
        is_armed = true;
        int err = control_open(&rig.control, &options, &failure);
        is_armed = false;
        if (err < 0) {
            assert_non_null(failed);
            if (!failure.text[0])
                fail_msg("%s failed, and nothing is said of it", failed);
            assert_null(rig.control);
            assert_int_equal(test_open_descriptors(), descriptors);
            if (access(rig.config.socket_path, F_OK) == 0)
                fail_msg("%s failed, and the socket is left behind", failed);
        }
        bool is_done = !failed;
        failed = "nothing more";
        rig_fini(&rig);
        if (is_done) {
            assert_int_equal(err, 0);
            assert_true(n > 8);
            return;
        }
    }
    fail_msg("more than %d calls", FAULTS_MAX);
}

/* ---- a slow close ---------------------------------------------------------------------------- */

static void attach_with(int fd, int half)
{
    struct message_attach attach = rig_attach();
    rig_send(fd, &attach, sizeof attach, &half, half >= 0);
}

static void while_a_descriptor_is_not_closed_no_other_of_its_user_is_received(void **state)
{
    struct answer answer;
    struct loop_op *closing = NULL;
    rig_init(&rig);
    rig_open(&rig);
    rig_turn(&rig);
    int descriptors = test_open_descriptors();
    int first = rig_connect(&rig), second = rig_connect(&rig);
    rig_enter_hall(&rig, first);
    rig_enter_hall(&rig, second);
    slow_close = &closing;
    attach_with(first, STDERR_FILENO);
    rig_expect_error(&rig, first, -EPROTO, "not a memfd");
    close(first);
    assert_non_null(closing);
    attach_with(second, STDERR_FILENO); /* nobody looks at it */
    for (int i = 0; i < 50; i++)
        rig_turn(&rig);
    assert_int_equal(take_answer(second, &answer), -EAGAIN);

    slow_close = NULL;
    close(slow_fd);
    closing->state = LOOP_IDLE;
    closing->handler(closing, 0);
    rig_expect_error(&rig, second, -EPROTO, "not a memfd");
    close(second);
    rig_until_descriptors(&rig, descriptors);
    rig_fini(&rig);
}

static void who_waits_for_a_slow_close_has_a_deadline(void **state)
{
    struct loop_op *closing = NULL;
    rig_init(&rig);
    rig.config.handshake_ns = 1000000000;
    rig_open(&rig);
    rig_turn(&rig);
    int descriptors = test_open_descriptors();
    int first = rig_connect(&rig), second = rig_connect(&rig);
    rig_enter_hall(&rig, first);
    rig_enter_hall(&rig, second);
    slow_close = &closing;
    attach_with(first, STDERR_FILENO);
    rig_expect_error(&rig, first, -EPROTO, "not a memfd");
    attach_with(second, -1);
    rig_expect_error(&rig, second, -ETIMEDOUT, "handshake_ms");
    close(first);
    close(second);
    slow_close = NULL;
    close(slow_fd);
    closing->state = LOOP_IDLE;
    closing->handler(closing, 0);
    rig_until_descriptors(&rig, descriptors);
    rig_fini(&rig);
}

static void what_is_not_closed_at_the_end_is_left_to_it(void **state)
{
    struct loop_op *closing = NULL;
    rig_init(&rig);
    rig_open(&rig);
    rig_turn(&rig);
    int first = rig_connect(&rig);
    rig_enter_hall(&rig, first);
    slow_close = &closing;
    attach_with(first, STDERR_FILENO);
    rig_expect_error(&rig, first, -EPROTO, "not a memfd");
    slow_close = NULL;
    rig_fini(&rig);
    close(first);
    close(slow_fd);
}

/* ---- who it is ------------------------------------------------------------------------------- */

static int peer_of_pair(int peerpidfd, int pidfd_open, struct peer *ret_peer)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    peerpidfd_errno = peerpidfd;
    pidfd_open_errno = pidfd_open;
    int err = handshake_peer(ret_peer, pair[0]);
    peerpidfd_errno = pidfd_open_errno = 0;
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
    is_peer_hidden = true;
    assert_int_equal(peer_of_pair(0, 0, &peer), 0);
    is_peer_hidden = false;
    assert_int_equal(peer.uid, getuid());
    assert_int_equal(peer.pid, 0);
    assert_int_equal(peer.process, -1);
    assert_int_equal(test_open_descriptors(), before);
}

static void packets_without_end_are_not_thrown_away_for_ever(void **state)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    is_flooded = true;
    assert_false(handshake_hush(pair[0])); /* and it comes back */
    is_flooded = false;
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
        cmocka_unit_test(while_a_descriptor_is_not_closed_no_other_of_its_user_is_received),
        cmocka_unit_test(who_waits_for_a_slow_close_has_a_deadline),
        cmocka_unit_test(what_is_not_closed_at_the_end_is_left_to_it),
        cmocka_unit_test(an_older_kernel_names_the_process_by_its_number),
        cmocka_unit_test(a_peer_that_is_gone_or_cannot_be_watched_is_an_error),
        cmocka_unit_test(a_peer_of_another_process_namespace_has_its_socket_alone),
        cmocka_unit_test(packets_without_end_are_not_thrown_away_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
