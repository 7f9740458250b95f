#include "kernels/cpu/processors.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "kernels/backend.h"
#include "tests/support/test.h"

static uint32_t first_allowed(void)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    uint32_t processor = 0;
    while (!CPU_ISSET(processor, &set))
        processor++;
    return processor;
}

static void lists_name_each_allowed_processor_once(void **state)
{
    uint32_t processors[PROCESSORS_MAX], count = 0;
    const char *why = NULL;
    char list[64];
    assert_int_equal(processors_parse("0-1023", processors, &count, &why), 0);
    assert_int_equal(count, processors_allowed());
    assert_int_equal(processors[0], first_allowed());
    snprintf(list, sizeof list, "1023,%u,%u-%u", first_allowed(), first_allowed(), first_allowed());
    assert_int_equal(processors_parse(list, processors, &count, &why), 0);
    assert_int_equal(count, processors_allowed() == 1024 ? 2 : 1);
    assert_null(why);
}

static void what_is_no_list_or_names_nothing_allowed_is_refused_with_the_reason(void **state)
{
    static const char *const bad[] = {
        "", ",", "1,", "-1", "1-", "3-2", "a", "0 1", "0;1", "1024", "0-99999999999", "0x1"};
    uint32_t processors[PROCESSORS_MAX], count = 77;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *why = NULL;
        assert_int_equal(processors_parse(bad[i], processors, &count, &why), -EINVAL);
        assert_non_null(strstr(why, "must be a list"));
    }
    if (processors_allowed() == PROCESSORS_MAX)
        skip();
    /* One that is not: the last of those that are not allowed. */
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    uint32_t processor = PROCESSORS_MAX - 1;
    while (CPU_ISSET(processor, &set))
        processor--;
    char list[16];
    const char *why = NULL;
    snprintf(list, sizeof list, "%u", processor);
    assert_int_equal(processors_parse(list, processors, &count, &why), -EINVAL);
    assert_non_null(strstr(why, "none of the listed"));
    assert_int_equal(count, 77);
}

static void a_backend_with_processors_has_as_many_threads_and_pins_its_caller(void **state)
{
    char list[16];
    snprintf(list, sizeof list, "%u", first_allowed());
    struct backend_options options = {.device = "cpu", .variant = "plain", .processors = list};
    struct backend *backend;
    const char *why = NULL;
    assert_int_equal(backend_open(&backend, &options, &why), 0);
    assert_non_null(strstr(backend->ops->describe(backend), "1 thread,"));
    cpu_set_t before, set;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(backend->ops->begin(backend), 0);
    assert_int_equal(backend->ops->end(backend), 0);
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_int_equal(CPU_COUNT(&set), 1);
    assert_true(CPU_ISSET(first_allowed(), &set));
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    backend_close(backend);

    options.processors = "nonsense";
    assert_int_equal(backend_open(&backend, &options, &why), -EINVAL);
    assert_non_null(strstr(why, "cpus"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_name_each_allowed_processor_once),
        cmocka_unit_test(what_is_no_list_or_names_nothing_allowed_is_refused_with_the_reason),
        cmocka_unit_test(a_backend_with_processors_has_as_many_threads_and_pins_its_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
