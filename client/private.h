/*
 * What the files of a connection share: struct agl_client, and the table of its requests.
 */
#ifndef AGL_CLIENT_PRIVATE_H
#define AGL_CLIENT_PRIVATE_H

#include <stdbool.h>
#include <sys/types.h>

#include "autoglm.h"
#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/region.h"
#include "shm/ring.h"

enum request_state {
    REQUEST_FREE = 0,
    REQUEST_SUBMITTED = 1, /* its prompt still lies in the arena */
    REQUEST_RUNNING = 2,   /* accepted */
    REQUEST_KEPT = 3,      /* done, its sequence waits to be continued */
    REQUEST_PASSED = 4, /* was kept; a request that continues it is submitted, not yet accepted */
};

/* One entry of the table; its index is in the low bits of the request's id. */
struct client_request {
    uint32_t id;         /* of its last use; 0: never used */
    uint32_t state;      /* enum request_state */
    uint32_t parent;     /* index of the entry in REQUEST_PASSED that this one continues */
    uint32_t prompt;     /* index of its struct client_prompt, NO_PROMPT: none */
    uint32_t model;      /* index on the board */
    uint32_t vocab_size; /* of that model: what the daemon sends is checked against it */
    uint32_t tokens;     /* received so far */
    uint32_t max_tokens; /* asked for */
    uint32_t next_free;  /* index in the list of free entries, NO_REQUEST at its end */
    bool has_parent;
    bool is_kept; /* AGL_KEEP was given */
};
enum { NO_REQUEST = UINT32_MAX, NO_PROMPT = UINT32_MAX };

/* The arena is handed out in a circle; places come back in any order and are reused in turn. */
struct client_prompt {
    uint32_t end_bytes; /* where the next place may begin */
    bool is_taken;      /* by the daemon: the place is free once all before it are */
};

struct agl_client {
    /* The hot path's own. */
    struct ring_reader events;
    struct ring_writer submissions;
    struct client_words *words;
    const struct daemon_words *daemon_words;
    uint8_t *arena;
    const uint8_t *output;
    uint32_t rung; /* doorbell_sleeper() */
    int doorbell_fd;
    int socket_fd;
    pid_t owner; /* the process that connected */

    struct client_request *requests; /* [geometry.max_requests] */
    uint32_t first_free;             /* index, NO_REQUEST: none */

    struct client_prompt *prompts; /* [geometry.max_requests], free-running positions */
    uint32_t prompts_head;         /* oldest that still holds its place */
    uint32_t prompts_tail;
    uint32_t arena_start;   /* offset of the oldest place in use */
    uint32_t arena_end;     /* offset behind the newest */
    bool is_prompt_open;    /* agl_prompt() was called since the last agl_submit() */
    uint32_t open_offset;   /* of its place */
    uint32_t open_tokens;   /* room there */
    uint32_t prompt_tokens; /* the most one prompt may have */

    uint64_t output_cursor;  /* as in words->output_cursor */
    uint64_t output_release; /* what it becomes when the caller is done with the last logits */

    uint32_t wait_mode; /* enum agl_wait_mode */
    struct spinner spinner;
    uint64_t looked_ns;   /* when the socket was last looked at; 0: never */
    bool is_fd_used;      /* agl_fd() was called */
    bool is_fd_announced; /* our sleep word says DOORBELL_FD */
    int end; /* 0, or what every call returns once the ring is empty: -EPIPE, -EPROTO */
    char end_detail[160];

    struct geometry geometry;
    struct region client_half;
    struct region daemon_half;
    struct region board;
    uint32_t model_count;
    uint32_t vocab_sizes[BOARD_MODELS_MAX]; /* of the models; read once */
};

/* The size of struct board in layout 1.0. Later fields come behind, and are read only if the
 * board's `bytes` says that this daemon has them. */
enum { BOARD_BYTES_FIRST = offsetof(struct board, models) + sizeof((struct board *)0)->models };

/* Whether a board is one that this library understands, and how many models it holds. -EPROTO;
 * -EPROTONOSUPPORT: another version. */
int board_check(const struct board *board, uint32_t *ret_model_count);

/* When the daemon's engine last gave a sign of life. */
uint64_t board_heartbeat_ns(const struct agl_client *client);

/* Reads a caller's struct that begins with its size_bytes. A program built against an older header
 * has fewer fields: those that it lacks stay in *ret_known as they are, with their defaults. One
 * built against a newer header may have more, but must not use them. first_bytes is the size that
 * the struct had in its first release, name is for the detail. 0 or -EINVAL. */
int client_read_sized(void *ret_known, size_t known_bytes, size_t first_bytes, const void *given,
                      const char *name);

/* Ends the session from our side: -EPIPE, the daemon is gone or left us; -EPROTO, it broke the
 * contract. The first reason stays. The caller's thread learns it from client_ended(). */
void client_end(struct agl_client *client, int err, const char *why);

/* The error that every call returns after the end, with its detail. */
int client_ended(const struct agl_client *client);

/* The request of that id that is in flight; NULL: none. */
struct client_request *client_find_live(struct agl_client *client, uint32_t id);

/* The daemon has taken the request; or is done with it. */
void client_request_accepted(struct agl_client *client, struct client_request *request);
void client_request_done(struct agl_client *client, struct client_request *request,
                         uint32_t reason);

/* The place of that prompt in the arena may be used again. */
void client_prompt_taken(struct agl_client *client, uint32_t prompt);

#endif
