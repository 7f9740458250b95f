#include "tests/support/fake_forward.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "model/forward.h"

static const struct backend_ops no_ops = {.host_memory = false};
struct backend fake_backend = {.ops = &no_ops};

struct forward {
    const struct model *model;
    struct forward_options options;
    uint32_t *cache; /* [cache_blocks, block_tokens] ids */
    bool *is_owned;  /* [cache_blocks] within one step */
    float *logits;   /* [logits_max, vocab_rows] */
};

int fake_forward_steps_left = -1;
uint64_t fake_forward_rows;

static uint64_t hash_step(uint64_t hash, uint32_t id)
{
    hash = (hash ^ id) * 0x9e3779b97f4a7c15u;
    return hash ^ (hash >> 29);
}

static void logits_of(const struct model_config *config, uint64_t hash, float *ret_logits)
{
    for (uint32_t id = 0; id < config->vocab_rows; id++) {
        uint64_t bits = hash_step(hash, id) * 0xbf58476d1ce4e5b9u;
        /* What is beyond the vocabulary would always win. */
        ret_logits[id] = id < config->vocab_size ? (float)(bits >> 44) / (1 << 18) : 1000;
    }
}

void fake_logits(const struct model_config *config, const uint32_t *ids, uint32_t count,
                 float *ret_logits)
{
    uint64_t hash = 1;
    for (uint32_t i = 0; i < count; i++)
        hash = hash_step(hash, ids[i]);
    logits_of(config, hash, ret_logits);
}

uint64_t forward_bytes(const struct model_config *config, const struct forward_options *options)
{
    (void)config;
    return (uint64_t)options->cache_blocks * options->block_tokens * sizeof(uint32_t);
}

int forward_open(struct forward **ret_forward, const struct model *model, struct backend *backend,
                 const struct forward_options *options)
{
    (void)backend;
    struct forward *forward = calloc(1, sizeof *forward);
    if (!forward)
        return -ENOMEM;
    *forward = (struct forward){
        .model = model,
        .options = *options,
        .cache = calloc((size_t)options->cache_blocks * options->block_tokens, sizeof(uint32_t)),
        .is_owned = calloc(options->cache_blocks, sizeof(bool)),
        .logits = calloc((size_t)options->logits_max * model->config.vocab_rows, sizeof(float)),
    };
    if (!forward->cache || !forward->is_owned || !forward->logits) {
        forward_close(forward);
        return -ENOMEM;
    }
    *ret_forward = forward;
    return 0;
}

void forward_close(struct forward *forward)
{
    if (!forward)
        return;
    free(forward->cache);
    free(forward->is_owned);
    free(forward->logits);
    free(forward);
}

static uint32_t *cell(struct forward *forward, const struct batch *batch, uint32_t sequence,
                      uint32_t position)
{
    uint32_t index = position / forward->options.block_tokens;
    assert(index < batch->table_stride);
    uint32_t block = batch->block_tables[(size_t)sequence * batch->table_stride + index];
    assert(block < forward->options.cache_blocks);
    return &forward->cache[(size_t)block * forward->options.block_tokens +
                           position % forward->options.block_tokens];
}

/* What backend.h promises to kernels: packed, ascending, without gaps, no block shared. */
static void check_batch(struct forward *forward, const struct batch *batch)
{
    assert(batch->rows > 0 && batch->rows <= forward->options.rows_max);
    memset(forward->is_owned, 0, forward->options.cache_blocks);
    for (uint32_t row = 0; row < batch->rows; row++) {
        uint32_t sequence = batch->sequences[row];
        assert(sequence < batch->sequence_count);
        assert(batch->ids[row] < forward->model->config.vocab_size);
        if (row > 0 && batch->sequences[row - 1] == sequence)
            assert(batch->positions[row] == batch->positions[row - 1] + 1);
        else
            assert(row == 0 || sequence > batch->sequences[row - 1]);
        bool is_last = row + 1 == batch->rows || batch->sequences[row + 1] != sequence;
        if (!is_last)
            continue;
        uint32_t blocks = batch->positions[row] / forward->options.block_tokens + 1;
        for (uint32_t i = 0; i < blocks; i++) {
            uint32_t block = batch->block_tables[(size_t)sequence * batch->table_stride + i];
            assert(!forward->is_owned[block]);
            forward->is_owned[block] = true;
        }
    }
}

int forward_run(struct forward *forward, const struct batch *batch, const uint32_t *logit_rows,
                uint32_t logit_count, const float **ret_logits)
{
    if (fake_forward_steps_left == 0)
        return -EIO;
    if (fake_forward_steps_left > 0)
        fake_forward_steps_left--;
    check_batch(forward, batch);
    fake_forward_rows += batch->rows;
    assert(logit_count <= forward->options.logits_max);

    for (uint32_t row = 0; row < batch->rows; row++)
        *cell(forward, batch, batch->sequences[row], batch->positions[row]) = batch->ids[row];
    for (uint32_t i = 0; i < logit_count; i++) {
        uint64_t hash = 1;
        for (uint32_t at = 0; at <= batch->positions[logit_rows[i]]; at++)
            hash = hash_step(hash, *cell(forward, batch, batch->sequences[logit_rows[i]], at));
        const struct model_config *config = &forward->model->config;
        logits_of(config, hash, forward->logits + (size_t)i * config->vocab_rows);
    }
    *ret_logits = forward->logits;
    return 0;
}
