#include "tests/support/gguf_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/model_files.h"
#include "tests/support/test.h"

static void append(struct test_bytes *bytes, const void *more, size_t size)
{
    if (bytes->used + size > bytes->capacity) {
        bytes->capacity = 2 * (bytes->used + size) + 256;
        bytes->bytes = realloc(bytes->bytes, bytes->capacity);
        assert_non_null(bytes->bytes);
    }
    if (size > 0)
        memcpy(bytes->bytes + bytes->used, more, size);
    bytes->used += size;
}

/* The machines that we test on are little-endian, as the format is. */
static void append_u32(struct test_bytes *bytes, uint32_t value)
{
    append(bytes, &value, sizeof value);
}

static void append_u64(struct test_bytes *bytes, uint64_t value)
{
    append(bytes, &value, sizeof value);
}

static void append_string(struct test_bytes *bytes, const char *text, size_t length)
{
    append_u64(bytes, length);
    append(bytes, text, length);
}

static void pad(struct test_bytes *bytes, size_t alignment)
{
    while (bytes->used % alignment != 0)
        append(bytes, "", 1);
}

void test_gguf_init(struct test_gguf *gguf)
{
    *gguf = (struct test_gguf){.version = 3, .alignment = GGUF_ALIGNMENT_DEFAULT};
}

void test_gguf_fini(struct test_gguf *gguf)
{
    free(gguf->values.bytes);
    free(gguf->tensors.bytes);
    free(gguf->data.bytes);
    *gguf = (struct test_gguf){0};
}

void test_gguf_raw(struct test_gguf *gguf, const char *key, size_t key_bytes, uint32_t type,
                   const void *bytes, size_t size)
{
    append_string(&gguf->values, key, key_bytes);
    append_u32(&gguf->values, type);
    append(&gguf->values, bytes, size);
    gguf->value_count++;
}

void test_gguf_u32(struct test_gguf *gguf, const char *key, uint32_t value)
{
    test_gguf_raw(gguf, key, strlen(key), GGUF_VALUE_U32, &value, sizeof value);
}

void test_gguf_i32(struct test_gguf *gguf, const char *key, int32_t value)
{
    test_gguf_raw(gguf, key, strlen(key), GGUF_VALUE_I32, &value, sizeof value);
}

void test_gguf_u64(struct test_gguf *gguf, const char *key, uint64_t value)
{
    test_gguf_raw(gguf, key, strlen(key), GGUF_VALUE_U64, &value, sizeof value);
}

void test_gguf_f32(struct test_gguf *gguf, const char *key, float value)
{
    test_gguf_raw(gguf, key, strlen(key), GGUF_VALUE_F32, &value, sizeof value);
}

void test_gguf_bool(struct test_gguf *gguf, const char *key, unsigned char value)
{
    test_gguf_raw(gguf, key, strlen(key), GGUF_VALUE_BOOL, &value, sizeof value);
}

void test_gguf_string(struct test_gguf *gguf, const char *key, const char *text)
{
    test_gguf_raw(gguf, key, strlen(key), GGUF_VALUE_STRING, NULL, 0);
    append_string(&gguf->values, text, strlen(text));
}

static void begin_array(struct test_gguf *gguf, const char *key, uint32_t type, uint64_t count)
{
    test_gguf_raw(gguf, key, strlen(key), GGUF_VALUE_ARRAY, &type, sizeof type);
    append_u64(&gguf->values, count);
}

void test_gguf_strings(struct test_gguf *gguf, const char *key, const char *const *texts,
                       size_t count)
{
    begin_array(gguf, key, GGUF_VALUE_STRING, count);
    for (size_t i = 0; i < count; i++)
        append_string(&gguf->values, texts[i], strlen(texts[i]));
}

void test_gguf_i32s(struct test_gguf *gguf, const char *key, const int32_t *numbers, size_t count)
{
    begin_array(gguf, key, GGUF_VALUE_I32, count);
    append(&gguf->values, numbers, count * sizeof *numbers);
}

void test_gguf_entry(struct test_gguf *gguf, const char *name, size_t name_bytes,
                     uint32_t dimensions, const uint64_t *sizes, uint32_t type, uint64_t offset)
{
    append_string(&gguf->tensors, name, name_bytes);
    append_u32(&gguf->tensors, dimensions);
    for (uint32_t i = 0; i < dimensions && i < 8; i++)
        append_u64(&gguf->tensors, sizes[i]);
    append_u32(&gguf->tensors, type);
    append_u64(&gguf->tensors, offset);
    gguf->tensor_count++;
}

static void add_entry(struct test_gguf *gguf, const char *name, enum gguf_type type, uint64_t rows,
                      uint64_t cols)
{
    pad(&gguf->data, gguf->alignment);
    test_gguf_entry(gguf, name, strlen(name), rows ? 2 : 1, (const uint64_t[]){cols, rows},
                    (uint32_t)type, gguf->data.used);
}

void test_gguf_tensor_of(struct test_gguf *gguf, const char *name, enum gguf_type type,
                         uint64_t rows, uint64_t cols, const void *bytes, size_t size)
{
    add_entry(gguf, name, type, rows, cols);
    append(&gguf->data, bytes, size);
}

void test_gguf_tensor(struct test_gguf *gguf, const char *name, enum gguf_type type, uint64_t rows,
                      uint64_t cols)
{
    uint32_t elements = 1, bytes = 0;
    assert_true(gguf_type_block((uint32_t)type, &elements, &bytes));
    add_entry(gguf, name, type, rows, cols);
    uint64_t size = cols / elements * bytes * (rows ? rows : 1);
    for (uint64_t n = 0; n < size; n++)
        append(&gguf->data, (const unsigned char[]){test_tensor_byte(name, n)}, 1);
}

unsigned char *test_gguf_bytes(const struct test_gguf *gguf, size_t *ret_size)
{
    struct test_bytes file = {0};
    append(&file, "GGUF", 4);
    append_u32(&file, gguf->version);
    append_u64(&file, gguf->tensor_count);
    append_u64(&file, gguf->value_count);
    append(&file, gguf->values.bytes, gguf->values.used);
    append(&file, gguf->tensors.bytes, gguf->tensors.used);
    pad(&file, gguf->alignment);
    append(&file, gguf->data.bytes, gguf->data.used);
    *ret_size = file.used;
    return file.bytes;
}

void test_gguf_write(const struct test_gguf *gguf, const char *folder, const char *name)
{
    size_t size;
    unsigned char *bytes = test_gguf_bytes(gguf, &size);
    test_write_file(folder, name, bytes, size);
    free(bytes);
}

/* ---- a small model --------------------------------------------------------------------------- */

void test_gguf_model_values(struct test_gguf *gguf, const char *architecture)
{
    const struct {
        const char *name;
        uint32_t value;
    } numbers[] = {
        {"block_count", 1},
        {"context_length", 256},
        {"embedding_length", TEST_MODEL_DIM},
        {"feed_forward_length", TEST_MODEL_FFN},
        {"attention.head_count", TEST_MODEL_HEADS},
        {"attention.head_count_kv", TEST_MODEL_KV_HEADS},
        {"vocab_size", TEST_MODEL_VOCAB},
    };
    char key[128];
    test_gguf_string(gguf, "general.architecture", architecture);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        snprintf(key, sizeof key, "%s.%s", architecture, numbers[i].name);
        test_gguf_u32(gguf, key, numbers[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", architecture);
    test_gguf_f32(gguf, key, 1e-5F);
    test_gguf_u32(gguf, "tokenizer.ggml.eos_token_id", 2);
}

void test_gguf_model_tensors(struct test_gguf *gguf, const char *architecture, enum gguf_type type,
                             int fused)
{
    enum { Q = TEST_MODEL_HEADS * TEST_MODEL_HEAD_DIM };
    enum { KV = TEST_MODEL_KV_HEADS * TEST_MODEL_HEAD_DIM };
    enum { DIM = TEST_MODEL_DIM, FFN = TEST_MODEL_FFN };
    test_gguf_tensor(gguf, "token_embd.weight", type, TEST_MODEL_VOCAB, DIM);
    test_gguf_tensor(gguf, "blk.0.attn_norm.weight", GGUF_F32, 0, DIM);
    if (fused) {
        test_gguf_tensor(gguf, "blk.0.attn_qkv.weight", type, Q + 2 * KV, DIM);
    } else {
        test_gguf_tensor(gguf, "blk.0.attn_q.weight", type, Q, DIM);
        test_gguf_tensor(gguf, "blk.0.attn_k.weight", type, KV, DIM);
        test_gguf_tensor(gguf, "blk.0.attn_v.weight", type, KV, DIM);
        test_gguf_tensor(gguf, "blk.0.ffn_gate.weight", type, FFN, DIM);
    }
    test_gguf_tensor(gguf, "blk.0.attn_output.weight", type, DIM, Q);
    test_gguf_tensor(gguf, "blk.0.ffn_norm.weight", GGUF_F32, 0, DIM);
    test_gguf_tensor(gguf, "blk.0.ffn_up.weight", type, fused ? 2 * FFN : FFN, DIM);
    test_gguf_tensor(gguf, "blk.0.ffn_down.weight", type, DIM, FFN);
    if (strcmp(architecture, "glm4") == 0) {
        test_gguf_tensor(gguf, "blk.0.post_attention_norm.weight", GGUF_F32, 0, DIM);
        test_gguf_tensor(gguf, "blk.0.post_ffw_norm.weight", GGUF_F32, 0, DIM);
    }
    test_gguf_tensor(gguf, "output_norm.weight", GGUF_F32, 0, DIM);
    test_gguf_tensor(gguf, "output.weight", type, TEST_MODEL_VOCAB, DIM);
}
