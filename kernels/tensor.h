/*
 * Shapes and types of weights. The header is shared with device code: it stays in what C17 and C++
 * have in common.
 */
#ifndef AGL_KERNELS_TENSOR_H
#define AGL_KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum tensor_type { TENSOR_F32 = 0, TENSOR_F16 = 1, TENSOR_BF16 = 2 };

/* A matrix [rows, cols], or a vector [cols] with rows == 1, row-major and without gaps, in memory
 * of the backend. It owns nothing. `data` is aligned to the element type. */
struct tensor {
    const void *data; /* NULL: absent */
    enum tensor_type type;
    uint32_t rows;
    uint32_t cols;
};

static inline size_t tensor_type_bytes(enum tensor_type type)
{
    return type == TENSOR_F32 ? 4 : 2;
}

static inline size_t tensor_bytes(const struct tensor *tensor)
{
    return (size_t)tensor->rows * tensor->cols * tensor_type_bytes(tensor->type);
}

static inline const char *tensor_type_name(enum tensor_type type)
{
    switch (type) {
    case TENSOR_F32:
        return "f32";
    case TENSOR_F16:
        return "f16";
    case TENSOR_BF16:
        return "bf16";
    }
    return "unknown";
}

/* Rows [first, first + rows) of a matrix. */
static inline struct tensor tensor_rows(struct tensor tensor, uint32_t first, uint32_t rows)
{
    tensor.data =
        (const char *)tensor.data + (size_t)first * tensor.cols * tensor_type_bytes(tensor.type);
    tensor.rows = rows;
    return tensor;
}

#endif
