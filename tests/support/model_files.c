#include "tests/support/model_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test.h"

enum { TENSORS_MAX = 256, TEXT_BYTES = 64 << 10 };

unsigned char test_tensor_byte(const char *name, uint64_t n)
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    uint64_t x = (n + 1) * 0x9E3779B97F4A7C15u ^ hash;
    x ^= x >> 29;
    return (unsigned char)(x * 0xBF58476D1CE4E5B9u >> 56);
}

uint64_t test_tensor_bytes(const struct test_tensor *tensor)
{
    uint64_t bytes = strstr(tensor->type, "64")   ? 8
                     : strstr(tensor->type, "32") ? 4
                     : strstr(tensor->type, "16") ? 2
                                                  : 1;
    for (uint32_t i = 0; i < tensor->dimensions; i++)
        bytes *= tensor->shape[i];
    return bytes;
}

static size_t append_entry(char *text, size_t capacity, const struct test_tensor *tensor,
                           uint64_t begin, bool first)
{
    char shape[64] = "";
    if (tensor->dimensions == 1)
        snprintf(shape, sizeof shape, "%llu", (unsigned long long)tensor->shape[0]);
    else if (tensor->dimensions == 2)
        snprintf(shape, sizeof shape, "%llu,%llu", (unsigned long long)tensor->shape[0],
                 (unsigned long long)tensor->shape[1]);
    return (size_t)snprintf(
        text, capacity, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
        first ? "" : ",", tensor->name, tensor->type, shape, (unsigned long long)begin,
        (unsigned long long)(begin + test_tensor_bytes(tensor)));
}

static void put_length(unsigned char *prefix, uint64_t length)
{
    for (int i = 0; i < 8; i++)
        prefix[i] = (unsigned char)(length >> (8 * i));
}

void test_write_safetensors(const char *folder, const char *name, const struct test_tensor *tensors,
                            size_t count, unsigned remainder)
{
    static char text[TEXT_BYTES];
    size_t used = (size_t)snprintf(text, sizeof text, "{");
    uint64_t body = 0;
    for (size_t i = 0; i < count; i++) {
        used += append_entry(text + used, sizeof text - used, &tensors[i], body, i == 0);
        body += test_tensor_bytes(&tensors[i]);
        assert_true(used + 16 < sizeof text);
    }
    text[used++] = '}';
    while (used % 8 != remainder % 8)
        text[used++] = ' ';

    unsigned char *file = malloc(8 + used + body);
    assert_non_null(file);
    put_length(file, used);
    memcpy(file + 8, text, used);
    unsigned char *at = file + 8 + used;
    for (size_t i = 0; i < count; i++)
        for (uint64_t n = 0; n < test_tensor_bytes(&tensors[i]); n++)
            *at++ = test_tensor_byte(tensors[i].name, n);
    test_write_file(folder, name, file, 8 + used + body);
    free(file);
}

void test_write_raw_safetensors(const char *folder, const char *name, const char *header,
                                size_t body_bytes)
{
    size_t length = strlen(header);
    unsigned char *file = calloc(1, 8 + length + body_bytes);
    assert_non_null(file);
    put_length(file, length);
    memcpy(file + 8, header, length);
    test_write_file(folder, name, file, 8 + length + body_bytes);
    free(file);
}

struct list {
    struct test_tensor tensors[TENSORS_MAX];
    size_t count;
    const struct test_model *model;
};

__attribute__((format(printf, 4, 5))) static void add(struct list *list, uint64_t rows,
                                                      uint64_t cols, const char *format, ...)
{
    struct test_tensor *tensor = &list->tensors[list->count];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(tensor->name, sizeof tensor->name, format, arguments);
    va_end(arguments);
    tensor->type = list->model->type ? list->model->type : "F32";
    tensor->dimensions = rows ? 2 : 1;
    tensor->shape[0] = rows ? rows : cols;
    tensor->shape[1] = rows ? cols : 0;
    const struct test_tensor *change = list->model->change;
    if (change && strcmp(change->name, tensor->name) == 0) {
        if (!change->type)
            return;
        *tensor = *change;
    }
    list->count++;
    assert_true(list->count < TENSORS_MAX);
}

enum { Q_ROWS = TEST_MODEL_HEADS * TEST_MODEL_HEAD_DIM };
enum { KV_ROWS = TEST_MODEL_KV_HEADS * TEST_MODEL_HEAD_DIM };

static void add_chatglm_layer(struct list *list, const char *layer)
{
    add(list, 0, TEST_MODEL_DIM, "%s.input_layernorm.weight", layer);
    add(list, Q_ROWS + 2 * KV_ROWS, TEST_MODEL_DIM, "%s.self_attention.query_key_value.weight",
        layer);
    if (list->model->bias)
        add(list, 0, Q_ROWS + 2 * KV_ROWS, "%s.self_attention.query_key_value.bias", layer);
    add(list, TEST_MODEL_DIM, Q_ROWS, "%s.self_attention.dense.weight", layer);
    add(list, 0, TEST_MODEL_DIM, "%s.post_attention_layernorm.weight", layer);
    add(list, 2 * TEST_MODEL_FFN, TEST_MODEL_DIM, "%s.mlp.dense_h_to_4h.weight", layer);
    add(list, TEST_MODEL_DIM, TEST_MODEL_FFN, "%s.mlp.dense_4h_to_h.weight", layer);
}

static void add_attention(struct list *list, const char *layer)
{
    static const char parts[] = "qkv";
    for (int i = 0; i < 3; i++) {
        uint64_t rows = i == 0 ? Q_ROWS : KV_ROWS;
        add(list, rows, TEST_MODEL_DIM, "%s.self_attn.%c_proj.weight", layer, parts[i]);
        if (list->model->bias)
            add(list, 0, rows, "%s.self_attn.%c_proj.bias", layer, parts[i]);
    }
    add(list, TEST_MODEL_DIM, Q_ROWS, "%s.self_attn.o_proj.weight", layer);
}

static void add_layer(struct list *list, const char *layer)
{
    const char *architecture = list->model->architecture;
    add(list, 0, TEST_MODEL_DIM, "%s.input_layernorm.weight", layer);
    add_attention(list, layer);
    add(list, 0, TEST_MODEL_DIM, "%s.post_attention_layernorm.weight", layer);
    if (strcmp(architecture, "Glm4ForCausalLM") == 0) {
        add(list, 0, TEST_MODEL_DIM, "%s.post_self_attn_layernorm.weight", layer);
        add(list, 0, TEST_MODEL_DIM, "%s.post_mlp_layernorm.weight", layer);
    }
    if (strncmp(architecture, "Glm", 3) == 0) {
        add(list, 2 * TEST_MODEL_FFN, TEST_MODEL_DIM, "%s.mlp.gate_up_proj.weight", layer);
    } else {
        add(list, TEST_MODEL_FFN, TEST_MODEL_DIM, "%s.mlp.gate_proj.weight", layer);
        add(list, TEST_MODEL_FFN, TEST_MODEL_DIM, "%s.mlp.up_proj.weight", layer);
    }
    add(list, TEST_MODEL_DIM, TEST_MODEL_FFN, "%s.mlp.down_proj.weight", layer);
}

static void list_tensors(struct list *list, bool chatglm, uint32_t layers)
{
    add(list, TEST_MODEL_VOCAB, TEST_MODEL_DIM, "%s",
        chatglm ? "transformer.embedding.word_embeddings.weight" : "model.embed_tokens.weight");
    for (uint32_t i = 0; i < layers; i++) {
        char layer[64];
        snprintf(layer, sizeof layer, "%s.%u",
                 chatglm ? "transformer.encoder.layers" : "model.layers", i);
        if (chatglm)
            add_chatglm_layer(list, layer);
        else
            add_layer(list, layer);
    }
    add(list, 0, TEST_MODEL_DIM, "%s",
        chatglm ? "transformer.encoder.final_layernorm.weight" : "model.norm.weight");
    if (!list->model->tied)
        add(list, TEST_MODEL_VOCAB, TEST_MODEL_DIM, "%s",
            chatglm ? "transformer.output_layer.weight" : "lm_head.weight");
    const struct test_tensor *change = list->model->change;
    bool known = false;
    for (size_t i = 0; change && i < list->count; i++)
        known = known || strcmp(list->tensors[i].name, change->name) == 0;
    if (change && change->type && !known)
        list->tensors[list->count++] = *change;
}

/* Deals the tensors out to the shards in turn, and writes the index. */
static void write_shards(const char *folder, const struct list *list)
{
    static char index[TEXT_BYTES];
    static struct test_tensor shard[TENSORS_MAX];
    uint32_t shards = list->model->shards;
    size_t used =
        (size_t)snprintf(index, sizeof index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (uint32_t i = 0; i < shards; i++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", i + 1, shards);
        size_t count = 0;
        for (size_t j = i; j < list->count; j += shards) {
            shard[count++] = list->tensors[j];
            used += (size_t)snprintf(index + used, sizeof index - used, "%s\"%s\":\"%s\"",
                                     i + count == 1 ? "" : ",", list->tensors[j].name, name);
            assert_true(used + 16 < sizeof index);
        }
        test_write_safetensors(folder, name, shard, count, list->model->remainder);
    }
    used += (size_t)snprintf(index + used, sizeof index - used, "}}");
    test_write_file(folder, "model.safetensors.index.json", index, used);
}

static void write_config(const char *folder, const struct test_model *model, bool chatglm,
                         uint32_t layers)
{
    char text[4096];
    const char *extra = model->extra ? model->extra : "";
    int used =
        chatglm
            ? snprintf(text, sizeof text,
                       "{%s\"architectures\": [\"%s\"], \"num_layers\": %u, \"hidden_size\": %d, "
                       "\"num_attention_heads\": %d, \"multi_query_attention\": true, "
                       "\"multi_query_group_num\": %d, \"kv_channels\": %d, "
                       "\"ffn_hidden_size\": %d, \"padded_vocab_size\": %d, "
                       "\"layernorm_epsilon\": 1e-5, \"seq_length\": 256, \"add_qkv_bias\": %s, "
                       "\"eos_token_id\": 2}",
                       extra, model->architecture, layers, TEST_MODEL_DIM, TEST_MODEL_HEADS,
                       TEST_MODEL_KV_HEADS, TEST_MODEL_HEAD_DIM, TEST_MODEL_FFN, TEST_MODEL_VOCAB,
                       model->bias ? "true" : "false")
            : snprintf(text, sizeof text,
                       "{%s\"architectures\": [\"%s\"], \"num_hidden_layers\": %u, "
                       "\"hidden_size\": %d, \"num_attention_heads\": %d, "
                       "\"num_key_value_heads\": %d, \"head_dim\": %d, "
                       "\"intermediate_size\": %d, \"vocab_size\": %d, \"rms_norm_eps\": 1e-5, "
                       "\"max_position_embeddings\": 256, \"eos_token_id\": [2, 5]}",
                       extra, model->architecture, layers, TEST_MODEL_DIM, TEST_MODEL_HEADS,
                       TEST_MODEL_KV_HEADS, TEST_MODEL_HEAD_DIM, TEST_MODEL_FFN, TEST_MODEL_VOCAB);
    assert_true(used > 0 && (size_t)used < sizeof text);
    test_write_file(folder, "config.json", text, (size_t)used);
}

void test_write_model(const char *folder, const struct test_model *model)
{
    static struct list list;
    bool chatglm = strncmp(model->architecture, "ChatGLM", 7) == 0;
    uint32_t layers = model->layers ? model->layers : 2;
    list = (struct list){.model = model};
    list_tensors(&list, chatglm, layers);
    write_config(folder, model, chatglm, layers);
    if (model->shards)
        write_shards(folder, &list);
    else
        test_write_safetensors(folder, "model.safetensors", list.tensors, list.count,
                               model->remainder);
}
