#include "tools/bench_kernels_rows.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_synthetic.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

enum { NORM_OUTPUTS = PACKED_STRIP, LINE_FLOATS = 16, COPIES_SHARE = 4 };

const char *kernel_name(enum kernel kernel)
{
    static const char *const names[] = {
        "q, k, v",          "o",          "gate, up",    "down",          "head",     "embed",
        "norm, 16 outputs", "gated silu", "select rows", "rotary, store", "attention"};
    return names[kernel];
}

/* ---- activations ----------------------------------------------------------------------------- */

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t rows_max(const struct kernels *kernels)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < kernels->options->rows.count; i++)
        most = larger(most, kernels->options->rows.values[i]);
    return most;
}

static uint32_t head_rows_max(const struct kernels *kernels)
{
    uint32_t rows = rows_max(kernels);
    return rows < KERNELS_HEAD_ROWS_MOST ? rows : KERNELS_HEAD_ROWS_MOST;
}

/* Floats of activations as wide as any, in whole cache lines. */
static uint64_t widest_floats(const struct kernels *kernels)
{
    const struct model_config *config = &kernels->options->config;
    uint32_t width = larger(larger(config->dim, config->ffn_dim), config->heads * config->head_dim);
    return ((uint64_t)width * rows_max(kernels) + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
}

/* The first output has room for the head's. */
static uint64_t output_floats(const struct kernels *kernels)
{
    uint64_t logits = (uint64_t)kernels->options->config.vocab_rows * head_rows_max(kernels);
    uint64_t widest = widest_floats(kernels);
    logits = (logits + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
    return logits > widest ? logits : widest;
}

static uint64_t activation_bytes(const struct kernels *kernels)
{
    const struct model_config *config = &kernels->options->config;
    uint64_t floats = 5 * widest_floats(kernels) + output_floats(kernels) +
                      (uint64_t)config->rotary_dims * rows_max(kernels) +
                      (uint64_t)(1 + NORM_OUTPUTS) * config->dim;
    return floats * sizeof(float);
}

/* In waves. A gate and its up are such that silu(gate) * up is the gate again, and negative, so
 * that it stays there: nothing that is done a million times ends in numbers of another kind. */
static void fill_activations(struct kernels *kernels)
{
    uint64_t count = widest_floats(kernels);
    for (uint64_t i = 0; i < count; i++) {
        float wave = sinf((float)(i * 37 % 1009));
        kernels->in[i] = wave;
        kernels->gate[i] = -fabsf(wave) - 0.125f;
        kernels->up[i] = 1 + expf(-kernels->gate[i]);
    }
    for (int i = 0; i < 3; i++)
        memcpy(kernels->out[i], kernels->in, count * sizeof(float));
    uint64_t angles = (uint64_t)kernels->options->config.rotary_dims * rows_max(kernels);
    for (uint64_t i = 0; i < angles; i++)
        kernels->cos_sin[i] = i % 2 == 0;
}

static int open_activations(struct kernels *kernels)
{
    const struct model_config *config = &kernels->options->config;
    uint64_t widest = widest_floats(kernels), bytes = activation_bytes(kernels);
    int status = stand_check_memory(bytes, "--rows: the activations");
    if (status)
        return status;
    if (kernels->backend->ops->alloc(kernels->backend, bytes, &kernels->memory) < 0)
        return cli_fail("--rows: no memory for the activations");
    kernels->memory_bytes = bytes;
    memset(kernels->memory, 0, bytes);
    kernels->in = kernels->memory;
    kernels->gate = kernels->in + widest;
    kernels->up = kernels->gate + widest;
    kernels->out[1] = kernels->up + widest;
    kernels->out[2] = kernels->out[1] + widest;
    kernels->out[0] = kernels->out[2] + widest;
    float *norm = kernels->out[0] + output_floats(kernels);
    kernels->cos_sin = norm + (size_t)(1 + NORM_OUTPUTS) * config->dim;
    for (size_t i = 0; i < (size_t)(1 + NORM_OUTPUTS) * config->dim; i++)
        norm[i] = 1;
    kernels->norm =
        (struct tensor){.data = norm, .type = TENSOR_F32, .rows = 1, .cols = config->dim};
    fill_activations(kernels);
    return 0;
}

/* ---- the cache ------------------------------------------------------------------------------- */

static int open_cache(struct kernels *kernels)
{
    const struct model_config *config = &kernels->options->config;
    const struct bench_list *contexts = &kernels->options->contexts;
    uint32_t rows = rows_max(kernels), positions = rows;
    uint32_t sequences = rows < KERNELS_SEQUENCES_MOST ? rows : KERNELS_SEQUENCES_MOST;
    for (uint32_t i = 0; i < contexts->count; i++)
        if (contexts->values[i] < config->context_tokens)
            positions = larger(positions, contexts->values[i] + rows);
    uint32_t blocks = (positions + STAND_BLOCK_TOKENS - 1) / STAND_BLOCK_TOKENS;
    struct kv_cache_options options = {.type = kernels->options->cache_type,
                                       .layers = config->layers,
                                       .kv_heads = config->kv_heads,
                                       .head_dim = config->head_dim,
                                       .blocks = sequences * blocks,
                                       .block_tokens = STAND_BLOCK_TOKENS};
    int status = stand_check_memory(kv_cache_bytes(&options), "--context, --rows: the cache");
    if (status)
        return status;
    int err = tokens_init(&kernels->tokens, rows, sequences, blocks, config->vocab_rows);
    if (err == 0)
        err = kernels->backend->ops->cache_open(kernels->backend, &options, &kernels->cache);
    if (err == 0)
        err = stand_fill_cache(kernels->backend, kernels->cache, config, sequences, blocks,
                               positions);
    if (err == -ECANCELED)
        return bench_stop_status();
    return err < 0 ? cli_fail("--context, --rows: the cache: %s", strerror(-err)) : 0;
}

int kernels_init(struct kernels *kernels)
{
    int status = open_activations(kernels);
    return status ? status : open_cache(kernels);
}

void kernels_fini(struct kernels *kernels)
{
    kernels_close_matrices(kernels);
    if (kernels->memory)
        kernels->backend->ops->free(kernels->backend, kernels->memory, kernels->memory_bytes);
    if (kernels->cache)
        kernels->backend->ops->cache_close(kernels->backend, kernels->cache);
    tokens_fini(&kernels->tokens);
}

/* ---- matrices -------------------------------------------------------------------------------- */

static void add_matrix(struct matrices *matrices, enum tensor_type type, uint32_t rows,
                       uint32_t cols)
{
    struct tensor tensor = {.type = type, .rows = rows, .cols = cols};
    matrices->tensors[matrices->count++] = tensor;
    matrices->bytes += (tensor_bytes(&tensor) + 63) / 64 * 64;
}

static struct matrices matrices_of(const struct model_config *config, enum kernel kernel,
                                   enum tensor_type type)
{
    struct matrices matrices = {.count = 0};
    uint32_t q_rows = config->heads * config->head_dim;
    uint32_t kv_rows = config->kv_heads * config->head_dim;
    switch (kernel) {
    case KERNEL_QKV:
        add_matrix(&matrices, type, q_rows, config->dim);
        add_matrix(&matrices, type, kv_rows, config->dim);
        add_matrix(&matrices, type, kv_rows, config->dim);
        break;
    case KERNEL_O:
        add_matrix(&matrices, type, config->dim, q_rows);
        break;
    case KERNEL_GATE_UP:
        add_matrix(&matrices, type, config->ffn_dim, config->dim);
        add_matrix(&matrices, type, config->ffn_dim, config->dim);
        break;
    case KERNEL_DOWN:
        add_matrix(&matrices, type, config->dim, config->ffn_dim);
        break;
    default:
        add_matrix(&matrices, type, config->vocab_rows, config->dim);
    }
    return matrices;
}

/* The first copy is drawn, the others are copied from it. */
static int fill_matrices(struct kernels *kernels)
{
    struct matrices *matrices = &kernels->matrices;
    char *next = matrices->memory;
    for (uint32_t i = 0; i < matrices->count; i++) {
        int err = model_synthetic_fill(&matrices->tensors[i], next, i + 1, kernels->backend,
                                       bench_stop_flag());
        if (err < 0)
            return err;
        next += (tensor_bytes(&matrices->tensors[i]) + 63) / 64 * 64;
    }
    for (uint32_t copy = 1; copy < matrices->copies; copy++)
        memcpy((char *)matrices->memory + copy * matrices->bytes, matrices->memory,
               matrices->bytes);
    return 0;
}

int kernels_open_matrices(struct kernels *kernels, enum kernel kernel, enum tensor_type type)
{
    struct matrices *matrices = &kernels->matrices;
    *matrices = matrices_of(&kernels->options->config, kernel, type);
    uint64_t wanted = kernels->options->buffer_bytes / COPIES_SHARE;
    uint32_t copies = (uint32_t)((wanted + matrices->bytes - 1) / matrices->bytes);
    uint64_t bytes = copies * matrices->bytes;
    int status = stand_check_memory(bytes, "--shape, --quant: the matrices");
    if (status)
        return status;
    if (kernels->backend->ops->alloc(kernels->backend, bytes, &matrices->memory) < 0)
        return cli_fail("--shape, --quant: no memory for the matrices");
    matrices->copies = copies;
    int err = fill_matrices(kernels);
    if (err == -ECANCELED)
        return bench_stop_status();
    return err < 0 ? cli_fail("--quant: %s", strerror(-err)) : 0;
}

void kernels_close_matrices(struct kernels *kernels)
{
    struct matrices *matrices = &kernels->matrices;
    if (matrices->copies)
        kernels->backend->ops->free(kernels->backend, matrices->memory,
                                    matrices->copies * matrices->bytes);
    *matrices = (struct matrices){.count = 0};
}

/* A matrix of the copy at hand. */
static struct tensor matrix(const struct kernels *kernels, uint32_t index)
{
    struct tensor tensor = kernels->matrices.tensors[index];
    tensor.data = (const char *)tensor.data + kernels->matrices.next * kernels->matrices.bytes;
    return tensor;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int step_linear(struct kernels *kernels, const struct kernel_row *row)
{
    const struct rms_norm norm = {.weight = kernels->norm, .eps = 1e-5f};
    struct linear_output outputs[3];
    for (uint32_t i = 0; i < kernels->matrices.count; i++)
        outputs[i] = (struct linear_output){.weight = matrix(kernels, i), .out = kernels->out[i]};
    return kernels->backend->ops->linear(kernels->backend, kernels->in, row->rows,
                                         kernels->options->config.dim, &norm, outputs,
                                         kernels->matrices.count);
}

static int step_linear_add(struct kernels *kernels, const struct kernel_row *row)
{
    struct tensor weight = matrix(kernels, 0);
    return kernels->backend->ops->linear_add(kernels->backend, kernels->in, row->rows, &weight,
                                             NULL, NULL, kernels->out[0]);
}

static int step_norm(struct kernels *kernels, const struct kernel_row *row)
{
    const struct rms_norm norm = {.weight = kernels->norm, .eps = 1e-5f};
    struct linear_output output = {.weight = kernels->norm, .out = kernels->out[0]};
    output.weight.data = (const float *)kernels->norm.data + kernels->norm.cols;
    output.weight.rows = NORM_OUTPUTS;
    return kernels->backend->ops->linear(kernels->backend, kernels->in, row->rows,
                                         kernels->norm.cols, &norm, &output, 1);
}

static int step_embed(struct kernels *kernels, const struct kernel_row *row)
{
    struct batch batch = tokens_batch(&kernels->tokens, &row->step);
    struct tensor table = matrix(kernels, 0);
    return kernels->backend->ops->embed(kernels->backend, &table, &batch, kernels->out[1]);
}

static int step_select_rows(struct kernels *kernels, const struct kernel_row *row)
{
    struct batch batch = tokens_batch(&kernels->tokens, &row->step);
    (void)batch;
    for (uint32_t i = 0; i < row->rows; i++)
        kernels->tokens.logit_rows[i] = row->rows - 1 - i;
    return kernels->backend->ops->select_rows(kernels->backend, kernels->in,
                                              kernels->tokens.logit_rows, row->rows,
                                              kernels->options->config.dim, kernels->out[1]);
}

/* Keys and values are the first columns of the inputs: as good as any. */
static int step_rotary_store(struct kernels *kernels, const struct kernel_row *row)
{
    struct attention_shape shape = stand_attention_shape(&kernels->options->config);
    struct batch batch = tokens_batch(&kernels->tokens, &row->step);
    return kernels->backend->ops->rotary_store(kernels->backend, &shape, &batch, kernels->cos_sin,
                                               kernels->out[2], kernels->in, kernels->in,
                                               kernels->cache, kernels->layer);
}

static int step_attention(struct kernels *kernels, const struct kernel_row *row)
{
    struct attention_shape shape = stand_attention_shape(&kernels->options->config);
    struct batch batch = tokens_batch(&kernels->tokens, &row->step);
    return kernels->backend->ops->attention(kernels->backend, &shape, &batch, kernels->in,
                                            kernels->cache, kernels->layer, kernels->out[1]);
}

static int step_gated_silu(struct kernels *kernels, const struct kernel_row *row)
{
    return kernels->backend->ops->gated_silu(kernels->backend, kernels->gate, kernels->up,
                                             row->rows, kernels->options->config.ffn_dim);
}

/* Once, and on to the next copy and layer. */
static int run_step(void *context)
{
    static int (*const steps[])(struct kernels *, const struct kernel_row *) = {
        [KERNEL_QKV] = step_linear,
        [KERNEL_O] = step_linear_add,
        [KERNEL_GATE_UP] = step_linear,
        [KERNEL_DOWN] = step_linear_add,
        [KERNEL_HEAD] = step_linear,
        [KERNEL_EMBED] = step_embed,
        [KERNEL_NORM] = step_norm,
        [KERNEL_GATED_SILU] = step_gated_silu,
        [KERNEL_SELECT_ROWS] = step_select_rows,
        [KERNEL_ROTARY_STORE] = step_rotary_store,
        [KERNEL_ATTENTION] = step_attention,
    };
    const struct kernel_row *row = context;
    struct kernels *kernels = row->kernels;
    int err = steps[row->kernel](kernels, row);
    kernels->layer = (kernels->layer + 1) % kernels->options->config.layers;
    if (kernels->matrices.copies)
        kernels->matrices.next = (kernels->matrices.next + 1) % kernels->matrices.copies;
    return err;
}

/* ---- what a step moves and multiplies -------------------------------------------------------- */

static void count_matrices(const struct kernel_row *row, struct rate_row *rate)
{
    const struct matrices *matrices = &row->kernels->matrices;
    for (uint32_t i = 0; i < matrices->count; i++) {
        const struct tensor *tensor = &matrices->tensors[i];
        rate->bytes += (double)tensor_bytes(tensor);
        rate->macs += (double)row->rows * tensor->rows * tensor->cols;
    }
    rate->peak = stand_peak(row->kernels->limits, row->type, row->rows);
}

/* Bytes of activations, and of the table's rows. */
static double moved_bytes(const struct kernel_row *row)
{
    const struct model_config *config = &row->kernels->options->config;
    uint32_t q_width = config->heads * config->head_dim;
    uint32_t kv_width = config->kv_heads * config->head_dim;
    const double rows = row->rows, real = sizeof(float);
    const struct tensor *table = &row->kernels->matrices.tensors[0];
    switch (row->kernel) {
    case KERNEL_EMBED:
        return rows * (config->dim * real + (double)tensor_bytes(table) / table->rows);
    case KERNEL_NORM:
        return rows * (config->dim + NORM_OUTPUTS) * real;
    case KERNEL_GATED_SILU:
        return rows * 3 * config->ffn_dim * real;
    case KERNEL_SELECT_ROWS:
        return rows * 2 * config->dim * real;
    default: /* KERNEL_ROTARY_STORE */
        return rows *
               (2 * (q_width + kv_width) * real +
                2.0 * kv_width * (double)tensor_type_bytes(row->kernels->options->cache_type));
    }
}

static void name_row(const struct kernel_row *row, struct rate_row *rate)
{
    const char *name = kernel_name(row->kernel);
    const char *plural = row->rows == 1 ? "" : "s";
    if (row->kernel <= KERNEL_EMBED)
        snprintf(rate->name, sizeof rate->name, "%s, %s, %u row%s", name,
                 tensor_type_name(row->type), row->rows, plural);
    else if (row->kernel == KERNEL_ATTENTION)
        snprintf(rate->name, sizeof rate->name, "%s, %u x %u, context %u", name,
                 row->step.sequences, row->step.rows, row->step.context);
    else
        snprintf(rate->name, sizeof rate->name, "%s, %u row%s", name, row->rows, plural);
}

struct rate_row kernel_rate(struct kernel_row *row)
{
    const struct load_options *options = row->kernels->options;
    struct rate_row rate = {.step = run_step, .context = row, .peak = LIMIT_F32};
    name_row(row, &rate);
    if (row->kernel < KERNEL_MATRICES)
        count_matrices(row, &rate);
    else if (row->kernel == KERNEL_ATTENTION) {
        rate.bytes = (double)step_cache_bytes(&options->config, options->cache_type, 1, &row->step);
        rate.macs = step_attention_macs(&options->config, 1, &row->step);
    } else
        rate.bytes = moved_bytes(row);
    return rate;
}
