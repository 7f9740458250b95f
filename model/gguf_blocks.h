/*
 * The blocks of GGUF's tensor types, element by element: the reference that tests and conversions
 * are held against. Plain C, one function a type, for any processor; not for the hot path.
 *
 * A block holds consecutive elements of a row, all numbers little-endian, f16 as IEEE 754
 * binary16, without padding. q is the element's quant, i its index in the block.
 *
 *   type  elements bytes  layout                                     value
 *   F32       1      4    f32
 *   F16       1      2    f16
 *   BF16      1      2    the upper half of an f32
 *   Q8_0     32     34    f16 d | i8 q[32]                           d * q
 *   Q4_0     32     18    f16 d | u8 n[16]                           d * (q - 8)
 *   Q4_1     32     20    f16 d | f16 m | u8 n[16]                   d * q + m
 *   Q5_0     32     22    f16 d | u32 h | u8 n[16]                   d * (q - 16)
 *   Q5_1     32     24    f16 d | f16 m | u32 h | u8 n[16]           d * q + m
 *                         q of element i: the low nibble of n[i] for i < 16, else the high one of
 *                         n[i - 16]; of the Q5 types plus 16 where bit i of h is set
 *   Q4_K    256    144    f16 d | f16 m | u8 s[12] | u8 n[128]       d * scale * q - m * min
 *   Q5_K    256    176    f16 d | f16 m | u8 s[12] | u8 h[32] | u8 n[128]    the same
 *                         eight groups g of 32 elements, i = 32 g + j: q is the low (g even) or
 *                         high (g odd) nibble of n[32 (g / 2) + j]; of Q5_K plus 16 where bit g of
 *                         h[j] is set. scale and min of a group have six bits each: of g < 4 those
 *                         of s[g] and s[g + 4]; of g >= 4 the low and the high nibble of s[g + 4],
 *                         with the two upper bits of s[g - 4] and of s[g] above them
 *   Q6_K    256    210    u8 l[128] | u8 h[64] | i8 s[16] | f16 d    d * s[i / 16] * (q - 32)
 *                         halves of 128 elements, i = 128 a + 32 b + j: four low bits of q are the
 *                         low (b < 2) or high (b >= 2) nibble of l[64 a + 32 (b % 2) + j], two
 *                         upper bits are bits 2 b and 2 b + 1 of h[32 a + j]
 */
#ifndef AGL_MODEL_GGUF_BLOCKS_H
#define AGL_MODEL_GGUF_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#include "formats/gguf.h"

enum {
    GGUF_BLOCK_ELEMENTS_MAX = 256,
    GGUF_BLOCK_BYTES_MAX = 210,
};

float gguf_half(uint16_t bits);

/* One block each, from memory of any alignment: values [elements of the type]. */
void gguf_block_f32(const unsigned char *block, float *values);
void gguf_block_f16(const unsigned char *block, float *values);
void gguf_block_bf16(const unsigned char *block, float *values);
void gguf_block_q8_0(const unsigned char *block, float *values);
void gguf_block_q4_0(const unsigned char *block, float *values);
void gguf_block_q4_1(const unsigned char *block, float *values);
void gguf_block_q5_0(const unsigned char *block, float *values);
void gguf_block_q5_1(const unsigned char *block, float *values);
void gguf_block_q4_k(const unsigned char *block, float *values);
void gguf_block_q5_k(const unsigned char *block, float *values);
void gguf_block_q6_k(const unsigned char *block, float *values);

/* Blocks in a row. elements is a multiple of the type's block. */
void gguf_blocks_to_float(enum gguf_type type, const void *blocks, float *values, size_t elements);

#endif
