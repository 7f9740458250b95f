/* Submissions become requests. */
#include <errno.h>

#include "daemon/engine_state.h"
#include "daemon/intake.h"

/* What a refusal tells. */
struct refusal {
    enum done_reason reason;
    int error;
    uint32_t retry_after_us;
};

static void refuse(struct engine *engine, struct session *session,
                   const struct submission *submission, const struct refusal *refusal,
                   uint64_t now_ns)
{
    struct event event = {
        .kind = EVENT_DONE,
        .reason = (uint8_t)refusal->reason,
        .request = submission->request,
        .done = {.error = refusal->error,
                 .retry_after_us = refusal->retry_after_us,
                 .taken_ns = now_ns,
                 .done_ns = now_ns},
    };
    publish_event(&engine->publisher, session, &event);
    board_add(&engine->board->requests_refused, 1);
}

/* When the queue will have moved on by about one request: at the rate of late, between 1 ms and
 * 10 s. */
static uint32_t retry_after_us(const struct engine *engine)
{
    uint64_t us = engine->service_ns / 1000 / engine->running_max;
    if (us < 1000)
        us = 1000;
    return us > 10000000 ? 10000000 : (uint32_t)us;
}

static bool is_past(uint64_t deadline_ns, uint64_t now_ns)
{
    return deadline_ns && deadline_ns <= now_ns;
}

static bool is_queue_full(const struct engine *engine, uint32_t tokens)
{
    return engine->queued_requests >= engine->config->queue_requests ||
           (engine->queued_requests &&
            engine->queued_tokens + tokens > engine->config->queue_tokens);
}

/* Whether its user has as much waiting as one user may. A lone request is never too large. */
static bool is_budget_spent(const struct engine *engine, const struct session *session,
                            uint32_t tokens)
{
    const struct user_queue *queue = session->queue;
    uint32_t requests_max = engine->config->user_queued_requests;
    uint32_t tokens_max = engine->config->user_queued_tokens;
    return (requests_max && queue->requests >= requests_max) ||
           (tokens_max && queue->requests && queue->tokens + tokens > tokens_max);
}

/* The model that the submission is for; NULL: it has none. */
static struct engine_model *find_model(const struct engine *engine,
                                       const struct submission *submission,
                                       const struct request *parent)
{
    uint32_t index = parent ? parent->model : submission->model;
    return index < engine->model_count ? &engine->models[index] : NULL;
}

/* What begin() will leave to be computed, and engine_enqueue() charge: all of the history that is
 * not in the cache (any more), and one token at least. */
static uint32_t tokens_to_compute(const struct submission *submission, const struct request *parent)
{
    uint32_t known = submission->prompt_tokens + (parent ? parent->known_tokens : 0);
    uint32_t computed = parent ? parent->computed_tokens : 0;
    return computed < known ? known - computed : 1;
}

/* Everything that depends on the engine's state. 0, or the error to refuse with. */
static int check_state(const struct engine *engine, const struct session *session,
                       const struct submission *submission, const struct request *parent)
{
    if (engine->failed)
        return -EIO;
    if (engine->draining)
        return -ESHUTDOWN;
    if (submission->op == SUBMISSION_EXTEND && !parent)
        return -ENOENT;
    if (parent && parent->state != REQUEST_KEPT)
        return -EBUSY;

    const struct engine_model *model = find_model(engine, submission, parent);
    if (!model)
        return -ENOENT;
    uint32_t history = parent ? parent->known_tokens : 0;
    if ((uint64_t)history + submission->prompt_tokens + 1 > model->context_tokens)
        return -EMSGSIZE;
    uint64_t row_bytes = (uint64_t)model->model->config.vocab_size * sizeof(float);
    if ((submission->flags & SUBMISSION_LOGITS) &&
        session_output_row(row_bytes) > session->geometry.output_bytes)
        return -ENOSPC;
    uint32_t tokens = tokens_to_compute(submission, parent);
    if (is_budget_spent(engine, session, tokens))
        return -EDQUOT;
    return is_queue_full(engine, tokens) ? -EAGAIN : 0;
}

static uint64_t deadline_or_never(uint64_t deadline_ns)
{
    return deadline_ns ? deadline_ns : UINT64_MAX;
}

/* Begins a generation on the request's sequence, whose tokens are in place already. */
static void begin(struct request *request, const struct submission *submission,
                  const struct engine_model *model, uint64_t now_ns)
{
    uint32_t history = request->known_tokens;
    request->id = submission->request;
    request->flags = submission->flags;
    request->priority = submission->priority;
    request->params = (struct sampler_params){.temperature = submission->temperature,
                                              .top_p = submission->top_p,
                                              .min_p = submission->min_p,
                                              .top_k = submission->top_k,
                                              .seed = submission->seed};
    memcpy(request->stop_ids, submission->stop_ids, sizeof request->stop_ids);
    request->stop_count = submission->stop_count;
    request->output_bytes = submission->flags & SUBMISSION_LOGITS
                                ? model->model->config.vocab_size * (uint32_t)sizeof(float)
                                : 0;

    request->known_tokens = history + submission->prompt_tokens;
    /* The last token's logits are wanted, so it is computed even if it was before. */
    if (request->computed_tokens >= request->known_tokens)
        request->computed_tokens = request->known_tokens - 1;
    request->prompt_start = submission->prompt_tokens ? history : 0;
    request->prompt_tokens = request->known_tokens;
    uint32_t room = model->context_tokens - request->known_tokens;
    request->max_tokens = submission->max_tokens < room ? submission->max_tokens : room;
    request->cached_tokens = request->generated_tokens = 0;

    request->first_token_deadline_ns = deadline_or_never(submission->first_token_deadline_ns);
    request->deadline_ns = deadline_or_never(submission->deadline_ns);
    request->taken_ns = now_ns;
    request->started_ns = request->first_token_ns = request->last_token_ns = 0;
    request->parked_since_ns = 0;
}

static void accept(struct engine *engine, struct session *session, struct request *request,
                   uint32_t prompt_tokens, uint64_t now_ns)
{
    *session_entry(session, request->id) = request;
    session->promised++;
    struct event event = {
        .kind = EVENT_ACCEPTED,
        .request = request->id,
        .accepted = {.taken_ns = now_ns, .prompt_tokens = prompt_tokens},
    };
    if (request->flags & SUBMISSION_TIMES)
        event.accepted.published_ns = engine->clock_ns();
    publish_event(&engine->publisher, session, &event);
    engine_enqueue(engine, request);
}

/* Copies the prompt behind the sequence's tokens and enqueues. 0, or the error to refuse with. */
static int take_prompt(struct engine *engine, struct session *session,
                       const struct submission *submission, struct request *parent, uint64_t now_ns)
{
    struct engine_model *model = find_model(engine, submission, parent);
    struct request *request = parent ? parent : engine_new_request(engine);
    /* unreached: is_queue_full() left a place, and the pool has one for each that waits or runs */
    if (!request)
        return -EAGAIN; /* unreached: as above */

    int err = intake_copy_prompt(session->arena, submission->prompt_offset,
                                 submission->prompt_tokens, model->model->config.vocab_size,
                                 request->tokens + request->known_tokens);
    if (err < 0) {
        if (!parent)
            request_pool_give(&engine->pool, request);
        return err;
    }
    if (parent) {
        engine_revive(engine, parent);
        *session_entry(session, parent->id) = NULL;
    } else {
        request->session = session;
        request->model = submission->model;
        session->live_requests++;
    }
    begin(request, submission, model, now_ns);
    accept(engine, session, request, submission->prompt_tokens, now_ns);
    return 0;
}

/* SUBMISSION_GENERATE, SUBMISSION_EXTEND. err: what intake_check() found. */
static void take_request(struct engine *engine, struct session *session,
                         const struct submission *submission, int err, uint64_t now_ns)
{
    struct request *parent = NULL;
    if (submission->op == SUBMISSION_EXTEND)
        parent = session_find(session, submission->parent);

    struct request *present = *session_entry(session, submission->request);
    if (present && !(present == parent && parent->state == REQUEST_KEPT)) {
        engine_break(engine, session, -EPROTO, "the request's id is in use");
        return;
    }

    struct refusal refusal = {.reason = DONE_REFUSED};
    board_add(&engine->board->requests_total, 1);
    if (err == 0)
        err = check_state(engine, session, submission, parent);
    if (err == 0 && (is_past(submission->deadline_ns, now_ns) ||
                     is_past(submission->first_token_deadline_ns, now_ns)))
        refusal.reason = DONE_DEADLINE;
    else if (err == 0)
        err = take_prompt(engine, session, submission, parent, now_ns);
    if (err == 0 && refusal.reason == DONE_REFUSED)
        return;

    refusal.error = err;
    refusal.retry_after_us = err == -EAGAIN || err == -EDQUOT ? retry_after_us(engine) : 0;
    refuse(engine, session, submission, &refusal, now_ns);
}

static void take_change(struct engine *engine, struct session *session,
                        const struct submission *submission, uint64_t now_ns)
{
    struct request *request = session_find(session, submission->request);
    if (!request)
        return; /* it has ended in the meantime */

    switch (submission->op) {
    case SUBMISSION_CANCEL:
        if (request->state != REQUEST_KEPT)
            engine_end(engine, request, DONE_CANCELLED, 0, now_ns);
        break;
    case SUBMISSION_SET_PRIORITY:
        if (request->state == REQUEST_QUEUED)
            engine_requeue(engine, request, submission->priority);
        else
            request->priority = submission->priority;
        break;
    default: /* SUBMISSION_DETACH */
        if (request->state == REQUEST_KEPT)
            engine_release(engine, request);
        else
            request->flags &= (uint16_t)~SUBMISSION_KEEP;
        break;
    }
}

static void take_one(struct engine *engine, struct session *session,
                     const struct submission *submission, uint64_t now_ns)
{
    const char *why;
    int err = intake_check(submission, &session->geometry, &why);
    if (err == -EPROTO)
        engine_break(engine, session, err, why);
    else if (submission->op == SUBMISSION_GENERATE || submission->op == SUBMISSION_EXTEND)
        take_request(engine, session, submission, err, now_ns);
    else
        take_change(engine, session, submission, now_ns);
}

static void note_stall(struct engine *engine, struct session *session, bool is_stalled,
                       uint64_t now_ns)
{
    if (is_stalled == (session->stalled_since_ns != 0))
        return;
    session->stalled_since_ns = is_stalled ? now_ns : 0;
    engine->stalled_sessions += is_stalled ? 1 : -1u;
}

bool engine_take(struct engine *engine, struct session *session, uint64_t now_ns)
{
    uint32_t taken = 0;
    uint32_t tokens = 0;
    bool is_stalled = false;
    while (taken < ENGINE_SWEEP_SUBMISSIONS && tokens < ENGINE_SWEEP_TOKENS && !session->broken) {
        if (!ring_is_ready(&session->submissions)) {
            ring_return(&session->submissions);
            break;
        }
        /* At the most two: accepted and done, or refused. */
        int has_room = publish_has_room(session, 2);
        if (has_room < 0) {
            engine_break(engine, session, has_room, "the event cursor is out of range");
            break;
        }
        is_stalled = !has_room;
        if (is_stalled)
            break;
        struct submission submission;
        if (intake_take(&session->submissions, &submission) < 0)
            break; /* the writer took it back: only a hostile one does */
        taken++;
        tokens += submission.prompt_tokens;
        take_one(engine, session, &submission,
                 submission.flags & SUBMISSION_TIMES ? engine->clock_ns() : now_ns);
    }
    note_stall(engine, session, is_stalled, now_ns);
    if (taken)
        session->last_active_ns = now_ns;
    return taken > 0;
}
