#include "tools/bench_run.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench_stop.h"
#include "tools/bench_trip.h"
#include "tools/cli.h"

enum {
    ROWS_OF_MEASUREMENT = 4,
    WARM_UP_TRIPS = 32, /* and each session twice, after the daemon was held */
    SLOW_SHARE = 4,
    REAL_SHARE = 20, /* and with so many tokens of prompt half of that, and so on */
    REAL_TOKENS = 16,
    CALLS_SHARE = 10,
    TRIPS_LEAST = 20,
};

/* Rows that come from the same trips. */
struct bench_measurement {
    int (*make)(struct bench_phase *phase, const struct bench_measurement *measurement,
                uint32_t block);
    struct stage *stage; /* NULL: none of it */
    uint32_t trips;
    uint32_t first_row;
    uint32_t row_count;
    double *line_p50[EXCHANGE_LINES]; /* [blocks] each */
};

static const char *const names[BENCH_WHATS] = {
    [BENCH_FIRST_EVENT] = "submit to first event",
    [BENCH_FIRST_TOKEN] = "submit to first token",
    [BENCH_TAKEN] = "submit to taken",
    [BENCH_PUBLISHED] = "taken to published",
    [BENCH_SEEN] = "published to seen",
    [BENCH_STEP] = "the daemon's own step",
    [BENCH_REST] = "first token less the step",
    [BENCH_SUBMIT] = "agl_prompt + agl_submit, each",
    [BENCH_POLL_EVENT] = "agl_poll that finds an event",
    [BENCH_POLL_EMPTY] = "agl_poll that finds none",
};

const char *bench_row_name(const struct bench_row *row)
{
    return row->what == BENCH_EXCHANGE ? exchange_name(row->exchange) : names[row->what];
}

static uint32_t at_least(uint32_t trips, uint32_t least)
{
    return trips > least ? trips : least;
}

uint32_t bench_trips(uint32_t trips, bool is_slow)
{
    return at_least(is_slow ? trips / SLOW_SHARE : trips, TRIPS_LEAST);
}

static uint32_t trips_of_model(uint32_t trips, uint32_t prompt_tokens)
{
    return at_least(trips / REAL_SHARE / (1 + prompt_tokens / REAL_TOKENS), TRIPS_LEAST);
}

/* ---- one block ------------------------------------------------------------------------------- */

static int exchange_failed(enum exchange_kind kind, int err)
{
    if (bench_stop_signal())
        return bench_stop_status();
    return cli_fail("%s: %s", exchange_name(kind),
                    err == -EINTR ? "the other side does not answer any more" : strerror(-err));
}

static struct bench_row *rows_of(const struct bench_phase *phase,
                                 const struct bench_measurement *measurement)
{
    return phase->rows + measurement->first_row;
}

static int make_exchange(struct bench_phase *phase, const struct bench_measurement *measurement,
                         uint32_t block)
{
    struct bench_row *row = rows_of(phase, measurement);
    int err = exchange_run(phase->exchange, row->exchange,
                           row->prompt_tokens * (uint32_t)sizeof(uint32_t),
                           series_block(&row->series, block), measurement->trips);
    return err < 0 ? exchange_failed(row->exchange, err) : 0;
}

static struct trip_request request_of(const struct bench_phase *phase,
                                      const struct bench_measurement *measurement)
{
    return (struct trip_request){.model = measurement->stage->model,
                                 .prompt_tokens = rows_of(phase, measurement)->prompt_tokens};
}

static uint64_t as_ticks(const struct bench_phase *phase, int64_t ns, uint32_t *backwards)
{
    *backwards += ns < 0;
    return ns < 0 ? 0 : (uint64_t)((double)ns / phase->ns_per_tick + 0.5);
}

/* The rows are BENCH_FIRST_EVENT, BENCH_FIRST_TOKEN and, of a real model, BENCH_STEP, BENCH_REST.
 */
static int make_round_trips(struct bench_phase *phase, const struct bench_measurement *measurement,
                            uint32_t block)
{
    struct bench_row *rows = rows_of(phase, measurement);
    struct trip_request request = request_of(phase, measurement);
    for (uint32_t i = 0; i < measurement->trips; i++) {
        struct trip trip;
        int status = trip_make(stage_next(measurement->stage), &request, &trip);
        if (status)
            return status;
        series_block(&rows[0].series, block)[i] = trip.first_event;
        series_block(&rows[1].series, block)[i] = trip.first_token;
        if (measurement->row_count == 2)
            continue;
        series_block(&rows[2].series, block)[i] =
            as_ticks(phase, (int64_t)trip.step_ns, &rows[2].backwards);
        series_block(&rows[3].series, block)[i] = as_ticks(phase, trip.rest_ns, &rows[3].backwards);
    }
    return 0;
}

/* The rows are BENCH_TAKEN, BENCH_PUBLISHED, BENCH_SEEN. */
static int make_parts(struct bench_phase *phase, const struct bench_measurement *measurement,
                      uint32_t block)
{
    struct bench_row *rows = rows_of(phase, measurement);
    struct trip_request request = request_of(phase, measurement);
    for (uint32_t i = 0; i < measurement->trips; i++) {
        struct trip_parts parts = {0};
        int status = trip_make_parts(stage_next(measurement->stage), &request, &parts);
        if (status)
            return status;
        const int64_t ns[] = {parts.taken, parts.published, parts.seen};
        for (int part = 0; part < 3; part++)
            series_block(&rows[part].series, block)[i] =
                as_ticks(phase, ns[part], &rows[part].backwards);
    }
    return 0;
}

/* The rows are BENCH_SUBMIT, BENCH_POLL_EVENT, BENCH_POLL_EMPTY. */
static int make_calls(struct bench_phase *phase, const struct bench_measurement *measurement,
                      uint32_t block)
{
    struct bench_row *rows = rows_of(phase, measurement);
    struct trip_request request = request_of(phase, measurement);
    for (uint32_t i = 0; i < measurement->trips; i++) {
        struct trip_calls calls;
        int status = trip_time_calls(stage_next(measurement->stage), &request, &calls);
        if (status)
            return status;
        series_block(&rows[0].series, block)[i] = calls.submit;
        series_block(&rows[1].series, block)[i] = calls.poll_event;
        series_block(&rows[2].series, block)[i] = calls.poll_empty;
    }
    return 0;
}

static int warm_up(const struct bench_phase *phase, const struct bench_measurement *measurement)
{
    struct trip_request request = request_of(phase, measurement);
    uint32_t trips = 2 * measurement->stage->setup.sessions;
    struct trip ignored;
    int status = 0;
    if (trips < WARM_UP_TRIPS && !measurement->stage->setup.is_real)
        trips = WARM_UP_TRIPS;
    for (uint32_t i = 0; i < trips && !status; i++)
        status = trip_make(stage_next(measurement->stage), &request, &ignored);
    return status;
}

static int measure_line(struct bench_phase *phase, enum exchange_kind kind, double *ret_p50)
{
    struct series line = {.ticks = phase->line_ticks, .blocks = 1, .trips = phase->trips};
    int err = exchange_run(phase->exchange, kind, 0, line.ticks, line.trips);
    if (err < 0)
        return exchange_failed(kind, err);
    double ignored_p99;
    line.block_p50 = ret_p50;
    line.block_p99 = &ignored_p99;
    series_close_block(&line, 0);
    return 0;
}

/* Both ways, and each as often the first one. */
static int measure_lines(struct bench_phase *phase, const struct bench_measurement *measurement,
                         uint32_t block)
{
    int status = 0;
    for (uint32_t i = 0; i < EXCHANGE_LINES && !status; i++) {
        enum exchange_kind kind = (i + block) % EXCHANGE_LINES;
        status = measure_line(phase, kind, &measurement->line_p50[kind][block]);
    }
    return status;
}

static int make_block(struct bench_phase *phase, const struct bench_measurement *measurement,
                      uint32_t block)
{
    int status = measure_lines(phase, measurement, block);
    if (status)
        return status;
    if (measurement->stage) {
        bench_daemon_resume(&measurement->stage->daemon);
        status = warm_up(phase, measurement);
    }
    assert(measurement->make);
    if (!status)
        status = measurement->make(phase, measurement, block);
    if (!status && measurement->stage)
        status = bench_daemon_hold(&measurement->stage->daemon);
    for (uint32_t i = 0; i < measurement->row_count && !status; i++)
        series_close_block(&rows_of(phase, measurement)[i].series, block);
    return status ? status : bench_stop_status();
}

/* ---- the rows -------------------------------------------------------------------------------- */

typedef int make_fn(struct bench_phase *phase, const struct bench_measurement *measurement,
                    uint32_t block);

static void add_measurement(struct bench_phase *phase, struct stage *stage, uint32_t trips,
                            make_fn *make)
{
    phase->measurements[phase->measurement_count++] = (struct bench_measurement){
        .make = make, .stage = stage, .trips = trips, .first_row = phase->row_count};
}

/* Appends a row to the last measurement. */
static void add_row(struct bench_phase *phase, enum bench_what what, uint32_t prompt_tokens)
{
    struct bench_measurement *last = &phase->measurements[phase->measurement_count - 1];
    last->row_count++;
    phase->rows[phase->row_count++] =
        (struct bench_row){.what = what, .stage = last->stage, .prompt_tokens = prompt_tokens};
}

static void add_exchange(struct bench_phase *phase, enum exchange_kind kind, uint32_t read_tokens)
{
    add_measurement(phase, NULL, bench_trips(phase->trips, exchange_sleeps(kind)), make_exchange);
    add_row(phase, BENCH_EXCHANGE, read_tokens);
    phase->rows[phase->row_count - 1].exchange = kind;
}

static void add_exchanges(struct bench_phase *phase)
{
    for (int kind = 0; kind < EXCHANGE_READ; kind++)
        if (exchange_has(phase->exchange, kind))
            add_exchange(phase, kind, 0);
}

static bool is_read(const struct bench_phase *phase, uint32_t tokens)
{
    for (uint32_t i = 0; i < phase->row_count; i++)
        if (phase->rows[i].what == BENCH_EXCHANGE && phase->rows[i].prompt_tokens == tokens)
            return true;
    return false;
}

/* What a long prompt costs is held against reading as many bytes once. */
static void add_reads(struct bench_phase *phase)
{
    for (uint32_t i = 0; i < phase->stage_count; i++) {
        const struct bench_list *prompts = &phase->stages[i].setup.prompts;
        for (uint32_t j = 0; j < prompts->count; j++)
            if (prompts->values[j] > 1 && !is_read(phase, prompts->values[j]))
                add_exchange(phase, EXCHANGE_READ, prompts->values[j]);
    }
}

static void add_trips(struct bench_phase *phase, struct stage *stage, uint32_t prompt_tokens)
{
    bool is_real = stage->setup.is_real;
    bool is_slow = stage->setup.mode == BENCH_SLEEP;
    uint32_t trips =
        is_real ? trips_of_model(phase->trips, prompt_tokens) : bench_trips(phase->trips, is_slow);
    add_measurement(phase, stage, trips, make_round_trips);
    add_row(phase, BENCH_FIRST_EVENT, prompt_tokens);
    add_row(phase, BENCH_FIRST_TOKEN, prompt_tokens);
    if (is_real) {
        add_row(phase, BENCH_STEP, prompt_tokens);
        add_row(phase, BENCH_REST, prompt_tokens);
        return;
    }
    add_measurement(phase, stage, trips, make_parts);
    add_row(phase, BENCH_TAKEN, prompt_tokens);
    add_row(phase, BENCH_PUBLISHED, prompt_tokens);
    add_row(phase, BENCH_SEEN, prompt_tokens);
}

static void add_calls(struct bench_phase *phase, struct stage *stage)
{
    add_measurement(phase, stage, bench_trips(phase->trips / CALLS_SHARE, false), make_calls);
    add_row(phase, BENCH_SUBMIT, 1);
    add_row(phase, BENCH_POLL_EVENT, 1);
    add_row(phase, BENCH_POLL_EMPTY, 1);
}

static int count_measurements(const struct bench_phase *phase)
{
    enum { OF_A_PROMPT = 3 /* read, round trips, parts */ };
    int count = EXCHANGE_KINDS + 1 /* calls */;
    for (uint32_t i = 0; i < phase->stage_count; i++)
        count += OF_A_PROMPT * (int)phase->stages[i].setup.prompts.count;
    return count;
}

static void lay_out(struct bench_phase *phase)
{
    bool has_calls = !phase->has_exchanges;
    if (phase->has_exchanges)
        add_exchanges(phase);
    add_reads(phase);
    for (uint32_t i = 0; i < phase->stage_count; i++) {
        struct stage *stage = &phase->stages[i];
        for (uint32_t j = 0; j < stage->setup.prompts.count; j++) {
            add_trips(phase, stage, stage->setup.prompts.values[j]);
            bool is_awake = stage->setup.mode == BENCH_SPIN && stage->daemon.pid;
            if (has_calls || !is_awake || stage->setup.is_real)
                continue;
            add_calls(phase, stage); /* once: they are the caller's own */
            has_calls = true;
        }
    }
}

/* How often the bare exchanges are measured. */
static uint32_t line_tries(const struct bench_phase *phase)
{
    return phase->measurement_count * phase->blocks;
}

static int make_room_for_lines(struct bench_phase *phase)
{
    size_t bytes = (size_t)EXCHANGE_LINES * line_tries(phase) * sizeof(double);
    phase->line_ticks = malloc(phase->trips * sizeof *phase->line_ticks);
    phase->lines = malloc(bytes + 1);
    phase->lines_sorted = malloc(bytes + 1);
    if (!phase->line_ticks || !phase->lines || !phase->lines_sorted)
        return -ENOMEM;
    memset(phase->line_ticks, 0xff, phase->trips * sizeof *phase->line_ticks);
    memset(phase->lines, 0xff, bytes);
    for (uint32_t i = 0; i < phase->measurement_count; i++)
        for (uint32_t kind = 0; kind < EXCHANGE_LINES; kind++)
            phase->measurements[i].line_p50[kind] =
                phase->lines + (size_t)kind * line_tries(phase) + (size_t)i * phase->blocks;
    return 0;
}

/* All memory that measuring needs; -ENOMEM. */
static int make_room(struct bench_phase *phase)
{
    if (make_room_for_lines(phase) < 0)
        return -ENOMEM;
    for (uint32_t i = 0; i < phase->measurement_count; i++) {
        struct bench_measurement *measurement = &phase->measurements[i];
        for (uint32_t j = 0; j < measurement->row_count; j++)
            if (series_init(&rows_of(phase, measurement)[j].series, phase->blocks,
                            measurement->trips) < 0)
                return -ENOMEM;
    }
    return 0;
}

/* The limit is the way of spinning that was faster in all its tries together, the same for every
 * row: the faster one of each try would be the luckier one. */
static void choose_limit(struct bench_phase *phase)
{
    double *all[EXCHANGE_LINES];
    phase->line_tries = line_tries(phase);
    memcpy(phase->lines_sorted, phase->lines,
           (size_t)EXCHANGE_LINES * phase->line_tries * sizeof(double));
    for (uint32_t kind = 0; kind < EXCHANGE_LINES; kind++)
        all[kind] = phase->lines_sorted + (size_t)kind * phase->line_tries;
    phase->limit = series_least_median(all, EXCHANGE_LINES, phase->line_tries, phase->line_p50_ns);
    for (uint32_t kind = 0; kind < EXCHANGE_LINES; kind++)
        phase->line_p50_ns[kind] *= phase->ns_per_tick;
    for (uint32_t i = 0; i < phase->measurement_count; i++) {
        const struct bench_measurement *measurement = &phase->measurements[i];
        for (uint32_t j = 0; j < measurement->row_count; j++)
            rows_of(phase, measurement)[j].line_p50 = measurement->line_p50[phase->limit];
    }
}

int bench_phase_run(struct bench_phase *phase)
{
    size_t most = (size_t)count_measurements(phase);
    phase->measurements = calloc(most, sizeof *phase->measurements);
    phase->rows = calloc(most * ROWS_OF_MEASUREMENT, sizeof *phase->rows);
    if (!phase->measurements || !phase->rows)
        return cli_fail("not enough memory for the rows");
    lay_out(phase);
    if (make_room(phase) < 0)
        return cli_fail("not enough memory for the samples");
    for (uint32_t block = 0; block < phase->blocks; block++) {
        for (uint32_t i = 0; i < phase->measurement_count; i++) {
            int status = make_block(phase, &phase->measurements[i], block);
            if (status)
                return status;
        }
    }
    choose_limit(phase);
    return 0;
}

void bench_phase_fini(struct bench_phase *phase)
{
    for (uint32_t i = 0; i < phase->row_count; i++)
        series_fini(&phase->rows[i].series);
    free(phase->rows);
    free(phase->measurements);
    free(phase->line_ticks);
    free(phase->lines);
    free(phase->lines_sorted);
    phase->rows = NULL;
    phase->measurements = NULL;
    phase->line_ticks = NULL;
    phase->lines = phase->lines_sorted = NULL;
    phase->row_count = phase->measurement_count = 0;
}
