/*
 * A client that is there to be killed: a process of its own that lives a client's whole life over
 * and over, in an order that its seed decides, and says in memory shared with its killer where it
 * is and what it holds.
 */
#ifndef AGL_TESTS_INTEGRATION_VICTIM_H
#define AGL_TESTS_INTEGRATION_VICTIM_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

/* The parts of a life; each but the first is one call of the library, or the work around it. */
enum victim_phase {
    VICTIM_BORN,
    VICTIM_CONNECT,
    VICTIM_PROMPT, /* agl_prompt(), and the ids written there */
    VICTIM_SUBMIT,
    VICTIM_CONTINUE, /* agl_submit() of a request that continues a kept one */
    VICTIM_POLL,
    VICTIM_WAIT_ADAPTIVE,
    VICTIM_WAIT_SPIN,
    VICTIM_WAIT_SLEEP,
    VICTIM_FD,     /* agl_fd(), poll() and agl_poll() */
    VICTIM_LOGITS, /* reads them where they lie */
    VICTIM_CANCEL,
    VICTIM_PRIORITY,
    VICTIM_FORGET,
    VICTIM_CLOSE,
    VICTIM_PHASES
};

extern const char *const victim_phase_names[VICTIM_PHASES];

/* Shared by victim and killer. */
struct victim_state {
    _Atomic uint32_t phase; /* enum victim_phase */
    _Atomic uint32_t marks; /* phases begun so far */
    _Atomic uint32_t lives; /* ended so far */
    _Atomic uint32_t has_session;
    _Atomic uint32_t live_requests;
    _Atomic uint32_t kept_requests;
    char failure[256]; /* what went wrong, if the victim ended by itself */
};

struct victim_plan {
    const char *socket_path;
    unsigned seed;
    uint32_t stop_phase; /* enum victim_phase: SIGSTOP before it begins; VICTIM_BORN: never */
    uint32_t stop_count; /* the how manieth time, from 1 */
};

/* Forks a victim. The caller is a process of one thread. */
pid_t victim_fork(struct victim_state *state, const struct victim_plan *plan);

#endif
