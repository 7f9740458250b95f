#include "shm/doorbell.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "shm/region.h"
#include "tests/support/test.h"

enum { US = 1000, MS = 1000000 };

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- the word -------------------------------------------------------------------------------- */

static void who_is_awake_is_not_rung(void **state)
{
    _Atomic uint32_t word = 0;
    uint32_t rung = 0;
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_NONE);
    doorbell_announce(&word, DOORBELL_FD);
    doorbell_awake(&word);
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_NONE);
}

static void a_descriptor_is_rung_once_a_sleep(void **state)
{
    _Atomic uint32_t word = 0;
    uint32_t rung = 0;
    for (int i = 0; i < 3; i++) {
        doorbell_announce(&word, DOORBELL_FD);
        assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_FD);
        assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_NONE);
        doorbell_awake(&word);
    }
}

/* The sleeper may be on its way to the next slot already: see doorbell.h. */
static void a_futex_sleeper_is_rung_for_every_message(void **state)
{
    _Atomic uint32_t word = 0;
    uint32_t rung = 0;
    doorbell_announce(&word, DOORBELL_FUTEX);
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_FUTEX);
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_FUTEX);
}

static void one_sleep_may_change_its_way(void **state)
{
    _Atomic uint32_t word = 0;
    uint32_t rung = 0;
    doorbell_announce(&word, DOORBELL_FD);
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_FD);
    doorbell_announce(&word, DOORBELL_FUTEX); /* without waking in between */
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_FUTEX);
    doorbell_announce(&word, DOORBELL_FD);
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_FD);
}

static void the_count_of_sleeps_wraps_without_touching_the_way(void **state)
{
    _Atomic uint32_t word = UINT32_MAX - 3; /* the last count, awake */
    uint32_t rung = 0;
    doorbell_announce(&word, DOORBELL_FD);
    assert_int_equal(word, DOORBELL_FD);
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_FD);
}

static void a_strangers_nonsense_counts_as_awake(void **state)
{
    _Atomic uint32_t word = 3;
    uint32_t rung = 0;
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_NONE);
    word = UINT32_MAX;
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_NONE);
    word = UINT32_MAX - 3;
    assert_int_equal(doorbell_sleeper(&word, &rung), DOORBELL_NONE);
    assert_int_equal(rung, 0);
}

/* ---- the futex ------------------------------------------------------------------------------- */

static void a_word_that_has_changed_is_not_slept_on(void **state)
{
    _Atomic uint32_t word = 5;
    uint64_t start_ns = now_ns();
    assert_int_equal(doorbell_wait(&word, 4, 10000ULL * MS), 0);
    assert_true(now_ns() - start_ns < 5000ULL * MS);
}

static void a_sleep_ends_with_its_time(void **state)
{
    _Atomic uint32_t word = 5;
    uint64_t start_ns = now_ns();
    assert_int_equal(doorbell_wait(&word, 5, 10 * MS), -ETIMEDOUT);
    assert_true(now_ns() - start_ns >= 10 * MS);
}

static void on_alarm(int number)
{
    (void)number;
}

static void a_signal_ends_a_sleep(void **state)
{
    _Atomic uint32_t word = 5;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART}, before;
    struct itimerval soon = {.it_value = {.tv_usec = 10000}};
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    setitimer(ITIMER_REAL, &soon, NULL);
    assert_int_equal(doorbell_wait(&word, 5, 10000ULL * MS), -EINTR);
    sigaction(SIGALRM, &before, NULL);
}

static struct region ours, theirs;

static void *wake_later(void *argument)
{
    usleep(10000);
    /* The waker has nothing but a read-only mapping, the sleeper neither: enough for both. */
    doorbell_wake((const _Atomic uint32_t *)(const void *)theirs.base);
    return NULL;
}

static void read_only_mappings_are_enough_to_sleep_and_to_wake(void **state)
{
    const char *why;
    assert_int_equal(region_create(&ours, "doorbell", 4096), 0);
    assert_int_equal(region_map_peer(&theirs, dup(ours.fd), 4096, &why), 0);
    struct region third = REGION_EMPTY;
    assert_int_equal(region_map_peer(&third, dup(ours.fd), 4096, &why), 0);
    assert_ptr_not_equal(third.base, theirs.base);
    pthread_t thread;
    pthread_create(&thread, NULL, wake_later, NULL);
    const _Atomic uint32_t *word = (const _Atomic uint32_t *)(const void *)third.base;
    assert_int_equal(doorbell_wait(word, 0, 10000ULL * MS), 0);
    pthread_join(thread, NULL);
    region_fini(&ours);
    region_fini(&theirs);
    region_fini(&third);
}

/* Threads that sleep where one may: a hostile client's. Moving sleepers from word to word tells how
 * many there are, so nothing here depends on time. */
enum { SLEEPERS = 4 };
static _Atomic uint32_t bed, other_bed;

static void *sleep_in_bed(void *argument)
{
    while (doorbell_wait(&bed, 0, 10000ULL * MS) == -EINTR)
        continue;
    return NULL;
}

/* How many sleep on `from`, and sleep on `to` from now on. */
static long move(_Atomic uint32_t *from, _Atomic uint32_t *to)
{
    return syscall(SYS_futex, from, FUTEX_REQUEUE, 0, (void *)(uintptr_t)INT_MAX, to, 0);
}

static void one_wake_up_wakes_one_of_many(void **state)
{
    pthread_t threads[SLEEPERS];
    for (int i = 0; i < SLEEPERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sleep_in_bed, NULL), 0);
    uint64_t start_ns = now_ns();
    for (long asleep = 0; asleep < SLEEPERS; asleep += move(&bed, &other_bed))
        assert_true(now_ns() - start_ns < 9000ULL * MS);
    doorbell_wake(&other_bed);
    assert_int_equal(move(&other_bed, &bed), SLEEPERS - 1);
    for (int i = 0; i < SLEEPERS; i++)
        doorbell_wake(&bed);
    for (int i = 0; i < SLEEPERS; i++)
        pthread_join(threads[i], NULL);
}

/* ---- the spinner ----------------------------------------------------------------------------- */

static void a_spinner_that_knows_nothing_spins_to_its_limit(void **state)
{
    struct spinner spinner;
    spinner_init(&spinner, 50 * US);
    assert_int_equal(spinner_budget_ns(&spinner), 50 * US);
    spinner_arrival(&spinner, 1000); /* one arrival makes no gap */
    assert_int_equal(spinner_budget_ns(&spinner), 50 * US);
}

static uint64_t budget_after_gaps(struct spinner *spinner, uint64_t *now, uint64_t gap_ns,
                                  int times)
{
    for (int i = 0; i < times; i++)
        spinner_arrival(spinner, *now += gap_ns);
    return spinner_budget_ns(spinner);
}

static void a_steady_stream_is_spun_for(void **state)
{
    struct spinner spinner;
    uint64_t now = 1000;
    spinner_init(&spinner, 50 * US);
    assert_int_equal(budget_after_gaps(&spinner, &now, 10 * US, 50), 50 * US);
}

/* Both sides sleep, and a round trip of two wake-ups takes most of the limit; now and then somebody
 * else gets the processor for milliseconds. They must find back to spinning. */
static void sleepers_within_the_limit_find_back_to_spinning(void **state)
{
    struct spinner spinner;
    uint64_t now = 1000;
    spinner_init(&spinner, 50 * US);
    budget_after_gaps(&spinner, &now, 10 * MS, 100);
    for (int i = 0; i < 20; i++)
        budget_after_gaps(&spinner, &now, i % 4 == 3 ? 5 * MS : 40 * US, 1);
    assert_int_equal(spinner_budget_ns(&spinner), 50 * US);
}

static void rare_arrivals_are_slept_for_after_a_short_spin(void **state)
{
    struct spinner spinner;
    uint64_t now = 1000;
    spinner_init(&spinner, 64 * US);
    assert_int_equal(budget_after_gaps(&spinner, &now, 10 * MS, 20), 4 * US);
}

static void a_stream_after_a_long_pause_is_recognised_soon(void **state)
{
    struct spinner spinner;
    uint64_t now = 1000;
    spinner_init(&spinner, 50 * US);
    budget_after_gaps(&spinner, &now, 10000ULL * MS, 20);
    assert_true(budget_after_gaps(&spinner, &now, 5 * US, 12) == 50 * US);
}

static void a_wait_counts_from_its_begin(void **state)
{
    struct spinner spinner;
    uint64_t now = 1000;
    spinner_init(&spinner, 50 * US);
    for (int i = 0; i < 50; i++) {
        now += 10 * MS; /* the caller did other things */
        spinner_begin(&spinner, now);
        spinner_arrival(&spinner, now += 8 * US);
    }
    assert_int_equal(spinner_budget_ns(&spinner), 50 * US);
}

static void the_extremes_stay_what_they_are(void **state)
{
    static const uint64_t limits[] = {0, 1, 1ULL << 61, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        struct spinner spinner;
        uint64_t now = 1000;
        spinner_init(&spinner, limits[i]);
        spinner_arrival(&spinner, 5);
        for (int k = 0; k < 100; k++) {
            uint64_t budget = budget_after_gaps(&spinner, &now, 1ULL << (k % 40), 1);
            assert_true(budget <= limits[i]);
            if (limits[i] == 0 || limits[i] == UINT64_MAX)
                assert_true(budget == limits[i]);
        }
        spinner_arrival(&spinner, 3); /* a clock that went back is no gap */
        assert_true(spinner_budget_ns(&spinner) <= limits[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_awake_is_not_rung),
        cmocka_unit_test(a_descriptor_is_rung_once_a_sleep),
        cmocka_unit_test(a_futex_sleeper_is_rung_for_every_message),
        cmocka_unit_test(one_sleep_may_change_its_way),
        cmocka_unit_test(the_count_of_sleeps_wraps_without_touching_the_way),
        cmocka_unit_test(a_strangers_nonsense_counts_as_awake),
        cmocka_unit_test(a_word_that_has_changed_is_not_slept_on),
        cmocka_unit_test(a_sleep_ends_with_its_time),
        cmocka_unit_test(a_signal_ends_a_sleep),
        cmocka_unit_test(read_only_mappings_are_enough_to_sleep_and_to_wake),
        cmocka_unit_test(one_wake_up_wakes_one_of_many),
        cmocka_unit_test(a_spinner_that_knows_nothing_spins_to_its_limit),
        cmocka_unit_test(a_steady_stream_is_spun_for),
        cmocka_unit_test(sleepers_within_the_limit_find_back_to_spinning),
        cmocka_unit_test(rare_arrivals_are_slept_for_after_a_short_spin),
        cmocka_unit_test(a_stream_after_a_long_pause_is_recognised_soon),
        cmocka_unit_test(a_wait_counts_from_its_begin),
        cmocka_unit_test(the_extremes_stay_what_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
