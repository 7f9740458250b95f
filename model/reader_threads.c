#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "model/reader_plan.h"

enum { THREADS_MAX = 16 };

/* What the threads share. */
struct thread_run {
    struct reader_plan *plan;
    atomic_size_t next;
    _Atomic uint64_t done_bytes, direct_bytes, requests, retries;
    atomic_bool stop;
    pthread_mutex_t mutex; /* err and fault: the first failure stays */
    int err;
    struct reader_fault fault;
};

static void fail(struct thread_run *run, int err, const struct reader_fault *fault)
{
    pthread_mutex_lock(&run->mutex);
    if (run->err == 0) {
        run->err = err;
        run->fault = *fault;
    }
    pthread_mutex_unlock(&run->mutex);
    atomic_store(&run->stop, true);
}

static void read_block(struct thread_run *run, struct reader_block *block)
{
    struct reader_fault fault = {0};
    int state = 0;
    while (state == 0) {
        uint32_t required = block->required;
        bool direct = block->direct;
        ssize_t got = pread(reader_block_fd(run->plan, block), block->destination, block->bytes,
                            (off_t)block->offset);
        state = reader_settle(block, got < 0 ? -errno : got, &fault);
        atomic_fetch_add(&run->requests, 1);
        if (state == 0)
            atomic_fetch_add(&run->retries, 1);
        if (got > 0) {
            uint64_t counted = (uint64_t)got < required ? (uint64_t)got : required;
            atomic_fetch_add(&run->done_bytes, counted);
            atomic_fetch_add(&run->direct_bytes, direct ? counted : 0);
        }
    }
    if (state < 0)
        fail(run, state, &fault);
}

/* Reads blocks until none is left. The caller's thread reports. */
static void work(struct thread_run *run, bool report)
{
    while (!atomic_load(&run->stop)) {
        size_t index = atomic_fetch_add(&run->next, 1);
        if (index >= run->plan->block_count)
            break;
        if (reader_cancelled(run->plan)) {
            fail(run, -ECANCELED, &(struct reader_fault){0});
            break;
        }
        read_block(run, &run->plan->blocks[index]);
        if (report)
            reader_progress(run->plan, atomic_load(&run->done_bytes));
    }
}

static void *thread_main(void *argument)
{
    work(argument, false);
    return NULL;
}

int reader_threads(struct reader_plan *plan, uint32_t threads, struct reader_stats *stats,
                   struct reader_fault *fault)
{
    struct thread_run run = {.plan = plan, .mutex = PTHREAD_MUTEX_INITIALIZER};
    pthread_t handles[THREADS_MAX];
    uint32_t started = 0;
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    if (threads > plan->block_count)
        threads = (uint32_t)plan->block_count;
    /* If no thread can be had, this one reads alone. */
    while (started < threads && pthread_create(&handles[started], NULL, thread_main, &run) == 0)
        started++;
    work(&run, true);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(handles[i], NULL);
    pthread_mutex_destroy(&run.mutex);

    stats->bytes = atomic_load(&run.done_bytes);
    stats->direct_bytes = atomic_load(&run.direct_bytes);
    stats->requests = atomic_load(&run.requests);
    stats->retries = atomic_load(&run.retries);
    if (run.err == 0)
        reader_progress(plan, stats->bytes);
    else
        *fault = run.fault;
    return run.err;
}
