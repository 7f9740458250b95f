#include "tools/bench_series.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- samples --------------------------------------------------------------------------------- */

/* Zeroed, and every page of it touched. */
static void *touched(size_t count, size_t bytes)
{
    void *memory = calloc(count, bytes);
    if (memory)
        memset(memory, 0xff, count * bytes); /* calloc()'s zeros may be one page, mapped often */
    return memory;
}

int series_init(struct series *series, uint32_t blocks, uint32_t trips)
{
    *series = (struct series){.blocks = blocks, .trips = trips};
    series->ticks = touched((size_t)blocks * trips, sizeof *series->ticks);
    series->block_p50 = touched(blocks, sizeof *series->block_p50);
    series->block_p99 = touched(blocks, sizeof *series->block_p99);
    if (series->ticks && series->block_p50 && series->block_p99)
        return 0;
    series_fini(series);
    return -ENOMEM;
}

void series_fini(struct series *series)
{
    free(series->ticks);
    free(series->block_p50);
    free(series->block_p99);
    *series = (struct series){0};
}

static int compare_ticks(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

uint64_t *series_block(struct series *series, uint32_t block)
{
    return series->ticks + (size_t)block * series->trips;
}

/* Whether enough samples lie beyond the quantile for it to mean something. */
static bool has_enough(size_t count, double q)
{
    return (1 - q) * (double)count >= SERIES_BEYOND - 1e-6;
}

void series_close_block(struct series *series, uint32_t block)
{
    uint64_t *ticks = series_block(series, block);
    qsort(ticks, series->trips, sizeof *ticks, compare_ticks);
    series->block_p50[block] = (double)series_quantile(ticks, series->trips, 0.5);
    series->block_p99[block] = has_enough(series->trips, 0.99)
                                   ? (double)series_quantile(ticks, series->trips, 0.99)
                                   : (double)NAN;
}

/* ---- figures --------------------------------------------------------------------------------- */

/* The nearest rank: the smallest sample with at least q * count samples up to it. */
uint64_t series_quantile(const uint64_t *ticks, size_t count, double q)
{
    double rank = ceil(q * (double)count - 1e-6); /* 0.99 * 100 is a little more than 99 */
    size_t index = rank < 1 ? 0 : (size_t)rank - 1;
    return ticks[index < count ? index : count - 1];
}

static double figure(const struct series *series, double q, double ns_per_tick)
{
    size_t count = (size_t)series->blocks * series->trips;
    if (!has_enough(count, q))
        return NAN;
    return (double)series_quantile(series->ticks, count, q) * ns_per_tick;
}

void series_summarise(struct series *series, double ns_per_tick, struct summary *ret_summary)
{
    size_t count = (size_t)series->blocks * series->trips;
    qsort(series->ticks, count, sizeof *series->ticks, compare_ticks);
    *ret_summary = (struct summary){
        .samples = count,
        .p50 = figure(series, 0.5, ns_per_tick),
        .p99 = figure(series, 0.99, ns_per_tick),
        .p999 = figure(series, 0.999, ns_per_tick),
        .max = count ? (double)series->ticks[count - 1] * ns_per_tick : (double)NAN,
    };
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

double series_median(double *values, uint32_t count)
{
    if (count == 0)
        return NAN;
    qsort(values, count, sizeof *values, compare_doubles);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

double series_ratio(const double *a, const double *b, uint32_t blocks)
{
    double *ratios = blocks ? malloc(blocks * sizeof *ratios) : NULL;
    double median = NAN;
    uint32_t good = 0;
    for (uint32_t i = 0; ratios && i < blocks && b[i] > 0 && !isnan(a[i]); i++)
        ratios[good++] = a[i] / b[i];
    if (ratios && good == blocks)
        median = series_median(ratios, blocks);
    free(ratios);
    return median;
}

uint32_t series_least_median(double *const *values, uint32_t lists, uint32_t count,
                             double *ret_medians)
{
    uint32_t least = 0;
    for (uint32_t i = 0; i < lists; i++) {
        ret_medians[i] = series_median(values[i], count);
        if (ret_medians[i] < ret_medians[least])
            least = i;
    }
    return least;
}

/* ---- the histogram --------------------------------------------------------------------------- */

/* Below 4 a value is its own bucket. From there on the highest bit chooses the octave and the two
 * bits behind it the quarter. */
unsigned histogram_bucket(uint64_t ns)
{
    if (ns < 4)
        return (unsigned)ns;
    unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
    return 4 * (octave - 1) + (unsigned)(ns >> (octave - 2) & 3);
}

uint64_t histogram_from(unsigned bucket)
{
    if (bucket < 4)
        return bucket;
    if (bucket >= HISTOGRAM_BUCKETS)
        return UINT64_MAX;
    unsigned octave = bucket / 4 + 1;
    return (uint64_t)(4 + bucket % 4) << (octave - 2);
}

void histogram_fill(struct histogram *ret_histogram, const struct series *series,
                    double ns_per_tick)
{
    size_t count = (size_t)series->blocks * series->trips;
    *ret_histogram = (struct histogram){{0}};
    for (size_t i = 0; i < count; i++)
        ret_histogram
            ->counts[histogram_bucket((uint64_t)((double)series->ticks[i] * ns_per_tick))]++;
}
