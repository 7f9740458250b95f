#include "daemon/loop.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* CLOSERS_MAX: so many closes may stand still before another one waits for them. */
enum { RING_ENTRIES = 256, BATCH = 64, CLOSERS_MAX = 256 };

enum op_kind { OP_ACCEPT = 1, OP_ACCEPT_ONCE, OP_POLL, OP_TIMER, OP_CLOSE };

static_assert(sizeof(((struct loop_op *)0)->deadline) == sizeof(struct __kernel_timespec),
              "the kernel reads it in place");

struct loop {
    struct io_uring ring;
    uint32_t active_ops;
    bool accept_is_once;      /* this kernel knows no multishot accept (before 5.19) */
    struct loop_op *unwanted; /* to be cancelled when the kernel takes requests again */
};

uint64_t loop_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int explain(int err, struct failure *failure)
{
    if (err == -ENOSYS)
        return failure_set(failure, err,
                           "io_uring is not in this kernel: Linux 5.15 or later is needed, built "
                           "with CONFIG_IO_URING");
    if (err == -EPERM || err == -EACCES)
        return failure_set(failure, err,
                           "io_uring is not permitted: set kernel.io_uring_disabled=0 "
                           "(/proc/sys/kernel/io_uring_disabled), or allow io_uring_setup, "
                           "io_uring_enter and io_uring_register in the container's seccomp "
                           "profile");
    if (err == -ENOMEM)
        return failure_set(failure, err,
                           "io_uring: no memory; kernels before 5.12 charge it to RLIMIT_MEMLOCK");
    return failure_set(failure, err, "io_uring: %s", strerror(-err));
}

int loop_open(struct loop **ret_loop, struct failure *failure)
{
    /* The first set saves interrupts and locks where the kernel knows it (6.1). */
    static const unsigned flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0};
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return failure_set(failure, -ENOMEM, "event loop: out of memory");
    int err = -EINVAL;
    for (int i = 0; i < 2 && err == -EINVAL; i++)
        err = io_uring_queue_init(RING_ENTRIES, &loop->ring, flags[i]);
    if (err < 0) {
        free(loop);
        return explain(err, failure);
    }
    /* Before Linux 5.15 it cannot be set; the kernel's own choice is a handful. */
    (void)io_uring_register_iowq_max_workers(&loop->ring, (unsigned[]){CLOSERS_MAX, 0});
    *ret_loop = loop;
    return 0;
}

void loop_close(struct loop *loop)
{
    if (!loop)
        return;
    assert(loop->active_ops == 0); /* the kernel could still write into somebody's memory */
    io_uring_queue_exit(&loop->ring);
    free(loop);
}

static struct io_uring_sqe *next_entry(struct loop *loop)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&loop->ring);
    if (!entry && io_uring_submit(&loop->ring) >= 0)
        entry = io_uring_get_sqe(&loop->ring);
    return entry;
}

static void prepare(struct io_uring_sqe *entry, struct loop_op *op)
{
    switch ((enum op_kind)op->kind) {
    case OP_ACCEPT:
        io_uring_prep_multishot_accept(entry, op->fd, NULL, NULL, SOCK_CLOEXEC);
        break;
    case OP_ACCEPT_ONCE:
        io_uring_prep_accept(entry, op->fd, NULL, NULL, SOCK_CLOEXEC);
        break;
    case OP_POLL:
        io_uring_prep_poll_add(entry, op->fd, op->events);
        break;
    case OP_TIMER:
        io_uring_prep_timeout(entry, (struct __kernel_timespec *)op->deadline, 0,
                              IORING_TIMEOUT_ABS);
        break;
    case OP_CLOSE:
        io_uring_prep_close(entry, op->fd);
        io_uring_sqe_set_flags(entry, IOSQE_ASYNC);
        break;
    }
    io_uring_sqe_set_data(entry, op);
}

static int start(struct loop *loop, struct loop_op *op, enum op_kind kind)
{
    assert(op->state == LOOP_IDLE && op->handler);
    struct io_uring_sqe *entry = next_entry(loop);
    if (!entry)
        return -EAGAIN;
    op->kind = (uint8_t)kind;
    op->state = LOOP_PENDING;
    prepare(entry, op);
    loop->active_ops += kind != OP_CLOSE; /* that one leaves our memory alone */
    return 0;
}

int loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
    op->fd = fd;
    return start(loop, op, loop->accept_is_once ? OP_ACCEPT_ONCE : OP_ACCEPT);
}

int loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    op->fd = fd;
    op->events = events;
    return start(loop, op, OP_POLL);
}

int loop_timer(struct loop *loop, struct loop_op *op, uint64_t deadline_ns)
{
    op->deadline[0] = (int64_t)(deadline_ns / 1000000000u);
    op->deadline[1] = (int64_t)(deadline_ns % 1000000000u);
    return start(loop, op, OP_TIMER);
}

static bool is_ring(int fd)
{
    static const char ring[] = "anon_inode:[io_uring]";
    char path[32], target[sizeof ring];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, target, sizeof target);
    return length == sizeof ring - 1 && memcmp(target, ring, sizeof ring - 1) == 0;
}

/* The closing thread takes the number away first and then waits, if it must. */
static void wait_until_free(int fd)
{
    enum { LOOKS = 200, LOOK_NS = 100000 };
    for (int i = 0; i < LOOKS && fcntl(fd, F_GETFD) >= 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
}

int loop_close_fd(struct loop *loop, struct loop_op *op, int fd)
{
    /* Known beforehand: the operation's error may be the file's own, which its owner chooses, and
     * by then the number may be that of another file. */
    if (is_ring(fd))
        return -EOPNOTSUPP;
    op->fd = fd;
    int err = start(loop, op, OP_CLOSE);
    if (err == 0 && io_uring_submit(&loop->ring) >= 0)
        wait_until_free(fd);
    return err;
}

static bool send_cancel(struct loop *loop, struct loop_op *op)
{
    struct io_uring_sqe *entry = next_entry(loop);
    if (!entry)
        return false;
    io_uring_prep_cancel(entry, op, 0);
    io_uring_sqe_set_data(entry, NULL);
    op->state = LOOP_CANCELLED;
    return true;
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
    if (op->state != LOOP_PENDING || send_cancel(loop, op))
        return;
    op->state = LOOP_UNWANTED;
    op->next = loop->unwanted;
    loop->unwanted = op;
}

static void send_waiting_cancels(struct loop *loop)
{
    while (loop->unwanted) {
        struct loop_op *op = loop->unwanted;
        if (!send_cancel(loop, op))
            return;
        loop->unwanted = op->next;
    }
}

static void forget_unwanted(struct loop *loop, const struct loop_op *op)
{
    struct loop_op **at = &loop->unwanted;
    while (*at && *at != op)
        at = &(*at)->next;
    if (*at)
        *at = op->next;
}

/* Accepting goes on until it fails or is cancelled, whatever way of it this kernel knows. */
static void keep_accepting(struct loop *loop, struct loop_op *op, int result)
{
    if (op->kind == OP_ACCEPT && result == -EINVAL)
        loop->accept_is_once = true;
    else if ((op->kind != OP_ACCEPT && op->kind != OP_ACCEPT_ONCE) || result < 0)
        return;
    loop_accept(loop, op, op->fd);
}

static int dispatch(struct loop *loop, struct loop_op *op, int result, bool is_last)
{
    if (is_last) {
        bool was_wanted = op->state == LOOP_PENDING;
        if (op->state == LOOP_UNWANTED)
            forget_unwanted(loop, op);
        op->state = LOOP_IDLE;
        loop->active_ops -= op->kind != OP_CLOSE;
        if (was_wanted)
            keep_accepting(loop, op, result);
        if (loop_op_active(op) && result < 0)
            return 0; /* it was the way that failed, and another one is tried */
    }
    op->handler(op, result);
    return 1;
}

static int dispatch_ready(struct loop *loop)
{
    struct io_uring_cqe *ready[BATCH];
    int called = 0;
    unsigned count = io_uring_peek_batch_cqe(&loop->ring, ready, BATCH);
    for (unsigned i = 0; i < count; i++) {
        struct loop_op *op = io_uring_cqe_get_data(ready[i]);
        int result = ready[i]->res;
        bool is_last = !(ready[i]->flags & IORING_CQE_F_MORE);
        if (op)
            called += dispatch(loop, op, result, is_last);
    }
    io_uring_cq_advance(&loop->ring, count);
    return called;
}

int loop_turn(struct loop *loop, uint64_t wait_ns)
{
    struct __kernel_timespec wait = {.tv_sec = (int64_t)(wait_ns / 1000000000u),
                                     .tv_nsec = (int64_t)(wait_ns % 1000000000u)};
    struct io_uring_cqe *first;
    send_waiting_cancels(loop);
    int err = io_uring_submit_and_wait_timeout(&loop->ring, &first, 1,
                                               wait_ns == UINT64_MAX ? NULL : &wait, NULL);
    if (err < 0 && err != -ETIME && err != -EINTR && err != -EAGAIN && err != -EBUSY)
        return err;
    return dispatch_ready(loop);
}
