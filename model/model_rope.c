#include "model/model_rope.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static const double BASE_MAX = 1e12, FACTOR_MAX = 1e6;

/* A number of rope_parameters, or else of the top of the file, where it stood before. */
static int either_double(const struct json_object *parameters, const struct json_object *root,
                         const char *key, double min, double max, double fallback,
                         double *ret_value, struct failure *failure)
{
    if (parameters->object && json_field(parameters, key))
        root = parameters;
    return json_double_or(root, key, min, max, fallback, ret_value, failure);
}

static int parse_llama3(struct model_config *config, const struct json_object *scaling,
                        struct failure *failure)
{
    int err = json_double(scaling, "factor", 1, FACTOR_MAX, &config->rope_factor, failure);
    if (err < 0)
        return err;
    err = json_double(scaling, "low_freq_factor", 1e-6, FACTOR_MAX, &config->rope_low_freq_factor,
                      failure);
    if (err < 0)
        return err;
    err = json_double(scaling, "high_freq_factor", 1e-6, FACTOR_MAX, &config->rope_high_freq_factor,
                      failure);
    if (err < 0)
        return err;
    if (config->rope_high_freq_factor <= config->rope_low_freq_factor)
        return json_refuse(scaling, "high_freq_factor", -EINVAL, failure,
                           "%g must be above low_freq_factor, which is %g",
                           config->rope_high_freq_factor, config->rope_low_freq_factor);
    return json_u32(scaling, "original_max_position_embeddings", 1, MODEL_CONTEXT_MAX,
                    &config->rope_original_tokens, failure);
}

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* attention_factor as said, or from mscale and mscale_all_dim, or from the factor. */
static int parse_yarn_attention(struct model_config *config, const struct json_object *scaling,
                                struct failure *failure)
{
    double mscale, mscale_all_dim;
    int err = json_double_or(scaling, "mscale", 0, FACTOR_MAX, 0, &mscale, failure);
    if (err < 0)
        return err;
    err = json_double_or(scaling, "mscale_all_dim", 0, FACTOR_MAX, 0, &mscale_all_dim, failure);
    if (err < 0)
        return err;
    double factor = config->rope_factor, fallback = yarn_scale(factor, 1);
    if (mscale > 0 && mscale_all_dim > 0)
        fallback = yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all_dim);
    return json_double_or(scaling, "attention_factor", 1e-6, FACTOR_MAX, fallback,
                          &config->rope_attention_factor, failure);
}

static int parse_yarn(struct model_config *config, const struct json_object *scaling,
                      struct failure *failure)
{
    int err = json_double(scaling, "factor", 1, FACTOR_MAX, &config->rope_factor, failure);
    if (err < 0)
        return err;
    err = json_u32_or(scaling, "original_max_position_embeddings", 1, MODEL_CONTEXT_MAX,
                      config->context_tokens, &config->rope_original_tokens, failure);
    if (err < 0)
        return err;
    err = json_double_or(scaling, "beta_fast", 1e-6, FACTOR_MAX, 32, &config->rope_beta_fast,
                         failure);
    if (err < 0)
        return err;
    err =
        json_double_or(scaling, "beta_slow", 1e-6, FACTOR_MAX, 1, &config->rope_beta_slow, failure);
    if (err < 0)
        return err;
    bool truncate;
    err = json_bool_or(scaling, "truncate", true, &truncate, failure);
    if (err < 0)
        return err;
    if (!truncate)
        return json_refuse(scaling, "truncate", -ENOTSUP, failure, "false is not supported");
    double reach = config->rope_original_tokens * config->rope_factor;
    if (reach > config->context_tokens && reach <= MODEL_CONTEXT_MAX)
        config->context_tokens = (uint32_t)reach;
    return parse_yarn_attention(config, scaling, failure);
}

/* fallback: the type of an object that names none; NULL: it must. */
static int parse_scaling(struct model_config *config, const struct json_object *scaling,
                         const char *fallback, struct failure *failure)
{
    const char *key =
        json_field(scaling, "rope_type") || !json_field(scaling, "type") ? "rope_type" : "type";
    const char *type = NULL;
    int err = fallback ? json_string_or(scaling, key, fallback, &type, failure)
                       : json_string(scaling, key, &type, failure);
    if (err < 0)
        return err == -ENOENT ? -EINVAL : err;
    if (strcmp(type, "default") == 0)
        return 0;
    if (strcmp(type, "linear") == 0) {
        config->rope_scaling = ROPE_SCALING_LINEAR;
        return json_double(scaling, "factor", 1, FACTOR_MAX, &config->rope_factor, failure);
    }
    if (strcmp(type, "llama3") == 0) {
        config->rope_scaling = ROPE_SCALING_LLAMA3;
        return parse_llama3(config, scaling, failure);
    }
    if (strcmp(type, "yarn") == 0) {
        config->rope_scaling = ROPE_SCALING_YARN;
        return parse_yarn(config, scaling, failure);
    }
    return json_refuse(scaling, key, -ENOTSUP, failure, "%s is not supported",
                       json_quote(type).text);
}

static int parse_rotary_dims(struct model_config *config, const struct json_object *where,
                             double fraction, struct failure *failure)
{
    config->rotary_dims = (uint32_t)(config->head_dim * fraction);
    if (config->rotary_dims < 2 || config->rotary_dims % 2 != 0)
        return json_refuse(where, "partial_rotary_factor", -EINVAL, failure,
                           "%g of %u dimensions are %u, must be an even number of at least 2",
                           fraction, config->head_dim, config->rotary_dims);
    return 0;
}

int model_rope_parse(struct model_config *config, const struct json_object *root, double fraction,
                     struct failure *failure)
{
    struct json_object parameters = {0}, scaling = {0};
    int err = json_enter(root, "rope_parameters", &parameters, failure);
    if (err < 0 && err != -ENOENT)
        return err;
    err = json_enter(root, "rope_scaling", &scaling, failure);
    if (err < 0 && err != -ENOENT)
        return err;
    err = either_double(&parameters, root, "rope_theta", 1.0001, BASE_MAX, 10000,
                        &config->rope_base, failure);
    if (err < 0)
        return err;
    err = either_double(&parameters, root, "partial_rotary_factor", 1e-6, 1, fraction, &fraction,
                        failure);
    if (err < 0)
        return err;
    err = parse_rotary_dims(config, root, fraction, failure);
    if (err < 0)
        return err;
    if (parameters.object)
        err = parse_scaling(config, &parameters, "default", failure);
    else if (scaling.object)
        err = parse_scaling(config, &scaling, NULL, failure);
    return err == -ENOENT ? -EINVAL : err;
}

/* Llama 3.1: long waves are stretched, short ones are not, those between are blended. */
static double llama3_frequency(const struct model_config *config, double frequency)
{
    double wave = 2 * M_PI / frequency, tokens = config->rope_original_tokens;
    if (wave > tokens / config->rope_low_freq_factor)
        return frequency / config->rope_factor;
    if (wave < tokens / config->rope_high_freq_factor)
        return frequency;
    double smooth = (tokens / wave - config->rope_low_freq_factor) /
                    (config->rope_high_freq_factor - config->rope_low_freq_factor);
    return (1 - smooth) * frequency / config->rope_factor + smooth * frequency;
}

/* The dimension whose wave turns so many times within the original context. */
static double yarn_dimension(const struct model_config *config, double turns)
{
    return config->rotary_dims * log(config->rope_original_tokens / (turns * 2 * M_PI)) /
           (2 * log(config->rope_base));
}

/* YaRN, Peng et al. 2023, arXiv 2309.00071, section 3.2. */
static double yarn_frequency(const struct model_config *config, double frequency, uint32_t index)
{
    double low = fmax(floor(yarn_dimension(config, config->rope_beta_fast)), 0);
    double high =
        fmin(ceil(yarn_dimension(config, config->rope_beta_slow)), config->rotary_dims - 1);
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax((index - low) / (high - low), 0), 1);
    return ramp * frequency / config->rope_factor + (1 - ramp) * frequency;
}

void model_rope_frequencies(const struct model_config *config, float *frequencies)
{
    for (uint32_t i = 0; i < config->rotary_dims / 2; i++) {
        double frequency = pow(config->rope_base, -2.0 * i / config->rotary_dims);
        if (config->rope_scaling == ROPE_SCALING_LINEAR)
            frequency /= config->rope_factor;
        else if (config->rope_scaling == ROPE_SCALING_LLAMA3)
            frequency = llama3_frequency(config, frequency);
        else if (config->rope_scaling == ROPE_SCALING_YARN)
            frequency = yarn_frequency(config, frequency, i);
        frequencies[i] = (float)frequency;
    }
}
