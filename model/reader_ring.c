#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <time.h>

#include "model/reader_plan.h"

enum { REFUSALS_MAX = 1000 };

struct ring_run {
    struct io_uring ring;
    struct reader_plan *plan;
    struct reader_stats *stats;
    struct reader_fault *fault;
    struct reader_block **waiting; /* [depth] blocks to be read again */
    uint32_t waiting_count;
    size_t next;        /* block that was not yet begun */
    uint32_t prepared;  /* entries that the kernel has not yet taken */
    uint32_t in_flight; /* taken, not yet completed */
    uint32_t depth;
    uint64_t done_bytes;
    uint32_t refusals; /* of the kernel to take entries for now, one after the other */
    int err;
};

/* Opens the ring for this thread alone, which saves interrupts where the kernel knows how. */
static int open_ring(struct io_uring *ring, uint32_t depth)
{
    int err =
        io_uring_queue_init(depth, ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (err == -EINVAL)
        err = io_uring_queue_init(depth, ring, 0);
    return err;
}

static void prepare(struct ring_run *run, struct reader_block *block)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&run->ring);
    if (!entry) { /* cannot be: the ring has `depth` entries */
        run->err = -EIO;
        return;
    }
    io_uring_prep_read(entry, reader_block_fd(run->plan, block), block->destination, block->bytes,
                       block->offset);
    io_uring_sqe_set_data(entry, block);
    run->prepared++;
    run->stats->requests++;
}

/* Fills the ring: first what must be read again, then what was not begun. */
static void prepare_all(struct ring_run *run)
{
    while (run->err == 0 && run->prepared + run->in_flight < run->depth) {
        if (run->waiting_count > 0)
            prepare(run, run->waiting[--run->waiting_count]);
        else if (run->next < run->plan->block_count)
            prepare(run, &run->plan->blocks[run->next++]);
        else
            break;
    }
}

static void complete(struct ring_run *run, struct reader_block *block, int result)
{
    uint32_t required = block->required;
    bool direct = block->direct;
    int state = reader_settle(block, result, run->fault);
    if (state < 0 && run->err == 0)
        run->err = state;
    if (result > 0) {
        uint64_t got = (uint32_t)result < required ? (uint32_t)result : required;
        run->done_bytes += got;
        run->stats->direct_bytes += direct ? got : 0;
    }
    if (state == 0) {
        run->waiting[run->waiting_count++] = block;
        run->stats->retries++;
    }
}

static void reap(struct ring_run *run)
{
    struct io_uring_cqe *completion;
    while (run->in_flight > 0 && io_uring_peek_cqe(&run->ring, &completion) == 0) {
        struct reader_block *block = io_uring_cqe_get_data(completion);
        int result = completion->res;
        io_uring_cqe_seen(&run->ring, completion);
        run->in_flight--;
        complete(run, block, result);
    }
}

/* Gives the kernel what is prepared and waits for a completion. */
static void submit(struct ring_run *run)
{
    int taken = io_uring_submit_and_wait(&run->ring, 1);
    if (taken >= 0) {
        run->refusals = 0;
        run->prepared -= (uint32_t)taken;
        run->in_flight += (uint32_t)taken;
        return;
    }
    /* Interrupted, or short of memory: that passes, the sooner the more is in flight. */
    bool passing = taken == -EINTR || taken == -EAGAIN || taken == -EBUSY;
    if (!passing || run->refusals++ == REFUSALS_MAX)
        run->err = taken;
    else if (run->in_flight == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* After a failure the kernel may still be writing into the caller's memory: wait it out. */
static void drain(struct ring_run *run)
{
    while (run->in_flight > 0) {
        struct io_uring_cqe *completion;
        if (io_uring_wait_cqe(&run->ring, &completion) < 0)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        reap(run);
    }
}

static void run_all(struct ring_run *run)
{
    uint64_t reported = 0;
    for (;;) {
        if (run->err == 0 && reader_cancelled(run->plan))
            run->err = -ECANCELED;
        prepare_all(run);
        if (run->err < 0 || run->prepared + run->in_flight == 0)
            break;
        submit(run);
        reap(run);
        if (run->done_bytes != reported)
            reader_progress(run->plan, reported = run->done_bytes);
    }
    drain(run);
}

int reader_ring(struct reader_plan *plan, struct reader_stats *stats, struct reader_fault *fault)
{
    struct ring_run run = {
        .plan = plan, .stats = stats, .fault = fault, .depth = plan->options->depth};
    run.waiting = malloc(run.depth * sizeof(struct reader_block *));
    if (!run.waiting)
        return -ENOMEM;
    int err = open_ring(&run.ring, run.depth);
    if (err < 0) {
        free(run.waiting);
        return -ENOSYS;
    }
    run_all(&run);
    io_uring_queue_exit(&run.ring);
    free(run.waiting);
    stats->bytes = run.done_bytes;
    return run.err;
}
