#include "tools/perplexity_score.h"

#include <math.h>

double perplexity_surprise(const float *logits, uint32_t rows, uint32_t id)
{
    double highest = logits[0];
    for (uint32_t i = 1; i < rows; i++)
        highest = fmax(highest, (double)logits[i]);
    double sum = 0; /* a NaN, which fmax() passes over, gets into this */
    for (uint32_t i = 0; i < rows; i++)
        sum += exp((double)logits[i] - highest);
    return highest + log(sum) - (double)logits[id];
}

/* Welford 1962: no difference of large sums. */
void perplexity_add(struct perplexity_score *score, double surprise)
{
    double distance = surprise - score->mean;
    score->count++;
    score->mean += distance / (double)score->count;
    score->squares += distance * (surprise - score->mean);
}

double perplexity_value(const struct perplexity_score *score)
{
    return score->count ? exp(score->mean) : NAN;
}

double perplexity_error(const struct perplexity_score *score)
{
    if (score->count < 2)
        return NAN;
    double count = (double)score->count;
    return perplexity_value(score) * sqrt(score->squares / count / (count - 1));
}
