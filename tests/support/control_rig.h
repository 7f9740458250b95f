/*
 * The control side in the test's own thread, with a fake engine, and a client that speaks the
 * handshake packet by packet over a raw socket, rightly or wrongly.
 */
#ifndef AGL_TESTS_SUPPORT_CONTROL_RIG_H
#define AGL_TESTS_SUPPORT_CONTROL_RIG_H

#include "daemon/board.h"
#include "daemon/config.h"
#include "daemon/control.h"
#include "shm/message.h"
#include "tests/support/fake_engine.h"

enum { RIG_FDS_MAX = 8 };

struct rig {
    char folder[4096];
    struct config config;
    struct access_list access; /* of the configuration */
    struct board_owner board;
    struct engine engine;
    int signal_pipe[2];
    struct control *control;
};

/* What a daemon said. */
struct answer {
    union message message;
    ssize_t bytes; /* 0: it closed the connection; a negative errno */
    int fds[RIG_FDS_MAX];
    uint32_t fd_count;
};

/* Everything up to, but without, control_open(); the configuration may be changed then. */
void rig_init(struct rig *rig);
void rig_open(struct rig *rig);
void rig_fini(struct rig *rig); /* closes the control too */

/* Turns the control for a moment; its answer. */
int rig_turn(struct rig *rig);
/* Turns until so many sessions are with the engine; fails after seconds. */
void rig_until_sessions(struct rig *rig, uint32_t count);
/* Turns until this process has so many descriptors open; fails after seconds. */
void rig_until_descriptors(struct rig *rig, int count);
void rig_signal(struct rig *rig, int number);

/* A socket connected to the rig. */
int rig_connect(const struct rig *rig);

struct message_hello rig_hello(void); /* a right one */
struct message_attach rig_attach(void);

/* Sends one packet with descriptors; a negative errno, or the count sent. */
ssize_t rig_send(int fd, const void *bytes, size_t count, const int *fds, uint32_t fd_count);

/* Turns until an answer or the end comes; fails after seconds. The descriptors are the caller's. */
void rig_receive(struct rig *rig, int fd, struct answer *ret_answer);
void rig_close_fds(struct answer *answer);

/* Expects a refusal with that error whose text contains `text`, and the end of the connection. */
void rig_expect_error(struct rig *rig, int fd, int error, const char *text);

/* The steps: HELLO until WELCOME, whose descriptors are closed; ATTACH with a right half until
 * READY. */
struct geometry rig_enter_hall(struct rig *rig, int fd);
void rig_enter(struct rig *rig, int fd);

/* Mappings of halves and board in this process. */
int rig_mappings(void);

#endif
