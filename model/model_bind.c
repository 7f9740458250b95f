#include "model/model_bind.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_config.h"
#include "model/json.h"
#include "model/model_quant.h"

enum { NAME_BYTES = 128, TENSORS_PER_LAYER = 16, TENSORS_OUTSIDE = 3 };

/* The names of one layout. Those of a layer follow its prefix and number. */
struct layout {
    const char *embedding, *final_norm, *head;
    const char *layers; /* "model.layers." */
    const char *attention_norm, *attention_post_norm, *ffn_norm, *ffn_post_norm;
    const char *q, *k, *v; /* without ".weight"; k and v NULL: all three are in q */
    const char *o;
    const char *gate, *up, *down; /* up NULL: it is in gate, behind it */
};

static const struct layout CHATGLM_LAYOUT = {
    .embedding = "transformer.embedding.word_embeddings.weight",
    .final_norm = "transformer.encoder.final_layernorm.weight",
    .head = "transformer.output_layer.weight",
    .layers = "transformer.encoder.layers.",
    .attention_norm = "input_layernorm.weight",
    .attention_post_norm = "post_self_attn_layernorm.weight",
    .ffn_norm = "post_attention_layernorm.weight",
    .ffn_post_norm = "post_mlp_layernorm.weight",
    .q = "self_attention.query_key_value",
    .o = "self_attention.dense.weight",
    .gate = "mlp.dense_h_to_4h.weight",
    .down = "mlp.dense_4h_to_h.weight",
};

#define HF_NAMES                                                                                 \
    .embedding = "model.embed_tokens.weight", .final_norm = "model.norm.weight",                 \
    .head = "lm_head.weight", .layers = "model.layers.",                                         \
    .attention_norm = "input_layernorm.weight",                                                  \
    .attention_post_norm = "post_self_attn_layernorm.weight",                                    \
    .ffn_norm = "post_attention_layernorm.weight", .ffn_post_norm = "post_mlp_layernorm.weight", \
    .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj",                   \
    .o = "self_attn.o_proj.weight", .down = "mlp.down_proj.weight"

static const struct layout GLM_LAYOUT = {HF_NAMES, .gate = "mlp.gate_up_proj.weight"};
static const struct layout LLAMA_LAYOUT = {HF_NAMES, .gate = "mlp.gate_proj.weight",
                                           .up = "mlp.up_proj.weight"};

/* GGUF's names; which matrices are in one piece depends on the file. glm4's post_attention_norm
 * stands behind attention, its ffn_norm before the feed-forward part. */
#define GGUF_NAMES                                                                                 \
    .embedding = "token_embd.weight", .final_norm = "output_norm.weight", .head = "output.weight", \
    .layers = "blk.", .attention_norm = "attn_norm.weight",                                        \
    .attention_post_norm = "post_attention_norm.weight", .ffn_norm = "ffn_norm.weight",            \
    .ffn_post_norm = "post_ffw_norm.weight", .o = "attn_output.weight", .down = "ffn_down.weight"
#define GGUF_QKV .q = "attn_q", .k = "attn_k", .v = "attn_v"
#define GGUF_FUSED_QKV .q = "attn_qkv"
#define GGUF_FFN .gate = "ffn_gate.weight", .up = "ffn_up.weight"
#define GGUF_FUSED_FFN .gate = "ffn_up.weight"

static const struct layout GGUF_LAYOUTS[2][2] = {
    {{GGUF_NAMES, GGUF_QKV, GGUF_FFN}, {GGUF_NAMES, GGUF_QKV, GGUF_FUSED_FFN}},
    {{GGUF_NAMES, GGUF_FUSED_QKV, GGUF_FFN}, {GGUF_NAMES, GGUF_FUSED_QKV, GGUF_FUSED_FFN}},
};

static const struct layout *layout_of(const struct model_config *config)
{
    if (config->gguf)
        return &GGUF_LAYOUTS[config->fused_qkv][config->fused_ffn];
    switch (config->architecture) {
    case MODEL_CHATGLM:
        return &CHATGLM_LAYOUT;
    case MODEL_GLM:
    case MODEL_GLM4:
        return &GLM_LAYOUT;
    default:
        return &LLAMA_LAYOUT;
    }
}

struct tensor_name {
    char text[NAME_BYTES];
};

/* Rows of a tensor of the file that become a tensor of the model. */
struct part {
    struct tensor *tensor;
    uint32_t rows;
};

struct binder {
    const struct checkpoint *checkpoint;
    const char *folder;
    const struct layout *layout;
    const struct model_options *options;
    bool *used; /* [checkpoint->tensor_count] */
    struct weights_want *wants;
    size_t count;
    struct failure *failure;
};

__attribute__((format(printf, 2, 3))) static const struct safetensors_tensor *
find(const struct binder *binder, const char *format, ...)
{
    char name[NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    return checkpoint_find(binder->checkpoint, name);
}

static struct tensor_name name_of(const char *text)
{
    struct tensor_name name;
    snprintf(name.text, sizeof name.text, "%s", text);
    return name;
}

/* "[64, 128]" */
static void print_shape(char *text, size_t bytes, const struct safetensors_tensor *tensor)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (uint32_t i = 0; i < tensor->dimensions && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)tensor->shape[i]);
    if (used < bytes)
        snprintf(text + used, bytes - used, "]");
}

static int check_shape(const struct binder *binder, const struct safetensors_tensor *tensor,
                       uint32_t rows, uint32_t cols)
{
    bool vector = rows == 1;
    bool fits =
        vector ? tensor->dimensions == 1 && tensor->shape[0] == cols
               : tensor->dimensions == 2 && tensor->shape[0] == rows && tensor->shape[1] == cols;
    if (fits)
        return 0;
    char shape[96], wanted[32];
    print_shape(shape, sizeof shape, tensor);
    if (vector)
        snprintf(wanted, sizeof wanted, "[%u]", cols);
    else
        snprintf(wanted, sizeof wanted, "[%u, %u]", rows, cols);
    return failure_set(binder->failure, -EINVAL, "%s: tensor %s: shape is %s, %s for %s",
                       binder->checkpoint->files[tensor->file_index].path,
                       json_quote(tensor->name).text, shape,
                       binder->checkpoint->ggufs ? "the metadata ask" : "config.json asks", wanted);
}

/* Of a layer. */
static struct tensor_name layer_name(const struct binder *binder, uint32_t index, const char *part,
                                     const char *kind)
{
    struct tensor_name name;
    snprintf(name.text, sizeof name.text, "%s%u.%s%s", binder->layout->layers, index, part, kind);
    return name;
}

static int settle_type(const struct binder *binder, const struct safetensors_tensor *source,
                       enum model_role role, enum tensor_type *ret_type)
{
    if (model_quant_type(source, role, binder->options, ret_type))
        return 0;
    bool vector = role == MODEL_VECTOR && binder->checkpoint->ggufs;
    return failure_set(binder->failure, -ENOTSUP,
                       "%s: tensor %s: dtype %s is not supported%s: F32, F16 and BF16 are",
                       binder->checkpoint->files[source->file_index].path,
                       json_quote(source->name).text, source->type, vector ? " for a vector" : "");
}

static void add_want(struct binder *binder, const struct weights_want *want)
{
    binder->wants[binder->count++] = *want;
}

/* Wants a tensor that has the rows of all parts, one part behind the other; a vector has one row.
 * Packed rows cannot be parted anywhere, so each part becomes a tensor of its own; of a plain type
 * the first becomes the whole, for model_part(). */
static int want(struct binder *binder, const struct part *parts, size_t count, uint32_t cols,
                enum model_role role, struct tensor_name name)
{
    const struct safetensors_tensor *source = checkpoint_find(binder->checkpoint, name.text);
    enum tensor_type type = TENSOR_F32;
    uint32_t rows = 0;
    for (size_t i = 0; i < count; i++)
        rows += parts[i].rows;
    if (!source)
        return failure_set(binder->failure, -EINVAL, "%s: tensor \"%s\" is missing", binder->folder,
                           name.text);
    int err = settle_type(binder, source, role, &type);
    if (err == 0)
        err = check_shape(binder, source, rows, cols);
    if (err < 0)
        return err;
    binder->used[source - binder->checkpoint->tensors] = true;
    struct weights_want wanted = {
        .source = source, .ret_tensor = parts->tensor, .type = type, .rows = rows, .cols = cols};
    if (!tensor_type_is_packed(type)) {
        add_want(binder, &wanted);
        return 0;
    }
    for (size_t i = 0; i < count; i++, wanted.first_row += wanted.rows) {
        wanted.ret_tensor = parts[i].tensor;
        wanted.rows = parts[i].rows;
        add_want(binder, &wanted);
    }
    return 0;
}

static int want_vector(struct binder *binder, struct tensor *ret_tensor, uint32_t cols,
                       struct tensor_name name)
{
    return want(binder, &(struct part){ret_tensor, 1}, 1, cols, MODEL_VECTOR, name);
}

static int want_matrix(struct binder *binder, struct tensor *ret_tensor, uint32_t rows,
                       uint32_t cols, struct tensor_name name)
{
    return want(binder, &(struct part){ret_tensor, rows}, 1, cols, MODEL_MATRIX, name);
}

static int want_qkv(struct binder *binder, struct model_layer *layer,
                    const struct model_config *config, uint32_t index)
{
    const struct layout *layout = binder->layout;
    uint32_t q_rows = config->heads * config->head_dim;
    uint32_t kv_rows = config->kv_heads * config->head_dim;
    const struct part parts[] = {{&layer->q, q_rows}, {&layer->k, kv_rows}, {&layer->v, kv_rows}};
    const char *names[] = {layout->q, layout->k, layout->v};
    if (!layout->k)
        return want(binder, parts, 3, config->dim, MODEL_MATRIX,
                    layer_name(binder, index, layout->q, ".weight"));
    int err = 0;
    for (size_t i = 0; i < 3 && err == 0; i++)
        err = want_matrix(binder, parts[i].tensor, parts[i].rows, config->dim,
                          layer_name(binder, index, names[i], ".weight"));
    return err;
}

static int want_biases(struct binder *binder, struct model_layer *layer,
                       const struct model_config *config, uint32_t index)
{
    const struct layout *layout = binder->layout;
    uint32_t q_rows = config->heads * config->head_dim;
    uint32_t kv_rows = config->kv_heads * config->head_dim;
    int err = want_vector(binder, &layer->q_bias, layout->k ? q_rows : q_rows + 2 * kv_rows,
                          layer_name(binder, index, layout->q, ".bias"));
    if (err == 0 && layout->k)
        err = want_vector(binder, &layer->k_bias, kv_rows,
                          layer_name(binder, index, layout->k, ".bias"));
    if (err == 0 && layout->k)
        err = want_vector(binder, &layer->v_bias, kv_rows,
                          layer_name(binder, index, layout->v, ".bias"));
    return err;
}

static int want_ffn(struct binder *binder, struct model_layer *layer,
                    const struct model_config *config, uint32_t index)
{
    const struct layout *layout = binder->layout;
    const struct part parts[] = {{&layer->gate, config->ffn_dim}, {&layer->up, config->ffn_dim}};
    int err = want(binder, parts, layout->up ? 1 : 2, config->dim, MODEL_MATRIX,
                   layer_name(binder, index, layout->gate, ""));
    if (err == 0 && layout->up)
        err = want_matrix(binder, &layer->up, config->ffn_dim, config->dim,
                          layer_name(binder, index, layout->up, ""));
    if (err == 0)
        err = want_matrix(binder, &layer->down, config->dim, config->ffn_dim,
                          layer_name(binder, index, layout->down, ""));
    return err;
}

static int want_norms(struct binder *binder, struct model_layer *layer,
                      const struct model_config *config, uint32_t index)
{
    const struct layout *layout = binder->layout;
    struct {
        const char *name;
        struct tensor *tensor;
    } norms[] = {
        {layout->attention_norm, &layer->attention_norm},
        {layout->ffn_norm, &layer->ffn_norm},
        {layout->attention_post_norm, &layer->attention_post_norm},
        {layout->ffn_post_norm, &layer->ffn_post_norm},
    };
    for (size_t i = 0; i < (config->sandwich_norms ? 4 : 2); i++) {
        int err = want_vector(binder, norms[i].tensor, config->dim,
                              layer_name(binder, index, norms[i].name, ""));
        if (err < 0)
            return err;
    }
    return 0;
}

static int want_layer(struct binder *binder, struct model *model, uint32_t index)
{
    const struct model_config *config = &model->config;
    struct model_layer *layer = &model->layers[index];
    int err = want_norms(binder, layer, config, index);
    if (err == 0)
        err = want_qkv(binder, layer, config, index);
    if (err == 0 && config->qkv_bias)
        err = want_biases(binder, layer, config, index);
    if (err == 0)
        err = want_matrix(binder, &layer->o, config->dim, config->heads * config->head_dim,
                          layer_name(binder, index, binder->layout->o, ""));
    return err < 0 ? err : want_ffn(binder, layer, config, index);
}

/* Which of GGUF's layouts the first layer has. */
static void settle_layout(struct model_config *config, const struct checkpoint *checkpoint)
{
    if (config->gguf) {
        config->fused_qkv = checkpoint_find(checkpoint, "blk.0.attn_qkv.weight");
        config->fused_ffn = !checkpoint_find(checkpoint, "blk.0.ffn_gate.weight");
    } else {
        const struct layout *layout = layout_of(config);
        config->fused_qkv = !layout->k;
        config->fused_ffn = !layout->up;
    }
}

/* What the tensors tell and config.json may not. A head that config.json promises and the file
 * lacks is missed by name. */
static void settle_config(const struct binder *binder, struct model_config *config,
                          const struct model_config_hints *hints)
{
    const struct layout *layout = binder->layout;
    if (find(binder, "%s0.%s.bias", layout->layers, layout->q))
        config->qkv_bias = true;
    if (config->architecture == MODEL_CHATGLM &&
        find(binder, "%s0.%s", layout->layers, layout->attention_post_norm))
        config->sandwich_norms = true;
    if (!hints->untied_said && !find(binder, "%s", layout->head))
        config->tied_head = true;
}

/* Whether a tensor stands in one of the model's own layers, where everything counts. */
static bool is_in_layers(const struct binder *binder, const char *name, uint32_t layers)
{
    size_t length = strlen(binder->layout->layers);
    if (strncmp(name, binder->layout->layers, length) != 0)
        return false;
    return strtoul(name + length, NULL, 10) < layers;
}

/* What is left over in a layer would change what the layer computes: biases and norms that we do
 * not have, scales of quantised weights. Elsewhere it is counted. */
static int check_leftovers(const struct binder *binder, const struct model_config *config,
                           size_t *ret_ignored)
{
    size_t ignored = 0;
    for (size_t i = 0; i < binder->checkpoint->tensor_count; i++) {
        const struct safetensors_tensor *tensor = &binder->checkpoint->tensors[i];
        if (binder->used[i] || strstr(tensor->name, "inv_freq") ||
            strcmp(tensor->name, GGUF_ROPE_FACTORS) == 0)
            continue; /* frequencies are computed */
        if (is_in_layers(binder, tensor->name, config->layers))
            return failure_set(binder->failure, -ENOTSUP,
                               "%s: tensor %s: a layer of %s has no place for it",
                               binder->checkpoint->files[tensor->file_index].path,
                               json_quote(tensor->name).text, config->architecture_name);
        ignored++;
    }
    *ret_ignored = ignored;
    return 0;
}

static int want_table(struct binder *binder, struct tensor *ret_tensor,
                      const struct model_config *config, enum model_role role, const char *name)
{
    return want(binder, &(struct part){ret_tensor, config->vocab_rows}, 1, config->dim, role,
                name_of(name));
}

static int bind_all(struct binder *binder, struct model *model, size_t *ret_ignored)
{
    const struct model_config *config = &model->config;
    const struct layout *layout = binder->layout;
    int err = want_table(binder, &model->embedding, config,
                         config->tied_head ? MODEL_EMBEDDING_AND_HEAD : MODEL_EMBEDDING,
                         layout->embedding);
    for (uint32_t i = 0; i < config->layers && err == 0; i++)
        err = want_layer(binder, model, i);
    if (err == 0)
        err = want_vector(binder, &model->final_norm, config->dim, name_of(layout->final_norm));
    if (err == 0 && !config->tied_head)
        err = want_table(binder, &model->head, config, MODEL_HEAD, layout->head);
    return err < 0 ? err : check_leftovers(binder, config, ret_ignored);
}

int model_bind(struct model_binding *ret_binding, struct model *model,
               const struct model_config_hints *hints, const struct checkpoint *checkpoint,
               const struct model_options *options, struct failure *failure)
{
    settle_layout(&model->config, checkpoint);
    size_t capacity = (size_t)model->config.layers * TENSORS_PER_LAYER + TENSORS_OUTSIDE;
    struct binder binder = {.checkpoint = checkpoint,
                            .folder = model->folder,
                            .layout = layout_of(&model->config),
                            .options = options,
                            .failure = failure,
                            .used = calloc(checkpoint->tensor_count + 1, sizeof(bool)),
                            .wants = calloc(capacity, sizeof *binder.wants)};
    int err = 0;
    size_t ignored = 0;
    if (!binder.used || !binder.wants) {
        err = failure_set(failure, -ENOMEM, "no memory for a table of %zu tensors", capacity);
    } else {
        settle_config(&binder, &model->config, hints);
        err = bind_all(&binder, model, &ignored);
    }
    free(binder.used);
    if (err < 0) {
        free(binder.wants);
        return err;
    }
    *ret_binding = (struct model_binding){
        .wants = binder.wants, .count = binder.count, .ignored_tensors = ignored};
    return 0;
}

void model_binding_fini(struct model_binding *binding)
{
    free(binding->wants);
    *binding = (struct model_binding){0};
}

/* Elements [first, first + count) of a vector. */
static struct tensor vector_part(struct tensor vector, uint32_t first, uint32_t count)
{
    vector.data = (const char *)vector.data + (size_t)first * tensor_type_bytes(vector.type);
    vector.cols = count;
    return vector;
}

static void part_qkv(struct model_layer *layer, const struct model_config *config)
{
    uint32_t q_rows = config->heads * config->head_dim;
    uint32_t kv_rows = config->kv_heads * config->head_dim;
    struct tensor all = layer->q, bias = layer->q_bias;
    if (!tensor_type_is_packed(all.type)) {
        layer->q = tensor_rows(all, 0, q_rows);
        layer->k = tensor_rows(all, q_rows, kv_rows);
        layer->v = tensor_rows(all, q_rows + kv_rows, kv_rows);
    }
    if (!bias.data)
        return;
    layer->q_bias = vector_part(bias, 0, q_rows);
    layer->k_bias = vector_part(bias, q_rows, kv_rows);
    layer->v_bias = vector_part(bias, q_rows + kv_rows, kv_rows);
}

void model_part(struct model *model)
{
    const struct model_config *config = &model->config;
    for (uint32_t i = 0; i < config->layers; i++) {
        struct model_layer *layer = &model->layers[i];
        if (config->fused_qkv)
            part_qkv(layer, config);
        if (config->fused_ffn && !tensor_type_is_packed(layer->gate.type)) {
            layer->up = tensor_rows(layer->gate, config->ffn_dim, config->ffn_dim);
            layer->gate = tensor_rows(layer->gate, 0, config->ffn_dim);
        }
    }
    if (config->tied_head)
        model->head = model->embedding;
}
