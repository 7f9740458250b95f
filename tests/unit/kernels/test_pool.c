#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
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
        assert_int_equal(pool_open(&pool, threads), 0);
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
    assert_int_equal(pool_open(&pool, 3), 0);
    struct counting counting = {.threads = 3};
    /* Around the helpers' 100 us of spinning: awake, falling asleep, asleep. */
    for (uint32_t pause_us = 0; pause_us < 400; pause_us += 4) {
        usleep(pause_us);
        run_and_check(pool, &counting, 5);
    }
    pool_close(pool);
}

static void a_slow_chunk_is_waited_for(void **state)
{
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 2), 0);
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
    assert_int_equal(pool_open(&pool, 2), 0);
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
    assert_int_equal(pool_open(&pool, 2), 0);
    /* Spinning ends after 100 us, give or take a look at the clock. */
    for (uint64_t round = 0; round < 3000; round++) {
        struct late_meeting late = {.linger_ns = 96000 + round % 150 * 100};
        stay_busy(97000 + round % 137 * 100);
        pool_run(pool, meet_and_linger, &late, 2);
        assert_int_equal(late.meeting.seen[0], 2);
        assert_int_equal(late.meeting.seen[1], 2);
    }
    pool_close(pool);
}

static void an_idle_pool_uses_no_processor_time(void **state)
{
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 4), 0);
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
        assert_int_equal(pool_open(&pool, 4), -EAGAIN);
        assert_null(pool);
        assert_int_equal(failing_create, 0);
    }
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 4), 0);
    pool_close(pool);
}

static void numbers_of_threads_without_sense_are_refused(void **state)
{
    struct pool *pool = NULL;
    assert_int_equal(pool_open(&pool, 0), -EINVAL);
    assert_int_equal(pool_open(&pool, POOL_THREADS_MAX + 1), -EINVAL);
    assert_null(pool);
    pool_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_runs_once_whatever_the_threads),
        cmocka_unit_test(loops_follow_each_other_after_pauses_of_any_length),
        cmocka_unit_test(a_slow_chunk_is_waited_for),
        cmocka_unit_test(helpers_work_beside_the_caller),
        cmocka_unit_test(no_wake_up_is_lost_at_the_moment_of_falling_asleep),
        cmocka_unit_test(an_idle_pool_uses_no_processor_time),
        cmocka_unit_test(a_thread_that_cannot_be_had_is_an_error_and_leaves_nothing),
        cmocka_unit_test(numbers_of_threads_without_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
