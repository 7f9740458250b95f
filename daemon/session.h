/*
 * One client: its two halves of shared memory, its rings, its requests and its end.
 *
 * The control thread opens a session after the handshake and gives it to the engine
 * (engine_attach()); from then on the engine thread alone touches it, until the engine has given it
 * back (ENGINE_DETACHED) and the control thread closes it. Everything that the engine will need is
 * allocated by session_open().
 */
#ifndef AGL_DAEMON_SESSION_H
#define AGL_DAEMON_SESSION_H

#include <stdbool.h>
#include <sys/types.h>

#include "daemon/users.h"
#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/region.h"
#include "shm/ring.h"

struct request;
struct guard_entry;

struct session_options {
    uint32_t id;               /* for logs */
    uid_t uid;                 /* of the peer */
    struct user_queue *queue;  /* of that user; NULL: the session has its own */
    void *owner;               /* the control thread's: whose session it is */
    int socket_fd;             /* the engine wakes a client that sleeps on it: send(MSG_DONTWAIT) */
    int doorbell_fd;           /* eventfd that the client writes to */
    struct geometry geometry;  /* granted */
    struct region client_half; /* mapped read-only */
    struct region daemon_half; /* mapped for writing */
};

/* Where the engine looks for a session's submissions. */
enum session_place {
    SESSION_NOWHERE = 0, /* not attached, or ended: nothing is taken from it any more */
    SESSION_HOT,         /* swept each turn */
    SESSION_COLD,        /* it rings its doorbell */
};

struct session {
    struct session_options options; /* owns descriptors and regions */
    struct geometry geometry;

    const struct client_words *client_words;
    const uint8_t *arena; /* the client's prompt arena */
    struct daemon_words *daemon_words;
    uint8_t *output; /* our output arena */
    struct ring_reader submissions;
    struct ring_writer events;
    uint32_t rung; /* doorbell_sleeper(), for sleeps on a descriptor */

    struct user_queue *queue;    /* what its user has waiting */
    struct user_queue own_queue; /* of a session without user */

    struct guard_entry *guard; /* of the client half; NULL: none */
    struct request **requests; /* [max_requests], by the low bits of the id; NULL: free */

    /* The engine's own. */
    struct session *next, *previous; /* in the hot or the cold list */
    enum session_place place;
    uint64_t last_active_ns;
    uint64_t stalled_since_ns; /* submissions wait for room in the event ring; 0: they do not */
    uint32_t live_requests;    /* entries in `requests` */
    uint32_t empty_wakes;      /* doorbells in a row that brought nothing */
    bool is_napping;           /* cold, but only as long as the engine sleeps */
    bool is_muted;             /* its doorbell is not listened to until the next heartbeat */
    bool is_given_up;          /* it read nothing for too long, and has not begun again */
    bool is_shut;              /* EVENT_SHUTDOWN was published: nothing may follow */
    int broken;                /* 0, or why the session is ended: negative errno */
    const char *broken_why;    /* a constant; NULL while broken == 0 */
    struct session *next_broken;

    /* publish.c: places of the event ring that are spoken for. */
    uint32_t promised; /* the last event of each unfinished request, and of the session */
    uint32_t claimed;  /* by the step that runs now */
    bool is_touched;   /* something was published since the last publish_wake() */
    uint32_t touched_from;
    struct session *next_touched;

    /* The output arena; free-running byte counts. */
    uint64_t output_tail;    /* given out */
    uint64_t output_planned; /* the same, with what the step that runs now may still take */
    uint64_t output_cursor;  /* known to be given back */
    uint64_t output_shift;   /* byte n lies at offset (n + output_shift) % output_bytes */
};

/* On success the session owns descriptors and regions; on failure the caller still does.
 * -ENOMEM; -EINVAL: the regions are not of the size that the geometry asks for. */
int session_open(struct session **ret_session, const struct session_options *options);

/* Unmaps and closes everything. Only with the engine's hands off it. NULL does nothing. */
void session_close(struct session *session);

/* The request of that id; NULL: none. */
struct request *session_find(const struct session *session, uint32_t id);

/* The entry for an id: the caller compares or stores. */
static inline struct request **session_entry(const struct session *session, uint32_t id)
{
    return &session->requests[id & (session->geometry.max_requests - 1)];
}

/* Says that the session is to be ended, and why (a constant); the first reason stays. */
void session_break(struct session *session, int error, const char *why);

/* Bytes of the output arena taken by a row of `bytes`: rows begin on a cache line of their own. */
uint64_t session_output_row(uint64_t bytes);

/* Plans room for one row of `bytes` in the output arena within the step that runs now. 1: it will
 * fit; 0: not before the client gives something back; -EPROTO: its cursor makes no sense. */
int session_output_plan(struct session *session, uint64_t bytes);

/* Gives out a planned row: its offset, and in *ret_release the cursor that gives it back. Rows
 * that were planned but not taken cost nothing. */
uint32_t session_output_take(struct session *session, uint64_t bytes, uint64_t *ret_release);

/* Sessions in a row. */
struct session_list {
    struct session *first, *last;
    uint32_t count;
};

void session_list_add(struct session_list *list, struct session *session); /* at the end */
void session_list_remove(struct session_list *list, struct session *session);
void session_list_rotate(struct session_list *list); /* the first becomes the last */

#endif
