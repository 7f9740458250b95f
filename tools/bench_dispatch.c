/*
 * autoglm bench dispatch: from agl_submit() to the first event seen by the caller, with the echo
 * model, whose step computes nothing.
 *
 * What is measured alternates in blocks: the bare exchange of a cache line, a Unix socket, and the
 * rings, all on the same two processors; the daemon is held while the others run. The ratio is the
 * median over the blocks of each block's p50 to that of the bare exchange in the same block.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "tools/bench.h"
#include "tools/bench_clock.h"
#include "tools/bench_daemon.h"
#include "tools/bench_exchange.h"
#include "tools/cli.h"

static const char usage[] =
    "Usage: autoglm bench dispatch [OPTIONS]\n"
    "Measures the round trip from submitting a request to seeing its first event, without any\n"
    "arithmetic of a model, beside a bare cache-line exchange and a Unix socket in the same run.\n"
    "Starts daemons of its own with the echo model, one for each mode.\n"
    "\n"
    "  --socket PATH     measure the daemon there instead, in its own mode\n"
    "  --model NAME      with --socket: which model; default: the first\n"
    "  --daemon PATH     the autoglmd to start; default: the one of this installation\n"
    "  --mode MODE       only spin, adaptive or sleep\n"
    "  --trips N         round trips a block; default 2000\n"
    "  --blocks N        blocks; default 15\n"
    "  --unpinned        leave it to the kernel which processors are used\n"
    "  --json            as JSON\n"
    "  --help            this text\n";

enum {
    OPTION_SOCKET = 256,
    OPTION_MODEL,
    OPTION_DAEMON,
    OPTION_MODE,
    OPTION_TRIPS,
    OPTION_BLOCKS,
    OPTION_UNPINNED,
    OPTION_JSON,
    OPTION_HELP
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"model", required_argument, NULL, OPTION_MODEL},
    {"daemon", required_argument, NULL, OPTION_DAEMON},
    {"mode", required_argument, NULL, OPTION_MODE},
    {"trips", required_argument, NULL, OPTION_TRIPS},
    {"blocks", required_argument, NULL, OPTION_BLOCKS},
    {"unpinned", no_argument, NULL, OPTION_UNPINNED},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

enum { MODES = 3, WARM_UP_TRIPS = 200 };
static const char *const mode_names[MODES] = {"spin", "adaptive", "sleep"};
static const uint32_t mode_waits[MODES] = {AGL_WAIT_SPIN, AGL_WAIT_ADAPTIVE, AGL_WAIT_SLEEP};

struct bench_options {
    const char *socket_path;
    const char *model;
    const char *daemon;
    int mode; /* -1: all */
    uint64_t trips;
    uint64_t blocks;
    bool unpinned;
    bool json;
};

/* All samples of one kind of round trip. */
struct series {
    const char *name;
    const char *mode;           /* NULL: does not apply */
    uint64_t *ticks;            /* [blocks, trips], each block sorted once it is complete */
    double p50, p99, p999, max; /* of all samples, in ns */
    double ratio;               /* to the bare exchange; median over the blocks */
};

enum { LINE, SOCKET, TAKEN, FIRST_EVENT, FIRST_TOKEN, SERIES };

struct bench {
    struct bench_options options;
    double ns_per_tick;
    int processors[2]; /* ours and the other side's; -1: anywhere */
    struct exchange *exchange;
    struct agl_client *client;
    uint32_t model;
    uint32_t wait_mode;
};

static int parse_option(struct bench_options *options, int option)
{
    switch (option) {
    case OPTION_SOCKET:
        options->socket_path = optarg;
        return -1;
    case OPTION_MODEL:
        options->model = optarg;
        return -1;
    case OPTION_DAEMON:
        options->daemon = optarg;
        return -1;
    case OPTION_MODE:
        for (int i = 0; i < MODES; i++)
            if (strcmp(optarg, mode_names[i]) == 0)
                options->mode = i;
        return options->mode >= 0 ? -1
                                  : cli_usage("--mode %s: must be spin, adaptive or sleep", optarg);
    case OPTION_TRIPS:
        return cli_count("--trips", optarg, 100, 1000000, &options->trips) ? -1 : CLI_USAGE;
    case OPTION_BLOCKS:
        return cli_count("--blocks", optarg, 1, 1000, &options->blocks) ? -1 : CLI_USAGE;
    case OPTION_UNPINNED:
        options->unpinned = true;
        return -1;
    case OPTION_JSON:
        options->json = true;
        return -1;
    case OPTION_HELP:
        fputs(usage, stdout);
        return 0;
    default:
        return CLI_USAGE;
    }
}

static int parse(struct bench_options *options, int argc, char **argv)
{
    int option;
    optind = 1;
    while ((option = cli_option("bench dispatch", argc, argv, ":", long_options)) != -1) {
        int status = option == CLI_BAD ? CLI_USAGE : parse_option(options, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc)
        return cli_usage("bench dispatch: \"%s\" is one argument too many", argv[optind]);
    return -1;
}

static int compare_ticks(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

/* One request of one id and one token; false after a message. */
static bool make_trip(struct bench *bench, uint64_t *ret_taken, uint64_t *ret_event,
                      uint64_t *ret_token)
{
    struct agl_request request = AGL_REQUEST_INIT;
    struct agl_event event = {0};
    uint32_t *place = NULL;
    uint32_t id = 0;
    request.model = bench->model;
    request.prompt_tokens = 1;
    request.max_tokens = 1;

    int err = agl_prompt(bench->client, 1, &place);
    if (err < 0)
        return cli_error("cannot place a prompt", err), false;
    *place = 1;
    uint64_t start_ns = agl_now_ns();
    uint64_t start = bench_ticks();
    err = agl_submit(bench->client, &request, &id);
    if (err < 0)
        return cli_error("cannot submit", err), false;
    for (bool first = true; event.kind != AGL_EVENT_DONE; first = false) {
        err = agl_wait(bench->client, &event, UINT64_MAX);
        uint64_t now = bench_ticks();
        if (err < 0)
            return cli_error("cannot wait for an event", err), false;
        if (first)
            *ret_event = now - start;
        if (event.kind == AGL_EVENT_ACCEPTED)
            *ret_taken = event.taken_ns > start_ns ? event.taken_ns - start_ns : 0;
        if (event.kind == AGL_EVENT_TOKENS)
            *ret_token = now - start;
    }
    if (event.reason != AGL_DONE_LENGTH && event.reason != AGL_DONE_STOP)
        return cli_fail("a request ended with %s: %s", agl_reason_name(event.reason),
                        agl_strerror(event.error)),
               false;
    return true;
}

static bool make_trips(struct bench *bench, struct series *series, uint64_t block)
{
    uint64_t at = block * bench->options.trips;
    for (uint64_t i = 0; i < bench->options.trips; i++, at++) {
        uint64_t taken_ns = 0;
        if (!make_trip(bench, &taken_ns, &series[FIRST_EVENT].ticks[at],
                       &series[FIRST_TOKEN].ticks[at]))
            return false;
        series[TAKEN].ticks[at] = (uint64_t)((double)taken_ns / bench->ns_per_tick);
    }
    return true;
}

static void sort_block(struct series *series, uint64_t block, uint64_t trips)
{
    qsort(series->ticks + block * trips, trips, sizeof *series->ticks, compare_ticks);
}

/* Of `count` sorted ticks, in ns. */
static double quantile(const struct bench *bench, const uint64_t *ticks, uint64_t count, double q)
{
    return (double)ticks[(uint64_t)((double)(count - 1) * q)] * bench->ns_per_tick;
}

/* The figures of one series; sorts all its samples, so its blocks are gone afterwards. */
static void summarise(struct bench *bench, struct series *series, const double *line_p50,
                      double *ret_block_p50)
{
    uint64_t trips = bench->options.trips;
    uint64_t blocks = bench->options.blocks;
    double *ratios = calloc(blocks, sizeof *ratios);
    for (uint64_t block = 0; ratios && block < blocks; block++) {
        double p50 = quantile(bench, series->ticks + block * trips, trips, 0.5);
        if (ret_block_p50)
            ret_block_p50[block] = p50;
        ratios[block] = p50 / (ret_block_p50 ? p50 : line_p50[block]);
    }
    if (ratios) {
        qsort(ratios, blocks, sizeof *ratios, compare_doubles);
        series->ratio = ratios[blocks / 2];
        free(ratios);
    }
    uint64_t count = trips * blocks;
    qsort(series->ticks, count, sizeof *series->ticks, compare_ticks);
    series->p50 = quantile(bench, series->ticks, count, 0.5);
    series->p99 = quantile(bench, series->ticks, count, 0.99);
    series->p999 = quantile(bench, series->ticks, count, 0.999);
    series->max = quantile(bench, series->ticks, count, 1);
}

static void print_row(const struct series *series)
{
    char name[48];
    snprintf(name, sizeof name, "%s%s%s", series->mode ? series->mode : "",
             series->mode ? ": " : "", series->name);
    printf("%-36s %10.3f %10.3f %10.3f %10.1f %8.2f\n", name, series->p50 / 1e3, series->p99 / 1e3,
           series->p999 / 1e3, series->max / 1e3, series->ratio);
}

static void add_row(cJSON *rows, const struct series *series)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "name", series->name);
    if (series->mode)
        cJSON_AddStringToObject(row, "mode", series->mode);
    cJSON_AddNumberToObject(row, "p50_ns", series->p50);
    cJSON_AddNumberToObject(row, "p99_ns", series->p99);
    cJSON_AddNumberToObject(row, "p999_ns", series->p999);
    cJSON_AddNumberToObject(row, "max_ns", series->max);
    cJSON_AddNumberToObject(row, "ratio_to_line", series->ratio);
    cJSON_AddItemToArray(rows, row);
}

static int connect_client(struct bench *bench, const char *socket_path)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = socket_path;
    options.wait_mode = bench->wait_mode;
    if (cli_connect(&bench->client, &options))
        return CLI_FAILED;
    int index = agl_model_find(bench->client, bench->options.model);
    if (index < 0)
        return cli_error("cannot choose the model", index);
    bench->model = (uint32_t)index;
    return 0;
}

/* Fills all series in alternating blocks. daemon may be NULL: it is not ours to hold. */
static int measure(struct bench *bench, const struct bench_daemon *daemon, struct series *series)
{
    uint32_t trips = (uint32_t)bench->options.trips;
    for (int i = 0; i < WARM_UP_TRIPS; i++) {
        uint64_t ignored[3];
        if (!make_trip(bench, &ignored[0], &ignored[1], &ignored[2]))
            return CLI_FAILED;
    }
    for (uint64_t block = 0; block < bench->options.blocks; block++) {
        if (daemon)
            bench_daemon_pause(daemon);
        exchange_line(bench->exchange, series[LINE].ticks + block * trips, trips);
        exchange_socket(bench->exchange, series[SOCKET].ticks + block * trips, trips);
        if (daemon)
            bench_daemon_resume(daemon);
        if (!make_trips(bench, series, block))
            return CLI_FAILED;
        for (int i = 0; i < SERIES; i++)
            sort_block(&series[i], block, trips);
    }
    return 0;
}

static int bench_mode(struct bench *bench, int mode, bool is_first, cJSON *rows)
{
    struct bench_daemon daemon;
    const char *socket_path = bench->options.socket_path;
    struct series series[SERIES] = {
        [LINE] = {.name = "raw cache-line exchange"},
        [SOCKET] = {.name = "Unix socket exchange"},
        [TAKEN] = {.name = "submit to taken"},
        [FIRST_EVENT] = {.name = "submit to first event"},
        [FIRST_TOKEN] = {.name = "submit to first token"},
    };
    double *line_p50 = calloc(bench->options.blocks, sizeof *line_p50);
    uint64_t *ticks = calloc(bench->options.blocks * bench->options.trips * SERIES, sizeof *ticks);
    int status = CLI_FAILED;
    if (!ticks || !line_p50) {
        cli_fail("not enough memory for the samples");
        goto free_samples;
    }
    for (int i = 0; i < SERIES; i++) {
        series[i].ticks = ticks + bench->options.blocks * bench->options.trips * (uint64_t)i;
        series[i].mode = i > SOCKET ? mode_names[mode] : NULL;
    }

    bench->wait_mode = mode_waits[mode];
    if (!socket_path &&
        bench_daemon_start(&daemon, bench->options.daemon, mode_names[mode], bench->processors[1]))
        goto free_samples;
    status = connect_client(bench, socket_path ? socket_path : daemon.socket_path);
    if (!status)
        status = measure(bench, socket_path ? NULL : &daemon, series);
    agl_close(bench->client);
    bench->client = NULL;
    if (!socket_path)
        bench_daemon_stop(&daemon);
    for (int i = 0; i < SERIES && !status; i++) {
        summarise(bench, &series[i], line_p50, i == LINE ? line_p50 : NULL);
        if (i <= SOCKET && !is_first)
            continue; /* shown once; the ratios use each mode's own */
        if (rows)
            add_row(rows, &series[i]);
        else
            print_row(&series[i]);
    }

free_samples:
    free(ticks);
    free(line_p50);
    return status;
}

/* Two processors that we may use: the first for us, the second for the other side. */
static int choose_processors(struct bench *bench)
{
    cpu_set_t allowed;
    int found = 0;
    bench->processors[0] = bench->processors[1] = -1;
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
        return cli_fail("cannot tell which processors are allowed: %s", strerror(errno));
    if (CPU_COUNT(&allowed) < 2)
        return cli_fail("bench dispatch needs two processors: with one, two spinning sides only "
                        "wait for each other's time slice");
    if (bench->options.unpinned)
        return 0;
    for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET((size_t)i, &allowed))
            bench->processors[found++] = i;
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET((size_t)bench->processors[0], &own);
    sched_setaffinity(0, sizeof own, &own);
    return 0;
}

static void print_heading(const struct bench *bench)
{
    printf("dispatch: %llu blocks of %llu round trips a row",
           (unsigned long long)bench->options.blocks, (unsigned long long)bench->options.trips);
    if (bench->processors[0] >= 0)
        printf(", processors %d and %d", bench->processors[0], bench->processors[1]);
    printf("\n%-36s %10s %10s %10s %10s %8s\n", "us", "p50", "p99", "p99.9", "max", "ratio");
}

static int bench_all(struct bench *bench)
{
    cJSON *root = bench->options.json ? cJSON_CreateObject() : NULL;
    cJSON *rows = root ? cJSON_AddArrayToObject(root, "rows") : NULL;
    if (!rows)
        print_heading(bench);
    int status = 0;
    bool is_first = true;
    for (int mode = 0; mode < MODES && !status; mode++) {
        if (bench->options.mode >= 0 && bench->options.mode != mode)
            continue;
        status = bench_mode(bench, mode, is_first, rows);
        fflush(stdout);
        is_first = false;
    }
    if (rows && !status) {
        char *text = cJSON_Print(root);
        if (text)
            puts(text);
        cJSON_free(text);
    }
    cJSON_Delete(root);
    return status;
}

int bench_dispatch_main(int argc, char **argv)
{
    struct bench bench = {.options = {.mode = -1, .trips = 2000, .blocks = 15}};
    int status = parse(&bench.options, argc, argv);
    if (status >= 0)
        return status;
    if (bench.options.socket_path && bench.options.mode < 0)
        bench.options.mode = 1; /* the daemon's mode is its own; ours is adaptive */
    status = choose_processors(&bench);
    if (status)
        return status;
    bench.ns_per_tick = bench_ns_per_tick();
    int err = exchange_open(&bench.exchange, bench.processors[1]);
    if (err < 0)
        return cli_fail("cannot start the other side: %s", strerror(-err));
    status = bench_all(&bench);
    exchange_close(bench.exchange);
    return status;
}
