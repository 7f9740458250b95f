/*
 * Rows held against each other instead of against the bare exchange, block by block: what the goals
 * of the transport are about.
 */
#ifndef AGL_TOOLS_BENCH_COMPARE_H
#define AGL_TOOLS_BENCH_COMPARE_H

#include "tools/bench_run.h"

enum compare_kind {
    COMPARE_WAITING,  /* a way of waiting with spinning */
    COMPARE_KERNEL,   /* sleeping with a bare futex or eventfd */
    COMPARE_SESSIONS, /* more sessions with the fewest */
    COMPARE_IDLE,     /* idle sessions beside with none */
    COMPARE_PROMPT    /* what a prompt adds to the shortest one with reading once what it adds */
};

struct comparison {
    enum compare_kind kind;
    const struct bench_row *row; /* its BENCH_FIRST_EVENT */
    const struct bench_row *base;
    double p50_ratio;         /* medians over the blocks; of COMPARE_PROMPT the only one */
    double p99_ratio;         /* NAN: does not apply, or a block has too few samples for it */
    double added_ns;          /* COMPARE_PROMPT */
    double base_ns;           /* COMPARE_PROMPT: reading once */
    uint32_t shortest_tokens; /* COMPARE_PROMPT */
};

/* At the most: with spinning, a futex, an eventfd, the fewest sessions, none idle, reading. */
enum { COMPARISONS_OF_A_ROW = 6 };

/* Finds what can be compared among the rows of a phase; how many went to ret_comparisons
 * [capacity]. Blocks may be sorted away, their quantiles are what is used. */
uint32_t compare_rows(const struct bench_phase *phase, struct comparison *ret_comparisons,
                      uint32_t capacity);

#endif
