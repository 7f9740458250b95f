#include "tools/bench_dispatch_options.h"

#include <getopt.h>
#include <stdio.h>

#include "tools/cli.h"

static const char usage[] =
    "Usage: autoglm bench dispatch [OPTIONS]\n"
    "Measures the round trip from submitting a request to seeing its first event, and its parts,\n"
    "with an echo model and with the bundled one; and in the same run, on the same two "
    "processors,\n"
    "the bare exchange of a cache line, futex, eventfd, pipe, Unix sockets and HTTP over "
    "loopback.\n"
    "Ratios are to the bare exchange, in the way of spinning that is faster here.\n"
    "\n"
    "  --mode LIST          ways of waiting: spin, adaptive, sleep; default: all\n"
    "  --sessions LIST      sessions that are asked in turn, one request in flight in all\n"
    "  --idle LIST          silent sessions beside them\n"
    "  --prompt LIST        tokens of a prompt\n"
    "                       With any of these three, every combination is measured, and what is "
    "not\n"
    "                       given is 1, 0, 1. Without: 1, 8 and 64 sessions, 0 and 1000 idle "
    "ones,\n"
    "                       prompts of 1, 128 and 4096 tokens, one of them changed at a time.\n"
    "  --full               every combination of those, pinned and not\n"
    "  --pinned             on two processors of their own; the default without --socket\n"
    "  --unpinned           leave it to the kernel; with --pinned: both\n"
    "  --processors A,B     the client's and the other side's; default: the first two allowed\n"
    "  --folder PATH        the real model; default: the bundled one; none: leave it out\n"
    "  --trips N            round trips a block; default 2000. A fourth of it where somebody "
    "sleeps,\n"
    "                       a twentieth with the real model\n"
    "  --blocks N           blocks, in which everything takes turns; default 15\n"
    "  --histogram          a histogram of each row as well\n"
    "  --json               as JSON\n"
    "  --daemon PATH        the autoglmd to start; default: the one of this installation\n"
    "  --socket PATH        measure the daemon there instead, in its own way of waiting and where "
    "it\n"
    "                       runs; --mode is ours then, default adaptive. One number of sessions "
    "and\n"
    "                       one of idle ones; what is not given is 1, 0, 1\n"
    "  --model NAME         with --socket: which model; default: the first\n"
    "  --help               this text\n";

enum {
    OPTION_MODE = 256,
    OPTION_SESSIONS,
    OPTION_IDLE,
    OPTION_PROMPT,
    OPTION_FULL,
    OPTION_PINNED,
    OPTION_UNPINNED,
    OPTION_PROCESSORS,
    OPTION_FOLDER,
    OPTION_TRIPS,
    OPTION_BLOCKS,
    OPTION_HISTOGRAM,
    OPTION_JSON,
    OPTION_DAEMON,
    OPTION_SOCKET,
    OPTION_MODEL,
    OPTION_HELP
};

static const struct option long_options[] = {
    {"mode", required_argument, NULL, OPTION_MODE},
    {"sessions", required_argument, NULL, OPTION_SESSIONS},
    {"idle", required_argument, NULL, OPTION_IDLE},
    {"prompt", required_argument, NULL, OPTION_PROMPT},
    {"full", no_argument, NULL, OPTION_FULL},
    {"pinned", no_argument, NULL, OPTION_PINNED},
    {"unpinned", no_argument, NULL, OPTION_UNPINNED},
    {"processors", required_argument, NULL, OPTION_PROCESSORS},
    {"folder", required_argument, NULL, OPTION_FOLDER},
    {"trips", required_argument, NULL, OPTION_TRIPS},
    {"blocks", required_argument, NULL, OPTION_BLOCKS},
    {"histogram", no_argument, NULL, OPTION_HISTOGRAM},
    {"json", no_argument, NULL, OPTION_JSON},
    {"daemon", required_argument, NULL, OPTION_DAEMON},
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"model", required_argument, NULL, OPTION_MODEL},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

enum {
    TRIPS_MOST = 1000000,
    BLOCKS_MOST = 10000,
    SAMPLES_MOST = 2000000, /* of a row: 16 MB */
    PROCESSORS_MOST = 1023,
};

/* Those with a list or a number. -1 or an exit status. */
static int read_list(const char *name, uint32_t least, uint32_t most, struct bench_list *ret_list)
{
    return bench_list_read(name, optarg, least, most, ret_list) ? -1 : CLI_USAGE;
}

static int read_count(const char *name, uint32_t least, uint32_t most, uint32_t *ret_value)
{
    uint64_t value;
    if (!cli_count(name, optarg, least, most, &value))
        return CLI_USAGE;
    *ret_value = (uint32_t)value;
    return -1;
}

static int read_processors(struct bench_options *options)
{
    struct bench_list list;
    if (!bench_list_parse(optarg, 0, PROCESSORS_MOST, &list) || list.count != 2)
        return cli_usage("--processors %s: must be two different numbers, such as 0,1", optarg);
    options->processors[0] = (int)list.values[0];
    options->processors[1] = (int)list.values[1];
    return -1;
}

static int read_value(struct bench_options *options, int option)
{
    switch (option) {
    case OPTION_MODE:
        return bench_parse_modes(optarg, options->modes)
                   ? -1
                   : cli_usage("--mode %s: must be spin, adaptive or sleep, or a list of them",
                               optarg);
    case OPTION_SESSIONS:
        return read_list("--sessions", 1, BENCH_SESSIONS_MAX, &options->sessions);
    case OPTION_IDLE:
        return read_list("--idle", 0, BENCH_IDLE_MAX, &options->idle);
    case OPTION_PROMPT:
        return read_list("--prompt", 1, BENCH_PROMPT_MAX, &options->prompts);
    case OPTION_PROCESSORS:
        return read_processors(options);
    case OPTION_TRIPS:
        return read_count("--trips", BENCH_TRIPS_LEAST, TRIPS_MOST, &options->trips);
    case OPTION_BLOCKS:
        return read_count("--blocks", 1, BLOCKS_MOST, &options->blocks);
    case OPTION_FOLDER:
        options->folder = optarg;
        return -1;
    case OPTION_DAEMON:
        options->daemon = optarg;
        return -1;
    case OPTION_SOCKET:
        options->socket_path = optarg;
        return -1;
    case OPTION_MODEL:
        options->model = optarg;
        return -1;
    default:
        return CLI_USAGE;
    }
}

static int read_option(struct bench_options *options, int option)
{
    switch (option) {
    case OPTION_FULL:
        options->is_full = true;
        return -1;
    case OPTION_PINNED:
        options->pinning |= BENCH_PINNED;
        return -1;
    case OPTION_UNPINNED:
        options->pinning |= BENCH_UNPINNED;
        return -1;
    case OPTION_HISTOGRAM:
        options->shows_histogram = true;
        return -1;
    case OPTION_JSON:
        options->is_json = true;
        return -1;
    case OPTION_HELP:
        fputs(usage, stdout);
        return 0;
    default:
        return read_value(options, option);
    }
}

/* ---- what makes sense together --------------------------------------------------------------- */

static int count_modes(const struct bench_options *options)
{
    int count = 0;
    for (int mode = 0; mode < BENCH_MODES; mode++)
        count += options->modes[mode];
    return count;
}

/* A daemon that is not ours is one set-up: it cannot be held while another one is measured. */
static int check_foreign(struct bench_options *options)
{
    if (options->is_full)
        return cli_usage("--full needs daemons of its own, so no --socket");
    if (options->daemon || options->folder)
        return cli_usage("%s is for daemons that are started here, so not with --socket",
                         options->daemon ? "--daemon" : "--folder");
    if (count_modes(options) > 1 || options->sessions.count > 1 || options->idle.count > 1)
        return cli_usage("with --socket, one of --mode, --sessions and --idle each: the daemon is "
                         "one set-up");
    if (count_modes(options) == 0)
        options->modes[BENCH_ADAPTIVE] = true;
    /* Whoever is awake draws the daemon near: a client that stays where it is may end up on the
     * daemon's processor, and both wait for each other's time slice. */
    if (!options->pinning && options->processors[0] < 0)
        options->pinning = BENCH_UNPINNED;
    /* Given lists: so no usual values, of which it is a thousand sessions. */
    if (!options->sessions.count)
        options->sessions = (struct bench_list){1, {1}};
    if (!options->idle.count)
        options->idle = (struct bench_list){1, {0}};
    return -1;
}

static int check_together(struct bench_options *options)
{
    if ((uint64_t)options->trips * options->blocks > SAMPLES_MOST)
        return cli_usage("--trips %u --blocks %u: at most %d round trips in all", options->trips,
                         options->blocks, SAMPLES_MOST);
    if (options->model && !options->socket_path)
        return cli_usage("--model names a model of the daemon at --socket, which is missing; "
                         "--folder is for daemons that are started here");
    if (options->socket_path && check_foreign(options) >= 0)
        return CLI_USAGE;
    if (count_modes(options) == 0)
        options->modes[BENCH_SPIN] = options->modes[BENCH_ADAPTIVE] = options->modes[BENCH_SLEEP] =
            true;
    if (!options->pinning)
        options->pinning = options->is_full ? BENCH_PINNED | BENCH_UNPINNED : BENCH_PINNED;
    return -1;
}

int bench_dispatch_parse(struct bench_options *ret_options, int argc, char **argv)
{
    struct bench_options options = {.processors = {-1, -1}, .trips = 2000, .blocks = 15};
    int option;
    optind = 1;
    while ((option = cli_option("bench dispatch", argc, argv, ":", long_options)) != -1) {
        int status = option == CLI_BAD ? CLI_USAGE : read_option(&options, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc)
        return cli_usage("bench dispatch: \"%s\" is one argument too many", argv[optind]);
    int status = check_together(&options);
    if (status < 0)
        *ret_options = options;
    return status;
}
