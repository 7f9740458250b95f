/*
 * Being told to stop while measuring: a signal only leaves its number here, and every loop and
 * every wait of the benchmark looks at it within a tenth of a second or so.
 */
#ifndef AGL_TOOLS_BENCH_STOP_H
#define AGL_TOOLS_BENCH_STOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    BENCH_LOOK_NS = 100 * 1000 * 1000, /* how often a wait looks whether it should go on */
    /* The other side of a measurement that is silent for longer is lost. It may have to share its
     * processor with many others. */
    BENCH_PATIENCE_S = 60
};

/* From now on SIGINT, SIGTERM and SIGHUP are noted, unless they are ignored; SIGPIPE is ignored. */
void bench_stop_catch(void);

/* The signal that came; 0: none. */
int bench_stop_signal(void);

/* True once one came: for work that looks at a flag of its caller's. */
const atomic_bool *bench_stop_flag(void);

/* The exit status that tells of it, 128 + signal; 0: none came. */
int bench_stop_status(void);

/* Between the two, a system call that blocks ends with EINTR every BENCH_LOOK_NS, so that one
 * without a limit of its own has one. */
void bench_tick_begin(void);
void bench_tick_end(void);

/* When a wait that begins now has lasted too long: CLOCK_MONOTONIC, ns. */
uint64_t bench_give_up_ns(void);

/* Whether a wait goes on: nobody told us to stop, and it is not too late. */
bool bench_may_wait(uint64_t give_up_ns);

#endif
