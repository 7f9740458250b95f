/* Models from GGUF files: which tensor becomes what, the parts of a split, and what is refused. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/checkpoint.h"
#include "model/model.h"
#include "tests/support/gguf_files.h"
#include "tests/support/model_files.h"
#include "tests/support/model_stand.h"
#include "tests/support/packed_tensors.h"
#include "tests/support/test.h"

enum { Q_ROWS = TEST_MODEL_HEADS * TEST_MODEL_HEAD_DIM };
enum { KV_ROWS = TEST_MODEL_KV_HEADS * TEST_MODEL_HEAD_DIM };

static int open_model(const struct model_stand *fixture, const char *name, struct model **ret_model,
                      struct failure *failure)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", fixture->folder, name);
    *failure = (struct failure){""};
    return model_open(ret_model, "tiny", path, fixture->backend, &(struct model_options){0},
                      failure);
}

static void begin(struct test_gguf *file, const char *architecture)
{
    test_gguf_init(file);
    test_gguf_model_values(file, architecture);
}

/* Writes the file, frees it, and opens it as a model. */
static struct model *open_good(const struct model_stand *fixture, struct test_gguf *file)
{
    struct model *model = NULL;
    struct failure failure;
    test_gguf_write(file, fixture->folder, "m.gguf");
    test_gguf_fini(file);
    if (open_model(fixture, "m.gguf", &model, &failure) < 0)
        fail_msg("%s", failure.text);
    return model;
}

static void refused_at(const struct model_stand *fixture, const char *name, int wanted_err,
                       const char *file, const char *field, const char *value)
{
    struct model *model = NULL;
    struct failure failure;
    int descriptors = test_open_descriptors();
    int err = open_model(fixture, name, &model, &failure);
    if (err != wanted_err || !strstr(failure.text, file) || !strstr(failure.text, field) ||
        !strstr(failure.text, value))
        fail_msg("%d, \"%s\", wanted %d with %s, %s and %s", err, failure.text, wanted_err, file,
                 field, value);
    assert_null(model);
    assert_int_equal(test_open_descriptors(), descriptors);
}

static void refused(const struct model_stand *fixture, struct test_gguf *file, int wanted_err,
                    const char *field, const char *value)
{
    test_gguf_write(file, fixture->folder, "m.gguf");
    test_gguf_fini(file);
    refused_at(fixture, "m.gguf", wanted_err, "m.gguf", field, value);
}

/* The tensor is rows [first_row, ...) of the file's tensor of that name. */
static void check(const struct tensor *tensor, const char *name, uint32_t first_row, uint32_t rows,
                  uint32_t cols)
{
    const unsigned char *bytes = tensor->data;
    uint64_t first = (uint64_t)first_row * cols * tensor_type_bytes(tensor->type);
    assert_int_equal(tensor->rows, rows);
    assert_int_equal(tensor->cols, cols);
    for (uint64_t i = 0; i < tensor_bytes(tensor); i++)
        if (bytes[i] != test_tensor_byte(name, first + i))
            fail_msg("%s differs at %llu", name, (unsigned long long)i);
}

static void tensors_are_found_by_their_names(void **state)
{
    static const enum gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16};
    static const enum tensor_type kernel_types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
    for (int i = 0; i < 3; i++) {
        struct test_gguf file;
        begin(&file, "llama");
        test_gguf_model_tensors(&file, "llama", types[i], 0);
        struct model *model = open_good(*state, &file);
        const struct model_layer *layer = &model->layers[0];
        assert_int_equal(layer->q.type, kernel_types[i]);
        assert_int_equal(layer->attention_norm.type, TENSOR_F32);
        check(&model->embedding, "token_embd.weight", 0, TEST_MODEL_VOCAB, TEST_MODEL_DIM);
        check(&model->head, "output.weight", 0, TEST_MODEL_VOCAB, TEST_MODEL_DIM);
        check(&model->final_norm, "output_norm.weight", 0, 1, TEST_MODEL_DIM);
        check(&layer->attention_norm, "blk.0.attn_norm.weight", 0, 1, TEST_MODEL_DIM);
        check(&layer->ffn_norm, "blk.0.ffn_norm.weight", 0, 1, TEST_MODEL_DIM);
        check(&layer->q, "blk.0.attn_q.weight", 0, Q_ROWS, TEST_MODEL_DIM);
        check(&layer->k, "blk.0.attn_k.weight", 0, KV_ROWS, TEST_MODEL_DIM);
        check(&layer->v, "blk.0.attn_v.weight", 0, KV_ROWS, TEST_MODEL_DIM);
        check(&layer->o, "blk.0.attn_output.weight", 0, TEST_MODEL_DIM, Q_ROWS);
        check(&layer->gate, "blk.0.ffn_gate.weight", 0, TEST_MODEL_FFN, TEST_MODEL_DIM);
        check(&layer->up, "blk.0.ffn_up.weight", 0, TEST_MODEL_FFN, TEST_MODEL_DIM);
        check(&layer->down, "blk.0.ffn_down.weight", 0, TEST_MODEL_DIM, TEST_MODEL_FFN);
        assert_false(model->config.tied_head);
        assert_false(model->config.qkv_bias);
        model_close(model, ((struct model_stand *)*state)->backend);
    }
}

static void fused_matrices_are_parted(void **state)
{
    struct test_gguf file;
    begin(&file, "glm4");
    test_gguf_model_tensors(&file, "glm4", GGUF_F16, 1);
    test_gguf_tensor(&file, "blk.0.attn_qkv.bias", GGUF_F32, 0, Q_ROWS + 2 * KV_ROWS);
    struct model *model = open_good(*state, &file);
    const struct model_layer *layer = &model->layers[0];
    check(&layer->q, "blk.0.attn_qkv.weight", 0, Q_ROWS, TEST_MODEL_DIM);
    check(&layer->k, "blk.0.attn_qkv.weight", Q_ROWS, KV_ROWS, TEST_MODEL_DIM);
    check(&layer->v, "blk.0.attn_qkv.weight", Q_ROWS + KV_ROWS, KV_ROWS, TEST_MODEL_DIM);
    check(&layer->gate, "blk.0.ffn_up.weight", 0, TEST_MODEL_FFN, TEST_MODEL_DIM);
    check(&layer->up, "blk.0.ffn_up.weight", TEST_MODEL_FFN, TEST_MODEL_FFN, TEST_MODEL_DIM);
    check(&layer->attention_post_norm, "blk.0.post_attention_norm.weight", 0, 1, TEST_MODEL_DIM);
    check(&layer->ffn_post_norm, "blk.0.post_ffw_norm.weight", 0, 1, TEST_MODEL_DIM);
    assert_true(model->config.qkv_bias);
    assert_int_equal(layer->v_bias.cols, KV_ROWS);
    assert_ptr_equal(layer->v_bias.data, (const float *)layer->q_bias.data + Q_ROWS + KV_ROWS);
    model_close(model, ((struct model_stand *)*state)->backend);
}

/* A model without its head, with the tensors that `more` adds. */
static void begin_tied(struct test_gguf *file)
{
    begin(file, "qwen2");
    test_gguf_model_tensors(file, "qwen2", GGUF_F16, 0);
    /* The head stands last. */
    file->tensor_count--;
    file->tensors.used -= 8 + strlen("output.weight") + 4 + 16 + 4 + 8;
    file->data.used -= TEST_MODEL_VOCAB * TEST_MODEL_DIM * 2;
}

static void without_a_head_the_embedding_is_it(void **state)
{
    struct test_gguf file;
    begin_tied(&file);
    struct model *model = open_good(*state, &file);
    assert_true(model->config.tied_head);
    assert_ptr_equal(model->head.data, model->embedding.data);
    model_close(model, ((struct model_stand *)*state)->backend);
}

static void frequencies_are_divided_by_the_factors_in_the_file(void **state)
{
    enum { PAIRS = TEST_MODEL_HEAD_DIM / 2 };
    float factors[PAIRS], plain[PAIRS];
    struct test_gguf file;
    begin_tied(&file);
    struct model *model = open_good(*state, &file);
    memcpy(plain, model->rotary_frequencies, sizeof plain);
    model_close(model, ((struct model_stand *)*state)->backend);
    for (int i = 0; i < PAIRS; i++)
        factors[i] = (float)(i + 1);
    begin_tied(&file);
    test_gguf_tensor_of(&file, "rope_freqs.weight", GGUF_F32, 0, PAIRS, factors, sizeof factors);
    model = open_good(*state, &file);
    for (int i = 0; i < PAIRS; i++)
        assert_true(model->rotary_frequencies[i] == plain[i] / factors[i]);
    model_close(model, ((struct model_stand *)*state)->backend);

    begin_tied(&file);
    factors[3] = 0;
    test_gguf_tensor_of(&file, "rope_freqs.weight", GGUF_F32, 0, PAIRS, factors, sizeof factors);
    refused(*state, &file, -EINVAL, "\"rope_freqs.weight\"", "factor 3 is 0");
    begin_tied(&file);
    factors[3] = NAN;
    test_gguf_tensor_of(&file, "rope_freqs.weight", GGUF_F32, 0, PAIRS, factors, sizeof factors);
    refused(*state, &file, -EINVAL, "\"rope_freqs.weight\"", "factor 3 is nan");
    begin_tied(&file);
    test_gguf_tensor(&file, "rope_freqs.weight", GGUF_F32, 0, PAIRS + 1);
    refused(*state, &file, -EINVAL, "\"rope_freqs.weight\"", "has 9 of F32, must be 8");
    begin_tied(&file);
    test_gguf_tensor(&file, "rope_freqs.weight", GGUF_F16, 0, PAIRS);
    refused(*state, &file, -EINVAL, "\"rope_freqs.weight\"", "has 8 of F16");
}

static void a_tensor_that_is_missing_or_too_much_is_refused_by_name(void **state)
{
    struct test_gguf file;
    begin(&file, "llama");
    refused(*state, &file, -EINVAL, "\"token_embd.weight\"", "missing");
    begin(&file, "glm4"); /* without the norms behind its branches */
    test_gguf_model_tensors(&file, "llama", GGUF_F16, 0);
    refused(*state, &file, -EINVAL, "\"blk.0.post_attention_norm.weight\"", "missing");
    begin(&file, "llama");
    test_gguf_model_tensors(&file, "llama", GGUF_F16, 0);
    test_gguf_tensor(&file, "blk.0.attn_q_norm.weight", GGUF_F32, 0, TEST_MODEL_HEAD_DIM);
    refused(*state, &file, -ENOTSUP, "\"blk.0.attn_q_norm.weight\"", "no place");
    begin(&file, "llama");
    test_gguf_model_tensors(&file, "llama", GGUF_F16, 0);
    test_gguf_tensor(&file, "blk.0.attn_q.bias", GGUF_F32, 0, Q_ROWS);
    refused(*state, &file, -EINVAL, "\"blk.0.attn_k.bias\"", "missing");
}

static void a_shape_other_than_the_metadata_ask_for_is_refused(void **state)
{
    struct test_gguf file;
    begin(&file, "llama");
    test_gguf_tensor(&file, "token_embd.weight", GGUF_F16, TEST_MODEL_VOCAB + 1, TEST_MODEL_DIM);
    refused(*state, &file, -EINVAL, "\"token_embd.weight\"",
            "shape is [129, 64], the metadata ask for [128, 64]");
    begin(&file, "llama");
    test_gguf_tensor(&file, "token_embd.weight", GGUF_F16, TEST_MODEL_DIM, TEST_MODEL_VOCAB);
    refused(*state, &file, -EINVAL, "\"token_embd.weight\"", "shape is [64, 128]");
}

static void tensors_outside_the_layers_are_left_alone(void **state)
{
    struct test_gguf file;
    begin(&file, "llama");
    test_gguf_model_tensors(&file, "llama", GGUF_F16, 0);
    test_gguf_tensor(&file, "blk.1.nextn.eh_proj.weight", GGUF_Q6_K, 2, 256);
    test_gguf_tensor(&file, "something.else", GGUF_F32, 0, 1);
    struct model *model = open_good(*state, &file);
    model_close(model, ((struct model_stand *)*state)->backend);
}

/* The types whose blocks fit into rows of TEST_MODEL_DIM and TEST_MODEL_FFN. */
static const struct {
    enum gguf_type type;
    enum tensor_type packed;
} SMALL_BLOCKS[] = {
    {GGUF_Q8_0, TENSOR_Q8}, {GGUF_Q5_0, TENSOR_Q8},     {GGUF_Q5_1, TENSOR_Q8_MIN},
    {GGUF_Q4_0, TENSOR_Q4}, {GGUF_Q4_1, TENSOR_Q4_MIN},
};

static void quantised_matrices_are_packed_without_loss(void **state)
{
    for (size_t i = 0; i < sizeof SMALL_BLOCKS / sizeof SMALL_BLOCKS[0]; i++) {
        enum gguf_type type = SMALL_BLOCKS[i].type;
        enum tensor_type packed = SMALL_BLOCKS[i].packed;
        struct test_gguf file;
        begin(&file, "llama");
        test_gguf_model_tensors(&file, "llama", type, 0);
        struct model *model = open_good(*state, &file);
        const struct model_layer *layer = &model->layers[0];
        test_check_packed(&model->embedding, packed, "token_embd.weight", type, 0);
        test_check_packed(&model->head, packed, "output.weight", type, 0);
        test_check_packed(&layer->q, packed, "blk.0.attn_q.weight", type, 0);
        test_check_packed(&layer->v, packed, "blk.0.attn_v.weight", type, 0);
        test_check_packed(&layer->o, packed, "blk.0.attn_output.weight", type, 0);
        test_check_packed(&layer->gate, packed, "blk.0.ffn_gate.weight", type, 0);
        test_check_packed(&layer->down, packed, "blk.0.ffn_down.weight", type, 0);
        check(&layer->ffn_norm, "blk.0.ffn_norm.weight", 0, 1, TEST_MODEL_DIM);
        assert_true(model->weights_bytes ==
                    model->bytes_per_token + tensor_bytes(&model->embedding));
        model_close(model, ((struct model_stand *)*state)->backend);
    }
}

/* Heads of 20 dimensions and 40 for the feed-forward part: v and up begin amid a strip of 16 rows.
 */
enum { ODD_Q = TEST_MODEL_HEADS * 20, ODD_KV = TEST_MODEL_KV_HEADS * 20, ODD_FFN = 40 };

static void begin_odd(struct test_gguf *file)
{
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"glm4.block_count", 1},
        {"glm4.context_length", 256},
        {"glm4.embedding_length", TEST_MODEL_DIM},
        {"glm4.feed_forward_length", ODD_FFN},
        {"glm4.attention.head_count", TEST_MODEL_HEADS},
        {"glm4.attention.head_count_kv", TEST_MODEL_KV_HEADS},
        {"glm4.attention.key_length", 20},
        {"glm4.attention.value_length", 20},
        {"glm4.vocab_size", TEST_MODEL_VOCAB},
        {"tokenizer.ggml.eos_token_id", 2},
    };
    static const char *const norms[] = {"attn_norm", "ffn_norm", "post_attention_norm",
                                        "post_ffw_norm"};
    test_gguf_init(file);
    test_gguf_string(file, "general.architecture", "glm4");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        test_gguf_u32(file, numbers[i].key, numbers[i].value);
    test_gguf_f32(file, "glm4.attention.layer_norm_rms_epsilon", 1e-5F);
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.0.%s.weight", norms[i]);
        test_gguf_tensor(file, name, GGUF_F32, 0, TEST_MODEL_DIM);
    }
    test_gguf_tensor(file, "token_embd.weight", GGUF_F16, TEST_MODEL_VOCAB, TEST_MODEL_DIM);
    test_gguf_tensor(file, "output_norm.weight", GGUF_F16, 0, TEST_MODEL_DIM);
    test_gguf_tensor(file, "blk.0.attn_output.weight", GGUF_F16, TEST_MODEL_DIM, ODD_Q);
    test_gguf_tensor(file, "blk.0.ffn_down.weight", GGUF_F16, TEST_MODEL_DIM, ODD_FFN);
}

static void fused_matrices_are_packed_part_by_part(void **state)
{
    const enum gguf_type type = GGUF_Q4_0;
    struct test_gguf file;
    begin_odd(&file);
    test_gguf_tensor(&file, "blk.0.attn_qkv.weight", type, ODD_Q + 2 * ODD_KV, TEST_MODEL_DIM);
    test_gguf_tensor(&file, "blk.0.attn_qkv.bias", GGUF_F32, 0, ODD_Q + 2 * ODD_KV);
    test_gguf_tensor(&file, "blk.0.ffn_up.weight", type, 2 * ODD_FFN, TEST_MODEL_DIM);
    struct model *model = open_good(*state, &file);
    const struct model_layer *layer = &model->layers[0];
    test_check_packed(&layer->q, TENSOR_Q4, "blk.0.attn_qkv.weight", type, 0);
    test_check_packed(&layer->k, TENSOR_Q4, "blk.0.attn_qkv.weight", type, ODD_Q);
    test_check_packed(&layer->v, TENSOR_Q4, "blk.0.attn_qkv.weight", type, ODD_Q + ODD_KV);
    test_check_packed(&layer->gate, TENSOR_Q4, "blk.0.ffn_up.weight", type, 0);
    test_check_packed(&layer->up, TENSOR_Q4, "blk.0.ffn_up.weight", type, ODD_FFN);
    assert_int_equal(layer->q.rows, ODD_Q);
    assert_int_equal(layer->v.rows, ODD_KV);
    assert_int_equal(layer->up.rows, ODD_FFN);
    assert_int_equal(layer->down.type, TENSOR_F16);
    assert_int_equal(model->final_norm.type, TENSOR_F16);
    assert_ptr_equal(layer->v_bias.data, (const float *)layer->q_bias.data + ODD_Q + ODD_KV);
    model_close(model, ((struct model_stand *)*state)->backend);
}

static void a_vector_of_a_quantised_type_is_refused_by_name(void **state)
{
    struct test_gguf file;
    begin(&file, "llama");
    test_gguf_tensor(&file, "token_embd.weight", GGUF_Q8_0, TEST_MODEL_VOCAB, TEST_MODEL_DIM);
    test_gguf_tensor(&file, "blk.0.attn_norm.weight", GGUF_Q8_0, 0, TEST_MODEL_DIM);
    refused(*state, &file, -ENOTSUP, "\"blk.0.attn_norm.weight\"",
            "dtype Q8_0 is not supported for a vector: F32, F16 and BF16 are");
    begin(&file, "llama");
    test_gguf_model_tensors(&file, "llama", GGUF_F16, 0);
    test_gguf_tensor(&file, "blk.0.attn_q.bias", GGUF_Q4_0, 0, Q_ROWS);
    refused(*state, &file, -ENOTSUP, "\"blk.0.attn_q.bias\"", "dtype Q4_0 is not supported");
}

static void a_file_of_another_kind_is_refused(void **state)
{
    const struct model_stand *fixture = *state;
    test_write_file(fixture->folder, "m.gguf", "PK\3\4 something", 14);
    refused_at(fixture, "m.gguf", -EINVAL, "m.gguf", "magic", "PK");
    test_write_file(fixture->folder, "m.gguf", "", 0);
    refused_at(fixture, "m.gguf", -EINVAL, "m.gguf", "magic", "0 bytes");
    refused_at(fixture, "absent.gguf", -ENOENT, "absent.gguf", "", "No such file");
}

/* ---- splits ---------------------------------------------------------------------------------- */

struct part {
    uint32_t no, count, tensors;
    const char *tensor; /* of one row more than the model, for the merged table to be seen */
};

static void write_part(const struct model_stand *fixture, const char *name, const struct part *part)
{
    struct test_gguf file;
    test_gguf_init(&file);
    if (part->no == 0)
        test_gguf_model_values(&file, "llama");
    test_gguf_u32(&file, "split.no", part->no);
    test_gguf_u32(&file, "split.count", part->count);
    test_gguf_i32(&file, "split.tensors.count", (int32_t)part->tensors);
    if (part->no == 0)
        test_gguf_model_tensors(&file, "llama", GGUF_F16, 0);
    if (part->tensor)
        test_gguf_tensor(&file, part->tensor, GGUF_F32, 0, 4);
    test_gguf_write(&file, fixture->folder, name);
    test_gguf_fini(&file);
}

enum { MODEL_TENSORS = 12 };
static const char FIRST[] = "s-00001-of-00002.gguf", SECOND[] = "s-00002-of-00002.gguf";

static void all_parts_of_a_split_are_one_checkpoint(void **state)
{
    const struct model_stand *fixture = *state;
    struct checkpoint *checkpoint;
    struct failure failure;
    char path[8192];
    write_part(fixture, FIRST, &(struct part){0, 2, MODEL_TENSORS + 1, NULL});
    write_part(fixture, SECOND, &(struct part){1, 2, MODEL_TENSORS + 1, "extra"});
    snprintf(path, sizeof path, "%s/%s", fixture->folder, FIRST);
    if (checkpoint_open(&checkpoint, path, &failure) < 0)
        fail_msg("%s", failure.text);
    assert_int_equal(checkpoint->file_count, 2);
    assert_int_equal(checkpoint->tensor_count, MODEL_TENSORS + 1);
    const struct safetensors_tensor *extra = checkpoint_find(checkpoint, "extra");
    assert_non_null(extra);
    assert_int_equal(extra->file_index, 1);
    assert_int_equal(extra->source_type, GGUF_F32);
    checkpoint_close(checkpoint);
    struct model *model = NULL;
    assert_int_equal(open_model(fixture, FIRST, &model, &failure), 0);
    model_close(model, fixture->backend);
}

static void parts_are_found_by_the_names_of_links(void **state)
{
    const struct model_stand *fixture = *state;
    struct model *model = NULL;
    struct failure failure;
    char target[8192], link[8192];
    write_part(fixture, "3f2a", &(struct part){0, 2, MODEL_TENSORS + 1, NULL});
    write_part(fixture, "77bc", &(struct part){1, 2, MODEL_TENSORS + 1, "extra"});
    snprintf(target, sizeof target, "%s/links", fixture->folder);
    assert_int_equal(mkdir(target, 0700), 0);
    for (int i = 0; i < 2; i++) {
        snprintf(link, sizeof link, "%s/links/%s", fixture->folder, i ? SECOND : FIRST);
        assert_int_equal(symlink(i ? "../77bc" : "../3f2a", link), 0);
    }
    if (open_model(fixture, "links/../links/s-00001-of-00002.gguf", &model, &failure) < 0)
        fail_msg("%s", failure.text);
    snprintf(link, sizeof link, "%s/links/%s", fixture->folder, FIRST);
    assert_string_equal(model->folder, link);
    model_close(model, fixture->backend);
}

static void parts_that_do_not_belong_together_are_refused(void **state)
{
    const struct model_stand *fixture = *state;
    const uint32_t all = MODEL_TENSORS + 1;
    write_part(fixture, FIRST, &(struct part){0, 2, all, NULL});
    refused_at(fixture, FIRST, -ENOENT, SECOND, "", "No such file");
    write_part(fixture, SECOND, &(struct part){1, 3, all, "extra"});
    refused_at(fixture, FIRST, -EINVAL, SECOND, "split.count", "is 3, of the first part 2");
    write_part(fixture, SECOND, &(struct part){0, 2, all, "extra"});
    refused_at(fixture, FIRST, -EINVAL, SECOND, "split.no", "is 0, must be 1");
    write_part(fixture, SECOND, &(struct part){1, 2, all, "output.weight"});
    refused_at(fixture, FIRST, -EINVAL, "s-0000", "\"output.weight\"", "stands in");
    write_part(fixture, SECOND, &(struct part){1, 2, all, "extra"});
    refused_at(fixture, SECOND, -EINVAL, SECOND, "split.no", "is 1, must be 0");
}

static void a_split_of_other_counts_or_names_is_refused(void **state)
{
    const struct model_stand *fixture = *state;
    write_part(fixture, SECOND, &(struct part){1, 2, MODEL_TENSORS + 1, "extra"});
    write_part(fixture, FIRST, &(struct part){0, 2, MODEL_TENSORS + 2, NULL});
    refused_at(fixture, FIRST, -EINVAL, FIRST, "split.tensors.count", "is 14, the parts have 13");
    write_part(fixture, FIRST, &(struct part){0, 2, MODEL_TENSORS, NULL});
    refused_at(fixture, FIRST, -EINVAL, FIRST, "split.tensors.count", "at least 13");
    write_part(fixture, FIRST, &(struct part){0, 2, (uint32_t)-1, NULL});
    refused_at(fixture, FIRST, -EINVAL, FIRST, "split.tensors.count", "-1 is not in");
    write_part(fixture, FIRST, &(struct part){0, 100000, 13, NULL});
    refused_at(fixture, FIRST, -EINVAL, FIRST, "split.count", "100000 is not in");
    write_part(fixture, FIRST, &(struct part){0, 2000, 13, NULL});
    refused_at(fixture, FIRST, -EFBIG, FIRST, "split.count", "2000, the limit is 1000");
    write_part(fixture, FIRST, &(struct part){0, 3, 13, NULL});
    refused_at(fixture, FIRST, -EINVAL, FIRST, "split.count", "-00001-of-00003.gguf");
    write_part(fixture, FIRST, &(struct part){3, 2, 13, NULL});
    refused_at(fixture, FIRST, -EINVAL, FIRST, "split.no", "");
    write_part(fixture, "m.gguf", &(struct part){0, 2, 13, NULL});
    refused_at(fixture, "m.gguf", -EINVAL, "m.gguf", "split.count", "is 2, but the file's name");
    write_part(fixture, "-00001-of-00002.gguf", &(struct part){0, 2, 13, NULL});
    refused_at(fixture, "-00001-of-00002.gguf", -EINVAL, "-00001-of-00002.gguf", "split.count",
               "does not end in");
    write_part(fixture, "m.gguf", &(struct part){0, 1, MODEL_TENSORS, NULL});
    struct model *model = NULL;
    struct failure failure;
    assert_int_equal(open_model(fixture, "m.gguf", &model, &failure), 0);
    model_close(model, fixture->backend);
}

int main(void)
{
#define WITH_FOLDER(test) \
    cmocka_unit_test_setup_teardown(test, model_stand_set_up, model_stand_tear_down)
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(tensors_are_found_by_their_names),
        WITH_FOLDER(fused_matrices_are_parted),
        WITH_FOLDER(without_a_head_the_embedding_is_it),
        WITH_FOLDER(frequencies_are_divided_by_the_factors_in_the_file),
        WITH_FOLDER(a_tensor_that_is_missing_or_too_much_is_refused_by_name),
        WITH_FOLDER(a_shape_other_than_the_metadata_ask_for_is_refused),
        WITH_FOLDER(tensors_outside_the_layers_are_left_alone),
        WITH_FOLDER(quantised_matrices_are_packed_without_loss),
        WITH_FOLDER(fused_matrices_are_packed_part_by_part),
        WITH_FOLDER(a_vector_of_a_quantised_type_is_refused_by_name),
        WITH_FOLDER(a_file_of_another_kind_is_refused),
        WITH_FOLDER(all_parts_of_a_split_are_one_checkpoint),
        WITH_FOLDER(parts_are_found_by_the_names_of_links),
        WITH_FOLDER(parts_that_do_not_belong_together_are_refused),
        WITH_FOLDER(a_split_of_other_counts_or_names_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
