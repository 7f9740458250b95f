/*
 * The guard of foreign pages where the system gives it nothing; and what it leaves to whoever had
 * the signal before.
 */
#include "daemon/guard.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/test.h"

enum { BYTES = 4 * 4096 };

static bool fails_calloc, fails_sigaction, fails_mmap;

void *__real_calloc(size_t count, size_t bytes);
int __real_sigaction(int number, const struct sigaction *action, struct sigaction *before);
void *__real_mmap(void *place, size_t bytes, int protection, int flags, int fd, off_t offset);

void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails_calloc ? NULL : __real_calloc(count, bytes);
}

int __wrap_sigaction(int number, const struct sigaction *action, struct sigaction *before);
int __wrap_sigaction(int number, const struct sigaction *action, struct sigaction *before)
{
    if (!fails_sigaction)
        return __real_sigaction(number, action, before);
    errno = EINVAL;
    return -1;
}

void *__wrap_mmap(void *place, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *place, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (!fails_mmap)
        return __real_mmap(place, bytes, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

/* ---- who had the signal before -----------------------------------------------------------------
 */

static sigjmp_buf back;
static volatile sig_atomic_t passed_on;
static struct sigaction found;

static void on_passed_on(int number)
{
    passed_on = passed_on + 1;
    siglongjmp(back, 1);
}

/* In the tests themselves: between setup and test cmocka takes the signal. */
static void own_the_signal(void)
{
    const struct sigaction action = {.sa_handler = on_passed_on};
    passed_on = 0;
    assert_int_equal(sigaction(SIGBUS, &action, &found), 0);
}

static void give_it_back(void)
{
    assert_int_equal(sigaction(SIGBUS, &found, NULL), 0);
}

/* Memory whose pages are not there. */
static volatile uint8_t *map_nothing(void)
{
    int fd = memfd_create("nothing", MFD_CLOEXEC);
    assert_true(fd >= 0);
    void *base = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(base, MAP_FAILED);
    close(fd);
    return base;
}

/* Touches it; true: the signal came to who had it before. */
static bool is_passed_on(volatile const uint8_t *address)
{
    int before = passed_on;
    if (sigsetjmp(back, 1) == 0)
        (void)*address;
    return passed_on == before + 1;
}

/* ---- the tests --------------------------------------------------------------------------------
 */

static void without_memory_or_handler_there_is_no_guard(void **state)
{
    static uint8_t memory[1];
    fails_calloc = true;
    assert_int_equal(guard_open(2), -ENOMEM);
    assert_null(guard_add(memory, 1));
    fails_calloc = false;
    fails_sigaction = true;
    assert_int_equal(guard_open(2), -EINVAL);
    assert_null(guard_add(memory, 1));
    fails_sigaction = false;
    guard_close(); /* what is not open */
    assert_int_equal(guard_open(2), 0);
    guard_close();
}

static void a_page_of_somebody_else_is_passed_on(void **state)
{
    volatile uint8_t *guarded = map_nothing(), *other = map_nothing();
    own_the_signal();
    assert_int_equal(guard_open(2), 0);
    struct guard_entry *entry = guard_add((const void *)guarded, BYTES);
    uint32_t hits = guard_hits();
    assert_true(is_passed_on(other));
    assert_int_equal(guard_hits(), hits);
    assert_false(guard_was_hit(entry));
    guard_close();
    give_it_back();
    munmap((void *)guarded, BYTES);
    munmap((void *)other, BYTES);
}

static void a_page_that_cannot_be_replaced_is_passed_on(void **state)
{
    volatile uint8_t *guarded = map_nothing();
    own_the_signal();
    assert_int_equal(guard_open(2), 0);
    struct guard_entry *entry = guard_add((const void *)guarded, BYTES);
    fails_mmap = true;
    assert_true(is_passed_on(guarded));
    fails_mmap = false;
    assert_false(guard_was_hit(entry));
    guard_close();
    give_it_back();
    munmap((void *)guarded, BYTES);
}

static void a_signal_that_is_sent_is_passed_on(void **state)
{
    own_the_signal();
    assert_int_equal(guard_open(1), 0);
    if (sigsetjmp(back, 1) == 0)
        raise(SIGBUS); /* and again by the guard's handler, which blocks it until it returns */
    assert_int_equal(passed_on, 1);
    guard_close();
    give_it_back();
}

int main(void)
{
    if (IS_SANITIZED) {
        fprintf(stderr, "*** SKIPPED: the sanitizer has the same functions and the same signal\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_memory_or_handler_there_is_no_guard),
        cmocka_unit_test(a_page_of_somebody_else_is_passed_on),
        cmocka_unit_test(a_page_that_cannot_be_replaced_is_passed_on),
        cmocka_unit_test(a_signal_that_is_sent_is_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
