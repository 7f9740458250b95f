/*
 * The client's side of a session, written with ring.h alone and without a socket's handshake: makes
 * both halves in this process, hands one mapping of each to session_open(), and plays the client
 * with the others. What the daemon sees is what it sees of a foreign process: memory that it can
 * only read, and that changes when the client likes.
 */
#ifndef AGL_TESTS_SUPPORT_CLIENT_HALF_H
#define AGL_TESTS_SUPPORT_CLIENT_HALF_H

#include "daemon/session.h"
#include "shm/layout.h"
#include "shm/ring.h"

struct client_half {
    struct session *session;   /* the daemon's; closed by client_half_close() */
    struct region client_half; /* ours, for writing */
    struct region daemon_half; /* theirs, for reading */
    struct geometry geometry;
    struct client_words *words;
    const struct daemon_words *daemon_words;
    uint32_t *arena;
    const uint8_t *output;
    struct ring_writer submissions;
    struct ring_reader events;
    int socket_fd;   /* our end; the session has the other */
    int doorbell_fd; /* our descriptor of the session's eventfd */
    uint32_t rung;
};

#define CLIENT_HALF_GEOMETRY                   \
    ((struct geometry){.submission_slots = 32, \
                       .event_slots = 64,      \
                       .max_requests = 16,     \
                       .arena_bytes = 16384,   \
                       .output_bytes = 0,      \
                       .stagger = 3})

/* Makes both sides; fails the test if it cannot. */
void client_half_open(struct client_half *ret_client, const struct geometry *geometry);

/* Closes both sides. The engine must have let go of the session. */
void client_half_close(struct client_half *client);

/* A greedy request of `max_tokens` tokens with a prompt of `tokens` ids 1, 2, 3, ... at the start
 * of the arena. */
struct submission client_half_request(struct client_half *client, uint32_t id, uint32_t tokens,
                                      uint32_t max_tokens);

/* Pushes a submission and rings the doorbell if the engine asks for it; fails the test if there is
 * no room. */
void client_half_submit(struct client_half *client, const struct submission *submission);

/* The next event, without waiting: 1, or 0 for none. */
int client_half_poll(struct client_half *client, struct event *ret_event);

/* The next event, spinning for up to five seconds; fails the test if none comes. */
struct event client_half_wait(struct client_half *client);

#endif
