#include "daemon/sampler.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

int sampler_init(struct sampler *sampler, uint32_t vocab_size_max)
{
    struct sampler_candidate *candidates = calloc(vocab_size_max, sizeof *candidates);
    if (!candidates)
        return -ENOMEM;
    *sampler = (struct sampler){.candidates = candidates, .capacity = vocab_size_max};
    return 0;
}

void sampler_fini(struct sampler *sampler)
{
    free(sampler->candidates);
    *sampler = (struct sampler){0};
}

/* The finaliser of SplitMix64: Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

double sampler_random(uint64_t seed, uint32_t index)
{
    const uint64_t gamma = 0x9e3779b97f4a7c15u;
    uint64_t bits = mix(mix(seed + gamma) + (index + (uint64_t)1) * gamma);
    return (double)(bits >> 11) * 0x1p-53;
}

/* A logit as it counts: never a NaN, never +infinity. */
static float tamed(float logit)
{
    if (isnan(logit))
        return -INFINITY;
    return logit > FLT_MAX ? FLT_MAX : logit;
}

/* The most likely id, the lowest of equals. Returns its logit; -INFINITY: no id is possible. */
static float find_best(const float *logits, uint32_t vocab_size, uint32_t *ret_id)
{
    float best = -INFINITY;
    uint32_t best_id = 0;
    for (uint32_t id = 0; id < vocab_size; id++) {
        if (logits[id] > best) { /* false for a NaN */
            best = logits[id];
            best_id = id;
        }
    }
    *ret_id = best_id;
    return tamed(best);
}

/* The logarithm of the sum of exp(logit - best) over the whole vocabulary. */
static double log_total(const float *logits, uint32_t vocab_size, float best)
{
    double total = 0;
    for (uint32_t id = 0; id < vocab_size; id++)
        total += (double)expf(tamed(logits[id]) - best);
    return log(total);
}

static float weight_of(float logit, float best, float temperature)
{
    return expf((tamed(logit) - best) / temperature);
}

/* Draws among all ids, in their order: no candidate list is needed. */
static uint32_t draw_from_all(const struct sampler_params *params, const float *logits,
                              uint32_t vocab_size, float best, double random)
{
    double total = 0;
    for (uint32_t id = 0; id < vocab_size; id++)
        total += (double)weight_of(logits[id], best, params->temperature);

    double target = random * total;
    uint32_t last_possible = 0;
    for (uint32_t id = 0; id < vocab_size; id++) {
        float weight = weight_of(logits[id], best, params->temperature);
        if (weight <= 0)
            continue;
        target -= (double)weight;
        last_possible = id;
        if (target < 0)
            break;
    }
    return last_possible;
}

static bool comes_before(struct sampler_candidate a, struct sampler_candidate b)
{
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

static void swap(struct sampler_candidate *a, struct sampler_candidate *b)
{
    struct sampler_candidate kept = *a;
    *a = *b;
    *b = kept;
}

/* Puts one of candidates [from, to) into its place among them, what comes before it in front.
 * Returns the place, and the weight of what comes before. */
static uint32_t part(struct sampler_candidate *candidates, uint32_t from, uint32_t to,
                     double *ret_weight)
{
    uint32_t chosen = from + (uint32_t)(mix(from + ((uint64_t)to << 32)) % (to - from));
    double weight = 0;
    swap(&candidates[chosen], &candidates[to - 1]);
    struct sampler_candidate pivot = candidates[to - 1];
    for (uint32_t i = from; i + 1 < to; i++) {
        if (!comes_before(candidates[i], pivot))
            continue;
        weight += (double)candidates[i].weight;
        swap(&candidates[i], &candidates[from++]);
    }
    swap(&candidates[from], &candidates[to - 1]);
    *ret_weight = weight;
    return from;
}

/* Brings the heaviest to the front: as many as weigh `enough` together, `limit` of them at the
 * most. Returns how many; the lightest of them stands last, the others in any order. Sorting as far
 * as that would let a flat distribution over a large vocabulary cost ten times a sharp one's time,
 * and whoever asks for it would slow everybody. */
static uint32_t take_heaviest(struct sampler *sampler, uint32_t count, uint32_t limit,
                              double enough, double *ret_weight)
{
    struct sampler_candidate *candidates = sampler->candidates;
    uint32_t taken = 0;
    uint32_t end = count; /* what lies behind is not needed */
    double weight = 0;
    while (taken < end && taken < limit && weight < enough) {
        double before;
        sampler->compared += end - taken;
        uint32_t place = part(candidates, taken, end, &before);
        if (place >= limit || weight + before >= enough) {
            end = place;
        } else {
            weight += before + (double)candidates[place].weight;
            taken = place + 1;
        }
    }
    *ret_weight = weight;
    return taken;
}

/* Lists the ids with any weight, and their sum. Those below min-p never survive; they can be left
 * out at once unless the sum that top-p refers to is the sum of a top-k that may include them. */
static uint32_t list_candidates(struct sampler *sampler, const struct sampler_params *params,
                                const float *logits, uint32_t vocab_size, float best,
                                double *ret_total)
{
    bool is_light_dropped = params->top_k == 0;
    uint32_t count = 0;
    double total = 0;
    for (uint32_t id = 0; id < vocab_size; id++) {
        float weight = weight_of(logits[id], best, params->temperature);
        total += (double)weight;
        if (weight > 0 && !(is_light_dropped && weight < params->min_p))
            sampler->candidates[count++] = (struct sampler_candidate){.weight = weight, .id = id};
    }
    *ret_total = total;
    return count;
}

/* Leaves out those below min-p; returns how many are left, and their weight. */
static uint32_t drop_light(struct sampler_candidate *candidates, uint32_t count, float min_p,
                           double *ret_weight)
{
    uint32_t left = 0;
    double weight = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (candidates[i].weight < min_p)
            continue; /* never the heaviest, which weighs 1 */
        weight += (double)candidates[i].weight;
        candidates[left++] = candidates[i];
    }
    *ret_weight = weight;
    return left;
}

/* All three filters keep the heaviest up to some point; then one of these is drawn, as if they
 * stood in a row, the heaviest first. */
static uint32_t draw_filtered(struct sampler *sampler, const struct sampler_params *params,
                              const float *logits, uint32_t vocab_size, float best, double random)
{
    struct sampler_candidate *candidates = sampler->candidates;
    double total, kept_total;
    uint32_t count = list_candidates(sampler, params, logits, vocab_size, best, &total);
    if (params->top_k)
        count = take_heaviest(sampler, count, params->top_k, (double)INFINITY, &total);
    if (params->top_p < 1)
        count = take_heaviest(sampler, count, count, (double)params->top_p * total, &kept_total);
    count = drop_light(candidates, count, params->min_p, &kept_total);

    /* The first at which the sum goes beyond the target. */
    double target = nextafter(random * kept_total, (double)INFINITY);
    return candidates[take_heaviest(sampler, count, count, target, &total) - 1].id;
}

int sampler_pick(struct sampler *sampler, const struct sampler_params *params, const float *logits,
                 uint32_t vocab_size, uint32_t index, uint32_t *ret_id, float *ret_logprob)
{
    uint32_t id;
    float best = find_best(logits, vocab_size, &id);
    if (best == -INFINITY)
        return -EIO;

    if (params->temperature > 0) {
        double random = sampler_random(params->seed, index);
        bool is_filtered = params->top_k || params->top_p < 1 || params->min_p > 0;
        id = is_filtered ? draw_filtered(sampler, params, logits, vocab_size, best, random)
                         : draw_from_all(params, logits, vocab_size, best, random);
    }
    *ret_logprob =
        (float)((double)(tamed(logits[id]) - best) - log_total(logits, vocab_size, best));
    *ret_id = id;
    return 0;
}
