/*
 * Parts of strips: the scales of a register's rows, and the way of their sums into the outputs.
 */
#ifndef AGL_KERNELS_CPU_PART_H
#define AGL_KERNELS_CPU_PART_H

#include "kernels/cpu/dot.h"
#include "kernels/cpu/linear.h"

enum {
    LINE_BYTES = 64,
    PREFETCH_BYTES = 2048,       /* ahead in each of several streams */
    PREFETCH_BYTES_ALONE = 4096, /* ahead in the only one */
};

/* Asks for what is read a little later: the reading runs ahead of the arithmetic. */
SPECIALISED void prefetch(const char *numbers, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        __builtin_prefetch(numbers + i);
}

SPECIALISED vector_f32 part_scale(enum tensor_type type, const char *header, size_t group,
                                  size_t lane)
{
    if (!packed_has_factors(type))
        return load_f16(header + (group * PACKED_STRIP + lane) * 2);
    vector_f32 scale = load_f16(header + lane * 2);
    const char *factors = header + (size_t)4 * PACKED_STRIP;
    return type == TENSOR_Q8_HALVES ? scale
                                    : scale * load_i8(factors + group * 2 * PACKED_STRIP + lane);
}

SPECIALISED vector_f32 part_min(enum tensor_type type, const char *header, size_t group,
                                size_t lane)
{
    if (!packed_has_factors(type))
        return load_f16(header + ((2 + group) * PACKED_STRIP + lane) * 2);
    const char *factors = header + (size_t)4 * PACKED_STRIP;
    return load_f16(header + (PACKED_STRIP + lane) * 2) *
           load_i8(factors + (group * 2 + 1) * PACKED_STRIP + lane);
}

/* A factor of Q8_HALVES. */
SPECIALISED vector_f32 half_factor(const char *header, size_t group, size_t half, size_t lane)
{
    return load_i8(header + (size_t)4 * PACKED_STRIP + (group * 2 + half) * PACKED_STRIP + lane);
}

/* The bias of a part's outputs; zero beyond the last. */
SPECIALISED vector_f32 part_bias(const struct tensor *bias, uint32_t first, uint32_t count)
{
    if (!bias->data)
        return (vector_f32){0};
    return load_tail(bias->type, bias->data, first, count);
}

SPECIALISED void write_part(const struct map *map, uint32_t output, uint32_t row, int rows,
                            const vector_f32 *sums)
{
    uint32_t outputs = map->weight.rows;
    uint32_t count = outputs - output < VECTOR_LANES ? outputs - output : VECTOR_LANES;
    vector_f32 bias = part_bias(&map->bias, output, count);
    for (int r = 0; r < rows; r++) {
        float *to = map->out + (size_t)(row + (uint32_t)r) * map->stride + (output - map->first);
        vector_f32 sum = sums[r] + bias;
        if (count == VECTOR_LANES) {
            store_f32(to, map->add ? load_f32(to) + sum : sum);
            continue;
        }
        store_tail(to, map->add ? load_tail(TENSOR_F32, to, 0, count) + sum : sum, count);
    }
}

#endif
