/* Blocks of every quantised type, packed, against the reference's floats: bit for bit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_blocks.h"
#include "model/gguf_pack.h"
#include "tests/support/test.h"

enum { BLOCKS = 2000 };

static const struct {
    enum gguf_type type;
    enum tensor_type packed;
    void (*pack)(const unsigned char *block, struct quant_group *ret_groups);
    int halves[2]; /* where the f16 numbers of a block stand; -1: there is one alone */
} TYPES[] = {
    {GGUF_Q8_0, TENSOR_Q8, gguf_pack_q8_0, {0, -1}},
    {GGUF_Q5_0, TENSOR_Q8, gguf_pack_q5_0, {0, -1}},
    {GGUF_Q5_1, TENSOR_Q8_MIN, gguf_pack_q5_1, {0, 2}},
    {GGUF_Q4_0, TENSOR_Q4, gguf_pack_q4_0, {0, -1}},
    {GGUF_Q4_1, TENSOR_Q4_MIN, gguf_pack_q4_1, {0, 2}},
    {GGUF_Q4_K, TENSOR_Q4_SUPER, gguf_pack_q4_k, {0, 2}},
    {GGUF_Q5_K, TENSOR_Q8_SUPER, gguf_pack_q5_k, {0, 2}},
    {GGUF_Q6_K, TENSOR_Q8_HALVES, gguf_pack_q6_k, {208, -1}},
};

enum { TYPE_COUNT = sizeof TYPES / sizeof TYPES[0] };

/* Zero, the smallest, subnormal, one, the largest, infinite, no number; and their negatives. */
static const uint16_t EXTREME_HALVES[] = {0x0000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0x7C00,
                                          0x7E00, 0x8000, 0x8001, 0xBC00, 0xFBFF, 0xFC00};

static uint32_t random_bits(void)
{
    static uint64_t state = 42;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

/* The first blocks are all zeros and all ones, with every extreme number of f16; half of the others
 * have such numbers in random bits. */
static void make_block(int type, uint32_t index, unsigned char *block, uint32_t bytes)
{
    enum { EXTREMES = sizeof EXTREME_HALVES / sizeof EXTREME_HALVES[0] };
    for (uint32_t i = 0; i < bytes; i++)
        block[i] = index < EXTREMES       ? 0
                   : index < 2 * EXTREMES ? 0xFF
                                          : (unsigned char)random_bits();
    for (int i = 0; i < 2 && TYPES[type].halves[i] >= 0; i++) {
        uint32_t choice = index < 2 * EXTREMES ? index + (uint32_t)i * 5 : random_bits();
        uint16_t half = EXTREME_HALVES[choice % EXTREMES];
        if (index < 2 * EXTREMES || index % 2)
            memcpy(block + TYPES[type].halves[i], &half, sizeof half);
    }
}

/* The sign of a zero has no meaning, nor have the bits of what is no number. */
static bool same(float a, float b)
{
    return (isnan(a) && isnan(b)) || (a == 0 && b == 0) || memcmp(&a, &b, sizeof a) == 0;
}

static void check_groups(int type, uint32_t block, const struct quant_group *groups, uint32_t count,
                         const float *wanted)
{
    for (uint32_t g = 0; g < count; g++) {
        float floats[PACKED_GROUP];
        quant_to_floats(TYPES[type].packed, &groups[g], groups, floats);
        for (uint32_t i = 0; i < PACKED_GROUP; i++)
            if (!same(floats[i], wanted[g * PACKED_GROUP + i]))
                fail_msg("%s: block %u, element %u is %.9g, wanted %.9g",
                         gguf_type_name((uint32_t)TYPES[type].type), block, g * PACKED_GROUP + i,
                         (double)floats[i], (double)wanted[g * PACKED_GROUP + i]);
    }
}

static void packed_blocks_are_the_references_floats_bit_for_bit(void **state)
{
    for (int t = 0; t < TYPE_COUNT; t++) {
        uint32_t elements = 0, bytes = 0;
        assert_true(gguf_type_block((uint32_t)TYPES[t].type, &elements, &bytes));
        for (uint32_t n = 0; n < BLOCKS; n++) {
            unsigned char block[GGUF_BLOCK_BYTES_MAX];
            float wanted[GGUF_BLOCK_ELEMENTS_MAX];
            struct quant_group groups[8] = {0};
            make_block(t, n, block, bytes);
            gguf_blocks_to_float(TYPES[t].type, block, wanted, elements);
            TYPES[t].pack(block, groups);
            check_groups(t, n, groups, elements / PACKED_GROUP, wanted);
        }
    }
}

/* What the packed form cuts off must not be there: 7 bits of 8, 4 of 4. */
static void numbers_fit_into_the_bits_of_their_type(void **state)
{
    for (int t = 0; t < TYPE_COUNT; t++) {
        uint32_t elements = 0, bytes = 0;
        uint32_t most = TYPES[t].packed == TENSOR_Q8        ? 255
                        : packed_bits(TYPES[t].packed) == 8 ? 127
                                                            : 15;
        assert_true(gguf_type_block((uint32_t)TYPES[t].type, &elements, &bytes));
        for (uint32_t n = 0; n < BLOCKS; n++) {
            unsigned char block[GGUF_BLOCK_BYTES_MAX];
            struct quant_group groups[8] = {0};
            make_block(t, n, block, bytes);
            TYPES[t].pack(block, groups);
            for (uint32_t i = 0; i < elements; i++)
                assert_in_range(groups[i / PACKED_GROUP].numbers[i % PACKED_GROUP], 0, most);
        }
    }
}

static void a_part_of_a_row_is_found_at_its_blocks(void **state)
{
    enum { UNITS = 3, ELEMENTS = UNITS * 256 };
    for (int t = 0; t < TYPE_COUNT; t++) {
        uint32_t elements = 0, bytes = 0;
        assert_true(gguf_type_block((uint32_t)TYPES[t].type, &elements, &bytes));
        unsigned char row[ELEMENTS / 32 * 34];
        float wanted[ELEMENTS];
        for (uint32_t b = 0; b < ELEMENTS / elements; b++)
            make_block(t, 1000 + 2 * b, row + (size_t)b * bytes, bytes);
        gguf_blocks_to_float(TYPES[t].type, row, wanted, ELEMENTS);
        for (uint32_t unit = 0; unit < UNITS; unit++) {
            struct quant_group groups[8] = {0};
            gguf_pack_groups(TYPES[t].type, row, unit * 8, 8, groups);
            check_groups(t, unit, groups, 8, wanted + (size_t)unit * 256);
        }
    }
}

static void types_that_are_not_quantised_go_nowhere(void **state)
{
    enum tensor_type packed = TENSOR_F32;
    assert_false(gguf_pack_type(GGUF_F32, &packed));
    assert_false(gguf_pack_type(GGUF_F16, &packed));
    assert_false(gguf_pack_type(GGUF_BF16, &packed));
    assert_false(gguf_pack_type(GGUF_NONE, &packed));
    assert_int_equal(packed, TENSOR_F32);
    for (int t = 0; t < TYPE_COUNT; t++) {
        assert_true(gguf_pack_type(TYPES[t].type, &packed));
        assert_int_equal(packed, TYPES[t].packed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_blocks_are_the_references_floats_bit_for_bit),
        cmocka_unit_test(numbers_fit_into_the_bits_of_their_type),
        cmocka_unit_test(a_part_of_a_row_is_found_at_its_blocks),
        cmocka_unit_test(types_that_are_not_quantised_go_nowhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
