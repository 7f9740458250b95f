/*
 * Weights on their way into the packed form of tensor.h: one group of 32 columns of one row as
 * anybody can make it, from a file's blocks or from floats.
 */
#ifndef AGL_KERNELS_QUANT_H
#define AGL_KERNELS_QUANT_H

#include <stdint.h>

#include "kernels/tensor.h"

/* What the numbers mean is told by the type, at enum tensor_type. What a type has no use for is
 * ignored; of the types with factors, the first group of a unit (columns 0, 256, ...) gives the
 * scale and the min of all its groups. */
struct quant_group {
    uint8_t numbers[PACKED_GROUP]; /* the bias added; bits beyond the type's are cut off */
    uint16_t scale;                /* f16 */
    uint16_t min;                  /* f16 */
    int8_t factors[2];
};

/* The nearest that the type can do for 32 floats: TENSOR_Q8 and TENSOR_Q4 by the largest
 * magnitude, TENSOR_Q8_MIN and TENSOR_Q4_MIN by the range. Other types are not made from floats.
 * Floats that are no numbers, or too large for an f16 scale, give a scale that is none either, so
 * that what they spoil shows. */
void quant_from_floats(enum tensor_type type, const float floats[PACKED_GROUP],
                       struct quant_group *ret_group);

/* The weights of a group as the kernels understand them; `unit` is the first group of its unit. */
void quant_to_floats(enum tensor_type type, const struct quant_group *group,
                     const struct quant_group *unit, float ret_floats[PACKED_GROUP]);

/* Groups [first_group, first_group + count) of one row, into an array of as many; what is beyond
 * the matrix is not asked for. Called from several threads at once, each row from one at a time.
 * 0 or a negative errno, which ends the packing. */
typedef int quant_source(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                         struct quant_group *ret_groups);

/* Packs a strip, rows [16 strip, 16 strip + 16), of a tensor whose memory is at `memory`. Strips
 * may be packed in any order and by several threads. */
int quant_pack_strip(const struct tensor *tensor, void *memory, uint32_t strip,
                     quant_source *source, void *context);

#endif
