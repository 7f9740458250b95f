#include "model/gguf_blocks.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static uint16_t read_u16(const unsigned char *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static uint32_t read_u32(const unsigned char *bytes)
{
    return read_u16(bytes) | (uint32_t)read_u16(bytes + 2) << 16;
}

static float read_half(const unsigned char *bytes)
{
    return gguf_half(read_u16(bytes));
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float gguf_half(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31;
    uint32_t fraction = bits & 0x3FF;
    if (exponent == 0)
        return copysignf(ldexpf((float)fraction, -24), float_of_bits(sign | 0x3F800000));
    if (exponent == 31)
        return float_of_bits(sign | 0x7F800000 | fraction << 13);
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

void gguf_block_f32(const unsigned char *block, float *values)
{
    *values = float_of_bits(read_u32(block));
}

void gguf_block_f16(const unsigned char *block, float *values)
{
    *values = read_half(block);
}

void gguf_block_bf16(const unsigned char *block, float *values)
{
    *values = float_of_bits((uint32_t)read_u16(block) << 16);
}

void gguf_block_q8_0(const unsigned char *block, float *values)
{
    float d = read_half(block);
    for (int i = 0; i < 32; i++)
        values[i] = d * (float)(int8_t)block[2 + i];
}

/* The quant of element i of 32, four bits. */
static int nibble(const unsigned char *nibbles, int i)
{
    return i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
}

void gguf_block_q4_0(const unsigned char *block, float *values)
{
    float d = read_half(block);
    for (int i = 0; i < 32; i++)
        values[i] = d * (float)(nibble(block + 2, i) - 8);
}

void gguf_block_q4_1(const unsigned char *block, float *values)
{
    float d = read_half(block), m = read_half(block + 2);
    for (int i = 0; i < 32; i++)
        values[i] = d * (float)nibble(block + 4, i) + m;
}

static int fifth_bit(uint32_t high, int i)
{
    return (int)(high >> i & 1) << 4;
}

void gguf_block_q5_0(const unsigned char *block, float *values)
{
    float d = read_half(block);
    uint32_t high = read_u32(block + 2);
    for (int i = 0; i < 32; i++)
        values[i] = d * (float)((nibble(block + 6, i) | fifth_bit(high, i)) - 16);
}

void gguf_block_q5_1(const unsigned char *block, float *values)
{
    float d = read_half(block), m = read_half(block + 2);
    uint32_t high = read_u32(block + 4);
    for (int i = 0; i < 32; i++)
        values[i] = d * (float)(nibble(block + 8, i) | fifth_bit(high, i)) + m;
}

/* Scale and minimum of one of the eight groups of a Q4_K or Q5_K block. */
static void group_scales(const unsigned char *packed, int group, int *ret_scale, int *ret_min)
{
    if (group < 4) {
        *ret_scale = packed[group] & 63;
        *ret_min = packed[group + 4] & 63;
        return;
    }
    *ret_scale = (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
    *ret_min = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
}

/* high: the fifth bits, or NULL. */
static void block_k(const unsigned char *block, const unsigned char *high,
                    const unsigned char *nibbles, float *values)
{
    float d = read_half(block), m = read_half(block + 2);
    for (int group = 0; group < 8; group++) {
        int scale, min;
        group_scales(block + 4, group, &scale, &min);
        float group_d = d * (float)scale, group_m = m * (float)min;
        for (int j = 0; j < 32; j++) {
            int q = nibbles[32 * (group / 2) + j] >> (group % 2 * 4) & 15;
            if (high)
                q |= (high[j] >> group & 1) << 4;
            values[32 * group + j] = group_d * (float)q - group_m;
        }
    }
}

void gguf_block_q4_k(const unsigned char *block, float *values)
{
    block_k(block, NULL, block + 16, values);
}

void gguf_block_q5_k(const unsigned char *block, float *values)
{
    block_k(block, block + 16, block + 48, values);
}

void gguf_block_q6_k(const unsigned char *block, float *values)
{
    const unsigned char *low = block, *high = block + 128, *scales = block + 192;
    float d = read_half(block + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i / 32 % 4, j = i % 32;
        int q = low[64 * half + 32 * (quarter % 2) + j] >> (quarter / 2 * 4) & 15;
        q |= (high[32 * half + j] >> (2 * quarter) & 3) << 4;
        values[i] = d * (float)(int8_t)scales[i / 16] * (float)(q - 32);
    }
}

static void (*block_function(enum gguf_type type))(const unsigned char *, float *)
{
    switch (type) {
    case GGUF_F32:
        return gguf_block_f32;
    case GGUF_F16:
        return gguf_block_f16;
    case GGUF_BF16:
        return gguf_block_bf16;
    case GGUF_Q8_0:
        return gguf_block_q8_0;
    case GGUF_Q4_0:
        return gguf_block_q4_0;
    case GGUF_Q4_1:
        return gguf_block_q4_1;
    case GGUF_Q5_0:
        return gguf_block_q5_0;
    case GGUF_Q5_1:
        return gguf_block_q5_1;
    case GGUF_Q4_K:
        return gguf_block_q4_k;
    case GGUF_Q5_K:
        return gguf_block_q5_k;
    case GGUF_Q6_K:
        return gguf_block_q6_k;
    case GGUF_NONE:
        break;
    }
    return NULL;
}

void gguf_blocks_to_float(enum gguf_type type, const void *blocks, float *values, size_t elements)
{
    uint32_t block_elements = 0, block_bytes = 0;
    void (*convert)(const unsigned char *, float *) = block_function(type);
    bool known = gguf_type_block((uint32_t)type, &block_elements, &block_bytes);
    assert(convert && known && elements % block_elements == 0);
    const unsigned char *block = blocks;
    for (size_t i = 0; i < elements; i += block_elements, block += block_bytes)
        convert(block, values + i);
}
