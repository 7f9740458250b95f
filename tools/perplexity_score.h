/*
 * How well a model foresees a text: the surprise of each token, -log of the probability that the
 * model gave it, and over them all the perplexity, exp of their mean, with its standard error.
 */
#ifndef AGL_TOOLS_PERPLEXITY_SCORE_H
#define AGL_TOOLS_PERPLEXITY_SCORE_H

#include <stdint.h>

struct perplexity_score {
    uint64_t count;
    double mean;    /* of the surprises */
    double squares; /* sum of their squared distances from it */
};

/* -log softmax(logits)[id], in double. logits: [rows], id < rows. Not finite if a logit is NaN or
 * +infinity, or all of them or the token's are -infinity. */
double perplexity_surprise(const float *logits, uint32_t rows, uint32_t id);

void perplexity_add(struct perplexity_score *score, double surprise);

/* NaN for nothing. */
double perplexity_value(const struct perplexity_score *score);

/* Of the perplexity, from that of the mean. NaN for fewer than two. */
double perplexity_error(const struct perplexity_score *score);

#endif
