/* Where to look for submissions, and how to wait for them.
 *
 * Hot sessions are swept each turn; cold ones have been told so by their sleep word and ring their
 * doorbell, an eventfd in the engine's epoll set. The client holds that eventfd too and could fill
 * it or make it blocking: it is only ever waited on, edge-triggered, and never read. */
#include <errno.h>
#include <sys/epoll.h>

#include "daemon/engine_state.h"

enum { EVENTS_AT_ONCE = 64, SPIN_ROUNDS = 16, NS_PER_MS = 1000000 };

static int listen_to(struct engine *engine, struct session *session, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.ptr = session}};
    if (epoll_ctl(engine->epoll_fd, operation, session->options.doorbell_fd, &event) < 0)
        return -errno;
    return 0;
}

/* Looks by itself for the session's submissions from now on. */
static void make_hot(struct engine *engine, struct session *session)
{
    if (session->place == SESSION_COLD)
        session_list_remove(&engine->cold, session);
    doorbell_awake(&session->daemon_words->sleep);
    session->is_napping = false;
    session->place = SESSION_HOT;
    session_list_add(&engine->hot, session);
}

static void warm(struct engine *engine, struct session *session, uint64_t now_ns)
{
    make_hot(engine, session);
    session->last_active_ns = now_ns;
}

/* From now on the session has to ring. false: a submission came in the meantime, it stays hot. */
static bool cool(struct engine *engine, struct session *session)
{
    ring_return(&session->submissions);
    doorbell_announce(&session->daemon_words->sleep, DOORBELL_FD);
    if (ring_is_ready(&session->submissions)) {
        doorbell_awake(&session->daemon_words->sleep);
        return false;
    }
    session_list_remove(&engine->hot, session);
    session->place = SESSION_COLD;
    session_list_add(&engine->cold, session);
    return true;
}

int engine_watch(struct engine *engine, struct session *session, uint64_t now_ns)
{
    int err = listen_to(engine, session, EPOLL_CTL_ADD);
    if (err < 0)
        return err;
    warm(engine, session, now_ns);
    return 0;
}

void engine_unwatch(struct engine *engine, struct session *session)
{
    if (session->place == SESSION_NOWHERE)
        return;
    session_list_remove(session->place == SESSION_HOT ? &engine->hot : &engine->cold, session);
    session->place = SESSION_NOWHERE;
    if (session->stalled_since_ns)
        engine->stalled_sessions--;
    session->stalled_since_ns = 0;
    if (!session->is_muted)
        listen_to(engine, session, EPOLL_CTL_DEL);
}

/* A doorbell rang. One that keeps ringing for nothing is not listened to until the next slow round,
 * which looks at every session. */
static bool answer(struct engine *engine, struct session *session, uint64_t now_ns)
{
    if (session->place == SESSION_COLD)
        warm(engine, session, now_ns);
    if (engine_take(engine, session, now_ns)) {
        session->empty_wakes = 0;
        return true;
    }
    if (++session->empty_wakes >= ENGINE_EMPTY_WAKES && !session->is_muted &&
        listen_to(engine, session, EPOLL_CTL_DEL) == 0)
        session->is_muted = true;
    return false;
}

/* Waits for doorbells and commands, for at most timeout_ms. Whether there were submissions. */
static bool look_at_doorbells(struct engine *engine, int timeout_ms)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(engine->epoll_fd, events, EVENTS_AT_ONCE, timeout_ms);
    uint64_t now_ns = engine->clock_ns();
    bool any = false;
    engine->looked_ns = now_ns;
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr) /* NULL: the control thread, whose commands the next turn takes */
            any |= answer(engine, events[i].data.ptr, now_ns);
    }
    return any;
}

static bool must_stay_hot(const struct engine *engine, const struct session *session,
                          uint64_t now_ns)
{
    if (engine->config->wait == ENGINE_WAIT_SPIN && engine->hot.count <= ENGINE_SPIN_SESSIONS)
        return true;
    return now_ns - session->last_active_ns < ENGINE_HOT_NS;
}

/* A session whose submissions wait for room in its event ring is looked at again and again, for as
 * long as the patience with slow readers lasts. */
static bool waits_for_room(const struct engine *engine, const struct session *session,
                           uint64_t now_ns)
{
    return session->stalled_since_ns &&
           now_ns - session->stalled_since_ns < engine->config->slow_reader_ns;
}

static bool sweep_hot(struct engine *engine, uint64_t now_ns)
{
    bool any = false;
    struct session *next;
    session_list_rotate(&engine->hot); /* so that nobody is always the first */
    for (struct session *session = engine->hot.first; session; session = next) {
        next = session->next;
        if (engine_take(engine, session, now_ns))
            any = true;
        else if (!must_stay_hot(engine, session, now_ns) && !session->stalled_since_ns)
            cool(engine, session);
    }
    return any;
}

/* The slow round, begun once a second: looks at the sessions that are not looked at otherwise, so
 * that no lost, muted or withheld doorbell stops one for longer. Some in each turn, since a
 * thousand of them at once would keep the others waiting for as long as a step. */
static bool sweep_cold(struct engine *engine, uint64_t now_ns)
{
    bool any = false;
    if (engine->cold_left > engine->cold.count)
        engine->cold_left = engine->cold.count; /* the others have gone, or are looked at anyway */
    for (int i = 0; i < ENGINE_COLD_SESSIONS && engine->cold_left; i++) {
        struct session *session = engine->cold.first;
        engine->cold_left--;
        session_list_rotate(&engine->cold);
        session->empty_wakes = 0;
        if (session->is_muted && listen_to(engine, session, EPOLL_CTL_ADD) == 0)
            session->is_muted = false;
        if (!ring_is_ready(&session->submissions))
            continue;
        engine->found_by_slow_round++;
        warm(engine, session, now_ns);
        any |= engine_take(engine, session, now_ns);
    }
    return any;
}

bool engine_sweep(struct engine *engine, uint64_t now_ns)
{
    bool any = sweep_hot(engine, now_ns);
    if (now_ns - engine->heartbeat_ns >= ENGINE_HEARTBEAT_NS) {
        engine->heartbeat_ns = now_ns;
        engine->cold_left = engine->cold.count;
    }
    if (engine->cold_left)
        any |= sweep_cold(engine, now_ns);
    if (engine->cold.count && now_ns - engine->looked_ns >= ENGINE_LOOK_NS)
        any |= look_at_doorbells(engine, 0);
    return any;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Reading the clock costs more than looking at a ring: looks a few times in between. The first
 * session that has submitted something; NULL: none, or the control thread has a command. */
static struct session *spin(struct engine *engine)
{
    for (int round = 0; round < SPIN_ROUNDS; round++) {
        for (struct session *session = engine->hot.first; session; session = session->next) {
            if (ring_is_ready(&session->submissions) && !session->stalled_since_ns)
                return session;
        }
        if (ring_is_ready(&engine->commands))
            break;
        cpu_relax();
    }
    return NULL;
}

/* The prompt's first line is another processor's: it can be on its way while we read the clock and
 * judge the submission. A hint and no more: everything is read anew, and checked, afterwards. */
static void prefetch_prompt(const struct session *session)
{
    struct submission hint;
    if (ring_peek(&session->submissions, &hint, LAYOUT_LINE_BYTES) == 0 &&
        hint.prompt_offset < session->geometry.arena_bytes)
        __builtin_prefetch(session->arena + hint.prompt_offset);
}

/* Serves who has come while we were spinning, without a whole turn in between. */
static void take_at_once(struct engine *engine, struct session *session)
{
    prefetch_prompt(session);
    uint64_t now_ns = engine->clock_ns();
    if (!engine_take(engine, session, now_ns))
        return;
    spinner_arrival(&engine->spinner, now_ns);
    engine->idle_since_ns = 0;
}

/* Until the next slow round. But nobody rings when a slow reader has read, so while one stands
 * still it is a millisecond. Deadlines need no more: a request that has one either runs, and the
 * engine does not wait, or is parked. */
static int timeout_ms(const struct engine *engine, uint64_t now_ns)
{
    uint64_t until_ns = engine->heartbeat_ns + ENGINE_HEARTBEAT_NS;
    if (engine->cold_left)
        return 0;
    if (engine->parked_requests || engine->hot.count)
        return 1;
    if (until_ns <= now_ns)
        return 0;
    return (int)((until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

/* Everybody has to ring from now on, save those who wait for room. false: somebody has come. */
static bool cool_all(struct engine *engine, uint64_t now_ns)
{
    bool all = true;
    struct session *next;
    for (struct session *session = engine->hot.first; session; session = next) {
        next = session->next;
        if (waits_for_room(engine, session, now_ns))
            continue;
        if (session->stalled_since_ns) { /* given up: the slow round will look */
            doorbell_announce(&session->daemon_words->sleep, DOORBELL_FD);
            session_list_remove(&engine->hot, session);
            session->place = SESSION_COLD;
            session->is_napping = true; /* wake_all() has to get past it */
            session_list_add(&engine->cold, session);
            continue;
        }
        session->is_napping = cool(engine, session);
        all &= session->is_napping;
    }
    return all;
}

/* The engine is awake again: who was cooled for its sleep alone, and so stands at the end of the
 * cold ones, is looked at as before. Else each of several sessions in turn would have to ring, and
 * would not be heard before the engine's next sleep. */
static void wake_all(struct engine *engine, uint64_t now_ns)
{
    struct session *previous;
    for (struct session *session = engine->cold.last; session && session->is_napping;
         session = previous) {
        previous = session->previous;
        session->is_napping = false;
        if (!session->stalled_since_ns && must_stay_hot(engine, session, now_ns))
            make_hot(engine, session);
    }
}

/* Of submissions that a doorbell told of. */
static void note_arrival(struct engine *engine)
{
    spinner_arrival(&engine->spinner, engine->looked_ns);
    engine->idle_since_ns = 0;
}

/* While spinning: asking takes as long as half a request, so not between requests that follow each
 * other closely. */
static bool should_ask_doorbells(const struct engine *engine, uint64_t now_ns)
{
    return engine->cold.count && now_ns - engine->idle_since_ns >= ENGINE_SPIN_LOOK_NS &&
           now_ns - engine->looked_ns >= ENGINE_SPIN_LOOK_NS;
}

void engine_wait(struct engine *engine, uint64_t now_ns)
{
    if (!engine->idle_since_ns) {
        engine->idle_since_ns = now_ns;
        spinner_begin(&engine->spinner, now_ns);
    }
    uint64_t budget_ns = spinner_budget_ns(&engine->spinner);
    if (budget_ns == UINT64_MAX || now_ns - engine->idle_since_ns < budget_ns) {
        struct session *session = spin(engine);
        if (session)
            take_at_once(engine, session);
        else if (should_ask_doorbells(engine, now_ns) && look_at_doorbells(engine, 0))
            note_arrival(engine);
        return;
    }
    if (!cool_all(engine, now_ns)) {
        wake_all(engine, now_ns);
        return;
    }
    /* This turn's look at the doorbells may have taken the edge of a command that came after the
     * turn's own look at the commands. */
    bool has_command = ring_is_ready(&engine->commands);
    if (look_at_doorbells(engine, has_command ? 0 : timeout_ms(engine, now_ns)))
        note_arrival(engine);
    wake_all(engine, engine->looked_ns);
}
