#include "daemon/connection.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/connection_state.h"
#include "daemon/log.h"
#include "daemon/undertaker.h"

static bool is_half_open(enum connection_state state)
{
    return state <= CONNECTION_ENTERING;
}

void connection_set_state(struct connection *connection, enum connection_state state)
{
    struct connections *all = connection->all;
    if (connection->user)
        connection->user->half_open +=
            (uint32_t)is_half_open(state) - (uint32_t)is_half_open(connection->state);
    bool waited =
        connection->state == CONNECTION_ENTERING || connection->state == CONNECTION_LEAVING;
    bool waits = state == CONNECTION_ENTERING || state == CONNECTION_LEAVING;
    all->awaiting_engine += (uint32_t)waits - (uint32_t)waited;
    connection->state = state;
}

void connection_hold(struct connection *connection, uint64_t memory_bytes)
{
    struct user *user = connection->user;
    uint32_t more = (uint32_t)(memory_bytes != 0) - (uint32_t)(connection->memory_bytes != 0);
    connection->all->sessions += more;
    user->sessions += more;
    user->memory_bytes += memory_bytes - connection->memory_bytes;
    connection->memory_bytes = memory_bytes;
}

static void add(struct connections *all, struct connection *connection)
{
    connection->all = all;
    connection->number = ++all->next_number;
    connection->next = all->first;
    if (all->first)
        all->first->previous = connection;
    all->first = connection;
    all->count++;
}

/* Clients choose how often they are refused or break the contract, so they do not choose how many
 * lines that writes. Whether one more may be written now. */
static bool may_log(struct connections *all)
{
    enum { SECOND_NS = 1000000000 };
    uint64_t now_ns = loop_now_ns();
    if (now_ns - all->refusals_since_ns >= SECOND_NS) {
        if (all->refusals_unlogged)
            log_warning("%llu more clients were refused or broke the contract",
                        (unsigned long long)all->refusals_unlogged);
        all->refusals_since_ns = now_ns;
        all->refusals_logged = 0;
        all->refusals_unlogged = 0;
    }
    if (all->refusals_logged++ < CONNECTION_REFUSALS_LOGGED)
        return true;
    all->refusals_unlogged++;
    return false;
}

/* Closing a socket with unread packets resets the connection, and the peer would never see the
 * message that we sent before. So first nothing may come any more, then what has come goes. */
static void say_farewell(int socket_fd, int error, const char *why)
{
    handshake_hush(socket_fd);
    handshake_send_error(socket_fd, error, why);
}

void connection_refuse(struct connection *connection, int error, const char *why)
{
    if (may_log(connection->all))
        log_warning("refused client \"%s\" (process %d, user %u): %s", connection->peer.name,
                    (int)connection->peer.pid, (unsigned)connection->peer.uid, why);
    board_add(&connection->all->board->board->sessions_refused, 1);
    if (error == -EPROTO)
        board_add(&connection->all->board->board->sessions_broken, 1);
    say_farewell(connection->socket_fd, error, why);
    connection_begin_close(connection);
}

void connection_refuse_system(struct connection *connection, int error, const char *what)
{
    struct failure failure;
    failure_set(&failure, error, "%s: %s", what, strerror(-error));
    connection_refuse(connection, error, failure.text);
}

static void try_leave(struct connection *connection)
{
    if (engine_detach(connection->all->engine, connection->session) == 0)
        connection_set_state(connection, CONNECTION_DETACHED);
}

void connection_leave(struct connection *connection)
{
    struct connections *all = connection->all;
    connection_set_state(connection, CONNECTION_LEAVING);
    all->serving--;
    board_show_sessions(all);
    connection_cancel_all(connection);
    try_leave(connection);
}

/* -EPROTO is the client's breach of the contract; anything else may have befallen it. */
static void complain(struct connection *connection, int error, const char *why)
{
    if (connection->is_complained_of)
        return;
    connection->is_complained_of = true;
    board_add(&connection->all->board->board->sessions_broken, 1);
    if (may_log(connection->all))
        log_warning("session %u of \"%s\" (process %d, user %u) %sis ended: %s", connection->number,
                    connection->peer.name, (int)connection->peer.pid,
                    (unsigned)connection->peer.uid,
                    error == -EPROTO ? "broke the contract and " : "", why);
}

/* Something is to be read on a socket on which the client may say nothing: its end, or a word too
 * many. */
void connection_on_hang_up(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    if (connection->state == CONNECTION_SERVING) {
        char byte;
        ssize_t got = recv(connection->socket_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN && result == POLLIN &&
            loop_poll(connection->all->loop, op, connection->socket_fd, POLLIN | POLLRDHUP) == 0)
            return; /* it was nothing */
        if (got > 0) {
            static const char why[] = "a packet came after the handshake";
            complain(connection, -EPROTO, why);
            say_farewell(connection->socket_fd, -EPROTO, why);
        } else {
            log_debug("session %u: the client hung up", connection->number);
        }
        connection_leave(connection);
    }
    connection_settle(connection);
}

void connection_on_process_end(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    if (connection->state == CONNECTION_SERVING) {
        log_debug("session %u: the client's process ended", connection->number);
        connection_leave(connection);
    }
    connection_settle(connection);
}

/* Who it is. One that is gone already is nobody to refuse. */
static int identify(struct connection *connection)
{
    struct connections *all = connection->all;
    int err = handshake_peer(&connection->peer, connection->socket_fd);
    connection->user = err == 0 ? users_enter(&all->users, connection->peer.uid) : NULL;
    if (connection->user) {
        connection->user->half_open++;
        return 0;
    }
    err = err < 0 ? err : -ENOMEM;
    log_debug("a client was turned away: %s", strerror(-err));
    if (err != -ESRCH) {
        board_add(&all->board->board->sessions_refused, 1);
        say_farewell(connection->socket_fd, err, "the daemon is out of descriptors or memory");
    }
    connection_begin_close(connection);
    return err;
}

/* Whether that user may begin another handshake. A refusal is told already. */
static int admit(struct connection *connection)
{
    if (!access_is_allowed(&connection->all->access, connection->socket_fd)) {
        connection_refuse(connection, -EACCES,
                          "this user is not let in (allow_users, allow_groups)");
        return -EACCES;
    }
    if (connection->user->half_open > CONNECTION_HALF_OPEN_PER_USER) {
        connection_refuse(connection, -EUSERS, "too many handshakes of this user at once");
        return -EUSERS;
    }
    return 0;
}

static void turn_away_without_memory(struct connections *all, int socket_fd)
{
    log_debug("a client was turned away: %s", strerror(ENOMEM));
    board_add(&all->board->board->sessions_refused, 1);
    say_farewell(socket_fd, -ENOMEM, "the daemon is out of memory");
    undertaker_close_one(socket_fd);
}

void connection_open(struct connections *all, int socket_fd)
{
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) {
        turn_away_without_memory(all, socket_fd);
        return;
    }
    connection->peer = PEER_EMPTY;
    connection->socket_fd = socket_fd;
    connection->daemon_half = REGION_EMPTY;
    connection->half_mark = (struct half_mark){.owner = connection, .number = -1};
    connection->strange_fd = connection->doorbell_fd = -1;
    connection->state = CONNECTION_HELLO;
    add(all, connection);
    if (identify(connection) == 0 && admit(connection) == 0) {
        int err = connection_begin(connection);
        if (err < 0)
            connection_refuse_system(connection, err, "the connection");
    }
    connection_settle(connection);
}

void connection_broken(struct session *session)
{
    struct connection *connection = session->options.owner;
    /* Also of one that has hung up in the meantime: it is counted all the same. */
    complain(connection, session->broken,
             session->broken_why ? session->broken_why : strerror(-session->broken));
    if (connection->state == CONNECTION_SERVING)
        connection_leave(connection);
}

void connection_detached(struct session *session)
{
    struct connection *connection = session->options.owner;
    assert(connection->state == CONNECTION_DETACHED); /* we asked for it, once */
    connection_begin_close(connection);
    connection_settle(connection);
}

void connections_retry(struct connections *all)
{
    struct connection *next;
    for (struct connection *at = all->first; at && all->awaiting_engine; at = next) {
        next = at->next;
        if (at->state == CONNECTION_ENTERING)
            connection_try_enter(at);
        else if (at->state == CONNECTION_LEAVING)
            try_leave(at);
        connection_settle(at);
    }
    connections_keep_sweeping(all);
    connections_watch_halves(all);
}

void connections_refuse_new(struct connections *all)
{
    struct connection *next;
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        if (at->state <= CONNECTION_ENTERING)
            connection_refuse(at, -ESHUTDOWN, "the daemon stops");
        connection_settle(at);
    }
}
