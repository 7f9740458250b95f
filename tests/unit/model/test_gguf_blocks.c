/*
 * Every block type against blocks computed by hand. 1.0 is 0x3C00 as f16, 0.5 0x3800, 2.0 0x4000,
 * -2.0 0xC000, 0.25 0x3400.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_blocks.h"
#include "tests/support/test.h"

static void check(const float *values, int i, float wanted)
{
    if (values[i] != wanted)
        fail_msg("element %d is %.9g, wanted %.9g", i, (double)values[i], (double)wanted);
}

static void half_floats_are_read_exactly(void **state)
{
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float value = gguf_half((uint16_t)bits);
        int exponent = (int)(bits >> 10 & 31);
        double fraction = bits & 0x3FF, sign = bits & 0x8000 ? -1 : 1, wanted;
        if (exponent == 31) {
            assert_true(fraction == 0 ? isinf(value) : isnan(value));
            assert_true(!signbit(value) == (sign > 0));
            continue;
        }
        wanted = exponent == 0 ? sign * ldexp(fraction, -24)
                               : sign * ldexp(1024 + fraction, exponent - 25);
        if ((double)value != wanted || !signbit(value) != !signbit(wanted))
            fail_msg("0x%04x is %.9g, wanted %.9g", bits, (double)value, wanted);
    }
}

static void plain_numbers_are_taken_as_they_are(void **state)
{
    float value;
    gguf_block_f32((const unsigned char[]){0x00, 0x00, 0x28, 0xC1}, &value);
    assert_true(value == -10.5F);
    gguf_block_f16((const unsigned char[]){0x00, 0xC0}, &value);
    assert_true(value == -2.0F);
    gguf_block_bf16((const unsigned char[]){0x28, 0xC1}, &value);
    assert_true(value == -10.5F);
}

static void q8_0_is_a_scale_and_32_signed_bytes(void **state)
{
    unsigned char block[34] = {0x00, 0x38}; /* d 0.5 */
    float values[32];
    block[2] = 1;
    block[3] = 0xFF; /* -1 */
    block[4] = 0x80; /* -128 */
    block[33] = 127;
    gguf_block_q8_0(block, values);
    check(values, 0, 0.5F);
    check(values, 1, -0.5F);
    check(values, 2, -64);
    check(values, 3, 0);
    check(values, 31, 63.5F);
}

static void q4_0_has_its_first_half_in_the_low_nibbles(void **state)
{
    unsigned char block[18] = {0x00, 0x40}; /* d 2 */
    float values[32];
    block[2] = 0xF0;  /* element 0: 0, element 16: 15 */
    block[3] = 0x98;  /* element 1: 8, element 17: 9 */
    block[17] = 0x1E; /* element 15: 14, element 31: 1 */
    gguf_block_q4_0(block, values);
    check(values, 0, -16);
    check(values, 16, 14);
    check(values, 1, 0);
    check(values, 17, 2);
    check(values, 15, 12);
    check(values, 31, -14);
    check(values, 2, -16);
}

static void q4_1_adds_a_minimum(void **state)
{
    unsigned char block[20] = {0x00, 0x38, 0x00, 0xC0}; /* d 0.5, m -2 */
    float values[32];
    block[4] = 0xF1;
    block[19] = 0x2A;
    gguf_block_q4_1(block, values);
    check(values, 0, -1.5F);
    check(values, 16, 5.5F);
    check(values, 15, 3);
    check(values, 31, -1);
    check(values, 1, -2);
}

static void q5_0_takes_the_fifth_bits_from_one_word(void **state)
{
    unsigned char block[22] = {0x00, 0x3C}; /* d 1 */
    float values[32];
    block[2] = 0x01; /* element 0 */
    block[3] = 0x80; /* element 15 */
    block[4] = 0x02; /* element 17 */
    block[5] = 0x80; /* element 31 */
    block[6] = 0x53; /* element 0: 3, element 16: 5 */
    block[7] = 0x40; /* element 1: 0, element 17: 4 */
    block[21] = 0xF7;
    gguf_block_q5_0(block, values);
    check(values, 0, 3);    /* 16 + 3 - 16 */
    check(values, 16, -11); /* 5 - 16 */
    check(values, 1, -16);
    check(values, 17, 4);
    check(values, 15, 7);
    check(values, 31, 15);
    check(values, 2, -16);
}

static void q5_1_has_scale_minimum_and_fifth_bits(void **state)
{
    unsigned char block[24] = {0x00, 0x38, 0x00, 0x3C}; /* d 0.5, m 1 */
    float values[32];
    block[5] = 0x01; /* element 8 */
    block[6] = 0x01; /* element 16 */
    block[8] = 0x21; /* element 0: 1, element 16: 2 */
    block[16] = 0x0F;
    gguf_block_q5_1(block, values);
    check(values, 0, 1.5F);
    check(values, 16, 10); /* 0.5 * 18 + 1 */
    check(values, 8, 16.5F);
    check(values, 24, 1);
}

/* d 1, m 0.5; scales 1, 2, 3, 4, 17, 34, 51, 63 and minima 5, 6, 7, 8, 61, 18, 36, 54. */
static void put_k_scales(unsigned char *block)
{
    static const int scales[] = {1, 2, 3, 4, 17, 34, 51, 63};
    static const int minima[] = {5, 6, 7, 8, 61, 18, 36, 54};
    memcpy(block, (const unsigned char[]){0x00, 0x3C, 0x00, 0x38}, 4);
    for (int g = 0; g < 4; g++) {
        block[4 + g] = (unsigned char)(scales[g] | scales[g + 4] >> 4 << 6);
        block[8 + g] = (unsigned char)(minima[g] | minima[g + 4] >> 4 << 6);
        block[12 + g] = (unsigned char)((scales[g + 4] & 15) | (minima[g + 4] & 15) << 4);
    }
}

static void q4_k_has_eight_groups_with_six_bit_scales_and_minima(void **state)
{
    static const int wanted_scales[] = {1, 2, 3, 4, 17, 34, 51, 63};
    static const int wanted_minima[] = {5, 6, 7, 8, 61, 18, 36, 54};
    unsigned char block[144];
    float values[256];
    put_k_scales(block);
    for (int i = 0; i < 128; i++)
        block[16 + i] = (unsigned char)((i % 16) | (15 - i % 16) << 4);
    gguf_block_q4_k(block, values);
    for (int i = 0; i < 256; i++) {
        int group = i / 32, at = i % 32, q = group % 2 == 0 ? at % 16 : 15 - at % 16;
        check(values, i, (float)(wanted_scales[group] * q) - 0.5F * (float)wanted_minima[group]);
    }
    check(values, 33, 2 * 14 - 3);           /* group 1: the high nibbles of the first 32 bytes */
    check(values, 7 * 32 + 2, 63 * 13 - 27); /* and group 7 those of the last */
}

static void q5_k_has_a_bit_of_each_group_in_every_high_byte(void **state)
{
    unsigned char block[176] = {0};
    float values[256];
    put_k_scales(block);
    memset(block + 16, 0, 32);
    memset(block + 48, 0, 128);
    block[16 + 5] = 0x81;      /* element 5 of groups 0 and 7 */
    block[48 + 5] = 0x73;      /* element 5 of group 0: 3, of group 1: 7 */
    block[48 + 96 + 5] = 0xC0; /* element 5 of group 7: 12 */
    gguf_block_q5_k(block, values);
    check(values, 5, 19 - 2.5F);
    check(values, 32 + 5, 2 * 7 - 3);
    check(values, 7 * 32 + 5, 63 * 28 - 27);
    check(values, 6 * 32 + 5, -18);
    check(values, 4, -2.5F);
}

static void q6_k_has_six_bits_and_a_scale_for_sixteen(void **state)
{
    unsigned char block[210] = {0};
    float values[256];
    for (int i = 0; i < 16; i++)
        block[192 + i] = (unsigned char)(int8_t)(i - 8);
    memcpy(block + 208, (const unsigned char[]){0x00, 0x34}, 2); /* d 0.25 */
    block[0] = 0x21;                                             /* element 0: 1, element 64: 2 */
    block[32 + 3] = 0x43;                                        /* element 35: 3, element 99: 4 */
    block[64 + 32 + 31] = 0xF5;  /* element 128 + 63: 5, element 128 + 127: 15 */
    block[128] = 0x93;           /* of element 0: 3, 32: 0, 64: 1, 96: 2 */
    block[128 + 3] = 0x08;       /* of element 35: 2 */
    block[128 + 32 + 31] = 0xC4; /* of element 128 + 63: 1, 128 + 127: 3 */
    gguf_block_q6_k(block, values);
    check(values, 0, 0.25F * -8 * (49 - 32));
    check(values, 64, 0.25F * -4 * (18 - 32));
    check(values, 96, 0.25F * -2 * (32 - 32));
    check(values, 32, 0.25F * -6 * -32);
    check(values, 35, 0.25F * -6 * (35 - 32));
    check(values, 99, 0.25F * -2 * (4 - 32));
    check(values, 128 + 63, 0.25F * 3 * (21 - 32));
    check(values, 128 + 127, 0.25F * 7 * (63 - 32));
}

static void rows_of_blocks_are_converted_one_after_the_other(void **state)
{
    unsigned char blocks[2 * 18 + 1] = {0};
    float values[64];
    /* At an odd address. */
    memcpy(blocks + 1, (const unsigned char[]){0x00, 0x3C, 0x0F}, 3);
    memcpy(blocks + 19, (const unsigned char[]){0x00, 0x40, 0xF0}, 3);
    gguf_blocks_to_float(GGUF_Q4_0, blocks + 1, values, 64);
    check(values, 0, 7);
    check(values, 16, -8);
    check(values, 32, -16);
    check(values, 48, 14);
    gguf_blocks_to_float(GGUF_F16, (const unsigned char[]){0, 0x3C, 0, 0x40, 0, 0xC0}, values, 3);
    check(values, 0, 1);
    check(values, 1, 2);
    check(values, 2, -2);
}

static void every_type_that_is_read_can_be_converted(void **state)
{
    static const unsigned char zeros[GGUF_BLOCK_BYTES_MAX];
    int known = 0;
    for (uint32_t type = 0; type < 64; type++) {
        uint32_t elements, bytes;
        float values[GGUF_BLOCK_ELEMENTS_MAX];
        if (!gguf_type_block(type, &elements, &bytes))
            continue;
        assert_true(elements <= GGUF_BLOCK_ELEMENTS_MAX && bytes <= GGUF_BLOCK_BYTES_MAX);
        memset(values, 0xFF, sizeof values);
        gguf_blocks_to_float((enum gguf_type)type, zeros, values, elements);
        for (uint32_t i = 0; i < elements; i++)
            check(values, (int)i, 0);
        known++;
    }
    assert_int_equal(known, 11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_floats_are_read_exactly),
        cmocka_unit_test(plain_numbers_are_taken_as_they_are),
        cmocka_unit_test(q8_0_is_a_scale_and_32_signed_bytes),
        cmocka_unit_test(q4_0_has_its_first_half_in_the_low_nibbles),
        cmocka_unit_test(q4_1_adds_a_minimum),
        cmocka_unit_test(q5_0_takes_the_fifth_bits_from_one_word),
        cmocka_unit_test(q5_1_has_scale_minimum_and_fifth_bits),
        cmocka_unit_test(q4_k_has_eight_groups_with_six_bit_scales_and_minima),
        cmocka_unit_test(q5_k_has_a_bit_of_each_group_in_every_high_byte),
        cmocka_unit_test(q6_k_has_six_bits_and_a_scale_for_sixteen),
        cmocka_unit_test(rows_of_blocks_are_converted_one_after_the_other),
        cmocka_unit_test(every_type_that_is_read_can_be_converted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
