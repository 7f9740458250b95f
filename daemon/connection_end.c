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
#include <stdlib.h>
#include <unistd.h>

#include "daemon/connection_state.h"
#include "daemon/undertaker.h"

/* How long until what remains is looked at again; longer as long as nothing goes. */
static const uint64_t sweep_first_ns = 20000000, sweep_last_ns = 1000000000;
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
    return connection->socket_fd < 0 && connection->half_fd < 0 &&
           !loop_op_active(&connection->burial);
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

static void on_buried(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    connection->user->burying--;
    try_release(connection);
}

/* The packet that brought it stays in the socket, so that the last close is the undertaker's and
 * what is waited for here is no more than what every close waits for: the file system's word. */
void connection_bury(struct connection *connection, int fd)
{
    if (fd < 0)
        return;
    connection->burial = (struct loop_op){.handler = on_buried, .owner = connection};
    if (!handshake_closes_at_once(fd, client_half_bytes(&connection->geometry)) &&
        loop_close_fd(connection->all->loop, &connection->burial, fd) == 0)
        connection->user->burying++;
    else
        close(fd); /* memory; or an io_uring, or no room in the loop */
}

/* ---- what remains ---------------------------------------------------------------------------- */

/* Whether the client gave the daemon's half back, so that its pages are gone, too. */
static void look_at_half(struct connection *connection)
{
    if (connection->half_fd >= 0 && region_is_alone(connection->half_fd)) {
        close(connection->half_fd);
        connection->half_fd = -1;
    }
    if (connection->half_fd < 0 && connection->memory_bytes)
        connection_hold(connection, 0);
}

static void close_sockets(struct connection *const *connections, uint32_t count)
{
    int fds[CONNECTION_SOCKETS_AT_ONCE];
    for (uint32_t i = 0; i < count; i++)
        fds[i] = connections[i]->socket_fd;
    if (count == 0 || undertaker_close(fds, count) < 0)
        return; /* the next sweep tries again */
    for (uint32_t i = 0; i < count; i++)
        connections[i]->socket_fd = -1;
    connections[0]->all->open_sockets -= count;
}

/* Those of connections that ended at that time or before. */
static void close_sockets_of(struct connections *all, uint64_t closed_ns)
{
    struct connection *batch[CONNECTION_SOCKETS_AT_ONCE];
    uint32_t count = 0;
    for (struct connection *at = all->first; at && all->open_sockets > count; at = at->next) {
        if (at->state != CONNECTION_REMAINS || at->socket_fd < 0 || at->closed_ns > closed_ns ||
            loop_op_active(&at->burial))
            continue;
        batch[count++] = at;
        if (count == CONNECTION_SOCKETS_AT_ONCE) {
            close_sockets(batch, count);
            count = 0;
        }
    }
    close_sockets(batch, count);
}

bool connections_sweep(struct connections *all)
{
    uint32_t sessions = all->sessions, remaining = all->remaining;
    struct connection *next;
    bool are_many = all->open_sockets >= CONNECTION_SOCKETS_AT_ONCE;
    close_sockets_of(all, are_many ? UINT64_MAX : loop_now_ns() - farewell_ns);
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        if (at->state == CONNECTION_REMAINS)
            look_at_half(at);
        try_release(at);
    }
    return all->sessions < sessions || all->remaining < remaining;
}

static void on_sweep(struct loop_op *op, int result)
{
    struct connections *all = op->owner;
    if (all->is_closing)
        return;
    all->sweep_ns = connections_sweep(all) ? sweep_first_ns : all->sweep_ns * 2;
    if (all->sweep_ns > sweep_last_ns)
        all->sweep_ns = sweep_last_ns;
    connections_keep_sweeping(all);
}

void connections_keep_sweeping(struct connections *all)
{
    if (all->remaining == 0 || all->is_closing || loop_op_active(&all->sweep))
        return;
    all->sweep = (struct loop_op){.handler = on_sweep, .owner = all};
    loop_timer(all->loop, &all->sweep, loop_now_ns() + all->sweep_ns); /* or at the next turn */
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

void connection_settle(struct connection *connection)
{
    struct connections *all = connection->all;
    if (connection->state != CONNECTION_CLOSING || loop_op_active(&connection->readable) ||
        loop_op_active(&connection->hang_up) || loop_op_active(&connection->process) ||
        loop_op_active(&connection->timer))
        return;
    close_what_is_ours(connection);
    if (connection->memory_bytes) /* the client's half is its own affair from now on */
        connection_hold(connection, daemon_half_bytes(&connection->geometry));
    look_at_half(connection);
    connection_set_state(connection, CONNECTION_REMAINS);
    connection->closed_ns = loop_now_ns();
    all->remaining++;
    all->open_sockets += connection->socket_fd >= 0;
    all->sweep_ns = sweep_first_ns;
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

void connections_close(struct connections *all)
{
    struct connection *next;
    all->is_closing = true;
    loop_cancel(all->loop, &all->sweep);
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
        if (at->half_fd >= 0)
            close(at->half_fd);
        if (at->memory_bytes)
            connection_hold(at, 0);
        if (loop_op_active(&at->burial))
            at->user->burying--;
        release(at);
    }
    all->remaining = all->open_sockets = 0;
}
