#include "tools/bench_plan.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const char *const mode_names[BENCH_MODES] = {"spin", "adaptive", "sleep"};

static const struct bench_list usual_sessions = {3, {1, 8, 64}};
static const struct bench_list usual_idle = {2, {0, 1000}};
static const struct bench_list usual_prompts = {3, {1, 128, 4096}};
static const struct bench_list only_one = {1, {1}};
static const struct bench_list only_none = {1, {0}};

const char *bench_mode_name(enum bench_mode mode)
{
    return mode_names[mode];
}

/* ---- lists ----------------------------------------------------------------------------------- */

static bool set_mode(const char *word, size_t length, bool modes[BENCH_MODES])
{
    for (int mode = 0; mode < BENCH_MODES; mode++) {
        if (strlen(mode_names[mode]) != length || strncmp(mode_names[mode], word, length) != 0)
            continue;
        modes[mode] = true;
        return true;
    }
    return false;
}

bool bench_parse_modes(const char *text, bool ret_modes[BENCH_MODES])
{
    bool modes[BENCH_MODES] = {false};
    for (const char *word = text;; word++) {
        size_t length = strcspn(word, ",");
        if (!set_mode(word, length, modes))
            return false;
        word += length;
        if (!*word)
            break;
    }
    memcpy(ret_modes, modes, sizeof modes);
    return true;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* What is to be combined, with every list filled in. */
struct matrix {
    struct bench_list sessions, idle, prompts;
    bool is_star;
};

static struct bench_list list_or(const struct bench_list *given, const struct bench_list *otherwise)
{
    return given->count ? *given : *otherwise;
}

static void fill_matrix(struct matrix *ret_matrix, const struct bench_options *options)
{
    bool is_star = !options->is_full && !options->sessions.count && !options->idle.count &&
                   !options->prompts.count;
    bool is_wide = is_star || options->is_full;
    bool has_idle = is_wide && !options->leaves_out_idle;
    *ret_matrix = (struct matrix){
        .sessions = list_or(&options->sessions, is_wide ? &usual_sessions : &only_one),
        .idle = list_or(&options->idle, has_idle ? &usual_idle : &only_none),
        .prompts = list_or(&options->prompts, is_wide ? &usual_prompts : &only_one),
        .is_star = is_star,
    };
}

static void add(struct bench_plan *plan, const struct bench_setup *setup, uint32_t phase)
{
    assert(plan->count < BENCH_SETUPS_MAX); /* every combination of the longest lists fits */
    plan->phases[plan->count] = phase;
    plan->setups[plan->count++] = *setup;
}

/* One way of waiting with one number of sessions: with each number of idle ones, and with the real
 * model once, where everything else is at its least. */
static void add_group(struct bench_plan *plan, const struct matrix *matrix,
                      const struct bench_setup *base, bool has_real, uint32_t phase)
{
    bool is_first = base->sessions == matrix->sessions.values[0];
    struct bench_setup setup = *base;
    for (uint32_t i = 0; i < matrix->idle.count; i++) {
        if (matrix->is_star && i > 0 && !is_first)
            break; /* a star varies one thing at a time */
        bool is_centre = i == 0 && is_first;
        setup.idle = matrix->idle.values[i];
        setup.prompts = matrix->is_star && !is_centre ? only_one : matrix->prompts;
        add(plan, &setup, phase);
    }
    setup.is_real = true;
    setup.idle = matrix->idle.values[0];
    setup.prompts = matrix->is_star ? only_one : matrix->prompts;
    if (has_real && is_first)
        add(plan, &setup, phase);
}

/* Sessions of the set-ups from `start` on. */
static uint64_t sessions_from(const struct bench_plan *plan, uint32_t start)
{
    uint64_t sessions = 0;
    for (uint32_t i = start; i < plan->count; i++)
        sessions += plan->setups[i].sessions + plan->setups[i].idle;
    return sessions;
}

/* The phase that set-ups are added to now. */
struct packing {
    uint32_t phase;
    uint32_t phase_start;    /* its first set-up */
    uint32_t sessions_start; /* the first set-up with the present number of sessions */
    uint32_t sessions_at_once;
};

static void begin_phase(struct bench_plan *plan, struct packing *packing, uint32_t start)
{
    packing->phase++;
    packing->phase_start = start;
    for (uint32_t i = start; i < plan->count; i++)
        plan->phases[i] = packing->phase;
}

/* Begins a phase where the group from `start` on is too much for the present one: with it all ways
 * of waiting with its number of sessions, which are compared with each other, if they fit. */
static int pack(struct bench_plan *plan, struct packing *packing, uint32_t start)
{
    if (sessions_from(plan, start) > packing->sessions_at_once)
        return -ENOSPC;
    if (sessions_from(plan, packing->phase_start) > packing->sessions_at_once &&
        packing->phase_start < packing->sessions_start)
        begin_phase(plan, packing, packing->sessions_start);
    if (sessions_from(plan, packing->phase_start) > packing->sessions_at_once)
        begin_phase(plan, packing, start);
    return 0;
}

int bench_plan_make(struct bench_plan *ret_plan, const struct bench_options *options, bool has_real,
                    uint32_t sessions_at_once)
{
    struct packing packing = {.sessions_at_once = sessions_at_once};
    struct matrix matrix;
    fill_matrix(&matrix, options);
    ret_plan->count = 0;
    for (uint32_t i = 0; i < matrix.sessions.count; i++) {
        packing.sessions_start = ret_plan->count;
        for (int mode = 0; mode < BENCH_MODES; mode++) {
            struct bench_setup base = {.mode = mode, .sessions = matrix.sessions.values[i]};
            uint32_t start = ret_plan->count;
            if (!options->modes[mode])
                continue;
            add_group(ret_plan, &matrix, &base, has_real, packing.phase);
            int err = pack(ret_plan, &packing, start);
            if (err < 0)
                return err;
        }
    }
    return 0;
}
