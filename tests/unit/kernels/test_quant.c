#include "kernels/quant.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/packed.h"
#include "tests/support/test.h"

static void packed_types_take_the_bytes_that_their_layout_says(void **state)
{
    /* Of 256 x 1024 weights, in bits for each. */
    static const double bits[PACKED_TYPES] = {8.5, 9, 8.625, 8.625, 4.5, 5, 4.625};
    for (int t = 0; t < PACKED_TYPES; t++) {
        struct tensor tensor = {.type = packed_types[t], .rows = 256, .cols = 1024};
        assert_true((double)tensor_bytes(&tensor) == bits[t] * 256 * 1024 / 8);
        assert_int_equal(tensor_bytes(&tensor) % 64, 0);
        tensor.rows = 241; /* the last strip is whole */
        assert_true((double)tensor_bytes(&tensor) == bits[t] * 256 * 1024 / 8);
    }
    struct tensor narrow = {.type = TENSOR_Q4, .rows = 1, .cols = 1};
    assert_int_equal(tensor_bytes(&narrow), 64 + 2 * 256);
}

static void rows_of_a_packed_matrix_begin_with_their_strip(void **state)
{
    static const char memory[8192];
    struct tensor tensor = {.data = memory, .type = TENSOR_Q8, .rows = 100, .cols = 64};
    struct tensor part = tensor_rows(tensor, 32, 40);
    assert_int_equal(part.rows, 40);
    assert_ptr_equal(part.data, memory + 2 * (64 + 2 * 512));
}

static int give_one(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                    struct quant_group *ret_groups)
{
    for (uint32_t g = 0; g < count; g++) {
        ret_groups[g] = *(const struct quant_group *)context;
        ret_groups[g].scale = (uint16_t)(0x4000 + row * 16 + first_group + g);
    }
    return 0;
}

static void bytes_lie_where_the_layout_says(void **state)
{
    struct quant_group group = {.min = 0x1234, .factors = {-3, 7}};
    for (int i = 0; i < PACKED_GROUP; i++)
        group.numbers[i] = (uint8_t)(i * 5 % 16 + 0x20 * (i % 7));
    unsigned char memory[320 + 8 * 512];
    struct tensor q4_min = {.type = TENSOR_Q4_MIN, .rows = 16, .cols = 64};
    assert_int_equal(quant_pack_strip(&q4_min, memory, 0, give_one, &group), 0);
    uint16_t half;
    memcpy(&half, memory + (16 + 5) * 2, 2); /* the second group's scale of row 5 */
    assert_int_equal(half, 0x4000 + 5 * 16 + 1);
    memcpy(&half, memory + (32 + 16 + 5) * 2, 2);
    assert_int_equal(half, 0x1234);
    /* Columns 9 and 25 of row 3: the third quad's second byte. What Q4 cannot hold is cut off. */
    assert_int_equal(memory[128 + 2 * 64 + 3 * 4 + 1],
                     (group.numbers[9] & 15) | (group.numbers[25] & 15) << 4);

    struct tensor q8_super = {.type = TENSOR_Q8_SUPER, .rows = 3, .cols = 96};
    assert_int_equal(quant_pack_strip(&q8_super, memory, 0, give_one, &group), 0);
    memcpy(&half, memory + 2 * 2, 2); /* row 2: the scale of the unit's first group */
    assert_int_equal(half, 0x4000 + 2 * 16);
    memcpy(&half, memory + 32 + 2 * 2, 2);
    assert_int_equal(half, 0x1234);
    assert_int_equal((int8_t)memory[64 + (2 * 2 + 0) * 16 + 2], -3);
    assert_int_equal((int8_t)memory[64 + (2 * 2 + 1) * 16 + 2], 7);
    assert_int_equal(memory[320 + 2 * 512 + 4 * 64 + 2 * 4 + 3], group.numbers[19] & 127);
    /* Row 3 and group 3 are beyond the matrix. */
    memcpy(&half, memory + 3 * 2, 2);
    assert_int_equal(half, 0);
    assert_int_equal(memory[64 + 3 * 2 * 16 + 2], 0);
    assert_int_equal(memory[320 + 2 * 512 + 4 * 64 + 3 * 4 + 3], 0);
}

static double step_of(const struct quant_group *group)
{
    return fabs(value_of_f16(group->scale));
}

static void floats_come_back_within_a_step(void **state)
{
    static const enum tensor_type types[] = {TENSOR_Q8, TENSOR_Q8_MIN, TENSOR_Q4, TENSOR_Q4_MIN};
    struct random random = {11};
    for (int t = 0; t < 4; t++)
        for (int n = 0; n < 2000; n++) {
            float *floats = random_floats(&random, PACKED_GROUP, n % 3 ? 0.05f : 700.0f);
            for (int i = 0; n % 5 == 0 && i < PACKED_GROUP; i++)
                floats[i] += n % 3 ? 1.0f : -300.0f; /* far from zero */
            struct quant_group group;
            float back[PACKED_GROUP], largest = 0;
            quant_from_floats(types[t], floats, &group);
            quant_to_floats(types[t], &group, &group, back);
            for (int i = 0; i < PACKED_GROUP; i++)
                largest = fmaxf(largest, fabsf(floats[i]));
            /* Half a step; a whole one at Q4's upper end, which is one short. Both ends of a range
             * are f16, which moves them by up to 2^-11 of themselves. */
            double allowed = step_of(&group) * (types[t] == TENSOR_Q4 ? 1.01 : 0.51);
            if (packed_has_min(types[t]))
                allowed += (double)largest * 0x1p-10;
            double steps = types[t] == TENSOR_Q4 ? 7.9 : types[t] == TENSOR_Q4_MIN ? 7.4 : 63;
            assert_true(step_of(&group) <= (double)largest / steps * 1.001 + 1e-7);
            for (int i = 0; i < PACKED_GROUP; i++)
                assert_true(fabs((double)back[i] - (double)floats[i]) <= allowed);
            free(floats);
        }
}

static void zeros_stay_zero_and_what_is_no_number_shows(void **state)
{
    static const enum tensor_type types[] = {TENSOR_Q8, TENSOR_Q8_MIN, TENSOR_Q4, TENSOR_Q4_MIN};
    for (int t = 0; t < 4; t++) {
        float floats[PACKED_GROUP] = {0}, back[PACKED_GROUP];
        struct quant_group group;
        quant_from_floats(types[t], floats, &group);
        quant_to_floats(types[t], &group, &group, back);
        for (int i = 0; i < PACKED_GROUP; i++)
            assert_true(back[i] == 0);
        static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
        for (int b = 0; b < 4; b++) {
            memset(floats, 0, sizeof floats);
            floats[7] = bad[b];
            quant_from_floats(types[t], floats, &group);
            quant_to_floats(types[t], &group, &group, back);
            assert_false(isfinite(back[7]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_types_take_the_bytes_that_their_layout_says),
        cmocka_unit_test(rows_of_a_packed_matrix_begin_with_their_strip),
        cmocka_unit_test(bytes_lie_where_the_layout_says),
        cmocka_unit_test(floats_come_back_within_a_step),
        cmocka_unit_test(zeros_stay_zero_and_what_is_no_number_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
