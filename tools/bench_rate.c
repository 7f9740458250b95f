#include "tools/bench_rate.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <autoglm.h>

#include "tools/bench_machine.h"
#include "tools/bench_series.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

enum { NS_PER_MS = 1000 * 1000, SAMPLES_OF_A_ROUND = 3 };

/* ---- measuring ------------------------------------------------------------------------------- */

static bool reserve_limits(struct rate_phase *phase, size_t turns)
{
    for (int limit = 0; limit < LIMITS; limit++) {
        size_t count = phase->measured_count[limit] + turns + phase->rounds + 1;
        double *measured = realloc(phase->measured[limit], count * sizeof *measured);
        if (!measured)
            return false;
        phase->measured[limit] = measured;
    }
    return true;
}

static bool reserve(struct rate_phase *phase)
{
    size_t turns = (size_t)phase->rounds * phase->row_count;
    free(phase->samples);
    phase->samples = calloc(turns * SAMPLES_OF_A_ROUND + 1, sizeof *phase->samples);
    if (!phase->samples || !reserve_limits(phase, turns))
        return false;
    for (uint32_t i = 0; i < phase->row_count; i++) {
        double *samples = phase->samples + (size_t)i * phase->rounds * SAMPLES_OF_A_ROUND;
        phase->rows[i].seconds = samples;
        phase->rows[i].read_shares = samples + phase->rounds;
        phase->rows[i].peak_shares = samples + (size_t)2 * phase->rounds;
    }
    return true;
}

static int step_once(const struct rate_row *row)
{
    int err = row->step(row->context);
    return err < 0 ? cli_fail("%s: %s", row->name, strerror(-err)) : bench_stop_status();
}

/* The limit's rate now, which is also kept for its own median. */
static double measure_limit(struct rate_phase *phase, enum limit limit)
{
    double rate = limits_measure(phase->limits, limit, phase->threads);
    if (!isnan(rate))
        phase->measured[limit][phase->measured_count[limit]++] = rate;
    return rate;
}

static int take_turn(struct rate_phase *phase, struct rate_row *row, uint32_t round)
{
    uint64_t round_ns = (uint64_t)phase->round_ms * NS_PER_MS;
    double read = measure_limit(phase, LIMIT_READ);
    double peak = row->macs > 0 ? measure_limit(phase, row->peak) : (double)NAN;
    uint64_t start_ns = agl_now_ns(), now_ns, steps = 0;
    do {
        int status = step_once(row);
        if (status)
            return status;
        steps++;
        now_ns = agl_now_ns();
    } while (now_ns - start_ns < round_ns);
    double seconds = (double)(now_ns - start_ns) / 1e9 / (double)steps;
    row->seconds[round] = seconds;
    row->read_shares[round] = row->bytes / seconds / read;
    row->peak_shares[round] = row->macs / seconds / peak;
    return 0;
}

int rate_run(struct rate_phase *phase)
{
    if (!reserve(phase))
        return cli_fail("not enough memory for the samples");
    int status = bench_stop_status();
    /* Memory is touched and caches are as they will be. */
    for (uint32_t i = 0; i < phase->row_count && !status; i++)
        status = step_once(&phase->rows[i]);
    for (uint32_t round = 0; round < phase->rounds && !status; round++) {
        for (int limit = 0; limit < LIMITS; limit++)
            measure_limit(phase, (enum limit)limit);
        for (uint32_t i = 0; i < phase->row_count && !status; i++)
            status = take_turn(phase, &phase->rows[i], round);
    }
    return status;
}

void rate_fini(struct rate_phase *phase)
{
    free(phase->samples);
    for (int limit = 0; limit < LIMITS; limit++)
        free(phase->measured[limit]);
    phase->samples = NULL;
    memset(phase->measured, 0, sizeof phase->measured);
}

/* ---- figures --------------------------------------------------------------------------------- */

static double per_second(double amount, double seconds)
{
    return amount > 0 ? amount / seconds : (double)NAN;
}

static double share(double amount, double *shares, uint32_t rounds)
{
    for (uint32_t i = 0; i < rounds; i++)
        if (isnan(shares[i]))
            return NAN;
    return amount > 0 ? series_median(shares, rounds) : (double)NAN;
}

struct rate_result rate_result(struct rate_phase *phase, const struct rate_row *row)
{
    double seconds = series_median(row->seconds, phase->rounds);
    return (struct rate_result){
        .seconds = seconds,
        .tokens_per_s = per_second(row->tokens, seconds),
        .bytes_per_s = per_second(row->bytes, seconds),
        .read_share = share(row->bytes, row->read_shares, phase->rounds),
        .macs_per_s = per_second(row->macs, seconds),
        .peak_share = share(row->macs, row->peak_shares, phase->rounds),
    };
}

double rate_limit(struct rate_phase *phase, enum limit limit)
{
    return series_median(phase->measured[limit], phase->measured_count[limit]);
}

/* ---- the table ------------------------------------------------------------------------------- */

void rate_print_limits(struct rate_phase *phase)
{
    struct machine machine;
    machine_describe(&machine);
    printf("%s, %u thread%s, %s: reads %.1f GB/s", machine.processor, phase->threads,
           phase->threads == 1 ? "" : "s", phase->isa, rate_limit(phase, LIMIT_READ) / 1e9);
    for (int limit = LIMIT_F32; limit < LIMITS; limit++)
        if (phase->measured_count[limit])
            printf(", %s %.1f GMAC/s", limit_name((enum limit)limit),
                   rate_limit(phase, (enum limit)limit) / 1e9);
    printf(" (medians, measured in turn with the rows)\n");
}

void rate_print_heading(bool has_tokens)
{
    output_print_name("", "");
    printf(" %11s", "ms");
    if (has_tokens)
        printf(" %9s", "tokens/s");
    printf(" %10s %8s %7s %9s %7s  %s\n", "MB", "GB/s", "of read", "GMAC/s", "of peak", "peak");
}

static void print_share(double value)
{
    if (isnan(value))
        printf(" %7s", "-");
    else
        printf(" %5.1f %%", value * 100);
}

void rate_print_row(const struct rate_row *row, const struct rate_result *result, bool has_tokens)
{
    output_print_name("", row->name);
    output_print_figure(result->seconds * 1e3, 11, 4);
    if (has_tokens)
        output_print_figure(result->tokens_per_s, 9, 2);
    output_print_figure(row->bytes > 0 ? row->bytes / 1e6 : (double)NAN, 10, 3);
    output_print_figure(result->bytes_per_s / 1e9, 8, 2);
    print_share(result->read_share);
    output_print_figure(result->macs_per_s / 1e9, 9, 2);
    print_share(result->peak_share);
    printf("  %s\n", row->macs > 0 ? limit_name(row->peak) : "-");
}

/* ---- JSON ------------------------------------------------------------------------------------ */

void rate_add_limits(cJSON *array, struct rate_phase *phase)
{
    cJSON *object = cJSON_CreateObject();
    char name[RATE_NAME_BYTES];
    cJSON_AddNumberToObject(object, "threads", phase->threads);
    output_add_figure(object, "read_bytes_per_s", rate_limit(phase, LIMIT_READ));
    for (int limit = LIMIT_F32; limit < LIMITS; limit++) {
        snprintf(name, sizeof name, "%s_macs_per_s", limit_name((enum limit)limit));
        output_add_figure(object, name, rate_limit(phase, (enum limit)limit));
    }
    cJSON_AddItemToArray(array, object);
}

void rate_add_row(cJSON *object, const struct rate_row *row, const struct rate_result *result)
{
    output_add_figure(object, "ms", result->seconds * 1e3);
    output_add_figure(object, "tokens_per_s", result->tokens_per_s);
    cJSON_AddNumberToObject(object, "bytes", row->bytes);
    output_add_figure(object, "bytes_per_s", result->bytes_per_s);
    output_add_figure(object, "share_of_read", result->read_share);
    cJSON_AddNumberToObject(object, "macs", row->macs);
    output_add_figure(object, "macs_per_s", result->macs_per_s);
    output_add_figure(object, "share_of_peak", result->peak_share);
    if (row->macs > 0)
        cJSON_AddStringToObject(object, "peak", limit_name(row->peak));
    else
        cJSON_AddNullToObject(object, "peak");
}
