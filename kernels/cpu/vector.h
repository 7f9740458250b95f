/*
 * Vectors of as many floats as one register of the variant holds, and the few things done with
 * them.
 *
 * The order of every sum follows from the number of lanes alone: lane l adds the elements l,
 * l + lanes, l + 2 lanes ... in this order, and vector_sum() adds the lanes as a fixed tree. A tail
 * is filled up with zeros and goes the same way. Nothing is left to the compiler: products and sums
 * are fused where multiply_add() says so and nowhere else (-ffp-contract=off), so an element comes
 * out the same from every loop that computes it.
 */
#ifndef AGL_KERNELS_CPU_VECTOR_H
#define AGL_KERNELS_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/cpu/half.h"
#include "kernels/tensor.h"

#if defined(__AVX512F__)
#define VECTOR_LANES 16
#elif defined(__AVX2__)
#define VECTOR_LANES 8
#else
#define VECTOR_LANES 4
#endif

typedef float vector_f32 __attribute__((vector_size(4 * VECTOR_LANES)));
typedef int32_t vector_i32 __attribute__((vector_size(4 * VECTOR_LANES)));
typedef uint32_t vector_u32 __attribute__((vector_size(4 * VECTOR_LANES)));
typedef uint16_t vector_u16 __attribute__((vector_size(2 * VECTOR_LANES)));

/* Specialised by its constant arguments: element type, rows and columns of a tile. */
#define SPECIALISED static inline __attribute__((always_inline))

/* a * b + c: with one rounding where the variant has the instruction, with two where not. */
SPECIALISED vector_f32 multiply_add(vector_f32 a, vector_f32 b, vector_f32 c)
{
#if defined(__AVX512F__)
    return (vector_f32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vector_f32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* (Not {0} + value: that is an addition, since 0 + -0 is 0.) */
SPECIALISED vector_f32 vector_all(float value)
{
#if defined(__AVX512F__)
    return (vector_f32)_mm512_set1_ps(value);
#elif defined(__AVX2__)
    return (vector_f32)_mm256_set1_ps(value);
#else
    return (vector_f32){value, value, value, value};
#endif
}

/* The sum of all lanes: halves are added until one lane is left. */
SPECIALISED float vector_sum(vector_f32 v)
{
#if VECTOR_LANES == 16
    typedef float vector_8 __attribute__((vector_size(32)));
    vector_8 half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif VECTOR_LANES == 8
    vector_f32 half = v;
#endif
    typedef float vector_4 __attribute__((vector_size(16)));
#if VECTOR_LANES >= 8
    vector_4 quarter = __builtin_shufflevector(half, half, 0, 1, 2, 3) +
                       __builtin_shufflevector(half, half, 4, 5, 6, 7);
#else
    vector_4 quarter = v;
#endif
    vector_4 pair = quarter + __builtin_shufflevector(quarter, quarter, 2, 3, 2, 3);
    return pair[0] + pair[1];
}

SPECIALISED vector_f32 load_f32(const void *from)
{
    vector_f32 v;
    memcpy(&v, from, sizeof v);
    return v;
}

SPECIALISED void store_f32(float *to, vector_f32 v)
{
    memcpy(to, &v, sizeof v);
}

/* A bf16 is the upper half of an f32. (The intrinsics are single instructions where gcc 12 makes
 * five of __builtin_convertvector().) */
SPECIALISED vector_f32 load_bf16(const void *from)
{
#if defined(__AVX512F__)
    __m256i half;
    memcpy(&half, from, sizeof half);
    return (vector_f32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#elif defined(__AVX2__)
    __m128i half;
    memcpy(&half, from, sizeof half);
    return (vector_f32)_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
#else
    vector_u16 half;
    memcpy(&half, from, sizeof half);
    return (vector_f32)(__builtin_convertvector(half, vector_u32) << 16);
#endif
}

SPECIALISED vector_f32 load_f16(const void *from)
{
#if defined(__AVX512F__)
    __m256i half;
    memcpy(&half, from, sizeof half);
    return (vector_f32)_mm512_cvtph_ps(half);
#elif defined(__AVX2__)
    __m128i half;
    memcpy(&half, from, sizeof half);
    return (vector_f32)_mm256_cvtph_ps(half);
#else
    /* Exponent and fraction moved into place and scaled by 2^(127 - 15), which sets numbers right,
     * subnormal ones too; infinities and NaN get the largest exponent instead. */
    vector_u16 half;
    memcpy(&half, from, sizeof half);
    vector_u32 bits = __builtin_convertvector(half, vector_u32);
    vector_u32 magnitude = (bits & 0x7FFF) << 13;
    vector_u32 finite = (vector_u32)((vector_f32)magnitude * 0x1p112f);
    vector_u32 is_special = (vector_u32)(magnitude >= 0x0F800000u);
    vector_u32 result = (finite & ~is_special) | ((magnitude | 0x7F800000u) & is_special);
    return (vector_f32)(result | (bits & 0x8000) << 16);
#endif
}

/* One vector of elements of a type, from element `first` on. */
SPECIALISED vector_f32 load_elements(enum tensor_type type, const void *data, size_t first)
{
    const char *from = (const char *)data + first * tensor_type_bytes(type);
    switch (type) {
    case TENSOR_F16:
        return load_f16(from);
    case TENSOR_BF16:
        return load_bf16(from);
    default:
        return load_f32(from);
    }
}

/* The same where only `count` elements are left: the others are zero. */
SPECIALISED vector_f32 load_tail(enum tensor_type type, const void *data, size_t first,
                                 size_t count)
{
    char padded[4 * VECTOR_LANES] = {0};
    size_t bytes = tensor_type_bytes(type);
    memcpy(padded, (const char *)data + first * bytes, count * bytes);
    return load_elements(type, padded, 0);
}

SPECIALISED void store_tail(float *to, vector_f32 v, size_t count)
{
    memcpy(to, &v, count * sizeof *to);
}

/* chosen[l] where mask[l] is all ones, other[l] where it is zero. */
SPECIALISED vector_f32 vector_choose(vector_i32 mask, vector_f32 chosen, vector_f32 other)
{
    return (vector_f32)(((vector_i32)chosen & mask) | ((vector_i32)other & ~mask));
}

/* a > b ? a : b in every lane: b where one is NaN. */
SPECIALISED vector_f32 vector_max(vector_f32 a, vector_f32 b)
{
#if defined(__AVX512F__)
    return (vector_f32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vector_f32)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vector_choose(a > b, a, b);
#endif
}

/* a < b ? a : b */
SPECIALISED vector_f32 vector_min(vector_f32 a, vector_f32 b)
{
#if defined(__AVX512F__)
    return (vector_f32)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vector_f32)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vector_choose(a < b, a, b);
#endif
}

/* The largest lane, if none is NaN. */
SPECIALISED float vector_largest(vector_f32 v)
{
    typedef float vector_4 __attribute__((vector_size(16)));
    typedef int32_t vector_4i __attribute__((vector_size(16)));
    vector_4 parts[VECTOR_LANES / 4];
    memcpy(parts, &v, sizeof v);
    vector_4 largest = parts[0];
    for (int i = 1; i < VECTOR_LANES / 4; i++) {
        vector_4i mask = parts[i] > largest;
        largest = (vector_4)(((vector_4i)parts[i] & mask) | ((vector_4i)largest & ~mask));
    }
    float even = largest[0] > largest[2] ? largest[0] : largest[2];
    float odd = largest[1] > largest[3] ? largest[1] : largest[3];
    return even > odd ? even : odd;
}

/* To f16, as half_from_float() does: to nearest, even on ties; at most 65504; NaN stays NaN. */
SPECIALISED void store_f16(void *to, vector_f32 v)
{
#if defined(__AVX2__)
    const vector_f32 largest = vector_all(65504.0f);
    v = vector_min(largest, vector_max(-largest, v));
#endif
#if defined(__AVX512F__)
    __m256i half = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(to, &half, sizeof half);
#elif defined(__AVX2__)
    __m128i half = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(to, &half, sizeof half);
#else
    uint16_t half[VECTOR_LANES];
    for (int i = 0; i < VECTOR_LANES; i++)
        half[i] = half_from_float(v[i]);
    memcpy(to, half, sizeof half);
#endif
}

/* e^x within 2 units in the last place, for x in [-87, 88]; beyond, e^-87 (1.6e-38) and e^88. NaN
 * stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor polynomial: the first term left
 * out, r^8 / 8!, is below 6e-9. */
SPECIALISED vector_f32 vector_exp(vector_f32 x)
{
    const vector_f32 round = vector_all(0x1.8p23f); /* adding it rounds to a whole number */
    x = vector_min(vector_all(88.0f), vector_max(vector_all(-87.0f), x));
    vector_f32 shifted = multiply_add(x, vector_all(0x1.715476p0f), round);
    vector_f32 n = shifted - round;
    /* ln 2 in two parts; the first has few enough bits that n times it is exact. */
    vector_f32 r = multiply_add(n, vector_all(-0x1.62e4p-1f), x);
    r = multiply_add(n, vector_all(-0x1.7f7d1cp-20f), r);

    vector_f32 p = vector_all(1.0f / 5040);
    p = multiply_add(p, r, vector_all(1.0f / 720));
    p = multiply_add(p, r, vector_all(1.0f / 120));
    p = multiply_add(p, r, vector_all(1.0f / 24));
    p = multiply_add(p, r, vector_all(1.0f / 6));
    p = multiply_add(p, r, vector_all(0.5f));
    p = multiply_add(p, r, vector_all(1.0f));
    p = multiply_add(p, r, vector_all(1.0f));

    vector_i32 exponent = (vector_i32)shifted - (vector_i32)round + 127;
    return p * (vector_f32)(exponent << 23);
}

#endif
