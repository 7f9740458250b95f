/*
 * One safetensors file: hostile bytes in, a checked table of tensors out.
 *
 * The format: u64 little-endian N, N bytes of JSON, then the tensors' bytes. We are as strict as
 * the reference, which wants the tensors to fill the file without holes or overlaps to its very
 * end, and stricter in one point: a name that stands twice is refused.
 *
 * Errors: -EINVAL the file lies, -EFBIG beyond a limit, -ENOMEM, or the errno of a system call;
 * *failure names the file, and the tensor and the field if there is one.
 */
#ifndef AGL_MODEL_SAFETENSORS_H
#define AGL_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/gguf.h"
#include "kernels/tensor.h"
#include "model/failure.h"

enum {
    SAFETENSORS_PREFIX_BYTES = 8,
    SAFETENSORS_HEADER_MAX = 100 * 1000 * 1000, /* the reference's own limit */
    SAFETENSORS_TENSORS_MAX = 1 << 18,
    SAFETENSORS_NAME_MAX = 4096,
    SAFETENSORS_DIMENSIONS_MAX = 8,
};

/* A tensor of a file: this format's, and what checkpoint.h makes of GGUF's. */
struct safetensors_tensor {
    const char *name;
    const char *type;           /* "BF16": the file's word for it */
    enum gguf_type source_type; /* the same as a number; GGUF_NONE: none that GGUF has */
    uint64_t shape[SAFETENSORS_DIMENSIONS_MAX];
    uint32_t dimensions; /* 0: a scalar */
    uint32_t file_index; /* for who holds several files; 0 here */
    uint64_t offset;     /* from the file's first byte */
    uint64_t bytes;
};

/* Sorted by name. Owns tensors and names. */
struct safetensors {
    struct safetensors_tensor *tensors;
    size_t count;
    char *names;
};

/* Reads the length of the header from a file's first bytes and holds it against the file's size. */
int safetensors_header_bytes(const unsigned char prefix[SAFETENSORS_PREFIX_BYTES],
                             uint64_t file_bytes, const char *file, uint64_t *ret_header_bytes,
                             struct failure *failure);

/* Checks a header of a file of file_bytes. header_bytes has passed safetensors_header_bytes(). */
int safetensors_parse(struct safetensors *ret_table, const char *header, size_t header_bytes,
                      uint64_t file_bytes, const char *file, struct failure *failure);

/* Reads and checks the header of an open file of file_bytes. */
int safetensors_read(struct safetensors *ret_table, int fd, uint64_t file_bytes, const char *file,
                     struct failure *failure);

/* Empties the table; what is empty stays so. */
void safetensors_fini(struct safetensors *table);

/* The kernels' type of a tensor. False if they have none. */
bool safetensors_tensor_type(const struct safetensors_tensor *tensor, enum tensor_type *ret_type);

#endif
