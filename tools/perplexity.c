/*
 * autoglm perplexity: how well a model foresees a text. The model is loaded and run in this
 * process.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "tools/cli.h"
#include "tools/perplexity_options.h"
#include "tools/perplexity_text.h"
#include "tools/perplexity_windows.h"

struct measurement {
    struct perplexity_options options;
    struct perplexity_text text;
    struct backend *backend;
    struct model *model;
    struct perplexity_windows windows;
    uint32_t window_count;
};

static double tokens_per_second(const struct measurement *measurement)
{
    const struct perplexity_windows *windows = &measurement->windows;
    return windows->run_ns ? (double)windows->tokens * 1e9 / (double)windows->run_ns : 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int count_windows(struct measurement *measurement)
{
    const struct perplexity_options *options = &measurement->options;
    uint64_t count = measurement->text.count / options->window;
    if (count == 0)
        return cli_fail("the text has %zu tokens, a window %llu: a longer text or a smaller "
                        "--window",
                        measurement->text.count, (unsigned long long)options->window);
    if (options->chunks && count > options->chunks)
        count = options->chunks;
    if (count > UINT32_MAX)
        return cli_fail("the text has more than %u windows", UINT32_MAX);
    measurement->window_count = (uint32_t)count;
    return 0;
}

static int open_backend(struct measurement *measurement)
{
    const struct backend_options options = {.device = "cpu",
                                            .threads = (uint32_t)measurement->options.threads,
                                            .variant = measurement->options.isa};
    const char *why = NULL;
    int err = backend_open(&measurement->backend, &options, &why);
    if (err == 0)
        return 0;
    return cli_fail("device cpu%s%s: %s", options.variant ? ", --isa " : "",
                    options.variant ? options.variant : "", why ? why : strerror(-err));
}

static int open_model(struct measurement *measurement)
{
    struct failure failure = {""};
    const struct perplexity_options *wanted = &measurement->options;
    const struct model_options options = {.quant = wanted->quant,
                                          .quant_head = wanted->quant_head,
                                          .quant_embedding = wanted->quant_embedding};
    int err = model_open(&measurement->model, "perplexity", wanted->model, measurement->backend,
                         &options, &failure);
    if (err < 0)
        return cli_fail("%s", failure.text);
    if (measurement->model->config.architecture == MODEL_ECHO)
        return cli_fail("%s: the echo model foresees nothing", wanted->model);
    uint32_t holds = measurement->model->config.context_tokens;
    if (wanted->window > holds)
        return cli_fail("--window %llu: the model holds %u tokens",
                        (unsigned long long)wanted->window, holds);
    return 0;
}

/* Every id must have its row of the embedding. */
static int check_ids(const struct measurement *measurement)
{
    uint32_t rows = measurement->model->config.vocab_rows;
    for (size_t i = 0; i < measurement->text.count; i++)
        if (measurement->text.ids[i] >= rows)
            return cli_fail("token %zu of the text is %u, the model has the ids below %u: is this "
                            "its tokenizer?",
                            i, measurement->text.ids[i], rows);
    return 0;
}

static int open_windows(struct measurement *measurement)
{
    struct failure failure = {""};
    int err = perplexity_windows_open(&measurement->windows, measurement->model,
                                      measurement->backend, (uint32_t)measurement->options.window,
                                      measurement->options.cache_type, &failure);
    if (err < 0)
        return cli_fail("%s", failure.text);
    measurement->windows.bos = measurement->text.bos;
    return 0;
}

/* What costs little and is most often wrong comes first. */
static int open_all(struct measurement *measurement)
{
    int status = perplexity_text_read(&measurement->text, &measurement->options);
    if (!status)
        status = count_windows(measurement);
    if (!status)
        status = open_backend(measurement);
    if (!status)
        status = open_model(measurement);
    if (!status)
        status = check_ids(measurement);
    if (!status)
        status = open_windows(measurement);
    return status;
}

static void close_all(struct measurement *measurement)
{
    perplexity_windows_close(&measurement->windows);
    if (measurement->backend)
        model_close(measurement->model, measurement->backend);
    backend_close(measurement->backend);
    free(measurement->text.ids);
}

/* ---- measuring ------------------------------------------------------------------------------- */

static void print_progress(const struct measurement *measurement, uint32_t done)
{
    bool is_terminal = isatty(STDERR_FILENO);
    fprintf(stderr, "%swindow %u of %u: %.4f, %.1f tokens/s%s", is_terminal ? "\r" : "", done,
            measurement->window_count, perplexity_value(&measurement->windows.score),
            tokens_per_second(measurement), is_terminal ? "\033[K" : "\n");
    if (is_terminal && done == measurement->window_count)
        fputc('\n', stderr);
}

static int measure(struct measurement *measurement)
{
    size_t window = measurement->options.window;
    for (uint32_t i = 0; i < measurement->window_count; i++) {
        int err = perplexity_windows_run(&measurement->windows, measurement->text.ids + i * window);
        if (err == -EDOM)
            return cli_fail("window %u: the model gives a token no probability that is a number",
                            i + 1);
        if (err < 0)
            return cli_fail("window %u: %s", i + 1, strerror(-err));
        print_progress(measurement, i + 1);
    }
    return 0;
}

/* ---- telling --------------------------------------------------------------------------------- */

static void print_table(const struct measurement *measurement)
{
    const struct perplexity_windows *windows = &measurement->windows;
    printf("perplexity  %.4f", perplexity_value(&windows->score));
    if (windows->score.count > 1)
        printf(" +/- %.4f", perplexity_error(&windows->score));
    printf("\ntokens      %llu scored, %u window%s of %u\n",
           (unsigned long long)windows->score.count, measurement->window_count,
           measurement->window_count == 1 ? "" : "s", windows->window);
    printf("speed       %.1f tokens/s\n", tokens_per_second(measurement));
    printf("model       %llu bytes\n", (unsigned long long)measurement->model->weights_bytes);
    printf("device      %s\n", measurement->backend->ops->describe(measurement->backend));
}

/* JSON has no NaN: what there is none of is null. */
static void add_number(cJSON *object, const char *name, double value)
{
    cJSON_AddItemToObject(object, name,
                          isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

static int print_json(const struct measurement *measurement)
{
    const struct perplexity_windows *windows = &measurement->windows;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "model", measurement->options.model);
    cJSON_AddStringToObject(object, "quant", measurement->options.quant_name);
    add_number(object, "perplexity", perplexity_value(&windows->score));
    add_number(object, "standard_error", perplexity_error(&windows->score));
    add_number(object, "window", windows->window);
    add_number(object, "windows", measurement->window_count);
    add_number(object, "scored_tokens", (double)windows->score.count);
    add_number(object, "text_tokens", (double)measurement->text.count);
    add_number(object, "bos", windows->bos == PERPLEXITY_NO_BOS ? NAN : (double)windows->bos);
    add_number(object, "tokens_per_s", tokens_per_second(measurement));
    add_number(object, "model_bytes", (double)measurement->model->weights_bytes);
    cJSON_AddStringToObject(object, "device",
                            measurement->backend->ops->describe(measurement->backend));
    char *text = cJSON_Print(object);
    cJSON_Delete(object);
    if (!text)
        return cli_fail("not enough memory for the report");
    puts(text);
    free(text);
    return 0;
}

int perplexity_main(int argc, char **argv)
{
    struct measurement measurement = {.model = NULL};
    int status = perplexity_parse(&measurement.options, argc, argv);
    if (status >= 0)
        return status;
    status = open_all(&measurement);
    if (!status)
        status = measure(&measurement);
    if (!status && measurement.options.is_json)
        status = print_json(&measurement);
    else if (!status)
        print_table(&measurement);
    close_all(&measurement);
    return status;
}
