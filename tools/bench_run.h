/*
 * Measuring a phase of the plan: everything in it takes turns, block by block, and before each turn
 * the bare exchange of a cache line is measured, in both ways of spinning. The turns are held
 * against the way that is faster on this machine: the limit.
 */
#ifndef AGL_TOOLS_BENCH_RUN_H
#define AGL_TOOLS_BENCH_RUN_H

#include "tools/bench_exchange.h"
#include "tools/bench_series.h"
#include "tools/bench_stage.h"

/* What a row of the table tells. */
enum bench_what {
    BENCH_EXCHANGE,    /* a round trip by another means, or EXCHANGE_READ */
    BENCH_FIRST_EVENT, /* the round trip: agl_submit() called until the first event is seen */
    BENCH_FIRST_TOKEN,
    BENCH_TAKEN,
    BENCH_PUBLISHED,
    BENCH_SEEN,
    BENCH_STEP, /* the first step begun until the token, as the daemon tells */
    BENCH_REST, /* BENCH_FIRST_TOKEN less BENCH_STEP, trip by trip */
    BENCH_SUBMIT,
    BENCH_POLL_EVENT,
    BENCH_POLL_EMPTY,
    BENCH_WHATS
};

struct bench_row {
    enum bench_what what;
    enum exchange_kind exchange; /* of BENCH_EXCHANGE */
    const struct stage *stage;   /* NULL: of BENCH_EXCHANGE */
    uint32_t prompt_tokens;      /* 0: does not apply */
    struct series series;
    const double *line_p50; /* [blocks]: of the limit, measured just before */
    uint32_t backwards;     /* samples that would be negative: stored as 0, and too many spoil it */
};

/* The row's name, without its set-up. */
const char *bench_row_name(const struct bench_row *row);

struct bench_phase {
    uint32_t blocks;
    uint32_t trips; /* of a block where nobody sleeps or computes */
    double ns_per_tick;
    struct exchange *exchange;
    struct stage *stages; /* [stage_count], all held */
    uint32_t stage_count;
    bool has_exchanges; /* measure the other means as well */

    /* Zero before bench_phase_run(). */
    struct bench_measurement *measurements;
    uint32_t measurement_count;
    struct bench_row *rows; /* [row_count] */
    uint32_t row_count;
    uint64_t *line_ticks; /* [trips] */
    double *lines;        /* [EXCHANGE_LINES, measurements, blocks]: medians, in ticks */
    double *lines_sorted; /* the same, for choosing the limit */

    /* The bare exchange of each kind, of EXCHANGE_LINES; medians over all its line_tries. The
     * faster one is the limit that the rows are held against. */
    enum exchange_kind limit;
    uint32_t line_tries;
    double line_p50_ns[EXCHANGE_LINES];
};

/* Trips of a block: fewer where somebody sleeps. */
uint32_t bench_trips(uint32_t trips, bool is_slow);

/* Lays out the rows with room for all samples, measures, and leaves them to be read. 0; CLI_FAILED
 * after a message; bench_stop_status(). bench_phase_fini() in any case. */
int bench_phase_run(struct bench_phase *phase);
void bench_phase_fini(struct bench_phase *phase);

#endif
