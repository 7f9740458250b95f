/*
 * The end of a connection: what is closed at once, and what remains for a while.
 *
 * Three things may remain, and until they are gone the connection counts on its user's budgets:
 * a socket in which descriptors lie unread, for the undertaker; our copy of a descriptor that came
 * instead of memory, closed by a thread of the kernel's; and the daemon's half, whose pages live as
 * long as anybody has it open or mapped, which a client may do for ever.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/connection_state.h"
#include "daemon/undertaker.h"

/* How often sockets that wait for the undertaker are looked at. */
static const uint64_t sweep_ns = 50000000;
/* Closing a socket with something unread in it takes our last word away from a peer that has not
 * read it yet; so long has it. */
static const uint64_t farewell_ns = 200000000;

static void release(struct connection *connection)
{
    struct connections *all = connection->all;
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        all->first = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    all->count--;
    users_leave(&all->users, connection->user);
    free(connection);
}

static bool is_over(const struct connection *connection)
{
    return connection->socket_fd < 0 && connection->strange_fd < 0 &&
           connection->half_mark.number < 0 && !loop_op_active(&connection->burial);
}

/* A connection that remains may go now. Whether it did. */
static bool try_release(struct connection *connection)
{
    if (connection->state != CONNECTION_REMAINS || !is_over(connection))
        return false;
    connection->all->remaining--;
    release(connection);
    return true;
}

/* ---- burials --------------------------------------------------------------------------------- */

static bool can_be_closed(const struct connection *connection)
{
    return connection->state == CONNECTION_REMAINS && !loop_op_active(&connection->burial) &&
           (connection->socket_fd >= 0 || connection->strange_fd >= 0);
}

static void resume_those_of(struct connections *all, const struct user *user)
{
    struct connection *next;
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        if (at->waits_for_burial && at->user == user)
            connection_resume(at);
    }
}

static void on_buried(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    connection->user->burying--;
    connection->all->to_close += can_be_closed(connection);
    resume_those_of(connection->all, connection->user);
    try_release(connection);
}

static void try_bury(struct connection *connection)
{
    connection->burial = (struct loop_op){.handler = on_buried, .owner = connection};
    int err = loop_close_fd(connection->all->loop, &connection->burial, connection->strange_fd);
    if (err == -EAGAIN)
        return; /* the next sweep tries again */
    if (err < 0)
        close(connection->strange_fd); /* an io_uring: nobody makes that wait */
    else
        connection->user->burying++;
    connection->strange_fd = -1;
}

/* The packet that brought it stays in the socket, so that the last close is the undertaker's and
 * what is waited for here is no more than what every close waits for: the file system's word. */
void connection_bury(struct connection *connection, int fd)
{
    if (fd < 0)
        return;
    if (handshake_closes_at_once(fd, client_half_bytes(&connection->geometry))) {
        close(fd);
        return;
    }
    connection->strange_fd = fd;
    try_bury(connection);
}

/* ---- halves ---------------------------------------------------------------------------------- */

bool connections_take_gone_halves(struct connections *all)
{
    struct half_mark *mark;
    bool is_any_gone = false;
    while ((mark = half_watch_next(&all->half_watch))) {
        struct connection *connection = mark->owner;
        connection_hold(connection, 0);
        try_release(connection);
        is_any_gone = true;
    }
    return is_any_gone;
}

static void on_half_gone(struct loop_op *op, int result)
{
    struct connections *all = op->owner;
    if (all->is_closing)
        return;
    connections_take_gone_halves(all);
    connections_watch_halves(all); /* or at the next turn */
}

int connections_watch_halves(struct connections *all)
{
    if (loop_op_active(&all->half_gone))
        return 0;
    all->half_gone = (struct loop_op){.handler = on_half_gone, .owner = all};
    return loop_poll(all->loop, &all->half_gone, all->half_watch.fd, POLLIN);
}

/* ---- sockets --------------------------------------------------------------------------------- */

static void close_sockets(struct connection *const *connections, uint32_t count)
{
    int fds[CONNECTION_SOCKETS_AT_ONCE];
    for (uint32_t i = 0; i < count; i++)
        fds[i] = connections[i]->socket_fd;
    if (count == 0 || undertaker_close(fds, count) < 0)
        return; /* the next sweep tries again */
    for (uint32_t i = 0; i < count; i++) {
        connections[i]->socket_fd = -1;
        connections[i]->all->to_close -= !can_be_closed(connections[i]);
    }
}

/* Those of connections that ended at that time or before, and whose strange_fd is closed: the last
 * close has to be ours. Releases none. */
static void close_sockets_of(struct connections *all, uint64_t closed_ns)
{
    struct connection *batch[CONNECTION_SOCKETS_AT_ONCE];
    uint32_t count = 0;
    for (struct connection *at = all->first; at; at = at->next) {
        if (!can_be_closed(at) || at->strange_fd >= 0 || at->closed_ns > closed_ns)
            continue;
        batch[count++] = at;
        if (count == CONNECTION_SOCKETS_AT_ONCE) {
            close_sockets(batch, count);
            count = 0;
        }
    }
    close_sockets(batch, count);
}

static void retry_burial(struct connection *connection)
{
    if (!can_be_closed(connection) || connection->strange_fd < 0)
        return;
    try_bury(connection);
    connection->all->to_close -= !can_be_closed(connection);
}

static void on_sweep(struct loop_op *op, int result)
{
    struct connections *all = op->owner;
    struct connection *next;
    close_sockets_of(all, loop_now_ns() - farewell_ns);
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        retry_burial(at);
        try_release(at);
    }
    connections_keep_sweeping(all);
}

void connections_keep_sweeping(struct connections *all)
{
    if (all->to_close == 0 || all->is_closing || loop_op_active(&all->sweep))
        return;
    all->sweep = (struct loop_op){.handler = on_sweep, .owner = all};
    loop_timer(all->loop, &all->sweep, loop_now_ns() + sweep_ns); /* or at the next turn */
}

/* ---- closing --------------------------------------------------------------------------------- */

static void close_what_is_ours(struct connection *connection)
{
    if (connection->session) {
        connection->session->options.socket_fd = -1; /* ours to close, as the burials are */
        session_close(connection->session);          /* the doorbell with it */
        connection->session = NULL;
    } else {
        if (connection->doorbell_fd >= 0)
            close(connection->doorbell_fd);
        region_fini(&connection->daemon_half);
    }
    handshake_peer_fini(&connection->peer);
    if (handshake_hush(connection->socket_fd)) {
        close(connection->socket_fd);
        connection->socket_fd = -1;
    } else {
        shutdown(connection->socket_fd, SHUT_WR); /* for the peer it ends now */
    }
}

/* What counts on the user from now on: of the memory our half, if it is not gone. */
static void keep_what_remains(struct connection *connection)
{
    struct connections *all = connection->all;
    if (connection->memory_bytes)
        connection_hold(connection, connection->half_mark.number < 0
                                        ? 0
                                        : daemon_half_bytes(&connection->geometry));
    connection_set_state(connection, CONNECTION_REMAINS);
    connection->closed_ns = loop_now_ns();
    all->remaining++;
    all->to_close += can_be_closed(connection);
    if (all->to_close >= CONNECTION_SOCKETS_AT_ONCE)
        close_sockets_of(all, UINT64_MAX);
}

void connection_settle(struct connection *connection)
{
    struct connections *all = connection->all;
    if (connection->state != CONNECTION_CLOSING || loop_op_active(&connection->readable) ||
        loop_op_active(&connection->hang_up) || loop_op_active(&connection->process) ||
        loop_op_active(&connection->timer))
        return;
    close_what_is_ours(connection);
    keep_what_remains(connection);
    if (!try_release(connection))
        connections_keep_sweeping(all);
}

void connection_cancel_all(struct connection *connection)
{
    struct loop *loop = connection->all->loop;
    loop_cancel(loop, &connection->readable);
    loop_cancel(loop, &connection->hang_up);
    loop_cancel(loop, &connection->process);
    loop_cancel(loop, &connection->timer);
}

void connection_begin_close(struct connection *connection)
{
    connection_set_state(connection, CONNECTION_CLOSING);
    connection_cancel_all(connection);
}

int connections_open(struct connections *all, struct failure *failure)
{
    int err = undertaker_check();
    if (err < 0)
        return failure_set(failure, err,
                           "close_range: %s: Linux 5.11 or later is needed, and where "
                           "system calls are filtered it must be allowed",
                           strerror(-err));
    err = half_watch_open(&all->half_watch);
    if (err < 0)
        return failure_set(failure, err, "inotify: %s (fs.inotify.max_user_instances)",
                           strerror(-err));
    err = connections_watch_halves(all);
    return err < 0 ? failure_set(failure, err, "event loop: %s", strerror(-err)) : 0;
}

void connections_close(struct connections *all)
{
    struct connection *next;
    all->is_closing = true;
    loop_cancel(all->loop, &all->sweep);
    loop_cancel(all->loop, &all->half_gone);
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        if (at->state == CONNECTION_SERVING)
            all->serving--;
        if (at->state < CONNECTION_CLOSING)
            connection_begin_close(at);
        connection_settle(at);
    }
    board_show_sessions(all);
}

void connections_forget(struct connections *all)
{
    assert(all->count == all->remaining);
    close_sockets_of(all, UINT64_MAX);
    struct connection *next;
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        if (at->memory_bytes)
            connection_hold(at, 0);
        if (loop_op_active(&at->burial))
            at->user->burying--;
        release(at);
    }
    all->remaining = all->to_close = 0;
    half_watch_close(&all->half_watch);
}
