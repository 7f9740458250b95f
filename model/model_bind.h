/*
 * Which tensors of a checkpoint a model needs, under which names, and in which shapes.
 */
#ifndef AGL_MODEL_MODEL_BIND_H
#define AGL_MODEL_MODEL_BIND_H

#include "model/checkpoint.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/weights.h"

struct model_binding {
    struct weights_want *wants; /* their tensors are the model's */
    size_t count;
    size_t ignored_tensors; /* of the checkpoint: outside the model's layers */
};

/* Finds every tensor of the model, whose layers are allocated, in the checkpoint. Settles in
 * model->config what only the weights tell: biases, tied head, sandwich norms. A tensor that is
 * missing, has another shape or a type without kernels, or that belongs into a layer but has no
 * place there is refused by name. options: to what matrices are quantised. */
int model_bind(struct model_binding *ret_binding, struct model *model,
               const struct model_config_hints *hints, const struct checkpoint *checkpoint,
               const struct model_options *options, struct failure *failure);

void model_binding_fini(struct model_binding *binding);

/* After the weights were read: parts the matrices that the files have in one piece, unless they
 * were packed part by part, and sets the head if it is tied. */
void model_part(struct model *model);

#endif
