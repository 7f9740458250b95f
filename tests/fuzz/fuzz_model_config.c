/* A config.json from anywhere: refused, or a description that the rest of the daemon can trust. */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "model/model_config.h"
#include "model/model_rope.h"
#include "tests/fuzz/fuzz.h"

static void check_config(const struct model_config *config)
{
    static float frequencies[1024];
    assert(config->layers >= 1 && config->layers <= MODEL_LAYERS_MAX);
    assert(config->kv_heads >= 1 && config->heads % config->kv_heads == 0);
    assert(config->head_dim >= 2 && config->rotary_dims <= config->head_dim);
    assert(config->rotary_dims >= 2 && config->rotary_dims % 2 == 0);
    assert(config->rotary_dims / 2 <= sizeof frequencies / sizeof frequencies[0]);
    assert(config->dim >= 1 && config->ffn_dim >= 1 && config->vocab_rows >= 1);
    assert(config->vocab_size >= 1 && config->vocab_size <= config->vocab_rows);
    assert(config->context_tokens >= 1 && config->context_tokens <= MODEL_CONTEXT_MAX);
    assert(config->norm_eps > 0 && isfinite(config->norm_eps));
    assert(config->rope_attention_factor > 0 && isfinite(config->rope_attention_factor));
    assert(config->eos_count <= MODEL_EOS_MAX);
    for (uint32_t i = 0; i < config->eos_count; i++)
        assert(config->eos_ids[i] < config->vocab_rows);
    model_rope_frequencies(config, frequencies);
    for (uint32_t i = 0; i < config->rotary_dims / 2; i++)
        assert(isfinite(frequencies[i]) && frequencies[i] >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config config;
    struct model_config_hints hints;
    struct failure failure = {""};
    if (model_config_parse(&config, &hints, (const char *)data, size, "fuzz", &failure) == 0)
        check_config(&config);
    else
        assert(failure.text[0]);
    return 0;
}
