/*
 * The blocks of GGUF's quantised types as groups of the packed types that the kernels read, without
 * loss: quant_to_floats() of what is made here gives the floats of gguf_blocks.h, bit for bit.
 *
 *   Q8_0        TENSOR_Q8         q + 128
 *   Q5_0        TENSOR_Q8         q - 16 + 128
 *   Q5_1        TENSOR_Q8_MIN     q
 *   Q4_0        TENSOR_Q4         q
 *   Q4_1        TENSOR_Q4_MIN     q
 *   Q4_K        TENSOR_Q4_SUPER   q; factors: scale and -min, since a minimum is added here
 *   Q5_K        TENSOR_Q8_SUPER   the same
 *   Q6_K        TENSOR_Q8_HALVES  q; factors: the scales of the two halves
 *
 * A block of the first five is a group, one of the others a unit of 8.
 */
#ifndef AGL_MODEL_GGUF_PACK_H
#define AGL_MODEL_GGUF_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/gguf.h"
#include "kernels/quant.h"

/* The packed type that a quantised type goes to. False: the type is not quantised. */
bool gguf_pack_type(enum gguf_type type, enum tensor_type *ret_type);

/* One block each, from memory of any alignment; ret_groups: 1 or 8. */
void gguf_pack_q8_0(const unsigned char *block, struct quant_group *ret_groups);
void gguf_pack_q5_0(const unsigned char *block, struct quant_group *ret_groups);
void gguf_pack_q5_1(const unsigned char *block, struct quant_group *ret_groups);
void gguf_pack_q4_0(const unsigned char *block, struct quant_group *ret_groups);
void gguf_pack_q4_1(const unsigned char *block, struct quant_group *ret_groups);
void gguf_pack_q4_k(const unsigned char *block, struct quant_group *ret_groups);
void gguf_pack_q5_k(const unsigned char *block, struct quant_group *ret_groups);
void gguf_pack_q6_k(const unsigned char *block, struct quant_group *ret_groups);

/* Groups [first_group, first_group + count) of a row of blocks; both are whole blocks. */
void gguf_pack_groups(enum gguf_type type, const unsigned char *row, uint32_t first_group,
                      uint32_t count, struct quant_group *ret_groups);

#endif
