/*
 * Products of packed weights with rounded inputs, four columns at a time: lanes are rows of a
 * strip, whole numbers are summed without rounding or overflow. So each variant may do it in its
 * own order, and the floats that follow (linear_packed.c) are the same for all.
 */
#ifndef AGL_KERNELS_CPU_DOT_H
#define AGL_KERNELS_CPU_DOT_H

#include <math.h>

#include "kernels/cpu/quantised.h"
#include "kernels/cpu/vector.h"

enum {
    STRIP_PARTS = PACKED_STRIP / VECTOR_LANES, /* registers that a strip's rows fill */
    QUADS = PACKED_GROUP / 4,
#if VECTOR_LANES == 16
    TILE_ROWS_MAX = 8, /* of inputs, for one part */
    TILE_PARTS_MAX = 4,
#elif VECTOR_LANES == 8
    TILE_ROWS_MAX = 4,
    TILE_PARTS_MAX = 4,
#else
    TILE_ROWS_MAX = 2,
    TILE_PARTS_MAX = 2,
#endif
};

#if defined(__AVX512VNNI__)
#define DOT_BIASED 1 /* numbers are taken as they are, and the bias off the sum */
#endif

SPECIALISED vector_i32 vector_all_i32(int32_t value)
{
    return (vector_i32){0} + value;
}

SPECIALISED vector_i32 load_i32(const void *from)
{
    vector_i32 v;
    memcpy(&v, from, sizeof v);
    return v;
}

SPECIALISED int32_t quad_at(const int8_t *numbers, int quad)
{
    int32_t value;
    memcpy(&value, numbers + (size_t)4 * quad, sizeof value);
    return value;
}

/* a * b + c with one rounding on every variant. */
SPECIALISED vector_f32 fused(vector_f32 a, vector_f32 b, vector_f32 c)
{
#if defined(__AVX2__)
    return multiply_add(a, b, c);
#else
    for (int i = 0; i < VECTOR_LANES; i++)
        c[i] = fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

SPECIALISED vector_f32 load_i8(const void *from)
{
#if defined(__AVX512F__)
    return (vector_f32)_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__)
    return (vector_f32)_mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    const int8_t *numbers = from;
    vector_f32 v;
    for (int i = 0; i < VECTOR_LANES; i++)
        v[i] = numbers[i];
    return v;
#endif
}

/* Sums begin at the bits of the float 1.5 * 2^23, whose last bit counts 1: as a float, a sum is
 * that much more than its whole number, which stays below 2^19. So nothing has to be converted. */
static const int32_t SUM_ORIGIN = 0x4B400000;

/* What is to be in a sum before its first product. `sum` is that of the inputs; of a row beyond
 * the batch it may be anything. */
SPECIALISED vector_i32 dot_begin(enum tensor_type type, uint32_t sum)
{
#if !defined(DOT_BIASED)
    if (type == TENSOR_Q8)
        return vector_all_i32(SUM_ORIGIN);
#endif
    return vector_all_i32((int32_t)((uint32_t)SUM_ORIGIN - packed_bias(type) * sum));
}

SPECIALISED vector_f32 whole_of_sum(vector_i32 sum)
{
    return (vector_f32)sum - 0x1.8p23f;
}

/* What scale_sum() needs of a scale. */
SPECIALISED vector_f32 scaled_origin(vector_f32 scale)
{
    return scale * -0x1.8p23f;
}

/* A sum's whole number * scale with one rounding. The scaled origin is exact: a scale has at most
 * 18 bits, the origin two. */
SPECIALISED vector_f32 scale_sum(vector_i32 sum, vector_f32 scale, vector_f32 origin)
{
#if defined(__AVX2__)
    return multiply_add((vector_f32)sum, scale, origin);
#else
    return whole_of_sum(sum) * scale;
#endif
}

#if defined(__AVX512VNNI__)

SPECIALISED vector_i32 dot_quad(enum tensor_type type, vector_i32 sum, vector_i32 weights,
                                vector_i32 inputs)
{
    return (vector_i32)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)inputs);
}

#elif defined(__AVX512F__)

typedef int16_t vector_i16 __attribute__((vector_size(4 * VECTOR_LANES)));

SPECIALISED vector_i16 dot_pairs(vector_i32 weights, vector_i32 inputs)
{
    return (vector_i16)_mm512_maddubs_epi16((__m512i)weights, (__m512i)inputs);
}

SPECIALISED vector_i32 join_pairs(vector_i16 pairs)
{
    return (vector_i32)_mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(1));
}

/* Full bytes would overflow the pairs' 16 bits: the weight's sign goes to the input, and what is
 * left is at most 128 * 127 * 2. */
SPECIALISED vector_i16 dot_signed_pairs(vector_i32 weights, vector_i32 inputs)
{
    __m512i w = _mm512_xor_si512((__m512i)weights, _mm512_set1_epi8((char)0x80));
    __m512i x = _mm512_mask_sub_epi8((__m512i)inputs, _mm512_movepi8_mask(w),
                                     _mm512_setzero_si512(), (__m512i)inputs);
    return dot_pairs((vector_i32)_mm512_abs_epi8(w), (vector_i32)x);
}

#elif defined(__AVX2__)

typedef int16_t vector_i16 __attribute__((vector_size(4 * VECTOR_LANES)));

SPECIALISED vector_i16 dot_pairs(vector_i32 weights, vector_i32 inputs)
{
    return (vector_i16)_mm256_maddubs_epi16((__m256i)weights, (__m256i)inputs);
}

SPECIALISED vector_i32 join_pairs(vector_i16 pairs)
{
    return (vector_i32)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(1));
}

/* As above. */
SPECIALISED vector_i16 dot_signed_pairs(vector_i32 weights, vector_i32 inputs)
{
    __m256i w = _mm256_xor_si256((__m256i)weights, _mm256_set1_epi8((char)0x80));
    return dot_pairs((vector_i32)_mm256_abs_epi8(w),
                     (vector_i32)_mm256_sign_epi8((__m256i)inputs, w));
}

#else

SPECIALISED vector_i32 dot_quad(enum tensor_type type, vector_i32 sum, vector_i32 weights,
                                vector_i32 inputs)
{
    int32_t bias = type == TENSOR_Q8 ? 128 : 0;
    for (int i = 0; i < 32; i += 8) {
        vector_i32 input = (vector_i32)((vector_u32)inputs << (24 - i)) >> 24;
        sum += ((weights >> i & 255) - bias) * input;
    }
    return sum;
}

#endif

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
/* 7 bits: 127 * 127 * 2 fit into 16 bits. */
SPECIALISED vector_i32 dot_quad(enum tensor_type type, vector_i32 sum, vector_i32 weights,
                                vector_i32 inputs)
{
    return sum + join_pairs(type == TENSOR_Q8 ? dot_signed_pairs(weights, inputs)
                                              : dot_pairs(weights, inputs));
}
#endif

#endif
