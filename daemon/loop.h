/*
 * The event loop of the control thread, on io_uring.
 *
 * An operation lives in its owner's memory (struct loop_op, zeroed before its first use) and must
 * stay there, with every buffer given to it and its descriptor open, while loop_op_active(): the
 * kernel may still write. loop_cancel() asks for an early end; the handler then is called once more
 * with what really came of it - the result, if it was faster than the cancellation. So one who ends
 * cancels, and frees when no operation is active any more.
 *
 * One thread opens, turns and closes a loop; handlers run in it and may start and cancel whatever
 * they like.
 */
#ifndef AGL_DAEMON_LOOP_H
#define AGL_DAEMON_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "model/failure.h"

struct loop;
struct loop_op;

/* `result` is 0, a count, an event mask or a descriptor on success, else a negative errno. */
typedef void loop_handler(struct loop_op *op, int result);

enum loop_state { LOOP_IDLE = 0, LOOP_PENDING, LOOP_UNWANTED, LOOP_CANCELLED };

struct loop_op {
    loop_handler *handler;
    void *owner; /* for the handler */
    uint8_t kind;
    uint8_t state; /* enum loop_state */
    int fd;
    uint32_t events;      /* loop_poll() */
    int64_t deadline[2];  /* loop_timer(): seconds and nanoseconds, as the kernel reads them */
    struct loop_op *next; /* of those whose cancellation could not be sent yet */
};

/* Whether the handler will be called (again). */
static inline bool loop_op_active(const struct loop_op *op)
{
    return op->state != LOOP_IDLE;
}

/* -ENOSYS, -EPERM: this kernel or its administrator offers no io_uring; *failure says what to do.
 */
int loop_open(struct loop **ret_loop, struct failure *failure);

/* No operation may be active, save loop_close_fd(). NULL does nothing. */
void loop_close(struct loop *loop);

/* Each of these starts an inactive operation; -EAGAIN: the kernel takes no more just now.
 *
 * Accepts connections until cancelled or failed; the result is a new descriptor (close-on-exec). */
int loop_accept(struct loop *loop, struct loop_op *op, int fd);
/* Waits for any of the events once; POLLERR and POLLHUP are always among them. */
int loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events);
/* -ETIME at that time of CLOCK_MONOTONIC. */
int loop_timer(struct loop *loop, struct loop_op *op, uint64_t deadline_ns);

/* Closes a descriptor in a thread of the kernel's: closing what a stranger made may take as long as
 * he likes (a socket that lingers, a file of his own file system). Waits a moment until the number
 * is free, so that nobody copies it with the table. Not to be cancelled, and the only operation
 * that may be active at loop_close(). -EOPNOTSUPP: it is an io_uring, which that
 * operation does not close; close(2) does, at once. */
int loop_close_fd(struct loop *loop, struct loop_op *op, int fd);

/* Asks for the end of an operation; nothing to do if it is not active. */
void loop_cancel(struct loop *loop, struct loop_op *op);

/* Calls the handlers of what has happened; waits for something for at most wait_ns (UINT64_MAX:
 * for ever). The number of handlers called, or a negative errno: the loop is of no use then. */
int loop_turn(struct loop *loop, uint64_t wait_ns);

/* CLOCK_MONOTONIC. */
uint64_t loop_now_ns(void);

#endif
