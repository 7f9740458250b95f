#include "model/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/checkpoint.h"
#include "model/gguf_config.h"
#include "model/model_bind.h"
#include "model/model_config.h"
#include "model/model_rope.h"
#include "model/path.h"
#include "model/weights.h"

enum { ECHO_VOCABULARY = 65536, ECHO_CONTEXT = 32768 };

static const char ECHO_FOLDER[] = "echo:";

/* Answers with its prompt: there is nothing to compute, so every dimension is 0. */
static void fill_echo(struct model *model)
{
    model->config = (struct model_config){
        .architecture = MODEL_ECHO,
        .vocab_rows = ECHO_VOCABULARY,
        .vocab_size = ECHO_VOCABULARY,
        .context_tokens = ECHO_CONTEXT,
        .rope_factor = 1,
        .rope_attention_factor = 1,
    };
    snprintf(model->config.architecture_name, sizeof model->config.architecture_name, "%s",
             model_architecture_name(MODEL_ECHO));
}

static int set_name(struct model *model, const char *name, struct failure *failure)
{
    if (snprintf(model->name, sizeof model->name, "%s", name) >= (int)sizeof model->name)
        return failure_set(failure, -EINVAL, "model name %.64s...: more than %d bytes", name,
                           MODEL_NAME_BYTES - 1);
    return 0;
}

static int set_folder(struct model *model, const char *folder, struct failure *failure)
{
    char *path = path_resolve(folder);
    if (!path)
        return failure_set(failure, -errno, "%s: %s", folder, strerror(errno));
    int length = snprintf(model->folder, sizeof model->folder, "%s", path);
    free(path);
    if (length >= (int)sizeof model->folder)
        return failure_set(failure, -ENAMETOOLONG, "%.256s...: the path has more than %d bytes",
                           folder, MODEL_PATH_BYTES - 1);
    return 0;
}

static void count_bytes(struct model *model)
{
    uint64_t bytes = tensor_bytes(&model->final_norm) + tensor_bytes(&model->head);
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct model_layer *layer = &model->layers[i];
        const struct tensor *tensors[] = {
            &layer->attention_norm,
            &layer->ffn_norm,
            &layer->q,
            &layer->k,
            &layer->v,
            &layer->q_bias,
            &layer->k_bias,
            &layer->v_bias,
            &layer->o,
            &layer->gate,
            &layer->up,
            &layer->down,
            &layer->attention_post_norm,
            &layer->ffn_post_norm,
        };
        for (size_t j = 0; j < sizeof tensors / sizeof tensors[0]; j++)
            bytes += tensor_bytes(tensors[j]);
    }
    model->bytes_per_token = bytes;
    model->weights_bytes = model->weights->report.weights_bytes;
}

static int read_weights(struct model *model, const struct model_config_hints *hints,
                        const struct checkpoint *checkpoint, struct backend *backend,
                        const struct model_options *options, struct failure *failure)
{
    struct model_binding binding;
    int err = model_bind(&binding, model, hints, checkpoint, options, failure);
    if (err < 0)
        return err;
    struct weights_options reading = {
        .memory_bytes = options->memory_bytes,
        .cache = options->direct_io ? READER_PROBE : READER_CACHED,
        .progress = options->progress,
        .progress_context = options->progress_context,
        .cancel = options->cancel,
    };
    err = weights_open(&model->weights, checkpoint, model->folder, binding.wants, binding.count,
                       backend, &reading, failure);
    if (err == 0) {
        model->weights->report.ignored_tensors =
            binding.ignored_tensors + checkpoint->unlisted_count;
        model_part(model);
        count_bytes(model);
    }
    model_binding_fini(&binding);
    return err;
}

/* A folder says what the model is in config.json, a GGUF file does so itself. */
static int describe(struct model *model, struct model_config_hints *hints,
                    struct checkpoint **ret_checkpoint, struct failure *failure)
{
    bool is_file = checkpoint_is_file(model->folder);
    *hints = (struct model_config_hints){0};
    int err = is_file ? 0 : model_config_read_hints(&model->config, hints, model->folder, failure);
    if (err == 0)
        err = checkpoint_open(ret_checkpoint, model->folder, failure);
    if (err == 0 && is_file)
        err = gguf_config_read(&model->config, &(*ret_checkpoint)->ggufs[0], failure);
    return err;
}

/* What a model of this configuration has besides its weights. */
static int reserve_parts(struct model *model, const struct checkpoint *checkpoint,
                         struct failure *failure)
{
    model->layers = calloc(model->config.layers, sizeof *model->layers);
    model->rotary_frequencies =
        calloc(model->config.rotary_dims / 2, sizeof *model->rotary_frequencies);
    if (!model->layers || !model->rotary_frequencies)
        return failure_set(failure, -ENOMEM, "%s: no memory for %u layers", model->folder,
                           model->config.layers);
    model_rope_frequencies(&model->config, model->rotary_frequencies);
    return gguf_rope_stretch(&model->config, checkpoint, model->rotary_frequencies, failure);
}

static int open_path(struct model *model, const char *path, struct backend *backend,
                     const struct model_options *options, struct failure *failure)
{
    int err = set_folder(model, path, failure);
    if (err < 0)
        return err;
    struct model_config_hints hints;
    struct checkpoint *checkpoint = NULL;
    err = describe(model, &hints, &checkpoint, failure);
    if (err == 0)
        err = reserve_parts(model, checkpoint, failure);
    if (err == 0)
        err = read_weights(model, &hints, checkpoint, backend, options, failure);
    checkpoint_close(checkpoint);
    return err;
}

static int check_context(uint32_t tokens, struct failure *failure)
{
    if (tokens > MODEL_CONTEXT_MAX)
        return failure_set(failure, -EINVAL, "context_tokens: %u is not in 0 ... %d", tokens,
                           MODEL_CONTEXT_MAX);
    return 0;
}

int model_open(struct model **ret_model, const char *name, const char *folder,
               struct backend *backend, const struct model_options *options,
               struct failure *failure)
{
    int err = check_context(options->context_tokens, failure);
    if (err < 0)
        return err;
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return failure_set(failure, -ENOMEM, "%s: no memory", folder);
    err = set_name(model, name, failure);
    if (err == 0 && strcmp(folder, ECHO_FOLDER) == 0)
        fill_echo(model);
    else if (err == 0)
        err = open_path(model, folder, backend, options, failure);
    if (err < 0) {
        model_close(model, backend);
        return err;
    }
    if (options->context_tokens > 0)
        model->config.context_tokens = options->context_tokens;
    *ret_model = model;
    return 0;
}

void model_close(struct model *model, struct backend *backend)
{
    if (!model)
        return;
    weights_close(model->weights, backend);
    free(model->layers);
    free(model->rotary_frequencies);
    free(model);
}
