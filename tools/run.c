/*
 * autoglm run: one prompt, one answer.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/answer.h"
#include "tools/bench_memory.h"
#include "tools/cli.h"
#include "tools/sampling.h"

static const char usage[] =
    "Usage: autoglm run [OPTIONS] [PROMPT]\n"
    "Sends one prompt and streams the answer. Without PROMPT, or with -, it is read from stdin.\n"
    "\n"
    "  --socket PATH      the daemon's socket ($AUTOGLM_SOCKET, /run/autoglm/autoglm.sock)\n"
    "  --model NAME       which model; default: the first\n"
    "  --system TEXT      a system message before the prompt\n"
    "  --raw              continue the text as it is, without the chat format\n"
    "  --ids 1,403,407    the prompt as token ids; needs no tokenizer with --output ids or json\n"
    "  --tokenizer PATH   a tokenizer file or model folder; default: the model's own\n"
    "  --output FORM      text (default), ids (separated by commas) or json\n" SAMPLING_USAGE
    "  --stats            afterwards, a table on stderr\n"
    "  --help             this text\n";

struct run_options {
    const char *socket_path;
    const char *model;
    const char *system;
    const char *ids;
    const char *tokenizer;
    enum answer_output output;
    bool raw;
    bool stats;
    struct sampling sampling;
    const char *prompt;
};

enum {
    OPTION_SOCKET = 256,
    OPTION_MODEL,
    OPTION_SYSTEM,
    OPTION_RAW,
    OPTION_IDS,
    OPTION_TOKENIZER,
    OPTION_OUTPUT,
    OPTION_STATS,
    OPTION_HELP
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"model", required_argument, NULL, OPTION_MODEL},
    {"system", required_argument, NULL, OPTION_SYSTEM},
    {"raw", no_argument, NULL, OPTION_RAW},
    {"ids", required_argument, NULL, OPTION_IDS},
    {"tokenizer", required_argument, NULL, OPTION_TOKENIZER},
    {"output", required_argument, NULL, OPTION_OUTPUT},
    {"stats", no_argument, NULL, OPTION_STATS},
    {"help", no_argument, NULL, OPTION_HELP},
    SAMPLING_OPTIONS,
    {NULL, 0, NULL, 0},
};

static bool parse_output(const char *text, enum answer_output *ret_output)
{
    static const char *const names[] = {
        [ANSWER_TEXT] = "text", [ANSWER_IDS] = "ids", [ANSWER_JSON] = "json"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_output = (enum answer_output)i;
            return true;
        }
    }
    cli_usage("--output %s: must be text, ids or json", text);
    return false;
}

/* -1: go on; else the exit status. */
static int parse_option(struct run_options *options, int option)
{
    switch (option) {
    case OPTION_SOCKET:
        options->socket_path = optarg;
        return -1;
    case OPTION_MODEL:
        options->model = optarg;
        return -1;
    case OPTION_SYSTEM:
        options->system = optarg;
        return -1;
    case OPTION_RAW:
        options->raw = true;
        return -1;
    case OPTION_IDS:
        options->ids = optarg;
        return -1;
    case OPTION_TOKENIZER:
        options->tokenizer = optarg;
        return -1;
    case OPTION_OUTPUT:
        return parse_output(optarg, &options->output) ? -1 : CLI_USAGE;
    case OPTION_STATS:
        options->stats = true;
        return -1;
    case OPTION_HELP:
        fputs(usage, stdout);
        return 0;
    default:
        return sampling_option(&options->sampling, option, optarg);
    }
}

static int parse(struct run_options *options, int argc, char **argv)
{
    int option;
    optind = 1;
    while ((option = cli_option("run", argc, argv, ":n:t:", long_options)) != -1) {
        int status = option == CLI_BAD ? CLI_USAGE : parse_option(options, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc)
        options->prompt = argv[optind++];
    if (optind < argc)
        return cli_usage("run: \"%s\" is one argument too many (quote the prompt)", argv[optind]);
    if (options->ids && (options->prompt || options->system))
        return cli_usage("run: --ids takes the place of PROMPT and --system");
    if (options->raw && options->system)
        return cli_usage("run: --system needs the chat format, which --raw leaves out");
    return -1;
}

/* Turns text into prompt ids; malloc'd. NULL after a message. */
static uint32_t *encode_prompt(const struct run_options *options,
                               const struct agl_tokenizer *tokenizer, const char *text,
                               size_t bytes, uint32_t *ret_count)
{
    struct agl_message messages[2];
    size_t message_count = 0;
    if (options->system)
        messages[message_count++] = (struct agl_message){"system", options->system};
    messages[message_count++] = (struct agl_message){"user", text};
    bool chat = !options->raw && agl_chat_format(tokenizer);
    if (options->system && !chat) {
        cli_fail("--system: no chat format is known for this tokenizer");
        return NULL;
    }

    uint32_t *ids = NULL;
    int capacity = 0;
    for (;;) {
        int count = chat ? agl_chat_encode(tokenizer, messages, message_count, AGL_CHAT_GENERATE,
                                           ids, (size_t)capacity)
                         : agl_encode(tokenizer, text, bytes, ids, (size_t)capacity);
        if (count < 0) {
            cli_error("cannot turn the prompt into tokens", count);
            free(ids);
            return NULL;
        }
        if (ids && count <= capacity) {
            *ret_count = (uint32_t)count;
            return ids;
        }
        free(ids);
        capacity = count ? count : 1;
        ids = malloc((size_t)capacity * sizeof *ids);
        if (!ids) {
            cli_fail("not enough memory for the prompt");
            return NULL;
        }
    }
}

static uint32_t *read_prompt(const struct run_options *options,
                             const struct agl_tokenizer *tokenizer, uint32_t *ret_count)
{
    if (options->ids)
        return cli_parse_ids(options->ids, ret_count);
    if (options->prompt && strcmp(options->prompt, "-") != 0)
        return encode_prompt(options, tokenizer, options->prompt, strlen(options->prompt),
                             ret_count);
    size_t bytes = 0;
    char *text = cli_read_stdin(&bytes);
    if (!text)
        return NULL;
    uint32_t *ids = encode_prompt(options, tokenizer, text, bytes, ret_count);
    free(text);
    return ids;
}

static int run(const struct run_options *options, struct agl_client *client,
               const struct agl_model *model, uint32_t model_index,
               const struct agl_tokenizer *tokenizer)
{
    uint32_t count = 0;
    uint32_t *ids = read_prompt(options, tokenizer, &count);
    if (!ids)
        return options->ids ? CLI_USAGE : CLI_FAILED;
    if (count == 0) {
        free(ids);
        return cli_fail("the prompt is empty");
    }

    struct agl_request request = AGL_REQUEST_INIT;
    request.model = model_index;
    sampling_apply(&options->sampling, &request);

    struct answer answer = {
        .client = client,
        .tokenizer = tokenizer,
        .output = options->output,
        .strip_newline = !options->ids && !options->raw && tokenizer && agl_chat_format(tokenizer),
    };
    double read_bytes_per_s = options->stats ? bench_memory_read_bandwidth() : 0;
    answer_catch_interrupt();
    int status = answer_stream(&answer, &request, ids, count);
    if (!status && options->stats)
        answer_print_stats(&answer, model, read_bytes_per_s);
    if (!status && answer.interrupted)
        status = CLI_INTERRUPTED;
    answer_free(&answer);
    free(ids);
    return status;
}

int run_main(int argc, char **argv)
{
    struct run_options options = {.sampling = SAMPLING_INIT};
    int status = parse(&options, argc, argv);
    if (status >= 0)
        return status;

    struct agl_options connect = AGL_OPTIONS_INIT;
    connect.socket_path = options.socket_path;
    connect.prompt_tokens = 1 << 17;
    struct agl_client *client = NULL;
    struct agl_tokenizer *tokenizer = NULL;
    struct agl_model model;
    status = cli_connect(&client, &connect);
    if (status)
        return status;
    int index = agl_model_find(client, options.model);
    if (index < 0) {
        status = cli_error("cannot choose the model", index);
        goto close;
    }
    agl_model(client, (uint32_t)index, &model);
    if (!options.ids || options.output == ANSWER_TEXT)
        status = cli_open_tokenizer(&tokenizer, options.tokenizer, &model);
    if (!status)
        status = run(&options, client, &model, (uint32_t)index, tokenizer);

close:
    agl_tokenizer_close(tokenizer);
    agl_close(client);
    return status;
}
