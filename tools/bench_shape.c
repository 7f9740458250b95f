#include "tools/bench_shape.h"

#include <stdio.h>
#include <string.h>

struct shape {
    const char *name;
    struct model_config config;
};

#define SIZES(layers_, dim_, heads_, kv_heads_, head_dim_, ffn_dim_, vocab_rows_)   \
    .layers = (layers_), .dim = (dim_), .heads = (heads_), .kv_heads = (kv_heads_), \
    .head_dim = (head_dim_), .ffn_dim = (ffn_dim_), .vocab_rows = (vocab_rows_)

#define ROTARY(kind, dims, base) .rotary = (kind), .rotary_dims = (dims), .rope_base = (base)

/* config.json of THUDM/glm-edge-1.5b-chat, glm-edge-4b-chat, glm-4-9b-chat-hf,
 * HuggingFaceTB/SmolLM2-135M and of the bundled model. */
static const struct shape shapes[] = {
    {"edge-1.5b",
     {.architecture = MODEL_GLM,
      SIZES(28, 2048, 16, 4, 128, 6144, 59264),
      .context_tokens = 8192,
      .norm_eps = 1e-5f,
      ROTARY(ROTARY_INTERLEAVED, 128, 10000)}},
    {"edge-4b",
     {.architecture = MODEL_GLM,
      SIZES(40, 3072, 24, 6, 128, 8192, 59264),
      .context_tokens = 8192,
      .norm_eps = 1e-5f,
      ROTARY(ROTARY_INTERLEAVED, 128, 10000)}},
    {"glm4-9b",
     {.architecture = MODEL_GLM,
      SIZES(40, 4096, 32, 2, 128, 13696, 151552),
      .context_tokens = 131072,
      .norm_eps = 1.5625e-7f,
      .qkv_bias = true,
      ROTARY(ROTARY_INTERLEAVED, 64, 10000)}},
    {"smollm2-135m",
     {.architecture = MODEL_LLAMA,
      SIZES(30, 576, 9, 3, 64, 1536, 49152),
      .context_tokens = 8192,
      .norm_eps = 1e-5f,
      .tied_head = true,
      ROTARY(ROTARY_HALVES, 64, 100000)}},
    {"story",
     {.architecture = MODEL_GLM,
      SIZES(5, 256, 4, 2, 64, 512, 1920),
      .context_tokens = 1024,
      .norm_eps = 1e-5f,
      .qkv_bias = true,
      .tied_head = true,
      ROTARY(ROTARY_INTERLEAVED, 32, 10000)}},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

bool shape_find(const char *name, struct model_config *ret_config)
{
    for (int i = 0; i < SHAPES; i++)
        if (strcmp(name, shapes[i].name) == 0) {
            *ret_config = shapes[i].config;
            ret_config->vocab_size = ret_config->vocab_rows;
            ret_config->rope_factor = ret_config->rope_attention_factor = 1;
            snprintf(ret_config->architecture_name, sizeof ret_config->architecture_name, "%s",
                     model_architecture_name(ret_config->architecture));
            return true;
        }
    return false;
}

const char *shape_names(char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < SHAPES && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", shapes[i].name);
    return text;
}

bool shape_type_find(const char *name, enum tensor_type *ret_type)
{
    for (int type = 0; type < SHAPE_TYPES; type++)
        if (strcmp(name, tensor_type_name((enum tensor_type)type)) == 0) {
            *ret_type = (enum tensor_type)type;
            return true;
        }
    return false;
}

/* ---- a step's cost --------------------------------------------------------------------------- */

uint64_t step_cache_bytes(const struct model_config *config, enum tensor_type cache_type,
                          uint32_t layers, const struct step *step)
{
    uint64_t positions = (uint64_t)step->sequences * ((uint64_t)step->context + step->rows);
    return positions * layers * 2 * config->kv_heads * config->head_dim *
           tensor_type_bytes(cache_type);
}

/* A row meets all positions up to its own: with its query the keys, with its weights the values. */
double step_attention_macs(const struct model_config *config, uint32_t layers,
                           const struct step *step)
{
    double rows = step->rows;
    double positions = rows * step->context + rows * (rows + 1) / 2;
    return 2.0 * config->heads * config->head_dim * layers * step->sequences * positions;
}

static double elements(const struct tensor *tensor)
{
    return (double)tensor->rows * tensor->cols;
}

static double matrix_elements(const struct model *model)
{
    double sum = 0;
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct model_layer *layer = &model->layers[i];
        sum += elements(&layer->q) + elements(&layer->k) + elements(&layer->v) +
               elements(&layer->o) + elements(&layer->gate) + elements(&layer->up) +
               elements(&layer->down);
    }
    return sum;
}

struct step_cost step_cost(const struct model *model, enum tensor_type cache_type,
                           const struct step *step)
{
    const struct model_config *config = &model->config;
    double rows = (double)step->sequences * step->rows;
    return (struct step_cost){
        .weight_bytes = model->bytes_per_token,
        .cache_bytes = step_cache_bytes(config, cache_type, config->layers, step),
        .macs = rows * matrix_elements(model) + step->sequences * elements(&model->head) +
                step_attention_macs(config, config->layers, step),
    };
}
