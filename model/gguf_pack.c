#include "model/gguf_pack.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

enum { UNIT_GROUPS = 8, HALF_GROUP = PACKED_GROUP / 2 };

static uint16_t read_u16(const unsigned char *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static uint32_t read_u32(const unsigned char *bytes)
{
    return read_u16(bytes) | (uint32_t)read_u16(bytes + 2) << 16;
}

static void part_nibbles(const unsigned char *nibbles, uint8_t *numbers)
{
    for (int i = 0; i < HALF_GROUP; i++) {
        numbers[i] = nibbles[i] & 15;
        numbers[HALF_GROUP + i] = nibbles[i] >> 4;
    }
}

/* Puts the fifth bits above numbers of four bits. */
static void add_fifth_bits(uint32_t high, uint8_t *numbers)
{
    for (int i = 0; i < PACKED_GROUP; i++)
        numbers[i] |= (uint8_t)((high >> i & 1) << 4);
}

void gguf_pack_q8_0(const unsigned char *block, struct quant_group *ret_groups)
{
    ret_groups->scale = read_u16(block);
    for (int i = 0; i < PACKED_GROUP; i++)
        ret_groups->numbers[i] = block[2 + i] ^ 0x80;
}

void gguf_pack_q5_0(const unsigned char *block, struct quant_group *ret_groups)
{
    ret_groups->scale = read_u16(block);
    part_nibbles(block + 6, ret_groups->numbers);
    add_fifth_bits(read_u32(block + 2), ret_groups->numbers);
    for (int i = 0; i < PACKED_GROUP; i++)
        ret_groups->numbers[i] += 128 - 16;
}

void gguf_pack_q5_1(const unsigned char *block, struct quant_group *ret_groups)
{
    ret_groups->scale = read_u16(block);
    ret_groups->min = read_u16(block + 2);
    part_nibbles(block + 8, ret_groups->numbers);
    add_fifth_bits(read_u32(block + 4), ret_groups->numbers);
}

void gguf_pack_q4_0(const unsigned char *block, struct quant_group *ret_groups)
{
    ret_groups->scale = read_u16(block);
    part_nibbles(block + 2, ret_groups->numbers);
}

void gguf_pack_q4_1(const unsigned char *block, struct quant_group *ret_groups)
{
    ret_groups->scale = read_u16(block);
    ret_groups->min = read_u16(block + 2);
    part_nibbles(block + 4, ret_groups->numbers);
}

/* The scales and minima of eight groups, six bits each in twelve bytes (gguf_blocks.h). */
static void unpack_factors(const unsigned char *packed, struct quant_group *groups)
{
    for (int g = 0; g < 4; g++) {
        groups[g].factors[0] = (int8_t)(packed[g] & 63);
        groups[g].factors[1] = (int8_t) - (packed[g + 4] & 63);
        groups[g + 4].factors[0] = (int8_t)((packed[g + 8] & 15) | packed[g] >> 6 << 4);
        groups[g + 4].factors[1] = (int8_t) - (packed[g + 8] >> 4 | packed[g + 4] >> 6 << 4);
    }
}

/* high: the fifth bits, or NULL. */
static void pack_k(const unsigned char *block, const unsigned char *high,
                   const unsigned char *nibbles, struct quant_group *groups)
{
    unpack_factors(block + 4, groups);
    for (int g = 0; g < UNIT_GROUPS; g++) {
        const unsigned char *from = nibbles + (ptrdiff_t)PACKED_GROUP * (g / 2);
        int shift = g % 2 * 4;
        groups[g].scale = read_u16(block);
        groups[g].min = read_u16(block + 2);
        for (int i = 0; i < PACKED_GROUP; i++)
            groups[g].numbers[i] = from[i] >> shift & 15;
        for (int i = 0; high && i < PACKED_GROUP; i++)
            groups[g].numbers[i] |= (uint8_t)((high[i] >> g & 1) << 4);
    }
}

void gguf_pack_q4_k(const unsigned char *block, struct quant_group *ret_groups)
{
    pack_k(block, NULL, block + 16, ret_groups);
}

void gguf_pack_q5_k(const unsigned char *block, struct quant_group *ret_groups)
{
    pack_k(block, block + 16, block + 48, ret_groups);
}

void gguf_pack_q6_k(const unsigned char *block, struct quant_group *ret_groups)
{
    const unsigned char *scales = block + 192;
    for (int g = 0; g < UNIT_GROUPS; g++) {
        int quarter = g % 4;
        const unsigned char *low = block + (ptrdiff_t)64 * (g / 4) + (ptrdiff_t)32 * (quarter % 2);
        const unsigned char *high = block + 128 + (ptrdiff_t)32 * (g / 4);
        ret_groups[g].scale = read_u16(block + 208);
        for (int i = 0; i < PACKED_GROUP; i++)
            ret_groups[g].numbers[i] =
                (uint8_t)((low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4);
        memcpy(ret_groups[g].factors, scales + (ptrdiff_t)2 * g, 2);
    }
}

static const struct {
    enum gguf_type type;
    enum tensor_type packed;
    void (*pack)(const unsigned char *block, struct quant_group *ret_groups);
} TYPES[] = {
    {GGUF_Q8_0, TENSOR_Q8, gguf_pack_q8_0},       {GGUF_Q5_0, TENSOR_Q8, gguf_pack_q5_0},
    {GGUF_Q5_1, TENSOR_Q8_MIN, gguf_pack_q5_1},   {GGUF_Q4_0, TENSOR_Q4, gguf_pack_q4_0},
    {GGUF_Q4_1, TENSOR_Q4_MIN, gguf_pack_q4_1},   {GGUF_Q4_K, TENSOR_Q4_SUPER, gguf_pack_q4_k},
    {GGUF_Q5_K, TENSOR_Q8_SUPER, gguf_pack_q5_k}, {GGUF_Q6_K, TENSOR_Q8_HALVES, gguf_pack_q6_k},
};

enum { TYPE_COUNT = sizeof TYPES / sizeof TYPES[0] };

static size_t find(enum gguf_type type)
{
    size_t i = 0;
    while (i < TYPE_COUNT && TYPES[i].type != type)
        i++;
    return i;
}

bool gguf_pack_type(enum gguf_type type, enum tensor_type *ret_type)
{
    size_t index = find(type);
    if (index == TYPE_COUNT)
        return false;
    *ret_type = TYPES[index].packed;
    return true;
}

void gguf_pack_groups(enum gguf_type type, const unsigned char *row, uint32_t first_group,
                      uint32_t count, struct quant_group *ret_groups)
{
    uint32_t elements = PACKED_GROUP, bytes = 0;
    size_t index = find(type);
    bool known = gguf_type_block((uint32_t)type, &elements, &bytes);
    uint32_t groups = elements / PACKED_GROUP;
    assert(known && index < TYPE_COUNT && first_group % groups == 0 && count % groups == 0);
    const unsigned char *block = row + (size_t)(first_group / groups) * bytes;
    for (uint32_t g = 0; g < count; g += groups, block += bytes)
        TYPES[index].pack(block, ret_groups + g);
}
