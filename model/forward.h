/*
 * The model's mathematics: one batch through every layer, written as calls into backend.h.
 */
#ifndef AGL_MODEL_FORWARD_H
#define AGL_MODEL_FORWARD_H

#include "kernels/backend.h"
#include "model/model.h"

struct forward;

struct forward_options {
    uint32_t rows_max;   /* tokens a step at the most */
    uint32_t logits_max; /* rows with logits at the most */
    enum tensor_type cache_type;
    uint32_t cache_blocks;
    uint32_t block_tokens;
};

/* The memory that activations and cache will take, for messages and refusals. */
uint64_t forward_bytes(const struct model_config *config, const struct forward_options *options);

/* Allocates activations and cache. The model and the backend must outlive it. Not for echo. */
int forward_open(struct forward **ret_forward, const struct model *model, struct backend *backend,
                 const struct forward_options *options);

/* NULL does nothing. */
void forward_close(struct forward *forward);

/* Its cache, which stays its own: for measurements, which fill it without computing. */
struct kv_cache *forward_cache(struct forward *forward);

/* Runs one batch; its keys and values are in the cache afterwards. For each of the `logit_count`
 * rows named by logit_rows the logits over the whole vocabulary are computed, and *ret_logits [
 * logit_count, vocab_rows] points to them until the next call. Engine thread; does not allocate. */
int forward_run(struct forward *forward, const struct batch *batch, const uint32_t *logit_rows,
                uint32_t logit_count, const float **ret_logits);

#endif
