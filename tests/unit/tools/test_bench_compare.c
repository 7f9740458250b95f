/* Which rows of the benchmark are held against each other, and how. */
#include <math.h>
#include <string.h>

#include "tests/support/test.h"
#include "tools/bench_compare.h"

enum { BLOCKS = 3, ROWS_MAX = 16, FOUND_MAX = 32 };

static struct stage stages[ROWS_MAX];
static struct bench_row rows[ROWS_MAX];
static double p50[ROWS_MAX][BLOCKS];
static double p99[ROWS_MAX][BLOCKS];
static struct bench_phase phase;
static struct comparison found[FOUND_MAX];

static int begin(void **state)
{
    memset(stages, 0, sizeof stages);
    memset(rows, 0, sizeof rows);
    phase =
        (struct bench_phase){.blocks = BLOCKS, .ns_per_tick = 0.5, .stages = stages, .rows = rows};
    return 0;
}

static struct bench_row *add_row(double a, double b, double c)
{
    uint32_t at = phase.row_count++;
    const double values[BLOCKS] = {a, b, c};
    for (int i = 0; i < BLOCKS; i++) {
        p50[at][i] = values[i];
        p99[at][i] = 10 * values[i];
    }
    rows[at].series = (struct series){.blocks = BLOCKS, .block_p50 = p50[at], .block_p99 = p99[at]};
    return &rows[at];
}

static void add_exchange(enum exchange_kind kind, uint32_t tokens, double a, double b, double c)
{
    struct bench_row *row = add_row(a, b, c);
    row->what = BENCH_EXCHANGE;
    row->exchange = kind;
    row->prompt_tokens = tokens;
}

static struct stage *add_stage(enum bench_mode mode, uint32_t sessions, uint32_t idle, bool is_real)
{
    struct stage *stage = &stages[phase.stage_count++];
    stage->setup = (struct bench_setup){.mode = mode,
                                        .sessions = sessions,
                                        .idle = idle,
                                        .is_real = is_real,
                                        .prompts = {2, {1, 128}}};
    return stage;
}

static void add_trip(struct stage *stage, uint32_t tokens, double a, double b, double c)
{
    struct bench_row *row = add_row(a, b, c);
    row->what = BENCH_FIRST_EVENT;
    row->stage = stage;
    row->prompt_tokens = tokens;
}

static uint32_t compare(void)
{
    return compare_rows(&phase, found, FOUND_MAX);
}

static void ways_of_waiting_are_held_against_spinning(void **state)
{
    add_trip(add_stage(BENCH_SPIN, 1, 0, false), 1, 10, 20, 30);
    add_trip(add_stage(BENCH_ADAPTIVE, 1, 0, false), 1, 11, 24, 36);
    assert_int_equal(compare(), 1);
    assert_int_equal(found[0].kind, COMPARE_WAITING);
    assert_ptr_equal(found[0].row, &rows[1]);
    assert_ptr_equal(found[0].base, &rows[0]);
    assert_true(fabs(found[0].p50_ratio - 1.2) < 1e-9); /* of 1.1, 1.2, 1.2 */
    assert_true(fabs(found[0].p99_ratio - 1.2) < 1e-9);
}

static void sleeping_is_held_against_the_kernels_own_means(void **state)
{
    add_exchange(EXCHANGE_FUTEX, 0, 10, 10, 10);
    add_exchange(EXCHANGE_EVENTFD, 0, 20, 20, 20);
    add_exchange(EXCHANGE_PIPE, 0, 20, 20, 20);
    add_trip(add_stage(BENCH_SLEEP, 1, 0, false), 1, 12, 13, 14);
    assert_int_equal(compare(), 2);
    assert_true(found[0].kind == COMPARE_KERNEL && found[1].kind == COMPARE_KERNEL);
    assert_true(fabs(found[0].p50_ratio - 1.3) < 1e-9);
    assert_true(fabs(found[1].p50_ratio - 0.65) < 1e-9);
}

static void company_is_held_against_being_alone(void **state)
{
    add_trip(add_stage(BENCH_SPIN, 1, 1000, false), 1, 11, 11, 11);
    add_trip(add_stage(BENCH_SPIN, 1, 0, false), 1, 10, 10, 10);
    add_trip(add_stage(BENCH_SPIN, 8, 0, false), 1, 15, 15, 15);
    assert_int_equal(compare(), 2);
    assert_true(found[0].kind == COMPARE_IDLE && found[0].base == &rows[1]);
    assert_true(fabs(found[0].p50_ratio - 1.1) < 1e-9);
    assert_true(found[1].kind == COMPARE_SESSIONS && found[1].base == &rows[1]);
    assert_true(fabs(found[1].p50_ratio - 1.5) < 1e-9);
}

static void what_a_prompt_adds_is_held_against_reading_it(void **state)
{
    add_exchange(EXCHANGE_READ, 4096, 1, 1, 1);
    add_exchange(EXCHANGE_READ, 128, 4, 4, 5);
    struct stage *stage = add_stage(BENCH_SPIN, 1, 0, false);
    add_trip(stage, 1, 10, 20, 30);
    add_trip(stage, 128, 16, 28, 35);
    assert_int_equal(compare(), 1);
    assert_int_equal(found[0].kind, COMPARE_PROMPT);
    assert_ptr_equal(found[0].base, &rows[1]);
    assert_true(fabs(found[0].p50_ratio - 1.5) < 1e-9); /* of 6/4, 8/4, 5/5 */
    assert_true(fabs(found[0].added_ns - 3) < 1e-9);    /* the median of 6, 8, 5, in half ns */
    assert_true(fabs(found[0].base_ns - 2) < 1e-9);
    assert_true(isnan(found[0].p99_ratio));
}

static void the_shortest_prompt_is_found_wherever_it_stands(void **state)
{
    add_exchange(EXCHANGE_READ, 128, 4, 4, 4);
    struct stage *spin = add_stage(BENCH_SPIN, 1, 0, false);
    struct stage *adaptive = add_stage(BENCH_ADAPTIVE, 1, 0, false);
    spin->setup.prompts = adaptive->setup.prompts = (struct bench_list){2, {128, 1}};
    add_trip(spin, 128, 16, 16, 16);
    add_trip(spin, 1, 10, 10, 10);
    add_trip(adaptive, 1, 30, 30, 30);
    assert_int_equal(compare(), 2);
    assert_true(found[0].kind == COMPARE_PROMPT && found[0].row == &rows[1]);
    assert_true(fabs(found[0].added_ns - 3) < 1e-9);
    assert_int_equal(found[0].shortest_tokens, 1);
    assert_true(found[1].kind == COMPARE_WAITING && found[1].row == &rows[3]);
}

static void what_a_prompt_adds_to_a_long_one_is_held_against_reading_the_difference(void **state)
{
    add_exchange(EXCHANGE_READ, 128, 3, 3, 3);
    add_exchange(EXCHANGE_READ, 64, 1, 1, 1);
    struct stage *stage = add_stage(BENCH_SPIN, 1, 0, false);
    stage->setup.prompts = (struct bench_list){2, {64, 128}};
    add_trip(stage, 64, 10, 10, 10);
    add_trip(stage, 128, 16, 16, 16);
    assert_int_equal(compare(), 1);
    assert_true(fabs(found[0].p50_ratio - 3) < 1e-9);
    assert_true(fabs(found[0].base_ns - 1) < 1e-9);
    assert_int_equal(found[0].shortest_tokens, 64);
}

static void without_enough_samples_in_a_block_no_p99_is_compared(void **state)
{
    add_trip(add_stage(BENCH_SPIN, 1, 0, false), 1, 10, 20, 30);
    add_trip(add_stage(BENCH_SLEEP, 1, 0, false), 1, 20, 40, 60);
    p99[1][0] = p99[1][1] = p99[1][2] = (double)NAN;
    assert_int_equal(compare(), 1);
    assert_true(fabs(found[0].p50_ratio - 2) < 1e-9);
    assert_true(isnan(found[0].p99_ratio));
}

static void a_real_model_is_held_against_nothing(void **state)
{
    add_exchange(EXCHANGE_FUTEX, 0, 10, 10, 10);
    add_exchange(EXCHANGE_READ, 128, 4, 4, 5);
    struct stage *stage = add_stage(BENCH_SLEEP, 1, 0, true);
    add_trip(stage, 1, 10, 20, 30);
    add_trip(stage, 128, 16, 28, 35);
    add_trip(add_stage(BENCH_SPIN, 1, 1000, false), 1, 11, 11, 11);
    assert_int_equal(compare(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(ways_of_waiting_are_held_against_spinning, begin),
        cmocka_unit_test_setup(sleeping_is_held_against_the_kernels_own_means, begin),
        cmocka_unit_test_setup(company_is_held_against_being_alone, begin),
        cmocka_unit_test_setup(what_a_prompt_adds_is_held_against_reading_it, begin),
        cmocka_unit_test_setup(the_shortest_prompt_is_found_wherever_it_stands, begin),
        cmocka_unit_test_setup(
            what_a_prompt_adds_to_a_long_one_is_held_against_reading_the_difference, begin),
        cmocka_unit_test_setup(without_enough_samples_in_a_block_no_p99_is_compared, begin),
        cmocka_unit_test_setup(a_real_model_is_held_against_nothing, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
