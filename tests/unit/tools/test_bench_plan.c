/* What the benchmark measures, and in which phases. */
#include <errno.h>

#include "tests/support/test.h"
#include "tools/bench_plan.h"

static struct bench_plan plan;

static const struct bench_options all_modes = {.modes = {true, true, true}};

static bool has(enum bench_mode mode, uint32_t sessions, uint32_t idle, bool is_real)
{
    for (uint32_t i = 0; i < plan.count; i++)
        if (plan.setups[i].mode == mode && plan.setups[i].sessions == sessions &&
            plan.setups[i].idle == idle && plan.setups[i].is_real == is_real)
            return true;
    return false;
}

static void modes_are_read_from_a_list(void **state)
{
    bool modes[BENCH_MODES] = {false};
    assert_true(bench_parse_modes("sleep,spin", modes));
    assert_true(modes[BENCH_SPIN] && !modes[BENCH_ADAPTIVE] && modes[BENCH_SLEEP]);
    static const char *const wrong[] = {"", "spin,", ",spin", "spinn", "spi", "spin sleep"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(bench_parse_modes(wrong[i], modes));
    assert_true(modes[BENCH_SPIN] && !modes[BENCH_ADAPTIVE] && modes[BENCH_SLEEP]);
}

static void numbers_are_read_from_a_list(void **state)
{
    struct bench_list list = {0};
    assert_true(bench_list_parse("8,1,8", 1, 64, &list));
    assert_int_equal(list.count, 2);
    assert_int_equal(list.values[0], 8);
    assert_int_equal(list.values[1], 1);
    static const char *const wrong[] = {"",
                                        "1,",
                                        ",1",
                                        "65",
                                        "0",
                                        "-1",
                                        "+1",
                                        "1 ",
                                        "1;2",
                                        "0x1",
                                        "1,,2",
                                        "99999999999999999999",
                                        "1,2,3,4,5,6,7,8,9"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(bench_list_parse(wrong[i], 1, 64, &list));
    assert_int_equal(list.count, 2);
}

static void without_lists_one_thing_is_varied_at_a_time(void **state)
{
    assert_int_equal(bench_plan_make(&plan, &all_modes, true, 10000), 0);
    assert_int_equal(plan.count, 3 * 5);
    for (int mode = 0; mode < BENCH_MODES; mode++) {
        assert_true(has(mode, 1, 0, false) && has(mode, 1, 1000, false));
        assert_true(has(mode, 8, 0, false) && has(mode, 64, 0, false) && has(mode, 1, 0, true));
    }
    for (uint32_t i = 0; i < plan.count; i++) {
        const struct bench_setup *setup = &plan.setups[i];
        bool is_centre = setup->sessions == 1 && setup->idle == 0 && !setup->is_real;
        assert_int_equal(setup->prompts.count, is_centre ? 3 : 1);
        assert_int_equal(plan.phases[i], 0);
    }
}

static void with_lists_everything_is_combined(void **state)
{
    struct bench_options options = all_modes;
    options.modes[BENCH_ADAPTIVE] = false;
    options.sessions = (struct bench_list){2, {2, 4}};
    options.prompts = (struct bench_list){2, {1, 16}};
    assert_int_equal(bench_plan_make(&plan, &options, true, 10000), 0);
    assert_int_equal(plan.count, 2 * 2 + 2);
    for (uint32_t i = 0; i < plan.count; i++) {
        assert_int_not_equal(plan.setups[i].mode, BENCH_ADAPTIVE);
        assert_int_equal(plan.setups[i].idle, 0);
        assert_int_equal(plan.setups[i].prompts.count, 2);
        assert_true(!plan.setups[i].is_real || plan.setups[i].sessions == 2);
    }
}

static void the_whole_matrix_takes_turns_among_equal_numbers_of_sessions(void **state)
{
    struct bench_options options = all_modes;
    options.is_full = true;
    /* Of the second number, two ways of waiting would fit beside the first one at 5,500. */
    for (uint32_t at_once = 4000; at_once <= 5500; at_once += 1500) {
        assert_int_equal(bench_plan_make(&plan, &options, false, at_once), 0);
        assert_int_equal(plan.count, 3 * 3 * 2);
        for (uint32_t i = 0; i < plan.count; i++)
            assert_int_equal(plan.phases[i], plan.setups[i].sessions == 1   ? 0
                                             : plan.setups[i].sessions == 8 ? 1
                                                                            : 2);
    }
}

static void a_phase_never_has_more_sessions_than_fit(void **state)
{
    struct bench_options options = all_modes;
    options.is_full = true;
    for (uint32_t most = 1128; most < 12000; most += 100) {
        assert_int_equal(bench_plan_make(&plan, &options, true, most), 0);
        uint32_t sessions = 0;
        for (uint32_t i = 0; i < plan.count; i++) {
            if (i && plan.phases[i] != plan.phases[i - 1]) {
                assert_int_equal(plan.phases[i], plan.phases[i - 1] + 1);
                sessions = 0;
            }
            sessions += plan.setups[i].sessions + plan.setups[i].idle;
            assert_true(sessions <= most);
        }
    }
}

static void what_cannot_fit_is_refused(void **state)
{
    struct bench_options options = all_modes;
    assert_int_equal(bench_plan_make(&plan, &options, false, 1000), -ENOSPC);
    options.leaves_out_idle = true;
    assert_int_equal(bench_plan_make(&plan, &options, false, 1000), 0);
    assert_false(has(BENCH_SPIN, 1, 1000, false));
    assert_true(has(BENCH_SPIN, 64, 0, false));
}

static void every_combination_of_the_longest_lists_has_room(void **state)
{
    struct bench_options options = all_modes;
    options.sessions = options.idle = (struct bench_list){8, {1, 2, 3, 4, 5, 6, 7, 8}};
    assert_int_equal(bench_plan_make(&plan, &options, true, 10000), 0);
    assert_int_equal(plan.count, 3 * 64 + 3);
    assert_true(plan.count <= BENCH_SETUPS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modes_are_read_from_a_list),
        cmocka_unit_test(numbers_are_read_from_a_list),
        cmocka_unit_test(without_lists_one_thing_is_varied_at_a_time),
        cmocka_unit_test(with_lists_everything_is_combined),
        cmocka_unit_test(the_whole_matrix_takes_turns_among_equal_numbers_of_sessions),
        cmocka_unit_test(a_phase_never_has_more_sessions_than_fit),
        cmocka_unit_test(what_cannot_fit_is_refused),
        cmocka_unit_test(every_combination_of_the_longest_lists_has_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
