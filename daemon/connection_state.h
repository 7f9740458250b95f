/*
 * What connection.c (life), connection_enter.c (the handshake) and connection_end.c (the end) share
 * of a connection.
 */
#ifndef AGL_DAEMON_CONNECTION_STATE_H
#define AGL_DAEMON_CONNECTION_STATE_H

#include "daemon/connection.h"

struct connection {
    struct connections *all;
    struct connection *next, *previous;
    enum connection_state state;
    uint32_t number;
    bool is_complained_of; /* its break was logged and counted */
    struct peer peer;
    struct user *user;     /* NULL: not known yet */
    uint64_t memory_bytes; /* of both halves, counted on its user; 0: it holds no session */
    int socket_fd;         /* -1: closed */
    uint64_t closed_ns;    /* when all was closed that could be */

    struct loop_op readable, hang_up, process, timer;
    struct loop_op burial; /* of strange_fd */
    int strange_fd;        /* what came instead of memory, to be closed; -1: none */
    bool waits_for_burial; /* of another one's of the same user, before its packet is looked at */

    struct geometry geometry;
    struct region daemon_half;  /* until the session has it, as socket and doorbell */
    struct half_mark half_mark; /* of the daemon's half, until its memory is gone */
    int doorbell_fd;
    struct session *session;
};

static inline void board_show_sessions(const struct connections *all)
{
    atomic_store_explicit(&all->board->board->sessions, all->serving, memory_order_relaxed);
}

/* ---- connection.c ---------------------------------------------------------------------------- */

void connection_set_state(struct connection *connection, enum connection_state state);

/* Counts a session of that size, or none any more (0), on the connection's user. */
void connection_hold(struct connection *connection, uint64_t memory_bytes);

/* Sends away a client that the engine does not have, and says why. */
void connection_refuse(struct connection *connection, int error, const char *why);
void connection_refuse_system(struct connection *connection, int error, const char *what);

/* Asks the engine for a session that it has. */
void connection_leave(struct connection *connection);

/* Handlers of the two signs of a served client's end. */
void connection_on_hang_up(struct loop_op *op, int result);
void connection_on_process_end(struct loop_op *op, int result);

/* ---- connection_end.c ------------------------------------------------------------------------ */

/* Ends a connection that the engine does not have (any more). */
void connection_begin_close(struct connection *connection);

/* Asks the kernel to end all operations of a connection. */
void connection_cancel_all(struct connection *connection);

/* Called at the end of everything that may have been the last of a connection: it may be gone
 * afterwards. */
void connection_settle(struct connection *connection);

/* Closes our copy of what a client sent instead of memory (-1: nothing). It counts against the user
 * until it is closed. */
void connection_bury(struct connection *connection, int fd);

/* Gives back what the halves counted for that are gone by now. Whether there was one. */
bool connections_take_gone_halves(struct connections *all);

/* Begins to watch for that. */
int connections_watch_halves(struct connections *all);

/* Looks again soon at what remains, if there is anything to be done. */
void connections_keep_sweeping(struct connections *all);

/* ---- connection_enter.c ---------------------------------------------------------------------- */

/* Waits for the first packet, until the deadline. */
int connection_begin(struct connection *connection);

/* Looks at the packet of a connection that waited for a burial. */
void connection_resume(struct connection *connection);

/* Gives the session to the engine, if that has room for it now, and lets the client begin. */
void connection_try_enter(struct connection *connection);

#endif
