/* Models drawn at random: their weights' bytes, and that they compute. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "model/forward.h"
#include "model/model_synthetic.h"
#include "tests/support/test.h"

enum { PROMPT = 12 };

static const enum tensor_type types[] = {
    TENSOR_F32,      TENSOR_F16,       TENSOR_BF16, TENSOR_Q8,     TENSOR_Q8_MIN,
    TENSOR_Q8_SUPER, TENSOR_Q8_HALVES, TENSOR_Q4,   TENSOR_Q4_MIN, TENSOR_Q4_SUPER,
};

enum { TYPES = sizeof types / sizeof types[0] };

/* Small, with odd numbers where they may be odd. */
static struct model_config small(bool tied)
{
    return (struct model_config){.architecture = MODEL_GLM,
                                 .layers = 3,
                                 .dim = 64,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 16,
                                 .ffn_dim = 172,
                                 .vocab_rows = 200,
                                 .vocab_size = 200,
                                 .context_tokens = 64,
                                 .norm_eps = 1e-5f,
                                 .qkv_bias = true,
                                 .sandwich_norms = true,
                                 .tied_head = tied,
                                 .rotary_dims = 8,
                                 .rope_base = 10000,
                                 .rope_factor = 1,
                                 .rope_attention_factor = 1};
}

static struct backend *open_backend(void)
{
    struct backend *backend;
    const char *why = "";
    assert_int_equal(
        backend_open(&backend, &(struct backend_options){.device = "cpu", .threads = 2}, &why), 0);
    return backend;
}

static struct model *open_model(struct backend *backend, const struct model_config *config,
                                enum tensor_type type, enum tensor_type head_type)
{
    struct model_synthetic_options options = {
        .name = "small", .type = type, .head_type = head_type, .seed = 7};
    struct model *model;
    assert_int_equal(model_synthetic_open(&model, config, &options, backend), 0);
    return model;
}

/* The logits behind a prompt. */
static void run_prompt(const struct model *model, struct backend *backend, float *ret_logits)
{
    struct forward_options options = {.rows_max = PROMPT,
                                      .logits_max = 1,
                                      .cache_type = TENSOR_F16,
                                      .cache_blocks = 1,
                                      .block_tokens = 16};
    uint32_t ids[PROMPT], positions[PROMPT], sequences[PROMPT] = {0}, block = 0, last = PROMPT - 1;
    for (uint32_t i = 0; i < PROMPT; i++) {
        ids[i] = i * 16;
        positions[i] = i;
    }
    struct batch batch = {.rows = PROMPT,
                          .ids = ids,
                          .positions = positions,
                          .sequences = sequences,
                          .sequence_count = 1,
                          .block_tables = &block,
                          .table_stride = 1};
    struct forward *forward;
    const float *logits;
    assert_int_equal(forward_open(&forward, model, backend, &options), 0);
    assert_int_equal(forward_run(forward, &batch, &last, 1, &logits), 0);
    memcpy(ret_logits, logits, model->config.vocab_rows * sizeof *logits);
    forward_close(forward);
}

/* Not only numbers: of the size that variance 1 gives, and not all the same. */
static void assert_logits_make_sense(const float *logits, uint32_t count)
{
    double squares = 0;
    for (uint32_t i = 0; i < count; i++) {
        assert_true(isfinite(logits[i]));
        squares += (double)logits[i] * logits[i];
    }
    double size = sqrt(squares / count);
    assert_true(size > 0.3 && size < 3);
    assert_true(logits[0] != logits[1]);
}

static void weights_of_every_type_give_logits_of_a_fair_size(void **state)
{
    struct backend *backend = open_backend();
    for (int i = 0; i < TYPES; i++)
        for (int tied = 0; tied < 2; tied++) {
            struct model_config config = small(tied);
            struct model *model = open_model(backend, &config, types[i], types[i]);
            float logits[200];
            assert_int_equal(model->layers[2].up.type, types[i]);
            run_prompt(model, backend, logits);
            assert_logits_make_sense(logits, 200);
            model_close(model, backend);
        }
    backend_close(backend);
}

/* By hand, for q4 with a head of q8_halves. A strip of 16 rows of 64 columns is one unit of q4: a
 * header of 64 bytes and two groups of 256; of 172 columns, three units. A strip of q8_halves has
 * units of 256 columns: a header of 320 and 8 groups of 512. */
static void its_bytes_are_those_of_the_packed_form(void **state)
{
    enum { STRIP = 64 + 2 * 256, HEAD_STRIP = 320 + 8 * 512 };
    const uint64_t q = 4 * STRIP, k = 2 * STRIP, o = 4 * STRIP;
    const uint64_t gate = 11 * STRIP, down = 4 * 3 * STRIP; /* 172 rows: 11 strips */
    const uint64_t vectors = 4 * (4 * 64 + 64 + 2 * 32);    /* four norms, three biases */
    const uint64_t layer = q + 2 * k + o + 2 * gate + down + vectors;
    const uint64_t head = 13 * HEAD_STRIP, norm = 4 * 64; /* 200 rows: 13 strips */
    struct backend *backend = open_backend();

    struct model_config config = small(false);
    struct model *model = open_model(backend, &config, TENSOR_Q4, TENSOR_Q8_HALVES);
    assert_int_equal(model->bytes_per_token, 3 * layer + head + norm);
    assert_int_equal(model->weights_bytes, 3 * layer + head + norm + 13 * STRIP);
    model_close(model, backend);

    config = small(true);
    model = open_model(backend, &config, TENSOR_Q4, TENSOR_Q8_HALVES);
    assert_int_equal(model->bytes_per_token, 3 * layer + head + norm);
    assert_int_equal(model->weights_bytes, 3 * layer + head + norm);
    assert_ptr_equal(model->head.data, model->embedding.data);
    model_close(model, backend);
    backend_close(backend);
}

static void the_memory_foretold_is_the_memory_taken(void **state)
{
    struct backend *backend = open_backend();
    struct model_config config = small(false);
    struct model_synthetic_options options = {
        .name = "small", .type = TENSOR_BF16, .head_type = TENSOR_F32};
    struct model *model = open_model(backend, &config, TENSOR_BF16, TENSOR_F32);
    /* Each tensor is a whole number of cache lines here: there are no gaps. */
    assert_int_equal(model_synthetic_bytes(&config, &options), model->weights_bytes);
    model_close(model, backend);
    backend_close(backend);
}

static void the_same_seed_draws_the_same_weights(void **state)
{
    struct backend *backend = open_backend();
    struct model_config config = small(false);
    float once[200], again[200];
    struct model *model = open_model(backend, &config, TENSOR_Q4_SUPER, TENSOR_Q8);
    run_prompt(model, backend, once);
    model_close(model, backend);
    model = open_model(backend, &config, TENSOR_Q4_SUPER, TENSOR_Q8);
    run_prompt(model, backend, again);
    model_close(model, backend);
    assert_memory_equal(once, again, sizeof once);
    backend_close(backend);
}

static void drawing_can_be_called_off(void **state)
{
    struct backend *backend = open_backend();
    struct model_config config = small(false);
    atomic_bool cancel = true;
    for (int i = 0; i < TYPES; i++) {
        struct model_synthetic_options options = {
            .name = "small", .type = types[i], .head_type = types[i], .cancel = &cancel};
        struct model *model = NULL;
        assert_int_equal(model_synthetic_open(&model, &config, &options, backend), -ECANCELED);
        assert_null(model);
    }
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_of_every_type_give_logits_of_a_fair_size),
        cmocka_unit_test(its_bytes_are_those_of_the_packed_form),
        cmocka_unit_test(the_memory_foretold_is_the_memory_taken),
        cmocka_unit_test(the_same_seed_draws_the_same_weights),
        cmocka_unit_test(drawing_can_be_called_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
