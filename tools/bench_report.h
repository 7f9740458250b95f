/*
 * The figures as a table for people or as JSON for programs. What was not measured is not there, or
 * "-" (null) where the samples do not suffice.
 */
#ifndef AGL_TOOLS_BENCH_REPORT_H
#define AGL_TOOLS_BENCH_REPORT_H

#include "tools/bench_run.h"

struct report;

/* -ENOMEM. options are the caller's and stay. */
int report_open(struct report **ret_report, const struct bench_options *options);
/* NULL does nothing. */
void report_close(struct report *report);

/* A sentence about what is missing or doubtful: under the table. */
__attribute__((format(printf, 2, 3))) void report_note(struct report *report, const char *format,
                                                       ...);

/* A measured phase: prints its table, or keeps it as JSON. processors: [2], NULL: not pinned. Its
 * samples are sorted, blocks are lost. */
void report_phase(struct report *report, struct bench_phase *phase, const int *processors);

/* The end of all phases: prints the notes, or all the JSON. */
void report_finish(struct report *report);

#endif
