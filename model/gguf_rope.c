/* The rotary part of a GGUF file's metadata. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/gguf_config.h"

enum { KEY_BYTES = 128 };

static const double BASE_MAX = 1e12, FACTOR_MAX = 1e6;

struct source {
    const struct gguf *gguf;
    const char *architecture;
    char *why;
    char key[KEY_BYTES];
};

/* "llama.rope.freq_base" */
static const char *key_of(struct source *source, const char *name)
{
    snprintf(source->key, sizeof source->key, "%s.rope.%s", source->architecture, name);
    return source->key;
}

#define REFUSE(source, err, format, ...)                                                    \
    gguf_refuse((source)->why, err, "%s: %s: " format, (source)->gguf->file, (source)->key, \
                __VA_ARGS__)

static int read_double(struct source *source, const char *name, double min, double max,
                       double fallback, double *ret_value)
{
    return gguf_double_or(source->gguf, key_of(source, name), min, max, fallback, ret_value,
                          source->why);
}

static int read_dims(struct source *source, struct model_config *config)
{
    int err = gguf_u32_or(source->gguf, key_of(source, "dimension_count"), 2, config->head_dim,
                          config->head_dim, &config->rotary_dims, source->why);
    if (err == 0 && config->rotary_dims % 2 != 0)
        err = REFUSE(source, -EINVAL, "%u is odd", config->rotary_dims);
    if (err == 0 && gguf_find(source->gguf, key_of(source, "dimension_sections")))
        err = REFUSE(source, -ENOTSUP, "%s", "is not supported");
    return err;
}

/* Knobs that no released model turns. */
static int check_yarn(struct source *source)
{
    double extrapolation = 1, multiplier = 0;
    int err = read_double(source, "scaling.yarn_ext_factor", -1, FACTOR_MAX, 1, &extrapolation);
    if (err == 0 && extrapolation != 1 && extrapolation != -1)
        err = REFUSE(source, -ENOTSUP, "%g is not supported", extrapolation);
    if (err == 0)
        err = read_double(source, "scaling.yarn_log_multiplier", -FACTOR_MAX, FACTOR_MAX, 0,
                          &multiplier);
    if (err == 0 && multiplier != 0)
        err = REFUSE(source, -ENOTSUP, "%g is not supported", multiplier);
    return err;
}

/* As model_rope.c has it: cosines and sines grow with the factor, the context with both. */
static int read_yarn(struct source *source, struct model_config *config)
{
    double attention = 1, yarn_attention = 1;
    int err = check_yarn(source);
    if (err == 0)
        err = gguf_u32_or(source->gguf, key_of(source, "scaling.original_context_length"), 1,
                          MODEL_CONTEXT_MAX, config->context_tokens, &config->rope_original_tokens,
                          source->why);
    if (err == 0)
        err = read_double(source, "scaling.yarn_beta_fast", 1e-6, FACTOR_MAX, 32,
                          &config->rope_beta_fast);
    if (err == 0)
        err = read_double(source, "scaling.yarn_beta_slow", 1e-6, FACTOR_MAX, 1,
                          &config->rope_beta_slow);
    if (err == 0)
        err = read_double(source, "scaling.attn_factor", 1e-6, FACTOR_MAX, 1, &attention);
    if (err == 0)
        err = read_double(source, "scaling.yarn_attn_factor", 1e-6, FACTOR_MAX, 1, &yarn_attention);
    if (err < 0)
        return err;
    config->rope_attention_factor =
        attention * yarn_attention * (0.1 * log(config->rope_factor) + 1);
    double reach = config->rope_original_tokens * config->rope_factor;
    if (reach > config->context_tokens && reach <= MODEL_CONTEXT_MAX)
        config->context_tokens = (uint32_t)reach;
    return 0;
}

/* The factor, where it stands today or stood before; 0: none. */
static int read_factor(struct source *source, double *ret_factor)
{
    double before = 0;
    int err = read_double(source, "scale_linear", 0, FACTOR_MAX, 0, &before);
    return err < 0 ? err : read_double(source, "scaling.factor", 0, FACTOR_MAX, before, ret_factor);
}

static int read_scaling(struct source *source, struct model_config *config)
{
    double factor = 0;
    int err = read_factor(source, &factor);
    if (err < 0)
        return err;
    if (factor != 0 && factor < 1)
        return REFUSE(source, -EINVAL, "%g is not 0 or in 1 ... %g", factor, FACTOR_MAX);
    const char *type = factor > 1 ? "linear" : "none";
    size_t bytes = strlen(type);
    err = gguf_string(source->gguf, key_of(source, "scaling.type"), &type, &bytes, source->why);
    if (err < 0 && err != -ENOENT)
        return err;
    bool is_linear = bytes == 6 && memcmp(type, "linear", 6) == 0;
    bool is_yarn = bytes == 4 && memcmp(type, "yarn", 4) == 0;
    if (!is_linear && !is_yarn && !(bytes == 4 && memcmp(type, "none", 4) == 0))
        return REFUSE(source, -ENOTSUP, "%s is not supported: none, linear and yarn are",
                      gguf_quote(type, bytes).text);
    if (factor == 0 || !(is_linear || is_yarn))
        return 0;
    config->rope_factor = factor;
    config->rope_scaling = is_yarn ? ROPE_SCALING_YARN : ROPE_SCALING_LINEAR;
    return is_yarn ? read_yarn(source, config) : 0;
}

int gguf_rope_read(struct model_config *config, const struct gguf *gguf, const char *architecture,
                   struct failure *failure)
{
    struct source source = {
        .gguf = gguf, .architecture = architecture, .why = failure ? failure->text : NULL};
    int err = read_dims(&source, config);
    if (err == 0)
        err = read_double(&source, "freq_base", 1.0001, BASE_MAX, 10000, &config->rope_base);
    return err < 0 ? err : read_scaling(&source, config);
}

/* ---- rope_freqs.weight ----------------------------------------------------------------------- */

static int read_factors(const struct checkpoint_file *file, const struct safetensors_tensor *tensor,
                        float *factors, struct failure *failure)
{
    for (uint64_t done = 0; done < tensor->bytes;) {
        ssize_t got = pread(file->fd, (char *)factors + done, tensor->bytes - done,
                            (off_t)(tensor->offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failure_set(failure, -errno, "%s: tensor \"%s\": %s", file->path, tensor->name,
                               strerror(errno));
        if (got == 0)
            return failure_set(failure, -ESTALE,
                               "%s: tensor \"%s\": the file ends at %llu, it shrank while it was "
                               "read",
                               file->path, tensor->name, (unsigned long long)tensor->offset + done);
        done += (uint64_t)got;
    }
    return 0;
}

int gguf_rope_stretch(const struct model_config *config, const struct checkpoint *checkpoint,
                      float *frequencies, struct failure *failure)
{
    const struct safetensors_tensor *tensor =
        config->gguf ? checkpoint_find(checkpoint, GGUF_ROPE_FACTORS) : NULL;
    uint32_t count = config->rotary_dims / 2;
    if (!tensor)
        return 0;
    const struct checkpoint_file *file = &checkpoint->files[tensor->file_index];
    if (tensor->source_type != GGUF_F32 || tensor->dimensions != 1 || tensor->shape[0] != count)
        return failure_set(failure, -EINVAL, "%s: tensor \"%s\": has %llu of %s, must be %u of F32",
                           file->path, tensor->name, (unsigned long long)tensor->shape[0],
                           tensor->type, count);
    float *factors = malloc(tensor->bytes);
    if (!factors)
        return failure_set(failure, -ENOMEM, "%s: tensor \"%s\": no memory", file->path,
                           tensor->name);
    int err = read_factors(file, tensor, factors, failure);
    for (uint32_t i = 0; i < count && err == 0; i++) {
        if (!(factors[i] >= 1e-6F && factors[i] <= 1e6F))
            err = failure_set(failure, -EINVAL,
                              "%s: tensor \"%s\": factor %u is %g, must be in "
                              "1e-6 ... 1e6",
                              file->path, tensor->name, i, (double)factors[i]);
        else
            frequencies[i] /= factors[i];
    }
    free(factors);
    return err;
}
