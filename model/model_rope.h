/*
 * The rotary part of a model's configuration: base, share of the head, and the ways of stretching
 * it over longer contexts.
 */
#ifndef AGL_MODEL_MODEL_ROPE_H
#define AGL_MODEL_MODEL_ROPE_H

#include "model/json.h"
#include "model/model.h"

/* Reads rope_theta, partial_rotary_factor and the scaling of a HF config.json, where they stand
 * today (rope_parameters) or stood before, into config, whose head_dim and context_tokens are
 * known. fraction: the architecture's default for partial_rotary_factor. */
int model_rope_parse(struct model_config *config, const struct json_object *root, double fraction,
                     struct failure *failure);

/* The frequencies by which the pairs of dimensions turn, in radians a position, scaling included.
 * Computed in doubles, rounded once. frequencies: [rotary_dims / 2] */
void model_rope_frequencies(const struct model_config *config, float *frequencies);

#endif
