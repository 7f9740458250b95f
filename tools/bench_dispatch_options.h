/*
 * The options of `autoglm bench dispatch`.
 */
#ifndef AGL_TOOLS_BENCH_DISPATCH_OPTIONS_H
#define AGL_TOOLS_BENCH_DISPATCH_OPTIONS_H

#include "tools/bench_plan.h"

/* Reads them; strings point into argv. -1: go on; otherwise the exit status, after a message or the
 * usage. */
int bench_dispatch_parse(struct bench_options *ret_options, int argc, char **argv);

#endif
