/* The engine on a model that reads its whole history back through the block tables
 * (tests/support/fake_forward.c), turned by hand: every answer is held against one computed without
 * an engine. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/engine_stand.h"
#include "tests/support/fake_forward.h"
#include "tests/support/test.h"

enum { VOCAB = 200, VOCAB_ROWS = 210, REQUESTS = 32, ANSWER_MAX = 40, CLIENTS = 4 };

static void rig_init_model(struct engine_rig *rig)
{
    rig_init(rig);
    rig->model.config = (struct model_config){.architecture = MODEL_GLM,
                                              .layers = 1,
                                              .kv_heads = 1,
                                              .head_dim = 1,
                                              .vocab_rows = VOCAB_ROWS,
                                              .vocab_size = VOCAB,
                                              .context_tokens = RIG_CONTEXT,
                                              .eos_ids = {VOCAB - 1},
                                              .eos_count = 1};
    rig->config.queue_requests = REQUESTS;
    fake_forward_steps_left = -1;
}

/* One conversation's turn: what is asked, and what must come. */
struct job {
    uint32_t prompt[128];
    struct submission submission;
    uint32_t expected[ANSWER_MAX];
    uint32_t expected_count;
    enum done_reason expected_reason;
    uint32_t told;
    enum done_reason reason;
};

static struct sampler sampler;

/* The answer to ids[0..count), appended to them. Returns the reason for its end. */
static enum done_reason expect(const struct submission *submission, uint32_t *ids, uint32_t *count)
{
    struct model_config config = {.vocab_rows = VOCAB_ROWS, .vocab_size = VOCAB};
    struct sampler_params params = {.temperature = submission->temperature,
                                    .top_p = submission->top_p,
                                    .min_p = submission->min_p,
                                    .top_k = submission->top_k,
                                    .seed = submission->seed};
    for (uint32_t index = 0; index < submission->max_tokens; index++) {
        float logits[VOCAB_ROWS];
        uint32_t id;
        float logprob;
        fake_logits(&config, ids, *count, logits);
        assert_int_equal(sampler_pick(&sampler, &params, logits, VOCAB, index, &id, &logprob), 0);
        if (id == VOCAB - 1)
            return DONE_STOP;
        ids[(*count)++] = id;
    }
    return DONE_LENGTH;
}

static void make_jobs(struct job *jobs, unsigned seed)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct job *job = &jobs[i];
        uint32_t ids[RIG_CONTEXT];
        uint32_t tokens = 1 + (uint32_t)rand_r(&seed) % 100;
        for (uint32_t k = 0; k < tokens; k++)
            ids[k] = job->prompt[k] = (uint32_t)rand_r(&seed) % VOCAB;
        job->submission =
            (struct submission){.op = SUBMISSION_GENERATE,
                                .priority = (uint8_t)(rand_r(&seed) % 4),
                                .flags = SUBMISSION_WIDE,
                                .prompt_tokens = tokens,
                                .max_tokens = 1 + (uint32_t)rand_r(&seed) % ANSWER_MAX,
                                .temperature = i % 3 ? 0.9f : 0,
                                .top_p = i % 3 == 1 ? 0.8f : 1,
                                .top_k = i % 3 == 2 ? 20 : 0,
                                .seed = i};
        uint32_t count = tokens;
        job->expected_reason = expect(&job->submission, ids, &count);
        job->expected_count = count - tokens;
        memcpy(job->expected, ids + tokens, job->expected_count * sizeof *ids);
        job->told = 0;
        job->reason = 0;
    }
}

static void submit(struct client_half *client, struct job *job, uint32_t id, uint32_t place)
{
    struct submission submission = job->submission;
    submission.request = id;
    submission.prompt_offset = place * 512;
    memcpy(client->arena + (size_t)place * 128, job->prompt,
           submission.prompt_tokens * sizeof(uint32_t));
    client_half_submit(client, &submission);
}

/* Takes one event into account. Whether it ended the job. */
static bool note(struct job *job, const struct event *event)
{
    if (event->kind == EVENT_TOKENS) {
        assert_int_equal(event->index, job->told);
        assert_true(job->told < job->expected_count);
        assert_int_equal(event->tokens[0].id, job->expected[job->told]);
        job->told++;
    }
    if (event->kind != EVENT_DONE)
        return false;
    job->reason = event->reason;
    return true;
}

static void assert_answered(const struct job *jobs)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(jobs[i].reason, jobs[i].expected_reason);
        assert_int_equal(jobs[i].told, jobs[i].expected_count);
    }
}

/* All jobs at once, spread over four sessions, in the order `first`, `first + step`, ... */
static void run_together(struct engine_rig *rig, struct job *jobs, uint32_t first, uint32_t step)
{
    struct client_half clients[CLIENTS];
    uint32_t left = REQUESTS;
    rig_open(rig);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        client_half_open(&clients[i], &CLIENT_HALF_GEOMETRY);
        rig_attach(rig, &clients[i]);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint32_t index = (first + i * step) % REQUESTS;
        uint32_t place = index / CLIENTS;
        submit(&clients[index % CLIENTS], &jobs[index], place + 1, place);
    }
    for (uint32_t turn = 0; left && turn < 20000; turn++) {
        struct event event;
        rig_turn(rig, 1);
        for (uint32_t i = 0; i < CLIENTS; i++) {
            while (client_half_poll(&clients[i], &event))
                left -= note(&jobs[(event.request - 1) * CLIENTS + i], &event);
        }
    }
    assert_int_equal(left, 0);
    assert_answered(jobs);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        rig_detach(rig, &clients[i]);
        client_half_close(&clients[i]);
    }
    rig_close(rig);
}

static void requests_alone_get_their_answers(void **state)
{
    (void)state;
    static struct job jobs[REQUESTS];
    struct stand s;
    rig_init_model(&s.rig);
    stand_open(&s);
    make_jobs(jobs, 1);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        submit(&s.client, &jobs[i], i + 1, 0);
        while (!jobs[i].reason) {
            struct event event = rig_event(&s.rig, &s.client);
            note(&jobs[i], &event);
        }
    }
    assert_answered(jobs);
    stand_close(&s);
}

static void answers_do_not_depend_on_company_order_or_chunks(void **state)
{
    (void)state;
    static struct job jobs[REQUESTS];
    static const struct {
        uint32_t first, order, step_tokens, chunk_tokens, running_max, block_tokens;
    } cases[] = {
        {0, 1, 64, 32, 8, 16},   {5, 7, 64, 32, 32, 16},   {31, 31, 512, 512, 32, 16},
        {0, 1, 7, 3, 7, 16},     {9, 13, 1, 1, 1, 16},     {0, 1, 33, 100, 32, 5},
        {3, 5, 100, 100, 16, 1}, {1, 1, 256, 64, 64, 128}, {2, 3, 16, 2, 16, 512},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine_rig rig;
        rig_init_model(&rig);
        rig.config.step_tokens = cases[i].step_tokens;
        rig.config.chunk_tokens = cases[i].chunk_tokens;
        rig.config.running_max = cases[i].running_max;
        rig.config.block_tokens = cases[i].block_tokens;
        make_jobs(jobs, 1);
        run_together(&rig, jobs, cases[i].first, cases[i].order);
    }
}

static void answers_do_not_depend_on_scarce_blocks(void **state)
{
    (void)state;
    static struct job jobs[REQUESTS];
    struct engine_rig rig;
    rig_init_model(&rig);
    struct kv_cache_options options = {
        .type = TENSOR_F32, .layers = 1, .kv_heads = 1, .head_dim = 1, .blocks = 1};
    options.block_tokens = rig.config.block_tokens;
    rig.config.cache_bytes = RIG_CONTEXT / 16 * kv_cache_bytes(&options); /* one context */
    make_jobs(jobs, 2);
    run_together(&rig, jobs, 0, 1);
}

static void a_continued_sequence_answers_as_if_it_had_been_sent_whole(void **state)
{
    (void)state;
    enum { TURNS = 8 };
    for (int is_forgetful = 0; is_forgetful < 2; is_forgetful++) {
        struct stand s;
        uint32_t history[RIG_CONTEXT];
        uint32_t ids[STAND_IDS];
        uint32_t count = 0;
        rig_init_model(&s.rig);
        if (is_forgetful)
            s.rig.config.kept_max = 0; /* blocks are taken at once: computed again each time */
        stand_open(&s);
        for (uint32_t turn = 0; turn < TURNS; turn++) {
            struct submission submission = client_half_request(&s.client, turn + 1, 10, 20);
            submission.flags = SUBMISSION_KEEP;
            if (turn) {
                submission.op = SUBMISSION_EXTEND;
                submission.parent = turn;
            }
            for (uint32_t i = 0; i < 10; i++)
                history[count++] = s.client.arena[i] = (turn * 17 + i * i) % VOCAB;
            uint32_t before = count;
            enum done_reason reason = expect(&submission, history, &count);
            uint64_t rows = fake_forward_rows;
            client_half_submit(&s.client, &submission);
            struct event done = stand_answer(&s, turn + 1, ids);
            assert_done(done, turn + 1, reason);
            assert_int_equal(done.done.prompt_tokens, before);
            assert_int_equal(done.done.generated_tokens, count - before);
            assert_memory_equal(ids, history + before, (count - before) * sizeof *ids);
            uint32_t computed =
                before - done.done.cached_tokens + (count - before) - (reason == DONE_LENGTH);
            assert_int_equal(fake_forward_rows - rows, computed);
            if (is_forgetful || turn == 0)
                assert_int_equal(done.done.cached_tokens, 0);
            else
                assert_true(done.done.cached_tokens >= before - 11);
        }
        stand_close(&s);
    }
}

static void padding_of_the_vocabulary_is_never_sampled(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init_model(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 3, 100, SUBMISSION_IGNORE_EOS);
    struct event done = stand_answer(&s, 1, ids);
    assert_int_equal(done.done.generated_tokens, 100);
    for (uint32_t i = 0; i < 100; i++)
        assert_true(ids[i] < VOCAB); /* the padding's logits are the highest of all */
    stand_close(&s);
}

static void the_logits_told_are_those_that_the_token_came_from(void **state)
{
    (void)state;
    struct stand s;
    struct geometry geometry = CLIENT_HALF_GEOMETRY;
    geometry.output_bytes = LAYOUT_PAGE_BYTES; /* four rows */
    uint32_t history[RIG_CONTEXT] = {1, 2, 3};
    rig_init_model(&s.rig);
    rig_open(&s.rig);
    client_half_open(&s.client, &geometry);
    rig_attach(&s.rig, &s.client);
    stand_ask(&s, 1, 3, 30, SUBMISSION_LOGITS | SUBMISSION_IGNORE_EOS);
    uint32_t count = 3;
    for (;;) {
        struct event event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_OUTPUT) {
            float logits[VOCAB_ROWS];
            fake_logits(&s.rig.model.config, history, count, logits);
            assert_int_equal(event.output.bytes, VOCAB * sizeof(float));
            assert_memory_equal(s.client.output + event.output.offset, logits, event.output.bytes);
            atomic_store(&s.client.words->output_cursor, event.output.release);
        }
        if (event.kind == EVENT_TOKENS)
            history[count++] = event.tokens[0].id;
        if (event.kind == EVENT_DONE)
            break;
    }
    assert_int_equal(count, 33);
    stand_close(&s);
}

static void a_lost_device_ends_every_request_and_refuses_the_next(void **state)
{
    (void)state;
    struct stand s;
    rig_init_model(&s.rig);
    s.rig.config.running_max = 2;
    stand_open(&s);
    for (uint32_t id = 1; id <= 3; id++)
        stand_ask(&s, id, 3, 100, SUBMISSION_KEEP | SUBMISSION_IGNORE_EOS);
    fake_forward_steps_left = 5;
    uint32_t failed = 0;
    while (failed < 3) {
        struct event event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_DONE) {
            assert_int_equal(event.reason, DONE_FAILED);
            assert_int_equal(event.done.error, -EIO);
            failed++;
        }
    }
    struct engine_report report = rig_report(&s.rig);
    assert_int_equal(report.kind, ENGINE_FAILED);
    assert_int_equal(report.error, -EIO);
    assert_int_equal(s.client.session->live_requests, 0);
    stand_ask(&s, 4, 3, 1, 0);
    stand_refused(&s, 4, -EIO);
    fake_forward_steps_left = -1;
    stand_close(&s);
}

static void a_cache_too_small_for_a_context_is_refused_with_the_figures(void **state)
{
    (void)state;
    struct engine_rig rig;
    struct failure failure = {""};
    struct board board = {0};
    struct model *models[] = {&rig.model};
    struct engine *engine = NULL;
    rig_init_model(&rig);
    rig.config.cache_bytes = 1000;
    rig.config.context_tokens = 400;
    assert_int_equal(engine_open(&engine, &rig.config, models, 1, &fake_backend, &board, &failure),
                     -ENOMEM);
    assert_null(engine);
    assert_non_null(strstr(failure.text, "400 tokens"));
    assert_non_null(strstr(failure.text, "cache_mib"));
    rig.config.context_tokens = 0; /* the model's own is cut to what there is room for */
    assert_int_equal(engine_open(&engine, &rig.config, models, 1, &fake_backend, &board, &failure),
                     0);
    assert_in_range(board.models[0].context_tokens, 16, 400);
    assert_int_equal(board.models[0].context_tokens, board.models[0].blocks * 16);
    engine_close(engine);
    rig.config.cache_bytes = 1;
    assert_int_equal(engine_open(&engine, &rig.config, models, 1, &fake_backend, &board, &failure),
                     -ENOMEM);
}

/* ---- a random life --------------------------------------------------------------------------- */

enum { LIFE_CLIENTS = 3, LIFE_IDS = 16 };

struct life_request {
    uint32_t id; /* 0: free */
    bool is_kept, is_done, is_told_of;
    uint32_t told, history_count;
    struct submission submission;
    uint32_t history[RIG_CONTEXT]; /* prompt and what was told so far */
    uint32_t prompt_tokens;
};

struct life {
    struct engine_rig rig;
    struct client_half clients[LIFE_CLIENTS];
    struct life_request requests[LIFE_CLIENTS][LIFE_IDS];
    unsigned seed;
    uint32_t answered, cancelled, late, overflowed;
};

static uint32_t roll(struct life *life, uint32_t sides)
{
    return (uint32_t)rand_r(&life->seed) % sides;
}

static void life_attach(struct life *life, uint32_t who)
{
    client_half_open(&life->clients[who], &CLIENT_HALF_GEOMETRY);
    memset(life->requests[who], 0, sizeof life->requests[who]);
    rig_attach(&life->rig, &life->clients[who]);
}

static void life_detach(struct life *life, uint32_t who)
{
    rig_detach(&life->rig, &life->clients[who]);
    client_half_close(&life->clients[who]);
}

/* A new request, or the next turn of a kept one. */
static void life_submit(struct life *life, uint32_t who)
{
    struct client_half *client = &life->clients[who];
    uint32_t index = roll(life, LIFE_IDS);
    struct life_request *request = &life->requests[who][index];
    if (request->id && !(request->is_done && request->is_kept))
        return;
    uint32_t tokens = 1 + roll(life, 60);
    if (request->history_count + tokens > RIG_CONTEXT - ANSWER_MAX)
        request->id = 0;
    if (ring_room(&client->submissions, 2) < 2)
        return;

    struct submission submission = {.op = request->id ? SUBMISSION_EXTEND : SUBMISSION_GENERATE,
                                    .priority = (uint8_t)roll(life, 4),
                                    .flags = roll(life, 2) ? SUBMISSION_KEEP : 0,
                                    .request = index + 16 * (1 + roll(life, 1000)),
                                    .parent = request->id,
                                    .prompt_offset = index * 1024,
                                    .prompt_tokens = tokens,
                                    .max_tokens = 1 + roll(life, ANSWER_MAX),
                                    .temperature = roll(life, 2) ? 0.8f : 0,
                                    .top_p = 0.9f,
                                    .seed = roll(life, 100)};
    if (!request->id && request->is_done && request->is_kept) /* the old one was too long */
        client_half_submit(client, &(struct submission){.op = SUBMISSION_DETACH,
                                                        .request = request->submission.request});
    if (!request->id)
        *request = (struct life_request){0};
    if (roll(life, 8) == 0)
        submission.deadline_ns = rig_now_ns + roll(life, 40) * RIG_MS;
    for (uint32_t i = 0; i < tokens; i++)
        client->arena[index * 256 + i] = roll(life, VOCAB);
    memcpy(request->history + request->history_count, client->arena + (size_t)index * 256,
           tokens * sizeof(uint32_t));
    request->submission = submission;
    request->id = submission.request;
    request->prompt_tokens = request->history_count + tokens;
    request->is_kept = submission.flags & SUBMISSION_KEEP;
    request->is_done = request->is_told_of = false;
    request->told = 0;
    client_half_submit(client, &submission);
}

static void life_check_token(struct life *life, struct life_request *request,
                             const struct event *event)
{
    float logits[VOCAB_ROWS];
    float logprob;
    uint32_t id;
    struct sampler_params params = {.temperature = request->submission.temperature,
                                    .top_p = request->submission.top_p,
                                    .seed = request->submission.seed};
    fake_logits(&life->rig.model.config, request->history, request->history_count, logits);
    assert_int_equal(sampler_pick(&sampler, &params, logits, VOCAB, request->told, &id, &logprob),
                     0);
    assert_int_equal(event->index, request->told);
    assert_int_equal(event->tokens[0].id, id);
    assert_true(event->tokens[0].logprob == logprob);
    request->history[request->history_count++] = id;
    request->told++;
}

static void life_read(struct life *life, uint32_t who)
{
    struct event event;
    uint32_t most = 1 + roll(life, 30);
    while (most-- && client_half_poll(&life->clients[who], &event)) {
        struct life_request *request = &life->requests[who][event.request % LIFE_IDS];
        assert_int_equal(event.request, request->id);
        assert_false(request->is_done);
        if (event.kind == EVENT_ACCEPTED) {
            request->is_told_of = true;
            request->history_count = request->prompt_tokens;
        }
        if (event.kind == EVENT_TOKENS)
            life_check_token(life, request, &event);
        if (event.kind != EVENT_DONE)
            continue;
        request->is_done = true;
        assert_int_equal(event.done.generated_tokens, request->told);
        life->answered += event.reason == DONE_STOP || event.reason == DONE_LENGTH;
        life->cancelled += event.reason == DONE_CANCELLED;
        life->late += event.reason == DONE_DEADLINE;
        life->overflowed += event.reason == DONE_OVERFLOW;
        if (!request->is_told_of && request->submission.op == SUBMISSION_EXTEND) {
            request->id = request->submission.parent; /* refused: kept as before, or lost */
            request->is_kept = event.done.error != -ENOENT;
        }
        if (!request->is_kept)
            *request = (struct life_request){0};
    }
}

static void life_step(struct life *life)
{
    uint32_t who = roll(life, LIFE_CLIENTS);
    switch (roll(life, 12)) {
    case 0:
    case 1:
    case 2:
        life_submit(life, who);
        break;
    case 3: {
        struct life_request *request = &life->requests[who][roll(life, LIFE_IDS)];
        if (roll(life, 4) == 0 && request->id && !request->is_done &&
            ring_room(&life->clients[who].submissions, 1) > 0)
            client_half_submit(&life->clients[who], &(struct submission){.op = SUBMISSION_CANCEL,
                                                                         .request = request->id});
        break;
    }
    case 4:
        if (roll(life, 60) == 0) {
            life_detach(life, who);
            life_attach(life, who);
        }
        break;
    case 5:
        rig_now_ns += roll(life, 3) * RIG_MS;
        break;
    case 6:
        if (roll(life, 100) == 0)
            rig_now_ns += 150 * (uint64_t)RIG_MS;
        break;
    case 7:
    case 8:
        life_read(life, who);
        break;
    default:
        rig_turn(&life->rig, 1);
        break;
    }
}

static void whatever_clients_do_every_token_is_right_and_every_block_comes_back(void **state)
{
    (void)state;
    uint32_t answered = 0, cancelled = 0, late = 0, overflowed = 0;
    for (unsigned seed = 1; seed <= 6; seed++) {
        static struct life life;
        memset(&life, 0, sizeof life);
        life.seed = seed;
        rig_init_model(&life.rig);
        life.rig.config.running_max = 4;
        life.rig.config.kept_max = 2;
        life.rig.config.queue_requests = 12;
        life.rig.config.cache_bytes = 6000 + 1500 * seed;
        life.rig.config.step_tokens = 5 * seed;
        rig_open(&life.rig);
        for (uint32_t who = 0; who < LIFE_CLIENTS; who++)
            life_attach(&life, who);
        for (uint32_t i = 0; i < 30000; i++)
            life_step(&life);
        for (uint32_t who = 0; who < LIFE_CLIENTS; who++)
            life_detach(&life, who);
        rig_close(&life.rig);
        answered += life.answered;
        cancelled += life.cancelled;
        late += life.late;
        overflowed += life.overflowed;
    }
    /* It was a full life. */
    assert_true(answered > 500);
    assert_true(cancelled > 30);
    assert_true(late > 30);
    assert_true(overflowed > 5);
}

static int setup(void **state)
{
    (void)state;
    return sampler_init(&sampler, VOCAB);
}

static int teardown(void **state)
{
    (void)state;
    sampler_fini(&sampler);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_alone_get_their_answers),
        cmocka_unit_test(answers_do_not_depend_on_company_order_or_chunks),
        cmocka_unit_test(answers_do_not_depend_on_scarce_blocks),
        cmocka_unit_test(a_continued_sequence_answers_as_if_it_had_been_sent_whole),
        cmocka_unit_test(padding_of_the_vocabulary_is_never_sampled),
        cmocka_unit_test(the_logits_told_are_those_that_the_token_came_from),
        cmocka_unit_test(a_lost_device_ends_every_request_and_refuses_the_next),
        cmocka_unit_test(a_cache_too_small_for_a_context_is_refused_with_the_figures),
        cmocka_unit_test(whatever_clients_do_every_token_is_right_and_every_block_comes_back),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
