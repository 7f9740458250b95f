#include "daemon/control.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/connection.h"
#include "daemon/listener.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "daemon/systemd.h"
#include "daemon/undertaker.h"

/* How often the board's copy is made anew, while there is work and while there is none. */
static const uint64_t busy_tick_ns = 100000000, idle_tick_ns = 1000000000;
/* Without descriptors or memory, accepting again at once would fail again at once. */
static const uint64_t accept_pause_ns = 100000000;
/* How much later than asked an engine in the middle of a step may end the requests. */
static const uint64_t drain_grace_ns = 2000000000;

enum phase { PHASE_SERVING, PHASE_DRAINING, PHASE_STOPPED };

struct control {
    struct connections all;
    struct listener listener;
    int signal_fd;
    int report_fd;

    struct loop_op accept, accept_pause, signal, report, tick, drain_end;
    enum phase phase;
    int error; /* why it stopped; 0: it was asked to */
    bool is_drain_sent;
    bool is_accept_complained_of;
    uint64_t drain_deadline_ns;

    uint64_t watchdog_ns; /* 0: none */
    uint64_t last_steps, last_heartbeat_ns;
    uint32_t last_sessions;
};

/* ---- accepting ------------------------------------------------------------------------------- */

static void accept_again_later(struct control *control, int err)
{
    if (!control->is_accept_complained_of)
        log_warning("cannot accept clients for the moment: %s%s", strerror(-err),
                    err == -EMFILE ? " (RLIMIT_NOFILE)" : "");
    control->is_accept_complained_of = true;
    loop_timer(control->all.loop, &control->accept_pause, loop_now_ns() + accept_pause_ns);
}

/* Who still waits to be accepted is told by the closing of the socket. */
static void stop_listening(struct control *control)
{
    if (control->phase != PHASE_SERVING && !loop_op_active(&control->accept))
        listener_close(&control->listener);
}

static void on_accept(struct loop_op *op, int result)
{
    struct control *control = op->owner;
    if (result >= 0 && control->phase == PHASE_SERVING) {
        control->is_accept_complained_of = false;
        connection_open(&control->all, result);
    } else if (result >= 0) {
        undertaker_close_one(result);
    }
    if (control->phase == PHASE_SERVING && !loop_op_active(op))
        accept_again_later(control, result < 0 ? result : -EAGAIN);
    stop_listening(control);
}

static void on_accept_pause(struct loop_op *op, int result)
{
    struct control *control = op->owner;
    if (control->phase != PHASE_SERVING)
        return;
    int err = loop_accept(control->all.loop, &control->accept, control->listener.fd);
    if (err < 0)
        accept_again_later(control, err);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static void stop(struct control *control, int err)
{
    if (control->phase == PHASE_STOPPED)
        return;
    control->phase = PHASE_STOPPED;
    control->error = err;
}

static void set_board_state(struct control *control, enum board_state state)
{
    /* relaxed: onlookers read it by itself. */
    atomic_store_explicit(&control->all.board->board->state, (uint32_t)state, memory_order_relaxed);
    board_mirror(control->all.board);
}

static void ask_engine_to_drain(struct control *control)
{
    if (control->is_drain_sent || control->phase != PHASE_DRAINING)
        return;
    control->is_drain_sent = engine_drain(control->all.engine, control->drain_deadline_ns) == 0;
}

static void begin_drain(struct control *control, const char *signal_name)
{
    const struct board *board = control->all.board->board;
    control->phase = PHASE_DRAINING;
    control->drain_deadline_ns = loop_now_ns() + control->all.config->drain_ns;
    log_info("%s: stopping; %u sessions, %u requests run, %u wait; they have %llu ms", signal_name,
             control->all.serving, board->requests_running, board->requests_queued,
             (unsigned long long)(control->all.config->drain_ns / 1000000));
    systemd_notify("STOPPING=1\nSTATUS=Ending the running requests");
    set_board_state(control, BOARD_DRAINING);

    struct loop *loop = control->all.loop;
    loop_cancel(loop, &control->accept);
    loop_cancel(loop, &control->accept_pause);
    stop_listening(control);
    connections_refuse_new(&control->all);
    ask_engine_to_drain(control);
    if (loop_timer(loop, &control->drain_end, control->drain_deadline_ns + drain_grace_ns) < 0)
        stop(control, 0);
}

static void on_drain_end(struct loop_op *op, int result)
{
    struct control *control = op->owner;
    if (result == -ETIME && control->phase == PHASE_DRAINING) {
        log_warning("the engine did not end its requests in time; stopping anyway");
        stop(control, 0);
    }
}

static void take_signal(struct control *control, uint32_t number)
{
    const char *name = number == SIGTERM ? "SIGTERM" : number == SIGINT ? "SIGINT" : "SIGHUP";
    if (number == SIGHUP) {
        log_info("SIGHUP: nothing is read again; restart the daemon for a new configuration");
    } else if (control->phase == PHASE_SERVING) {
        begin_drain(control, name);
    } else if (control->phase == PHASE_DRAINING) {
        log_warning("%s again: stopping at once", name);
        stop(control, 0);
    }
}

static void on_signal(struct loop_op *op, int result)
{
    struct control *control = op->owner;
    struct signalfd_siginfo info;
    if (control->phase == PHASE_STOPPED || result < 0)
        return;
    if (read(control->signal_fd, &info, sizeof info) == sizeof info)
        take_signal(control, info.ssi_signo);
    if (loop_poll(control->all.loop, op, control->signal_fd, POLLIN) < 0)
        stop(control, -EAGAIN);
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void take_report(struct control *control, const struct engine_report *report)
{
    switch ((enum engine_report_kind)report->kind) {
    case ENGINE_DETACHED:
        connection_detached(report->session);
        break;
    case ENGINE_BROKEN:
        connection_broken(report->session);
        break;
    case ENGINE_DRAINED:
        log_info("every request has ended");
        stop(control, 0);
        break;
    case ENGINE_FAILED:
        log_error("the engine failed: %s; every request was ended", strerror(-report->error));
        stop(control, report->error ? report->error : -EIO);
        break;
    }
}

static void on_report(struct loop_op *op, int result)
{
    struct control *control = op->owner;
    struct engine_report report;
    uint64_t count;
    if (control->phase == PHASE_STOPPED || result < 0)
        return;
    if (read(control->report_fd, &count, sizeof count) < 0)
        log_debug("the engine's descriptor: %s", strerror(errno)); /* it was nothing */
    while (engine_next_report(control->all.engine, &report) > 0)
        take_report(control, &report);
    if (loop_poll(control->all.loop, op, control->report_fd, POLLIN) < 0)
        stop(control, -EAGAIN);
}

/* ---- the tick -------------------------------------------------------------------------------- */

/* Health is progress: the watchdog lives on completed steps and idle turns of the engine. */
static bool engine_has_moved(struct control *control)
{
    const struct board *board = control->all.board->board;
    /* relaxed: counters, each by itself. */
    uint64_t steps = atomic_load_explicit(&board->steps, memory_order_relaxed);
    uint64_t heartbeat = atomic_load_explicit(&board->heartbeat_ns, memory_order_relaxed);
    bool has_moved = steps != control->last_steps || heartbeat != control->last_heartbeat_ns;
    control->last_steps = steps;
    control->last_heartbeat_ns = heartbeat;
    return has_moved;
}

static bool is_busy(struct control *control, uint64_t steps_before)
{
    const struct board *board = control->all.board->board;
    bool is_busy = control->phase == PHASE_DRAINING || control->last_steps != steps_before ||
                   control->all.serving != control->last_sessions ||
                   atomic_load_explicit(&board->requests_running, memory_order_relaxed) ||
                   atomic_load_explicit(&board->requests_queued, memory_order_relaxed);
    control->last_sessions = control->all.serving;
    return is_busy;
}

static void on_tick(struct loop_op *op, int result)
{
    struct control *control = op->owner;
    if (control->phase == PHASE_STOPPED)
        return;
    uint64_t steps_before = control->last_steps;
    if (engine_has_moved(control) && control->watchdog_ns)
        systemd_notify("WATCHDOG=1");
    board_mirror(control->all.board);

    uint64_t tick_ns = is_busy(control, steps_before) ? busy_tick_ns : idle_tick_ns;
    if (control->watchdog_ns && tick_ns > control->watchdog_ns / 3)
        tick_ns = control->watchdog_ns / 3;
    if (loop_timer(control->all.loop, op, loop_now_ns() + tick_ns) < 0)
        stop(control, -EAGAIN);
}

/* ---- open, run, close ------------------------------------------------------------------------ */

static struct loop_op operation(struct control *control, loop_handler *handler)
{
    return (struct loop_op){.handler = handler, .owner = control};
}

static int start(struct control *control)
{
    struct loop *loop = control->all.loop;
    control->accept = operation(control, on_accept);
    control->accept_pause = operation(control, on_accept_pause);
    control->signal = operation(control, on_signal);
    control->report = operation(control, on_report);
    control->tick = operation(control, on_tick);
    control->drain_end = operation(control, on_drain_end);

    int err = loop_accept(loop, &control->accept, control->listener.fd);
    if (err == 0)
        err = loop_poll(loop, &control->signal, control->signal_fd, POLLIN);
    if (err == 0)
        err = loop_poll(loop, &control->report, control->report_fd, POLLIN);
    if (err == 0)
        err = loop_timer(loop, &control->tick, loop_now_ns() + busy_tick_ns);
    return err;
}

int control_open(struct control **ret_control, const struct control_options *options,
                 struct failure *failure)
{
    struct control *control = calloc(1, sizeof *control);
    if (!control)
        return failure_set(failure, -ENOMEM, "control: out of memory");
    control->all = (struct connections){.config = options->config,
                                        .engine = options->engine,
                                        .board = options->board,
                                        .access = *options->access,
                                        .half_watch = {.fd = -1}};
    control->listener = LISTENER_EMPTY;
    control->signal_fd = options->signal_fd;
    control->report_fd = engine_report_fd(options->engine);
    control->watchdog_ns = systemd_watchdog_ns();

    int err = loop_open(&control->all.loop, failure);
    if (err == 0)
        err = connections_open(&control->all, failure);
    if (err == 0)
        err = listener_open(&control->listener, options->config, failure);
    if (err == 0) {
        err = start(control);
        if (err < 0)
            failure_set(failure, err, "event loop: %s", strerror(-err));
    }
    if (err < 0) {
        control_close(control);
        return err;
    }
    set_board_state(control, BOARD_SERVING);
    *ret_control = control;
    return 0;
}

const char *control_socket_path(const struct control *control)
{
    return control->listener.path;
}

int control_turn(struct control *control, uint64_t wait_ns)
{
    int err = loop_turn(control->all.loop, wait_ns);
    if (err < 0) {
        log_error("event loop: %s", strerror(-err));
        stop(control, err);
    }
    if (control->phase != PHASE_STOPPED) {
        connections_retry(&control->all);
        ask_engine_to_drain(control);
    }
    return control->phase == PHASE_STOPPED ? control->error : 1;
}

int control_run(struct control *control)
{
    /* What the engine had no room for is tried again soon, report or not. */
    const uint64_t retry_ns = 10000000;
    int err = 1;
    while (err == 1) {
        bool waits_for_engine = control->all.awaiting_engine ||
                                (control->phase == PHASE_DRAINING && !control->is_drain_sent);
        err = control_turn(control, waits_for_engine ? retry_ns : UINT64_MAX);
    }
    return err;
}

static bool is_any_active(const struct control *control)
{
    return control->all.count > control->all.remaining || loop_op_active(&control->all.sweep) ||
           loop_op_active(&control->all.half_gone) || loop_op_active(&control->accept) ||
           loop_op_active(&control->accept_pause) || loop_op_active(&control->signal) ||
           loop_op_active(&control->report) || loop_op_active(&control->tick) ||
           loop_op_active(&control->drain_end);
}

void control_close(struct control *control)
{
    if (!control)
        return;
    struct loop *loop = control->all.loop;
    control->phase = PHASE_STOPPED;
    if (loop) {
        loop_cancel(loop, &control->accept);
        loop_cancel(loop, &control->accept_pause);
        loop_cancel(loop, &control->signal);
        loop_cancel(loop, &control->report);
        loop_cancel(loop, &control->tick);
        loop_cancel(loop, &control->drain_end);
        connections_close(&control->all);
    }
    /* A loop that fails cannot tell what the kernel still holds: leaving it all in place is the
     * only safe end. */
    while (loop && is_any_active(control))
        if (loop_turn(loop, UINT64_MAX) < 0)
            return;
    connections_forget(&control->all);
    listener_close(&control->listener);
    loop_close(loop);
    free(control);
}
