/*
 * Times until which something is waited for: nanoseconds of CLOCK_MONOTONIC, UINT64_MAX for never.
 */
#ifndef AGL_CLIENT_DEADLINE_H
#define AGL_CLIENT_DEADLINE_H

#include <stdint.h>
#include <time.h>

enum { NS_PER_S = 1000000000 };

/* The time `ns` after now_ns; never, if that is beyond the end of the clock. */
uint64_t deadline_after(uint64_t now_ns, uint64_t ns);

/* Nanoseconds until then, 0 if it has passed; UINT64_MAX if it never comes. */
uint64_t deadline_left_ns(uint64_t deadline_ns);

/* A span as the system wants it. */
struct timespec deadline_timespec(uint64_t ns);

#endif
