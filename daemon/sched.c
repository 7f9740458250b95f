#include "daemon/sched.h"

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static bool generates(const struct sched_sequence *sequence)
{
    return sequence->pending == 1 && sequence->may_sample;
}

uint32_t sched_plan(const struct sched_limits *limits, const struct sched_sequence *sequences,
                    uint32_t count, uint32_t first, struct sched_pick *ret_picks)
{
    uint32_t left = limits->step_tokens;
    uint32_t picked = 0;

    for (uint32_t i = 0; i < count && left; i++) {
        uint32_t index = (first + i) % count;
        if (!generates(&sequences[index]))
            continue;
        ret_picks[picked++] = (struct sched_pick){.sequence = index, .tokens = 1, .sample = true};
        left--;
    }
    for (uint32_t i = 0; i < count && left; i++) {
        const struct sched_sequence *sequence = &sequences[i];
        if (sequence->pending == 0 || generates(sequence))
            continue;
        uint32_t allowed = sequence->may_sample ? sequence->pending : sequence->pending - 1;
        uint32_t tokens = smaller(smaller(allowed, limits->chunk_tokens), left);
        if (tokens == 0)
            continue;
        ret_picks[picked++] = (struct sched_pick){
            .sequence = i, .tokens = tokens, .sample = tokens == sequence->pending};
        left -= tokens;
    }
    return picked;
}
