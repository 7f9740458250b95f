#include "tests/support/control_faults.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tests/support/control_stand.h"
#include "tests/support/test.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

struct faults faults;

static int fail_with(int error)
{
    errno = error;
    return -1;
}

static bool is_named(const char *call)
{
    bool is_due = false;
    for (int i = 0; i < FAULTS_NAMED_MAX; i++) {
        if (faults.named[i].calls_left == 0 || strcmp(faults.named[i].call, call) != 0)
            continue;
        if (--faults.named[i].calls_left == 0) {
            errno = faults.named[i].error;
            is_due = true;
        }
    }
    return is_due;
}

static bool fails(const char *call, int error)
{
    if (!faults.is_armed)
        return false;
    if (is_named(call))
        return true;
    if (faults.calls_left == 0 || --faults.calls_left > 0)
        return false;
    faults.failed = call;
    errno = faults.error ? faults.error : error;
    return true;
}

/* ---- the calls ------------------------------------------------------------------------------- */

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
WRAP(int, loop_timer, (struct loop * loop, struct loop_op *op, uint64_t deadline_ns),
     (loop, op, deadline_ns), EAGAIN, -EAGAIN)

int __real_loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events);
int __wrap_loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events);
int __wrap_loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    if (fails("loop_poll", EAGAIN))
        return -EAGAIN;
    if (!faults.kept_poll)
        return __real_loop_poll(loop, op, fd, events);
    op->state = LOOP_PENDING;
    *faults.kept_poll = op;
    faults.kept_poll = NULL;
    return 0;
}

int __real_loop_close_fd(struct loop *loop, struct loop_op *op, int fd);
int __wrap_loop_close_fd(struct loop *loop, struct loop_op *op, int fd);
int __wrap_loop_close_fd(struct loop *loop, struct loop_op *op, int fd)
{
    if (fails("loop_close_fd", EAGAIN))
        return -errno;
    if (faults.are_closes_refused)
        return -EAGAIN;
    if (!faults.are_closes_slow)
        return __real_loop_close_fd(loop, op, fd);
    assert_true(faults.close_count < FAULTS_CLOSES_MAX);
    op->state = LOOP_PENDING;
    faults.closes[faults.close_count].op = op;
    faults.closes[faults.close_count++].fd = fd;
    return 0;
}

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

int __real_getsockopt(int fd, int level, int option, void *value, socklen_t *bytes);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *bytes);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *bytes)
{
    if (fails("getsockopt", EMFILE))
        return -1;
    if (option == SO_PEERPIDFD && faults.peerpidfd_errno)
        return fail_with(faults.peerpidfd_errno);
    int err = __real_getsockopt(fd, level, option, value, bytes);
    struct ucred *peer = value;
    if (option == SO_PEERCRED)
        peer->uid += faults.uid_shift;
    if (option == SO_PEERCRED && faults.is_peer_hidden)
        peer->pid = 0;
    return err;
}

/* pidfd_open() alone goes through syscall(). */
long __real_syscall(long number, long a, long b);
long __wrap_syscall(long number, long a, long b);
long __wrap_syscall(long number, long a, long b)
{
    if (faults.pidfd_open_errno)
        return fail_with(faults.pidfd_open_errno);
    return fails("syscall", ESRCH) ? -1 : __real_syscall(number, a, b);
}

ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    if (fails("recvmsg", ECONNRESET))
        return -1;
    if (faults.is_flooded) {
        message->msg_flags = 0;
        return 1;
    }
    return __real_recvmsg(fd, message, flags);
}

/* ---- for the tests --------------------------------------------------------------------------- */

int faults_setup(void **state)
{
    memset(&faults, 0, sizeof faults);
    return control_setup(state);
}

void faults_fail(const char *call, unsigned nth, int error)
{
    int free = 0;
    while (free < FAULTS_NAMED_MAX && faults.named[free].calls_left)
        free++;
    assert_true(free < FAULTS_NAMED_MAX);
    faults.named[free].call = call;
    faults.named[free].calls_left = nth;
    faults.named[free].error = error;
}

void faults_until_done(void)
{
    static const uint64_t patience_ns = 30000000000;
    uint64_t end_ns = loop_now_ns() + patience_ns;
    for (int i = 0; i < FAULTS_NAMED_MAX; i++)
        while (faults.named[i].calls_left) {
            if (loop_now_ns() > end_ns)
                fail_msg("%s did not fail", faults.named[i].call);
            faults.is_armed = true;
            rig_turn(&rig);
            faults.is_armed = false;
        }
}

void faults_turn(void)
{
    enum { TURNS = 12, TURN_NS = 500000 };
    int err = 1;
    faults.is_armed = true;
    for (int i = 0; i < TURNS && err == 1; i++)
        err = control_turn(rig.control, TURN_NS);
    faults.is_armed = false;
    /* The signal's, the report's and the tick's operations are what the daemon lives by. */
    if (err != 1 && !(err == -EAGAIN && faults.failed))
        fail_msg("after %s failed the daemon stops: %s", faults.failed ? faults.failed : "nothing",
                 strerror(-err));
}

void faults_end_close(uint32_t index)
{
    struct loop_op *op = faults.closes[index].op;
    assert_true(index < faults.close_count);
    close(faults.closes[index].fd);
    op->state = LOOP_IDLE;
    op->handler(op, 0);
}
