/* Plan, compute, sample, tell. */
#include <errno.h>
#include <math.h>

#include "daemon/engine_state.h"

static uint32_t pending_tokens(const struct request *request)
{
    return request->known_tokens - request->computed_tokens;
}

/* ---- what may be told ------------------------------------------------------------------------ */

/* What the next token of a request needs in the event ring. */
static uint32_t events_of_token(const struct request *request)
{
    uint32_t overflow = request->parked_since_ns != 0;
    uint32_t output = request->output_bytes != 0;
    return overflow + output + 1;
}

static void park(struct engine *engine, struct request *request, uint64_t now_ns)
{
    if (request->parked_since_ns)
        return;
    request->parked_since_ns = now_ns;
    engine->parked_requests++;
    engine_arm(engine, request);
}

/* Whether a request that was parked may go on: the ring alone is asked here, the output arena when
 * it comes to a claim. */
static bool may_sample(struct engine *engine, struct request *request)
{
    if (!request->parked_since_ns)
        return true;
    int has_room = publish_has_room(request->session, events_of_token(request));
    if (has_room < 0)
        engine_break(engine, request->session, has_room, "the event cursor is out of range");
    return has_room > 0;
}

/* Reserves all that telling the next token needs; parks the request if it is not there. Returns the
 * events claimed, 0 for none. */
static uint32_t claim(struct engine *engine, struct request *request, uint64_t now_ns)
{
    struct session *session = request->session;
    uint32_t events = events_of_token(request);
    int has_room = publish_claim(session, events);
    if (has_room < 0)
        engine_break(engine, session, has_room, "the event cursor is out of range");
    if (has_room > 0 && request->output_bytes) {
        has_room = session_output_plan(session, request->output_bytes);
        if (has_room < 0)
            engine_break(engine, session, has_room, "the output cursor is out of range");
        if (has_room <= 0)
            publish_unclaim(session, events);
    }
    if (has_room > 0)
        return events;
    park(engine, request, now_ns);
    return 0;
}

/* ---- the plan -------------------------------------------------------------------------------- */

static uint32_t list_candidates(struct engine *engine, const struct engine_model *model)
{
    uint32_t count = 0;
    const struct request_list *running = &model->running;
    for (struct request *request = running->first; request;
         request = request->links[running->link].next) {
        if (request->session->broken)
            continue;
        engine->candidates[count] = request;
        engine->sequences[count++] = (struct sched_sequence){
            .pending = pending_tokens(request), .may_sample = may_sample(engine, request)};
    }
    return count;
}

/* Turns the picks into the parts of the step. A pick that would give a token which cannot be told
 * is cut short before its last row. */
static uint32_t claim_parts(struct engine *engine, uint32_t picks, uint64_t now_ns)
{
    uint32_t parts = 0;
    for (uint32_t i = 0; i < picks; i++) {
        const struct sched_pick *pick = &engine->picks[i];
        struct engine_part part = {.request = engine->candidates[pick->sequence],
                                   .tokens = pick->tokens};
        if (pick->sample) {
            part.claimed = claim(engine, part.request, now_ns);
            part.tokens -= part.claimed == 0;
        }
        if (part.tokens)
            engine->parts[parts++] = part;
    }
    return parts;
}

static uint32_t plan_step(struct engine *engine, struct engine_model *model, uint64_t now_ns)
{
    uint32_t count = list_candidates(engine, model);
    if (count == 0)
        return 0;
    uint32_t picks = sched_plan(&engine->limits, engine->sequences, count,
                                model->rotation++ % count, engine->picks);
    return claim_parts(engine, picks, now_ns);
}

/* ---- computing ------------------------------------------------------------------------------- */

/* Packs the parts into one batch. Every sequence gets a row of the block tables, as far as it is
 * used. Returns how many rows have logits. */
static uint32_t fill_batch(struct engine *engine, const struct engine_model *model, uint32_t parts,
                           struct batch *ret_batch)
{
    uint32_t rows = 0;
    uint32_t logits = 0;
    for (uint32_t i = 0; i < parts; i++) {
        const struct engine_part *part = &engine->parts[i];
        const struct request *request = part->request;
        uint32_t from = request->computed_tokens;
        for (uint32_t j = 0; j < part->tokens; j++, rows++) {
            engine->ids[rows] = request->tokens[from + j];
            engine->positions[rows] = from + j;
            engine->owners[rows] = i;
        }
        if (part->claimed)
            engine->logit_rows[logits++] = rows - 1;
        memcpy(engine->block_tables + (size_t)i * engine->table_stride, request->blocks.blocks,
               kvcache_blocks_for(&model->cache, from + part->tokens) * sizeof(uint32_t));
    }
    *ret_batch = (struct batch){.rows = rows,
                                .ids = engine->ids,
                                .positions = engine->positions,
                                .sequences = engine->owners,
                                .sequence_count = parts,
                                .block_tables = engine->block_tables,
                                .table_stride = engine->table_stride};
    return logits;
}

/* ---- telling --------------------------------------------------------------------------------- */

static void tell_overflow(struct engine *engine, struct request *request, uint64_t now_ns)
{
    if (!request->parked_since_ns)
        return;
    struct event event = {
        .kind = EVENT_OVERFLOW,
        .request = request->id,
        .index = request->generated_tokens,
        .overflow = {.parked_ns = now_ns - request->parked_since_ns},
    };
    request->parked_since_ns = 0;
    engine->parked_requests--;
    publish_event(&engine->publisher, request->session, &event);
}

/* Puts a row of logits into the output arena. The echo model has none: all of its certainty is on
 * the token. */
static void tell_output(struct engine *engine, struct request *request, const float *logits,
                        uint32_t id)
{
    struct session *session = request->session;
    struct event event = {.kind = EVENT_OUTPUT,
                          .request = request->id,
                          .index = request->generated_tokens,
                          .output = {.bytes = request->output_bytes}};
    if (!request->output_bytes)
        return;
    event.output.offset =
        session_output_take(session, request->output_bytes, &event.output.release);
    float *row = (float *)(void *)(session->output + event.output.offset);
    if (logits) {
        memcpy(row, logits, request->output_bytes);
    } else {
        for (uint32_t i = 0; i < request->output_bytes / sizeof *row; i++)
            row[i] = -INFINITY;
        row[id] = 0;
    }
    publish_event(&engine->publisher, session, &event);
}

static void tell_token(struct engine *engine, struct request *request, uint32_t id, float logprob)
{
    struct event event = {
        .kind = EVENT_TOKENS,
        .count = 1,
        .request = request->id,
        .index = request->generated_tokens,
        .tokens = {{.id = id, .logprob = logprob}},
    };
    publish_event(&engine->publisher, request->session, &event);
}

/* Token i of an echo is token i of the request's own prompt, over and over. */
static uint32_t echo_of(const struct request *request)
{
    uint32_t prompt_tokens = request->prompt_tokens - request->prompt_start;
    return request->tokens[request->prompt_start + request->generated_tokens % prompt_tokens];
}

/* logits: NULL for the echo model. 0; -EIO. */
static int choose_token(struct engine *engine, const struct engine_model *model,
                        const struct request *request, const float *logits, uint32_t *ret_id,
                        float *ret_logprob)
{
    if (logits)
        return sampler_pick(&engine->sampler, &request->params, logits,
                            model->model->config.vocab_size, request->generated_tokens, ret_id,
                            ret_logprob);
    *ret_id = echo_of(request);
    *ret_logprob = 0;
    return 0;
}

/* The next token of a request: told, appended to the sequence, or the end of the answer. */
static void give_token(struct engine *engine, struct engine_model *model, struct request *request,
                       const float *logits, uint64_t now_ns)
{
    uint32_t id = 0;
    float logprob = 0;
    int err = choose_token(engine, model, request, logits, &id, &logprob);
    if (err < 0) {
        engine_end(engine, request, DONE_FAILED, err, now_ns);
        return;
    }
    tell_overflow(engine, request, now_ns);
    request->last_token_ns = now_ns;
    if (!request->first_token_ns)
        request->first_token_ns = now_ns;

    const struct model_config *config = &model->model->config;
    if (request_stops_at(request, id, config->eos_ids, config->eos_count)) {
        engine_end(engine, request, DONE_STOP, 0, now_ns);
        return;
    }
    tell_output(engine, request, logits, id);
    tell_token(engine, request, id, logprob);
    request->tokens[request->known_tokens++] = id;
    request->generated_tokens++;
    if (request->generated_tokens == request->max_tokens)
        engine_end(engine, request, DONE_LENGTH, 0, now_ns);
}

/* ---- the step -------------------------------------------------------------------------------- */

static void count_step(struct engine *engine, struct engine_model *model, uint32_t rows,
                       uint32_t tokens, uint64_t took_ns)
{
    struct board_model *board = model->board;
    board_add(&board->prompt_tokens, rows - tokens);
    board_add(&board->generated_tokens, tokens);
    board_add(&board->steps, 1);
    board_add(&board->busy_ns, took_ns);
    board_add(&engine->board->steps, 1);
}

/* After the computation: what it gave, to each its part. */
static void finish_parts(struct engine *engine, struct engine_model *model, uint32_t parts,
                         const float *logits, uint64_t now_ns)
{
    uint32_t logit_row = 0;
    for (uint32_t i = 0; i < parts; i++) {
        const struct engine_part *part = &engine->parts[i];
        struct request *request = part->request;
        struct session *session = request->session;
        request->computed_tokens += part->tokens;
        if (!part->claimed)
            continue;
        const float *row =
            logits ? logits + (size_t)logit_row++ * model->model->config.vocab_rows : NULL;
        publish_unclaim(session, part->claimed);
        give_token(engine, model, request, row, now_ns);
        session->output_planned = session->output_tail;
    }
}

/* The device is lost: nobody gets an answer any more. */
static void fail(struct engine *engine, uint32_t parts, int err, uint64_t now_ns)
{
    for (uint32_t i = 0; i < parts; i++)
        publish_unclaim(engine->parts[i].request->session, engine->parts[i].claimed);
    engine->failed = err;
    engine_end_all(engine, DONE_FAILED, -EIO, now_ns);
    engine_report(engine, ENGINE_FAILED, NULL, err);
}

static bool run_step(struct engine *engine, struct engine_model *model, uint64_t now_ns)
{
    uint32_t parts = plan_step(engine, model, now_ns);
    if (parts == 0)
        return false;

    struct batch batch;
    uint32_t tokens = fill_batch(engine, model, parts, &batch);
    const float *logits = NULL;
    if (model->forward) {
        publish_wake(&engine->publisher); /* what was told so far need not wait for the step */
        int err = forward_run(model->forward, &batch, engine->logit_rows, tokens, &logits);
        if (err < 0) {
            fail(engine, parts, err, engine->clock_ns());
            return true;
        }
    }
    uint64_t done_ns = model->forward ? engine->clock_ns() : now_ns;
    finish_parts(engine, model, parts, logits, done_ns);
    count_step(engine, model, batch.rows, tokens, done_ns - now_ns);
    return true;
}

bool engine_step(struct engine *engine, uint64_t now_ns)
{
    for (uint32_t i = 0; i < engine->model_count; i++) {
        uint32_t index = (engine->next_model + i) % engine->model_count;
        if (!run_step(engine, &engine->models[index], now_ns))
            continue;
        engine->next_model = (index + 1) % engine->model_count;
        return true;
    }
    return false;
}
