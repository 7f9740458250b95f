/*
 * Who is connected, and what each user (uid) has at once, over all of his connections. Budgets are
 * counted here; whoever spends one compares it with its limit first.
 */
#ifndef AGL_DAEMON_USERS_H
#define AGL_DAEMON_USERS_H

#include <stdint.h>
#include <sys/types.h>

#include "daemon/request.h"
#include "shm/layout.h"

/* The engine's part: what of a user waits in the queue, and what he holds without running. Touched
 * by the engine's thread alone; zeroes are a user who has nothing. */
struct user_queue {
    uint32_t requests;
    uint64_t tokens; /* of their sequences, not computed yet */

    /* engine_kept.c */
    struct user_queue *next, *previous; /* in the list of those who hold anything */
    bool is_holding;                    /* stands in it */
    struct request_list kept;           /* his kept requests; least recently used first */
    struct {
        struct request_list requests; /* hold blocks without running; least recently used first */
        uint32_t blocks;              /* held by these */
    } idle[BOARD_MODELS_MAX];
    uint32_t idle_requests; /* in all of these lists */
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
