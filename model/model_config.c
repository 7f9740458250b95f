#include "model/model_config.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json.h"
#include "model/model_rope.h"
#include "model/vocabulary.h"

enum {
    CONFIG_BYTES_MAX = 1 << 20,
    DIM_MAX = 1 << 20,
    FFN_MAX = 1 << 22,
    HEADS_MAX = 4096,
    HEAD_DIM_MAX = 1024,
    VOCAB_MAX = 1 << 22,
    PATH_BYTES = 4096,
};

static const double EPS_MIN = 1e-12, EPS_MAX = 0.1;

/* What an architecture means where config.json is silent, as its published code has it. */
struct defaults {
    const char *name;
    enum model_architecture architecture;
    double rotary_fraction;
    double eps;
    uint32_t head_dim; /* 0: dim / heads */
    uint32_t kv_heads; /* 0: heads */
    uint32_t context_tokens;
};

static const struct defaults ARCHITECTURES[] = {
    {"ChatGLMModel", MODEL_CHATGLM, 0.5, 1e-5, 0, 0, 2048},
    {"ChatGLMForConditionalGeneration", MODEL_CHATGLM, 0.5, 1e-5, 0, 0, 2048},
    {"GlmForCausalLM", MODEL_GLM, 0.5, 1.5625e-7, 128, 2, 131072},
    {"Glm4ForCausalLM", MODEL_GLM4, 0.5, 1.5625e-7, 128, 2, 131072},
    {"LlamaForCausalLM", MODEL_LLAMA, 1, 1e-6, 0, 0, 2048},
    {"Qwen2ForCausalLM", MODEL_QWEN2, 1, 1e-6, 0, 0, 32768},
};

enum { ARCHITECTURE_COUNT = sizeof ARCHITECTURES / sizeof ARCHITECTURES[0] };

/* A required u32: what is missing is as wrong as what is out of range. */
static int need_u32(const struct json_object *root, const char *key, uint32_t max,
                    uint32_t *ret_value, struct failure *failure)
{
    int err = json_u32(root, key, 1, max, ret_value, failure);
    return err == -ENOENT ? -EINVAL : err;
}

/* A switch that must be as we have it, given or by default. */
static int need_bool(const struct json_object *root, const char *key, bool fallback, bool wanted,
                     struct failure *failure)
{
    bool value = false;
    int err = json_bool_or(root, key, fallback, &value, failure);
    if (err < 0 || value == wanted)
        return err;
    return json_refuse(root, key, -ENOTSUP, failure, "%s is not supported",
                       value ? "true" : "false");
}

static int find_architecture(const struct json_object *root, const struct defaults **ret_defaults,
                             struct failure *failure)
{
    const cJSON *names = json_field(root, "architectures");
    const cJSON *first = cJSON_IsArray(names) ? names->child : NULL;
    if (!first || !cJSON_IsString(first))
        return json_refuse(root, "architectures", -EINVAL, failure,
                           names ? "must be an array of strings" : "missing");
    for (size_t i = 0; i < ARCHITECTURE_COUNT; i++)
        if (strcmp(ARCHITECTURES[i].name, first->valuestring) == 0) {
            *ret_defaults = &ARCHITECTURES[i];
            return 0;
        }
    return json_refuse(root, "architectures", -ENOTSUP, failure, "%s is not supported",
                       json_quote(first->valuestring).text);
}

/* Quantised weights carry other tensors; say so instead of missing them one by one. */
static int refuse_quantization(const struct json_object *root, struct failure *failure)
{
    struct json_object quantization;
    int err = json_enter(root, "quantization_config", &quantization, failure);
    if (err == -ENOENT)
        return 0;
    if (err < 0)
        return err;
    const char *method = NULL;
    err = json_string_or(&quantization, "quant_method", "unnamed", &method, failure);
    if (err < 0)
        return err;
    return json_refuse(root, "quantization_config", -ENOTSUP, failure,
                       "quant_method %s is not supported: f32, f16 and bf16 are",
                       json_quote(method).text);
}

static int add_eos_id(struct model_config *config, const struct json_object *where, uint32_t id,
                      struct failure *failure)
{
    for (uint32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] == id)
            return 0;
    if (config->eos_count == MODEL_EOS_MAX)
        return json_refuse(where, "eos_token_id", -EINVAL, failure, "more than %d ids",
                           MODEL_EOS_MAX);
    config->eos_ids[config->eos_count++] = id;
    return 0;
}

static int add_eos(struct model_config *config, const struct json_object *where, const cJSON *value,
                   struct failure *failure)
{
    uint64_t id;
    if (!cJSON_IsNumber(value))
        return json_refuse(where, "eos_token_id", -EINVAL, failure,
                           "must be an id or an array of ids, has %s", json_type_name(value));
    if (json_number_u64(value, &id) < 0 || id >= config->vocab_rows)
        return json_refuse(where, "eos_token_id", -EINVAL, failure,
                           "%.17g is none of the vocabulary's %u rows", value->valuedouble,
                           config->vocab_rows);
    return add_eos_id(config, where, (uint32_t)id, failure);
}

static int parse_eos(struct model_config *config, const struct json_object *where,
                     struct failure *failure)
{
    const cJSON *value = json_field(where, "eos_token_id");
    if (!value)
        return 0;
    if (!cJSON_IsArray(value))
        return add_eos(config, where, value, failure);
    for (const cJSON *item = value->child; item; item = item->next) {
        int err = add_eos(config, where, item, failure);
        if (err < 0)
            return err;
    }
    return 0;
}

/* What no file of ChatGLM3 says: its published code also stops at the next turn's role, and which
 * rows are padding only its tokenizer tells, which is of a kind (SentencePiece) that we do not
 * read. ChatGLM2 has the same ids up to 64793; the others are padding there. */
static int add_chatglm3_facts(struct model_config *config, const struct json_object *root,
                              struct failure *failure)
{
    enum { ROWS = 65024, IDS = 64798, USER = 64795, OBSERVATION = 64797 };
    if (config->architecture != MODEL_CHATGLM || config->vocab_rows != ROWS)
        return 0;
    config->vocab_size = IDS;
    int err = add_eos_id(config, root, USER, failure);
    return err < 0 ? err : add_eos_id(config, root, OBSERVATION, failure);
}

/* Numbers that must fit each other, whatever the file calls them. */
static int check_shape(const struct model_config *config, const struct json_object *root,
                       const char *kv_key, const char *head_dim_key, struct failure *failure)
{
    if (config->heads % config->kv_heads != 0)
        return json_refuse(root, kv_key, -EINVAL, failure, "%u does not divide the %u heads",
                           config->kv_heads, config->heads);
    if (config->head_dim % 2 != 0)
        return json_refuse(root, head_dim_key, -EINVAL, failure, "%u is odd", config->head_dim);
    if ((uint64_t)config->heads * config->head_dim > DIM_MAX)
        return json_refuse(root, head_dim_key, -EINVAL, failure,
                           "%u heads of %u dimensions are more than %d", config->heads,
                           config->head_dim, DIM_MAX);
    return 0;
}

/* head_dim as said, or the architecture's, or the width over the heads. */
static int parse_head_dim(struct model_config *config, const struct json_object *root,
                          const char *key, uint32_t fallback, struct failure *failure)
{
    if (!fallback && !json_field(root, key)) {
        if (config->dim % config->heads != 0)
            return json_refuse(root, "num_attention_heads", -EINVAL, failure,
                               "%u does not divide hidden_size, which is %u", config->heads,
                               config->dim);
        fallback = config->dim / config->heads;
        if (fallback > HEAD_DIM_MAX)
            return json_refuse(root, "num_attention_heads", -EINVAL, failure,
                               "heads of %u dimensions, the limit is %d", fallback, HEAD_DIM_MAX);
    }
    return json_u32_or(root, key, 2, HEAD_DIM_MAX, fallback, &config->head_dim, failure);
}

static int parse_chatglm_shape(struct model_config *config, const struct json_object *root,
                               struct failure *failure)
{
    int err = need_u32(root, "num_layers", MODEL_LAYERS_MAX, &config->layers, failure);
    if (err == 0)
        err = need_u32(root, "hidden_size", DIM_MAX, &config->dim, failure);
    if (err == 0)
        err = need_u32(root, "num_attention_heads", HEADS_MAX, &config->heads, failure);
    if (err == 0)
        err = need_u32(root, "ffn_hidden_size", FFN_MAX, &config->ffn_dim, failure);
    if (err == 0)
        err = need_u32(root, "padded_vocab_size", VOCAB_MAX, &config->vocab_rows, failure);
    if (err == 0)
        err = parse_head_dim(config, root, "kv_channels", 0, failure);
    bool grouped = false;
    if (err == 0)
        err = json_bool_or(root, "multi_query_attention", false, &grouped, failure);
    config->kv_heads = config->heads;
    if (err == 0 && grouped)
        err = need_u32(root, "multi_query_group_num", config->heads, &config->kv_heads, failure);
    return err < 0 ? err
                   : check_shape(config, root, "multi_query_group_num", "kv_channels", failure);
}

/* Switches of the original code that no released model turns the other way. */
static int check_chatglm_switches(const struct json_object *root, struct failure *failure)
{
    static const struct {
        const char *key;
        bool fallback, wanted;
    } switches[] = {
        {"rmsnorm", true, true},
        {"post_layer_norm", true, true},
        {"add_bias_linear", false, false},
        {"apply_residual_connection_post_layernorm", false, false},
        {"interleaved_qkv", false, false},
        {"position_encoding_2d", false, false},
        {"use_cache_quantization", false, false},
    };
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        int err =
            need_bool(root, switches[i].key, switches[i].fallback, switches[i].wanted, failure);
        if (err < 0)
            return err;
    }
    static const char *const absent[] = {"quantization_bit", "pre_seq_len"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        uint32_t value = 0;
        int err = json_u32_or(root, absent[i], 0, UINT32_MAX, 0, &value, failure);
        if (err < 0)
            return err;
        if (value != 0)
            return json_refuse(root, absent[i], -ENOTSUP, failure, "%u is not supported", value);
    }
    return 0;
}

static int parse_chatglm(struct model_config *config, const struct json_object *root,
                         const struct defaults *defaults, struct failure *failure)
{
    int err = check_chatglm_switches(root, failure);
    if (err == 0)
        err = parse_chatglm_shape(config, root, failure);
    if (err == 0)
        err = json_u32_or(root, "seq_length", 1, MODEL_CONTEXT_MAX, defaults->context_tokens,
                          &config->context_tokens, failure);
    double eps = 0, ratio = 1;
    if (err == 0)
        err = json_double_or(root, "layernorm_epsilon", EPS_MIN, EPS_MAX, defaults->eps, &eps,
                             failure);
    if (err == 0)
        err = json_double_or(root, "rope_ratio", 1e-3, 1e6, 1, &ratio, failure);
    if (err == 0)
        err = json_bool_or(root, "add_qkv_bias", false, &config->qkv_bias, failure);
    bool original_rope = true;
    if (err == 0)
        err = json_bool_or(root, "original_rope", true, &original_rope, failure);
    if (err < 0)
        return err;
    config->norm_eps = (float)eps;
    config->rope_base = 10000 * ratio;
    config->rotary = original_rope ? ROTARY_INTERLEAVED : ROTARY_HALVES;
    config->rotary_dims = config->head_dim / 2;
    if (config->rotary_dims % 2 != 0)
        return json_refuse(root, "kv_channels", -EINVAL, failure, "%u is no multiple of 4",
                           config->head_dim);
    return 0;
}

static int parse_hf_shape(struct model_config *config, const struct json_object *root,
                          const struct defaults *defaults, struct failure *failure)
{
    int err = need_u32(root, "num_hidden_layers", MODEL_LAYERS_MAX, &config->layers, failure);
    if (err == 0)
        err = need_u32(root, "hidden_size", DIM_MAX, &config->dim, failure);
    if (err == 0)
        err = need_u32(root, "num_attention_heads", HEADS_MAX, &config->heads, failure);
    if (err == 0)
        err = need_u32(root, "intermediate_size", FFN_MAX, &config->ffn_dim, failure);
    if (err == 0)
        err = need_u32(root, "vocab_size", VOCAB_MAX, &config->vocab_rows, failure);
    if (err == 0)
        err = parse_head_dim(config, root, "head_dim", defaults->head_dim, failure);
    if (err == 0)
        err = json_u32_or(root, "num_key_value_heads", 1, config->heads,
                          defaults->kv_heads ? defaults->kv_heads : config->heads,
                          &config->kv_heads, failure);
    return err < 0 ? err : check_shape(config, root, "num_key_value_heads", "head_dim", failure);
}

/* Attention to a window of the past only is another model. */
static int refuse_windows(const struct json_object *root, struct failure *failure)
{
    int err = need_bool(root, "use_sliding_window", false, false, failure);
    if (err < 0)
        return err;
    const cJSON *types = json_field(root, "layer_types");
    if (types && !cJSON_IsArray(types))
        return json_refuse(root, "layer_types", -EINVAL, failure, "must be an array, is %s",
                           json_type_name(types));
    for (const cJSON *item = types ? types->child : NULL; item; item = item->next)
        if (!cJSON_IsString(item) || strcmp(item->valuestring, "full_attention") != 0)
            return json_refuse(root, "layer_types", -ENOTSUP, failure, "%s is not supported",
                               cJSON_IsString(item) ? json_quote(item->valuestring).text
                                                    : json_type_name(item));
    return 0;
}

static int parse_hf(struct model_config *config, const struct json_object *root,
                    const struct defaults *defaults, struct failure *failure)
{
    int err = parse_hf_shape(config, root, defaults, failure);
    if (err == 0)
        err = refuse_windows(root, failure);
    const char *activation = NULL;
    if (err == 0)
        err = json_string_or(root, "hidden_act", "silu", &activation, failure);
    if (err == 0 && strcmp(activation, "silu") != 0)
        err = json_refuse(root, "hidden_act", -ENOTSUP, failure, "%s is not supported: silu is",
                          json_quote(activation).text);
    if (err == 0)
        err = json_u32_or(root, "max_position_embeddings", 1, MODEL_CONTEXT_MAX,
                          defaults->context_tokens, &config->context_tokens, failure);
    double eps = 0;
    if (err == 0)
        err = json_double_or(root, "rms_norm_eps", EPS_MIN, EPS_MAX, defaults->eps, &eps, failure);
    if (err == 0)
        err = json_bool_or(root, "attention_bias", false, &config->qkv_bias, failure);
    if (err < 0)
        return err;
    config->norm_eps = (float)eps;
    config->sandwich_norms = defaults->architecture == MODEL_GLM4;
    config->rotary = defaults->architecture == MODEL_GLM || defaults->architecture == MODEL_GLM4
                         ? ROTARY_INTERLEAVED
                         : ROTARY_HALVES;
    return model_rope_parse(config, root, defaults->rotary_fraction, failure);
}

static int parse_root(struct model_config *config, struct model_config_hints *hints,
                      const struct json_object *root, struct failure *failure)
{
    const struct defaults *defaults = ARCHITECTURES;
    int err = find_architecture(root, &defaults, failure);
    if (err == 0)
        err = refuse_quantization(root, failure);
    if (err < 0)
        return err;
    config->architecture = defaults->architecture;
    snprintf(config->architecture_name, sizeof config->architecture_name, "%s", defaults->name);
    config->rope_factor = 1;
    config->rope_attention_factor = 1;
    err = defaults->architecture == MODEL_CHATGLM ? parse_chatglm(config, root, defaults, failure)
                                                  : parse_hf(config, root, defaults, failure);
    if (err == 0)
        err = json_bool_or(root, "tie_word_embeddings", false, &config->tied_head, failure);
    if (err < 0)
        return err;
    hints->untied_said = json_field(root, "tie_word_embeddings") && !config->tied_head;
    config->vocab_size = config->vocab_rows;
    err = parse_eos(config, root, failure);
    return err < 0 ? err : add_chatglm3_facts(config, root, failure);
}

int model_config_parse(struct model_config *ret_config, struct model_config_hints *ret_hints,
                       const char *text, size_t bytes, const char *file, struct failure *failure)
{
    cJSON *tree;
    int err = json_parse(&tree, text, bytes, file, JSON_STRICT, failure);
    if (err < 0)
        return err;
    struct model_config config = {0};
    struct model_config_hints hints = {0};
    struct json_object root;
    err = json_root(&root, tree, file, failure);
    if (err == 0)
        err = parse_root(&config, &hints, &root, failure);
    cJSON_Delete(tree);
    if (err < 0)
        return err;
    *ret_config = config;
    *ret_hints = hints;
    return 0;
}

int model_config_add_generation(struct model_config *config, const char *text, size_t bytes,
                                const char *file, struct failure *failure)
{
    cJSON *tree;
    int err = json_parse(&tree, text, bytes, file, JSON_STRICT, failure);
    if (err < 0)
        return err;
    struct model_config merged = *config;
    struct json_object root;
    err = json_root(&root, tree, file, failure);
    if (err == 0)
        err = parse_eos(&merged, &root, failure);
    cJSON_Delete(tree);
    if (err == 0)
        *config = merged;
    return err;
}

static int read_file(const char *folder, const char *name, char path[PATH_BYTES], char **ret_text,
                     size_t *ret_bytes, struct failure *failure)
{
    if (snprintf(path, PATH_BYTES, "%s/%s", folder, name) >= PATH_BYTES)
        return failure_set(failure, -ENAMETOOLONG, "%.256s...: the path is too long", folder);
    return json_read_text(ret_text, ret_bytes, path, CONFIG_BYTES_MAX, failure);
}

/* tokenizer_ids: 0 if it is not known. Ids to stop at are no padding, whatever the tokenizer's
 * files say: a tokenizer.model alone has no special tokens, and what is never sampled never stops.
 */
static void settle_vocabulary(struct model_config *config, uint32_t tokenizer_ids)
{
    uint32_t ids = tokenizer_ids ? tokenizer_ids : config->vocab_size;
    for (uint32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] >= ids)
            ids = config->eos_ids[i] + 1;
    config->vocab_size = ids < config->vocab_rows ? ids : config->vocab_rows;
}

int model_config_read_hints(struct model_config *ret_config, struct model_config_hints *ret_hints,
                            const char *folder, struct failure *failure)
{
    char path[PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    struct model_config config;
    int err = read_file(folder, "config.json", path, &text, &bytes, failure);
    if (err < 0)
        return err;
    err = model_config_parse(&config, ret_hints, text, bytes, path, failure);
    free(text);
    text = NULL;
    if (err < 0)
        return err;

    err = read_file(folder, "generation_config.json", path, &text, &bytes, failure);
    if (err == 0) {
        err = model_config_add_generation(&config, text, bytes, path, failure);
        free(text);
    } else if (err == -ENOENT) {
        err = 0;
    }
    uint32_t ids = 0;
    if (err == 0)
        err = vocabulary_size(folder, &ids, failure);
    if (err < 0)
        return err;
    settle_vocabulary(&config, ids);
    *ret_config = config;
    return 0;
}

int model_config_read(struct model_config *ret_config, const char *folder, struct failure *failure)
{
    struct model_config_hints hints;
    return model_config_read_hints(ret_config, &hints, folder, failure);
}

const char *model_architecture_name(enum model_architecture architecture)
{
    switch (architecture) {
    case MODEL_CHATGLM:
        return "ChatGLMModel";
    case MODEL_GLM:
        return "GlmForCausalLM";
    case MODEL_GLM4:
        return "Glm4ForCausalLM";
    case MODEL_LLAMA:
        return "LlamaForCausalLM";
    case MODEL_QWEN2:
        return "Qwen2ForCausalLM";
    case MODEL_ECHO:
        return "echo";
    }
    return "unknown";
}
