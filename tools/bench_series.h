/*
 * What repeated measurements give: samples in blocks, their quantiles, ratios block by block, and a
 * histogram.
 *
 * Samples are ticks of bench_clock.h. All memory is there, and touched, before the first of them.
 */
#ifndef AGL_TOOLS_BENCH_SERIES_H
#define AGL_TOOLS_BENCH_SERIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct series {
    uint64_t *ticks;   /* [blocks, trips]; a block is sorted once it is complete */
    double *block_p50; /* [blocks], in ticks */
    double *block_p99; /* [blocks]; NAN: a block has too few samples for it */
    uint32_t blocks;
    uint32_t trips; /* of a block */
};

/* In ns. What there were not enough samples for is NAN: a quantile wants SERIES_BEYOND of them
 * beyond it. */
enum { SERIES_BEYOND = 5 };
struct summary {
    uint64_t samples;
    double p50, p99, p999, max;
};

/* Of log-spaced buckets, four an octave; values are ns. */
enum { HISTOGRAM_BUCKETS = 4 + 62 * 4 };
struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
};

/* -ENOMEM. */
int series_init(struct series *series, uint32_t blocks, uint32_t trips);
/* Frees what series_init() made; does nothing to a series of zeros. */
void series_fini(struct series *series);

/* The place for the samples of a block, [trips]; and what to call when they are there. */
uint64_t *series_block(struct series *series, uint32_t block);
void series_close_block(struct series *series, uint32_t block);

/* The sample that the share `q` of all samples does not exceed; count >= 1, ticks sorted. */
uint64_t series_quantile(const uint64_t *ticks, size_t count, double q);

/* The figures of all blocks. Sorts all samples: blocks are gone, their quantiles stay. */
void series_summarise(struct series *series, double ns_per_tick, struct summary *ret_summary);

/* The median over the blocks of a[i] / b[i]; NAN without blocks, or where an a[i] is NAN or a b[i]
 * is not above 0. */
double series_ratio(const double *a, const double *b, uint32_t blocks);

/* The median of values, which it sorts; NAN without any. */
double series_median(double *values, uint32_t count);

/* Which of the lists, [lists][count], has the least median. Sorts them; their medians go to
 * ret_medians [lists]. lists >= 1. */
uint32_t series_least_median(double *const *values, uint32_t lists, uint32_t count,
                             double *ret_medians);

void histogram_fill(struct histogram *ret_histogram, const struct series *series,
                    double ns_per_tick);
/* The bucket of a value, and the values [from, to) of a bucket. */
unsigned histogram_bucket(uint64_t ns);
uint64_t histogram_from(unsigned bucket);

#endif
