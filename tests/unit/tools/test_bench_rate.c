/* Rows that take turns, and what their samples are told as. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>

#include "tests/support/test.h"
#include "tools/bench_limits.h"
#include "tools/bench_rate.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

static char turns[64];
static uint32_t turn_count;
static int step_error;
static int step_signal;

/* Notes whose turn it is; once in a row counts as once. */
static int note_turn(void *context)
{
    char name = *(const char *)context;
    if (turn_count < sizeof turns - 1 && (!turn_count || turns[turn_count - 1] != name))
        turns[turn_count++] = name;
    if (step_signal)
        raise(step_signal);
    return step_error;
}

static struct limits *open_limits(void)
{
    struct limits *limits;
    assert_int_equal(limits_open(&limits, "plain", 1 << 20), 0);
    return limits;
}

static void forget(void)
{
    memset(turns, 0, sizeof turns);
    turn_count = 0;
    step_error = step_signal = 0;
}

static void rows_take_turns_in_every_round(void **state)
{
    struct limits *limits = open_limits();
    struct rate_row rows[] = {
        {.name = "a", .step = note_turn, .context = "a", .bytes = 1, .macs = 1, .peak = LIMIT_F32},
        {.name = "b", .step = note_turn, .context = "b", .bytes = 1}};
    struct rate_phase phase = {
        .threads = 2, .rounds = 3, .round_ms = 1, .limits = limits, .rows = rows, .row_count = 2};
    forget();
    assert_int_equal(rate_run(&phase), 0);
    assert_string_equal(turns, "abababab"); /* once before the rounds */
    /* Each limit that there is, once a round, and again before each row that is held against it. */
    assert_int_equal(phase.measured_count[LIMIT_READ], 3 + 6);
    assert_int_equal(phase.measured_count[LIMIT_F32], 3 + 3);
    assert_int_equal(phase.measured_count[LIMIT_INT8], 0);
    assert_true(rate_limit(&phase, LIMIT_READ) > 0);
    assert_true(isnan(rate_limit(&phase, LIMIT_AMX)));
    for (int i = 0; i < 3; i++)
        assert_true(rows[0].seconds[i] > 0 && rows[0].read_shares[i] > 0 &&
                    rows[0].peak_shares[i] > 0);
    assert_int_equal(rate_run(&phase), 0); /* the limits of both are kept */
    assert_int_equal(phase.measured_count[LIMIT_READ], 2 * (3 + 6));
    rate_fini(&phase);
    limits_close(limits);
}

static void figures_are_medians_and_shares_of_their_own_round(void **state)
{
    double seconds[] = {0.5, 0.1, 0.2}, reads[] = {0.25, 0.75, 0.5}, peaks[] = {0.1, 0.3, 0.9};
    struct rate_row row = {.tokens = 4,
                           .bytes = 1000,
                           .macs = 300,
                           .peak = LIMIT_F32,
                           .seconds = seconds,
                           .read_shares = reads,
                           .peak_shares = peaks};
    struct rate_phase phase = {.rounds = 3};
    struct rate_result result = rate_result(&phase, &row);
    assert_true(result.seconds == 0.2);
    assert_true(fabs(result.tokens_per_s - 20) < 1e-9);
    assert_true(fabs(result.bytes_per_s - 5000) < 1e-9);
    assert_true(fabs(result.macs_per_s - 1500) < 1e-9);
    assert_true(result.read_share == 0.5 && result.peak_share == 0.3);
}

static void what_a_row_does_not_have_is_not_told(void **state)
{
    double seconds[] = {1, 1}, nothing[] = {0, 0}, not_measured[] = {NAN, 1};
    struct rate_row row = {
        .bytes = 10, .seconds = seconds, .read_shares = not_measured, .peak_shares = nothing};
    struct rate_phase phase = {.rounds = 2};
    struct rate_result result = rate_result(&phase, &row);
    assert_true(isnan(result.tokens_per_s) && isnan(result.macs_per_s));
    assert_true(isnan(result.read_share) && isnan(result.peak_share));
    assert_true(result.bytes_per_s == 10);
}

static void a_step_that_fails_ends_the_measurement(void **state)
{
    struct limits *limits = open_limits();
    struct rate_row rows[] = {{.name = "a", .step = note_turn, .context = "a"},
                              {.name = "b", .step = note_turn, .context = "b"}};
    struct rate_phase phase = {
        .threads = 1, .rounds = 3, .round_ms = 1, .limits = limits, .rows = rows, .row_count = 2};
    forget();
    step_error = -EIO;
    assert_int_equal(rate_run(&phase), CLI_FAILED);
    assert_string_equal(turns, "a");
    rate_fini(&phase);
    limits_close(limits);
}

/* Last: a signal that came is not forgotten. */
static void a_signal_ends_it_after_the_step(void **state)
{
    struct limits *limits = open_limits();
    struct rate_row rows[] = {{.name = "a", .step = note_turn, .context = "a"},
                              {.name = "b", .step = note_turn, .context = "b"}};
    struct rate_phase phase = {
        .threads = 1, .rounds = 3, .round_ms = 1, .limits = limits, .rows = rows, .row_count = 2};
    forget();
    bench_stop_catch();
    assert_false(*bench_stop_flag());
    step_signal = SIGINT;
    assert_int_equal(rate_run(&phase), CLI_INTERRUPTED);
    assert_string_equal(turns, "a");
    assert_true(*bench_stop_flag());
    rate_fini(&phase);
    limits_close(limits);
}

static void a_processor_has_the_limits_of_its_instructions(void **state)
{
    struct limits *limits = open_limits();
    assert_true(limits_have(limits, LIMIT_READ) && limits_have(limits, LIMIT_F32));
    assert_false(limits_have(limits, LIMIT_INT8) || limits_have(limits, LIMIT_AMX));
    assert_true(isnan(limits_measure(limits, LIMIT_INT8, 1)));
    limits_close(limits);
#if defined(__x86_64__)
    const char *isas[] = {"avx2", "avx512", "avx512vnni"};
    bool has[] = {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
                  __builtin_cpu_supports("avx512bw"), __builtin_cpu_supports("avx512vnni")};
    for (int i = 0; i < 3; i++) {
        if (!has[i])
            continue;
        assert_int_equal(limits_open(&limits, isas[i], 3 << 20), 0);
        for (uint32_t threads = 1; threads <= 3; threads++)
            for (int limit = LIMIT_READ; limit <= LIMIT_INT8; limit++)
                assert_true(limits_measure(limits, (enum limit)limit, threads) > 1e6);
        assert_false(limits_have(limits, LIMIT_AMX));
        limits_close(limits);
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_take_turns_in_every_round),
        cmocka_unit_test(figures_are_medians_and_shares_of_their_own_round),
        cmocka_unit_test(what_a_row_does_not_have_is_not_told),
        cmocka_unit_test(a_step_that_fails_ends_the_measurement),
        cmocka_unit_test(a_processor_has_the_limits_of_its_instructions),
        cmocka_unit_test(a_signal_ends_it_after_the_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
