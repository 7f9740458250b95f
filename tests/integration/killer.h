/*
 * Kills victims: after a random time, or at a random instruction. For the second, the victim is
 * stopped, either before a phase of its life or wherever it happens to be, made to step instruction
 * by instruction, and killed at the one that a die has chosen.
 */
#ifndef AGL_TESTS_INTEGRATION_KILLER_H
#define AGL_TESTS_INTEGRATION_KILLER_H

#include <stdbool.h>

#include "tests/integration/victim.h"

enum killer_way {
    KILLER_DELAY,     /* after a time within a life's duration */
    KILLER_MARK,      /* stopped before a phase, then stepped within its length */
    KILLER_INTERRUPT, /* stopped after a time, then stepped */
    KILLER_WAYS
};

struct killer {
    struct victim_state *state; /* shared with the victim of the moment */
    const char *socket_path;
    unsigned seed;
    bool may_trace;                       /* the kernel lets us stop and step a child */
    uint64_t life_ns;                     /* how long a life takes on the average */
    uint32_t marked;                      /* kills aimed from a phase so far */
    uint32_t phase_steps[VICTIM_PHASES];  /* how many instructions a phase took at the most */
    uintptr_t library_start, library_end; /* libautoglm's code in the victim */
};

/* What is known of one kill. */
struct kill {
    enum killer_way way;
    enum victim_phase phase;
    uint32_t steps;
    uint64_t place; /* the instruction that was to be next; 0: not known */
    bool is_in_library;
    bool has_session;
    uint32_t live_requests;
    uint32_t kept_requests;
    uint64_t kill_ns; /* just before kill() */
    uint64_t dead_ns; /* when the kernel said that it was dead */
};

/* Finds out how long a life and its phases are, by letting victims live. Fails the test if it
 * cannot; may_trace is false, and a loud line says so, if the kernel does not allow tracing. */
void killer_init(struct killer *ret_killer, const char *socket_path, unsigned seed);
void killer_fini(struct killer *killer);

/* Begets a victim and brings it to where it is to die; KILLER_DELAY if tracing is not allowed. */
pid_t killer_aim(struct killer *killer, enum killer_way way, struct kill *ret_kill);

/* Kills and reaps it. */
void killer_strike(struct killer *killer, pid_t pid, struct kill *kill_);

#endif
