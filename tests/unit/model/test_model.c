#include "tests/support/test.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"
#include "model/weights.h"
#include "tests/support/model_files.h"
#include "tests/support/model_stand.h"
#include "tests/support/packed_tensors.h"

enum { Q_ROWS = TEST_MODEL_HEADS * TEST_MODEL_HEAD_DIM };
enum { KV_ROWS = TEST_MODEL_KV_HEADS * TEST_MODEL_HEAD_DIM };

static struct model *open_model(struct model_stand *fixture, const struct model_options *options)
{
    struct model *model = NULL;
    struct failure failure = {""};
    int descriptors = test_open_descriptors();
    if (model_open(&model, "tiny", fixture->folder, fixture->backend, options, &failure) < 0)
        fail_msg("%s", failure.text);
    assert_int_equal(test_open_descriptors(), descriptors);
    return model;
}

/* Writes the model and expects the refusal. */
static void refuses(struct model_stand *fixture, const struct test_model *written, int wanted,
                    const char *words)
{
    struct model *model = NULL;
    struct failure failure = {""};
    test_write_model(fixture->folder, written);
    int err = model_open(&model, "tiny", fixture->folder, fixture->backend,
                         &(struct model_options){0}, &failure);
    if (err != wanted || !strstr(failure.text, words) || !strstr(failure.text, fixture->folder))
        fail_msg("%d \"%s\", wanted %d with \"%s\"", err, failure.text, wanted, words);
    assert_null(model);
}

/* The tensor is `rows` x `cols`, and its bytes are those of the named one from `first` on. */
static void check_tensor(const struct tensor *tensor, uint32_t rows, uint32_t cols,
                         const char *name, uint64_t first)
{
    assert_non_null(tensor->data);
    assert_int_equal(tensor->rows, rows);
    assert_int_equal(tensor->cols, cols);
    assert_int_equal((uintptr_t)tensor->data % tensor_type_bytes(tensor->type), 0);
    const unsigned char *bytes = tensor->data;
    first *= tensor_type_bytes(tensor->type);
    for (uint64_t i = 0; i < tensor_bytes(tensor); i++)
        if (bytes[i] != test_tensor_byte(name, first + i))
            fail_msg("%s: byte %llu differs", name, (unsigned long long)i);
}

static void check_chatglm(const struct model *model, bool bias)
{
    const struct model_layer *layer = &model->layers[1];
    const char *qkv = "transformer.encoder.layers.1.self_attention.query_key_value.weight";
    const char *qkv_bias = "transformer.encoder.layers.1.self_attention.query_key_value.bias";
    const char *gate = "transformer.encoder.layers.1.mlp.dense_h_to_4h.weight";
    const uint64_t dim = TEST_MODEL_DIM;
    check_tensor(&layer->q, Q_ROWS, dim, qkv, 0);
    check_tensor(&layer->k, KV_ROWS, dim, qkv, Q_ROWS * dim);
    check_tensor(&layer->v, KV_ROWS, dim, qkv, (Q_ROWS + KV_ROWS) * dim);
    if (bias) {
        check_tensor(&layer->q_bias, 1, Q_ROWS, qkv_bias, 0);
        check_tensor(&layer->k_bias, 1, KV_ROWS, qkv_bias, Q_ROWS);
        check_tensor(&layer->v_bias, 1, KV_ROWS, qkv_bias, Q_ROWS + KV_ROWS);
    }
    check_tensor(&layer->gate, TEST_MODEL_FFN, dim, gate, 0);
    check_tensor(&layer->up, TEST_MODEL_FFN, dim, gate, TEST_MODEL_FFN * dim);
    check_tensor(&layer->down, dim, TEST_MODEL_FFN,
                 "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight", 0);
    check_tensor(&layer->o, dim, Q_ROWS, "transformer.encoder.layers.1.self_attention.dense.weight",
                 0);
    check_tensor(&model->final_norm, 1, dim, "transformer.encoder.final_layernorm.weight", 0);
    check_tensor(&model->head, TEST_MODEL_VOCAB, dim, "transformer.output_layer.weight", 0);
}

static void check_hf(const struct model *model, bool bias)
{
    const struct model_layer *layer = &model->layers[1];
    const uint64_t dim = TEST_MODEL_DIM;
    check_tensor(&layer->attention_norm, 1, dim, "model.layers.1.input_layernorm.weight", 0);
    check_tensor(&layer->ffn_norm, 1, dim, "model.layers.1.post_attention_layernorm.weight", 0);
    check_tensor(&layer->q, Q_ROWS, dim, "model.layers.1.self_attn.q_proj.weight", 0);
    check_tensor(&layer->k, KV_ROWS, dim, "model.layers.1.self_attn.k_proj.weight", 0);
    check_tensor(&layer->v, KV_ROWS, dim, "model.layers.1.self_attn.v_proj.weight", 0);
    if (bias) {
        check_tensor(&layer->q_bias, 1, Q_ROWS, "model.layers.1.self_attn.q_proj.bias", 0);
        check_tensor(&layer->k_bias, 1, KV_ROWS, "model.layers.1.self_attn.k_proj.bias", 0);
        check_tensor(&layer->v_bias, 1, KV_ROWS, "model.layers.1.self_attn.v_proj.bias", 0);
    }
    check_tensor(&layer->o, dim, Q_ROWS, "model.layers.1.self_attn.o_proj.weight", 0);
    check_tensor(&layer->down, dim, TEST_MODEL_FFN, "model.layers.1.mlp.down_proj.weight", 0);
    check_tensor(&model->embedding, TEST_MODEL_VOCAB, dim, "model.embed_tokens.weight", 0);
    check_tensor(&model->final_norm, 1, dim, "model.norm.weight", 0);
    if (strncmp(model->config.architecture_name, "Glm", 3) == 0) {
        const char *gate = "model.layers.1.mlp.gate_up_proj.weight";
        check_tensor(&layer->gate, TEST_MODEL_FFN, dim, gate, 0);
        check_tensor(&layer->up, TEST_MODEL_FFN, dim, gate, TEST_MODEL_FFN * dim);
    } else {
        check_tensor(&layer->gate, TEST_MODEL_FFN, dim, "model.layers.1.mlp.gate_proj.weight", 0);
        check_tensor(&layer->up, TEST_MODEL_FFN, dim, "model.layers.1.mlp.up_proj.weight", 0);
    }
}

static void open_and_check(struct model_stand *fixture, const struct test_model *written)
{
    test_write_model(fixture->folder, written);
    struct model *model =
        open_model(fixture, &(struct model_options){.direct_io = written->shards % 2});
    assert_string_equal(model->config.architecture_name, written->architecture);
    assert_int_equal(model->config.qkv_bias, written->bias);
    assert_int_equal(model->config.tied_head, written->tied);
    if (written->bias)
        assert_non_null(model->layers[0].v_bias.data);
    else
        assert_null(model->layers[0].v_bias.data);
    if (model->config.architecture == MODEL_CHATGLM)
        check_chatglm(model, written->bias);
    else
        check_hf(model, written->bias);
    if (written->tied)
        assert_ptr_equal(model->head.data, model->embedding.data);
    assert_int_equal(model->config.sandwich_norms, model->config.architecture == MODEL_GLM4);
    if (model->config.sandwich_norms) {
        check_tensor(&model->layers[0].attention_post_norm, 1, TEST_MODEL_DIM,
                     "model.layers.0.post_self_attn_layernorm.weight", 0);
        check_tensor(&model->layers[1].ffn_post_norm, 1, TEST_MODEL_DIM,
                     "model.layers.1.post_mlp_layernorm.weight", 0);
    }
    uint64_t embedding = tensor_bytes(&model->embedding);
    assert_true(model->weights_bytes == model->bytes_per_token + (written->tied ? 0 : embedding));
    assert_int_equal(model->weights->report.ignored_tensors, 0);
    model_close(model, fixture->backend);
}

static void every_architecture_type_and_cut_is_bound_byte_for_byte(void **state)
{
    static const char *const architectures[] = {"ChatGLMModel", "GlmForCausalLM", "Glm4ForCausalLM",
                                                "LlamaForCausalLM", "Qwen2ForCausalLM"};
    static const char *const types[] = {"F32", "F16", "BF16"};
    for (size_t i = 0; i < 5; i++)
        for (unsigned kind = 0; kind < 6; kind++) {
            char folder[4096];
            struct model_stand fixture = *(struct model_stand *)*state;
            test_folder(folder);
            memcpy(fixture.folder, folder, sizeof folder);
            open_and_check(&fixture, &(struct test_model){
                                         .architecture = architectures[i],
                                         .type = types[(i + kind) % 3],
                                         .bias = kind % 2,
                                         .tied = i > 0 && kind == 2,
                                         .shards = kind < 3 ? 0 : kind,
                                         .remainder = kind % 2 ? kind : 0,
                                     });
            test_remove_folder(folder);
        }
}

static void each_tensor_has_its_own_type(void **state)
{
    struct model_stand *fixture = *state;
    static const struct test_tensor norm = {"model.norm.weight", "F32", 1, {TEST_MODEL_DIM}};
    test_write_model(
        fixture->folder,
        &(struct test_model){.architecture = "GlmForCausalLM", .type = "BF16", .change = &norm});
    struct model *model = open_model(fixture, &(struct model_options){0});
    assert_int_equal(model->final_norm.type, TENSOR_F32);
    assert_int_equal(model->head.type, TENSOR_BF16);
    model_close(model, fixture->backend);
}

static void a_tied_model_leaves_a_head_in_its_file_alone(void **state)
{
    struct model_stand *fixture = *state;
    test_write_model(fixture->folder,
                     &(struct test_model){.architecture = "GlmForCausalLM",
                                          .extra = "\"tie_word_embeddings\": true, "});
    struct model *model = open_model(fixture, &(struct model_options){0});
    assert_true(model->config.tied_head);
    assert_ptr_equal(model->head.data, model->embedding.data);
    assert_int_equal(model->weights->report.ignored_tensors, 1);
    model_close(model, fixture->backend);
}

static void missing_tensors_are_named(void **state)
{
    struct model_stand *fixture = *state;
    static const char *const names[] = {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.bias",
        "model.layers.1.mlp.gate_up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.post_mlp_layernorm.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct test_tensor none = {.type = NULL};
        char words[160];
        snprintf(none.name, sizeof none.name, "%s", names[i]);
        snprintf(words, sizeof words, "tensor \"%s\" is missing", names[i]);
        refuses(
            fixture,
            &(struct test_model){.architecture = "Glm4ForCausalLM", .bias = true, .change = &none},
            -EINVAL, words);
    }
    refuses(fixture,
            &(struct test_model){.architecture = "GlmForCausalLM",
                                 .tied = true,
                                 .extra = "\"tie_word_embeddings\": false, "},
            -EINVAL, "tensor \"lm_head.weight\" is missing");
    refuses(fixture,
            &(struct test_model){.architecture = "GlmForCausalLM",
                                 .extra = "\"attention_bias\": true, "},
            -EINVAL, "tensor \"model.layers.0.self_attn.q_proj.bias\" is missing");
}

static void refuses_change(struct model_stand *fixture, const struct test_tensor *change,
                           int wanted, const char *words)
{
    refuses(fixture, &(struct test_model){.architecture = "LlamaForCausalLM", .change = change},
            wanted, words);
}

static void shapes_and_types_are_held_against_the_description(void **state)
{
    struct model_stand *fixture = *state;
    refuses_change(fixture, &(struct test_tensor){"model.norm.weight", "F32", 1, {63}}, -EINVAL,
                   "tensor \"model.norm.weight\": shape is [63], config.json asks for [64]");
    refuses_change(fixture, &(struct test_tensor){"model.norm.weight", "F32", 2, {1, 64}}, -EINVAL,
                   "shape is [1, 64], config.json asks for [64]");
    refuses_change(fixture, &(struct test_tensor){"lm_head.weight", "F32", 2, {64, 128}}, -EINVAL,
                   "shape is [64, 128], config.json asks for [128, 64]");
    refuses_change(fixture, &(struct test_tensor){"lm_head.weight", "F32", 1, {8192}}, -EINVAL,
                   "shape is [8192]");
    refuses_change(
        fixture,
        &(struct test_tensor){"model.layers.0.self_attn.q_proj.weight", "F64", 2, {64, 64}},
        -ENOTSUP, "q_proj.weight\": dtype F64 is not supported");
    refuses_change(
        fixture, &(struct test_tensor){"model.layers.0.mlp.up_proj.weight", "F8_E4M3", 2, {96, 64}},
        -ENOTSUP, "up_proj.weight\": dtype F8_E4M3 is not supported");
}

static void what_would_change_a_layer_is_refused_and_the_rest_is_counted(void **state)
{
    struct model_stand *fixture = *state;
    refuses_change(fixture,
                   &(struct test_tensor){"model.layers.1.self_attn.o_proj.bias", "F32", 1, {64}},
                   -ENOTSUP,
                   "tensor \"model.layers.1.self_attn.o_proj.bias\": a layer of LlamaForCausalLM "
                   "has no place for it");
    refuses_change(fixture,
                   &(struct test_tensor){"model.layers.0.mlp.up_proj.weight_scale", "F32", 1, {1}},
                   -ENOTSUP, "has no place");
    static const struct {
        struct test_tensor tensor;
        size_t ignored;
    } others[] = {
        {{"model.layers.2.mlp.up_proj.weight", "I8", 1, {5}}, 1},
        {{"visual.patch.weight", "F32", 1, {5}}, 1},
        {{"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, {8}}, 0},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        test_write_model(fixture->folder, &(struct test_model){.architecture = "LlamaForCausalLM",
                                                               .change = &others[i].tensor});
        struct model *model = open_model(fixture, &(struct model_options){0});
        assert_int_equal(model->weights->report.ignored_tensors, others[i].ignored);
        check_hf(model, false);
        model_close(model, fixture->backend);
    }
}

static void memory_is_computed_first_and_refused_with_both_figures(void **state)
{
    struct model_stand *fixture = *state;
    test_write_model(fixture->folder, &(struct test_model){.architecture = "GlmForCausalLM"});
    struct model *model = open_model(fixture, &(struct model_options){0});
    uint64_t needed = model->weights->memory_bytes;
    assert_true(needed >= model->weights_bytes && needed < model->weights_bytes + 3 * 4096);
    model_close(model, fixture->backend);
    model = open_model(fixture, &(struct model_options){.memory_bytes = needed});
    model_close(model, fixture->backend);
    model = NULL;
    struct failure failure;
    assert_int_equal(model_open(&model, "tiny", fixture->folder, fixture->backend,
                                &(struct model_options){.memory_bytes = needed - 1}, &failure),
                     -ENOMEM);
    char words[100];
    snprintf(words, sizeof words, "needs %.3g GB of memory, %.3g GB are available: /",
             (double)needed * 1e-9, (double)(needed - 1) * 1e-9);
    assert_non_null(strstr(failure.text, words));
    assert_null(model);
}

struct watch {
    uint64_t done_bytes, total_bytes;
    atomic_bool cancel;
};

static void watch_and_cancel(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    struct watch *watch = context;
    watch->done_bytes = done_bytes;
    watch->total_bytes = total_bytes;
    atomic_store(&watch->cancel, true);
}

static void opening_tells_its_progress_and_can_be_cancelled(void **state)
{
    struct model_stand *fixture = *state;
    test_write_model(fixture->folder,
                     &(struct test_model){.architecture = "GlmForCausalLM", .shards = 3});
    struct watch watch = {0};
    struct model *model = open_model(
        fixture, &(struct model_options){.progress = watch_and_cancel, .progress_context = &watch});
    assert_true(watch.total_bytes >= model->weights_bytes);
    assert_int_equal(watch.done_bytes, watch.total_bytes);
    model_close(model, fixture->backend);
    struct failure failure = {""};
    assert_int_equal(model_open(&model, "tiny", fixture->folder, fixture->backend,
                                &(struct model_options){.cancel = &watch.cancel}, &failure),
                     -ECANCELED);
    assert_non_null(strstr(failure.text, ": reading the weights was cancelled"));
    assert_non_null(strstr(failure.text, fixture->folder));
}

static void the_context_is_the_models_or_what_is_asked_for(void **state)
{
    struct model_stand *fixture = *state;
    test_write_model(fixture->folder, &(struct test_model){.architecture = "GlmForCausalLM"});
    struct model *model = open_model(fixture, &(struct model_options){0});
    assert_int_equal(model->config.context_tokens, 256);
    model_close(model, fixture->backend);
    model = open_model(fixture, &(struct model_options){.context_tokens = 64});
    assert_int_equal(model->config.context_tokens, 64);
    assert_string_equal(model->name, "tiny");
    assert_int_equal(model->folder[0], '/');
    model_close(model, fixture->backend);
    struct failure failure;
    assert_int_equal(model_open(&model, "tiny", fixture->folder, fixture->backend,
                                &(struct model_options){.context_tokens = UINT32_MAX}, &failure),
                     -EINVAL);
    assert_non_null(strstr(failure.text, "context_tokens: 4294967295"));
}

static void the_echo_model_has_no_weights(void **state)
{
    struct model_stand *fixture = *state;
    struct model *model = NULL;
    struct failure failure;
    assert_int_equal(
        model_open(&model, "echo", "echo:", fixture->backend, &(struct model_options){0}, &failure),
        0);
    assert_int_equal(model->config.architecture, MODEL_ECHO);
    assert_int_equal(model->config.vocab_rows, 65536);
    assert_int_equal(model->config.vocab_size, 65536);
    assert_int_equal(model->config.context_tokens, 32768);
    assert_int_equal(model->config.eos_count, 0);
    assert_null(model->layers);
    assert_string_equal(model->folder, "");
    model_close(model, fixture->backend);
    assert_int_equal(model_open(&model, "echo", "echo:", fixture->backend,
                                &(struct model_options){.context_tokens = 100}, &failure),
                     0);
    assert_int_equal(model->config.context_tokens, 100);
    model_close(model, fixture->backend);
    model_close(NULL, fixture->backend);
}

static void names_and_folders_are_bounded(void **state)
{
    struct model_stand *fixture = *state;
    struct model *model = NULL;
    struct failure failure;
    char name[MODEL_NAME_BYTES + 1];
    memset(name, 'n', sizeof name - 1);
    name[MODEL_NAME_BYTES] = 0;
    assert_int_equal(
        model_open(&model, name, "echo:", fixture->backend, &(struct model_options){0}, &failure),
        -EINVAL);
    assert_int_equal(model_open(&model, "x", "/no/such/folder", fixture->backend,
                                &(struct model_options){0}, &failure),
                     -ENOENT);
    assert_string_equal(failure.text, "/no/such/folder: No such file or directory");
    assert_int_equal(model_open(&model, "x", fixture->folder, fixture->backend,
                                &(struct model_options){0}, &failure),
                     -ENOENT);
    assert_non_null(strstr(failure.text, "config.json: No such file or directory"));
    assert_null(model);
}

/* ---- quantised at load ----------------------------------------------------------------------- */

static const char HF_EMBEDDING[] = "model.embed_tokens.weight", HF_HEAD[] = "lm_head.weight";

static void matrices_are_quantised_if_the_options_say_so(void **state)
{
    static const enum tensor_type quants[] = {TENSOR_Q8, TENSOR_Q8_MIN, TENSOR_Q4, TENSOR_Q4_MIN};
    for (int i = 0; i < 4; i++) {
        const struct test_model written = {
            .architecture = "LlamaForCausalLM", .type = i % 2 ? "F16" : "F32", .remainder = 2};
        enum gguf_type type = i % 2 ? GGUF_F16 : GGUF_F32;
        test_write_model(((struct model_stand *)*state)->folder, &written);
        struct model *model = open_model(*state, &(struct model_options){.quant = quants[i]});
        const struct model_layer *layer = &model->layers[1];
        test_check_packed(&layer->q, quants[i], "model.layers.1.self_attn.q_proj.weight", type, 0);
        test_check_packed(&layer->o, quants[i], "model.layers.1.self_attn.o_proj.weight", type, 0);
        test_check_packed(&layer->up, quants[i], "model.layers.1.mlp.up_proj.weight", type, 0);
        test_check_packed(&layer->down, quants[i], "model.layers.1.mlp.down_proj.weight", type, 0);
        test_check_packed(&model->head, TENSOR_Q8, HF_HEAD, type, 0);
        test_check_packed(&model->embedding, TENSOR_Q8, HF_EMBEDDING, type, 0);
        assert_false(tensor_type_is_packed(model->final_norm.type));
        assert_false(tensor_type_is_packed(layer->attention_norm.type));
        assert_true(model->weights_bytes ==
                    model->bytes_per_token + tensor_bytes(&model->embedding));
        model_close(model, ((struct model_stand *)*state)->backend);
    }
}

static void fused_matrices_are_quantised_part_by_part(void **state)
{
    struct model_stand *fixture = *state;
    test_write_model(fixture->folder,
                     &(struct test_model){.architecture = "ChatGLMModel", .bias = true});
    struct model *model = open_model(fixture, &(struct model_options){.quant = TENSOR_Q4});
    const struct model_layer *layer = &model->layers[0];
    const char *qkv = "transformer.encoder.layers.0.self_attention.query_key_value.weight";
    test_check_packed(&layer->q, TENSOR_Q4, qkv, GGUF_F32, 0);
    test_check_packed(&layer->k, TENSOR_Q4, qkv, GGUF_F32, Q_ROWS);
    test_check_packed(&layer->v, TENSOR_Q4, qkv, GGUF_F32, Q_ROWS + KV_ROWS);
    test_check_packed(&layer->up, TENSOR_Q4,
                      "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight", GGUF_F32,
                      TEST_MODEL_FFN);
    assert_int_equal(layer->v_bias.cols, KV_ROWS);
    assert_ptr_equal(layer->v_bias.data, (const float *)layer->q_bias.data + Q_ROWS + KV_ROWS);
    model_close(model, fixture->backend);
}

static void head_and_embedding_go_where_the_options_say(void **state)
{
    static const struct {
        enum model_wide head, embedding;
        bool tied;
        enum tensor_type head_type, embedding_type;
    } cases[] = {
        {MODEL_WIDE_Q8, MODEL_WIDE_Q8, false, TENSOR_Q8, TENSOR_Q8},
        {MODEL_WIDE_KEEP, MODEL_WIDE_QUANT, false, TENSOR_F32, TENSOR_Q4_MIN},
        {MODEL_WIDE_QUANT, MODEL_WIDE_KEEP, false, TENSOR_Q4_MIN, TENSOR_F32},
        {MODEL_WIDE_QUANT, MODEL_WIDE_QUANT, true, TENSOR_Q4_MIN, TENSOR_Q4_MIN},
        {MODEL_WIDE_Q8, MODEL_WIDE_QUANT, true, TENSOR_Q8, TENSOR_Q8},
        {MODEL_WIDE_QUANT, MODEL_WIDE_Q8, true, TENSOR_Q8, TENSOR_Q8},
        {MODEL_WIDE_Q8, MODEL_WIDE_KEEP, true, TENSOR_F32, TENSOR_F32},
        {MODEL_WIDE_KEEP, MODEL_WIDE_QUANT, true, TENSOR_F32, TENSOR_F32},
        {MODEL_WIDE_KEEP, MODEL_WIDE_Q8, true, TENSOR_F32, TENSOR_F32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_write_model(
            ((struct model_stand *)*state)->folder,
            &(struct test_model){.architecture = "LlamaForCausalLM", .tied = cases[i].tied});
        struct model *model =
            open_model(*state, &(struct model_options){.quant = TENSOR_Q4_MIN,
                                                       .quant_head = cases[i].head,
                                                       .quant_embedding = cases[i].embedding});
        assert_int_equal(model->head.type, cases[i].head_type);
        assert_int_equal(model->embedding.type, cases[i].embedding_type);
        assert_int_equal(model->layers[0].q.type, TENSOR_Q4_MIN);
        if (cases[i].tied)
            assert_ptr_equal(model->head.data, model->embedding.data);
        model_close(model, ((struct model_stand *)*state)->backend);
    }
}

/* A backend whose memory the host cannot write: what arrives must have come by upload. */
struct far_backend {
    struct backend base;
    struct backend_ops ops;
    struct backend *near;
    uint64_t uploaded_bytes;
};

static int far_alloc(struct backend *backend, uint64_t bytes, void **ret_memory)
{
    struct backend *near = ((struct far_backend *)backend)->near;
    return near->ops->alloc(near, bytes, ret_memory);
}

static void far_free(struct backend *backend, void *memory, uint64_t bytes)
{
    struct backend *near = ((struct far_backend *)backend)->near;
    near->ops->free(near, memory, bytes);
}

static int far_upload(struct backend *backend, void *to, const void *from, uint64_t bytes)
{
    ((struct far_backend *)backend)->uploaded_bytes += bytes;
    memcpy(to, from, bytes);
    return 0;
}

static void memory_of_a_device_is_filled_by_uploads(void **state)
{
    struct model_stand *fixture = *state;
    struct far_backend far = {.near = fixture->backend};
    far.ops = (struct backend_ops){
        .name = "far", .alloc = far_alloc, .free = far_free, .upload = far_upload};
    far.base.ops = &far.ops;
    test_write_model(fixture->folder, &(struct test_model){.architecture = "Glm4ForCausalLM",
                                                           .type = "F16",
                                                           .bias = true,
                                                           .shards = 2,
                                                           .remainder = 3});
    struct model *model = NULL;
    struct failure failure;
    assert_int_equal(model_open(&model, "tiny", fixture->folder, &far.base,
                                &(struct model_options){.direct_io = true}, &failure),
                     0);
    assert_true(far.uploaded_bytes >= model->weights_bytes);
    check_hf(model, true);
    model_close(model, &far.base);
}

static void the_shared_stories_model_opens(void **state)
{
    struct model_stand *fixture = *state;
    char folder[4096];
    if (!test_shared_data("stories260k-glm", folder))
        skip();
    struct model *model = NULL;
    struct failure failure = {""};
    if (model_open(&model, "stories", folder, fixture->backend,
                   &(struct model_options){.direct_io = true}, &failure) < 0)
        fail_msg("%s", failure.text);
    assert_int_equal(model->config.layers, 5);
    assert_int_equal(model->config.kv_heads, 4);
    assert_true(model->config.tied_head);
    assert_int_equal(model->bytes_per_token, model->weights_bytes);
    model_close(model, fixture->backend);
}

/* Opens every folder below tests/data/models that has a config.json. */
static void the_reference_models_open(void **state)
{
    struct model_stand *fixture = *state;
    glob_t found;
    int opened = 0;
    if (glob(AGL_SOURCE_DIR "/tests/data/models/*/config.json", 0, NULL, &found) != 0) {
        fprintf(stderr, "*** SKIPPED: there are no models in tests/data/models\n");
        skip();
    }
    for (size_t i = 0; i < found.gl_pathc; i++, opened++) {
        *strrchr(found.gl_pathv[i], '/') = 0;
        struct model *model = NULL;
        struct failure failure = {""};
        if (model_open(&model, "reference", found.gl_pathv[i], fixture->backend,
                       &(struct model_options){.direct_io = true}, &failure) < 0)
            fail_msg("%s", failure.text);
        assert_int_equal(model->weights->report.ignored_tensors, 0);
        model_close(model, fixture->backend);
    }
    globfree(&found);
    assert_true(opened > 0);
}

int main(void)
{
#define WITH_BACKEND(test) \
    cmocka_unit_test_setup_teardown(test, model_stand_set_up, model_stand_tear_down)
    const struct CMUnitTest tests[] = {
        WITH_BACKEND(every_architecture_type_and_cut_is_bound_byte_for_byte),
        WITH_BACKEND(each_tensor_has_its_own_type),
        WITH_BACKEND(a_tied_model_leaves_a_head_in_its_file_alone),
        WITH_BACKEND(missing_tensors_are_named),
        WITH_BACKEND(shapes_and_types_are_held_against_the_description),
        WITH_BACKEND(what_would_change_a_layer_is_refused_and_the_rest_is_counted),
        WITH_BACKEND(memory_is_computed_first_and_refused_with_both_figures),
        WITH_BACKEND(opening_tells_its_progress_and_can_be_cancelled),
        WITH_BACKEND(the_context_is_the_models_or_what_is_asked_for),
        WITH_BACKEND(the_echo_model_has_no_weights),
        WITH_BACKEND(names_and_folders_are_bounded),
        WITH_BACKEND(memory_of_a_device_is_filled_by_uploads),
        WITH_BACKEND(matrices_are_quantised_if_the_options_say_so),
        WITH_BACKEND(fused_matrices_are_quantised_part_by_part),
        WITH_BACKEND(head_and_embedding_go_where_the_options_say),
        WITH_BACKEND(the_shared_stories_model_opens),
        WITH_BACKEND(the_reference_models_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
