#include "kernels/cpu/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    SPIN_NS = 100 * 1000, /* after a loop, how long a helper waits awake for the next */
    SPINS_PER_CLOCK = 64, /* pauses between looks at the clock */
    CACHE_LINE_BYTES = 64,
    NS_PER_S = 1000000000,
};

struct helper {
    struct pool *pool;
    pthread_t thread;
    uint32_t number;
};

struct pool {
    /* Which loop it is (upper half) and how many of its chunks nobody has taken (lower half), in
     * one word: taking one with compare-and-swap proves that the loop is still the one whose work
     * was read. */
    _Atomic uint64_t ticket __attribute__((aligned(CACHE_LINE_BYTES)));
    _Atomic(pool_work *) work;
    _Atomic(void *) job;
    _Atomic uint32_t chunks;

    _Atomic uint32_t done_chunks __attribute__((aligned(CACHE_LINE_BYTES))); /* futex: the caller */
    _Atomic uint32_t caller_sleeps;

    _Atomic uint32_t signal __attribute__((aligned(CACHE_LINE_BYTES))); /* futex: helpers */
    _Atomic uint32_t sleepers;
    _Atomic bool stop;

    uint32_t loop; /* the caller's own count of loops */
    uint32_t helper_count;
    struct helper helpers[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Spins until *word differs from `from` and tells whether it does. */
static bool spin_for_change(const _Atomic uint32_t *word, uint32_t from)
{
    uint64_t start_ns = clock_ns();
    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            /* relaxed: only a hint; whoever acts on it reads the ticket or the count again. */
            if (atomic_load_explicit(word, memory_order_relaxed) != from)
                return true;
            spin_pause();
        }
    } while (clock_ns() - start_ns < SPIN_NS);
    return false;
}

static void tell_chunk_done(struct pool *pool, uint32_t chunks)
{
    /* seq_cst: pairs with wait_for_end(). As release it publishes what the chunk wrote; the total
     * order with caller_sleeps means that either we see the sleeper or it sees our count. */
    uint32_t done = atomic_fetch_add_explicit(&pool->done_chunks, 1, memory_order_seq_cst) + 1;
    if (done == chunks && atomic_load_explicit(&pool->caller_sleeps, memory_order_seq_cst))
        futex_wake(&pool->done_chunks, 1);
}

/* Takes chunks of the current loop until none is left. */
static void work_off(struct pool *pool, uint32_t thread)
{
    for (;;) {
        /* acquire: pairs with the release in publish(); work, job and chunks were written before.
         */
        uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
        /* acquire: pairs with the releases in publish(). Should these be of a later loop already,
         * then this one's last chunk was taken before, which is visible too, and the exchange below
         * fails. */
        pool_work *work = atomic_load_explicit(&pool->work, memory_order_acquire);
        void *job = atomic_load_explicit(&pool->job, memory_order_acquire);
        uint32_t chunks = atomic_load_explicit(&pool->chunks, memory_order_acquire);
        uint32_t left = (uint32_t)ticket;
        if (!left)
            return;
        /* acq_rel: as release it keeps the loads above before it. */
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - 1,
                                                   memory_order_acq_rel, memory_order_relaxed))
            continue;
        work(job, chunks - left, thread);
        tell_chunk_done(pool, chunks);
    }
}

static void *helper_main(void *argument)
{
    struct helper *helper = argument;
    struct pool *pool = helper->pool;
    for (;;) {
        /* acquire: pairs with the bump in publish(); read before the work is looked for, so that a
         * later loop changes it and the wait below does not begin. */
        uint32_t seen = atomic_load_explicit(&pool->signal, memory_order_acquire);
        /* relaxed: pool_close() bumps the signal after setting it. */
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        work_off(pool, helper->number);
        if (spin_for_change(&pool->signal, seen))
            continue;
        /* seq_cst: pairs with ring(): either it sees the sleeper, or the kernel sees its signal. */
        atomic_fetch_add_explicit(&pool->sleepers, 1, memory_order_seq_cst);
        if (atomic_load_explicit(&pool->signal, memory_order_seq_cst) == seen)
            futex_wait(&pool->signal, seen);
        /* relaxed: a wake-up too many does no harm. */
        atomic_fetch_sub_explicit(&pool->sleepers, 1, memory_order_relaxed);
    }
}

static void ring(struct pool *pool, uint32_t wanted)
{
    /* seq_cst: pairs with helper_main(). */
    atomic_fetch_add_explicit(&pool->signal, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&pool->sleepers, memory_order_seq_cst))
        futex_wake(&pool->signal, wanted);
}

static void publish(struct pool *pool, pool_work *work, void *job, uint32_t chunks)
{
    /* relaxed: the last loop is over, nobody else counts; the release below publishes it. */
    atomic_store_explicit(&pool->done_chunks, 0, memory_order_relaxed);
    /* release: a helper that still looks at the last loop and sees one of these sees its end too.
     */
    atomic_store_explicit(&pool->chunks, chunks, memory_order_release);
    atomic_store_explicit(&pool->work, work, memory_order_release);
    atomic_store_explicit(&pool->job, job, memory_order_release);
    pool->loop++;
    /* release: pairs with the acquire in work_off(); the loop's description was written before. */
    atomic_store_explicit(&pool->ticket, (uint64_t)pool->loop << 32 | chunks, memory_order_release);
    ring(pool, pool->helper_count < chunks - 1 ? pool->helper_count : chunks - 1);
}

static void wait_for_end(struct pool *pool, uint32_t chunks)
{
    for (;;) {
        /* acquire: pairs with tell_chunk_done(); what the chunks wrote is visible. */
        uint32_t done = atomic_load_explicit(&pool->done_chunks, memory_order_acquire);
        if (done == chunks)
            return;
        if (spin_for_change(&pool->done_chunks, done))
            continue;
        /* seq_cst: pairs with tell_chunk_done(). */
        atomic_store_explicit(&pool->caller_sleeps, 1, memory_order_seq_cst);
        done = atomic_load_explicit(&pool->done_chunks, memory_order_seq_cst);
        if (done != chunks)
            futex_wait(&pool->done_chunks, done);
        /* relaxed: a wake-up too many does no harm. */
        atomic_store_explicit(&pool->caller_sleeps, 0, memory_order_relaxed);
    }
}

void pool_run(struct pool *pool, pool_work *work, void *job, uint32_t chunks)
{
    if (!pool->helper_count || chunks <= 1) {
        for (uint32_t chunk = 0; chunk < chunks; chunk++)
            work(job, chunk, 0);
        return;
    }
    publish(pool, work, job, chunks);
    work_off(pool, 0);
    wait_for_end(pool, chunks);
}

uint32_t pool_threads(const struct pool *pool)
{
    return pool->helper_count + 1;
}

static void stop_helpers(struct pool *pool)
{
    /* relaxed: published by the signal's bump in ring(). */
    atomic_store_explicit(&pool->stop, true, memory_order_relaxed);
    ring(pool, INT_MAX);
    for (uint32_t i = 0; i < pool->helper_count; i++)
        pthread_join(pool->helpers[i].thread, NULL);
}

/* Signals are for the thread that asks for them: the helpers take none. */
static int start_helpers(struct pool *pool, uint32_t count)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = 0;
    for (uint32_t i = 0; i < count && !err; i++) {
        struct helper *helper = &pool->helpers[i];
        helper->pool = pool;
        helper->number = i + 1;
        err = pthread_create(&helper->thread, NULL, helper_main, helper);
        if (!err) {
            pool->helper_count = i + 1;
            pthread_setname_np(helper->thread, "agl-cpu");
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -err;
}

int pool_open(struct pool **ret_pool, uint32_t threads)
{
    if (threads < 1 || threads > POOL_THREADS_MAX)
        return -EINVAL;
    size_t bytes = sizeof(struct pool) + (threads - 1) * sizeof(struct helper);
    bytes = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    struct pool *pool = aligned_alloc(CACHE_LINE_BYTES, bytes);
    if (!pool)
        return -ENOMEM;
    *pool = (struct pool){0};
    int err = start_helpers(pool, threads - 1);
    if (err < 0) {
        stop_helpers(pool);
        free(pool);
        return err;
    }
    *ret_pool = pool;
    return 0;
}

void pool_close(struct pool *pool)
{
    if (!pool)
        return;
    stop_helpers(pool);
    free(pool);
}
