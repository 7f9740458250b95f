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

/* Both clocks at about one moment: of several readings the one that took the least time, since we
 * may lose the processor in between. */
struct bench_moment {
    uint64_t ns;
    uint64_t ticks;
};

static inline struct bench_moment bench_now(void)
{
    struct bench_moment best = {0};
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 64; i++) {
        uint64_t before = bench_ticks();
        uint64_t ns = agl_now_ns();
        uint64_t took = bench_ticks() - before;
        if (took >= least)
            continue;
        least = took;
        best = (struct bench_moment){.ns = ns, .ticks = before + took / 2};
    }
    return best;
}

/* Nanoseconds of one tick; takes 50 ms. */
static inline double bench_ns_per_tick(void)
{
    struct bench_moment start = bench_now();
    while (agl_now_ns() - start.ns < 50000000)
        continue;
    struct bench_moment end = bench_now();
    return (double)(end.ns - start.ns) / (double)(end.ticks - start.ticks);
}

#endif
