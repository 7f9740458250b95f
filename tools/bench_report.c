#include "tools/bench_report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <autoglm.h>
#include <cjson/cJSON.h>

#include "tools/bench_compare.h"

enum { NOTES_MAX = 16, NOTE_BYTES = 256, NAME_WIDTH = 38, BAR_WIDTH = 50, COMPARISONS_MAX = 512 };
enum {
    BACKWARDS_SHARE = 1000
}; /* a row is spoiled when more than one sample in so many ran back */

struct report {
    const struct bench_options *options;
    cJSON *root; /* NULL: a table */
    cJSON *rows;
    cJSON *comparisons;
    uint32_t note_count;
    char notes[NOTES_MAX][NOTE_BYTES];
};

/* A row with its figures. */
struct result {
    const struct bench_row *row;
    struct summary summary;
    double ratio;
};

int report_open(struct report **ret_report, const struct bench_options *options)
{
    struct report *report = calloc(1, sizeof *report);
    if (!report)
        return -ENOMEM;
    report->options = options;
    if (options->is_json) {
        report->root = cJSON_CreateObject();
        cJSON_AddNumberToObject(report->root, "blocks", options->blocks);
        cJSON_AddNumberToObject(report->root, "trips", options->trips);
        report->rows = cJSON_AddArrayToObject(report->root, "rows");
        report->comparisons = cJSON_AddArrayToObject(report->root, "comparisons");
    }
    *ret_report = report;
    return 0;
}

void report_close(struct report *report)
{
    if (report)
        cJSON_Delete(report->root);
    free(report);
}

void report_note(struct report *report, const char *format, ...)
{
    char *note = report->notes[report->note_count];
    va_list arguments;
    if (report->note_count == NOTES_MAX)
        return;
    va_start(arguments, format);
    vsnprintf(note, NOTE_BYTES, format, arguments);
    va_end(arguments);
    for (uint32_t i = 0; i < report->note_count; i++)
        if (strcmp(report->notes[i], note) == 0)
            return; /* said of another set-up already */
    report->note_count++;
}

/* ---- figures --------------------------------------------------------------------------------- */

static void summarise(struct report *report, struct bench_phase *phase, struct bench_row *row,
                      struct result *ret_result)
{
    struct result result = {.row = row};
    series_summarise(&row->series, phase->ns_per_tick, &result.summary);
    result.ratio = series_ratio(row->series.block_p50, row->line_p50, phase->blocks);
    if ((uint64_t)row->backwards * BACKWARDS_SHARE > result.summary.samples) {
        report_note(report,
                    "%s: %u of %llu samples came out below nothing, so none is shown: the "
                    "processors' clocks differ, or others took the processors away",
                    bench_row_name(row), row->backwards,
                    (unsigned long long)result.summary.samples);
        result.summary.p50 = result.summary.p99 = result.summary.p999 = (double)NAN;
        result.summary.max = result.ratio = (double)NAN;
    }
    *ret_result = result;
}

/* A number right-aligned behind a space; "-" where there is none. */
static void print_figure(double value, int width, int decimals)
{
    if (isnan(value))
        printf(" %*s", width, "-");
    else
        printf(" %*.*f", width, decimals, value);
}

static void print_result(const struct result *result, const char *indent)
{
    const struct summary *summary = &result->summary;
    printf("%s%-*s", indent, NAME_WIDTH - (int)strlen(indent), bench_row_name(result->row));
    print_figure(summary->p50 / 1e3, 10, 3);
    print_figure(summary->p99 / 1e3, 10, 3);
    print_figure(summary->p999 / 1e3, 10, 3);
    print_figure(summary->max / 1e3, 10, 1);
    print_figure(result->ratio, 8, 2);
    printf("\n");
}

/* "sleep, 8 sessions, 1000 idle beside, prompts of 128 tokens" */
static void describe(char *ret_text, size_t bytes, const struct bench_row *row)
{
    const struct bench_setup *setup = &row->stage->setup;
    size_t used = (size_t)snprintf(ret_text, bytes, "%s", bench_mode_name(setup->mode));
    if (setup->is_real)
        used +=
            (size_t)snprintf(ret_text + used, bytes - used, ", model %s", row->stage->model_name);
    used += (size_t)snprintf(ret_text + used, bytes - used, ", %u session%s", setup->sessions,
                             setup->sessions == 1 ? "" : "s in turn");
    if (setup->idle)
        used += (size_t)snprintf(ret_text + used, bytes - used, ", %u idle beside", setup->idle);
    snprintf(ret_text + used, bytes - used, ", prompts of %u token%s", row->prompt_tokens,
             row->prompt_tokens == 1 ? "" : "s");
}

/* ---- the table ------------------------------------------------------------------------------- */

static void print_heading(const struct bench_phase *phase, const int *processors)
{
    printf("dispatch: %u blocks of %u round trips a row, %u where somebody sleeps", phase->blocks,
           phase->trips, bench_trips(phase->trips, true));
    if (processors)
        printf("; processors %d and %d", processors[0], processors[1]);
    else
        printf("; not pinned");
    printf("\n%-*s %10s %10s %10s %10s %8s\n", NAME_WIDTH, "us", "p50", "p99", "p99.9", "max",
           "ratio");
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
        char text[160];
        if (row->stage && !is_same_group(row, i ? results[i - 1].row : NULL)) {
            describe(text, sizeof text, row);
            printf("%s\n", text);
        }
        if (row->what == BENCH_EXCHANGE && row->exchange == EXCHANGE_READ)
            printf("%u bytes:\n", row->prompt_tokens * (uint32_t)sizeof(uint32_t));
        print_result(&results[i], row->stage || row->exchange == EXCHANGE_READ ? "  " : "");
    }
}

static void print_histogram(const struct result *result, double ns_per_tick)
{
    struct histogram histogram;
    uint64_t most = 0;
    char text[160] = "";
    histogram_fill(&histogram, &result->row->series, ns_per_tick);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        most = histogram.counts[i] > most ? histogram.counts[i] : most;
    if (result->row->stage)
        describe(text, sizeof text, result->row);
    printf("\n%s%s%s\n", bench_row_name(result->row), *text ? ": " : "", text);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t count = histogram.counts[i];
        int length = (int)((double)count * BAR_WIDTH / (double)most);
        if (count)
            printf("%12.3f us %10llu %.*s\n", (double)histogram_from(i) / 1e3,
                   (unsigned long long)count, length ? length : 1,
                   "##################################################");
    }
}

/* "adaptive, 1 session, ..." with what it is held against. */
static void print_comparison(const struct comparison *comparison)
{
    char text[160];
    char base[160];
    describe(text, sizeof text, comparison->row);
    if (comparison->base->stage)
        describe(base, sizeof base, comparison->base);
    else
        snprintf(base, sizeof base, "%s", bench_row_name(comparison->base));
    printf("%s\n", text);
    if (comparison->kind == COMPARE_PROMPT)
        printf("  adds %.3f us; reading as much once: %.3f us; ratio", comparison->added_ns / 1e3,
               comparison->base_ns / 1e3);
    else
        printf("  to %s: p50", base);
    print_figure(comparison->p50_ratio, 1, 2);
    if (!isnan(comparison->p99_ratio)) {
        printf(", p99");
        print_figure(comparison->p99_ratio, 1, 2);
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

static void add_figure(cJSON *object, const char *name, double value)
{
    if (isnan(value))
        cJSON_AddNullToObject(object, name);
    else
        cJSON_AddNumberToObject(object, name, value);
}

static void add_set_up(cJSON *object, const struct bench_row *row, bool is_pinned)
{
    const struct stage *stage = row->stage;
    cJSON_AddStringToObject(object, "name", bench_row_name(row));
    cJSON_AddBoolToObject(object, "pinned", is_pinned);
    if (stage) {
        cJSON_AddStringToObject(object, "mode", bench_mode_name(stage->setup.mode));
        cJSON_AddStringToObject(object, "model", stage->model_name);
        cJSON_AddNumberToObject(object, "sessions", stage->setup.sessions);
        cJSON_AddNumberToObject(object, "idle", stage->setup.idle);
    }
    if (row->prompt_tokens)
        cJSON_AddNumberToObject(object, "prompt_tokens", row->prompt_tokens);
}

static void add_histogram(cJSON *object, const struct bench_row *row, double ns_per_tick)
{
    struct histogram histogram;
    cJSON *buckets = cJSON_AddArrayToObject(object, "histogram");
    histogram_fill(&histogram, &row->series, ns_per_tick);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (!histogram.counts[i])
            continue;
        cJSON *bucket = cJSON_CreateObject();
        cJSON_AddNumberToObject(bucket, "from_ns", (double)histogram_from(i));
        cJSON_AddNumberToObject(bucket, "to_ns", (double)histogram_from(i + 1));
        cJSON_AddNumberToObject(bucket, "count", (double)histogram.counts[i]);
        cJSON_AddItemToArray(buckets, bucket);
    }
}

static void add_result(struct report *report, const struct result *result, double ns_per_tick,
                       bool is_pinned)
{
    const struct summary *summary = &result->summary;
    const struct bench_row *row = result->row;
    cJSON *object = cJSON_CreateObject();
    add_set_up(object, row, is_pinned);
    cJSON_AddNumberToObject(object, "samples", (double)summary->samples);
    add_figure(object, "p50_ns", summary->p50);
    add_figure(object, "p99_ns", summary->p99);
    add_figure(object, "p999_ns", summary->p999);
    add_figure(object, "max_ns", summary->max);
    add_figure(object, "ratio_to_line", result->ratio);
    if (!isnan(summary->p50))
        add_histogram(object, row, ns_per_tick);
    cJSON_AddItemToArray(report->rows, object);
}

static void add_comparison(struct report *report, const struct comparison *comparison,
                           bool is_pinned)
{
    static const char *const kinds[] = {"waiting", "kernel", "sessions", "idle", "prompt"};
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "kind", kinds[comparison->kind]);
    add_set_up(cJSON_AddObjectToObject(object, "row"), comparison->row, is_pinned);
    add_set_up(cJSON_AddObjectToObject(object, "to"), comparison->base, is_pinned);
    add_figure(object, "p50_ratio", comparison->p50_ratio);
    add_figure(object, "p99_ratio", comparison->p99_ratio);
    add_figure(object, "added_ns", comparison->added_ns);
    add_figure(object, "reading_ns", comparison->base_ns);
    cJSON_AddItemToArray(report->comparisons, object);
}

/* ---- a phase --------------------------------------------------------------------------------- */

static void print_phase(struct report *report, const struct bench_phase *phase,
                        const struct result *results, const struct comparison *comparisons,
                        uint32_t comparison_count, const int *processors)
{
    print_heading(phase, processors);
    print_results(results, phase->row_count);
    print_comparisons(comparisons, comparison_count);
    for (uint32_t i = 0; i < phase->row_count && report->options->shows_histogram; i++)
        if (!isnan(results[i].summary.p50))
            print_histogram(&results[i], phase->ns_per_tick);
    printf("\n");
    fflush(stdout);
}

void report_phase(struct report *report, struct bench_phase *phase, const int *processors)
{
    struct result *results = calloc(phase->row_count + 1, sizeof *results);
    struct comparison *comparisons = calloc(COMPARISONS_MAX, sizeof *comparisons);
    if (!results || !comparisons) {
        report_note(report, "not enough memory to tell of a phase");
        goto free_results;
    }
    uint32_t count = compare_rows(phase, comparisons, COMPARISONS_MAX);
    for (uint32_t i = 0; i < phase->row_count; i++)
        summarise(report, phase, &phase->rows[i], &results[i]);
    if (!report->root)
        print_phase(report, phase, results, comparisons, count, processors);
    for (uint32_t i = 0; i < phase->row_count && report->root; i++)
        add_result(report, &results[i], phase->ns_per_tick, processors);
    for (uint32_t i = 0; i < count && report->root; i++)
        add_comparison(report, &comparisons[i], processors);

free_results:
    free(results);
    free(comparisons);
}

static void add_machine(cJSON *root, const struct bench_options *options)
{
    cJSON *processors = cJSON_AddArrayToObject(root, "processors");
    cJSON_AddStringToObject(root, "version", agl_version());
    for (int i = 0; i < 2; i++)
        cJSON_AddItemToArray(processors, cJSON_CreateNumber(options->processors[i]));
}

void report_finish(struct report *report)
{
    if (report->root)
        add_machine(report->root, report->options);
    cJSON *notes = report->root ? cJSON_AddArrayToObject(report->root, "notes") : NULL;
    for (uint32_t i = 0; i < report->note_count; i++) {
        if (report->root)
            cJSON_AddItemToArray(notes, cJSON_CreateString(report->notes[i]));
        else
            printf("Note: %s.\n", report->notes[i]);
    }
    char *text = report->root ? cJSON_Print(report->root) : NULL;
    if (text)
        puts(text);
    cJSON_free(text);
}
