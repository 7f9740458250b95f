/*
 * autoglm chat: a conversation, line by line. The daemon keeps the sequence between the turns, so
 * each turn sends and computes its own tokens only.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/answer.h"
#include "tools/bench_memory.h"
#include "tools/cli.h"
#include "tools/sampling.h"

static const char usage[] =
    "Usage: autoglm chat [OPTIONS]\n"
    "Talks with the model, one line a turn. /new starts over, /quit or the end of input ends;\n"
    "Ctrl-C ends an answer.\n"
    "\n"
    "  --socket PATH      the daemon's socket ($AUTOGLM_SOCKET, /run/autoglm/autoglm.sock)\n"
    "  --model NAME       which model; default: the first\n"
    "  --system TEXT      a system message before the first turn\n"
    "  --tokenizer PATH   a tokenizer file or model folder; default: the model's "
    "own\n" SAMPLING_USAGE "  --stats            after each answer, a table on stderr\n"
    "  --help             this text\n";

enum {
    OPTION_SOCKET = 256,
    OPTION_MODEL,
    OPTION_SYSTEM,
    OPTION_TOKENIZER,
    OPTION_STATS,
    OPTION_HELP
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"model", required_argument, NULL, OPTION_MODEL},
    {"system", required_argument, NULL, OPTION_SYSTEM},
    {"tokenizer", required_argument, NULL, OPTION_TOKENIZER},
    {"stats", no_argument, NULL, OPTION_STATS},
    {"help", no_argument, NULL, OPTION_HELP},
    SAMPLING_OPTIONS,
    {NULL, 0, NULL, 0},
};

struct chat {
    const char *socket_path;
    const char *model_name;
    const char *system;
    const char *tokenizer_path;
    bool stats;
    bool is_terminal; /* someone sits there */
    struct sampling sampling;

    struct agl_client *client;
    struct agl_tokenizer *tokenizer;
    struct agl_model model;
    uint32_t model_index;
    double read_bytes_per_s;
    uint32_t last_request; /* whose sequence goes on; 0: a new conversation */
};

static int parse_option(struct chat *chat, int option)
{
    switch (option) {
    case OPTION_SOCKET:
        chat->socket_path = optarg;
        return -1;
    case OPTION_MODEL:
        chat->model_name = optarg;
        return -1;
    case OPTION_SYSTEM:
        chat->system = optarg;
        return -1;
    case OPTION_TOKENIZER:
        chat->tokenizer_path = optarg;
        return -1;
    case OPTION_STATS:
        chat->stats = true;
        return -1;
    case OPTION_HELP:
        fputs(usage, stdout);
        return 0;
    default:
        return sampling_option(&chat->sampling, option, optarg);
    }
}

static int parse(struct chat *chat, int argc, char **argv)
{
    int option;
    optind = 1;
    while ((option = cli_option("chat", argc, argv, ":n:t:", long_options)) != -1) {
        int status = option == CLI_BAD ? CLI_USAGE : parse_option(chat, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc)
        return cli_usage("chat: \"%s\": the turns come from standard input", argv[optind]);
    return -1;
}

/* Renders one turn into malloc'd ids; NULL after a message. */
static uint32_t *encode_turn(const struct chat *chat, const char *text, uint32_t *ret_count)
{
    struct agl_message messages[2];
    size_t message_count = 0;
    uint32_t flags = AGL_CHAT_GENERATE;
    if (chat->last_request)
        flags |= AGL_CHAT_CONTINUE;
    else if (chat->system)
        messages[message_count++] = (struct agl_message){"system", chat->system};
    messages[message_count++] = (struct agl_message){"user", text};

    int count = agl_chat_encode(chat->tokenizer, messages, message_count, flags, NULL, 0);
    uint32_t *ids = count < 0 ? NULL : malloc((size_t)count * sizeof *ids + 1);
    if (count < 0)
        cli_error("cannot turn the message into tokens", count);
    else if (!ids)
        cli_fail("not enough memory for the message");
    else
        *ret_count = (uint32_t)agl_chat_encode(chat->tokenizer, messages, message_count, flags, ids,
                                               (size_t)count);
    return ids;
}

static int take_turn(struct chat *chat, const char *text)
{
    uint32_t count = 0;
    uint32_t *ids = encode_turn(chat, text, &count);
    if (!ids)
        return CLI_FAILED;

    struct agl_request request = AGL_REQUEST_INIT;
    request.model = chat->model_index;
    request.continues = chat->last_request;
    request.flags = AGL_KEEP;
    sampling_apply(&chat->sampling, &request);
    struct answer answer = {
        .client = chat->client,
        .tokenizer = chat->tokenizer,
        .output = ANSWER_TEXT,
        .strip_newline = true,
    };
    answer_catch_interrupt();
    int status = answer_stream(&answer, &request, ids, count);
    free(ids);
    if (answer.done.reason && answer.done.reason != AGL_DONE_REFUSED &&
        answer.done.reason != AGL_DONE_FAILED)
        chat->last_request = answer.request;
    if (!status && chat->stats)
        answer_print_stats(&answer, &chat->model, chat->read_bytes_per_s);
    bool has_ended = answer.done.reason != 0;
    answer_free(&answer);
    if (status && has_ended && chat->is_terminal) {
        fputs("The conversation goes on; /new starts over.\n", stderr);
        return 0;
    }
    return status;
}

static void start_over(struct chat *chat)
{
    if (chat->last_request)
        agl_forget(chat->client, chat->last_request);
    chat->last_request = 0;
}

static int talk(struct chat *chat)
{
    chat->is_terminal = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t capacity = 0;
    int status = 0;
    while (!status) {
        if (chat->is_terminal)
            fputs("> ", stderr);
        errno = 0;
        ssize_t bytes = getline(&line, &capacity, stdin);
        if (bytes < 0 && errno == EINTR) { /* Ctrl-C at the prompt */
            clearerr(stdin);
            fputc('\n', stderr);
            break;
        }
        if (bytes < 0)
            break;
        if (bytes && line[bytes - 1] == '\n')
            line[bytes - 1] = 0;
        if (strcmp(line, "/quit") == 0)
            break;
        if (strcmp(line, "/new") == 0)
            start_over(chat);
        else if (line[0])
            status = take_turn(chat, line);
    }
    free(line);
    return status;
}

static int open_chat(struct chat *chat)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = chat->socket_path;
    options.prompt_tokens = 1 << 17;
    if (cli_connect(&chat->client, &options))
        return CLI_FAILED;
    int index = agl_model_find(chat->client, chat->model_name);
    if (index < 0)
        return cli_error("cannot choose the model", index);
    chat->model_index = (uint32_t)index;
    agl_model(chat->client, chat->model_index, &chat->model);
    if (cli_open_tokenizer(&chat->tokenizer, chat->tokenizer_path, &chat->model))
        return CLI_FAILED;
    if (!agl_chat_format(chat->tokenizer))
        return cli_fail(
            "model %s: no chat format is known for its tokenizer; try autoglm run --raw",
            chat->model.name);
    return 0;
}

int chat_main(int argc, char **argv)
{
    struct chat chat = {.sampling = SAMPLING_INIT};
    int status = parse(&chat, argc, argv);
    if (status >= 0)
        return status;
    status = open_chat(&chat);
    if (!status) {
        if (chat.stats)
            chat.read_bytes_per_s = bench_memory_read_bandwidth();
        answer_catch_interrupt();
        status = talk(&chat);
    }
    agl_tokenizer_close(chat.tokenizer);
    agl_close(chat.client);
    return status;
}
