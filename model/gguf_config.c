#include "model/gguf_config.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The messages of the readers go where ours go. */
static_assert(sizeof((struct failure *)0)->text == GGUF_WHY_BYTES, "one line of text");

enum {
    DIM_MAX = 1 << 20,
    FFN_MAX = 1 << 22,
    HEADS_MAX = 4096,
    HEAD_DIM_MAX = 1024,
    VOCAB_MAX = 1 << 22,
    KEY_BYTES = 128,
    TOKEN_UNUSED = 5, /* of tokenizer.ggml.token_type */
    TOKEN_NORMAL = 1,
};

static const double EPS_MIN = 1e-12, EPS_MAX = 0.1;

struct architecture {
    const char *name;
    enum model_architecture architecture;
    enum rotary_kind rotary;
    bool glm; /* stops at the next turn's role, too */
};

static const struct architecture ARCHITECTURES[] = {
    {"chatglm", MODEL_GLM, ROTARY_INTERLEAVED, true},
    {"glm4", MODEL_GLM4, ROTARY_INTERLEAVED, true},
    {"llama", MODEL_LLAMA, ROTARY_INTERLEAVED, false},
    {"qwen2", MODEL_QWEN2, ROTARY_HALVES, false},
};

enum { ARCHITECTURE_COUNT = sizeof ARCHITECTURES / sizeof ARCHITECTURES[0] };

/* What is read, and where failures go. */
struct source {
    const struct gguf *gguf;
    const struct architecture *architecture;
    char *why; /* NULL: nobody asks */
    char key[KEY_BYTES];
};

/* "llama.block_count" */
static const char *key_of(struct source *source, const char *name)
{
    snprintf(source->key, sizeof source->key, "%s.%s", source->architecture->name, name);
    return source->key;
}

#define REFUSE(source, err, format, ...)                                                    \
    gguf_refuse((source)->why, err, "%s: %s: " format, (source)->gguf->file, (source)->key, \
                __VA_ARGS__)

/* A required number: what is missing is as wrong as what is out of range. */
static int need_u32(struct source *source, const char *name, uint32_t max, uint32_t *ret_value)
{
    int err = gguf_u32(source->gguf, key_of(source, name), 1, max, ret_value, source->why);
    return err == -ENOENT ? -EINVAL : err;
}

static int find_architecture(struct source *source)
{
    const char *name = "";
    size_t bytes = 0;
    snprintf(source->key, sizeof source->key, "general.architecture");
    int err = gguf_string(source->gguf, source->key, &name, &bytes, source->why);
    if (err < 0)
        return err == -ENOENT ? -EINVAL : err;
    for (size_t i = 0; i < ARCHITECTURE_COUNT; i++)
        if (strlen(ARCHITECTURES[i].name) == bytes &&
            memcmp(ARCHITECTURES[i].name, name, bytes) == 0) {
            source->architecture = &ARCHITECTURES[i];
            return 0;
        }
    return REFUSE(source, -ENOTSUP, "%s is not supported: chatglm, glm4, llama and qwen2 are",
                  gguf_quote(name, bytes).text);
}

/* ---- the shape ------------------------------------------------------------------------------- */

static int read_head_dim(struct source *source, struct model_config *config)
{
    uint32_t fallback = config->dim % config->heads == 0 ? config->dim / config->heads : 0;
    uint32_t value_dim = 0;
    int err = gguf_u32_or(source->gguf, key_of(source, "attention.key_length"), 2, HEAD_DIM_MAX,
                          fallback, &config->head_dim, source->why);
    if (err < 0)
        return err;
    if (config->head_dim < 2 || config->head_dim > HEAD_DIM_MAX) {
        key_of(source, "attention.head_count");
        return REFUSE(source, -EINVAL,
                      "%u heads do not part the width of %u into heads of 2 ... %d", config->heads,
                      config->dim, HEAD_DIM_MAX);
    }
    if (config->head_dim % 2 != 0)
        return REFUSE(source, -EINVAL, "%u is odd", config->head_dim);
    if ((uint64_t)config->heads * config->head_dim > DIM_MAX)
        return REFUSE(source, -EINVAL, "%u heads of %u dimensions are more than %d", config->heads,
                      config->head_dim, DIM_MAX);
    err = gguf_u32_or(source->gguf, key_of(source, "attention.value_length"), 1, HEAD_DIM_MAX,
                      config->head_dim, &value_dim, source->why);
    if (err == 0 && value_dim != config->head_dim)
        err = REFUSE(source, -ENOTSUP, "%u, but the keys have %u dimensions", value_dim,
                     config->head_dim);
    return err;
}

static int read_shape(struct source *source, struct model_config *config)
{
    int err = need_u32(source, "block_count", MODEL_LAYERS_MAX, &config->layers);
    if (err == 0)
        err = need_u32(source, "embedding_length", DIM_MAX, &config->dim);
    if (err == 0)
        err = need_u32(source, "attention.head_count", HEADS_MAX, &config->heads);
    if (err == 0)
        err = need_u32(source, "feed_forward_length", FFN_MAX, &config->ffn_dim);
    if (err == 0)
        err = need_u32(source, "context_length", MODEL_CONTEXT_MAX, &config->context_tokens);
    if (err == 0)
        err = read_head_dim(source, config);
    if (err == 0)
        err = gguf_u32_or(source->gguf, key_of(source, "attention.head_count_kv"), 1, config->heads,
                          config->heads, &config->kv_heads, source->why);
    if (err == 0 && config->heads % config->kv_heads != 0)
        err = REFUSE(source, -EINVAL, "%u does not divide the %u heads", config->kv_heads,
                     config->heads);
    return err;
}

static int read_eps(struct source *source, struct model_config *config)
{
    double eps = 0;
    int err = gguf_double(source->gguf, key_of(source, "attention.layer_norm_rms_epsilon"), EPS_MIN,
                          EPS_MAX, &eps, source->why);
    config->norm_eps = (float)eps;
    return err == -ENOENT ? -EINVAL : err;
}

/* What would make another model of it. */
static int refuse_features(struct source *source, const struct model_config *config)
{
    static const char *const absent[] = {"expert_count", "expert_used_count"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        uint32_t value = 0;
        int err = gguf_u32_or(source->gguf, key_of(source, absent[i]), 0, UINT32_MAX, 0, &value,
                              source->why);
        if (err < 0)
            return err;
        if (value != 0)
            return REFUSE(source, -ENOTSUP, "%u is not supported", value);
    }
    uint32_t window = 0;
    int err = gguf_u32_or(source->gguf, key_of(source, "attention.sliding_window"), 0, UINT32_MAX,
                          0, &window, source->why);
    if (err == 0 && window > 0 && window < config->context_tokens)
        err = REFUSE(source, -ENOTSUP, "%u is not supported", window);
    bool causal = true;
    if (err == 0)
        err = gguf_bool_or(source->gguf, key_of(source, "attention.causal"), true, &causal,
                           source->why);
    if (err == 0 && !causal)
        err = REFUSE(source, -ENOTSUP, "%s is not supported", "false");
    return err;
}

/* ---- the vocabulary -------------------------------------------------------------------------- */

/* Rows of embedding and head: as said, or else one for each token. */
static int read_rows(struct source *source, const struct gguf_value *tokens,
                     struct model_config *config)
{
    uint32_t fallback = tokens && tokens->count <= VOCAB_MAX ? (uint32_t)tokens->count : 0;
    int err = gguf_u32_or(source->gguf, key_of(source, "vocab_size"), 1, VOCAB_MAX, fallback,
                          &config->vocab_rows, source->why);
    if (err < 0)
        return err;
    if (config->vocab_rows == 0 && !tokens)
        return REFUSE(source, -EINVAL, "%s", "missing, and there is no tokenizer.ggml.tokens");
    if (tokens && (config->vocab_rows == 0 || tokens->count > config->vocab_rows)) {
        snprintf(source->key, sizeof source->key, "tokenizer.ggml.tokens");
        return REFUSE(source, -EINVAL, "%llu tokens, the vocabulary has 1 ... %u rows",
                      (unsigned long long)tokens->count,
                      config->vocab_rows ? config->vocab_rows : VOCAB_MAX);
    }
    return 0;
}

/* The types of the tokens, as many as there are, or NULL. */
static int read_types(struct source *source, const struct gguf_value *tokens,
                      const struct gguf_value **ret_types)
{
    *ret_types = NULL;
    if (!tokens)
        return 0;
    snprintf(source->key, sizeof source->key, "tokenizer.ggml.token_type");
    int err = gguf_array(source->gguf, source->key, GGUF_VALUE_I32, ret_types, source->why);
    if (err == -ENOENT)
        return 0;
    if (err == 0 && (*ret_types)->count != tokens->count)
        err = REFUSE(source, -EINVAL, "%llu types of %llu tokens",
                     (unsigned long long)(*ret_types)->count, (unsigned long long)tokens->count);
    return err;
}

static int add_eos(struct source *source, struct model_config *config, uint32_t id)
{
    for (uint32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] == id)
            return 0;
    if (config->eos_count == MODEL_EOS_MAX)
        return REFUSE(source, -EINVAL, "more than %d ids to stop at", MODEL_EOS_MAX);
    config->eos_ids[config->eos_count++] = id;
    return 0;
}

static int read_eos(struct source *source, struct model_config *config)
{
    static const char *const keys[] = {"eos_token_id", "eot_token_id", "eom_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        uint32_t id = 0;
        snprintf(source->key, sizeof source->key, "tokenizer.ggml.%s", keys[i]);
        int err = gguf_u32(source->gguf, source->key, 0, config->vocab_rows - 1, &id, source->why);
        if (err == 0)
            err = add_eos(source, config, id);
        if (err < 0 && err != -ENOENT)
            return err;
    }
    return 0;
}

/* GLM ends its answers with the role of whoever speaks next; the format has room for one id. ChatML
 * ends each message, and files that were made of a base model's configuration do not say so. */
static int find_chat_eos(struct source *source, const struct gguf_value *tokens,
                         const struct gguf_value *types, struct model_config *config)
{
    static const char *const glm[] = {"<|endoftext|>", "<|user|>", "<|observation|>"};
    static const char *const chatml[] = {"<|im_end|>"};
    const char *const *ends = source->architecture->glm ? glm : chatml;
    size_t count = source->architecture->glm ? sizeof glm / sizeof glm[0] : 1;
    const unsigned char *at = tokens->bytes;
    snprintf(source->key, sizeof source->key, "tokenizer.ggml.tokens");
    for (uint32_t id = 0; id < tokens->count; id++) {
        const char *text = "";
        size_t bytes = 0;
        gguf_next_string(&at, &text, &bytes);
        bool ordinary = types && gguf_item_i32(types, id) == TOKEN_NORMAL;
        for (size_t i = 0; i < count && !ordinary; i++) {
            if (strlen(ends[i]) != bytes || memcmp(ends[i], text, bytes) != 0)
                continue;
            int err = add_eos(source, config, id);
            if (err < 0)
                return err;
        }
    }
    return 0;
}

/* Tokens that are not used at the end are padding, but ids to stop at never are. */
static void settle_size(struct model_config *config, const struct gguf_value *tokens,
                        const struct gguf_value *types)
{
    uint32_t ids = tokens ? (uint32_t)tokens->count : config->vocab_rows;
    while (types && ids > 0 && gguf_item_i32(types, ids - 1) == TOKEN_UNUSED)
        ids--;
    for (uint32_t i = 0; i < config->eos_count; i++)
        if (config->eos_ids[i] >= ids)
            ids = config->eos_ids[i] + 1;
    config->vocab_size = ids > 0 ? ids : config->vocab_rows;
}

static int read_vocabulary(struct source *source, struct model_config *config)
{
    const struct gguf_value *tokens = NULL, *types = NULL;
    int err =
        gguf_array(source->gguf, "tokenizer.ggml.tokens", GGUF_VALUE_STRING, &tokens, source->why);
    if (err < 0 && err != -ENOENT)
        return err;
    err = read_rows(source, tokens, config);
    if (err == 0)
        err = read_types(source, tokens, &types);
    if (err == 0)
        err = read_eos(source, config);
    if (err == 0 && tokens)
        err = find_chat_eos(source, tokens, types, config);
    if (err == 0)
        settle_size(config, tokens, types);
    return err;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int read_all(struct source *source, struct model_config *config, struct failure *failure)
{
    int err = find_architecture(source);
    if (err < 0)
        return err;
    const struct architecture *architecture = source->architecture;
    config->architecture = architecture->architecture;
    snprintf(config->architecture_name, sizeof config->architecture_name, "%s", architecture->name);
    config->gguf = true;
    config->rotary = architecture->rotary;
    config->sandwich_norms = architecture->architecture == MODEL_GLM4;
    err = read_shape(source, config);
    if (err == 0)
        err = read_eps(source, config);
    if (err == 0)
        err = refuse_features(source, config);
    if (err == 0)
        err = gguf_rope_read(config, source->gguf, architecture->name, failure);
    return err < 0 ? err : read_vocabulary(source, config);
}

int gguf_config_read(struct model_config *ret_config, const struct gguf *gguf,
                     struct failure *failure)
{
    struct model_config config = {.rope_factor = 1, .rope_attention_factor = 1};
    struct source source = {.gguf = gguf, .why = failure ? failure->text : NULL};
    int err = read_all(&source, &config, failure);
    if (err == 0)
        *ret_config = config;
    return err;
}
