#include "tests/support/engine_rig.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/test.h"

/* Nobody calls an operation: the model is the echo, or has a fake forward pass. */
static const struct backend_ops no_ops = {.host_memory = false};
static struct backend no_device = {.ops = &no_ops};

uint64_t rig_now_ns;

static uint64_t rig_clock(void)
{
    return rig_now_ns;
}

void rig_init(struct engine_rig *ret_rig)
{
    rig_now_ns = 1000 * (uint64_t)RIG_MS;
    *ret_rig = (struct engine_rig){
        .model_count = 1,
        .config = {.wait = ENGINE_WAIT_ADAPTIVE,
                   .spin_ns = 50000,
                   .block_tokens = 16,
                   .cache_bytes = 1 << 20,
                   .cache_type = TENSOR_F32,
                   .step_tokens = 64,
                   .chunk_tokens = 32,
                   .running_max = RIG_RUNNING,
                   .kept_max = 4,
                   .queue_requests = 64,
                   .queue_tokens = 1 << 20,
                   .sessions_max = 64,
                   .slow_reader_ns = 100 * (uint64_t)RIG_MS},
        .model = {.name = "rig",
                  .config = {.architecture = MODEL_ECHO,
                             .vocab_rows = RIG_VOCAB,
                             .vocab_size = RIG_VOCAB,
                             .context_tokens = RIG_CONTEXT}},
    };
}

void rig_open(struct engine_rig *rig)
{
    struct model *models[] = {&rig->model, &rig->model};
    struct failure failure = {""};
    rig->board = calloc(1, sizeof *rig->board);
    assert_non_null(rig->board);
    int err = engine_open(&rig->engine, &rig->config, models, rig->model_count, &no_device,
                          rig->board, &failure);
    if (err < 0)
        fail_msg("engine_open: %d, %s", err, failure.text);
    rig->engine->clock_ns = rig_clock;
}

void rig_start(struct engine_rig *rig)
{
    struct engine *engine = NULL;
    struct model *models[] = {&rig->model, &rig->model};
    rig->board = calloc(1, sizeof *rig->board);
    assert_non_null(rig->board);
    assert_int_equal(
        engine_open(&engine, &rig->config, models, rig->model_count, &no_device, rig->board, NULL),
        0);
    assert_int_equal(engine_start(engine), 0);
    rig->engine = engine;
    rig->has_thread = true;
}

void rig_close(struct engine_rig *rig)
{
    struct engine *engine = rig->engine;
    engine_stop(engine);
    for (uint32_t i = 0; i < engine->model_count; i++) {
        assert_int_equal(engine->models[i].cache.free_blocks, engine->models[i].cache.blocks);
        assert_int_equal(engine->models[i].idle_blocks, 0);
    }
    assert_int_equal(engine->pool.free_requests, engine->pool.capacity);
    assert_int_equal(engine->queued_requests + engine->running_requests + engine->parked_requests,
                     0);
    assert_int_equal(engine->idle_requests + engine->stalled_sessions, 0);
    assert_int_equal(engine->queued_tokens, 0);
    assert_null(engine->holders.first);
    engine_close(engine);
    free(rig->board);
}

void rig_turn(struct engine_rig *rig, uint32_t turns)
{
    for (uint32_t i = 0; i < turns; i++)
        engine_turn(rig->engine, rig_now_ns);
}

void rig_attach(struct engine_rig *rig, struct client_half *client)
{
    assert_int_equal(engine_attach(rig->engine, client->session), 0);
    if (!rig->has_thread)
        rig_turn(rig, 1);
}

struct engine_report rig_report(struct engine_rig *rig)
{
    enum { PATIENCE_MS = 30000 };
    struct engine_report report;
    if (!rig->has_thread)
        rig_turn(rig, 1);
    while (!engine_next_report(rig->engine, &report)) {
        struct pollfd wait = {.fd = engine_report_fd(rig->engine), .events = POLLIN};
        uint64_t count;
        if (!rig->has_thread || poll(&wait, 1, PATIENCE_MS) != 1)
            fail_msg("no report came");
        assert_int_equal(read(wait.fd, &count, sizeof count), sizeof count);
    }
    return report;
}

void rig_detach(struct engine_rig *rig, struct client_half *client)
{
    assert_int_equal(engine_detach(rig->engine, client->session), 0);
    struct engine_report report;
    do {
        report = rig_report(rig);
    } while (report.kind != ENGINE_DETACHED);
    assert_ptr_equal(report.session, client->session);
    assert_int_equal(client->session->live_requests, 0);
}

struct event rig_event(struct engine_rig *rig, struct client_half *client)
{
    enum { PATIENCE_TURNS = 10000 };
    struct event event;
    if (rig->has_thread)
        return client_half_wait(client);
    for (uint32_t turn = 0; !client_half_poll(client, &event); turn++) {
        if (turn == PATIENCE_TURNS)
            fail_msg("no event came within %d turns", PATIENCE_TURNS);
        rig_turn(rig, 1);
    }
    return event;
}

struct event rig_expect(struct engine_rig *rig, struct client_half *client, enum event_kind kind,
                        uint32_t request)
{
    struct event event = rig_event(rig, client);
    assert_int_equal(event.kind, kind);
    assert_int_equal(event.request, request);
    return event;
}

struct event rig_answer(struct engine_rig *rig, struct client_half *client, uint32_t request,
                        uint32_t *ret_ids, uint32_t *ret_count)
{
    uint32_t count = 0;
    for (;;) {
        struct event event = rig_event(rig, client);
        if (event.request != request)
            continue;
        if (event.kind == EVENT_TOKENS) {
            assert_int_equal(event.index, count);
            for (uint32_t i = 0; i < event.count; i++)
                ret_ids[count++] = event.tokens[i].id;
        }
        if (event.kind == EVENT_DONE) {
            assert_int_equal(event.done.generated_tokens, count);
            *ret_count = count;
            return event;
        }
    }
}
