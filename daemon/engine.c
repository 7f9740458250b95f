#include "daemon/engine.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine_state.h"
#include "daemon/guard.h"

enum { NS_PER_S = 1000000000 };

/* ---- the engine's thread --------------------------------------------------------------------- */

void engine_report(struct engine *engine, enum engine_report_kind kind, struct session *session,
                   int error)
{
    struct engine_report report = {.kind = kind, .session = session, .error = error};
    /* There is room: a session has two reports at the most before it leaves, and engine_attach()
     * bounds the sessions. */
    int err = ring_push(&engine->reports, &report);
    assert(err == 0);
    (void)err;
    (void)!write(engine->report_fd, &(uint64_t){1}, sizeof(uint64_t));
}

/* The last word to a session; nothing is taken from it and nothing told to it any more. */
static void shut(struct engine *engine, struct session *session, int error)
{
    if (session->is_shut)
        return;
    struct event event = {.kind = EVENT_SHUTDOWN, .shutdown = {.error = error}};
    session->is_shut = true;
    session->promised--;
    publish_event(&engine->publisher, session, &event);
    engine_unwatch(engine, session);
}

void engine_break(struct engine *engine, struct session *session, int error, const char *why)
{
    if (session->broken)
        return;
    /* What the guard has put in the place of the client's memory is not of the client's making, so
     * what is wrong with it is no breach. */
    if (guard_was_hit(session->guard))
        session_break(session, -EFAULT, "a page of the client's memory has failed");
    else
        session_break(session, error, why);
    session->next_broken = engine->broken;
    engine->broken = session;
}

void engine_settle_broken(struct engine *engine, uint64_t now_ns)
{
    while (engine->broken) {
        struct session *session = engine->broken;
        engine->broken = session->next_broken;
        session->next_broken = NULL;
        engine_end_session(engine, session, DONE_CANCELLED, 0, now_ns);
        shut(engine, session, session->broken);
        engine_report(engine, ENGINE_BROKEN, session, session->broken);
    }
}

static void attach(struct engine *engine, struct session *session, uint64_t now_ns)
{
    if (engine->drained) {
        shut(engine, session, -ESHUTDOWN);
        return;
    }
    int err = engine_watch(engine, session, now_ns);
    if (err < 0)
        engine_break(engine, session, err, "the engine cannot listen to the doorbell");
}

static void detach(struct engine *engine, struct session *session, uint64_t now_ns)
{
    engine_end_session(engine, session, DONE_CANCELLED, 0, now_ns);
    shut(engine, session, -ESHUTDOWN);
    publish_wake(&engine->publisher); /* afterwards it is not ours any more */
    engine_report(engine, ENGINE_DETACHED, session, 0);
}

static bool take_commands(struct engine *engine, uint64_t now_ns)
{
    struct engine_command command;
    bool any = false;
    while (ring_pop(&engine->commands, &command) == 0) {
        any = true;
        switch (command.kind) {
        case ENGINE_ATTACH:
            attach(engine, command.session, now_ns);
            break;
        case ENGINE_DETACH:
            engine_settle_broken(engine, now_ns); /* it might be among them */
            detach(engine, command.session, now_ns);
            break;
        case ENGINE_DRAIN:
            engine->draining = true;
            engine->drain_deadline_ns = command.deadline_ns;
            engine_end_queued(engine, DONE_REFUSED, -ESHUTDOWN, now_ns);
            break;
        }
        ring_return(&engine->commands);
    }
    return any;
}

static void break_hit(struct engine *engine, const struct session_list *list)
{
    for (struct session *session = list->first; session; session = session->next)
        if (guard_was_hit(session->guard))
            engine_break(engine, session, -EFAULT, NULL); /* which says why */
}

/* Ends the sessions whose memory the guard had to replace. */
static void heed_guard(struct engine *engine)
{
    uint32_t hits = guard_hits();
    if (hits == engine->guard_hits)
        return;
    engine->guard_hits = hits;
    break_hit(engine, &engine->hot);
    break_hit(engine, &engine->cold);
}

static void shut_list(struct engine *engine, struct session_list *list)
{
    while (list->first)
        shut(engine, list->first, -ESHUTDOWN);
}

static void drain(struct engine *engine, uint64_t now_ns)
{
    if (!engine->draining || engine->drained)
        return;
    if (engine->running_requests && now_ns < engine->drain_deadline_ns)
        return;
    engine_end_all(engine, DONE_FAILED, -ESHUTDOWN, now_ns);
    shut_list(engine, &engine->hot);
    shut_list(engine, &engine->cold);
    engine->drained = true;
    engine_report(engine, ENGINE_DRAINED, NULL, 0);
}

/* relaxed throughout: each number stands by itself. */
static void update_board(struct engine *engine, uint64_t now_ns)
{
    struct board *board = engine->board;
    atomic_store_explicit(&board->heartbeat_ns, now_ns, memory_order_relaxed);
    atomic_store_explicit(&board->requests_queued, engine->queued_requests, memory_order_relaxed);
    atomic_store_explicit(&board->requests_running, engine->running_requests, memory_order_relaxed);
    for (uint32_t i = 0; i < engine->model_count; i++)
        atomic_store_explicit(&engine->models[i].board->blocks_free,
                              engine->models[i].cache.free_blocks, memory_order_relaxed);
}

bool engine_turn(struct engine *engine, uint64_t now_ns)
{
    bool has_command = take_commands(engine, now_ns);
    bool has_submission = engine_sweep(engine, now_ns);
    heed_guard(engine);
    engine_settle_broken(engine, now_ns);
    engine_expire(engine, now_ns);
    for (uint32_t i = 0; i < engine->model_count; i++)
        engine_admit(engine, &engine->models[i], now_ns);
    bool has_stepped = engine_step(engine, now_ns);
    engine_settle_broken(engine, now_ns);
    drain(engine, now_ns);
    publish_wake(&engine->publisher);

    bool is_busy = has_command || has_submission || has_stepped;
    update_board(engine, now_ns);
    if (has_submission && engine->idle_since_ns)
        spinner_arrival(&engine->spinner, now_ns);
    if (is_busy)
        engine->idle_since_ns = 0;
    return is_busy;
}

uint64_t engine_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void *run(void *argument)
{
    struct engine *engine = argument;
    /* acquire: pairs with the release in engine_stop(); nothing but the end depends on it. */
    while (!atomic_load_explicit(&engine->stop, memory_order_acquire)) {
        uint64_t now_ns = engine->clock_ns();
        if (!engine_turn(engine, now_ns))
            engine_wait(engine, now_ns);
    }
    return NULL;
}

/* ---- the control thread's side --------------------------------------------------------------- */

int engine_start(struct engine *engine)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* of the thread's own making: guard.h; a blocked one ends us */
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the control thread's */
    int err = pthread_create(&engine->thread, NULL, run, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err)
        return -err;
    pthread_setname_np(engine->thread, "engine");
    engine->is_started = true;
    return 0;
}

static void wake_engine(struct engine *engine)
{
    (void)!write(engine->command_fd, &(uint64_t){1}, sizeof(uint64_t));
}

static int command(struct engine *engine, enum engine_command_kind kind, struct session *session,
                   uint64_t deadline_ns)
{
    struct engine_command command = {.kind = kind, .session = session, .deadline_ns = deadline_ns};
    int err = ring_push(&engine->command_writer, &command);
    if (err < 0)
        return err;
    wake_engine(engine);
    return 0;
}

int engine_report_fd(const struct engine *engine)
{
    return engine->report_fd;
}

int engine_next_report(struct engine *engine, struct engine_report *ret_report)
{
    if (ring_pop(&engine->report_reader, ret_report) < 0)
        return 0;
    ring_return(&engine->report_reader);
    if (ret_report->kind == ENGINE_DETACHED)
        engine->attached--;
    return 1;
}

int engine_attach(struct engine *engine, struct session *session)
{
    if (engine->attached >= engine->config->sessions_max)
        return -EAGAIN;
    int err = command(engine, ENGINE_ATTACH, session, 0);
    if (err == 0)
        engine->attached++;
    return err;
}

int engine_detach(struct engine *engine, struct session *session)
{
    return command(engine, ENGINE_DETACH, session, 0);
}

int engine_drain(struct engine *engine, uint64_t deadline_ns)
{
    return command(engine, ENGINE_DRAIN, NULL, deadline_ns);
}

void engine_stop(struct engine *engine)
{
    if (!engine || !engine->is_started)
        return;
    /* release: pairs with the acquire in run(). */
    atomic_store_explicit(&engine->stop, true, memory_order_release);
    wake_engine(engine);
    pthread_join(engine->thread, NULL);
    engine->is_started = false;
}
