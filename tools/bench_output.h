/*
 * How the figures of any measurement come out: a table for people, or one JSON object for programs,
 * with the machine in front and notes at the end.
 *
 *   output_open(&output, "dispatch", is_json)
 *   output_json(output): not NULL: add to it; NULL: print, with the help of output_print_...()
 *   output_note(output, ...)
 *   output_finish(output); output_close(output)
 *
 * A figure of NAN was not measured, or not often enough: "-" in a table, null in JSON.
 */
#ifndef AGL_TOOLS_BENCH_OUTPUT_H
#define AGL_TOOLS_BENCH_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "tools/bench_series.h"

struct output;

/* Prints, or notes down, what is measured and on which machine. -ENOMEM. */
int output_open(struct output **ret_output, const char *what, bool is_json);
/* NULL does nothing. */
void output_close(struct output *output);

/* The object to add to, which stays the output's; NULL: a table is wanted. */
cJSON *output_json(struct output *output);

/* A sentence without its full stop about what is missing or doubtful: told once, at the end. */
__attribute__((format(printf, 2, 3))) void output_note(struct output *output, const char *format,
                                                       ...);

/* Prints the notes, or all the JSON. -ENOMEM: not all of it is there, and no JSON is printed. */
int output_finish(struct output *output);

/* ---- a table's parts --------------------------------------------------------------------------
 */

enum { OUTPUT_NAME_WIDTH = 38 };
void output_print_name(const char *indent, const char *name);

/* Right-aligned behind a space. */
void output_print_figure(double value, int width, int decimals);

/* One line a bucket that is not empty. */
void output_print_histogram(const struct series *series, double ns_per_tick);

/* ---- JSON's parts -----------------------------------------------------------------------------
 */

void output_add_figure(cJSON *object, const char *name, double value);

/* "histogram": [{"from_ns", "to_ns", "count"}, ...], without the empty buckets. */
void output_add_histogram(cJSON *object, const struct series *series, double ns_per_tick);

#endif
