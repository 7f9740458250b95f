#include <math.h>
#include <string.h>

#include "kernels/cpu/half.h"
#include "tests/support/test.h"

/* By the definition: sign, 5 bits of exponent, 10 of fraction. */
static double value_of(uint16_t half)
{
    int exponent = half >> 10 & 31;
    double fraction = half & 1023;
    double magnitude = exponent == 31  ? (fraction > 0 ? (double)NAN : (double)INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void every_finite_f16_comes_back_unchanged(void **state)
{
    for (uint32_t half = 0; half < 0x10000; half++)
        if ((half & 0x7C00) != 0x7C00)
            assert_int_equal(half_from_float((float)value_of((uint16_t)half)), half);
}

static void between_two_f16_the_nearer_is_taken_and_the_even_one_on_ties(void **state)
{
    for (uint32_t half = 0; half < 0x7BFF; half++) {
        double low = value_of((uint16_t)half);
        double high = value_of((uint16_t)(half + 1));
        float middle = (float)((low + high) / 2); /* exact */
        uint32_t even = half & 1 ? half + 1 : half;
        assert_int_equal(half_from_float(middle), even);
        assert_int_equal(half_from_float(nextafterf(middle, 0)), half);
        assert_int_equal(half_from_float(nextafterf(middle, INFINITY)), half + 1);
        assert_int_equal(half_from_float(-middle), even | 0x8000);
    }
}

static void beyond_the_largest_f16_it_stays_there(void **state)
{
    assert_int_equal(half_from_float(65519.0f), 0x7BFF);
    assert_int_equal(half_from_float(65520.0f), 0x7BFF);
    assert_int_equal(half_from_float(-1e30f), 0xFBFF);
    assert_int_equal(half_from_float(INFINITY), 0x7BFF);
    assert_true(isnan(value_of(half_from_float(NAN))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_finite_f16_comes_back_unchanged),
        cmocka_unit_test(between_two_f16_the_nearer_is_taken_and_the_even_one_on_ties),
        cmocka_unit_test(beyond_the_largest_f16_it_stays_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
