/*
 * A client that nobody harms: a process of its own that asks the same greedy conversations over and
 * over while others are killed beside it, and compares every token with those of a quiet run.
 */
#ifndef AGL_TESTS_INTEGRATION_WITNESS_H
#define AGL_TESTS_INTEGRATION_WITNESS_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/integration/daemon.h"

enum { WITNESSES = 3, WITNESS_JOBS = 4, WITNESS_TURNS = 2, WITNESS_TOKENS = 40 };

/* The answers of one witness, all of its jobs and turns. */
struct witness_answers {
    uint32_t tokens[WITNESS_JOBS][WITNESS_TURNS][WITNESS_TOKENS];
    uint32_t counts[WITNESS_JOBS][WITNESS_TURNS];
};

/* Shared by the witness and the test. */
struct witness_state {
    _Atomic uint32_t is_ready; /* connected */
    _Atomic uint32_t must_stop;
    _Atomic uint64_t answers; /* compared so far */
    _Atomic uint64_t tokens;
    char failure[256]; /* what went wrong; empty: nothing */
};

/* What witness `number` hears when nobody else is there. Fails the test if it cannot. */
void witness_listen(const struct daemon *daemon, uint32_t number,
                    struct witness_answers *ret_answers);

/* Forks witness `number`, which asks and compares until it is told to stop and exits with 0, or
 * with 1 and a failure. The caller is a process of one thread. */
pid_t witness_fork(const struct daemon *daemon, uint32_t number, struct witness_state *state,
                   const struct witness_answers *expected);

#endif
