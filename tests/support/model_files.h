/*
 * Files of tiny models, made on the spot: safetensors with bytes that tell where they come from,
 * and the folders of all architectures.
 */
#ifndef AGL_TESTS_SUPPORT_MODEL_FILES_H
#define AGL_TESTS_SUPPORT_MODEL_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct test_tensor {
    char name[96];
    const char *type; /* "F32", "F16", "BF16" or another of as many bytes */
    uint32_t dimensions;
    uint64_t shape[2];
};

/* The n-th byte of a tensor's data. */
unsigned char test_tensor_byte(const char *name, uint64_t n);

uint64_t test_tensor_bytes(const struct test_tensor *tensor);

/* Writes folder/name with the tensors in their order, their bytes as test_tensor_byte() has them.
 * The header is padded to end at `remainder` modulo 8: anything but 0 makes tensors misaligned. */
void test_write_safetensors(const char *folder, const char *name, const struct test_tensor *tensors,
                            size_t count, unsigned remainder);

/* Writes header length, header and `body_bytes` zeros. */
void test_write_raw_safetensors(const char *folder, const char *name, const char *header,
                                size_t body_bytes);

struct test_model {
    const char *architecture;
    const char *type;   /* of the weights; NULL: "F32" */
    const char *extra;  /* more of config.json, "\"key\": value, " */
    uint32_t layers;    /* 0: 2 */
    bool bias;          /* q, k and v */
    bool tied;          /* no head in the file */
    uint32_t shards;    /* 0: one file */
    unsigned remainder; /* as above */
    /* Change of one tensor: its name; the other fields replace its own. `type` NULL leaves it out;
     * a name that the model lacks is added. */
    const struct test_tensor *change;
};

enum {
    TEST_MODEL_DIM = 64,
    TEST_MODEL_HEADS = 4,
    TEST_MODEL_KV_HEADS = 2,
    TEST_MODEL_HEAD_DIM = 16,
    TEST_MODEL_FFN = 96,
    TEST_MODEL_VOCAB = 128,
};

/* Writes config.json and the weights of a tiny model into the folder. */
void test_write_model(const char *folder, const struct test_model *model);

#endif
