/*
 * autoglm bench kernels: each operation of a backend alone, at the shapes of a model, as shares of
 * what this machine can do.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tools/bench.h"
#include "tools/bench_kernels_rows.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

struct bench {
    struct load_options options;
    struct output *output;
    const char *isa;
    struct kernels kernels; /* of the number of threads at hand */
    struct rate_phase phase;

    /* The rows that take turns now. */
    struct kernel_row rows[KERNELS_ROWS_MOST];
    struct rate_row rates[KERNELS_ROWS_MOST];
    uint32_t row_count;
};

/* ---- rows ------------------------------------------------------------------------------------ */

/* Few rows are tokens of as many sequences, many are one's prompt. */
static void add_row(struct bench *bench, enum kernel kernel, enum tensor_type type, uint32_t rows,
                    uint32_t context)
{
    bool is_prompt = rows > KERNELS_SEQUENCES_MOST;
    struct kernel_row *row = &bench->rows[bench->row_count];
    *row = (struct kernel_row){.kernels = &bench->kernels,
                               .kernel = kernel,
                               .type = type,
                               .step = {.sequences = is_prompt ? 1 : rows,
                                        .rows = is_prompt ? rows : 1,
                                        .context = context},
                               .rows = rows};
    bench->rates[bench->row_count++] = kernel_rate(row);
}

static void add_rows(struct bench *bench, enum kernel kernel, enum tensor_type type,
                     uint32_t rows_most)
{
    const struct bench_list *rows = &bench->options.rows;
    for (uint32_t i = 0; i < rows->count; i++)
        if (rows->values[i] <= rows_most)
            add_row(bench, kernel, type, rows->values[i], 0);
}

static void add_attention(struct bench *bench)
{
    const struct load_options *options = &bench->options;
    for (uint32_t i = 0; i < options->contexts.count; i++)
        for (uint32_t j = 0; j < options->rows.count; j++) {
            uint32_t context = options->contexts.values[i], rows = options->rows.values[j];
            if (context < options->config.context_tokens)
                add_row(bench, KERNEL_ATTENTION, TENSOR_F32, rows, context);
            else
                output_note(bench->output, "the context of %u left out: the model holds %u tokens",
                            context, options->config.context_tokens);
        }
}

/* ---- telling --------------------------------------------------------------------------------- */

static cJSON *list_of(const struct bench *bench, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(output_json(bench->output), name);
}

static void add_json_row(const struct bench *bench, const struct kernel_row *row,
                         const struct rate_row *rate, const struct rate_result *result)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "kernel", kernel_name(row->kernel));
    cJSON_AddNumberToObject(object, "threads", bench->phase.threads);
    if (row->kernel <= KERNEL_EMBED)
        cJSON_AddStringToObject(object, "type", tensor_type_name(row->type));
    cJSON_AddNumberToObject(object, "rows", row->rows);
    cJSON_AddNumberToObject(object, "sequences", row->step.sequences);
    if (row->kernel == KERNEL_ATTENTION)
        cJSON_AddNumberToObject(object, "context", row->step.context);
    rate_add_row(object, rate, result);
    cJSON_AddItemToArray(list_of(bench, "rows"), object);
}

/* Measures the rows that were added, and tells. */
static int measure(struct bench *bench)
{
    bench->phase.rows = bench->rates;
    bench->phase.row_count = bench->row_count;
    int status = bench->row_count ? rate_run(&bench->phase) : 0;
    for (uint32_t i = 0; i < bench->row_count && !status; i++) {
        struct rate_result result = rate_result(&bench->phase, &bench->rates[i]);
        if (output_json(bench->output))
            add_json_row(bench, &bench->rows[i], &bench->rates[i], &result);
        else
            rate_print_row(&bench->rates[i], &result, false);
    }
    fflush(stdout);
    bench->row_count = 0;
    return status;
}

/* ---- groups of rows -------------------------------------------------------------------------- */

/* The head's matrix is an embedding, too. */
static int run_matrices(struct bench *bench, enum kernel kernel, enum tensor_type type)
{
    int status = kernels_open_matrices(&bench->kernels, kernel, type);
    if (!status) {
        add_rows(bench, kernel, type, kernel == KERNEL_HEAD ? KERNELS_HEAD_ROWS_MOST : UINT32_MAX);
        if (kernel == KERNEL_HEAD)
            add_rows(bench, KERNEL_EMBED, type, UINT32_MAX);
        status = measure(bench);
    }
    kernels_close_matrices(&bench->kernels);
    return status;
}

static int run_others(struct bench *bench)
{
    add_rows(bench, KERNEL_NORM, TENSOR_F32, UINT32_MAX);
    add_rows(bench, KERNEL_GATED_SILU, TENSOR_F32, UINT32_MAX);
    add_rows(bench, KERNEL_SELECT_ROWS, TENSOR_F32, UINT32_MAX);
    add_rows(bench, KERNEL_ROTARY_STORE, TENSOR_F32, UINT32_MAX);
    int status = measure(bench);
    if (!status) {
        add_attention(bench);
        status = measure(bench);
    }
    return status;
}

static int run_groups(struct bench *bench)
{
    int status = 0;
    for (uint32_t i = 0; i < bench->options.type_count; i++)
        for (int kernel = 0; kernel < KERNEL_MATRICES && !status; kernel++)
            status = run_matrices(bench, (enum kernel)kernel, bench->options.types[i]);
    return status ? status : run_others(bench);
}

static void tell_limits(struct bench *bench)
{
    if (output_json(bench->output))
        rate_add_limits(list_of(bench, "limits"), &bench->phase);
    else
        rate_print_limits(&bench->phase);
}

static int run_threads(struct bench *bench, uint32_t threads)
{
    const struct load_options *options = &bench->options;
    struct kernels *kernels = &bench->kernels;
    *kernels = (struct kernels){.options = options, .output = bench->output};
    bench->phase = (struct rate_phase){
        .threads = threads, .rounds = options->rounds, .round_ms = options->round_ms};
    int status = stand_open_backend(&kernels->backend, threads, options->isa, &bench->isa);
    if (status)
        return status;
    status = stand_open_limits(&kernels->limits, bench->isa, options->buffer_bytes);
    bench->phase.isa = bench->isa;
    bench->phase.limits = kernels->limits;
    if (!status)
        status = kernels_init(kernels);
    if (!status && !output_json(bench->output)) {
        printf("\n%s, cache %s, %u threads, %s; %u rounds, medians; bytes of weights, of the "
               "cache, else of activations\n",
               options->shape, tensor_type_name(options->cache_type), threads, bench->isa,
               options->rounds);
        rate_print_heading(false);
        fflush(stdout);
    }
    if (!status)
        status = run_groups(bench);
    if (!status)
        tell_limits(bench);
    rate_fini(&bench->phase);
    kernels_fini(kernels);
    limits_close(kernels->limits);
    backend_close(kernels->backend);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void begin_json(struct bench *bench)
{
    cJSON *root = output_json(bench->output);
    if (!root)
        return;
    cJSON_AddStringToObject(root, "shape", bench->options.shape);
    cJSON_AddStringToObject(root, "cache_type", tensor_type_name(bench->options.cache_type));
    cJSON_AddNumberToObject(root, "rounds", bench->options.rounds);
    cJSON_AddArrayToObject(root, "limits");
    cJSON_AddArrayToObject(root, "rows");
}

static int run(struct bench *bench)
{
    const struct bench_list *threads = &bench->options.threads;
    int status = 0;
    begin_json(bench);
    for (uint32_t i = 0; i < threads->count && !status; i++)
        status = run_threads(bench, threads->values[i]);
    if (!status && output_json(bench->output))
        cJSON_AddStringToObject(output_json(bench->output), "isa", bench->isa);
    if (!status && output_finish(bench->output) < 0)
        status = cli_fail("not enough memory to tell of everything");
    return status;
}

int bench_kernels_main(int argc, char **argv)
{
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return cli_fail("not enough memory");
    int status = load_options_parse(&bench->options, LOAD_KERNELS, argc, argv);
    if (status < 0) {
        status = output_open(&bench->output, "kernels", bench->options.is_json) < 0
                     ? cli_fail("not enough memory")
                     : 0;
        bench_stop_catch();
        if (!status)
            status = run(bench);
        output_close(bench->output);
    }
    free(bench);
    return status;
}
