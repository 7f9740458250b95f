#include "daemon/connection.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/log.h"

struct connection {
    struct connections *all;
    struct connection *next, *previous;
    enum connection_state state;
    uint32_t number;
    bool is_complained_of; /* its break was logged and counted */
    struct peer peer;
    int socket_fd;

    struct loop_op receive, hang_up, process, timer;
    struct handshake_packet packet;

    struct geometry geometry;
    struct region daemon_half; /* until the session has it, as socket and doorbell */
    int doorbell_fd;
    struct session *session;
};

/* relaxed: counters for onlookers; the control thread alone writes them. */
static void board_count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void board_show_sessions(const struct connections *all)
{
    atomic_store_explicit(&all->board->board->sessions, all->serving, memory_order_relaxed);
}

static void set_state(struct connection *connection, enum connection_state state)
{
    struct connections *all = connection->all;
    bool waited =
        connection->state == CONNECTION_ENTERING || connection->state == CONNECTION_LEAVING;
    bool waits = state == CONNECTION_ENTERING || state == CONNECTION_LEAVING;
    all->awaiting_engine += (uint32_t)waits - (uint32_t)waited;
    connection->state = state;
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

    if (connection->session) {
        session_close(connection->session); /* the socket and the doorbell with it */
    } else {
        close(connection->socket_fd);
        if (connection->doorbell_fd >= 0)
            close(connection->doorbell_fd);
        region_fini(&connection->daemon_half);
    }
    handshake_packet_fini(&connection->packet);
    handshake_peer_fini(&connection->peer);
    free(connection);
}

/* Called at the end of everything that may have been the last of a connection: it may be gone
 * afterwards. */
static void settle(struct connection *connection)
{
    if (connection->state != CONNECTION_CLOSING || loop_op_active(&connection->receive) ||
        loop_op_active(&connection->hang_up) || loop_op_active(&connection->process) ||
        loop_op_active(&connection->timer))
        return;
    release(connection);
}

static void cancel_all(struct connection *connection)
{
    struct loop *loop = connection->all->loop;
    loop_cancel(loop, &connection->receive);
    loop_cancel(loop, &connection->hang_up);
    loop_cancel(loop, &connection->process);
    loop_cancel(loop, &connection->timer);
}

/* The engine does not have it (any more). */
static void begin_close(struct connection *connection)
{
    set_state(connection, CONNECTION_CLOSING);
    cancel_all(connection);
}

/* Clients choose how often they are refused, so they do not choose how many lines that writes. */
static void log_refusal(struct connections *all, const struct connection *connection,
                        const char *why)
{
    enum { SECOND_NS = 1000000000 };
    uint64_t now_ns = loop_now_ns();
    if (now_ns - all->refusals_since_ns >= SECOND_NS) {
        if (all->refusals_unlogged)
            log_warning("%llu more clients were refused",
                        (unsigned long long)all->refusals_unlogged);
        all->refusals_since_ns = now_ns;
        all->refusals_logged = 0;
        all->refusals_unlogged = 0;
    }
    if (all->refusals_logged++ >= CONNECTION_REFUSALS_LOGGED)
        all->refusals_unlogged++;
    else
        log_warning("refused client \"%s\" (process %d, user %u): %s", connection->peer.name,
                    (int)connection->peer.pid, (unsigned)connection->peer.uid, why);
}

/* Closing a socket with unread packets resets the connection, and the peer would never see the
 * message that we sent before. So first nothing may come any more, then what has come goes. */
static void say_farewell(int socket_fd, int error, const char *why)
{
    enum { PACKETS_MAX = 4096 }; /* far beyond what fits a socket's queue */
    char byte;
    shutdown(socket_fd, SHUT_RD);
    for (int i = 0; i < PACKETS_MAX && recv(socket_fd, &byte, 1, MSG_DONTWAIT) > 0; i++)
        ;
    handshake_send_error(socket_fd, error, why);
}

/* Sends away a client that the engine does not have. */
static void refuse(struct connection *connection, int error, const char *why)
{
    log_refusal(connection->all, connection, why);
    if (error == -EPROTO && !connection->is_complained_of) {
        connection->is_complained_of = true;
        board_count(&connection->all->board->board->sessions_broken);
    }
    say_farewell(connection->socket_fd, error, why);
    begin_close(connection);
}

static void refuse_system(struct connection *connection, int error, const char *what)
{
    struct failure failure;
    failure_set(&failure, error, "%s: %s", what, strerror(-error));
    refuse(connection, error, failure.text);
}

static void try_leave(struct connection *connection)
{
    if (engine_detach(connection->all->engine, connection->session) == 0)
        set_state(connection, CONNECTION_DETACHED);
}

static void leave(struct connection *connection)
{
    struct connections *all = connection->all;
    set_state(connection, CONNECTION_LEAVING);
    all->serving--;
    board_show_sessions(all);
    cancel_all(connection);
    try_leave(connection);
}

static void complain(struct connection *connection, const char *why)
{
    if (connection->is_complained_of)
        return;
    connection->is_complained_of = true;
    board_count(&connection->all->board->board->sessions_broken);
    log_warning("session %u of \"%s\" (process %d, user %u) broke the contract and is ended: %s",
                connection->number, connection->peer.name, (int)connection->peer.pid,
                (unsigned)connection->peer.uid, why);
}

/* Something is to be read on a socket on which the client may say nothing: its end, or a word too
 * many. */
static void on_hang_up(struct loop_op *op, int result)
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
            complain(connection, why);
            say_farewell(connection->socket_fd, -EPROTO, why);
        } else {
            log_debug("session %u: the client hung up", connection->number);
        }
        leave(connection);
    }
    settle(connection);
}

static void on_process_end(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    if (connection->state == CONNECTION_SERVING) {
        log_debug("session %u: the client's process ended", connection->number);
        leave(connection);
    }
    settle(connection);
}

/* The engine has it: watch for its end, and let the client begin. */
static int begin_serving(struct connection *connection)
{
    static const struct message_ready ready = {
        .header = MESSAGE_INIT(MESSAGE_READY, struct message_ready)};
    struct loop *loop = connection->all->loop;
    int err = loop_poll(loop, &connection->hang_up, connection->socket_fd, POLLIN | POLLRDHUP);
    if (err == 0 && connection->peer.process >= 0)
        err = loop_poll(loop, &connection->process, connection->peer.process, POLLIN);
    if (err == 0)
        err = handshake_send(connection->socket_fd, &ready, sizeof ready, NULL, 0);
    return err;
}

static void try_enter(struct connection *connection)
{
    struct connections *all = connection->all;
    int err = engine_attach(all->engine, connection->session);
    if (err == -EAGAIN)
        return; /* connections_retry() */
    if (err < 0) {
        refuse_system(connection, err, "the engine takes no session");
        return;
    }
    set_state(connection, CONNECTION_SERVING);
    loop_cancel(all->loop, &connection->timer);
    all->serving++;
    board_count(&all->board->board->sessions_total);
    board_show_sessions(all);
    err = begin_serving(connection);
    if (err < 0) {
        log_debug("session %u: ended at its begin: %s", connection->number, strerror(-err));
        leave(connection);
        return;
    }
    log_debug("session %u: \"%s\" (process %d, user %u)", connection->number, connection->peer.name,
              (int)connection->peer.pid, (unsigned)connection->peer.uid);
}

/* Maps what came with MESSAGE_ATTACH and makes a session of everything. */
static int make_session(struct connection *connection, struct failure *failure)
{
    const char *why;
    struct session_options options = {
        .id = connection->number,
        .uid = connection->peer.uid,
        .socket_fd = connection->socket_fd,
        .doorbell_fd = connection->doorbell_fd,
        .geometry = connection->geometry,
        .daemon_half = connection->daemon_half,
    };
    int err = region_map_peer(&options.client_half, connection->packet.fds[0],
                              client_half_bytes(&connection->geometry), &why);
    if (err < 0)
        return failure_set(failure, err, "attach: the client half: %s", why ? why : strerror(-err));
    connection->packet.fd_count = 0;

    err = session_open(&connection->session, &options);
    if (err < 0) {
        region_fini(&options.client_half);
        return failure_set(failure, err, "cannot make a session: %s", strerror(-err));
    }
    connection->daemon_half = REGION_EMPTY;
    connection->doorbell_fd = -1;
    return 0;
}

static void take_attach(struct connection *connection)
{
    struct failure failure;
    int err = handshake_check_attach(&connection->packet, &failure);
    if (err == 0)
        err = make_session(connection, &failure);
    if (err < 0) {
        refuse(connection, err, failure.text);
        return;
    }
    set_state(connection, CONNECTION_ENTERING);
    try_enter(connection);
}

static int welcome(struct connection *connection)
{
    const struct message_hello *hello = &connection->packet.message.hello;
    struct message_welcome message = {
        .header = MESSAGE_INIT(MESSAGE_WELCOME, struct message_welcome),
        .major = LAYOUT_MAJOR,
        .minor = hello->minor < LAYOUT_MINOR ? hello->minor : LAYOUT_MINOR,
        .geometry = connection->geometry,
        .session = connection->number,
        .board_bytes = (uint32_t)connection->all->board->region.bytes,
    };
    const int fds[MESSAGE_WELCOME_FDS] = {
        connection->daemon_half.fd, connection->all->board->region.fd, connection->doorbell_fd};
    return handshake_send(connection->socket_fd, &message, sizeof message, fds,
                          MESSAGE_WELCOME_FDS);
}

/* Whether it holds what a session is made of: that is what is limited. */
static bool holds_session(const struct connection *connection)
{
    return connection->session || connection->daemon_half.base;
}

static int check_limits(const struct connection *connection, struct failure *failure)
{
    const struct config *config = connection->all->config;
    uint32_t sessions = 0, own = 0;
    for (const struct connection *at = connection->all->first; at; at = at->next) {
        sessions += holds_session(at);
        own += holds_session(at) && at->peer.uid == connection->peer.uid;
    }
    if (sessions >= config->sessions_max)
        return failure_set(failure, -EUSERS, "all %u sessions are taken (sessions_max)",
                           config->sessions_max);
    if (own >= config->sessions_per_user)
        return failure_set(failure, -EUSERS, "user %u has %u sessions already (sessions_per_user)",
                           (unsigned)connection->peer.uid, own);
    return 0;
}

static uint32_t half_open_of_user(const struct connections *all, uid_t uid)
{
    uint32_t count = 0;
    for (const struct connection *at = all->first; at; at = at->next)
        count += at->peer.uid == uid && at->state <= CONNECTION_ENTERING;
    return count;
}

static int prepare_session(struct connection *connection)
{
    const struct geometry *wish = &connection->packet.message.hello.geometry;
    handshake_grant(&connection->geometry, wish, &connection->all->config->geometry_max,
                    connection->number);
    int err = region_create(&connection->daemon_half, "autoglm-daemon",
                            daemon_half_bytes(&connection->geometry));
    if (err < 0)
        return err;
    connection->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return connection->doorbell_fd < 0 ? -errno : 0;
}

static void on_packet(struct loop_op *op, int result);

static int receive_next(struct connection *connection)
{
    handshake_packet_fini(&connection->packet);
    handshake_packet_init(&connection->packet);
    return loop_receive(connection->all->loop, &connection->receive, connection->socket_fd,
                        &connection->packet.header);
}

static void take_hello(struct connection *connection)
{
    struct failure failure;
    int err = handshake_check_hello(&connection->packet, &failure);
    if (connection->packet.bytes >= sizeof connection->packet.message.hello)
        handshake_clean_name(connection->peer.name, connection->packet.message.hello.name);
    if (err == 0)
        err = check_limits(connection, &failure);
    if (err < 0) {
        refuse(connection, err, failure.text);
        return;
    }

    err = prepare_session(connection);
    if (err < 0) {
        refuse_system(connection, err, "no memory or descriptors for a session");
        return;
    }
    err = welcome(connection);
    if (err == 0)
        err = receive_next(connection);
    if (err < 0)
        refuse_system(connection, err, "the connection");
    else
        set_state(connection, CONNECTION_ATTACH);
}

static void on_packet(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    if (result >= 0) /* even if nobody wants it any more: descriptors may have come */
        handshake_packet_take(&connection->packet, (size_t)result);

    if (connection->state != CONNECTION_HELLO && connection->state != CONNECTION_ATTACH) {
        settle(connection);
        return;
    }
    if (result <= 0) {
        log_debug("a client (process %d, user %u) left during the handshake",
                  (int)connection->peer.pid, (unsigned)connection->peer.uid);
        begin_close(connection);
    } else if (connection->state == CONNECTION_HELLO) {
        take_hello(connection);
    } else {
        take_attach(connection);
    }
    settle(connection);
}

static void on_deadline(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    if (result == -ETIME && connection->state <= CONNECTION_ENTERING)
        refuse(connection, -ETIMEDOUT, "the handshake took too long (handshake_ms)");
    settle(connection);
}

static int start(struct connection *connection)
{
    struct connections *all = connection->all;
    connection->receive = (struct loop_op){.handler = on_packet, .owner = connection};
    connection->hang_up = (struct loop_op){.handler = on_hang_up, .owner = connection};
    connection->process = (struct loop_op){.handler = on_process_end, .owner = connection};
    connection->timer = (struct loop_op){.handler = on_deadline, .owner = connection};
    int err = loop_timer(all->loop, &connection->timer, loop_now_ns() + all->config->handshake_ns);
    return err < 0 ? err : receive_next(connection);
}

void connection_open(struct connections *all, int socket_fd)
{
    struct peer peer;
    int err = handshake_peer(&peer, socket_fd);
    struct connection *connection = err == 0 ? calloc(1, sizeof *connection) : NULL;
    if (!connection) {
        if (err == 0) {
            handshake_peer_fini(&peer);
            err = -ENOMEM;
        }
        log_debug("a client was turned away: %s", strerror(-err));
        say_farewell(socket_fd, err, "the daemon is out of memory or descriptors");
        close(socket_fd);
        return;
    }

    connection->peer = peer;
    connection->socket_fd = socket_fd;
    connection->daemon_half = REGION_EMPTY;
    connection->doorbell_fd = -1;
    connection->state = CONNECTION_HELLO;
    add(all, connection);
    if (half_open_of_user(all, peer.uid) > CONNECTION_HALF_OPEN_PER_USER)
        refuse(connection, -EUSERS, "too many handshakes of this user at once");
    else if ((err = start(connection)) < 0)
        refuse_system(connection, err, "the connection");
    settle(connection);
}

static struct connection *find(const struct connections *all, const struct session *session)
{
    struct connection *at = all->first;
    while (at && at->session != session)
        at = at->next;
    return at;
}

void connection_broken(struct connections *all, struct session *session)
{
    struct connection *connection = find(all, session);
    if (!connection || connection->state != CONNECTION_SERVING)
        return; /* it is leaving already */
    complain(connection, session->broken_why ? session->broken_why : strerror(EPROTO));
    leave(connection);
}

void connection_detached(struct connections *all, struct session *session)
{
    struct connection *connection = find(all, session);
    if (!connection || connection->state != CONNECTION_DETACHED)
        return;
    begin_close(connection);
    settle(connection);
}

void connections_retry(struct connections *all)
{
    struct connection *next;
    for (struct connection *at = all->first; at && all->awaiting_engine; at = next) {
        next = at->next;
        if (at->state == CONNECTION_ENTERING)
            try_enter(at);
        else if (at->state == CONNECTION_LEAVING)
            try_leave(at);
        settle(at);
    }
}

void connections_refuse_new(struct connections *all)
{
    struct connection *next;
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        if (at->state <= CONNECTION_ENTERING)
            refuse(at, -ESHUTDOWN, "the daemon stops");
        settle(at);
    }
}

void connections_close(struct connections *all)
{
    struct connection *next;
    for (struct connection *at = all->first; at; at = next) {
        next = at->next;
        if (at->state == CONNECTION_SERVING)
            all->serving--;
        if (at->state != CONNECTION_CLOSING)
            begin_close(at);
        settle(at);
    }
    board_show_sessions(all);
}
