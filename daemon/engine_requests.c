/* From the queue to the running, and how requests end. */
#include <errno.h>

#include "daemon/engine_state.h"

static uint32_t as_us(uint64_t from_ns, uint64_t to_ns)
{
    uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
    return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static struct engine_model *model_of(const struct engine *engine, const struct request *request)
{
    return &engine->models[request->model];
}

void engine_arm(struct engine *engine, const struct request *request)
{
    uint64_t timer_ns = request_timer_ns(request, engine->config->slow_reader_ns);
    if (timer_ns < engine->timer_ns)
        engine->timer_ns = timer_ns;
}

/* ---- the queue ------------------------------------------------------------------------------- */

struct request *engine_new_request(struct engine *engine)
{
    struct request *forgotten = engine->pool.free_requests ? NULL : engine_next_forgotten(engine);
    if (forgotten)
        engine_release(engine, forgotten);
    return request_pool_take(&engine->pool);
}

void engine_enqueue(struct engine *engine, struct request *request)
{
    request->state = REQUEST_QUEUED;
    request->queue_tokens = request->known_tokens - request->computed_tokens;
    request_queue_add(&model_of(engine, request)->queue, request);
    engine->queued_requests++;
    engine->queued_tokens += request->queue_tokens;
    request->session->queue->requests++;
    request->session->queue->tokens += request->queue_tokens;
    engine_arm(engine, request);
}

void engine_charge(struct engine *engine, struct request *request, uint32_t tokens)
{
    request->queue_tokens += tokens;
    model_of(engine, request)->queue.tokens += tokens;
    engine->queued_tokens += tokens;
    request->session->queue->tokens += tokens;
}

static void dequeue(struct engine *engine, struct request *request)
{
    request_queue_remove(&model_of(engine, request)->queue, request);
    engine->queued_requests--;
    engine->queued_tokens -= request->queue_tokens;
    request->session->queue->requests--;
    request->session->queue->tokens -= request->queue_tokens;
}

void engine_requeue(struct engine *engine, struct request *request, uint8_t priority)
{
    struct request_queue *queue = &model_of(engine, request)->queue;
    request_queue_remove(queue, request);
    request->priority = priority;
    request_queue_add(queue, request);
}

/* All that the request can ever need is set aside when it starts, so that what runs always comes to
 * its end. Blocks of sequences that do not run are taken for it. */
static bool find_blocks(struct engine *engine, struct engine_model *model, struct request *request)
{
    struct kvcache *cache = &model->cache;
    uint32_t tokens = request->known_tokens + request->max_tokens;
    uint32_t wanted = kvcache_blocks_for(cache, tokens);
    uint32_t own = request->blocks.count; /* of the idle ones, as long as it waits */
    uint32_t missing = wanted > own ? wanted - own : 0;

    if (cache->free_blocks + model->idle_blocks - own < missing)
        return false;
    engine_remove_idle(engine, request);
    while (cache->free_blocks < missing)
        engine_take_idle_blocks(engine, model);
    return kvcache_grow(cache, &request->blocks, tokens) == 0;
}

/* Whether the session read nothing for too long and there is still no room to tell it anything.
 * What it has waiting would take places from others only to stand still in them. */
static bool is_given_up(struct session *session)
{
    if (session->is_given_up && publish_has_room(session, 1) > 0)
        session->is_given_up = false;
    return session->is_given_up;
}

void engine_admit(struct engine *engine, struct engine_model *model, uint64_t now_ns)
{
    while (model->running.count < engine->running_max) {
        struct request *request = request_queue_first(&model->queue);
        if (request && is_given_up(request->session)) {
            engine_end(engine, request, DONE_OVERFLOW, 0, now_ns);
            continue;
        }
        if (!request || !find_blocks(engine, model, request))
            return; /* nobody overtakes: else who needs much would wait for ever */
        dequeue(engine, request);
        request->state = REQUEST_RUNNING;
        request->started_ns = now_ns;
        request->cached_tokens = request->computed_tokens;
        request_list_add(&model->running, request);
        engine->running_requests++;
    }
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void leave_state(struct engine *engine, struct request *request)
{
    switch (request->state) {
    case REQUEST_QUEUED:
        dequeue(engine, request);
        break;
    case REQUEST_RUNNING:
        request_list_remove(&model_of(engine, request)->running, request);
        engine->running_requests--;
        if (request->parked_since_ns)
            engine->parked_requests--;
        break;
    case REQUEST_KEPT:
        engine_remove_kept(engine, request);
        break;
    case REQUEST_FREE:
        break;
    }
    request->state = REQUEST_FREE;
}

static void free_request(struct engine *engine, struct request *request)
{
    engine_take_blocks(engine, request);
    *session_entry(request->session, request->id) = NULL;
    request->session->live_requests--;
    request_pool_give(&engine->pool, request);
}

void engine_release(struct engine *engine, struct request *request)
{
    if (request->state == REQUEST_QUEUED || request->state == REQUEST_RUNNING)
        request->session->promised--;
    leave_state(engine, request);
    free_request(engine, request);
}

static void keep(struct engine *engine, struct request *request)
{
    request->state = REQUEST_KEPT;
    request->parked_since_ns = 0;
    engine_add_kept(engine, request);
    if (!request->holds_idle_blocks) {
        kvcache_shrink(&model_of(engine, request)->cache, &request->blocks,
                       request->computed_tokens);
        engine_add_idle(engine, request);
    }
    engine_trim_idle(engine);
}

void engine_revive(struct engine *engine, struct request *request)
{
    leave_state(engine, request);
    if (request->holds_idle_blocks) { /* it is the most recently used now */
        engine_remove_idle(engine, request);
        engine_add_idle(engine, request);
    }
}

static void tell_done(struct engine *engine, const struct request *request, enum done_reason reason,
                      int error, uint64_t now_ns)
{
    uint64_t started_ns = request->started_ns ? request->started_ns : now_ns;
    struct event event = {
        .kind = EVENT_DONE,
        .reason = (uint8_t)reason,
        .request = request->id,
        .index = request->generated_tokens,
        .done = {.prompt_tokens = request->prompt_tokens,
                 .cached_tokens = request->cached_tokens,
                 .generated_tokens = request->generated_tokens,
                 .error = error,
                 .queued_us = as_us(request->taken_ns, started_ns),
                 .taken_ns = request->taken_ns,
                 .done_ns = now_ns},
    };
    if (request->first_token_ns) {
        event.done.prompt_us = as_us(started_ns, request->first_token_ns);
        event.done.generate_us = as_us(request->first_token_ns, request->last_token_ns);
    }
    request->session->promised--;
    publish_event(&engine->publisher, request->session, &event);
}

/* For hints to those who are refused. */
static void learn_service_time(struct engine *engine, const struct request *request,
                               uint64_t now_ns)
{
    if (!request->started_ns || now_ns <= request->started_ns)
        return;
    uint64_t took_ns = now_ns - request->started_ns;
    engine->service_ns =
        engine->service_ns ? engine->service_ns - engine->service_ns / 8 + took_ns / 8 : took_ns;
}

void engine_end(struct engine *engine, struct request *request, enum done_reason reason, int error,
                uint64_t now_ns)
{
    bool keeps = (request->flags & SUBMISSION_KEEP) && reason != DONE_REFUSED &&
                 reason != DONE_FAILED && !request->session->broken;
    leave_state(engine, request);
    learn_service_time(engine, request, now_ns);
    tell_done(engine, request, reason, error, now_ns);
    board_add(&engine->board->requests_done, 1);
    if (keeps)
        keep(engine, request);
    else
        free_request(engine, request);
}

void engine_end_session(struct engine *engine, struct session *session, enum done_reason reason,
                        int error, uint64_t now_ns)
{
    for (uint32_t i = 0; i < session->geometry.max_requests && session->live_requests; i++) {
        struct request *request = session->requests[i];
        if (!request)
            continue;
        request->flags &= (uint16_t)~SUBMISSION_KEEP;
        if (request->state == REQUEST_KEPT)
            engine_release(engine, request);
        else
            engine_end(engine, request, reason, error, now_ns);
    }
}

void engine_end_queued(struct engine *engine, enum done_reason reason, int error, uint64_t now_ns)
{
    for (uint32_t i = 0; i < engine->model_count; i++) {
        struct request *request;
        while ((request = request_queue_first(&engine->models[i].queue)))
            engine_end(engine, request, reason, error, now_ns);
    }
}

void engine_end_all(struct engine *engine, enum done_reason reason, int error, uint64_t now_ns)
{
    engine_end_queued(engine, reason, error, now_ns);
    for (uint32_t i = 0; i < engine->model_count; i++) {
        while (engine->models[i].running.first)
            engine_end(engine, engine->models[i].running.first, reason, error, now_ns);
    }
}

/* ---- deadlines ------------------------------------------------------------------------------- */

static void expire_one(struct engine *engine, struct request *request, uint64_t now_ns)
{
    if (request_timer_ns(request, engine->config->slow_reader_ns) > now_ns) {
        engine_arm(engine, request);
        return;
    }
    bool is_late = request->deadline_ns <= now_ns ||
                   (!request->first_token_ns && request->first_token_deadline_ns <= now_ns);
    request->session->is_given_up |= !is_late;
    engine_end(engine, request, is_late ? DONE_DEADLINE : DONE_OVERFLOW, 0, now_ns);
}

static void expire_list(struct engine *engine, struct request_list *list, uint64_t now_ns)
{
    struct request *next;
    for (struct request *request = list->first; request; request = next) {
        next = request->links[list->link].next;
        expire_one(engine, request, now_ns);
    }
}

void engine_expire(struct engine *engine, uint64_t now_ns)
{
    if (now_ns < engine->timer_ns)
        return;
    engine->timer_ns = UINT64_MAX;
    for (uint32_t i = 0; i < engine->model_count; i++) {
        struct engine_model *model = &engine->models[i];
        for (int class = 0; class <= PRIORITY_REALTIME; class ++)
            expire_list(engine, &model->queue.classes[class], now_ns);
        expire_list(engine, &model->running, now_ns);
    }
}
