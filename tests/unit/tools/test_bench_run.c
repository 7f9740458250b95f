/* A phase without daemons: the other means, and the limit that everything is held against. */
#include "tests/support/test.h"
#include "tools/bench_run.h"

enum { BLOCKS = 3, TRIPS = 20 };

static void the_limit_is_the_faster_bare_exchange_and_every_row_is_held_against_it(void **state)
{
    struct exchange *exchange;
    assert_int_equal(exchange_open(&exchange, -1), 0);
    struct bench_phase phase = {.blocks = BLOCKS,
                                .trips = TRIPS,
                                .ns_per_tick = 2,
                                .exchange = exchange,
                                .has_exchanges = true};
    assert_int_equal(bench_phase_run(&phase), 0);
    enum exchange_kind slower = phase.limit == EXCHANGE_LINE ? EXCHANGE_LINE_PAUSE : EXCHANGE_LINE;
    uint32_t tries = BLOCKS * phase.row_count; /* a measurement has one row here */
    assert_true(phase.row_count >= EXCHANGE_KINDS - 2);
    assert_int_equal(phase.line_tries, tries);
    assert_true(phase.line_p50_ns[phase.limit] > 0);
    assert_true(phase.line_p50_ns[phase.limit] <= phase.line_p50_ns[slower]);
    for (uint32_t i = 0; i < phase.row_count; i++) {
        const double *its = phase.lines + (size_t)phase.limit * tries + (size_t)i * BLOCKS;
        assert_ptr_equal(phase.rows[i].line_p50, its);
        for (int block = 0; block < BLOCKS; block++)
            assert_true(its[block] > 0);
    }
    for (uint32_t kind = 0; kind < EXCHANGE_LINES; kind++) {
        double median = series_median(phase.lines + (size_t)kind * tries, tries);
        assert_true(median * phase.ns_per_tick == phase.line_p50_ns[kind]);
    }
    bench_phase_fini(&phase);
    exchange_close(exchange);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_limit_is_the_faster_bare_exchange_and_every_row_is_held_against_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
