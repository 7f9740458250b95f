/*
 * GGUF files made on the spot, right or wrong: values and tensors are appended as they shall stand
 * in the file, and nothing is checked.
 */
#ifndef AGL_TESTS_SUPPORT_GGUF_FILES_H
#define AGL_TESTS_SUPPORT_GGUF_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "formats/gguf.h"

struct test_bytes {
    unsigned char *bytes;
    size_t used, capacity;
};

struct test_gguf {
    struct test_bytes values, tensors, data;
    uint64_t value_count, tensor_count; /* may be changed to lie */
    uint32_t version;
    uint32_t alignment; /* that is used; general.alignment is a value like others */
};

void test_gguf_init(struct test_gguf *gguf);

void test_gguf_fini(struct test_gguf *gguf);

/* One value: the key, the type, and `size` bytes behind it. */
void test_gguf_raw(struct test_gguf *gguf, const char *key, size_t key_bytes, uint32_t type,
                   const void *bytes, size_t size);
void test_gguf_u32(struct test_gguf *gguf, const char *key, uint32_t value);
void test_gguf_i32(struct test_gguf *gguf, const char *key, int32_t value);
void test_gguf_u64(struct test_gguf *gguf, const char *key, uint64_t value);
void test_gguf_f32(struct test_gguf *gguf, const char *key, float value);
void test_gguf_bool(struct test_gguf *gguf, const char *key, unsigned char value);
void test_gguf_string(struct test_gguf *gguf, const char *key, const char *text);
void test_gguf_strings(struct test_gguf *gguf, const char *key, const char *const *texts,
                       size_t count);
void test_gguf_i32s(struct test_gguf *gguf, const char *key, const int32_t *numbers, size_t count);

/* A tensor behind those before: its bytes as test_tensor_byte() has them. rows 0: a vector. */
void test_gguf_tensor(struct test_gguf *gguf, const char *name, enum gguf_type type, uint64_t rows,
                      uint64_t cols);

/* The same with given bytes. */
void test_gguf_tensor_of(struct test_gguf *gguf, const char *name, enum gguf_type type,
                         uint64_t rows, uint64_t cols, const void *bytes, size_t size);

/* An entry of the tensors' table alone. */
void test_gguf_entry(struct test_gguf *gguf, const char *name, size_t name_bytes,
                     uint32_t dimensions, const uint64_t *sizes, uint32_t type, uint64_t offset);

/* The whole file in malloc'd memory. */
unsigned char *test_gguf_bytes(const struct test_gguf *gguf, size_t *ret_size);

void test_gguf_write(const struct test_gguf *gguf, const char *folder, const char *name);

/* The values of a small model of this architecture (TEST_MODEL_*, one layer), and its tensors with
 * matrices of `type`. fused: attn_qkv, and ffn_up for gate and up. */
void test_gguf_model_values(struct test_gguf *gguf, const char *architecture);
void test_gguf_model_tensors(struct test_gguf *gguf, const char *architecture, enum gguf_type type,
                             int fused);

#endif
