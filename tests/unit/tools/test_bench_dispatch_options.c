/* What `autoglm bench dispatch` makes of its options, and of what is not given. */
#include "tests/support/test.h"
#include "tools/bench_dispatch_options.h"

static struct bench_options options;
static struct bench_plan plan;

/* The options with argv[0] in front; -1: they make sense. */
static int parse(int count, char **words)
{
    char *argv[16] = {"dispatch"};
    for (int i = 0; i < count; i++)
        argv[1 + i] = words[i];
    return bench_dispatch_parse(&options, 1 + count, argv);
}

static void a_daemon_that_is_there_is_asked_by_one_session(void **state)
{
    assert_int_equal(parse(2, (char *[]){"--socket", "x"}), -1);
    assert_int_equal(bench_plan_make(&plan, &options, false, 10000), 0);
    assert_int_equal(plan.count, 1);
    assert_int_equal(plan.setups[0].mode, BENCH_ADAPTIVE);
    assert_int_equal(options.pinning, BENCH_UNPINNED);
    assert_int_equal(plan.setups[0].sessions, 1);
    assert_int_equal(plan.setups[0].idle, 0);
    assert_int_equal(plan.setups[0].prompts.count, 1);
    assert_int_equal(plan.setups[0].prompts.values[0], 1);
}

static void what_is_given_for_it_is_kept(void **state)
{
    assert_int_equal(parse(10, (char *[]){"--socket", "x", "--processors", "0,1", "--sessions", "5",
                                          "--idle", "7", "--prompt", "3,16"}),
                     -1);
    assert_int_equal(bench_plan_make(&plan, &options, false, 10000), 0);
    assert_int_equal(plan.count, 1);
    assert_int_equal(options.pinning, BENCH_PINNED);
    assert_int_equal(plan.setups[0].sessions, 5);
    assert_int_equal(plan.setups[0].idle, 7);
    assert_int_equal(plan.setups[0].prompts.count, 2);
}

static void daemons_of_our_own_are_asked_in_every_usual_way(void **state)
{
    assert_int_equal(parse(0, NULL), -1);
    assert_int_equal(options.sessions.count + options.idle.count + options.prompts.count, 0);
    assert_int_equal(bench_plan_make(&plan, &options, false, 10000), 0);
    assert_int_equal(plan.count, 3 * 4);
    assert_int_equal(options.pinning, BENCH_PINNED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_daemon_that_is_there_is_asked_by_one_session),
        cmocka_unit_test(what_is_given_for_it_is_kept),
        cmocka_unit_test(daemons_of_our_own_are_asked_in_every_usual_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
