/* The handshake, step by step: from the first packet until the engine has the session. */
#include "daemon/connection_state.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/log.h"

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

void connection_try_enter(struct connection *connection)
{
    struct connections *all = connection->all;
    int err = engine_attach(all->engine, connection->session);
    if (err == -EAGAIN)
        return; /* connections_retry() */
    if (err < 0) {
        connection_refuse_system(connection, err, "the engine takes no session");
        return;
    }
    connection_set_state(connection, CONNECTION_SERVING);
    loop_cancel(all->loop, &connection->timer);
    all->serving++;
    board_add(&all->board->board->sessions_total, 1);
    board_show_sessions(all);
    err = begin_serving(connection);
    if (err < 0) {
        log_debug("session %u: ended at its begin: %s", connection->number, strerror(-err));
        connection_leave(connection);
        return;
    }
    log_debug("session %u: \"%s\" (process %d, user %u)", connection->number, connection->peer.name,
              (int)connection->peer.pid, (unsigned)connection->peer.uid);
}

/* Maps the client's half and makes a session of everything. fd is still the caller's. */
static int make_session(struct connection *connection, int fd, struct failure *failure)
{
    const char *why;
    struct session_options options = {
        .id = connection->number,
        .uid = connection->peer.uid,
        .queue = &connection->user->queue,
        .owner = connection,
        .socket_fd = connection->socket_fd,
        .doorbell_fd = connection->doorbell_fd,
        .geometry = connection->geometry,
        .daemon_half = connection->daemon_half,
    };
    int err =
        region_map_peer(&options.client_half, fd, client_half_bytes(&connection->geometry), &why);
    if (err < 0)
        return failure_set(failure, err, "attach: the client half: %s", why ? why : strerror(-err));
    options.client_half.fd = -1; /* the mapping is enough */
    err = session_open(&connection->session, &options);
    if (err < 0) {
        region_fini(&options.client_half);
        return failure_set(failure, err, "cannot make a session: %s", strerror(-err));
    }
    connection->daemon_half = REGION_EMPTY;
    connection->doorbell_fd = -1;
    return 0;
}

static void take_attach(struct connection *connection, const struct handshake_packet *packet)
{
    struct failure failure;
    int err = handshake_check_attach(packet, &failure);
    if (err == 0)
        err = make_session(connection, packet->fd, &failure);
    if (err < 0) {
        connection_bury(connection, packet->fd);
        connection_refuse(connection, err, failure.text);
        return;
    }
    handshake_discard(connection->socket_fd);
    close(packet->fd);
    connection_set_state(connection, CONNECTION_ENTERING);
    connection_try_enter(connection);
}

static uint16_t smaller(uint16_t a, uint16_t b)
{
    return a < b ? a : b;
}

static int welcome(struct connection *connection, const struct message_hello *hello)
{
    struct message_welcome message = {
        .header = MESSAGE_INIT(MESSAGE_WELCOME, struct message_welcome),
        .major = LAYOUT_MAJOR,
        .minor = smaller(hello->minor, LAYOUT_MINOR),
        .geometry = connection->geometry,
        .session = connection->number,
        .board_bytes = (uint32_t)connection->all->board->region.bytes,
    };
    const int fds[MESSAGE_WELCOME_FDS] = {
        connection->daemon_half.fd, connection->all->board->region.fd, connection->doorbell_fd};
    int err =
        handshake_send(connection->socket_fd, &message, sizeof message, fds, MESSAGE_WELCOME_FDS);
    region_close_fd(&connection->daemon_half);
    return err;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* Whether a session of that size keeps to what all clients, and those of one user, may have. */
static int compare_limits(const struct connection *connection, uint64_t memory_bytes,
                          struct failure *failure)
{
    const struct config *config = connection->all->config;
    const struct user *user = connection->user;
    if (connection->all->sessions >= config->sessions_max)
        return failure_set(failure, -EUSERS, "all %u sessions are taken (sessions_max)",
                           config->sessions_max);
    if (user->sessions >= config->sessions_per_user)
        return failure_set(failure, -EUSERS, "user %u has %u sessions already (sessions_per_user)",
                           (unsigned)user->uid, user->sessions);
    if (config->user_memory_bytes && user->memory_bytes + memory_bytes > config->user_memory_bytes)
        return failure_set(
            failure, -EDQUOT,
            "user %u has %.2f of %.0f MiB, %.2f more are asked for (user_memory_mib)",
            (unsigned)user->uid, mib(user->memory_bytes), mib(config->user_memory_bytes),
            mib(memory_bytes));
    return 0;
}

/* The memory of closed sessions counts as long as somebody has it, so look again before saying no.
 */
static int check_limits(const struct connection *connection, uint64_t memory_bytes,
                        struct failure *failure)
{
    int err = compare_limits(connection, memory_bytes, failure);
    if (err < 0 && connections_take_gone_halves(connection->all))
        err = compare_limits(connection, memory_bytes, failure);
    return err;
}

static int prepare_session(struct connection *connection, const struct message_hello *hello,
                           struct failure *failure)
{
    struct geometry *granted = &connection->geometry;
    handshake_grant(granted, &hello->geometry, &connection->all->config->geometry_max,
                    connection->number);
    uint64_t memory_bytes = client_half_bytes(granted) + daemon_half_bytes(granted);
    int err = check_limits(connection, memory_bytes, failure);
    if (err < 0)
        return err;
    connection_hold(connection, memory_bytes);
    err = region_create(&connection->daemon_half, "autoglm-daemon", daemon_half_bytes(granted));
    if (err == 0) {
        connection->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        err = connection->doorbell_fd < 0 ? -errno : 0;
    }
    if (err < 0)
        return failure_set(failure, err, "no memory or descriptors for a session: %s",
                           strerror(-err));
    err = half_watch_add(&connection->all->half_watch, &connection->half_mark,
                         connection->daemon_half.fd);
    if (err < 0)
        failure_set(failure, err, "the daemon cannot watch its memory: %s%s", strerror(-err),
                    err == -ENOENT   ? " (it needs /proc)"
                    : err == -ENOSPC ? " (fs.inotify.max_user_watches)"
                                     : "");
    return err;
}

static int wait_for_packet(struct connection *connection)
{
    return loop_poll(connection->all->loop, &connection->readable, connection->socket_fd, POLLIN);
}

/* It has gone by itself, so nobody refuses it. */
static void leave_early(struct connection *connection)
{
    log_debug("a client (process %d, user %u) left during the handshake", (int)connection->peer.pid,
              (unsigned)connection->peer.uid);
    connection_begin_close(connection);
}

static void take_hello(struct connection *connection, const struct handshake_packet *packet)
{
    const struct message_hello *hello = &packet->message.hello;
    struct failure failure;
    int err = handshake_check_hello(packet, &failure);
    if (packet->bytes >= sizeof *hello)
        handshake_clean_name(connection->peer.name, hello->name);
    if (err == 0)
        err = prepare_session(connection, hello, &failure);
    if (err < 0) {
        connection_refuse(connection, err, failure.text);
        return;
    }

    handshake_discard(connection->socket_fd);
    err = welcome(connection, hello);
    if (err == 0)
        err = wait_for_packet(connection);
    if (err == -EPIPE || err == -ECONNRESET)
        leave_early(connection);
    else if (err < 0)
        connection_refuse_system(connection, err, "the connection");
    else
        connection_set_state(connection, CONNECTION_ATTACH);
}

/* What a client may send besides memory is closed when its maker likes, so one of each user at a
 * time; the others wait, until their deadline. */
static void take_packet(struct connection *connection)
{
    struct handshake_packet packet;
    bool is_hello = connection->state == CONNECTION_HELLO;
    if (!is_hello && connection->user->burying) {
        connection->waits_for_burial = true;
        return;
    }
    int got = handshake_look(&packet, connection->socket_fd, !is_hello);
    int err = got == -EAGAIN ? wait_for_packet(connection) : got; /* it was nothing */
    if (err == 0 && got != 0)
        return;
    if (err <= 0)
        connection_bury(connection, packet.fd);
    if (err == 0 || err == -ECONNRESET)
        leave_early(connection);
    else if (err < 0)
        connection_refuse_system(connection, err, "the connection");
    else if (is_hello)
        take_hello(connection, &packet);
    else
        take_attach(connection, &packet);
}

static void on_readable(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    if (connection->state == CONNECTION_HELLO || connection->state == CONNECTION_ATTACH) {
        if (result < 0)
            connection_refuse_system(connection, result, "the connection");
        else
            take_packet(connection);
    }
    connection_settle(connection);
}

void connection_resume(struct connection *connection)
{
    connection->waits_for_burial = false;
    if (connection->state != CONNECTION_ATTACH)
        return;
    int err = wait_for_packet(connection);
    if (err < 0)
        connection_refuse_system(connection, err, "the connection");
    connection_settle(connection);
}

static void on_deadline(struct loop_op *op, int result)
{
    struct connection *connection = op->owner;
    if (result == -ETIME && connection->state <= CONNECTION_ENTERING)
        connection_refuse(connection, -ETIMEDOUT, "the handshake took too long (handshake_ms)");
    connection_settle(connection);
}

int connection_begin(struct connection *connection)
{
    struct connections *all = connection->all;
    connection->readable = (struct loop_op){.handler = on_readable, .owner = connection};
    connection->hang_up = (struct loop_op){.handler = connection_on_hang_up, .owner = connection};
    connection->process =
        (struct loop_op){.handler = connection_on_process_end, .owner = connection};
    connection->timer = (struct loop_op){.handler = on_deadline, .owner = connection};
    int err = loop_timer(all->loop, &connection->timer, loop_now_ns() + all->config->handshake_ns);
    return err < 0 ? err : wait_for_packet(connection);
}
