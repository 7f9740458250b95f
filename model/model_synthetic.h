/*
 * Models without files: a configuration, and weights of any type drawn at random. For measurements,
 * which need a model's shape and not what it says.
 *
 * A matrix's weights spread evenly around zero with variance 1 / columns, norms are 1 and biases
 * small, so that activations keep their size from layer to layer. The same seed draws the same
 * weights; packed ones do not depend on the backend.
 */
#ifndef AGL_MODEL_MODEL_SYNTHETIC_H
#define AGL_MODEL_MODEL_SYNTHETIC_H

#include <stdatomic.h>

#include "model/model.h"

struct model_synthetic_options {
    const char *name;
    enum tensor_type type;      /* of every matrix but the head */
    enum tensor_type head_type; /* and of a tied head's table, which is the embedding */
    uint64_t seed;
    const atomic_bool *cancel; /* true ends the drawing with -ECANCELED; NULL: never */
};

/* The memory that the weights will take. */
uint64_t model_synthetic_bytes(const struct model_config *config,
                               const struct model_synthetic_options *options);

/* Draws the weights in the backend's memory. The configuration is taken as it is: its numbers must
 * make sense together. -ENOMEM, without having looked whether the machine has the memory;
 * -ECANCELED. Closed by model_close(). */
int model_synthetic_open(struct model **ret_model, const struct model_config *config,
                         const struct model_synthetic_options *options, struct backend *backend);

/* Draws one matrix of tensor_bytes() bytes into memory of the backend, as above, and sets
 * tensor->data, whose other members say what it is. -ENOMEM, -ECANCELED. */
int model_synthetic_fill(struct tensor *tensor, void *memory, uint64_t seed,
                         struct backend *backend, const atomic_bool *cancel);

#endif
