/*
 * A model run over windows of a text in this process, without a daemon: each window begins with an
 * empty cache, and of its tokens those of the second half are scored.
 */
#ifndef AGL_TOOLS_PERPLEXITY_WINDOWS_H
#define AGL_TOOLS_PERPLEXITY_WINDOWS_H

#include <stdint.h>

#include "model/failure.h"
#include "model/forward.h"
#include "model/model.h"
#include "tools/perplexity_score.h"

enum { PERPLEXITY_WINDOW_MIN = 4, PERPLEXITY_NO_BOS = -1 };

struct perplexity_windows {
    const struct model *model;
    struct backend *backend;
    struct forward *forward;
    uint32_t window; /* tokens */
    int64_t bos;     /* stands in place of each window's first token; PERPLEXITY_NO_BOS: it stays */
    uint32_t *memory;
    uint32_t *ids;        /* [window] */
    uint32_t *positions;  /* [window]: 0, 1, ... */
    uint32_t *sequences;  /* [window]: all 0 */
    uint32_t *blocks;     /* [blocks of the window]: 0, 1, ... */
    uint32_t *logit_rows; /* [rows of a step] */
    uint32_t block_count;

    struct perplexity_score score;
    uint64_t tokens; /* that went through the model */
    uint64_t run_ns; /* what the model took for them */
};

/* The model, of at least `window` tokens of context, and the backend must outlive it. -ENOMEM with
 * the figures. */
int perplexity_windows_open(struct perplexity_windows *ret_windows, const struct model *model,
                            struct backend *backend, uint32_t window, enum tensor_type cache_type,
                            struct failure *failure);

void perplexity_windows_close(struct perplexity_windows *windows);

/* The tokens of a window that are scored: from half + 1 to the end, each by what stands before it,
 * which is half of the window at the least. */
uint32_t perplexity_scored(uint32_t window);

/* Scores one window. ids: [window], each a row of the model's head. -EDOM: a surprise is not
 * finite; the backend's errors. */
int perplexity_windows_run(struct perplexity_windows *windows, const uint32_t *ids);

#endif
