/*
 * One client's connection, from accept() to the last close: the handshake step by step, the handing
 * over to the engine and back, and the end. What a client may have at once is bounded here.
 *
 *   HELLO -> ATTACH -> ENTERING -> SERVING -> LEAVING -> DETACHED
 *     `---------`----------`---------`----------`----------`--------> CLOSING -> REMAINS -> gone
 *
 * Nothing is closed or unmapped while the engine has the session or the kernel an operation on it.
 */
#ifndef AGL_DAEMON_CONNECTION_H
#define AGL_DAEMON_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/access.h"
#include "daemon/board.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/half_watch.h"
#include "daemon/handshake.h"
#include "daemon/loop.h"
#include "daemon/users.h"

enum {
    CONNECTION_HALF_OPEN_PER_USER = 64, /* in the handshake at once; the others are sent away */
    CONNECTION_SOCKETS_AT_ONCE = 64,    /* for the undertaker, who waits for no more */
    CONNECTION_REFUSALS_LOGGED = 10,    /* lines a second; the others are counted */
};

enum connection_state {
    CONNECTION_HELLO,    /* waits for the first packet */
    CONNECTION_ATTACH,   /* waits for the client half */
    CONNECTION_ENTERING, /* to be given to the engine */
    CONNECTION_SERVING,  /* the engine's */
    CONNECTION_LEAVING,  /* the engine is to be asked for it */
    CONNECTION_DETACHED, /* the engine was asked for it */
    CONNECTION_CLOSING,  /* ours again: waits for the kernel's operations to end */
    CONNECTION_REMAINS,  /* waits for what its client has left to be closed, or still keeps */
};

/* All connections, and what they need. */
struct connections {
    const struct config *config;
    struct loop *loop;
    struct engine *engine;
    struct board_owner *board;

    struct access_list access;
    struct users users;

    struct connection *first;
    uint32_t count;
    uint32_t serving;
    uint32_t sessions; /* hold the memory of a session: at most config->sessions_max */
    uint32_t next_number;
    uint32_t awaiting_engine; /* in ENTERING or LEAVING, to be tried again */

    uint32_t remaining; /* of `count`: in REMAINS (connection_end.c) */
    uint32_t to_close;  /* of `remaining`: with a socket for the undertaker, or a strange_fd */
    struct loop_op sweep, half_gone;
    struct half_watch half_watch;
    bool is_closing; /* nobody looks again */

    uint64_t refusals_since_ns; /* one second of log lines begins: refusals, broken contracts */
    uint32_t refusals_logged;
    uint64_t refusals_unlogged;
};

/* Before the first client; closed by connections_forget(). *failure says what the system lacks. */
int connections_open(struct connections *all, struct failure *failure);

/* Begins with a socket from accept(), which it owns from then on. */
void connection_open(struct connections *all, int socket_fd);

/* The engine's reports: the session broke the contract; the session is ours again. */
void connection_broken(struct session *session);
void connection_detached(struct session *session);

/* Tries again what the engine or the loop had no room for. */
void connections_retry(struct connections *all);

/* Sends away everyone who is still in the handshake: the daemon stops. */
void connections_refuse_new(struct connections *all);

/* Ends all of them, now that the engine has stopped: turn the loop until all that are left remain,
 * then forget these: what their clients made is closed when it can be, or with us. */
void connections_close(struct connections *all);
void connections_forget(struct connections *all);

#endif
