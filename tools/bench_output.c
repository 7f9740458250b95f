#include "tools/bench_output.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <autoglm.h>

#include "tools/bench_machine.h"

enum { NOTE_BYTES = 512, BAR_WIDTH = 50 };

struct output {
    cJSON *root; /* NULL: a table */
    uint32_t note_count;
    char **notes;       /* [note_count] */
    bool is_incomplete; /* there was no memory for a note */
};

/* ---- opening and closing ----------------------------------------------------------------------
 */

static void add_machine(cJSON *root, const char *what, const struct machine *machine)
{
    cJSON_AddStringToObject(root, "bench", what);
    cJSON_AddStringToObject(root, "version", agl_version());
    cJSON *object = cJSON_AddObjectToObject(root, "machine");
    cJSON_AddStringToObject(object, "processor", machine->processor);
    cJSON_AddNumberToObject(object, "processors", machine->processors);
    cJSON_AddStringToObject(object, "kernel", machine->kernel);
}

int output_open(struct output **ret_output, const char *what, bool is_json)
{
    struct output *output = calloc(1, sizeof *output);
    struct machine machine;
    if (output && is_json)
        output->root = cJSON_CreateObject();
    if (!output || (is_json && !output->root)) {
        free(output);
        return -ENOMEM;
    }
    machine_describe(&machine);
    if (is_json)
        add_machine(output->root, what, &machine);
    else
        printf("bench %s: autoglm %s, %s, %u processors allowed, %s\n", what, agl_version(),
               machine.processor, machine.processors, machine.kernel);
    *ret_output = output;
    return 0;
}

void output_close(struct output *output)
{
    if (!output)
        return;
    cJSON_Delete(output->root);
    for (uint32_t i = 0; i < output->note_count; i++)
        free(output->notes[i]);
    free((void *)output->notes);
    free(output);
}

cJSON *output_json(struct output *output)
{
    return output->root;
}

/* ---- notes ------------------------------------------------------------------------------------
 */

static bool is_noted(const struct output *output, const char *note)
{
    for (uint32_t i = 0; i < output->note_count; i++)
        if (strcmp(output->notes[i], note) == 0)
            return true;
    return false;
}

void output_note(struct output *output, const char *format, ...)
{
    char note[NOTE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note, sizeof note, format, arguments);
    va_end(arguments);
    if (is_noted(output, note))
        return;
    size_t count = output->note_count + (size_t)1;
    char **notes = realloc((void *)output->notes, count * sizeof *notes);
    if (notes)
        output->notes = notes;
    char *copy = notes ? strdup(note) : NULL;
    if (copy)
        output->notes[output->note_count++] = copy;
    else
        output->is_incomplete = true;
}

static int finish_json(struct output *output)
{
    cJSON *notes = cJSON_AddArrayToObject(output->root, "notes");
    for (uint32_t i = 0; i < output->note_count; i++)
        cJSON_AddItemToArray(notes, cJSON_CreateString(output->notes[i]));
    char *text = notes && !output->is_incomplete ? cJSON_Print(output->root) : NULL;
    if (!text)
        return -ENOMEM;
    puts(text);
    cJSON_free(text);
    return 0;
}

int output_finish(struct output *output)
{
    if (output->root)
        return finish_json(output);
    for (uint32_t i = 0; i < output->note_count; i++)
        printf("Note: %s.\n", output->notes[i]);
    return output->is_incomplete ? -ENOMEM : 0;
}

/* ---- a table's parts --------------------------------------------------------------------------
 */

void output_print_name(const char *indent, const char *name)
{
    printf("%s%-*s", indent, OUTPUT_NAME_WIDTH - (int)strlen(indent), name);
}

void output_print_figure(double value, int width, int decimals)
{
    if (isnan(value))
        printf(" %*s", width, "-");
    else
        printf(" %*.*f", width, decimals, value);
}

void output_print_histogram(const struct series *series, double ns_per_tick)
{
    struct histogram histogram;
    uint64_t most = 0;
    histogram_fill(&histogram, series, ns_per_tick);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        most = histogram.counts[i] > most ? histogram.counts[i] : most;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t count = histogram.counts[i];
        int length = count ? (int)((double)count * BAR_WIDTH / (double)most) : 0;
        if (count)
            printf("%12.3f us %10llu %.*s\n", (double)histogram_from(i) / 1e3,
                   (unsigned long long)count, length ? length : 1,
                   "##################################################");
    }
}

/* ---- JSON's parts -----------------------------------------------------------------------------
 */

void output_add_figure(cJSON *object, const char *name, double value)
{
    if (isnan(value))
        cJSON_AddNullToObject(object, name);
    else
        cJSON_AddNumberToObject(object, name, value);
}

void output_add_histogram(cJSON *object, const struct series *series, double ns_per_tick)
{
    struct histogram histogram;
    cJSON *buckets = cJSON_AddArrayToObject(object, "histogram");
    histogram_fill(&histogram, series, ns_per_tick);
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
