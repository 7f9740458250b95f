#include "tools/bench_compare.h"

#include <math.h>
#include <stdlib.h>

/* What a comparison looks for: NULL stage of BENCH_EXCHANGE. */
static const struct bench_row *find_exchange(const struct bench_phase *phase,
                                             enum exchange_kind kind, uint32_t tokens)
{
    for (uint32_t i = 0; i < phase->row_count; i++) {
        const struct bench_row *row = &phase->rows[i];
        if (row->what == BENCH_EXCHANGE && row->exchange == kind && row->prompt_tokens == tokens)
            return row;
    }
    return NULL;
}

/* The round trip with the echo model in this set-up. */
static const struct bench_row *find_round_trip(const struct bench_phase *phase,
                                               const struct bench_setup *setup,
                                               uint32_t prompt_tokens)
{
    for (uint32_t i = 0; i < phase->row_count; i++) {
        const struct bench_row *row = &phase->rows[i];
        if (row->what != BENCH_FIRST_EVENT || row->prompt_tokens != prompt_tokens)
            continue;
        const struct bench_setup *its = &row->stage->setup;
        if (!its->is_real && its->mode == setup->mode && its->sessions == setup->sessions &&
            its->idle == setup->idle)
            return row;
    }
    return NULL;
}

struct list {
    struct comparison *comparisons;
    uint32_t count;
    uint32_t capacity;
};

static void add(struct list *list, const struct comparison *comparison)
{
    if (list->count < list->capacity)
        list->comparisons[list->count++] = *comparison;
}

static void add_ratio(struct list *list, enum compare_kind kind, const struct bench_row *row,
                      const struct bench_row *base)
{
    if (!base || base == row)
        return;
    const struct series *a = &row->series;
    const struct series *b = &base->series;
    struct comparison comparison = {
        .kind = kind,
        .row = row,
        .base = base,
        .p50_ratio = series_ratio(a->block_p50, b->block_p50, a->blocks),
        .p99_ratio = series_ratio(a->block_p99, b->block_p99, a->blocks),
        .added_ns = (double)NAN,
        .base_ns = (double)NAN,
    };
    add(list, &comparison);
}

/* The difference of two rows block by block, in ticks; without `less` the row itself. */
static double *difference(const struct bench_row *row, const struct bench_row *less)
{
    uint32_t blocks = row->series.blocks;
    double *values = malloc(blocks * sizeof *values);
    for (uint32_t i = 0; values && i < blocks; i++)
        values[i] = row->series.block_p50[i] - (less ? less->series.block_p50[i] : 0);
    return values;
}

/* What the row's prompt adds to the shortest one, against reading once what it is longer by: one id
 * is as good as none to read, and was not read. */
static void add_prompt(struct list *list, const struct bench_phase *phase,
                       const struct bench_row *row, const struct bench_row *shortest)
{
    const struct bench_row *read = find_exchange(phase, EXCHANGE_READ, row->prompt_tokens);
    if (!read || !shortest)
        return;
    const struct bench_row *less = find_exchange(phase, EXCHANGE_READ, shortest->prompt_tokens);
    uint32_t blocks = row->series.blocks;
    double *added = difference(row, shortest);
    double *times = difference(read, less);
    if (added && times) {
        struct comparison comparison = {
            .kind = COMPARE_PROMPT,
            .row = row,
            .base = read,
            .p50_ratio = series_ratio(added, times, blocks),
            .p99_ratio = (double)NAN,
        };
        comparison.added_ns = series_median(added, blocks) * phase->ns_per_tick;
        comparison.base_ns = series_median(times, blocks) * phase->ns_per_tick;
        comparison.shortest_tokens = shortest->prompt_tokens;
        add(list, &comparison);
    }
    free(added);
    free(times);
}

static uint32_t least_sessions(const struct bench_phase *phase)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < phase->stage_count; i++)
        if (phase->stages[i].setup.sessions < least)
            least = phase->stages[i].setup.sessions;
    return least;
}

static void compare_row(struct list *list, const struct bench_phase *phase,
                        const struct bench_row *row)
{
    const struct bench_setup *setup = &row->stage->setup;
    uint32_t shortest = bench_list_least(&setup->prompts);
    struct bench_setup other = *setup;
    bool is_plain = setup->idle == 0 && row->prompt_tokens == shortest;
    if (is_plain && setup->sessions == least_sessions(phase)) {
        other.mode = BENCH_SPIN;
        add_ratio(list, COMPARE_WAITING, row, find_round_trip(phase, &other, row->prompt_tokens));
    }
    if (is_plain && setup->mode == BENCH_SLEEP && setup->sessions == least_sessions(phase)) {
        add_ratio(list, COMPARE_KERNEL, row, find_exchange(phase, EXCHANGE_FUTEX, 0));
        add_ratio(list, COMPARE_KERNEL, row, find_exchange(phase, EXCHANGE_EVENTFD, 0));
    }
    other = *setup;
    if (is_plain) {
        other.sessions = least_sessions(phase);
        add_ratio(list, COMPARE_SESSIONS, row, find_round_trip(phase, &other, row->prompt_tokens));
    }
    other = *setup;
    other.idle = 0;
    add_ratio(list, COMPARE_IDLE, row, find_round_trip(phase, &other, row->prompt_tokens));
    if (row->prompt_tokens != shortest)
        add_prompt(list, phase, row, find_round_trip(phase, setup, shortest));
}

uint32_t compare_rows(const struct bench_phase *phase, struct comparison *ret_comparisons,
                      uint32_t capacity)
{
    struct list list = {.comparisons = ret_comparisons, .capacity = capacity};
    for (uint32_t i = 0; i < phase->row_count; i++) {
        const struct bench_row *row = &phase->rows[i];
        if (row->what == BENCH_FIRST_EVENT && !row->stage->setup.is_real)
            compare_row(&list, phase, row);
    }
    return list.count;
}
