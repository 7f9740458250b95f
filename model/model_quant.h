/*
 * As which type a model's tensors are kept.
 */
#ifndef AGL_MODEL_MODEL_QUANT_H
#define AGL_MODEL_MODEL_QUANT_H

#include <stdbool.h>

#include "model/model.h"
#include "model/safetensors.h"

/* What a tensor is to the model. */
enum model_role {
    MODEL_VECTOR, /* a norm or a bias */
    MODEL_MATRIX, /* of a layer */
    MODEL_EMBEDDING,
    MODEL_HEAD,
    MODEL_EMBEDDING_AND_HEAD, /* tied: it is kept as the wider of both would be */
};

/* Quantised types go to the packed type that holds them without loss, but not those of vectors;
 * plain ones stay, or are quantised where the options ask for it. False: the kernels have nothing
 * for the type. */
bool model_quant_type(const struct safetensors_tensor *tensor, enum model_role role,
                      const struct model_options *options, enum tensor_type *ret_type);

#endif
