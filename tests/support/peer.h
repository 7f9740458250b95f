/*
 * A stand-in for the daemon, in the test's own process: it listens on a socket of its own, shakes
 * hands with one client on a thread, rightly or with one fault of a long list, and then lets the
 * test play the daemon's side of the rings, one call at a time.
 *
 *   struct peer peer;
 *   peer_start(&peer, PEER_HONEST);
 *   agl_connect(&client, &options);      options.socket_path = peer.path
 *   peer_join(&peer);                    the handshake is over, one way or the other
 *   peer_take(&peer, &submission); peer_send(&peer, &event); ...
 *   peer_stop(&peer);
 */
#ifndef AGL_TESTS_SUPPORT_PEER_H
#define AGL_TESTS_SUPPORT_PEER_H

#include <pthread.h>
#include <stdbool.h>

#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/message.h"
#include "shm/region.h"
#include "shm/ring.h"

enum peer_fault {
    PEER_HONEST = 0,
    PEER_SILENT, /* never answers */
    PEER_SILENT_AFTER_ATTACH,
    PEER_CLOSES_AT_ONCE,
    PEER_CLOSES_AFTER_HELLO,
    PEER_CLOSES_AFTER_ATTACH,
    PEER_REFUSES,        /* -EUSERS, "no session left" */
    PEER_REFUSES_ATTACH, /* -EPROTO, "not sealed" */
    PEER_REFUSES_WITHOUT_NUL,
    PEER_REFUSES_WITH_SUCCESS,  /* MESSAGE_ERROR with error 0 and text with control characters */
    PEER_REFUSES_WITH_NONSENSE, /* an error that no errno is, and no text */
    PEER_REFUSES_BRIEFLY,       /* a MESSAGE_ERROR that ends with its header */
    PEER_WRONG_MAGIC,
    PEER_WRONG_KIND,
    PEER_LYING_LENGTH,
    PEER_SHORT_PACKET,
    PEER_TINY_PACKET, /* shorter than a header */
    PEER_LONG_PACKET,
    PEER_NEWER_MAJOR,
    PEER_OLDER_MAJOR,
    PEER_NEWER_MINOR,
    PEER_FEATURES,
    PEER_NO_FDS,
    PEER_TWO_FDS,
    PEER_SURPLUS_FDS, /* one too many */
    PEER_FLOOD_OF_FDS,
    PEER_UNSEALED_HALF,
    PEER_WRONG_SIZE_HALF,
    PEER_FILE_AS_HALF,
    PEER_UNSEALED_BOARD,
    PEER_SMALL_BOARD,
    PEER_LARGE_BOARD,
    PEER_BOARD_MAGIC,
    PEER_BOARD_BYTES,
    PEER_BOARD_MODELS,
    PEER_SOCKET_AS_DOORBELL,
    PEER_BLOCKING_DOORBELL,
    PEER_INVALID_GEOMETRY,
    PEER_HUGE_GEOMETRY,
    PEER_HUGE_ARENA,
    PEER_FDS_WITH_READY,
    PEER_WRONG_READY,
    PEER_FAULTS,
};

struct peer {
    enum peer_fault fault;
    uint32_t max_requests; /* 0: what the client asks for; else granted */
    char folder[4096];
    char path[4200];
    int listen_fd, stop_fd;
    pthread_t thread;
    bool is_joined;

    int socket_fd, doorbell_fd;
    struct message_hello hello; /* as it came */
    struct geometry geometry;
    struct region board_region, daemon_half, client_half;
    struct board *board;
    struct daemon_words *words;
    const struct client_words *client_words;
    uint8_t *output;
    const uint8_t *arena;
    struct ring_reader submissions;
    struct ring_writer events;
    uint32_t rung;
    bool is_ready; /* the handshake succeeded, as the peer sees it */
};

enum { PEER_VOCAB_SIZE = 1000, PEER_CONTEXT_TOKENS = 512 };

/* Listens, and shakes hands with the first client on a thread. Fails the test if it cannot. */
void peer_start(struct peer *peer, enum peer_fault fault);
/* The same with max_requests granted instead of what is asked for. */
void peer_start_small(struct peer *peer, uint32_t max_requests);

/* Waits for the end of the handshake; the client must have connected or failed. */
void peer_join(struct peer *peer);

/* Takes a submission. 0 or -EAGAIN. */
int peer_take(struct peer *peer, struct submission *ret_submission);

/* Publishes an event and wakes the client if it sleeps. */
void peer_send(struct peer *peer, const struct event *event);

/* The usual events. */
void peer_accept(struct peer *peer, uint32_t request, uint32_t prompt_tokens);
void peer_token(struct peer *peer, uint32_t request, uint32_t index, uint32_t id);
void peer_done(struct peer *peer, uint32_t request, uint8_t reason, int error);

/* Whether the client has rung, since the last call. */
bool peer_was_rung(struct peer *peer);

/* A sign of life on the board. */
void peer_live(struct peer *peer);

/* Closes the socket, as the kernel does when the daemon dies. */
void peer_die(struct peer *peer);

/* Ends and frees everything. */
void peer_stop(struct peer *peer);

/* How many mappings of anonymous shared memory this process has: a leak check. */
int peer_shared_mappings(void);

#endif
