#include "tests/support/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/memory.h"

struct fixture {
    char root[4096];
};

static void make(const struct fixture *fixture, const char *folder)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", fixture->root, folder);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void put(const struct fixture *fixture, const char *file, const char *text)
{
    test_write_file(fixture->root, file, text, strlen(text));
}

static int set_up(void **state)
{
    static struct fixture fixture;
    static const char *const folders[] = {"proc",
                                          "proc/self",
                                          "sys",
                                          "sys/fs",
                                          "sys/fs/cgroup",
                                          "sys/fs/cgroup/a",
                                          "sys/fs/cgroup/a/b.service"};
    test_folder(fixture.root);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        make(&fixture, folders[i]);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    test_remove_folder(((struct fixture *)*state)->root);
    return 0;
}

static void what_cannot_be_read_limits_nothing(void **state)
{
    const struct fixture *fixture = *state;
    assert_true(memory_available(fixture->root) == UINT64_MAX);
    put(fixture, "proc/meminfo", "MemTotal: 5 kB\n");
    put(fixture, "proc/self/cgroup", "4:memory:/x\n");
    assert_true(memory_available(fixture->root) == UINT64_MAX);
    put(fixture, "proc/meminfo", "MemAvailable: 99999999999999999999999 kB\n");
    assert_true(memory_available(fixture->root) == UINT64_MAX);
}

static void the_machines_free_memory_counts(void **state)
{
    const struct fixture *fixture = *state;
    put(fixture, "proc/meminfo", "MemTotal:  900 kB\nMemAvailable:     700 kB\n");
    assert_int_equal(memory_available(fixture->root), 700 * 1024);
    put(fixture, "proc/self/cgroup", "0::/a/b.service\n");
    put(fixture, "sys/fs/cgroup/a/b.service/memory.max", "max\n");
    put(fixture, "sys/fs/cgroup/a/b.service/memory.current", "5\n");
    assert_int_equal(memory_available(fixture->root), 700 * 1024);
}

static void the_groups_limit_counts_less_what_is_used_and_cannot_be_dropped(void **state)
{
    const struct fixture *fixture = *state;
    put(fixture, "proc/meminfo", "MemAvailable: 700 kB\n");
    put(fixture, "proc/self/cgroup", "4:memory:/x\n0::/a/b.service\n");
    put(fixture, "sys/fs/cgroup/a/b.service/memory.max", "100000\n");
    put(fixture, "sys/fs/cgroup/a/b.service/memory.current", "40000\n");
    assert_int_equal(memory_available(fixture->root), 60000);
    put(fixture, "sys/fs/cgroup/a/b.service/memory.stat", "anon 5\ninactive_file 30000\n");
    assert_int_equal(memory_available(fixture->root), 90000);
    put(fixture, "sys/fs/cgroup/a/b.service/memory.stat", "inactive_file 50000\n");
    assert_int_equal(memory_available(fixture->root), 100000);
    put(fixture, "sys/fs/cgroup/a/b.service/memory.stat", "");
    put(fixture, "sys/fs/cgroup/a/b.service/memory.current", "400000\n");
    assert_int_equal(memory_available(fixture->root), 0);
}

static void the_limits_of_the_groups_above_count(void **state)
{
    const struct fixture *fixture = *state;
    put(fixture, "proc/meminfo", "MemAvailable: 700 kB\n");
    put(fixture, "proc/self/cgroup", "0::/a/b.service\n");
    put(fixture, "sys/fs/cgroup/a/b.service/memory.max", "100000\n");
    put(fixture, "sys/fs/cgroup/a/b.service/memory.current", "40000\n");
    put(fixture, "sys/fs/cgroup/a/memory.max", "50000\n");
    put(fixture, "sys/fs/cgroup/a/memory.current", "45000\n");
    assert_int_equal(memory_available(fixture->root), 5000);
}

static void this_machine_has_memory(void **state)
{
    (void)state;
    assert_in_range(memory_available(""), 1 << 20, UINT64_MAX);
}

static void what_would_not_fit_is_refused_with_the_figures(void **state)
{
    struct failure failure = {""};
    assert_int_equal(memory_check(1, "one byte", &failure), 0);
    assert_string_equal(failure.text, "");
    assert_int_equal(memory_check(UINT64_C(1) << 62, "the test", &failure), -ENOMEM);
    if (strncmp(failure.text, "the test would take 4611686018.43 GB; ", 38) != 0 ||
        !strstr(failure.text, " GB are free"))
        fail_msg("%s", failure.text);
}

int main(void)
{
#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_ROOT(what_cannot_be_read_limits_nothing),
        WITH_ROOT(the_machines_free_memory_counts),
        WITH_ROOT(the_groups_limit_counts_less_what_is_used_and_cannot_be_dropped),
        WITH_ROOT(the_limits_of_the_groups_above_count),
        cmocka_unit_test(this_machine_has_memory),
        cmocka_unit_test(what_would_not_fit_is_refused_with_the_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
