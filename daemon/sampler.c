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

static void sift_down(struct sampler_candidate *heap, uint32_t count, uint32_t place)
{
    struct sampler_candidate moving = heap[place];
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= count)
            break;
        if (child + 1 < count && comes_before(heap[child + 1], heap[child]))
            child++;
        if (!comes_before(heap[child], moving))
            break;
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = moving;
}

static void make_heap(struct sampler_candidate *heap, uint32_t count)
{
    for (uint32_t place = count / 2; place-- > 0;)
        sift_down(heap, count, place);
}

/* Moves the first of a heap of `count` to its end, which the heap then no longer covers: after n
 * calls the last n places hold the n heaviest, the heaviest last. */
static struct sampler_candidate take_first(struct sampler_candidate *heap, uint32_t count)
{
    struct sampler_candidate first = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = first;
    sift_down(heap, count - 1, 0);
    return first;
}

/* Lists the ids with any weight, and their sum. Those below min-p never survive; they can be left
 * out at once unless the sum that top-p refers to is the sum of a top-k that may include them. */
static uint32_t list_candidates(struct sampler *sampler, const struct sampler_params *params,
                                const float *logits, uint32_t vocab_size, float best,
                                double *ret_total)
{
    bool drop_light = params->top_k == 0;
    uint32_t count = 0;
    double total = 0;
    for (uint32_t id = 0; id < vocab_size; id++) {
        float weight = weight_of(logits[id], best, params->temperature);
        total += (double)weight;
        if (weight > 0 && !(drop_light && weight < params->min_p))
            sampler->candidates[count++] = (struct sampler_candidate){.weight = weight, .id = id};
    }
    *ret_total = total;
    return count;
}

/* The sum of the k heaviest, which end up in the last places. */
static double sum_heaviest(struct sampler_candidate *heap, uint32_t count, uint32_t k)
{
    double total = 0;
    for (uint32_t taken = 0; taken < k; taken++)
        total += (double)take_first(heap, count - taken).weight;
    return total;
}

/* All three filters keep the heaviest up to some point: goes down the candidates from the heaviest
 * until one of the filters ends it, then draws among those passed. */
static uint32_t draw_filtered(struct sampler *sampler, const struct sampler_params *params,
                              const float *logits, uint32_t vocab_size, float best, double random)
{
    struct sampler_candidate *heap = sampler->candidates;
    double total;
    uint32_t count = list_candidates(sampler, params, logits, vocab_size, best, &total);
    uint32_t limit = params->top_k && params->top_k < count ? params->top_k : count;
    make_heap(heap, count);

    uint32_t sorted = 0;
    if (params->top_k) {
        total = sum_heaviest(heap, count, limit);
        sorted = limit;
    }
    double enough = (double)params->top_p * total;
    double kept_total = 0;
    uint32_t kept = 0;
    while (kept < limit && (kept == 0 || params->top_p >= 1 || kept_total < enough)) {
        struct sampler_candidate next =
            kept < sorted ? heap[count - 1 - kept] : take_first(heap, count - kept);
        if (next.weight < params->min_p)
            break; /* the heaviest weighs 1 */
        kept_total += (double)next.weight;
        kept++;
    }

    double target = random * kept_total;
    for (uint32_t i = 0; i + 1 < kept; i++) {
        target -= (double)heap[count - 1 - i].weight;
        if (target < 0)
            return heap[count - 1 - i].id;
    }
    return heap[count - kept].id;
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
