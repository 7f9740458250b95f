#include "tools/perplexity_windows.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/memory.h"

/* Rows of a step have their logits at once: with the largest vocabularies 150 MiB. */
enum { STEP_ROWS = 256, BLOCK_TOKENS = 16 };

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint32_t perplexity_scored(uint32_t window)
{
    return window - window / 2 - 1;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int open_forward(struct perplexity_windows *windows, enum tensor_type cache_type,
                        struct failure *failure)
{
    char what[64];
    uint32_t rows = windows->window < STEP_ROWS ? windows->window : STEP_ROWS;
    struct forward_options options = {.rows_max = rows,
                                      .logits_max = rows,
                                      .cache_type = cache_type,
                                      .cache_blocks = windows->block_count,
                                      .block_tokens = BLOCK_TOKENS};
    snprintf(what, sizeof what, "activations and cache of a window of %u tokens", windows->window);
    int err = memory_check(forward_bytes(&windows->model->config, &options), what, failure);
    if (err < 0)
        return err;
    err = forward_open(&windows->forward, windows->model, windows->backend, &options);
    return err < 0 ? failure_set(failure, err, "no memory for %s", what) : 0;
}

static int open_lists(struct perplexity_windows *windows)
{
    uint32_t window = windows->window;
    windows->memory =
        calloc((size_t)window * 3 + windows->block_count + STEP_ROWS, sizeof *windows->memory);
    if (!windows->memory)
        return -ENOMEM;
    windows->ids = windows->memory;
    windows->positions = windows->ids + window;
    windows->sequences = windows->positions + window;
    windows->blocks = windows->sequences + window;
    windows->logit_rows = windows->blocks + windows->block_count;
    for (uint32_t i = 0; i < window; i++)
        windows->positions[i] = i;
    for (uint32_t i = 0; i < windows->block_count; i++)
        windows->blocks[i] = i;
    return 0;
}

int perplexity_windows_open(struct perplexity_windows *ret_windows, const struct model *model,
                            struct backend *backend, uint32_t window, enum tensor_type cache_type,
                            struct failure *failure)
{
    *ret_windows = (struct perplexity_windows){
        .model = model,
        .backend = backend,
        .window = window,
        .bos = PERPLEXITY_NO_BOS,
        .block_count = (window + BLOCK_TOKENS - 1) / BLOCK_TOKENS,
    };
    int err = open_lists(ret_windows);
    if (err < 0)
        return failure_set(failure, err, "no memory for a window of %u tokens", window);
    err = open_forward(ret_windows, cache_type, failure);
    if (err < 0)
        perplexity_windows_close(ret_windows);
    return err;
}

void perplexity_windows_close(struct perplexity_windows *windows)
{
    forward_close(windows->forward);
    free(windows->memory);
    windows->forward = NULL;
    windows->memory = NULL;
}

/* ---- one window ------------------------------------------------------------------------------ */

/* The rows from `from` on that foretell a token which is scored. */
static uint32_t list_logit_rows(struct perplexity_windows *windows, uint32_t from, uint32_t rows)
{
    uint32_t count = 0;
    for (uint32_t row = 0; row < rows; row++)
        if (from + row >= windows->window / 2)
            windows->logit_rows[count++] = row;
    return count;
}

static int score_rows(struct perplexity_windows *windows, const uint32_t *ids, uint32_t from,
                      const float *logits, uint32_t count)
{
    uint32_t vocab_rows = windows->model->config.vocab_rows;
    for (uint32_t i = 0; i < count; i++) {
        double surprise = perplexity_surprise(logits + (size_t)i * vocab_rows, vocab_rows,
                                              ids[from + windows->logit_rows[i] + 1]);
        if (!isfinite(surprise))
            return -EDOM;
        perplexity_add(&windows->score, surprise);
    }
    return 0;
}

static int run_step(struct perplexity_windows *windows, const uint32_t *ids, uint32_t from,
                    uint32_t rows)
{
    const struct batch batch = {.rows = rows,
                                .ids = windows->ids + from,
                                .positions = windows->positions + from,
                                .sequences = windows->sequences,
                                .sequence_count = 1,
                                .block_tables = windows->blocks,
                                .table_stride = windows->block_count};
    const float *logits = NULL;
    uint32_t count = list_logit_rows(windows, from, rows);
    uint64_t start_ns = now_ns();
    int err = forward_run(windows->forward, &batch, windows->logit_rows, count, &logits);
    if (err < 0)
        return err;
    windows->run_ns += now_ns() - start_ns;
    windows->tokens += rows;
    return score_rows(windows, ids, from, logits, count);
}

/* The last token is foretold and foretells nothing. */
int perplexity_windows_run(struct perplexity_windows *windows, const uint32_t *ids)
{
    uint32_t end = windows->window - 1;
    int err = 0;
    memcpy(windows->ids, ids, windows->window * sizeof *ids);
    if (windows->bos != PERPLEXITY_NO_BOS)
        windows->ids[0] = (uint32_t)windows->bos;
    for (uint32_t from = 0; from < end && err == 0; from += STEP_ROWS)
        err = run_step(windows, ids, from, end - from < STEP_ROWS ? end - from : STEP_ROWS);
    return err;
}
