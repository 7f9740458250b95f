/*
 * Who is connected, and what each user (uid) has at once, over all of his connections. Budgets are
 * counted here; whoever spends one compares it with its limit first.
 */
#ifndef AGL_DAEMON_USERS_H
#define AGL_DAEMON_USERS_H

#include <stdint.h>
#include <sys/types.h>

#include "shm/layout.h"

/* The engine's part: what of a user waits in the queue. Touched by the engine's thread alone. */
struct user_queue {
    uint32_t requests;
    uint64_t tokens; /* of their prompts, not computed yet */
};

struct user {
    struct user *next;
    uid_t uid;
    uint32_t connections;  /* the entry lives as long as there are any */
    uint32_t half_open;    /* in the handshake */
    uint32_t burying;      /* what they sent instead of memory is not closed yet */
    uint32_t sessions;     /* hold the memory of one, closed ones included */
    uint64_t memory_bytes; /* both halves of all sessions, ours of closed ones */
    _Alignas(LAYOUT_PAIR_BYTES) struct user_queue queue;
};

/* All users that have a connection. Control thread. */
struct users {
    struct user *first;
};

/* The user's entry, with one more connection. NULL: no memory. */
struct user *users_enter(struct users *users, uid_t uid);

/* One connection less; the entry goes with its last one. NULL does nothing. */
void users_leave(struct users *users, struct user *user);

#endif
