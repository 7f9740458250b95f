/* The guard's handler and the thread that adds and removes, in every order of the two: that thread
 * comes in right before one of the handler's loads, each in its turn. */
#include <stdatomic.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/test.h"

static void before_load(void);
#undef atomic_load_explicit
#define atomic_load_explicit(object, order) (before_load(), *(object))
#include "daemon/guard.c"

enum { PAGE = 4096, LARGE = 16 * PAGE, LOADS_MAX = 100 };

static int loads_left; /* until the other thread comes in; below 0: it has been there */
static struct guard_entry *changing;
static uint8_t
    *area; /* a small place, the page that fails, what belongs to others; a large place */

static void before_load(void)
{
    if (loads_left-- != 0)
        return;
    guard_remove(changing);
    assert_ptr_equal(guard_add(area + LARGE, LARGE), changing);
}

static void let_page_fail(uint8_t *page)
{
    int fd = memfd_create("nothing", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_ptr_equal(mmap(page, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0), page);
    close(fd);
}

/* Whether the other thread came in while the handler was at work. */
static bool comes_in_before_load(int load)
{
    loads_left = -1;
    area = mmap(NULL, 2 * LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(area, MAP_FAILED);
    memset(area, 7, 2 * LARGE);
    assert_int_equal(guard_open(2), 0);
    volatile uint8_t *failing = area + PAGE;
    changing = guard_add(area, PAGE); /* the handler looks at it first */
    struct guard_entry *entry = guard_add((const void *)failing, PAGE);
    let_page_fail(area + PAGE);
    loads_left = load;
    assert_int_equal(*failing, 0);
    bool has_come = loads_left < 0;
    loads_left = -1;
    assert_true(guard_was_hit(entry));
    assert_false(guard_was_hit(changing));
    assert_int_equal(area[0], 7);
    assert_int_equal(area[2 * PAGE], 7);
    assert_int_equal(area[LARGE], 7);
    guard_close();
    munmap(area, 2 * LARGE);
    return has_come;
}

static void no_place_is_seen_that_never_was(void **state)
{
    int load = 0;
    while (load < LOADS_MAX && comes_in_before_load(load))
        load++;
    assert_in_range(load, 4, LOADS_MAX - 1); /* there were some, and all were tried */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_place_is_seen_that_never_was)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
