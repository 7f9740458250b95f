/* Surprise and perplexity, against sums in long double. */
#include <math.h>

#include "tests/support/test.h"
#include "tools/perplexity_score.h"

static void assert_near(double got, double expected, double relative)
{
    if (!(fabs(got - expected) <= fabs(expected) * relative))
        fail_msg("%.17g, expected %.17g", got, expected);
}

static void a_surprise_is_minus_the_logarithm_of_the_probability(void **state)
{
    static const float even[] = {3, 3, 3, 3};
    static const float certain[] = {-1000, 1000};
    static const float two[] = {0, 1};
    assert_near(perplexity_surprise(even, 4, 2), log(4), 1e-15);
    assert_true(perplexity_surprise(certain, 2, 1) == 0);
    assert_near(perplexity_surprise(certain, 2, 0), 2000, 1e-15);
    assert_near(perplexity_surprise(two, 2, 0), log1p(exp(1)), 1e-15);
    assert_near(perplexity_surprise(two, 2, 1), log1p(exp(-1)), 1e-15);
}

/* Half of the mass on 100,000 small terms, each of which a float's sum would round. */
static void many_small_terms_count(void **state)
{
    enum { ROWS = 100001 };
    static float logits[ROWS];
    long double sum = 1;
    for (int i = 1; i < ROWS; i++) {
        logits[i] = -11.5f + (float)i * 1e-7f;
        sum += expl((long double)logits[i]);
    }
    assert_near(perplexity_surprise(logits, ROWS, 0), (double)logl(sum), 1e-12);
}

static void what_is_no_number_is_not_hidden(void **state)
{
    const float first[] = {NAN, 1, 2};
    const float last[] = {1, 2, NAN};
    const float infinite[] = {1, INFINITY, 2};
    const float none[] = {-INFINITY, -INFINITY};
    const float never[] = {1, -INFINITY};
    assert_false(isfinite(perplexity_surprise(first, 3, 1)));
    assert_false(isfinite(perplexity_surprise(last, 3, 1)));
    assert_false(isfinite(perplexity_surprise(infinite, 3, 0)));
    assert_false(isfinite(perplexity_surprise(none, 2, 0)));
    assert_false(isfinite(perplexity_surprise(never, 2, 1)));
    assert_true(perplexity_surprise(never, 2, 0) == 0);
}

static void the_error_is_that_of_the_mean_times_the_perplexity(void **state)
{
    static const double surprises[] = {1, 2.5, 0.25, 4, 3};
    enum { COUNT = sizeof surprises / sizeof surprises[0] };
    struct perplexity_score score = {0};
    long double sum = 0, squares = 0;
    assert_true(isnan(perplexity_value(&score)));
    for (int i = 0; i < COUNT; i++) {
        perplexity_add(&score, surprises[i]);
        sum += surprises[i];
        squares += surprises[i] * surprises[i];
        assert_true(isnan(perplexity_error(&score)) == (i == 0));
    }
    long double mean = sum / COUNT;
    long double deviation = sqrtl((squares / COUNT - mean * mean) / (COUNT - 1));
    assert_int_equal(score.count, COUNT);
    assert_near(perplexity_value(&score), (double)expl(mean), 1e-14);
    assert_near(perplexity_error(&score), (double)(expl(mean) * deviation), 1e-13);
}

static void nothing_is_lost_beside_a_large_mean(void **state)
{
    struct perplexity_score score = {0};
    for (int i = 0; i < 1000; i++)
        perplexity_add(&score, 300 + (i % 2 ? 1e-7 : -1e-7));
    assert_near(score.squares, 1000 * 1e-14, 1e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_surprise_is_minus_the_logarithm_of_the_probability),
        cmocka_unit_test(many_small_terms_count),
        cmocka_unit_test(what_is_no_number_is_not_hidden),
        cmocka_unit_test(the_error_is_that_of_the_mean_times_the_perplexity),
        cmocka_unit_test(nothing_is_lost_beside_a_large_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
