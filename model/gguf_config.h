/*
 * The metadata of a GGUF file into a model's description, checked value by value as config.json is.
 *
 * Keys, with ARCH for general.architecture (chatglm, glm4, llama, qwen2):
 *
 *   ARCH.block_count, .embedding_length, .attention.head_count, .feed_forward_length,
 *   .context_length, .attention.layer_norm_rms_epsilon                                required
 *   ARCH.attention.head_count_kv        the head count
 *   ARCH.attention.key_length           width over heads; .value_length must be the same
 *   ARCH.vocab_size                     as many as tokenizer.ggml.tokens, one of them is required
 *   ARCH.rope.dimension_count           the whole head
 *   ARCH.rope.freq_base                 10000
 *   ARCH.rope.scaling.type              none, linear, yarn; linear if there is a factor
 *   ARCH.rope.scaling.factor (or .rope.scale_linear), .original_context_length, .attn_factor,
 *   .yarn_attn_factor, .yarn_beta_fast, .yarn_beta_slow
 *   tokenizer.ggml.eos_token_id, .eot_token_id, .eom_token_id     ids to stop at; of chatglm and
 *                                       glm4 also those of <|endoftext|>, <|user|>,
 * <|observation|>, of the others that of <|im_end|> tokenizer.ggml.token_type           unused
 * tokens at the end are padding, never sampled
 *
 * Refused where they are there and not as for the architectures above: experts, a sliding window,
 * rotary sections, attention that is not causal, arrays where layers would differ.
 *
 * Rotary pairs: llama's are neighbours, since the converter permutes its rows so; chatglm's and
 * glm4's are neighbours in the models themselves; qwen2's are halves.
 */
#ifndef AGL_MODEL_GGUF_CONFIG_H
#define AGL_MODEL_GGUF_CONFIG_H

#include "model/checkpoint.h"
#include "model/model.h"

/* Factors of the frequencies, one for each pair (llama 3 in GGUF's form). */
#define GGUF_ROPE_FACTORS "rope_freqs.weight"

/* -EINVAL out of range or missing, -ENOTSUP a feature that we do not have. qkv_bias, tied_head and
 * the fused matrices are the tensors' to say. */
int gguf_config_read(struct model_config *ret_config, const struct gguf *gguf,
                     struct failure *failure);

/* The rotary part of it, for gguf_config.c: config's head_dim and context_tokens are known. */
int gguf_rope_read(struct model_config *config, const struct gguf *gguf, const char *architecture,
                   struct failure *failure);

/* Divides the frequencies [rotary_dims / 2] by the factors that the files have, if they have some.
 */
int gguf_rope_stretch(const struct model_config *config, const struct checkpoint *checkpoint,
                      float *frequencies, struct failure *failure);

#endif
