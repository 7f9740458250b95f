/*
 * One number to f16 (IEEE 754 binary16) and back, by its bits: no compiler support is needed.
 */
#ifndef AGL_KERNELS_CPU_HALF_H
#define AGL_KERNELS_CPU_HALF_H

#include <stdint.h>
#include <string.h>

/* Rounds to nearest, ties to even. Beyond the largest f16, 65504, it stays there: an infinity in
 * the cache would turn every later row of the sequence into NaN. NaN stays NaN. */
static inline uint16_t half_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7FFFFFFF;

    if (magnitude > 0x7F800000)
        return sign | 0x7E00;
    if (magnitude >= 0x477FE000) /* 65504 */
        return sign | 0x7BFF;
    if (magnitude < 0x38800000) {
        /* Below 2^-14: counts of 2^-24. Adding 0.5 puts these counts into the last bits of the
         * fraction, rounded as the addition rounds. */
        float shifted;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f;
        memcpy(&magnitude, &shifted, sizeof magnitude);
        return sign | (uint16_t)(magnitude - 0x3F000000);
    }
    uint32_t odd = magnitude >> 13 & 1;
    return sign | (uint16_t)((magnitude - 0x38000000 + 0xFFF + odd) >> 13);
}

/* Exact; NaN stays NaN. */
static inline float half_to_float(uint16_t half)
{
    /* Exponent and fraction moved into place and scaled by 2^(127 - 15), which sets numbers right,
     * subnormal ones too; infinities and NaN get the largest exponent instead. */
    uint32_t bits = (uint32_t)(half & 0x7FFF) << 13;
    float value;
    if (bits >= 0x0F800000) {
        bits |= 0x7F800000;
        memcpy(&value, &bits, sizeof value);
    } else {
        memcpy(&value, &bits, sizeof value);
        value *= 0x1p112f;
    }
    return half & 0x8000 ? -value : value;
}

#endif
