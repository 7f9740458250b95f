/*
 * autoglm bench dispatch: what a request costs on its way to the engine and back, in every way of
 * waiting, beside what else two processes on the same two processors could use.
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"
#include "tools/bench_clock.h"
#include "tools/bench_dispatch_options.h"
#include "tools/bench_guard.h"
#include "tools/bench_machine.h"
#include "tools/bench_output.h"
#include "tools/bench_place.h"
#include "tools/bench_report.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

struct bench {
    struct bench_options options;
    struct bench_plan plan;
    struct output *output;
    struct report *report;
    struct exchange *exchange;
    double ns_per_tick;
    cpu_set_t allowed;
    uint32_t sessions_at_once;
    char real_model[PLACE_BYTES + 64]; /* NAME=FOLDER; empty: none */
};

/* ---- processors ------------------------------------------------------------------------------ */

static int check_processors(const struct bench *bench)
{
    for (int i = 0; i < 2; i++) {
        int processor = bench->options.processors[i];
        if (processor >= 0 && !CPU_ISSET((size_t)processor, &bench->allowed))
            return cli_usage("--processors: processor %d is not one that this process may use",
                             processor);
    }
    return 0;
}

/* Two processors that we may use: the client's and the other side's. */
static int choose_processors(struct bench *bench)
{
    int *processors = bench->options.processors;
    if (sched_getaffinity(0, sizeof bench->allowed, &bench->allowed) < 0)
        return cli_fail("cannot tell which processors are allowed: %s", strerror(errno));
    if (CPU_COUNT(&bench->allowed) < 2)
        return cli_fail("bench dispatch needs two processors: with one, two spinning sides only "
                        "wait for each other's time slice");
    if (processors[0] >= 0)
        return check_processors(bench);
    for (int i = 0, found = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET((size_t)i, &bench->allowed))
            processors[found++] = i;
    return 0;
}

/* For this process and those that it starts from now on. */
static int pin(const struct bench *bench, bool is_pinned)
{
    int processor = bench->options.processors[0];
    if (!is_pinned)
        return sched_setaffinity(0, sizeof bench->allowed, &bench->allowed) < 0
                   ? cli_fail("cannot leave the choice of processors: %s", strerror(errno))
                   : 0;
    int err = machine_pin(processor);
    return err < 0 ? cli_fail("cannot keep to processor %d: %s", processor, strerror(-err)) : 0;
}

/* ---- the real model -------------------------------------------------------------------------- */

static void choose_real_model(struct bench *bench)
{
    const struct bench_options *options = &bench->options;
    char folder[PLACE_BYTES];
    if (options->socket_path || (options->folder && strcmp(options->folder, "none") == 0))
        return;
    if (options->folder)
        snprintf(bench->real_model, sizeof bench->real_model, "real=%s", options->folder);
    else if (place_bundled_model(folder))
        snprintf(bench->real_model, sizeof bench->real_model, "story-glm=%s", folder);
    else
        output_note(bench->output, "no rows of a real model: the bundled one is not there "
                                   "(--folder PATH names one)");
}

/* ---- phases ---------------------------------------------------------------------------------- */

static int open_stages(struct bench *bench, struct stage *stages, const struct bench_setup *setups,
                       uint32_t count, int processor)
{
    for (uint32_t i = 0; i < count; i++) {
        const char *model = setups[i].is_real ? bench->real_model : "echo=echo:";
        int status = stage_open(&stages[i], &setups[i], &bench->options, model, processor);
        if (status)
            return status;
        if (stages[i].left_out)
            output_note(bench->output,
                        "model %s holds %u tokens: longer prompts and a token of answer do not fit",
                        stages[i].model_name, stages[i].context_tokens);
    }
    return 0;
}

/* The set-ups [first, first + count) of the plan. */
static int run_phase(struct bench *bench, uint32_t first, uint32_t count, bool is_pinned)
{
    const int *processors = bench->options.processors;
    struct stage *stages = calloc(count, sizeof *stages);
    struct bench_phase phase = {.blocks = bench->options.blocks,
                                .trips = bench->options.trips,
                                .ns_per_tick = bench->ns_per_tick,
                                .exchange = bench->exchange,
                                .stages = stages,
                                .stage_count = count,
                                .has_exchanges = first == 0};
    if (!stages)
        return cli_fail("not enough memory for the set-ups");
    int status = open_stages(bench, stages, &bench->plan.setups[first], count,
                             is_pinned ? processors[1] : -1);
    if (!status)
        status = bench_phase_run(&phase);
    if (!status && report_phase(bench->report, &phase, is_pinned ? processors : NULL) < 0)
        status = cli_fail("not enough memory to tell of what was measured");
    bench_phase_fini(&phase);
    for (uint32_t i = 0; i < count; i++)
        stage_close(&stages[i]);
    free(stages);
    return status;
}

static int run_phases(struct bench *bench, bool is_pinned)
{
    const struct bench_plan *plan = &bench->plan;
    int status = 0;
    for (uint32_t first = 0, end = 0; first < plan->count && !status; first = end) {
        while (end < plan->count && plan->phases[end] == plan->phases[first])
            end++;
        status = run_phase(bench, first, end - first, is_pinned);
    }
    return status;
}

static int run_pinning(struct bench *bench, bool is_pinned)
{
    int status = pin(bench, is_pinned);
    if (status)
        return status;
    int err = exchange_open(&bench->exchange, is_pinned ? bench->options.processors[1] : -1);
    if (err < 0)
        return cli_fail("cannot start the other side: %s", strerror(-err));
    if (!exchange_has(bench->exchange, EXCHANGE_HTTP))
        output_note(bench->output, "no row of HTTP: there is no loopback here");
    status = run_phases(bench, is_pinned);
    exchange_close(bench->exchange);
    bench->exchange = NULL;
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int make_plan(struct bench *bench)
{
    uint32_t at_once;
    stage_limits(&at_once);
    int err = bench_plan_make(&bench->plan, &bench->options, bench->real_model[0], at_once);
    if (err == -ENOSPC && !bench->options.idle.count) {
        bench->options.leaves_out_idle = true;
        output_note(bench->output,
                    "no rows with idle sessions: the limit of descriptors (ulimit "
                    "-Hn) is enough for %u sessions at once",
                    at_once);
        err = bench_plan_make(&bench->plan, &bench->options, bench->real_model[0], at_once);
    }
    if (err == -ENOSPC)
        return cli_fail("the limit of descriptors (ulimit -Hn) is enough for %u sessions at once: "
                        "fewer --sessions or --idle ones, or a higher limit",
                        at_once);
    return 0;
}

/* The counter's pace at the end, too: what was measured with one that changed is not worth much. */
static void check_pace(struct bench *bench)
{
    enum { PER_MILLE_MAX = 2 };
    double change = bench_ns_per_tick() / bench->ns_per_tick - 1;
    if (fabs(change) * 1000 > PER_MILLE_MAX)
        output_note(bench->output, "the time stamp counter's pace changed by %.1f %% meanwhile",
                    change * 100);
}

static int run(struct bench *bench)
{
    int status = choose_processors(bench);
    if (status)
        return status;
    choose_real_model(bench);
    if (bench->options.socket_path)
        output_note(bench->output,
                    "the daemon at %s is not ours: it waits in its own way, on any processor, this "
                    "client's as well, and goes on while the bare exchanges are measured",
                    bench->options.socket_path);
    status = make_plan(bench);
    if (status)
        return status;
    bench->ns_per_tick = bench_ns_per_tick();
    if (bench->options.pinning & BENCH_PINNED)
        status = run_pinning(bench, true);
    if (!status && bench->options.pinning & BENCH_UNPINNED)
        status = run_pinning(bench, false);
    if (status)
        return status;
    check_pace(bench);
    return output_finish(bench->output) < 0 ? cli_fail("not enough memory to tell of everything")
                                            : 0;
}

int bench_dispatch_main(int argc, char **argv)
{
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return cli_fail("not enough memory");
    int status = bench_dispatch_parse(&bench->options, argc, argv);
    if (status >= 0)
        goto free_bench;
    status = CLI_FAILED;
    if (output_open(&bench->output, "dispatch", bench->options.is_json) < 0 ||
        report_open(&bench->report, bench->output, &bench->options) < 0) {
        cli_fail("not enough memory");
        goto close_output;
    }
    bench_stop_catch();
    int err = bench_guard_begin();
    status = err < 0 ? cli_fail("cannot start a process: %s", strerror(-err)) : run(bench);
    bench_guard_end();

close_output:
    report_close(bench->report);
    output_close(bench->output);
free_bench:
    free(bench);
    return status;
}
