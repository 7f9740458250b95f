/*
 * config.json into a model's description. model.h has the struct; this header is for model.c and
 * the tests.
 */
#ifndef AGL_MODEL_MODEL_CONFIG_H
#define AGL_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "model/model.h"

/* What config.json says that the tensors then decide. */
struct model_config_hints {
    bool untied_said; /* "tie_word_embeddings": false stands there */
};

/* Reads the text of a config.json. vocab_size is vocab_rows (ChatGLM3: what is known of it), and
 * qkv_bias and tied_head are what the text says, false where it is silent. -EINVAL out of range or
 * missing, -ENOTSUP a feature that we do not have. `file` is for the messages. */
int model_config_parse(struct model_config *ret_config, struct model_config_hints *ret_hints,
                       const char *text, size_t bytes, const char *file, struct failure *failure);

/* Adds the eos ids of the text of a generation_config.json. */
int model_config_add_generation(struct model_config *config, const char *text, size_t bytes,
                                const char *file, struct failure *failure);

/* model_config_read() of model.h, and the hints. */
int model_config_read_hints(struct model_config *ret_config, struct model_config_hints *ret_hints,
                            const char *folder, struct failure *failure);

#endif
