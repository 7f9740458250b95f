/*
 * Users beside each other at one daemon, for the tests of it: the daemon as a user of its own, and
 * what the children that act as the others share with the test.
 */
#ifndef AGL_TESTS_INTEGRATION_USERS_H
#define AGL_TESTS_INTEGRATION_USERS_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/integration/actor.h"
#include "tests/integration/daemon.h"
#include "tests/support/stranger.h"

struct world {
    char socket_path[108];
    pid_t daemon_pid;
    int daemon_fd;         /* one of shared memory */
    uintptr_t daemon_half; /* where a half is mapped */
    pid_t victim, reader;
    int victim_fd;
    uintptr_t victim_half;
    uint32_t running, kept; /* requests of the victim */
};

extern struct world *world; /* shared memory; NULL: world_open() was not called */

extern const struct who user_a, user_b;

/* Tells the children of a daemon that everybody can reach; and stops it, expecting that nothing is
 * left of anybody. */
void world_open(const struct daemon *daemon);
void world_close(struct daemon *daemon);

/* Starts autoglmd as ACTOR_DAEMON, and opens the world. */
void world_start(struct daemon *ret_daemon, const char *const *flags);

/* Whether the program has to be skipped, and says so loudly. */
bool users_without_root(void);

/* ---- for the children: each ends the child if it does not work ---- */

void come_in(struct stranger *ret_stranger, const char *name);
void push(struct stranger *stranger, const struct submission *submission);
void next_event(struct stranger *stranger, struct event *ret_event);

/* Reads until the request is done; its tokens are those of an echo of 1, 2, ..., prompt_tokens. */
void hear_out(struct stranger *stranger, uint32_t id, uint32_t prompt_tokens,
              struct event *ret_done);

#endif
