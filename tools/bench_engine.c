/*
 * autoglm bench engine: forward.c in this process, without daemon, rings and sampling: what the
 * model's arithmetic costs, as shares of what this machine can do.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/forward.h"
#include "model/model_synthetic.h"
#include "tools/bench.h"
#include "tools/bench_load_options.h"
#include "tools/bench_output.h"
#include "tools/bench_rate.h"
#include "tools/bench_stand.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

enum { ROWS_MOST = BENCH_LIST_MAX * BENCH_LIST_MAX + BENCH_LIST_MAX };

struct engine;

struct engine_row {
    struct engine *engine;
    struct step step;
    struct step_cost cost;
    bool is_prompt;
};

struct engine {
    struct load_options options;
    struct output *output;
    const char *isa;
    struct backend *owner; /* of the model's memory */
    struct model *model;
    struct limits *limits;

    struct engine_row rows[ROWS_MOST]; /* the same for every number of threads */
    uint32_t row_count;
    uint32_t rows_max, sequences_max, positions_max; /* of any step */

    /* Of the number of threads at hand. */
    struct backend *backend;
    struct forward *forward;
    struct tokens tokens;
};

/* ---- the model ------------------------------------------------------------------------------- */

static int read_model(struct engine *engine)
{
    const char *path = engine->options.model;
    struct failure failure = {{0}};
    struct model_options options = {.cancel = bench_stop_flag()};
    int err = model_open(&engine->model, "bench", path, engine->owner, &options, &failure);
    if (err == -ECANCELED)
        return bench_stop_status();
    if (err < 0)
        return cli_fail("--model: %s", failure.text);
    return engine->model->layers ? 0 : cli_fail("--model %s: it has no arithmetic", path);
}

static int draw_model(struct engine *engine)
{
    const struct load_options *options = &engine->options;
    struct model_synthetic_options drawing = {.name = options->shape,
                                              .type = options->types[0],
                                              .head_type = options->head_type,
                                              .seed = 1,
                                              .cancel = bench_stop_flag()};
    int status = stand_check_memory(model_synthetic_bytes(&options->config, &drawing),
                                    "--shape, --quant: the weights");
    if (status)
        return status;
    int err = model_synthetic_open(&engine->model, &options->config, &drawing, engine->owner);
    if (err == -ECANCELED)
        return bench_stop_status();
    return err < 0 ? cli_fail("--shape %s: %s", options->shape, strerror(-err)) : 0;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void add_row(struct engine *engine, struct step step, bool is_prompt)
{
    uint32_t positions = step.context + step.rows, held = engine->model->config.context_tokens;
    if (positions > held) {
        output_note(engine->output, "%s of %u left out: the model holds %u tokens",
                    is_prompt ? "the prompt" : "the context", is_prompt ? step.rows : step.context,
                    held);
        return;
    }
    engine->rows[engine->row_count++] =
        (struct engine_row){.engine = engine,
                            .step = step,
                            .cost = step_cost(engine->model, engine->options.cache_type, &step),
                            .is_prompt = is_prompt};
    engine->rows_max = larger(engine->rows_max, step.sequences * step.rows);
    engine->sequences_max = larger(engine->sequences_max, step.sequences);
    engine->positions_max = larger(engine->positions_max, positions);
}

static int lay_out_rows(struct engine *engine)
{
    const struct load_options *options = &engine->options;
    for (uint32_t i = 0; i < options->contexts.count; i++)
        for (uint32_t j = 0; j < options->batches.count; j++)
            add_row(engine,
                    (struct step){.sequences = options->batches.values[j],
                                  .rows = 1,
                                  .context = options->contexts.values[i]},
                    false);
    for (uint32_t i = 0; i < options->prompts.count; i++)
        add_row(engine, (struct step){.sequences = 1, .rows = options->prompts.values[i]}, true);
    return engine->row_count ? 0
                             : cli_fail("--context, --prompt: nothing fits into the %u tokens that "
                                        "the model holds",
                                        engine->model->config.context_tokens);
}

static int run_step(void *context)
{
    const struct engine_row *row = context;
    struct engine *engine = row->engine;
    struct batch batch = tokens_batch(&engine->tokens, &row->step);
    const float *logits;
    return forward_run(engine->forward, &batch, engine->tokens.logit_rows, row->step.sequences,
                       &logits);
}

static void describe_row(const struct engine *engine, const struct engine_row *row,
                         struct rate_row *ret_rate)
{
    const struct step *step = &row->step;
    uint32_t tokens = step->sequences * step->rows;
    *ret_rate = (struct rate_row){
        .step = run_step,
        .context = (void *)row,
        .tokens = tokens,
        .bytes = (double)(row->cost.weight_bytes + row->cost.cache_bytes),
        .macs = row->cost.macs,
        .peak = stand_peak(engine->limits, engine->model->layers[0].gate.type, tokens),
    };
    if (row->is_prompt)
        snprintf(ret_rate->name, sizeof ret_rate->name, "prompt of %u", step->rows);
    else
        snprintf(ret_rate->name, sizeof ret_rate->name, "decode, batch %u, context %u",
                 step->sequences, step->context);
}

/* ---- one number of threads ------------------------------------------------------------------- */

static uint32_t blocks_of_a_sequence(const struct engine *engine)
{
    return (engine->positions_max + STAND_BLOCK_TOKENS - 1) / STAND_BLOCK_TOKENS;
}

static struct forward_options forward_options(const struct engine *engine)
{
    return (struct forward_options){.rows_max = engine->rows_max,
                                    .logits_max = engine->sequences_max,
                                    .cache_type = engine->options.cache_type,
                                    .cache_blocks =
                                        engine->sequences_max * blocks_of_a_sequence(engine),
                                    .block_tokens = STAND_BLOCK_TOKENS};
}

static int open_forward(struct engine *engine)
{
    const struct model_config *config = &engine->model->config;
    uint32_t blocks = blocks_of_a_sequence(engine), sequences = engine->sequences_max;
    struct forward_options options = forward_options(engine);
    int status = stand_check_memory(forward_bytes(config, &options),
                                    "--batch, --context, --prompt: the cache and the activations");
    if (status)
        return status;
    int err = tokens_init(&engine->tokens, engine->rows_max, sequences, blocks, config->vocab_size);
    if (err == 0)
        err = forward_open(&engine->forward, engine->model, engine->backend, &options);
    if (err == 0)
        err = stand_fill_cache(engine->backend, forward_cache(engine->forward), config, sequences,
                               blocks, engine->positions_max);
    if (err == -ECANCELED)
        return bench_stop_status();
    return err < 0 ? cli_fail("cannot prepare the cache: %s", strerror(-err)) : 0;
}

static void close_forward(struct engine *engine)
{
    forward_close(engine->forward);
    tokens_fini(&engine->tokens);
    backend_close(engine->backend);
    engine->forward = NULL;
    engine->backend = NULL;
}

static cJSON *list_of(const struct engine *engine, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(output_json(engine->output), name);
}

static void add_json_row(const struct engine *engine, const struct engine_row *row,
                         const struct rate_row *rate, const struct rate_result *result,
                         uint32_t threads)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "what", row->is_prompt ? "prompt" : "decode");
    cJSON_AddNumberToObject(object, "threads", threads);
    cJSON_AddNumberToObject(object, "batch", row->step.sequences);
    cJSON_AddNumberToObject(object, "context", row->step.context);
    cJSON_AddNumberToObject(object, "tokens", rate->tokens);
    cJSON_AddNumberToObject(object, "weight_bytes", (double)row->cost.weight_bytes);
    cJSON_AddNumberToObject(object, "cache_bytes", (double)row->cost.cache_bytes);
    rate_add_row(object, rate, result);
    cJSON_AddItemToArray(list_of(engine, "rows"), object);
}

static void report(const struct engine *engine, struct rate_phase *phase)
{
    bool is_json = output_json(engine->output);
    if (is_json) {
        rate_add_limits(list_of(engine, "limits"), phase);
    } else {
        printf("\n");
        rate_print_limits(phase);
        rate_print_heading(true);
    }
    for (uint32_t i = 0; i < phase->row_count; i++) {
        struct rate_result result = rate_result(phase, &phase->rows[i]);
        if (is_json)
            add_json_row(engine, &engine->rows[i], &phase->rows[i], &result, phase->threads);
        else
            rate_print_row(&phase->rows[i], &result, true);
    }
    fflush(stdout);
}

static int run_threads(struct engine *engine, uint32_t threads)
{
    struct rate_row rates[ROWS_MOST];
    struct rate_phase phase = {.threads = threads,
                               .rounds = engine->options.rounds,
                               .round_ms = engine->options.round_ms,
                               .isa = engine->isa,
                               .limits = engine->limits,
                               .rows = rates,
                               .row_count = engine->row_count};
    int status = stand_open_backend(&engine->backend, threads, engine->options.isa, &engine->isa);
    if (!status)
        status = open_forward(engine);
    for (uint32_t i = 0; i < engine->row_count; i++)
        describe_row(engine, &engine->rows[i], &rates[i]);
    if (!status)
        status = rate_run(&phase);
    if (!status)
        report(engine, &phase);
    rate_fini(&phase);
    close_forward(engine);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void tell_model(const struct engine *engine)
{
    const struct load_options *options = &engine->options;
    const struct model *model = engine->model;
    const char *type = tensor_type_name(model->layers[0].gate.type);
    const char *head = tensor_type_name(model->head.type);
    const char *name = options->model ? options->model : options->shape;
    cJSON *root = output_json(engine->output);
    if (!root) {
        printf("%s%s, %s, head %s, %.3f GB of weights, of which a token reads %.3f; cache %s; %s\n",
               options->model ? "" : "random weights of ", name, type, head,
               (double)model->weights_bytes / 1e9, (double)model->bytes_per_token / 1e9,
               tensor_type_name(options->cache_type), engine->isa);
        printf("%u rounds, medians; bytes: every weight once and the keys and values of every "
               "position\n",
               options->rounds);
        fflush(stdout);
        return;
    }
    cJSON *object = cJSON_AddObjectToObject(root, "model");
    cJSON_AddStringToObject(object, "name", name);
    cJSON_AddBoolToObject(object, "random", !options->model);
    cJSON_AddStringToObject(object, "type", type);
    cJSON_AddStringToObject(object, "head_type", head);
    cJSON_AddNumberToObject(object, "weights_bytes", (double)model->weights_bytes);
    cJSON_AddNumberToObject(object, "bytes_per_token", (double)model->bytes_per_token);
    cJSON_AddStringToObject(root, "cache_type", tensor_type_name(options->cache_type));
    cJSON_AddStringToObject(root, "isa", engine->isa);
    cJSON_AddNumberToObject(root, "rounds", options->rounds);
    cJSON_AddArrayToObject(root, "limits");
    cJSON_AddArrayToObject(root, "rows");
}

static int run(struct engine *engine)
{
    struct load_options *options = &engine->options;
    int status = stand_open_backend(&engine->owner, 0, options->isa, &engine->isa);
    if (!status)
        status = options->model ? read_model(engine) : draw_model(engine);
    if (!status)
        status = lay_out_rows(engine);
    if (!status)
        status = stand_open_limits(&engine->limits, engine->isa, options->buffer_bytes);
    if (!status)
        tell_model(engine);
    for (uint32_t i = 0; i < options->threads.count && !status; i++)
        status = run_threads(engine, options->threads.values[i]);
    if (!status && output_finish(engine->output) < 0)
        status = cli_fail("not enough memory to tell of everything");
    return status;
}

int bench_engine_main(int argc, char **argv)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return cli_fail("not enough memory");
    int status = load_options_parse(&engine->options, LOAD_ENGINE, argc, argv);
    if (status < 0) {
        status = output_open(&engine->output, "engine", engine->options.is_json) < 0
                     ? cli_fail("not enough memory")
                     : 0;
        bench_stop_catch();
        if (!status)
            status = run(engine);
        model_close(engine->model, engine->owner);
        limits_close(engine->limits);
        backend_close(engine->owner);
        output_close(engine->output);
    }
    free(engine);
    return status;
}
