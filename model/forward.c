#include "model/forward.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* The floats of one step, in the backend's memory. */
struct activations {
    float *residual; /* [rows, dim] */
    float *q;        /* [rows, heads * head_dim] */
    float *k;        /* [rows, kv_heads * head_dim] */
    float *v;        /* [rows, kv_heads * head_dim] */
    float *attended; /* [rows, heads * head_dim] */
    float *gate;     /* [rows, ffn_dim] */
    float *up;       /* [rows, ffn_dim] */
    float *cos_sin;  /* [rows, rotary_dims / 2, 2] */
    float *selected; /* [logits_max, dim] */
    float *logits;   /* [logits_max, vocab_rows] */
};

enum { ACTIVATIONS = sizeof(struct activations) / sizeof(float *) };

struct forward {
    const struct model *model;
    struct backend *backend;
    struct forward_options options;
    struct attention_shape shape;
    struct kv_cache *cache;

    struct activations device;
    uint64_t floats[ACTIVATIONS]; /* of each of them */
    float *memory;                /* behind them all */
    uint64_t memory_bytes;

    /* The host's side of two of them: the same memory where the backend's is the host's. */
    float *host_cos_sin;
    float *host_logits;
};

static void count_floats(const struct model_config *config, const struct forward_options *options,
                         uint64_t ret_floats[ACTIVATIONS])
{
    uint64_t rows = options->rows_max;
    uint64_t q_width = (uint64_t)config->heads * config->head_dim;
    uint64_t kv_width = (uint64_t)config->kv_heads * config->head_dim;
    uint64_t logits = options->logits_max;
    /* In the order of struct activations. */
    const uint64_t floats[ACTIVATIONS] = {
        rows * config->dim,     rows * q_width,
        rows * kv_width,        rows * kv_width,
        rows * q_width,         rows * config->ffn_dim,
        rows * config->ffn_dim, rows * config->rotary_dims,
        logits * config->dim,   logits * config->vocab_rows,
    };
    for (int i = 0; i < ACTIVATIONS; i++)
        ret_floats[i] = (floats[i] + 15) / 16 * 16; /* each begins on a cache line */
}

static uint64_t activation_bytes(const struct model_config *config,
                                 const struct forward_options *options)
{
    uint64_t floats[ACTIVATIONS];
    count_floats(config, options, floats);
    uint64_t bytes = 0;
    for (int i = 0; i < ACTIVATIONS; i++)
        if (__builtin_add_overflow(bytes, floats[i] * sizeof(float), &bytes))
            return UINT64_MAX;
    return bytes;
}

static struct kv_cache_options cache_options(const struct model_config *config,
                                             const struct forward_options *options)
{
    return (struct kv_cache_options){.type = options->cache_type,
                                     .layers = config->layers,
                                     .kv_heads = config->kv_heads,
                                     .head_dim = config->head_dim,
                                     .blocks = options->cache_blocks,
                                     .block_tokens = options->block_tokens};
}

uint64_t forward_bytes(const struct model_config *config, const struct forward_options *options)
{
    struct kv_cache_options cache = cache_options(config, options);
    uint64_t bytes;
    if (__builtin_add_overflow(kv_cache_bytes(&cache), activation_bytes(config, options), &bytes))
        return UINT64_MAX;
    return bytes;
}

/* Deals the memory out to the activations, one after the other. */
static void place_activations(struct forward *forward)
{
    struct activations *device = &forward->device;
    float **places[ACTIVATIONS] = {&device->residual, &device->q,     &device->k,  &device->v,
                                   &device->attended, &device->gate,  &device->up, &device->cos_sin,
                                   &device->selected, &device->logits};
    float *next = forward->memory;
    for (int i = 0; i < ACTIVATIONS; i++) {
        *places[i] = next;
        next += forward->floats[i];
    }
}

static int open_host_side(struct forward *forward)
{
    const struct model_config *config = &forward->model->config;
    if (forward->backend->ops->host_memory) {
        forward->host_cos_sin = forward->device.cos_sin;
        forward->host_logits = forward->device.logits;
        return 0;
    }
    forward->host_cos_sin =
        calloc((size_t)forward->options.rows_max * config->rotary_dims + 1, sizeof(float));
    forward->host_logits =
        calloc((size_t)forward->options.logits_max * config->vocab_rows, sizeof(float));
    return forward->host_cos_sin && forward->host_logits ? 0 : -ENOMEM;
}

static int open_activations(struct forward *forward)
{
    struct backend *backend = forward->backend;
    const struct model_config *config = &forward->model->config;
    count_floats(config, &forward->options, forward->floats);
    forward->memory_bytes = activation_bytes(config, &forward->options);
    void *memory;
    int err = backend->ops->alloc(backend, forward->memory_bytes, &memory);
    if (err < 0)
        return err;
    forward->memory = memory;
    place_activations(forward);
    return open_host_side(forward);
}

int forward_open(struct forward **ret_forward, const struct model *model, struct backend *backend,
                 const struct forward_options *options)
{
    const struct model_config *config = &model->config;
    if (!model->layers || !options->rows_max || !options->logits_max)
        return -EINVAL;
    struct forward *forward = calloc(1, sizeof *forward);
    if (!forward)
        return -ENOMEM;
    forward->model = model;
    forward->backend = backend;
    forward->options = *options;
    forward->shape =
        (struct attention_shape){.heads = config->heads,
                                 .kv_heads = config->kv_heads,
                                 .head_dim = config->head_dim,
                                 .rotary_dims = config->rotary_dims,
                                 .rotary = config->rotary,
                                 .scale = (float)(1.0 / sqrt((double)config->head_dim))};
    struct kv_cache_options cache = cache_options(config, options);
    int err = backend->ops->cache_open(backend, &cache, &forward->cache);
    if (err < 0)
        goto close;
    err = open_activations(forward);
    if (err < 0)
        goto close;
    *ret_forward = forward;
    return 0;

close:
    forward_close(forward);
    return err;
}

void forward_close(struct forward *forward)
{
    if (!forward)
        return;
    struct backend *backend = forward->backend;
    if (!backend->ops->host_memory) {
        free(forward->host_cos_sin);
        free(forward->host_logits);
    }
    if (forward->memory)
        backend->ops->free(backend, forward->memory, forward->memory_bytes);
    backend->ops->cache_close(backend, forward->cache);
    free(forward);
}

struct kv_cache *forward_cache(struct forward *forward)
{
    return forward->cache;
}

/* The angles of every row, once for all layers; in double, since position * frequency grows large.
 */
static int prepare_rotary(struct forward *forward, const struct batch *batch)
{
    const struct model_config *config = &forward->model->config;
    uint32_t pairs = config->rotary_dims / 2;
    double factor = config->rope_attention_factor;
    float *next = forward->host_cos_sin;
    for (uint32_t row = 0; row < batch->rows; row++) {
        for (uint32_t i = 0; i < pairs; i++) {
            double angle =
                (double)batch->positions[row] * (double)forward->model->rotary_frequencies[i];
            *next++ = (float)(cos(angle) * factor);
            *next++ = (float)(sin(angle) * factor);
        }
    }
    if (forward->host_cos_sin == forward->device.cos_sin)
        return 0;
    return forward->backend->ops->upload(forward->backend, forward->device.cos_sin,
                                         forward->host_cos_sin,
                                         (uint64_t)batch->rows * pairs * 2 * sizeof(float));
}

static struct rms_norm norm_of(const struct forward *forward, struct tensor weight)
{
    return (struct rms_norm){.weight = weight, .eps = forward->model->config.norm_eps};
}

/* residual += post_norm(attention(norm(residual)) * o) */
static int run_attention(struct forward *forward, const struct batch *batch, uint32_t index)
{
    struct backend *backend = forward->backend;
    const struct backend_ops *ops = backend->ops;
    const struct model_layer *layer = &forward->model->layers[index];
    const struct activations *a = &forward->device;
    const struct rms_norm norm = norm_of(forward, layer->attention_norm);
    const struct rms_norm post_norm = norm_of(forward, layer->attention_post_norm);
    const struct linear_output qkv[] = {{layer->q, layer->q_bias, a->q},
                                        {layer->k, layer->k_bias, a->k},
                                        {layer->v, layer->v_bias, a->v}};

    int err =
        ops->linear(backend, a->residual, batch->rows, forward->model->config.dim, &norm, qkv, 3);
    if (err == 0)
        err = ops->rotary_store(backend, &forward->shape, batch, a->cos_sin, a->q, a->k, a->v,
                                forward->cache, index);
    if (err == 0)
        err = ops->attention(backend, &forward->shape, batch, a->q, forward->cache, index,
                             a->attended);
    if (err == 0)
        err = ops->linear_add(backend, a->attended, batch->rows, &layer->o, NULL, &post_norm,
                              a->residual);
    return err;
}

/* residual += post_norm((silu(norm(residual) * gate) * (norm(residual) * up)) * down) */
static int run_ffn(struct forward *forward, uint32_t rows, uint32_t index)
{
    struct backend *backend = forward->backend;
    const struct backend_ops *ops = backend->ops;
    const struct model_layer *layer = &forward->model->layers[index];
    const struct model_config *config = &forward->model->config;
    const struct activations *a = &forward->device;
    const struct rms_norm norm = norm_of(forward, layer->ffn_norm);
    const struct rms_norm post_norm = norm_of(forward, layer->ffn_post_norm);
    int err = ops->linear_gated(backend, a->residual, rows, config->dim, &norm, &layer->gate,
                                &layer->up, a->gate, a->up);
    if (err == 0)
        err = ops->linear_add(backend, a->gate, rows, &layer->down, NULL, &post_norm, a->residual);
    return err;
}

/* The final norm and the head, for the rows that want them. */
static int run_head(struct forward *forward, const uint32_t *logit_rows, uint32_t logit_count)
{
    struct backend *backend = forward->backend;
    const struct backend_ops *ops = backend->ops;
    const struct model_config *config = &forward->model->config;
    const struct activations *a = &forward->device;
    const struct rms_norm norm = norm_of(forward, forward->model->final_norm);
    const struct linear_output head = {.weight = forward->model->head, .out = a->logits};

    int err =
        ops->select_rows(backend, a->residual, logit_rows, logit_count, config->dim, a->selected);
    if (err == 0)
        err = ops->linear(backend, a->selected, logit_count, config->dim, &norm, &head, 1);
    if (err < 0 || forward->host_logits == a->logits)
        return err;
    return ops->download(backend, forward->host_logits, a->logits,
                         (uint64_t)logit_count * config->vocab_rows * sizeof(float));
}

static int queue_layers(struct forward *forward, const struct batch *batch,
                        const uint32_t *logit_rows, uint32_t logit_count)
{
    struct backend *backend = forward->backend;
    int err =
        backend->ops->embed(backend, &forward->model->embedding, batch, forward->device.residual);
    for (uint32_t i = 0; i < forward->model->config.layers && err == 0; i++) {
        err = run_attention(forward, batch, i);
        if (err == 0)
            err = run_ffn(forward, batch->rows, i);
    }
    if (err == 0 && logit_count)
        err = run_head(forward, logit_rows, logit_count);
    return err;
}

int forward_run(struct forward *forward, const struct batch *batch, const uint32_t *logit_rows,
                uint32_t logit_count, const float **ret_logits)
{
    struct backend *backend = forward->backend;
    assert(batch->rows <= forward->options.rows_max);
    assert(logit_count <= forward->options.logits_max);

    int err = prepare_rotary(forward, batch);
    if (err == 0)
        err = backend->ops->begin(backend);
    if (err < 0)
        return err;
    err = queue_layers(forward, batch, logit_rows, logit_count);
    int end_err = backend->ops->end(backend);
    err = err == 0 ? end_err : err;
    if (err == 0)
        *ret_logits = forward->host_logits;
    return err;
}
