#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/pool.h"
#include "tests/support/test.h"

/* pthread_create() fails at this call, counted from 1; 0: never. */
static int failing_create;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument)
{
    if (failing_create && --failing_create == 0)
        return EAGAIN;
    return __real_pthread_create(thread, attributes, start, argument);
}

enum { CHUNKS_MAX = 300, THREADS_MAX = 4 };

struct counting {
    uint32_t runs[CHUNKS_MAX]; /* not atomic: two runs of one chunk would be a data race */
    uint32_t threads;
    _Atomic uint32_t in_use[THREADS_MAX];
    _Atomic uint32_t wrong;
    uint32_t slow_chunk;
    uint32_t slow_us;
};

static void count_chunk(void *job, uint32_t chunk, uint32_t thread)
{
    struct counting *counting = job;
    if (thread >= counting->threads || atomic_fetch_add(&counting->in_use[thread], 1) != 0)
        atomic_fetch_add(&counting->wrong, 1);
    counting->runs[chunk]++;
    if (counting->slow_us && chunk == counting->slow_chunk)
        usleep(counting->slow_us);
    atomic_fetch_sub(&counting->in_use[thread], 1);
}

static void run_and_check(struct pool *pool, struct counting *counting, uint32_t chunks)
{
    memset(counting->runs, 0, sizeof counting->runs);
    pool_run(pool, count_chunk, counting, chunks);
    for (uint32_t i = 0; i < CHUNKS_MAX; i++)
        assert_int_equal(counting->runs[i], i < chunks);
    assert_int_equal(atomic_load(&counting->wrong), 0);
}

static void every_chunk_runs_once_whatever_the_threads(void **state)
{
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        struct pool *pool;
        assert_int_equal(pool_open(&pool, threads, NULL, 0), 0);
        assert_int_equal(pool_threads(pool), threads);
        struct counting counting = {.threads = threads};
        for (int round = 0; round < 300; round++)
            run_and_check(pool, &counting, (uint32_t)(round * 7 % CHUNKS_MAX));
        pool_close(pool);
    }
}

static void loops_follow_each_other_after_pauses_of_any_length(void **state)
{
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 3, NULL, 0), 0);
    struct counting counting = {.threads = 3};
    /* Around the helpers' 50 us of spinning: awake, falling asleep, asleep. */
    for (uint32_t pause_us = 0; pause_us < 400; pause_us += 4) {
        usleep(pause_us);
        run_and_check(pool, &counting, 5);
    }
    pool_close(pool);
}

static void a_slow_chunk_is_waited_for(void **state)
{
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 2, NULL, 0), 0);
    struct counting counting = {.threads = 2, .slow_us = 3000};
    for (uint32_t chunk = 0; chunk < 6; chunk++) {
        counting.slow_chunk = chunk;
        run_and_check(pool, &counting, 6);
    }
    pool_close(pool);
}

struct meeting {
    _Atomic uint32_t present;
    _Atomic uint32_t seen[2];
};

/* Ends only when the other chunk runs at the same time (or after some seconds). */
static void meet(void *job, uint32_t chunk, uint32_t thread)
{
    struct meeting *meeting = job;
    atomic_fetch_add(&meeting->present, 1);
    time_t start = time(NULL);
    while (atomic_load(&meeting->present) < 2 && time(NULL) < start + 3)
        sched_yield();
    atomic_store(&meeting->seen[chunk], atomic_load(&meeting->present));
}

static void helpers_work_beside_the_caller(void **state)
{
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 2, NULL, 0), 0);
    for (int round = 0; round < 20; round++) {
        struct meeting meeting = {0};
        usleep(round % 2 ? 500 : 0);
        pool_run(pool, meet, &meeting, 2);
        assert_int_equal(meeting.seen[0], 2);
        assert_int_equal(meeting.seen[1], 2);
    }
    pool_close(pool);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void stay_busy(uint64_t ns)
{
    uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
    while (clock_ns(CLOCK_MONOTONIC) - start_ns < ns)
        ;
}

struct late_meeting {
    struct meeting meeting;
    uint64_t linger_ns;
};

/* The helper's chunk ends later than the caller's: about when the caller falls asleep. */
static void meet_and_linger(void *job, uint32_t chunk, uint32_t thread)
{
    struct late_meeting *late = job;
    meet(&late->meeting, chunk, thread);
    if (thread)
        stay_busy(late->linger_ns);
}

static void no_wake_up_is_lost_at_the_moment_of_falling_asleep(void **state)
{
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 2, NULL, 0), 0);
    /* Spinning ends after 50 us, give or take a look at the clock. */
    for (uint64_t round = 0; round < 3000; round++) {
        struct late_meeting late = {.linger_ns = 46000 + round % 150 * 100};
        stay_busy(47000 + round % 137 * 100);
        pool_run(pool, meet_and_linger, &late, 2);
        assert_int_equal(late.meeting.seen[0], 2);
        assert_int_equal(late.meeting.seen[1], 2);
    }
    pool_close(pool);
}

static void an_idle_pool_uses_no_processor_time(void **state)
{
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 4, NULL, 0), 0);
    struct counting counting = {.threads = 4};
    run_and_check(pool, &counting, 100);
    usleep(100 * 1000); /* time to fall asleep */
    uint64_t before_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    usleep(200 * 1000);
    assert_true(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - before_ns < 1000 * 1000); /* half a percent */
    pool_close(pool);
}

static void a_thread_that_cannot_be_had_is_an_error_and_leaves_nothing(void **state)
{
    for (int nth = 1; nth <= 3; nth++) {
        struct pool *pool = NULL;
        failing_create = nth;
        assert_int_equal(pool_open(&pool, 4, NULL, 0), -EAGAIN);
        assert_null(pool);
        assert_int_equal(failing_create, 0);
    }
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 4, NULL, 0), 0);
    pool_close(pool);
}

static void numbers_of_threads_without_sense_are_refused(void **state)
{
    struct pool *pool = NULL;
    assert_int_equal(pool_open(&pool, 0, NULL, 0), -EINVAL);
    assert_int_equal(pool_open(&pool, POOL_THREADS_MAX + 1, NULL, 0), -EINVAL);
    assert_null(pool);
    pool_close(NULL);
}

enum { LATE_CHUNKS = 8, LATE_STAGES = 40 };

/* Stages that add their inputs to outputs, in no way that could be done twice; one thread is held
 * up in one of them. */
struct late {
    struct pool *pool;
    uint32_t own[THREADS_MAX]; /* of each thread */
    uint32_t values[2][LATE_CHUNKS];
    _Atomic uint32_t held; /* somebody is */
    _Atomic bool release;
    _Atomic uint32_t seen; /* by who was held up, when it went on */
    _Atomic uint32_t went_on;
    uint32_t *shared; /* what it looks at all the time, or NULL */
    uint32_t hold_us; /* instead of waiting for the release */
    bool is_caller;   /* who is held up, or a helper */
    bool at_inputs;   /* where it is held up */
};

struct late_job {
    struct late *late;
    const uint32_t *in;
    uint32_t *out;
    bool holds;
};

static void wait_for(_Atomic uint32_t *word)
{
    for (time_t start = time(NULL); !atomic_load(word) && time(NULL) < start + 5;)
        sched_yield();
}

static void hold_up(struct late *late, const uint32_t *input)
{
    atomic_store(&late->held, 1);
    if (late->hold_us)
        usleep(late->hold_us);
    while (!late->hold_us && !atomic_load(&late->release))
        sched_yield();
    if (!late->hold_us)
        usleep(5000);
    atomic_store(&late->went_on, 1);
    atomic_store(&late->seen, input ? *input : late->shared ? *late->shared : 0);
}

static void add_late(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct late_job *job = argument;
    struct late *late = job->late;
    bool is_victim = job->holds && (thread == 0) == late->is_caller && !atomic_load(&late->held);
    if (job->holds && !is_victim)
        wait_for(&late->held);
    if (is_victim && late->at_inputs)
        hold_up(late, &job->in[chunk]);
    late->own[thread] = job->in[chunk];
    pool_inputs_read(late->pool, thread);
    if (is_victim && !late->at_inputs)
        hold_up(late, NULL);
    late->own[thread] = late->own[thread] * 3 + chunk;
}

static void commit_late(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct late_job *job = argument;
    job->out[chunk] += job->late->own[thread];
}

static void push_late(struct late *late, uint32_t stage, bool holds, uint64_t after)
{
    struct late_job job = {.late = late,
                           .in = late->values[stage % 2],
                           .out = late->values[(stage + 1) % 2],
                           .holds = holds};
    struct pool_stage description = {
        .work = add_late, .commit = commit_late, .chunks = LATE_CHUNKS, .after = after};
    assert_int_equal(pool_push(late->pool, &description, &job, sizeof job), stage + 1);
}

static void check_late_values(const struct late *late, uint32_t stages)
{
    uint32_t values[2][LATE_CHUNKS] = {{0}};
    for (uint32_t stage = 0; stage < stages; stage++)
        for (uint32_t i = 0; i < LATE_CHUNKS; i++)
            values[(stage + 1) % 2][i] += values[stage % 2][i] * 3 + i;
    assert_memory_equal(late->values, values, sizeof values);
}

static void go_on_without(bool is_caller, uint32_t threads)
{
    struct late late = {.is_caller = is_caller};
    assert_int_equal(pool_open(&late.pool, threads, NULL, 0), 0);
    /* The caller comes back when all is done: that is what releases it. */
    late.hold_us = is_caller ? 300 * 1000 : 0;
    for (uint32_t stage = 0; stage < LATE_STAGES; stage++)
        push_late(&late, stage, stage == 3, 0);
    pool_wait(late.pool);
    assert_int_equal(late.held, 1);
    assert_true(pool_redone_chunks(late.pool) > 0);
    check_late_values(&late, LATE_STAGES);
    /* What pool_wait() leaves may be written to, and read. */
    late.values[0][0]++;
    late.values[0][0]--;
    assert_int_equal(atomic_load(&late.went_on), is_caller);
    atomic_store(&late.release, true);
    pool_drain(late.pool);
    assert_int_equal(atomic_load(&late.went_on), 1);
    check_late_values(&late, LATE_STAGES);
    pool_close(late.pool);
}

static void a_thread_held_up_in_a_chunk_stops_no_step_and_changes_nothing_later(void **state)
{
    for (uint32_t threads = 2; threads <= THREADS_MAX; threads++)
        go_on_without(false, threads);
}

struct watched {
    struct late late;
    uint64_t end_ns;
};

static void take_time(void *job, uint32_t chunk, uint32_t thread)
{
    ((struct watched *)job)->end_ns = clock_ns(CLOCK_MONOTONIC);
}

static void a_step_goes_on_while_its_caller_is_held_up(void **state)
{
    go_on_without(true, 2);
    struct watched watched = {.late = {.is_caller = true, .hold_us = 300 * 1000}};
    struct late *late = &watched.late;
    assert_int_equal(pool_open(&late->pool, 3, NULL, 0), 0);
    push_late(late, 0, true, 0);
    push_late(late, 1, false, 0);
    pool_push(late->pool, &(struct pool_stage){.work = take_time, .chunks = 1}, &watched, 0);
    pool_wait(late->pool);
    /* The last stage ended long before the caller was back. */
    assert_true(clock_ns(CLOCK_MONOTONIC) - watched.end_ns > 50u * 1000 * 1000);
    pool_close(late->pool);
}

static void inputs_are_not_overwritten_while_a_late_thread_reads_them(void **state)
{
    struct late late = {.at_inputs = true, .hold_us = 30 * 1000};
    assert_int_equal(pool_open(&late.pool, 2, NULL, 0), 0);
    push_late(&late, 0, false, 0);
    push_late(&late, 1, true, 0); /* reads what stage 2 adds to */
    push_late(&late, 2, false, 0);
    pool_wait(late.pool);
    check_late_values(&late, 3);
    bool was_there = false;
    for (uint32_t i = 0; i < LATE_CHUNKS; i++)
        was_there = was_there || late.seen == i; /* 0 * 3 + i, after stage 0 */
    assert_true(was_there);
    pool_close(late.pool);
}

static void overwrite(void *job, uint32_t chunk, uint32_t thread)
{
    *(uint32_t *)job = 2;
}

static void what_stays_is_overwritten_only_after_late_threads_have_left(void **state)
{
    uint32_t cache = 1;
    struct late late = {.shared = &cache, .hold_us = 30 * 1000};
    assert_int_equal(pool_open(&late.pool, 2, NULL, 0), 0);
    push_late(&late, 0, true, 0);
    pool_push(late.pool, &(struct pool_stage){.work = overwrite, .chunks = 1, .after = 1}, &cache,
              0);
    pool_wait(late.pool);
    assert_int_equal(cache, 2);
    pool_drain(late.pool);
    assert_int_equal(late.seen, 1);
    pool_close(late.pool);
}

struct chain_job {
    struct pool *pool;
    const uint64_t *in;
    uint64_t *out;
    uint64_t *own;
    uint32_t chunks, stage;
};

static void next_in_chain(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct chain_job *job = argument;
    uint64_t sum = job->in[chunk] * 5 + job->in[(chunk + 1) % job->chunks] + job->stage;
    pool_inputs_read(job->pool, thread);
    if ((job->stage * 7 + chunk) % 199 == thread)
        usleep(100); /* late, now and then */
    job->own[thread] = sum;
}

static void commit_in_chain(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct chain_job *job = argument;
    job->out[chunk] = job->own[thread];
}

static void do_in_chain(void *argument, uint32_t chunk, uint32_t thread)
{
    next_in_chain(argument, chunk, thread);
    commit_in_chain(argument, chunk, thread);
}

static void stages_follow_each_other_as_if_one_thread_did_them(void **state)
{
    enum { CHUNKS = 13, STAGES = 1500 };
    static uint64_t expected[2][CHUNKS];
    memset(expected, 0, sizeof expected);
    for (uint32_t stage = 0; stage < STAGES; stage++)
        for (uint32_t i = 0; i < CHUNKS; i++)
            expected[(stage + 1) % 2][i] =
                expected[stage % 2][i] * 5 + expected[stage % 2][(i + 1) % CHUNKS] + stage;
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        uint64_t values[2][CHUNKS] = {{0}}, own[THREADS_MAX];
        struct chain_job job = {.own = own, .chunks = CHUNKS};
        assert_int_equal(pool_open(&job.pool, threads, NULL, 0), 0);
        for (; job.stage < STAGES; job.stage++) {
            job.in = values[job.stage % 2];
            job.out = values[(job.stage + 1) % 2];
            pool_push(job.pool,
                      &(struct pool_stage){.work = job.stage % 3 ? next_in_chain : do_in_chain,
                                           .commit = job.stage % 3 ? commit_in_chain : NULL,
                                           .chunks = CHUNKS},
                      &job, sizeof job);
            if (job.stage % 400 == 17)
                pool_wait(job.pool);
        }
        pool_drain(job.pool);
        assert_memory_equal(values, expected, sizeof values);
        pool_close(job.pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_runs_once_whatever_the_threads),
        cmocka_unit_test(loops_follow_each_other_after_pauses_of_any_length),
        cmocka_unit_test(a_slow_chunk_is_waited_for),
        cmocka_unit_test(helpers_work_beside_the_caller),
        cmocka_unit_test(no_wake_up_is_lost_at_the_moment_of_falling_asleep),
        cmocka_unit_test(a_thread_held_up_in_a_chunk_stops_no_step_and_changes_nothing_later),
        cmocka_unit_test(a_step_goes_on_while_its_caller_is_held_up),
        cmocka_unit_test(inputs_are_not_overwritten_while_a_late_thread_reads_them),
        cmocka_unit_test(what_stays_is_overwritten_only_after_late_threads_have_left),
        cmocka_unit_test(stages_follow_each_other_as_if_one_thread_did_them),
        cmocka_unit_test(an_idle_pool_uses_no_processor_time),
        cmocka_unit_test(a_thread_that_cannot_be_had_is_an_error_and_leaves_nothing),
        cmocka_unit_test(numbers_of_threads_without_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
