#include "kernels/cpu/pool.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    SPIN_NS = 50 * 1000,     /* after the last stage, how long a helper waits awake for the next */
    PATIENCE_NS = 20 * 1000, /* with a chunk that is late, for who has done none of its stage */
    SPINS_PER_CLOCK = 64,    /* pauses between looks at the clock */
    SPINS_PER_YIELD = 4096,  /* while others are waited for: they may lack a processor */
    STAGES = 512,            /* of a step, and still known to late threads */
    CACHE_LINE_BYTES = 64,
    NS_PER_S = 1000000000,
};

#define NOWHERE UINT64_MAX

/* Where a thread is: the hazards that others look at. */
struct place {
    /* The stage that it is in: it may read the stage's description, and weights and caches. */
    _Atomic uint64_t inside __attribute__((aligned(CACHE_LINE_BYTES)));
    _Atomic uint64_t inputs; /* the stage whose inputs it may read */
};

struct stage {
    pool_work *work;
    pool_work *commit;
    void *job;
    uint32_t chunks;
    uint64_t after;
    bool redo;

    _Atomic uint32_t next __attribute__((aligned(CACHE_LINE_BYTES))); /* nobody has taken it yet */
    _Atomic uint32_t done;
    _Atomic bool is_clear; /* nobody reads any more what the stage writes */
    _Atomic uint64_t claims[POOL_REDO_CHUNKS_MAX / 64]; /* chunks whose results are committed */
    char copy[POOL_JOB_BYTES] __attribute__((aligned(CACHE_LINE_BYTES)));
};

struct helper {
    struct pool *pool;
    pthread_t thread;
    uint32_t number;
};

struct pool {
    _Atomic uint64_t pushed __attribute__((aligned(CACHE_LINE_BYTES)));   /* stages */
    _Atomic uint64_t complete __attribute__((aligned(CACHE_LINE_BYTES))); /* of them, the first */

    _Atomic uint32_t signal __attribute__((aligned(CACHE_LINE_BYTES))); /* futex: helpers */
    _Atomic uint32_t sleepers;
    _Atomic bool stop;
    _Atomic uint64_t redone;

    uint32_t helper_count;
    struct place *places; /* one a thread */
    struct helper *helpers;
    struct stage stages[STAGES]; /* number n is at n % STAGES */
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

/* Waits a moment for another thread, the longer the more willing to make room for it. */
static void wait_a_moment(uint32_t *spins)
{
    if (++*spins % SPINS_PER_YIELD == 0)
        sched_yield();
    else
        spin_pause();
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static struct stage *stage_at(struct pool *pool, uint64_t number)
{
    return &pool->stages[number % STAGES];
}

/* seq_cst, here and in the three that follow: see "Hazards" in docs/design/threads.md. A thread
 * writes where it is and then looks whether the stage is still open; whoever completes a stage
 * writes that and then looks where the threads are. One of the two sees the other. */
static bool is_complete(struct pool *pool, uint64_t number)
{
    return atomic_load_explicit(&pool->complete, memory_order_seq_cst) >= number;
}

/* False: the stage is complete; nothing of it may be touched. */
static bool go_to(struct pool *pool, _Atomic uint64_t *place, uint64_t number)
{
    atomic_store_explicit(place, number, memory_order_seq_cst);
    if (!is_complete(pool, number))
        return true;
    /* release: nothing was read; the same store as at the end. */
    atomic_store_explicit(place, NOWHERE, memory_order_release);
    return false;
}

/* release: pairs with the loads in wait_for_places(); what was read has been read. */
static void leave(_Atomic uint64_t *place)
{
    atomic_store_explicit(place, NOWHERE, memory_order_release);
}

/* Until no thread but `thread` is inside a stage up to `after` or at inputs of stages before
 * `number`. */
static void wait_for_places(struct pool *pool, uint64_t after, uint64_t number, uint32_t thread)
{
    for (uint32_t i = 0; i <= pool->helper_count; i++) {
        uint32_t spins = 0;
        while (i != thread &&
               (atomic_load_explicit(&pool->places[i].inputs, memory_order_seq_cst) < number ||
                atomic_load_explicit(&pool->places[i].inside, memory_order_seq_cst) <= after))
            wait_a_moment(&spins);
    }
}

/* Before the first write of a stage. */
static void wait_until_clear(struct pool *pool, struct stage *stage, uint64_t number,
                             uint32_t thread)
{
    /* acquire: pairs with the release below; whoever was waited for has read before. */
    if (atomic_load_explicit(&stage->is_clear, memory_order_acquire))
        return;
    wait_for_places(pool, stage->after, number, thread);
    atomic_store_explicit(&stage->is_clear, true, memory_order_release);
}

static void tell_chunk_done(struct pool *pool, struct stage *stage, uint64_t number)
{
    /* acq_rel: what each chunk wrote is visible to who does the last, and by the store below to
     * all who see the stage complete. */
    uint32_t done = atomic_fetch_add_explicit(&stage->done, 1, memory_order_acq_rel) + 1;
    if (done == stage->chunks)
        atomic_store_explicit(&pool->complete, number, memory_order_seq_cst);
}

static _Atomic uint64_t *claim_word(struct stage *stage, uint32_t chunk)
{
    return &stage->claims[chunk / 64];
}

static bool is_claimed(struct stage *stage, uint32_t chunk)
{
    /* relaxed: a hint; who acts on it claims, or leaves it. */
    return atomic_load_explicit(claim_word(stage, chunk), memory_order_relaxed) >> chunk % 64 & 1;
}

/* Works on a chunk that others may work on, too, and commits it if nobody did before. */
static void try_chunk(struct pool *pool, struct stage *stage, uint64_t number, uint32_t chunk,
                      uint32_t thread)
{
    struct place *place = &pool->places[thread];
    if (!go_to(pool, &place->inputs, number))
        return;
    stage->work(stage->job, chunk, thread);
    leave(&place->inputs);
    if (is_claimed(stage, chunk))
        return;
    wait_until_clear(pool, stage, number, thread);
    /* relaxed: it decides who writes, and orders nothing; what is written is published by
     * tell_chunk_done(). */
    uint64_t bit = (uint64_t)1 << chunk % 64;
    if (atomic_fetch_or_explicit(claim_word(stage, chunk), bit, memory_order_relaxed) & bit)
        return;
    stage->commit(stage->job, chunk, thread);
    tell_chunk_done(pool, stage, number);
}

static void do_chunk(struct pool *pool, struct stage *stage, uint64_t number, uint32_t chunk,
                     uint32_t thread)
{
    if (stage->redo) {
        try_chunk(pool, stage, number, chunk, thread);
        return;
    }
    wait_until_clear(pool, stage, number, thread);
    stage->work(stage->job, chunk, thread);
    if (stage->commit)
        stage->commit(stage->job, chunk, thread);
    tell_chunk_done(pool, stage, number);
}

/* The first chunk without results from `from` on; chunks: none. */
static uint32_t find_unclaimed(struct stage *stage, uint32_t from)
{
    for (uint32_t i = 0; i < stage->chunks; i++) {
        uint32_t chunk = (from + i) % stage->chunks;
        if (!is_claimed(stage, chunk))
            return chunk;
    }
    return stage->chunks;
}

/* All chunks are taken: waits for their owners, and after a while does theirs. */
static void end_stage(struct pool *pool, struct stage *stage, uint64_t number, uint32_t thread,
                      uint64_t patience_ns)
{
    uint64_t start_ns = clock_ns();
    uint32_t from = stage->chunks * thread / (pool->helper_count + 1), spins = 0;
    while (!is_complete(pool, number)) {
        uint32_t chunk = stage->chunks;
        if (stage->redo && clock_ns() - start_ns > patience_ns)
            chunk = find_unclaimed(stage, from);
        if (chunk == stage->chunks) {
            wait_a_moment(&spins);
            continue;
        }
        try_chunk(pool, stage, number, chunk, thread);
        /* relaxed: a count. */
        atomic_fetch_add_explicit(&pool->redone, 1, memory_order_relaxed);
    }
}

static void work_on(struct pool *pool, uint64_t number, uint32_t thread)
{
    struct place *place = &pool->places[thread];
    if (!go_to(pool, &place->inside, number))
        return;
    struct stage *stage = stage_at(pool, number);
    uint64_t patience_ns = PATIENCE_NS, start_ns = clock_ns();
    for (;;) {
        /* relaxed: it shares out numbers, no more. */
        uint32_t chunk = atomic_fetch_add_explicit(&stage->next, 1, memory_order_relaxed);
        if (chunk >= stage->chunks)
            break;
        do_chunk(pool, stage, number, chunk, thread);
        uint64_t now_ns = clock_ns();
        patience_ns = now_ns - start_ns;
        start_ns = now_ns;
    }
    end_stage(pool, stage, number, thread, patience_ns);
    leave(&place->inside);
}

/* Works until no stage is left. */
static void work_off(struct pool *pool, uint32_t thread)
{
    for (;;) {
        /* acquire: pairs with tell_chunk_done(); what earlier stages wrote is visible. */
        uint64_t complete = atomic_load_explicit(&pool->complete, memory_order_acquire);
        /* acquire: pairs with pool_push(); the stages' descriptions are visible. */
        if (complete == atomic_load_explicit(&pool->pushed, memory_order_acquire))
            return;
        work_on(pool, complete + 1, thread);
    }
}

/* Spins until *word differs from `from` and tells whether it does. */
static bool spin_for_change(const _Atomic uint32_t *word, uint32_t from)
{
    uint64_t start_ns = clock_ns();
    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            /* relaxed: only a hint; whoever acts on it reads the stages again. */
            if (atomic_load_explicit(word, memory_order_relaxed) != from)
                return true;
            spin_pause();
        }
    } while (clock_ns() - start_ns < SPIN_NS);
    return false;
}

static void *helper_main(void *argument)
{
    struct helper *helper = argument;
    struct pool *pool = helper->pool;
    for (;;) {
        /* acquire: pairs with the bump in ring(); read before work is looked for, so that a later
         * stage changes it and the wait below does not begin. */
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

/* Makes room for a stage: the one that was there is complete and left by all. */
static struct stage *take_entry(struct pool *pool, uint64_t number)
{
    if (number > STAGES) {
        if (!is_complete(pool, number - STAGES))
            work_off(pool, 0);
        wait_for_places(pool, number - STAGES, 0, 0);
    }
    return stage_at(pool, number);
}

static void describe(struct stage *entry, const struct pool_stage *stage, void *job,
                     size_t job_bytes)
{
    assert(job_bytes <= sizeof entry->copy);
    if (job_bytes)
        memcpy(entry->copy, job, job_bytes);
    entry->work = stage->work;
    entry->commit = stage->commit;
    entry->job = job_bytes ? entry->copy : job;
    entry->chunks = stage->chunks;
    entry->after = stage->after;
    entry->redo = stage->commit && stage->chunks <= POOL_REDO_CHUNKS_MAX;
    /* relaxed: nobody is here, and pool_push() publishes it. */
    atomic_store_explicit(&entry->next, 0, memory_order_relaxed);
    atomic_store_explicit(&entry->done, 0, memory_order_relaxed);
    atomic_store_explicit(&entry->is_clear, false, memory_order_relaxed);
    for (uint32_t i = 0; entry->redo && i <= (stage->chunks - 1) / 64; i++)
        atomic_store_explicit(&entry->claims[i], 0, memory_order_relaxed);
}

uint64_t pool_push(struct pool *pool, const struct pool_stage *stage, void *job, size_t job_bytes)
{
    /* relaxed: the caller's own count. */
    uint64_t number = atomic_load_explicit(&pool->pushed, memory_order_relaxed) + 1;
    if (!stage->chunks)
        return number - 1;
    describe(take_entry(pool, number), stage, job, job_bytes);
    bool is_first = is_complete(pool, number - 1);
    /* release: pairs with the acquire in work_off(). */
    atomic_store_explicit(&pool->pushed, number, memory_order_release);
    /* What one thread does at once is not worth waking the others. */
    if (!pool->helper_count || (is_first && stage->chunks == 1))
        work_off(pool, 0);
    else
        ring(pool, pool->helper_count < stage->chunks ? pool->helper_count : stage->chunks);
    return number;
}

void pool_wait(struct pool *pool)
{
    work_off(pool, 0);
    wait_for_places(pool, 0, NOWHERE, 0);
}

void pool_drain(struct pool *pool)
{
    work_off(pool, 0);
    wait_for_places(pool, NOWHERE - 1, NOWHERE, 0);
}

void pool_run(struct pool *pool, pool_work *work, void *job, uint32_t chunks)
{
    pool_push(pool, &(struct pool_stage){.work = work, .chunks = chunks}, job, 0);
    pool_drain(pool);
}

void pool_inputs_read(struct pool *pool, uint32_t thread)
{
    leave(&pool->places[thread].inputs);
}

uint64_t pool_number(const struct pool *pool, uint32_t thread)
{
    /* relaxed: the thread's own. */
    return atomic_load_explicit(&pool->places[thread].inside, memory_order_relaxed);
}

uint64_t pool_redone_chunks(const struct pool *pool)
{
    /* relaxed: a count. */
    return atomic_load_explicit(&pool->redone, memory_order_relaxed);
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

static int start_helper(struct helper *helper, const uint32_t *processor)
{
    int err = pthread_create(&helper->thread, NULL, helper_main, helper);
    if (err)
        return err;
    helper->pool->helper_count = helper->number;
    pthread_setname_np(helper->thread, "agl-cpu");
    if (!processor)
        return 0;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(*processor, &set);
    return pthread_setaffinity_np(helper->thread, sizeof set, &set);
}

/* Signals are for the thread that asks for them: the helpers take none. */
static int start_helpers(struct pool *pool, uint32_t count, const uint32_t *processors,
                         uint32_t processor_count)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = 0;
    for (uint32_t i = 0; i < count && !err; i++) {
        struct helper *helper = &pool->helpers[i];
        helper->pool = pool;
        helper->number = i + 1;
        err = start_helper(helper, processor_count ? &processors[(i + 1) % processor_count] : NULL);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -err;
}

/* One piece: the pool, its places, its helpers. */
static struct pool *allocate(uint32_t threads)
{
    size_t bytes = sizeof(struct pool) + threads * (sizeof(struct place) + sizeof(struct helper));
    bytes = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    struct pool *pool = aligned_alloc(CACHE_LINE_BYTES, bytes);
    if (!pool)
        return NULL;
    memset(pool, 0, bytes);
    pool->places = (struct place *)(pool + 1);
    pool->helpers = (struct helper *)(pool->places + threads);
    for (uint32_t i = 0; i < threads; i++) {
        atomic_init(&pool->places[i].inside, NOWHERE);
        atomic_init(&pool->places[i].inputs, NOWHERE);
    }
    return pool;
}

int pool_open(struct pool **ret_pool, uint32_t threads, const uint32_t *processors,
              uint32_t processor_count)
{
    if (threads < 1 || threads > POOL_THREADS_MAX)
        return -EINVAL;
    struct pool *pool = allocate(threads);
    if (!pool)
        return -ENOMEM;
    int err = start_helpers(pool, threads - 1, processors, processor_count);
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
