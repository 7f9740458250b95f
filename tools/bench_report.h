/*
 * The figures of `autoglm bench dispatch`, phase by phase, as a table or as JSON (bench_output.h).
 */
#ifndef AGL_TOOLS_BENCH_REPORT_H
#define AGL_TOOLS_BENCH_REPORT_H

#include "tools/bench_output.h"
#include "tools/bench_run.h"

struct report;

/* -ENOMEM. output and options are the caller's and stay. */
int report_open(struct report **ret_report, struct output *output,
                const struct bench_options *options);
/* NULL does nothing. */
void report_close(struct report *report);

/* A measured phase: prints its table, or keeps it as JSON. processors: [2], NULL: not pinned. Its
 * samples are sorted, blocks are lost. -ENOMEM. */
int report_phase(struct report *report, struct bench_phase *phase, const int *processors);

#endif
