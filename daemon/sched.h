/*
 * Decides what the next step computes: a pure function of the state it is given, without a clock
 * and without memory of its own.
 *
 * A sequence that generates takes one row, and all of these come first: who streams already keeps
 * streaming. What is left of the step's rows goes to prompts, first come, first served, in chunks,
 * so that a long prompt cannot stop the others.
 */
#ifndef AGL_DAEMON_SCHED_H
#define AGL_DAEMON_SCHED_H

#include <stdbool.h>
#include <stdint.h>

/* One running sequence, in the order in which they were started. */
struct sched_sequence {
    uint32_t pending; /* tokens known but not computed; the logits of the last give the next */
    bool may_sample;  /* there is room to tell the client another token; else all but the last
                         pending token may be computed */
};

struct sched_limits {
    uint32_t step_tokens;  /* rows of one step, at least 1 */
    uint32_t chunk_tokens; /* rows of one sequence in a step, at least 1 */
};

/* The part of one sequence in the step. */
struct sched_pick {
    uint32_t sequence; /* index in the input */
    uint32_t tokens;   /* rows: its first so many pending tokens */
    bool sample;       /* the last row is the last pending token: a token follows from it */
};

/* Plans one step: writes at most `count` picks and returns how many. Sequences that generate are
 * taken from index `first` on, so that a caller with more of them than rows can rotate. Picks come
 * in ascending order of their sequence within each of the two groups. */
uint32_t sched_plan(const struct sched_limits *limits, const struct sched_sequence *sequences,
                    uint32_t count, uint32_t first, struct sched_pick *ret_picks);

#endif
