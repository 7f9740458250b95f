/*
 * A client of a real daemon that shakes hands packet by packet and writes its half of the memory by
 * hand: rightly, or as wrongly as the test likes.
 *
 *   struct stranger stranger;
 *   struct message_hello hello = stranger_hello("name");
 *   stranger_connect(&stranger, path); stranger_enter(&stranger, &hello);
 *   stranger_submit(&stranger, &submission); stranger_wait(&stranger, &event, timeout_ms); ...
 *   stranger_leave(&stranger);
 *
 * Nothing in here fails a test: what goes wrong comes back as a negative errno, so that children of
 * a test can use it as well.
 */
#ifndef AGL_TESTS_SUPPORT_STRANGER_H
#define AGL_TESTS_SUPPORT_STRANGER_H

#include <sys/types.h>

#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/message.h"
#include "shm/region.h"
#include "shm/ring.h"

enum { STRANGER_FDS_MAX = 253 /* SCM_MAX_FD */, STRANGER_PATIENCE_MS = 30000 };

/* What the daemon said. */
struct stranger_answer {
    union message message;
    size_t bytes; /* 0: it closed the connection */
    int fds[MESSAGE_WELCOME_FDS];
    uint32_t fd_count;
};

struct stranger {
    int socket_fd;
    int daemon_fd, board_fd, doorbell_fd; /* came with WELCOME; -1: none */
    uint32_t session, board_bytes;
    struct geometry geometry;   /* granted */
    struct region half;         /* ours, for writing */
    const uint8_t *daemon_half; /* mapped for reading; NULL: not yet */

    /* stranger_place() */
    struct client_words *words;
    const struct daemon_words *daemon_words;
    uint32_t *arena;
    struct ring_writer submissions;
    struct ring_reader events;
    uint32_t rung;
};

struct message_hello stranger_hello(const char *name); /* right ones */
struct message_attach stranger_attach(void);

/* Fills *ret_stranger and connects; what it held before is not closed. */
int stranger_connect(struct stranger *ret_stranger, const char *path);

/* One packet, maybe with descriptors; blocks while the socket is full. The bytes sent. */
ssize_t stranger_send(int socket_fd, const void *packet, size_t bytes, const int *fds,
                      uint32_t fd_count);

/* Waits for the next packet, or the end. 0; -ETIMEDOUT; another error of the system. A reset counts
 * as the end. */
int stranger_receive(int socket_fd, struct stranger_answer *ret_answer, int timeout_ms);

/* HELLO until WELCOME, whose descriptors the stranger keeps. The daemon's error if it refuses, with
 * its words in *ret_refusal unless that is NULL. */
int stranger_enter_hall(struct stranger *stranger, const struct message_hello *hello,
                        struct message_error *ret_refusal);

/* The rest of the way: a right half, mapped, ATTACH until READY. */
int stranger_attach_half(struct stranger *stranger, struct message_error *ret_refusal);

/* Both. */
int stranger_enter(struct stranger *stranger, const struct message_hello *hello);

/* Finds words, rings and arena again, after the mapping of `half` has moved. */
void stranger_place(struct stranger *stranger);

/* Pushes a submission and rings the doorbell if the daemon wants it. As ring_push(). */
int stranger_submit(struct stranger *stranger, const struct submission *submission);

/* The next event. 0; -ETIMEDOUT. */
int stranger_wait(struct stranger *stranger, struct event *ret_event, int timeout_ms);

/* Closes and unmaps everything. */
void stranger_leave(struct stranger *stranger);

/* A greedy request with the prompt 1, 2, 3, ..., which is written to the start of the arena. */
struct submission stranger_request(struct stranger *stranger, uint32_t id, uint32_t tokens,
                                   uint32_t max_tokens);

#endif
