/* Samples, quantiles, ratios and histograms of the benchmark. */
#include <math.h>
#include <string.h>

#include "tests/support/test.h"
#include "tools/bench_series.h"

static void a_quantile_is_the_sample_that_so_many_do_not_exceed(void **state)
{
    uint64_t ticks[100];
    for (uint64_t i = 0; i < 100; i++)
        ticks[i] = i + 1;
    assert_int_equal(series_quantile(ticks, 100, 0.5), 50);
    assert_int_equal(series_quantile(ticks, 100, 0.99), 99);
    assert_int_equal(series_quantile(ticks, 100, 0.999), 100);
    assert_int_equal(series_quantile(ticks, 100, 1), 100);
    assert_int_equal(series_quantile(ticks, 100, 0), 1);
    assert_int_equal(series_quantile(ticks, 1, 0.5), 1);
    assert_int_equal(series_quantile(ticks, 3, 0.5), 2);
}

static void blocks_keep_their_own_quantiles(void **state)
{
    struct series series;
    struct summary summary;
    assert_int_equal(series_init(&series, 2, 3), 0);
    memcpy(series_block(&series, 0), (const uint64_t[]){30, 10, 20}, 3 * sizeof(uint64_t));
    memcpy(series_block(&series, 1), (const uint64_t[]){5, 7, 6}, 3 * sizeof(uint64_t));
    series_close_block(&series, 0);
    series_close_block(&series, 1);
    series_summarise(&series, 2.0, &summary);
    assert_true(series.block_p50[0] == 20 && series.block_p50[1] == 6);
    assert_true(isnan(series.block_p99[0]) && isnan(series.block_p99[1])); /* of three samples */
    assert_int_equal(summary.samples, 6);
    assert_true(summary.max == 60);
    series_fini(&series);
    series_fini(&series);
}

static void a_block_tells_its_p99_if_enough_samples_lie_beyond(void **state)
{
    struct series series;
    for (uint32_t trips = 499; trips <= 500; trips++) {
        assert_int_equal(series_init(&series, 1, trips), 0);
        for (uint32_t i = 0; i < trips; i++)
            series_block(&series, 0)[i] = i + 1;
        series_close_block(&series, 0);
        assert_true(trips < 500 ? isnan(series.block_p99[0]) : series.block_p99[0] == 495);
        series_fini(&series);
    }
}

static void the_list_with_the_least_median_is_found(void **state)
{
    double a[] = {9, 1, 9, 9, 9};
    double b[] = {8, 8, 30, 2, 30};
    double medians[2];
    assert_int_equal(series_least_median((double *const[]){a, b}, 2, 5, medians), 1);
    assert_true(medians[0] == 9 && medians[1] == 8);
    assert_int_equal(series_least_median((double *const[]){b, a}, 2, 5, medians), 0);
    assert_int_equal(series_least_median((double *const[]){a, a}, 2, 5, medians), 0);
}

static struct summary summary_of(uint32_t blocks, uint32_t trips)
{
    struct series series;
    struct summary summary;
    assert_int_equal(series_init(&series, blocks, trips), 0);
    for (uint32_t block = 0; block < blocks; block++) {
        for (uint32_t i = 0; i < trips; i++)
            series_block(&series, block)[i] = (uint64_t)block * trips + i + 1;
        series_close_block(&series, block);
    }
    series_summarise(&series, 1.0, &summary);
    series_fini(&series);
    return summary;
}

static void a_quantile_without_enough_samples_beyond_it_is_not_told(void **state)
{
    struct summary few = summary_of(1, 9);
    struct summary some = summary_of(5, 100);
    struct summary less = summary_of(1, 499);
    struct summary many = summary_of(5, 1000);
    assert_true(isnan(few.p50) && few.max == 9);
    assert_true(some.p50 == 250 && some.p99 == 495 && isnan(some.p999));
    assert_true(less.p50 == 250 && isnan(less.p99));
    assert_true(many.p99 == 4950 && many.p999 == 4995 && many.max == 5000);
}

static void a_ratio_is_the_median_of_the_blocks_ratios(void **state)
{
    const double a[] = {2, 30, 4, 100};
    const double b[] = {1, 10, 1, 10};
    const double none[] = {1, 0, 1, 1};
    assert_true(series_ratio(a, b, 3) == 3);
    assert_true(series_ratio(a, b, 4) == 3.5);
    assert_true(isnan(series_ratio(a, none, 4)));
    assert_true(isnan(series_ratio(a, b, 0)));
    assert_true(isnan(series_ratio((const double[]){NAN, 30, 4}, b, 3)));
}

static void every_value_lies_within_its_bucket(void **state)
{
    for (unsigned shift = 0; shift < 64; shift++) {
        for (int64_t off = -1; off <= 1; off++) {
            uint64_t ns = ((uint64_t)1 << shift) + (uint64_t)off;
            unsigned bucket = histogram_bucket(ns);
            assert_true(bucket < HISTOGRAM_BUCKETS);
            assert_true(histogram_from(bucket) <= ns);
            assert_true(ns < histogram_from(bucket + 1) || bucket == HISTOGRAM_BUCKETS - 1);
        }
    }
}

static void buckets_grow_by_a_quarter_of_an_octave(void **state)
{
    for (unsigned bucket = 0; bucket + 1 < HISTOGRAM_BUCKETS; bucket++) {
        uint64_t from = histogram_from(bucket);
        uint64_t width = histogram_from(bucket + 1) - from;
        assert_true(width >= 1);
        if (bucket >= 4)
            assert_true(width <= from / 4 && from / 8 < width);
    }
}

static void a_histogram_holds_every_sample(void **state)
{
    struct series series;
    struct histogram histogram;
    assert_int_equal(series_init(&series, 1, 4), 0);
    memcpy(series_block(&series, 0), (const uint64_t[]){100, 101, 3, 1000000},
           4 * sizeof(uint64_t));
    histogram_fill(&histogram, &series, 1.0);
    assert_int_equal(histogram.counts[histogram_bucket(100)], 2);
    assert_int_equal(histogram.counts[histogram_bucket(3)], 1);
    assert_int_equal(histogram.counts[histogram_bucket(1000000)], 1);
    uint64_t sum = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        sum += histogram.counts[i];
    assert_int_equal(sum, 4);
    series_fini(&series);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quantile_is_the_sample_that_so_many_do_not_exceed),
        cmocka_unit_test(blocks_keep_their_own_quantiles),
        cmocka_unit_test(a_block_tells_its_p99_if_enough_samples_lie_beyond),
        cmocka_unit_test(the_list_with_the_least_median_is_found),
        cmocka_unit_test(a_quantile_without_enough_samples_beyond_it_is_not_told),
        cmocka_unit_test(a_ratio_is_the_median_of_the_blocks_ratios),
        cmocka_unit_test(every_value_lies_within_its_bucket),
        cmocka_unit_test(buckets_grow_by_a_quarter_of_an_octave),
        cmocka_unit_test(a_histogram_holds_every_sample),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
