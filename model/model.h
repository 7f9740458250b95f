/*
 * A model: its shape, read from config.json or from a GGUF file's metadata, and its weights, bound
 * by name. Read-only once opened.
 *
 * One description covers ChatGLMModel (original names), GlmForCausalLM, Glm4ForCausalLM,
 * LlamaForCausalLM and Qwen2ForCausalLM. The echo model has no files and no weights: it answers
 * with the prompt, to measure everything around the arithmetic.
 */
#ifndef AGL_MODEL_MODEL_H
#define AGL_MODEL_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "model/failure.h"

enum {
    MODEL_NAME_BYTES = 64,
    MODEL_PATH_BYTES = 256,
    MODEL_EOS_MAX = 8,
    MODEL_LAYERS_MAX = 512,
    MODEL_CONTEXT_MAX = 1 << 24,
};

enum model_architecture {
    MODEL_CHATGLM,
    MODEL_GLM,
    MODEL_GLM4,
    MODEL_LLAMA,
    MODEL_QWEN2,
    MODEL_ECHO,
};

enum rope_scaling_kind {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR,
    ROPE_SCALING_LLAMA3,
    ROPE_SCALING_YARN
};

struct model_config {
    enum model_architecture architecture;
    char architecture_name[32]; /* as in config.json, or general.architecture of a GGUF file */
    bool gguf;                  /* the tensors have GGUF's names */
    bool fused_qkv;             /* q, k and v are one matrix of the file; the tensors tell */
    bool fused_ffn;             /* gate and up are; the tensors tell */
    uint32_t layers;
    uint32_t dim;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t ffn_dim;
    uint32_t vocab_rows; /* rows of embedding and output head */
    uint32_t vocab_size; /* ids that the tokenizer knows: the rest is padding, never sampled */
    uint32_t context_tokens;
    float norm_eps;
    bool qkv_bias;
    bool sandwich_norms; /* GLM-4-0414: norms on the branches' outputs too */
    bool tied_head;

    enum rotary_kind rotary;
    uint32_t rotary_dims;
    double rope_base;
    enum rope_scaling_kind rope_scaling;
    double rope_factor;
    double rope_low_freq_factor;   /* LLAMA3 */
    double rope_high_freq_factor;  /* LLAMA3 */
    uint32_t rope_original_tokens; /* LLAMA3, YARN */
    double rope_beta_fast;         /* YARN */
    double rope_beta_slow;         /* YARN */
    double rope_attention_factor;  /* YARN: cosines and sines are multiplied by it; else 1 */

    uint32_t eos_ids[MODEL_EOS_MAX];
    uint32_t eos_count;
};

struct model_layer {
    struct tensor attention_norm;
    struct tensor q, k, v;                /* rows of one matrix where the file has them so */
    struct tensor q_bias, k_bias, v_bias; /* absent without biases */
    struct tensor o;
    struct tensor attention_post_norm; /* sandwich only */
    struct tensor ffn_norm;
    struct tensor gate, up, down;
    struct tensor ffn_post_norm; /* sandwich only */
};

struct model {
    char name[MODEL_NAME_BYTES];
    char folder[MODEL_PATH_BYTES]; /* absolute, or of the GGUF file; empty for echo */
    struct model_config config;
    struct model_layer *layers; /* [config.layers]; NULL for echo */
    struct tensor embedding;    /* [vocab_rows, dim] */
    struct tensor final_norm;
    struct tensor head;        /* [vocab_rows, dim]; the embedding when tied */
    float *rotary_frequencies; /* [rotary_dims / 2], scaling included, as doubles rounded once */
    uint64_t weights_bytes;
    uint64_t bytes_per_token; /* weights read for one token alone: all but the embedding table */
    struct weights *weights;  /* owns the memory behind the tensors */
};

/* Where the embedding table and the output head go when matrices are quantised: they are used with
 * every token, and the head's errors are the logits'. */
enum model_wide {
    MODEL_WIDE_Q8 = 0,
    MODEL_WIDE_KEEP = 1,  /* as it is in the file */
    MODEL_WIDE_QUANT = 2, /* as the other matrices */
};

/* How configuration and command line name what matrices and these two become, and what each word
 * means. */
#define MODEL_QUANT_WORDS "none", "q8", "q8_min", "q4", "q4_min"
#define MODEL_QUANT_TYPES TENSOR_F32, TENSOR_Q8, TENSOR_Q8_MIN, TENSOR_Q4, TENSOR_Q4_MIN
#define MODEL_WIDE_WORDS "q8", "keep", "quant"
#define MODEL_WIDE_VALUES MODEL_WIDE_Q8, MODEL_WIDE_KEEP, MODEL_WIDE_QUANT

struct model_options {
    uint64_t memory_bytes; /* refuse weights beyond this; 0: what the machine has free */
    /* To what matrices are quantised that the file has in a plain type: of MODEL_QUANT_TYPES; a
     * plain type: not at all. */
    enum tensor_type quant;
    enum model_wide quant_head;
    enum model_wide quant_embedding;
    uint32_t context_tokens; /* 0: the model's own */
    bool direct_io;          /* read around the page cache where the file is not in it */
    /* Called now and then while weights are read, on the calling thread; NULL: never. */
    void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_context;
    const atomic_bool *cancel; /* true ends the reading with -ECANCELED; NULL: never */
};

/* Reads all of the folder but its weights: config.json, the stop ids of generation_config.json and
 * the tokenizer's size. qkv_bias and tied_head are what config.json says; model_open() then sees
 * what the weights have. -EINVAL, -ENOTSUP with file, field and value in *failure. */
int model_config_read(struct model_config *ret_config, const char *folder, struct failure *failure);

/* Opens the model in `folder`, which may be a GGUF file, too ("echo:" for the echo model): reads
 * its configuration, computes the memory needed and refuses with the figures if it is not there
 * (-ENOMEM), reads the weights with io_uring into the backend's memory and binds them. May take
 * long, see progress and cancel; called by the control side. */
int model_open(struct model **ret_model, const char *name, const char *folder,
               struct backend *backend, const struct model_options *options,
               struct failure *failure);

/* NULL does nothing. */
void model_close(struct model *model, struct backend *backend);

/* "GlmForCausalLM" and so on. */
const char *model_architecture_name(enum model_architecture architecture);

#endif
