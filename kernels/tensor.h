/*
 * Shapes and types of weights. The header is shared with device code: it stays in what C17 and C++
 * have in common.
 */
#ifndef AGL_KERNELS_TENSOR_H
#define AGL_KERNELS_TENSOR_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Plain types are row-major and without gaps. Packed ones are whole numbers with scales, in the
 * order in which the kernels read them (below); docs/design/quantised.md says which file's type
 * goes where. What a weight is, from its number u, its group's f16 numbers `scale` and `min` and
 * two int8 `factors`: */
enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_BF16 = 2,
    TENSOR_Q8 = 3,        /* 8 bits: scale * (u - 128) */
    TENSOR_Q8_MIN = 4,    /* 7 bits in 8: scale * u + min */
    TENSOR_Q8_SUPER = 5,  /* 7 bits in 8: scale * factors[0] * u + min * factors[1] */
    TENSOR_Q8_HALVES = 6, /* 7 bits in 8: scale * factors[column / 16] * (u - 32) */
    TENSOR_Q4 = 7,        /* 4 bits: scale * (u - 8) */
    TENSOR_Q4_MIN = 8,    /* 4 bits: scale * u + min */
    TENSOR_Q4_SUPER = 9,  /* 4 bits: scale * factors[0] * u + min * factors[1] */
};

/*
 * The packed form. 16 rows are a strip, 32 columns a group. A strip is a sequence of units of 2
 * groups, or of 8 for the types with factors, whose scale and min are common to a unit:
 *
 *     header   Q8, Q4                f16 scale[2][16]
 *              *_MIN                 f16 scale[2][16], min[2][16]
 *              *_SUPER, Q8_HALVES    f16 scale[16], min[16]; int8 factors[8][2][16]
 *     groups   8 bits                uint8 number[8][16][4]: columns 4 i to 4 i + 3 of every row
 *              4 bits                the same [4][16][4]; the upper halves hold columns 16 later
 *
 * so that a vector's lanes are rows, and sums run in lanes from beginning to end. Rows and columns
 * beyond the matrix fill the last strip and unit with scales of 0.
 */
enum { PACKED_STRIP = 16, PACKED_GROUP = 32 };

/* A matrix [rows, cols], or a vector [cols] with rows == 1, in memory of the backend. It owns
 * nothing. `data` is aligned to the element type, and to 64 bytes where the type is packed. */
struct tensor {
    const void *data; /* NULL: absent */
    enum tensor_type type;
    uint32_t rows;
    uint32_t cols;
};

static inline bool tensor_type_is_packed(enum tensor_type type)
{
    return type >= TENSOR_Q8;
}

/* Of an element. Packed types have none: 0. */
static inline size_t tensor_type_bytes(enum tensor_type type)
{
    return type == TENSOR_F32 ? 4 : tensor_type_is_packed(type) ? 0 : 2;
}

/* The bits of a number in a packed type. */
static inline uint32_t packed_bits(enum tensor_type type)
{
    return type >= TENSOR_Q4 ? 4 : 8;
}

/* What is taken off a number before it is scaled. */
static inline uint32_t packed_bias(enum tensor_type type)
{
    switch (type) {
    case TENSOR_Q8:
        return 128;
    case TENSOR_Q8_HALVES:
        return 32;
    case TENSOR_Q4:
        return 8;
    default:
        return 0;
    }
}

static inline bool packed_has_min(enum tensor_type type)
{
    return type == TENSOR_Q8_MIN || type == TENSOR_Q8_SUPER || type == TENSOR_Q4_MIN ||
           type == TENSOR_Q4_SUPER;
}

static inline bool packed_has_factors(enum tensor_type type)
{
    return type == TENSOR_Q8_SUPER || type == TENSOR_Q8_HALVES || type == TENSOR_Q4_SUPER;
}

static inline uint32_t packed_unit_groups(enum tensor_type type)
{
    return packed_has_factors(type) ? 8 : 2;
}

static inline size_t packed_header_bytes(enum tensor_type type)
{
    if (packed_has_factors(type))
        return 2 * 2 * PACKED_STRIP + 8 * 2 * PACKED_STRIP;
    return (packed_has_min(type) ? 2 : 1) * 2 * 2 * PACKED_STRIP;
}

/* The numbers of a group, of all rows of a strip. */
static inline size_t packed_group_bytes(enum tensor_type type)
{
    return (size_t)PACKED_STRIP * PACKED_GROUP * packed_bits(type) / 8;
}

static inline size_t packed_unit_bytes(enum tensor_type type)
{
    return packed_header_bytes(type) + packed_unit_groups(type) * packed_group_bytes(type);
}

static inline size_t packed_strip_bytes(enum tensor_type type, uint32_t cols)
{
    size_t unit_cols = (size_t)packed_unit_groups(type) * PACKED_GROUP;
    return (cols + unit_cols - 1) / unit_cols * packed_unit_bytes(type);
}

static inline size_t tensor_bytes(const struct tensor *tensor)
{
    if (tensor_type_is_packed(tensor->type))
        return ((size_t)tensor->rows + PACKED_STRIP - 1) / PACKED_STRIP *
               packed_strip_bytes(tensor->type, tensor->cols);
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
    case TENSOR_Q8:
        return "q8";
    case TENSOR_Q8_MIN:
        return "q8_min";
    case TENSOR_Q8_SUPER:
        return "q8_super";
    case TENSOR_Q8_HALVES:
        return "q8_halves";
    case TENSOR_Q4:
        return "q4";
    case TENSOR_Q4_MIN:
        return "q4_min";
    case TENSOR_Q4_SUPER:
        return "q4_super";
    }
    return "unknown";
}

/* Rows [first, first + rows) of a matrix. Of a packed one only whole strips can be had: `first` is
 * a multiple of 16. */
static inline struct tensor tensor_rows(struct tensor tensor, uint32_t first, uint32_t rows)
{
    size_t bytes = (size_t)first * tensor.cols * tensor_type_bytes(tensor.type);
    if (tensor_type_is_packed(tensor.type)) {
        assert(first % PACKED_STRIP == 0);
        bytes = first / PACKED_STRIP * packed_strip_bytes(tensor.type, tensor.cols);
    }
    tensor.data = (const char *)tensor.data + bytes;
    tensor.rows = rows;
    return tensor;
}

#endif
