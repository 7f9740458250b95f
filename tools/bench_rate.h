/*
 * Work whose bytes and multiply-adds are known, measured in rounds beside the machine's limits, and
 * told as shares of them: what `bench engine` and `bench kernels` have in common.
 *
 * In each round each row takes its turn: first reading and the row's peak are measured, with as
 * many threads as the row uses, then the row for a while; and each limit at the round's begin. A
 * figure is the median over the rounds; a share is the median of the rounds' own shares, each to
 * what was measured just before.
 */
#ifndef AGL_TOOLS_BENCH_RATE_H
#define AGL_TOOLS_BENCH_RATE_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/bench_limits.h"
#include "tools/bench_output.h"

enum { RATE_NAME_BYTES = 64 };

struct rate_row {
    char name[RATE_NAME_BYTES];
    int (*step)(void *context); /* 0 or a negative errno */
    void *context;

    /* Of one step. 0: it has none, and no rate of them is told. */
    double tokens;
    double bytes;
    double macs;
    enum limit peak; /* that macs are held against */

    double *seconds; /* [rounds] of a step, and so on; the phase's */
    double *read_shares;
    double *peak_shares;
};

/* The medians of a row. NAN: it has none. */
struct rate_result {
    double seconds;
    double tokens_per_s;
    double bytes_per_s, read_share;
    double macs_per_s, peak_share;
};

/* Rows that take turns. One phase may measure several sets of rows, one after the other: what the
 * limits were is kept for all of them. */
struct rate_phase {
    uint32_t threads, rounds, round_ms;
    const char *isa;
    struct limits *limits;
    struct rate_row *rows; /* [row_count], the caller's */
    uint32_t row_count;

    /* Zero before rate_run(). */
    double *measured[LIMITS]; /* [measured_count[limit]] */
    uint32_t measured_count[LIMITS];
    double *samples; /* behind the rows, until the next rate_run() */
};

/* Measures. 0; CLI_FAILED after a message; bench_stop_status(): told to stop, which is seen
 * between two steps. rate_fini() in any case. */
int rate_run(struct rate_phase *phase);
void rate_fini(struct rate_phase *phase);

/* Sorts the samples. */
struct rate_result rate_result(struct rate_phase *phase, const struct rate_row *row);
double rate_limit(struct rate_phase *phase, enum limit limit);

/* ---- telling --------------------------------------------------------------------------------- */

/* The table's lines. */
void rate_print_limits(struct rate_phase *phase);
void rate_print_heading(bool has_tokens);
void rate_print_row(const struct rate_row *row, const struct rate_result *result, bool has_tokens);

/* JSON: {"threads", "read_bytes_per_s", "f32_macs_per_s", ...} into an array, and a row's figures
 * into its object. */
void rate_add_limits(cJSON *array, struct rate_phase *phase);
void rate_add_row(cJSON *object, const struct rate_row *row, const struct rate_result *result);

#endif
