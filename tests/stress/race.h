/*
 * What the parts of race_writer share: hostile clients that keep writing into their half of the
 * memory while the daemon reads it, and witnesses that are served beside them.
 *
 *   race_writer.c    the daemon, the processes, the verdict
 *   race_gang.c      one hostile client: a speaker that knows the protocol, and racing threads
 *   race_witness.c   one honest client, whose answers must be those of a quiet daemon
 *
 * The processes are forked from the test; the daemon is a process of its own, so that a sanitizer
 * in it sees its own threads and nothing of this.
 */
#ifndef AGL_TESTS_STRESS_RACE_H
#define AGL_TESTS_STRESS_RACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/integration/daemon.h"

enum { RACE_ECHO = 0, RACE_STORY = 1, RACE_MODELS = 2 };
enum { RACE_JOBS = 16, RACE_PROMPT_MAX = 48, RACE_ANSWER_MAX = 16 };

enum { RACE_HABITS = 6, RACE_STROKES = 11 };

/* What one habit has done. */
struct race_habit_tally {
    _Atomic uint64_t submissions;           /* published by its speaker */
    _Atomic uint64_t sessions;              /* handshakes that ended with READY */
    _Atomic uint64_t ended;                 /* of these, by the daemon */
    _Atomic uint64_t strokes[RACE_STROKES]; /* written by its racing threads, by kind */
};

/* Counted by the children, in memory that they share with the test. All relaxed: sums. */
struct race_tally {
    struct race_habit_tally habits[RACE_HABITS];
    _Atomic uint64_t turned_away; /* handshakes that did not end with READY */
    _Atomic uint64_t tokens;      /* that the daemon computed for the hostile */
    _Atomic uint64_t halts;       /* stopped in the middle of a publication */
    _Atomic uint64_t answers;     /* compared by witnesses */
    _Atomic uint64_t asked_again; /* requests of witnesses that the daemon had no room for */
    _Atomic uint64_t slowest_ns;  /* answer of a witness */
};

static inline void race_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* A request whose answer is known. */
struct race_job {
    struct agl_request request;
    uint32_t prompt[RACE_PROMPT_MAX];
    uint32_t answer[RACE_ANSWER_MAX];
    uint32_t answer_tokens;
};

struct race {
    const struct daemon *daemon;
    struct race_tally *tally;
    uint32_t vocab_size[RACE_MODELS];
    struct race_job jobs[RACE_JOBS];
};

/* ---- race_witness.c -------------------------------------------------------------------------- */

/* Makes the jobs and asks them, alone with the daemon. */
void race_prepare(struct race *race);

/* Asks them again and again, in another order each time, until it is killed; ends the process with
 * 1 and a line on stderr if an answer is another one or takes too long. */
_Noreturn void race_witness(const struct race *race, uint32_t seed);

/* ---- race_gang.c ----------------------------------------------------------------------------- */

const char *race_habit_name(uint32_t habit);
const char *race_stroke_name(uint32_t stroke);

/* Whether it belongs to the habit. */
bool race_has_stroke(uint32_t habit, uint32_t stroke);

/* Whether it says or becomes what is wrong so often that the daemon must end it. */
bool race_is_wrong(uint32_t habit);

/* Runs until it is killed. */
_Noreturn void race_gang(const struct race *race, uint32_t habit, uint32_t seed);

#endif
