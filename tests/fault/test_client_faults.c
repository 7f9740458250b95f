/*
 * The n-th call of the system, or of the allocator, fails while a client connects: for every
 * function and every n until none is left, the error comes back, and no descriptor, mapping or byte
 * stays.
 */
#include "autoglm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "client/packet.h"
#include "tests/support/peer.h"
#include "tests/support/test.h"

/* Only the thread that arms it is hit: the stand-in daemon uses the same functions. */
enum wrapped {
    CALLOC,
    CONNECT,
    FALLOCATE,
    FCNTL,
    FSTAT,
    FSTATFS,
    FTRUNCATE,
    MADVISE,
    MEMFD_CREATE,
    MMAP,
    PPOLL,
    RECVMSG,
    SENDMSG,
    SETSOCKOPT,
    SOCKET,
    WRAPPED
};
static const char *const names[WRAPPED] = {"calloc",       "connect",    "fallocate", "fcntl",
                                           "fstat",        "fstatfs",    "ftruncate", "madvise",
                                           "memfd_create", "mmap",       "ppoll",     "recvmsg",
                                           "sendmsg",      "setsockopt", "socket"};

static _Thread_local enum wrapped armed_call = WRAPPED;
static _Thread_local enum wrapped unknown_call = WRAPPED;
static _Thread_local int calls_left; /* until the one that fails */
static _Thread_local int armed_errno;

/* On an old kernel every such call says so. */
static bool is_unknown(enum wrapped call)
{
    if (call != unknown_call)
        return false;
    errno = EINVAL;
    return true;
}

static bool fails(enum wrapped call)
{
    if (is_unknown(call))
        return true;
    if (call != armed_call || --calls_left != 0)
        return false;
    errno = armed_errno;
    return true;
}

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails(CALLOC) ? NULL : __real_calloc(count, bytes);
}

void *__real_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    return fails(MMAP) ? MAP_FAILED : __real_mmap(address, bytes, protection, flags, fd, offset);
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    int value = va_arg(arguments, int); /* garbage that is not looked at for commands without */
    va_end(arguments);
    return fails(FCNTL) ? -1 : __real_fcntl(fd, command, value);
}

#define WRAP(type, call, name, declared, given)        \
    type __real_##name declared;                       \
    type __wrap_##name declared;                       \
    type __wrap_##name declared                        \
    {                                                  \
        return fails(call) ? -1 : __real_##name given; \
    }
WRAP(int, CONNECT, connect, (int fd, const struct sockaddr *address, socklen_t bytes),
     (fd, address, bytes))
WRAP(int, FALLOCATE, fallocate, (int fd, int mode, off_t offset, off_t bytes),
     (fd, mode, offset, bytes))
WRAP(int, FSTAT, fstat, (int fd, struct stat *status), (fd, status))
WRAP(int, FSTATFS, fstatfs, (int fd, struct statfs *status), (fd, status))
WRAP(int, FTRUNCATE, ftruncate, (int fd, off_t bytes), (fd, bytes))
WRAP(int, MADVISE, madvise, (void *address, size_t bytes, int advice), (address, bytes, advice))
WRAP(int, MEMFD_CREATE, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(int, PPOLL, ppoll,
     (struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask),
     (fds, count, timeout, mask))
WRAP(ssize_t, SENDMSG, sendmsg, (int fd, const struct msghdr *message, int flags),
     (fd, message, flags))
WRAP(int, SETSOCKOPT, setsockopt, (int fd, int level, int name, const void *value, socklen_t bytes),
     (fd, level, name, value, bytes))
WRAP(int, SOCKET, socket, (int domain, int type, int protocol), (domain, type, protocol))

/* What the descriptors of the next packet that has some are made to look like. */
static _Thread_local struct {
    bool is_armed;
    int level, type;
} disguise;

static void put_on_disguise(struct msghdr *message)
{
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    if (!disguise.is_armed || !control)
        return;
    disguise.is_armed = false;
    for (size_t at = CMSG_LEN(0); at < control->cmsg_len; at += sizeof(int)) {
        int fd;
        memcpy(&fd, (char *)control + at, sizeof fd);
        close(fd);
    }
    control->cmsg_level = disguise.level;
    control->cmsg_type = disguise.type;
}

/* A packet of more descriptors than any kernel would let through. */
static _Thread_local bool is_flooded;

static void flood(struct msghdr *message, int fd)
{
    static _Alignas(struct cmsghdr) char control[(PACKET_FDS_MAX + 2) * CMSG_SPACE(sizeof fd)];
    message->msg_control = control;
    message->msg_controllen = sizeof control;
    for (size_t at = 0; at < sizeof control; at += CMSG_SPACE(sizeof fd)) {
        struct cmsghdr *header = (void *)(control + at);
        int copy = dup(fd);
        *header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof copy)};
        memcpy(CMSG_DATA(header), &copy, sizeof copy);
    }
}

/* So many descriptors can still be opened while a packet is received; -1: no limit. */
static _Thread_local int descriptors_left = -1;

/* Gives the limit as it was. */
static struct rlimit leave_descriptors(int count)
{
    int fds[PACKET_FDS_MAX];
    struct rlimit before;
    assert_true(count < PACKET_FDS_MAX);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    for (int i = 0; i <= count; i++) {
        fds[i] = dup(STDERR_FILENO);
        assert_true(fds[i] >= 0);
    }
    struct rlimit low = {.rlim_cur = (rlim_t)fds[count], .rlim_max = before.rlim_max};
    for (int i = 0; i <= count; i++)
        close(fds[i]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    return before;
}

ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);

static ssize_t receive_with_few_descriptors(int fd, struct msghdr *message, int flags)
{
    struct rlimit before = leave_descriptors(descriptors_left);
    ssize_t got = __real_recvmsg(fd, message, flags);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    return got;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    if (fails(RECVMSG))
        return -1;
    if (descriptors_left >= 0)
        return receive_with_few_descriptors(fd, message, flags);
    ssize_t got = __real_recvmsg(fd, message, flags);
    if (got > 0)
        put_on_disguise(message);
    if (got > 0 && is_flooded)
        flood(message, fd);
    return got;
}

static int last_error; /* what agl_connect() returned */

/* One connection in which the n-th such call fails: what comes back; 1: it was never reached. */
static int connect_with_failure(enum wrapped call, int n, int error)
{
    struct peer peer;
    int open_before = test_open_descriptors();
    int mapped_before = peer_shared_mappings();
    peer_start(&peer, PEER_HONEST);
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = peer.path;
    options.output_bytes = 4096;
    struct agl_client *client = NULL;

    armed_call = call;
    calls_left = n;
    armed_errno = error;
    int err = last_error = agl_connect(&client, &options);
    bool was_reached = calls_left <= 0;
    armed_call = WRAPPED;

    if (err == 0) {
        peer_join(&peer);
        if (!peer.is_ready)
            fail_msg("%s %d: connected, but not for the daemon", names[call], n);
    } else {
        assert_null(client);
        assert_true(*agl_error_detail() != 0);
    }
    agl_close(client);
    peer_stop(&peer);
    if (test_open_descriptors() != open_before || peer_shared_mappings() != mapped_before)
        fail_msg("%s %d: something was left open (%d)", names[call], n, err);
    return was_reached ? err : 1;
}

/* How often the call was reached with the error coming back each time. */
static int fail_each(enum wrapped call, int error)
{
    for (int n = 1;; n++) {
        int err = connect_with_failure(call, n, error);
        if (err == 1)
            return n - 1;
        int expected = call == CALLOC ? -ENOMEM : -error;
        if (err != expected)
            fail_msg("%s %d: %d (%s), expected %d", names[call], n, err, agl_error_detail(),
                     expected);
    }
}

static void every_failing_call_comes_back_as_its_error(void **state)
{
    static const struct {
        enum wrapped call;
        int error;
        int least; /* how often agl_connect() surely calls it: the wrapping works */
    } cases[] = {
        {CALLOC, ENOMEM, 3},       {CONNECT, EACCES, 1},   {FSTAT, EIO, 3},
        {FSTATFS, EIO, 2},         {FTRUNCATE, ENOMEM, 1}, {MADVISE, EIO, 3},
        {MEMFD_CREATE, EMFILE, 1}, {MMAP, ENOMEM, 3},      {PPOLL, ENOMEM, 4},
        {RECVMSG, ENOBUFS, 2},     {SENDMSG, ENOBUFS, 2},  {SETSOCKOPT, EINVAL, 1},
        {SOCKET, EMFILE, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int reached = fail_each(cases[i].call, cases[i].error);
        if (reached < cases[i].least)
            fail_msg("%s was reached %d times only", names[cases[i].call], reached);
    }
}

/* F_GET_SEALS that fails means that it is no memfd; F_GETFL of the doorbell and F_ADD_SEALS give
 * the error itself. */
static void failing_seals_refuse_the_region(void **state)
{
    assert_int_equal(connect_with_failure(FCNTL, 1, EINVAL), -EPROTO);
    assert_int_equal(connect_with_failure(FCNTL, 2, EINVAL), -EPROTO);
    assert_int_equal(connect_with_failure(FCNTL, 3, EIO), -EIO);
    assert_non_null(strstr(agl_error_detail(), "doorbell"));
    assert_int_equal(connect_with_failure(FCNTL, 4, EPERM), -EPERM);
    assert_int_equal(connect_with_failure(FCNTL, 5, EPERM), 1);
}

/* What a busy or interrupted system says is no failure. */
static void interruptions_are_tried_again(void **state)
{
    static const struct {
        enum wrapped call;
        int error;
    } cases[] = {{PPOLL, EINTR},    {RECVMSG, EINTR}, {RECVMSG, EAGAIN}, {SENDMSG, EINTR},
                 {SENDMSG, EAGAIN}, {CONNECT, EINTR}, {CONNECT, EAGAIN}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int n = 1; n <= 2; n++) {
            int err = connect_with_failure(cases[i].call, n, cases[i].error);
            if (err != 0 && err != 1)
                fail_msg("%s %d: %d (%s)", names[cases[i].call], n, err, agl_error_detail());
        }
}

/* Kernels before 5.14 do not know MADV_POPULATE_*: the pages then come with the first touch. */
static void an_old_kernel_populates_later(void **state)
{
    for (int n = 1; n <= 3; n++)
        assert_int_equal(connect_with_failure(MADVISE, n, EINVAL), 0);
}

/* Such a kernel is asked for the pages in another way, which may fail as well. */
static void an_old_kernel_may_lack_memory(void **state)
{
    unknown_call = MADVISE;
    assert_int_equal(connect_with_failure(FALLOCATE, 1, ENOSPC), -ENOSPC);
    assert_int_equal(connect_with_failure(FALLOCATE, 1, EFAULT), -ENOMEM);
    unknown_call = WRAPPED;
}

static void pages_that_cannot_be_had_are_a_lack_of_memory(void **state)
{
    for (int n = 1; n <= 3; n++)
        assert_int_equal(connect_with_failure(MADVISE, n, EFAULT), -ENOMEM);
}

static void only_rights_are_taken_for_descriptors(void **state)
{
    static const struct {
        int level, type;
    } others[] = {{SOL_SOCKET, SCM_CREDENTIALS}, {SOL_SOCKET + 1, SCM_RIGHTS}};
    for (size_t i = 0; i < 2; i++) {
        disguise.is_armed = true;
        disguise.level = others[i].level;
        disguise.type = others[i].type;
        assert_int_equal(connect_with_failure(RECVMSG, 100, EIO), 1);
        assert_false(disguise.is_armed);
        assert_non_null(strstr(agl_error_detail(), "0 descriptors came"));
    }
}

static void descriptors_beyond_the_most_are_closed(void **state)
{
    disguise.is_armed = true; /* those that really came are taken away */
    is_flooded = true;
    assert_int_equal(connect_with_failure(RECVMSG, 100, EIO), 1);
    is_flooded = false;
    assert_false(disguise.is_armed);
    assert_non_null(strstr(agl_error_detail(), "8 descriptors came"));
}

static void too_few_descriptors_are_not_the_daemons_fault(void **state)
{
    for (descriptors_left = 0; descriptors_left < MESSAGE_WELCOME_FDS; descriptors_left++) {
        assert_int_equal(connect_with_failure(RECVMSG, 100, EIO), 1);
        if (!strstr(agl_error_detail(), "too many descriptors are open in this process"))
            fail_msg("room for %d: %s", descriptors_left, agl_error_detail());
        assert_int_equal(last_error, -EMFILE);
    }
    assert_int_equal(connect_with_failure(RECVMSG, 100, EIO), 1);
    assert_int_equal(last_error, 0);
    descriptors_left = -1;
}

static void send_to_who_is_gone(int error)
{
    /* The stand-in is honest and just loses the packet, so that here the end comes instead. */
    struct peer peer;
    peer_start(&peer, PEER_REFUSES);
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = peer.path;
    options.timeout_ns = 50000000;
    struct agl_client *client = NULL;
    armed_call = SENDMSG;
    calls_left = 1;
    armed_errno = error;
    assert_int_equal(agl_connect(&client, &options), -ETIMEDOUT);
    armed_call = WRAPPED;
    peer_stop(&peer);
}

static void a_daemon_that_closes_while_we_send_may_have_said_why(void **state)
{
    send_to_who_is_gone(EPIPE);
    send_to_who_is_gone(ECONNRESET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failing_call_comes_back_as_its_error),
        cmocka_unit_test(failing_seals_refuse_the_region),
        cmocka_unit_test(interruptions_are_tried_again),
        cmocka_unit_test(an_old_kernel_populates_later),
        cmocka_unit_test(an_old_kernel_may_lack_memory),
        cmocka_unit_test(pages_that_cannot_be_had_are_a_lack_of_memory),
        cmocka_unit_test(only_rights_are_taken_for_descriptors),
        cmocka_unit_test(descriptors_beyond_the_most_are_closed),
        cmocka_unit_test(too_few_descriptors_are_not_the_daemons_fault),
        cmocka_unit_test(a_daemon_that_closes_while_we_send_may_have_said_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
