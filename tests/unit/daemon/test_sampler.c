#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "daemon/sampler.h"
#include "tests/support/test.h"

enum { VOCAB = 5000, DRAWS = 20000 };

static struct sampler sampler;

static int setup(void **state)
{
    (void)state;
    return sampler_init(&sampler, VOCAB);
}

static int teardown(void **state)
{
    (void)state;
    sampler_fini(&sampler);
    return 0;
}

static const struct sampler_params greedy = {.top_p = 1};
static const struct sampler_params plain = {.temperature = 1, .top_p = 1, .seed = 7};

static uint32_t pick(const struct sampler_params *params, const float *logits, uint32_t count,
                     uint32_t index)
{
    uint32_t id = UINT32_MAX;
    float logprob;
    assert_int_equal(sampler_pick(&sampler, params, logits, count, index, &id, &logprob), 0);
    assert_true(id < count);
    assert_true(logprob <= 1e-6f);
    return id;
}

static void greedy_takes_the_lowest_of_the_likeliest(void **state)
{
    (void)state;
    const float logits[] = {1, 3, -2, 3, 2};
    assert_int_equal(pick(&greedy, logits, 5, 0), 1);
}

static void logprob_is_that_of_the_plain_softmax(void **state)
{
    (void)state;
    const float logits[] = {0.5f, 2, -1, 1.25f};
    double total = 0;
    for (int i = 0; i < 4; i++)
        total += exp((double)logits[i]);
    const struct sampler_params params = {
        .temperature = 0.2f, .top_p = 0.5f, .top_k = 2, .min_p = 0.1f, .seed = 1};
    uint32_t id;
    float logprob;
    assert_int_equal(sampler_pick(&sampler, &params, logits, 4, 0, &id, &logprob), 0);
    assert_float_equal(logprob, (float)((double)logits[id] - log(total)), 1e-5);
    assert_int_equal(sampler_pick(&sampler, &greedy, logits, 4, 0, &id, &logprob), 0);
    assert_int_equal(id, 1);
    assert_float_equal(logprob, (float)(2 - log(total)), 1e-5);
}

static void same_seed_and_index_give_the_same_token(void **state)
{
    (void)state;
    float logits[VOCAB];
    unsigned seed = 3;
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(rand_r(&seed) % 1000) / 100;
    struct sampler_params params = {
        .temperature = 0.8f, .top_p = 0.95f, .top_k = 200, .min_p = 0.001f, .seed = 42};
    uint32_t first[64];
    uint32_t differing = 0;
    for (uint32_t index = 0; index < 64; index++)
        first[index] = pick(&params, logits, VOCAB, index);
    for (uint32_t index = 64; index-- > 0;) /* in another order */
        assert_int_equal(pick(&params, logits, VOCAB, index), first[index]);
    params.seed = 43;
    for (uint32_t index = 0; index < 64; index++)
        differing += pick(&params, logits, VOCAB, index) != first[index];
    assert_in_range(differing, 32, 64);
}

/* Draws many times and counts; the ids must come with the probabilities, within five standard
 * deviations. */
static void assert_distribution(const struct sampler_params *params, const float *logits,
                                const double *probabilities, uint32_t count)
{
    uint32_t counts[64] = {0};
    for (uint32_t index = 0; index < DRAWS; index++)
        counts[pick(params, logits, count, index)]++;
    for (uint32_t id = 0; id < count; id++) {
        double p = probabilities[id];
        double deviation = 5 * sqrt(DRAWS * p * (1 - p)) + 1e-9;
        if (fabs(counts[id] - DRAWS * p) > deviation)
            fail_msg("id %u was drawn %u times, expected %g", id, counts[id], DRAWS * p);
    }
}

static void tokens_come_with_their_probabilities(void **state)
{
    (void)state;
    const double p[] = {0.5, 0.1, 0.25, 0.05, 0.1};
    float logits[5];
    for (int i = 0; i < 5; i++)
        logits[i] = (float)log(p[i]) + 3;
    assert_distribution(&plain, logits, p, 5);
}

static void temperature_sharpens(void **state)
{
    (void)state;
    const float logits[] = {0, (float)M_LN2, 0};
    const double p[] = {1.0 / 6, 4.0 / 6, 1.0 / 6};
    struct sampler_params params = plain;
    params.temperature = 0.5f;
    assert_distribution(&params, logits, p, 3);
}

static void top_k_keeps_the_k_likeliest_and_of_equals_the_lower_ids(void **state)
{
    (void)state;
    const float logits[] = {0, 1, 0, 1, 0};
    const double total = 2 * M_E + 1;
    const double p[] = {1 / total, M_E / total, 0, M_E / total, 0};
    struct sampler_params params = plain;
    params.top_k = 3;
    assert_distribution(&params, logits, p, 5);
    params.top_k = 1;
    assert_int_equal(pick(&params, logits, 5, 0), 1);
    params.top_k = 1000; /* more than there are */
    assert_in_range(pick(&params, logits, 5, 0), 0, 4);
}

static void top_p_keeps_the_shortest_run_that_reaches_the_share(void **state)
{
    (void)state;
    const double given[] = {0.1, 0.4, 0.2, 0.3};
    float logits[4];
    for (int i = 0; i < 4; i++)
        logits[i] = (float)log(given[i]);
    struct sampler_params params = plain;
    params.top_p = 0.65f; /* 0.4 + 0.3 */
    assert_distribution(&params, logits, (const double[]){0, 4.0 / 7, 0, 3.0 / 7}, 4);
    params.top_p = 1e-6f; /* always at least one */
    assert_int_equal(pick(&params, logits, 4, 0), 1);
}

static void top_p_is_a_share_of_what_top_k_has_left(void **state)
{
    (void)state;
    const double given[] = {0.25, 0.3, 0.2, 0.15, 0.1};
    float logits[5];
    for (int i = 0; i < 5; i++)
        logits[i] = (float)log(given[i]);
    struct sampler_params params = plain;
    params.top_k = 2;
    params.top_p = 0.54f; /* of 0.55, 0.3 is a share of 0.545 */
    assert_distribution(&params, logits, (const double[]){0, 1, 0, 0, 0}, 5);
    params.top_p = 0.55f;
    assert_distribution(&params, logits, (const double[]){0.25 / 0.55, 0.3 / 0.55, 0, 0, 0}, 5);
}

static void min_p_keeps_what_is_near_the_best(void **state)
{
    (void)state;
    const double given[] = {0.4, 0.3, 0.2, 0.1};
    float logits[4];
    for (int i = 0; i < 4; i++)
        logits[i] = (float)log(given[i]);
    struct sampler_params params = plain;
    params.min_p = 0.6f; /* 0.24 */
    assert_distribution(&params, logits, (const double[]){4.0 / 7, 3.0 / 7, 0, 0}, 4);
    params.top_k = 3; /* the same with the weights sorted by top-k */
    assert_distribution(&params, logits, (const double[]){4.0 / 7, 3.0 / 7, 0, 0}, 4);
}

/* What the header says, written down the slow way: sort everything, then filter. */
static int by_weight(const void *a, const void *b)
{
    const struct sampler_candidate *x = a;
    const struct sampler_candidate *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static uint32_t kept_by_sorting(const struct sampler_params *params, const float *logits,
                                struct sampler_candidate *sorted)
{
    float best = -INFINITY;
    for (uint32_t i = 0; i < VOCAB; i++)
        best = logits[i] > best ? logits[i] : best;
    for (uint32_t i = 0; i < VOCAB; i++)
        sorted[i] = (struct sampler_candidate){
            .weight = expf((logits[i] - best) / params->temperature), .id = i};
    qsort(sorted, VOCAB, sizeof *sorted, by_weight);
    uint32_t limit = params->top_k ? params->top_k : VOCAB;
    double total = 0;
    double sum = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < limit; i++)
        total += (double)sorted[i].weight;
    while (kept < limit && (kept == 0 || sum < (double)params->top_p * total) &&
           sorted[kept].weight >= params->min_p)
        sum += (double)sorted[kept++].weight;
    return kept;
}

static void the_partial_selection_equals_a_full_sort(void **state)
{
    (void)state;
    static float logits[VOCAB];
    static struct sampler_candidate sorted[VOCAB];
    unsigned seed = 9;
    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < VOCAB; i++)
            logits[i] = (float)(rand_r(&seed) % 400) / 25; /* with many equals */
        struct sampler_params params = {.temperature = 0.3f + 0.1f * (float)(rand_r(&seed) % 10),
                                        .top_p = 0.1f + 0.08f * (float)(rand_r(&seed) % 11),
                                        .min_p = (float)(rand_r(&seed) % 3) / 10,
                                        .top_k = (uint32_t)rand_r(&seed) % 3 * 50,
                                        .seed = (uint64_t)round};
        uint32_t kept = kept_by_sorting(&params, logits, sorted);
        bool *is_kept = calloc(VOCAB, sizeof *is_kept);
        for (uint32_t i = 0; i < kept; i++)
            is_kept[sorted[i].id] = true;
        for (uint32_t index = 0; index < 40; index++)
            assert_true(is_kept[pick(&params, logits, VOCAB, index)]);
        free(is_kept);
    }
}

/* How many candidates are looked at for one token, the most of a few. */
static uint64_t cost(const struct sampler_params *params, struct sampler *large,
                     const float *logits, uint32_t count)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t id;
        float logprob;
        uint64_t before = large->compared;
        assert_int_equal(sampler_pick(large, params, logits, count, i, &id, &logprob), 0);
        uint64_t compared = large->compared - before;
        most = compared > most ? compared : most;
    }
    return most;
}

/* Sorting would look at 17 times as many, or more. */
static void the_flattest_distribution_is_filtered_in_linear_time(void **state)
{
    (void)state;
    enum { LARGE = 150000, TIMES = 12 };
    static float logits[LARGE];
    struct sampler large;
    struct sampler_params flat = {.temperature = 100, .top_p = 1, .seed = 1};
    assert_int_equal(sampler_init(&large, LARGE), 0);
    for (uint32_t i = 0; i < LARGE; i++)
        logits[i] = (float)sampler_random(3, i) * 20;
    assert_int_equal(cost(&flat, &large, logits, LARGE), 0);
    flat.top_p = 0.99f;
    assert_in_range(cost(&flat, &large, logits, LARGE), LARGE, TIMES * LARGE);
    flat.top_p = 1;
    flat.top_k = LARGE - 1;
    assert_in_range(cost(&flat, &large, logits, LARGE), LARGE, TIMES * LARGE);
    sampler_fini(&large);
}

static void what_is_not_a_number_is_never_drawn(void **state)
{
    (void)state;
    const float logits[] = {NAN, 1, -INFINITY, 2, NAN};
    assert_int_equal(pick(&greedy, logits, 5, 0), 3);
    struct sampler_params params = plain;
    for (uint32_t index = 0; index < 1000; index++) {
        params.top_k = index % 2 ? 5 : 0;
        assert_int_equal(pick(&params, logits, 5, index) % 2, 1);
    }
}

static void an_infinite_logit_wins(void **state)
{
    (void)state;
    const float logits[] = {1, INFINITY, FLT_MAX / 2, INFINITY};
    uint32_t id;
    float logprob;
    assert_int_equal(sampler_pick(&sampler, &greedy, logits, 4, 0, &id, &logprob), 0);
    assert_int_equal(id, 1);
    assert_float_equal(logprob, -(float)M_LN2, 1e-6);
    for (uint32_t index = 0; index < 100; index++)
        assert_int_equal(pick(&plain, logits, 4, index) % 2, 1);
}

static void no_possible_id_is_an_error(void **state)
{
    (void)state;
    const float logits[] = {NAN, -INFINITY, NAN};
    uint32_t id = 77;
    float logprob = 5;
    assert_int_equal(sampler_pick(&sampler, &greedy, logits, 3, 0, &id, &logprob), -EIO);
    assert_int_equal(sampler_pick(&sampler, &plain, logits, 3, 0, &id, &logprob), -EIO);
    assert_int_equal(id, 77);
}

static void extreme_temperatures_stay_within_the_vocabulary(void **state)
{
    (void)state;
    const float logits[] = {3, FLT_MAX, -FLT_MAX, 0};
    struct sampler_params params = plain;
    params.temperature = FLT_MIN / 4; /* not even normal */
    assert_int_equal(pick(&params, logits, 4, 0), 1);
    params.top_p = 0.5f;
    assert_int_equal(pick(&params, logits, 4, 1), 1);
    params.temperature = 100;
    pick(&params, logits, 4, 2);
}

static void random_numbers_fill_the_unit_interval(void **state)
{
    (void)state;
    double sum = 0;
    uint32_t low = 0;
    for (uint32_t index = 0; index < DRAWS; index++) {
        double x = sampler_random(index % 10, index / 10);
        assert_true(x >= 0 && x < 1);
        sum += x;
        low += x < 0.1;
    }
    assert_float_equal(sum / DRAWS, 0.5, 0.011);
    assert_float_equal((double)low / DRAWS, 0.1, 0.011);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_of_the_likeliest),
        cmocka_unit_test(logprob_is_that_of_the_plain_softmax),
        cmocka_unit_test(same_seed_and_index_give_the_same_token),
        cmocka_unit_test(tokens_come_with_their_probabilities),
        cmocka_unit_test(temperature_sharpens),
        cmocka_unit_test(top_k_keeps_the_k_likeliest_and_of_equals_the_lower_ids),
        cmocka_unit_test(top_p_keeps_the_shortest_run_that_reaches_the_share),
        cmocka_unit_test(top_p_is_a_share_of_what_top_k_has_left),
        cmocka_unit_test(min_p_keeps_what_is_near_the_best),
        cmocka_unit_test(the_partial_selection_equals_a_full_sort),
        cmocka_unit_test(the_flattest_distribution_is_filtered_in_linear_time),
        cmocka_unit_test(what_is_not_a_number_is_never_drawn),
        cmocka_unit_test(an_infinite_logit_wins),
        cmocka_unit_test(no_possible_id_is_an_error),
        cmocka_unit_test(extreme_temperatures_stay_within_the_vocabulary),
        cmocka_unit_test(random_numbers_fill_the_unit_interval),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
