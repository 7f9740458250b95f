/*
 * What the stress programs share. They are plain programs without cmocka, so that they can be built
 * once more with flags of their own: with ThreadSanitizer, and with one ordering weakened.
 *
 * Exit codes: 0 well; 1 a failure, named on stderr; 66 a report of ThreadSanitizer; 77 skipped.
 */
#ifndef AGL_TESTS_STRESS_H
#define AGL_TESTS_STRESS_H

#include <assert.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { STRESS_SKIPPED = 77 };

static inline uint64_t stress_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline int stress_processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) < 0 ? 1 : CPU_COUNT(&set);
}

/* Ends the program if there is only one processor: then nothing happens at the same time. */
static inline void stress_need_two_processors(const char *what)
{
    if (stress_processors() >= 2)
        return;
    fprintf(stderr, "\n*** SKIPPED: %s needs two processors, one is there.\n\n", what);
    exit(STRESS_SKIPPED);
}

#define STRESS_FAIL(...)              \
    do {                              \
        fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr);          \
        _exit(1);                     \
    } while (0)

/* xorshift: each thread its own state, never 0. */
static inline uint32_t stress_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Waits a little; gives the processor away now and then, since there may be only one. */
static inline void stress_pause(uint32_t *turns)
{
    if (++*turns % 128 == 0)
        sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static inline void stress_delay(uint32_t pauses)
{
    for (uint32_t i = 0; i < pauses; i++) {
        uint32_t turns = 0;
        stress_pause(&turns);
    }
}

#endif
