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

#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/region.h"
#include "shm/ring.h"

struct request;

struct session_options {
    uint32_t id;               /* for logs */
    uid_t uid;                 /* of the peer */
    int socket_fd;             /* the engine wakes a client that sleeps on it: send(MSG_DONTWAIT) */
    int doorbell_fd;           /* eventfd that the client writes to */
    struct geometry geometry;  /* granted */
    struct region client_half; /* mapped read-only */
    struct region daemon_half; /* mapped for writing */
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
    uint32_t rung; /* doorbell_sleeper() */

    struct request **requests; /* [max_requests], by the low bits of the id; NULL: free */

    /* The engine's own. */
    struct session *next, *previous; /* in the hot or the cold list */
    uint64_t last_active_ns;
    uint64_t output_tail;   /* bytes of the output arena given out, free-running */
    uint32_t live_requests; /* entries in `requests` */
    int broken;             /* 0, or why the session is ended: negative errno */
    const char *broken_why; /* a constant; NULL while broken == 0 */
    bool is_hot;            /* swept by the engine; else it rings */
};

/* On success the session owns descriptors and regions; on failure the caller still does.
 * -ENOMEM. */
int session_open(struct session **ret_session, const struct session_options *options);

/* Unmaps and closes everything. Only with the engine's hands off it. NULL does nothing. */
void session_close(struct session *session);

#endif
