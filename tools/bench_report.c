#include "tools/bench_report.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/bench_compare.h"

enum { SET_UP_BYTES = 160 };
enum {
    BACKWARDS_SHARE = 1000
}; /* a row is spoiled when more than one sample in so many ran back */

struct report {
    const struct bench_options *options;
    struct output *output;
    uint32_t phases; /* told so far */
};

/* A row with its figures. */
struct result {
    const struct bench_row *row;
    struct summary summary;
    double ratio;
};

int report_open(struct report **ret_report, struct output *output,
                const struct bench_options *options)
{
    struct report *report = calloc(1, sizeof *report);
    cJSON *root = output_json(output);
    if (!report)
        return -ENOMEM;
    *report = (struct report){.options = options, .output = output};
    if (root) {
        cJSON_AddNumberToObject(root, "blocks", options->blocks);
        cJSON_AddNumberToObject(root, "trips", options->trips);
        cJSON_AddArrayToObject(root, "phases");
        cJSON_AddArrayToObject(root, "rows");
        cJSON_AddArrayToObject(root, "comparisons");
    }
    *ret_report = report;
    return 0;
}

void report_close(struct report *report)
{
    free(report);
}

/* ---- figures --------------------------------------------------------------------------------- */

/* "sleep, 8 sessions, 1000 idle beside, prompts of 128 tokens" */
static void describe(char ret_text[SET_UP_BYTES], const struct bench_row *row)
{
    const struct bench_setup *setup = &row->stage->setup;
    char model[80] = "";
    char idle[32] = "";
    if (setup->is_real)
        snprintf(model, sizeof model, ", model %s", row->stage->model_name);
    if (setup->idle)
        snprintf(idle, sizeof idle, ", %u idle beside", setup->idle);
    snprintf(ret_text, SET_UP_BYTES, "%s%s, %u session%s%s, prompts of %u token%s",
             bench_mode_name(setup->mode), model, setup->sessions,
             setup->sessions == 1 ? "" : "s in turn", idle, row->prompt_tokens,
             row->prompt_tokens == 1 ? "" : "s");
}

/* The row's name with its set-up. */
static void describe_row(char *ret_text, size_t bytes, const struct bench_row *row)
{
    char set_up[SET_UP_BYTES] = "";
    if (row->stage)
        describe(set_up, row);
    snprintf(ret_text, bytes, "%s%s%s", bench_row_name(row), row->stage ? ": " : "", set_up);
}

static void note_spoiled(struct report *report, const struct bench_row *row, uint64_t samples)
{
    char text[SET_UP_BYTES + 64];
    describe_row(text, sizeof text, row);
    output_note(report->output,
                "%s: %u of %llu samples came out below nothing, so none is shown: the processors' "
                "clocks differ, or others took the processors away",
                text, row->backwards, (unsigned long long)samples);
}

static void summarise(struct report *report, struct bench_phase *phase, struct bench_row *row,
                      struct result *ret_result)
{
    struct result result = {.row = row};
    series_summarise(&row->series, phase->ns_per_tick, &result.summary);
    result.ratio = series_ratio(row->series.block_p50, row->line_p50, phase->blocks);
    if ((uint64_t)row->backwards * BACKWARDS_SHARE > result.summary.samples) {
        note_spoiled(report, row, result.summary.samples);
        result.summary.p50 = result.summary.p99 = result.summary.p999 = (double)NAN;
        result.summary.max = result.ratio = (double)NAN;
    }
    *ret_result = result;
}

/* ---- the table ------------------------------------------------------------------------------- */

static void print_result(const struct result *result, const char *indent)
{
    const struct summary *summary = &result->summary;
    output_print_name(indent, bench_row_name(result->row));
    output_print_figure(summary->p50 / 1e3, 10, 3);
    output_print_figure(summary->p99 / 1e3, 10, 3);
    output_print_figure(summary->p999 / 1e3, 10, 3);
    output_print_figure(summary->max / 1e3, 10, 1);
    output_print_figure(result->ratio, 8, 2);
    printf("\n");
}

/* What is where. Somebody else's daemon is not ours to pin. */
static void print_places(const struct report *report, const int *processors)
{
    if (!processors)
        printf("not pinned");
    else if (report->options->socket_path)
        printf("pinned: this client on processor %d, the other side of the bare exchanges on %d; "
               "not the daemon",
               processors[0], processors[1]);
    else
        printf("pinned to processors %d and %d", processors[0], processors[1]);
}

static void print_heading(const struct report *report, const struct bench_phase *phase,
                          const int *processors)
{
    static const char *const pauses[EXCHANGE_LINES] = {"no PAUSE", "PAUSE"};
    enum exchange_kind other = phase->limit == EXCHANGE_LINE ? EXCHANGE_LINE_PAUSE : EXCHANGE_LINE;
    printf("%u blocks of %u round trips a row, %u where somebody sleeps; ", phase->blocks,
           phase->trips, bench_trips(phase->trips, true));
    print_places(report, processors);
    printf("\nratio: to the faster bare exchange, %s: %.3f us (%s: %.3f us; medians of %u tries "
           "each, in turn)\n",
           pauses[phase->limit], phase->line_p50_ns[phase->limit] / 1e3, pauses[other],
           phase->line_p50_ns[other] / 1e3, phase->line_tries);
    output_print_name("", "us");
    printf(" %10s %10s %10s %10s %8s\n", "p50", "p99", "p99.9", "max", "ratio");
}

static bool is_same_group(const struct bench_row *row, const struct bench_row *before)
{
    return before && before->stage == row->stage &&
           (!row->stage || before->prompt_tokens == row->prompt_tokens);
}

static void print_results(const struct result *results, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct bench_row *row = results[i].row;
        char text[SET_UP_BYTES];
        if (row->stage && !is_same_group(row, i ? results[i - 1].row : NULL)) {
            describe(text, row);
            printf("%s\n", text);
        }
        if (row->what == BENCH_EXCHANGE && row->exchange == EXCHANGE_READ)
            printf("%u bytes, in whole lines:\n", row->prompt_tokens * (uint32_t)sizeof(uint32_t));
        print_result(&results[i], row->stage || row->exchange == EXCHANGE_READ ? "  " : "");
    }
}

static void print_histogram(const struct result *result, double ns_per_tick)
{
    char text[SET_UP_BYTES + 64];
    describe_row(text, sizeof text, result->row);
    printf("\n%s\n", text);
    output_print_histogram(&result->row->series, ns_per_tick);
}

/* "adaptive, 1 session, ..." with what it is held against. */
static void print_comparison(const struct comparison *comparison)
{
    char text[SET_UP_BYTES];
    char base[SET_UP_BYTES];
    describe(text, comparison->row);
    if (comparison->base->stage)
        describe(base, comparison->base);
    else
        snprintf(base, sizeof base, "%s", bench_row_name(comparison->base));
    printf("%s\n", text);
    if (comparison->kind == COMPARE_PROMPT)
        printf("  adds %.3f us to a prompt of %u; reading as much once: %.3f us; ratio",
               comparison->added_ns / 1e3, comparison->shortest_tokens, comparison->base_ns / 1e3);
    else
        printf("  to %s: p50", base);
    output_print_figure(comparison->p50_ratio, 1, 2);
    if (!isnan(comparison->p99_ratio)) {
        printf(", p99");
        output_print_figure(comparison->p99_ratio, 1, 2);
    }
    printf("\n");
}

static void print_comparisons(const struct comparison *comparisons, uint32_t count)
{
    if (count)
        printf("\nsubmit to first event, medians over the blocks\n");
    for (uint32_t i = 0; i < count; i++)
        print_comparison(&comparisons[i]);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* An array of the root. */
static cJSON *list_of(const struct report *report, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(output_json(report->output), name);
}

static void add_phase(const struct report *report, const struct bench_phase *phase,
                      const int *processors)
{
    cJSON *object = cJSON_CreateObject();
    if (processors)
        cJSON_AddItemToObject(object, "processors", cJSON_CreateIntArray(processors, 2));
    else
        cJSON_AddNullToObject(object, "processors");
    cJSON_AddStringToObject(object, "limit", exchange_name(phase->limit));
    cJSON_AddNumberToObject(object, "line_tries", phase->line_tries);
    output_add_figure(object, "line_p50_ns", phase->line_p50_ns[EXCHANGE_LINE]);
    output_add_figure(object, "line_pause_p50_ns", phase->line_p50_ns[EXCHANGE_LINE_PAUSE]);
    cJSON_AddItemToArray(list_of(report, "phases"), object);
}

/* Whether both sides of it are pinned: not if one is somebody else's daemon. */
static bool is_pinned(const struct bench_row *row, const int *processors)
{
    return processors && (!row->stage || row->stage->daemon.pid);
}

static void add_set_up(cJSON *object, const struct bench_row *row, const int *processors)
{
    const struct stage *stage = row->stage;
    cJSON_AddStringToObject(object, "name", bench_row_name(row));
    cJSON_AddBoolToObject(object, "pinned", is_pinned(row, processors));
    if (stage) {
        cJSON_AddStringToObject(object, "mode", bench_mode_name(stage->setup.mode));
        cJSON_AddStringToObject(object, "model", stage->model_name);
        cJSON_AddNumberToObject(object, "sessions", stage->setup.sessions);
        cJSON_AddNumberToObject(object, "idle", stage->setup.idle);
    }
    if (row->prompt_tokens)
        cJSON_AddNumberToObject(object, "prompt_tokens", row->prompt_tokens);
}

static void add_result(const struct report *report, const struct result *result, double ns_per_tick,
                       const int *processors)
{
    const struct summary *summary = &result->summary;
    const struct bench_row *row = result->row;
    cJSON *object = cJSON_CreateObject();
    add_set_up(object, row, processors);
    cJSON_AddNumberToObject(object, "phase", report->phases);
    cJSON_AddNumberToObject(object, "samples", (double)summary->samples);
    cJSON_AddNumberToObject(object, "below_nothing", row->backwards);
    output_add_figure(object, "p50_ns", summary->p50);
    output_add_figure(object, "p99_ns", summary->p99);
    output_add_figure(object, "p999_ns", summary->p999);
    output_add_figure(object, "max_ns", summary->max);
    output_add_figure(object, "ratio_to_line", result->ratio);
    if (!isnan(summary->p50))
        output_add_histogram(object, &row->series, ns_per_tick);
    cJSON_AddItemToArray(list_of(report, "rows"), object);
}

static void add_comparison(const struct report *report, const struct comparison *comparison,
                           const int *processors)
{
    static const char *const kinds[] = {"waiting", "kernel", "sessions", "idle", "prompt"};
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "kind", kinds[comparison->kind]);
    cJSON_AddNumberToObject(object, "phase", report->phases);
    add_set_up(cJSON_AddObjectToObject(object, "row"), comparison->row, processors);
    add_set_up(cJSON_AddObjectToObject(object, "to"), comparison->base, processors);
    output_add_figure(object, "p50_ratio", comparison->p50_ratio);
    output_add_figure(object, "p99_ratio", comparison->p99_ratio);
    output_add_figure(object, "added_ns", comparison->added_ns);
    output_add_figure(object, "reading_ns", comparison->base_ns);
    if (comparison->shortest_tokens)
        cJSON_AddNumberToObject(object, "shortest_tokens", comparison->shortest_tokens);
    cJSON_AddItemToArray(list_of(report, "comparisons"), object);
}

/* ---- a phase --------------------------------------------------------------------------------- */

static void print_phase(const struct report *report, const struct bench_phase *phase,
                        const struct result *results, const struct comparison *comparisons,
                        uint32_t comparison_count, const int *processors)
{
    printf("\n");
    print_heading(report, phase, processors);
    print_results(results, phase->row_count);
    print_comparisons(comparisons, comparison_count);
    for (uint32_t i = 0; i < phase->row_count && report->options->shows_histogram; i++)
        if (!isnan(results[i].summary.p50))
            print_histogram(&results[i], phase->ns_per_tick);
    fflush(stdout);
}

static void add_phase_rows(const struct report *report, const struct bench_phase *phase,
                           const struct result *results, const struct comparison *comparisons,
                           uint32_t comparison_count, const int *processors)
{
    add_phase(report, phase, processors);
    for (uint32_t i = 0; i < phase->row_count; i++)
        add_result(report, &results[i], phase->ns_per_tick, processors);
    for (uint32_t i = 0; i < comparison_count; i++)
        add_comparison(report, &comparisons[i], processors);
}

int report_phase(struct report *report, struct bench_phase *phase, const int *processors)
{
    uint32_t capacity = COMPARISONS_OF_A_ROW * phase->row_count;
    struct result *results = calloc(phase->row_count + (size_t)1, sizeof *results);
    struct comparison *comparisons = calloc(capacity + (size_t)1, sizeof *comparisons);
    if (!results || !comparisons) {
        free(results);
        free(comparisons);
        return -ENOMEM;
    }
    uint32_t count = compare_rows(phase, comparisons, capacity);
    for (uint32_t i = 0; i < phase->row_count; i++)
        summarise(report, phase, &phase->rows[i], &results[i]);
    if (output_json(report->output))
        add_phase_rows(report, phase, results, comparisons, count, processors);
    else
        print_phase(report, phase, results, comparisons, count, processors);
    report->phases++;
    free(results);
    free(comparisons);
    return 0;
}
