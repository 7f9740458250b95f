/*
 * A clock for intervals of some ten nanoseconds: the time stamp counter where there is one.
 */
#ifndef AGL_TOOLS_BENCH_CLOCK_H
#define AGL_TOOLS_BENCH_CLOCK_H

#include <stdint.h>

#include <autoglm.h>

#if defined(__x86_64__)
#include <x86intrin.h>
static inline uint64_t bench_ticks(void)
{
    unsigned processor; /* rdtscp waits for earlier loads: the stamp cannot slide before them */
    return __rdtscp(&processor);
}
#else
static inline uint64_t bench_ticks(void)
{
    return agl_now_ns();
}
#endif

/* Nanoseconds of one tick; takes 50 ms. */
static inline double bench_ns_per_tick(void)
{
    uint64_t start_ns = agl_now_ns();
    uint64_t start = bench_ticks();
    while (agl_now_ns() - start_ns < 50000000)
        continue;
    uint64_t end_ns = agl_now_ns();
    return (double)(end_ns - start_ns) / (double)(bench_ticks() - start);
}

#endif
