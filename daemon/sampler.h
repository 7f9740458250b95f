/*
 * Logits to one token; same seed, same token.
 *
 * In this order: the logits are divided by the temperature and become weights (softmax); top-k
 * keeps the k heaviest; top-p keeps the shortest run of the heaviest of these that reaches that
 * share of their sum; min-p keeps those at least that fraction as heavy as the heaviest; one of
 * what is left is drawn. Between equal weights the lower id comes first. Temperature 0 takes the
 * heaviest.
 *
 * The randomness of a token is a function of the request's seed and the token's index in the
 * answer alone, so it depends neither on who else runs nor on when. Nothing here allocates after
 * sampler_init().
 */
#ifndef AGL_DAEMON_SAMPLER_H
#define AGL_DAEMON_SAMPLER_H

#include <stdint.h>

struct sampler_params {
    float temperature; /* 0: greedy */
    float top_p;       /* (0, 1]; 1: off */
    float min_p;       /* [0, 1); 0: off */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;
};

struct sampler_candidate {
    float weight;
    uint32_t id;
};

/* Scratch memory for one vocabulary at a time. */
struct sampler {
    struct sampler_candidate *candidates; /* [capacity] */
    uint32_t capacity;
    uint64_t compared; /* candidates looked at to find the heaviest, in all: the cost of filters */
};

/* -ENOMEM. */
int sampler_init(struct sampler *sampler, uint32_t vocab_size_max);
void sampler_fini(struct sampler *sampler);

/* Chooses one of the ids [0, vocab_size). A logit that is not a number counts as impossible, one
 * that is infinite as very large. *ret_logprob is the natural logarithm of the token's probability
 * before temperature and filters. -EIO: no id is possible. */
int sampler_pick(struct sampler *sampler, const struct sampler_params *params, const float *logits,
                 uint32_t vocab_size, uint32_t index, uint32_t *ret_id, float *ret_logprob);

/* The number in [0, 1) that draws token `index`. */
double sampler_random(uint64_t seed, uint32_t index);

#endif
