#include "daemon/half_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/test.h"

static struct half_watch watch;
static int owners[3];

static int setup(void **state)
{
    return half_watch_open(&watch);
}

static int teardown(void **state)
{
    half_watch_close(&watch);
    half_watch_close(&watch);
    return 0;
}

static int memory(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 4096), 0);
    return fd;
}

static bool is_readable(void)
{
    struct pollfd poll_fd = {.fd = watch.fd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

static void whatever_holds_memory_delays_its_end(void **state)
{
    struct half_mark mark = {.owner = &owners[0], .number = -1};
    int fd = memory();
    assert_int_equal(half_watch_add(&watch, &mark, fd), 0);
    void *mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    int copy = dup(fd);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int bare = open(path, O_PATH | O_CLOEXEC);
    assert_true(mapped != MAP_FAILED && copy >= 0 && bare >= 0);
    close(fd);
    assert_null(half_watch_next(&watch));
    close(copy);
    assert_null(half_watch_next(&watch));
    munmap(mapped, 4096);
    assert_null(half_watch_next(&watch));
    assert_false(is_readable());
    close(bare);
    assert_true(is_readable());
    assert_ptr_equal(half_watch_next(&watch), &mark);
    assert_int_equal(mark.number, -1);
    assert_null(half_watch_next(&watch));
    assert_false(is_readable());
}

static void each_is_told_once_however_many_there_are(void **state)
{
    enum { COUNT = 3000 };
    static struct half_mark marks[COUNT];
    int told[3] = {0}, last = memory();
    for (int i = 0; i < COUNT; i++) {
        int fd = memory();
        marks[i] = (struct half_mark){.owner = &told[i % 3], .number = -1};
        assert_int_equal(half_watch_add(&watch, &marks[i], fd), 0);
        close(fd);
    }
    struct half_mark still = {.owner = &owners[1], .number = -1}, *mark;
    assert_int_equal(half_watch_add(&watch, &still, last), 0);
    while ((mark = half_watch_next(&watch)))
        (*(int *)mark->owner)++;
    for (int i = 0; i < 3; i++)
        assert_int_equal(told[i], COUNT / 3);
    assert_true(still.number >= 0);
    close(last);
    assert_ptr_equal(half_watch_next(&watch), &still);
}

static void what_cannot_be_watched_is_an_error(void **state)
{
    struct half_mark mark = {.number = -1};
    assert_int_equal(half_watch_add(&watch, &mark, -1), -ENOENT);
    assert_int_equal(mark.number, -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(whatever_holds_memory_delays_its_end),
        TEST(each_is_told_once_however_many_there_are),
        TEST(what_cannot_be_watched_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
