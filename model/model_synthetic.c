#include "model/model_synthetic.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/half.h"
#include "model/model_rope.h"
#include "model/weights.h"

enum {
    ALIGNMENT = 64,
    /* Of factors, which are drawn from 8 to 23: a scale is given for the middle of them. */
    FACTOR_LEAST = 8,
    FACTOR_COUNT = 16,
    FACTOR_MIDDLE = 16,
};

/* ---- what is drawn --------------------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood 2014): a counter well stirred. */
static uint64_t stir(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

/* Weights are even in [-bound, bound], which has variance 1 / cols. */
static float bound_of(const struct tensor *tensor)
{
    return sqrtf(3.0f / (float)tensor->cols);
}

struct drawing {
    const struct tensor *tensor;
    uint64_t seed;
    float bound;
    const atomic_bool *cancel;
};

/* relaxed: whoever sees it late draws in vain, no more. */
static bool is_cancelled(const atomic_bool *cancel)
{
    return cancel && atomic_load_explicit(cancel, memory_order_relaxed);
}

static int8_t draw_factor(uint64_t *state)
{
    *state = stir(*state);
    return (int8_t)(FACTOR_LEAST + *state % FACTOR_COUNT);
}

/* Scale and min with which the numbers of a type span [-bound, bound]. */
static void scale_group(enum tensor_type type, float bound, uint64_t *state,
                        struct quant_group *group)
{
    float steps = packed_bits(type) == 4 ? 15 : 127;
    float scale = 2 * bound / steps, min = -bound;
    if (type == TENSOR_Q8)
        scale = bound / 127;
    if (type == TENSOR_Q8_HALVES)
        scale = bound / 32;
    if (packed_has_factors(type)) {
        scale /= FACTOR_MIDDLE;
        min /= FACTOR_MIDDLE;
        group->factors[0] = draw_factor(state);
        group->factors[1] = type == TENSOR_Q8_HALVES ? draw_factor(state) : group->factors[0];
    }
    group->scale = half_from_float(scale);
    group->min = packed_has_min(type) ? half_from_float(min) : 0;
}

/* The numbers that a type has: 8 bits but no 0 for Q8, 6 for the halves, as files have them. */
static void draw_numbers(enum tensor_type type, uint64_t *state, uint8_t numbers[PACKED_GROUP])
{
    uint64_t mask = type == TENSOR_Q8 ? 0xFF : type == TENSOR_Q8_HALVES ? 0x3F : 0x7F;
    mask = (packed_bits(type) == 4 ? 0x0F : mask) * UINT64_C(0x0101010101010101);
    for (int i = 0; i < PACKED_GROUP; i += 8) {
        *state = stir(*state);
        uint64_t eight = *state & mask;
        memcpy(numbers + i, &eight, sizeof eight);
    }
    for (int i = 0; type == TENSOR_Q8 && i < PACKED_GROUP; i++)
        numbers[i] += numbers[i] == 0;
}

static int draw_groups(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                       struct quant_group *ret_groups)
{
    const struct drawing *drawing = context;
    enum tensor_type type = drawing->tensor->type;
    if (is_cancelled(drawing->cancel))
        return -ECANCELED;
    for (uint32_t g = 0; g < count; g++) {
        uint64_t state = drawing->seed ^ stir((uint64_t)row << 32 | (first_group + g));
        scale_group(type, drawing->bound, &state, &ret_groups[g]);
        draw_numbers(type, &state, ret_groups[g].numbers);
    }
    return 0;
}

static void draw_row(const struct drawing *drawing, uint32_t row, void *to)
{
    enum tensor_type type = drawing->tensor->type;
    uint64_t state = drawing->seed ^ stir((uint64_t)row << 32);
    for (size_t i = 0; i < drawing->tensor->cols; i++) {
        state = stir(state);
        float value = ((float)(state >> 40) / (float)(1 << 23) - 1) * drawing->bound;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint16_t half = type == TENSOR_F16 ? half_from_float(value) : (uint16_t)(bits >> 16);
        if (type == TENSOR_F32)
            memcpy((char *)to + i * sizeof value, &value, sizeof value);
        else
            memcpy((char *)to + i * sizeof half, &half, sizeof half);
    }
}

static int draw_rows(const struct drawing *drawing, char *memory, struct backend *backend)
{
    const struct tensor *tensor = drawing->tensor;
    size_t row_bytes = tensor->cols * tensor_type_bytes(tensor->type);
    void *row = malloc(row_bytes + 1);
    int err = row ? 0 : -ENOMEM;
    for (uint32_t r = 0; r < tensor->rows && err == 0; r++) {
        if (is_cancelled(drawing->cancel)) {
            err = -ECANCELED;
            break;
        }
        draw_row(drawing, r, row);
        err = backend->ops->upload(backend, memory + r * row_bytes, row, row_bytes);
    }
    free(row);
    return err;
}

int model_synthetic_fill(struct tensor *tensor, void *memory, uint64_t seed,
                         struct backend *backend, const atomic_bool *cancel)
{
    struct drawing drawing = {
        .tensor = tensor, .seed = stir(seed), .bound = bound_of(tensor), .cancel = cancel};
    int err = tensor_type_is_packed(tensor->type)
                  ? backend->ops->pack(backend, tensor, memory, draw_groups, &drawing)
                  : draw_rows(&drawing, memory, backend);
    if (err == 0)
        tensor->data = memory;
    return err;
}

/* ---- where it goes --------------------------------------------------------------------------- */

enum { TENSORS_OF_A_LAYER = 14 };

/* Sets what a tensor is, and adds it to the list. Rows 0: it is absent. */
struct list {
    struct tensor *tensors[TENSORS_OF_A_LAYER];
    size_t count;
};

static void list_tensor(struct list *list, struct tensor *tensor, enum tensor_type type,
                        uint32_t rows, uint32_t cols)
{
    *tensor = (struct tensor){.type = type, .rows = rows, .cols = cols};
    if (rows)
        list->tensors[list->count++] = tensor;
}

static struct list list_layer(struct model_layer *layer, const struct model_config *config,
                              enum tensor_type type)
{
    struct list list = {.count = 0};
    uint32_t q_rows = config->heads * config->head_dim;
    uint32_t kv_rows = config->kv_heads * config->head_dim;
    uint32_t biases = config->qkv_bias, sandwich = config->sandwich_norms;
    list_tensor(&list, &layer->attention_norm, TENSOR_F32, 1, config->dim);
    list_tensor(&list, &layer->q, type, q_rows, config->dim);
    list_tensor(&list, &layer->k, type, kv_rows, config->dim);
    list_tensor(&list, &layer->v, type, kv_rows, config->dim);
    list_tensor(&list, &layer->q_bias, TENSOR_F32, biases, q_rows);
    list_tensor(&list, &layer->k_bias, TENSOR_F32, biases, kv_rows);
    list_tensor(&list, &layer->v_bias, TENSOR_F32, biases, kv_rows);
    list_tensor(&list, &layer->o, type, config->dim, q_rows);
    list_tensor(&list, &layer->attention_post_norm, TENSOR_F32, sandwich, config->dim);
    list_tensor(&list, &layer->ffn_norm, TENSOR_F32, 1, config->dim);
    list_tensor(&list, &layer->gate, type, config->ffn_dim, config->dim);
    list_tensor(&list, &layer->up, type, config->ffn_dim, config->dim);
    list_tensor(&list, &layer->down, type, config->dim, config->ffn_dim);
    list_tensor(&list, &layer->ffn_post_norm, TENSOR_F32, sandwich, config->dim);
    return list;
}

/* The embedding comes first. */
static struct list list_outside(struct model *model, const struct model_config *config,
                                const struct model_synthetic_options *options)
{
    struct list list = {.count = 0};
    list_tensor(&list, &model->embedding, config->tied_head ? options->head_type : options->type,
                config->vocab_rows, config->dim);
    list_tensor(&list, &model->final_norm, TENSOR_F32, 1, config->dim);
    if (!config->tied_head)
        list_tensor(&list, &model->head, options->head_type, config->vocab_rows, config->dim);
    return list;
}

static uint64_t place_bytes(const struct tensor *tensor)
{
    return ((uint64_t)tensor_bytes(tensor) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint64_t list_bytes(const struct list *list)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < list->count; i++)
        bytes += place_bytes(list->tensors[i]);
    return bytes;
}

uint64_t model_synthetic_bytes(const struct model_config *config,
                               const struct model_synthetic_options *options)
{
    struct model model = {.weights = NULL};
    struct model_layer layer;
    struct list outside = list_outside(&model, config, options);
    struct list inside = list_layer(&layer, config, options->type);
    return list_bytes(&outside) + config->layers * list_bytes(&inside);
}

/* ---- a model --------------------------------------------------------------------------------- */

static int fill_vector(struct tensor *tensor, char *memory, struct backend *backend, float value)
{
    float *floats = calloc(tensor->cols + (size_t)1, sizeof *floats);
    if (!floats)
        return -ENOMEM;
    for (uint32_t i = 0; i < tensor->cols; i++)
        floats[i] = value;
    int err = backend->ops->upload(backend, memory, floats, tensor->cols * sizeof *floats);
    free(floats);
    tensor->data = memory;
    return err;
}

static bool is_bias(const struct model_layer *layer, const struct tensor *tensor)
{
    return layer &&
           (tensor == &layer->q_bias || tensor == &layer->k_bias || tensor == &layer->v_bias);
}

struct filling {
    const struct model_synthetic_options *options;
    struct backend *backend;
    char *next;
    uint64_t seed;
    uint64_t bytes; /* of the tensors so far, without gaps */
};

/* layer NULL: what is outside of them. */
static int fill_list(struct filling *filling, const struct list *list,
                     const struct model_layer *layer)
{
    int err = 0;
    for (size_t i = 0; i < list->count && err == 0; i++) {
        struct tensor *tensor = list->tensors[i];
        if (tensor->rows == 1)
            err = fill_vector(tensor, filling->next, filling->backend,
                              is_bias(layer, tensor) ? 0.125f : 1);
        else
            err = model_synthetic_fill(tensor, filling->next, filling->seed++, filling->backend,
                                       filling->options->cancel);
        filling->next += place_bytes(tensor);
        filling->bytes += tensor_bytes(tensor);
    }
    return err;
}

static int fill(struct model *model, const struct model_synthetic_options *options,
                struct backend *backend)
{
    struct filling filling = {.options = options,
                              .backend = backend,
                              .next = model->weights->memory,
                              .seed = options->seed};
    struct list list = list_outside(model, &model->config, options);
    int err = fill_list(&filling, &list, NULL);
    for (uint32_t i = 0; i < model->config.layers && err == 0; i++) {
        list = list_layer(&model->layers[i], &model->config, options->type);
        err = fill_list(&filling, &list, &model->layers[i]);
    }
    if (model->config.tied_head)
        model->head = model->embedding;
    model->weights_bytes = model->weights->report.weights_bytes = filling.bytes;
    model->bytes_per_token =
        filling.bytes - (model->config.tied_head ? 0 : tensor_bytes(&model->embedding));
    return err;
}

static int reserve(struct model *model, const struct model_synthetic_options *options,
                   struct backend *backend)
{
    const struct model_config *config = &model->config;
    struct weights *weights = calloc(1, sizeof *weights);
    model->weights = weights;
    model->layers = calloc(config->layers, sizeof *model->layers);
    model->rotary_frequencies = calloc(config->rotary_dims / 2, sizeof *model->rotary_frequencies);
    if (!weights || !model->layers || !model->rotary_frequencies)
        return -ENOMEM;
    model_rope_frequencies(config, model->rotary_frequencies);
    uint64_t bytes = model_synthetic_bytes(config, options);
    int err = backend->ops->alloc(backend, bytes, &weights->memory);
    if (err == 0)
        weights->memory_bytes = weights->report.memory_bytes = bytes;
    return err;
}

int model_synthetic_open(struct model **ret_model, const struct model_config *config,
                         const struct model_synthetic_options *options, struct backend *backend)
{
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return -ENOMEM;
    model->config = *config;
    snprintf(model->name, sizeof model->name, "%s", options->name);
    int err = reserve(model, options, backend);
    if (err == 0)
        err = fill(model, options, backend);
    if (err < 0) {
        model_close(model, backend);
        return err;
    }
    *ret_model = model;
    return 0;
}
