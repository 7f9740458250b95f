/*
 * autoglm tokenize: text to token ids and back. Needs no daemon.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "tools/cli.h"

static const char usage[] =
    "Usage: autoglm tokenize --tokenizer PATH [--chat [--format NAME] | --decode]\n"
    "Reads a text on standard input and prints its token ids as a JSON array.\n"
    "\n"
    "  --tokenizer PATH   a tokenizer.json, a tokenizer.model, a GGUF file, or a model folder\n"
    "  --chat             standard input is a JSON array of {\"role\", \"content\"}: prints the "
    "ids\n"
    "                     of the rendered prompt, which ends with the header of the answer\n"
    "  --format NAME      the chat format, instead of the one found in the model's files:\n"
    "                     glm4, glm4-0414, glm-z1, glm-edge or chatml\n"
    "  --decode           standard input is a JSON array of ids: prints the text, nothing added\n"
    "  --socket PATH      taken by every command; has no meaning here\n"
    "  --help             this text\n";

struct tokenize_options {
    const char *tokenizer;
    const char *format;
    bool chat;
    bool decode;
};

enum {
    OPTION_TOKENIZER = 256,
    OPTION_CHAT,
    OPTION_FORMAT,
    OPTION_DECODE,
    OPTION_SOCKET,
    OPTION_HELP
};

static const struct option long_options[] = {
    {"tokenizer", required_argument, NULL, OPTION_TOKENIZER},
    {"chat", no_argument, NULL, OPTION_CHAT},
    {"format", required_argument, NULL, OPTION_FORMAT},
    {"decode", no_argument, NULL, OPTION_DECODE},
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

/* -1: go on; else the exit status. */
static int parse_option(struct tokenize_options *options, int option)
{
    switch (option) {
    case OPTION_TOKENIZER:
        options->tokenizer = optarg;
        break;
    case OPTION_CHAT:
        options->chat = true;
        break;
    case OPTION_FORMAT:
        options->format = optarg;
        break;
    case OPTION_DECODE:
        options->decode = true;
        break;
    case OPTION_HELP:
        fputs(usage, stdout);
        return 0;
    default:
        break;
    }
    return -1;
}

static int parse(struct tokenize_options *options, int argc, char **argv)
{
    int option;
    optind = 1;
    while ((option = cli_option("tokenize", argc, argv, ":", long_options)) != -1) {
        int status = option == CLI_BAD ? CLI_USAGE : parse_option(options, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc)
        return cli_usage("tokenize: unexpected \"%s\" (the text comes on standard input)",
                         argv[optind]);
    if (!options->tokenizer)
        return cli_usage("tokenize: --tokenizer PATH is missing");
    if (options->chat && options->decode)
        return cli_usage("tokenize: --chat and --decode exclude each other");
    if (options->format && !options->chat)
        return cli_usage("tokenize: --format goes with --chat");
    return -1;
}

/* ---- standard input as JSON ------------------------------------------------------------------ */

/* True if the JSON text holds a NUL, which C strings and so messages cannot. */
static bool holds_nul(const char *text, size_t bytes)
{
    if (memchr(text, 0, bytes))
        return true;
    for (const char *at = text; (at = strchr(at, '\\')) && at[1]; at += 2)
        if (strncmp(at, "\\u0000", 6) == 0)
            return true;
    return false;
}

/* Reads standard input as one JSON array; NULL after a message. */
static cJSON *read_array(const char *of_what)
{
    size_t bytes = 0;
    char *text = cli_read_stdin(&bytes);
    if (!text)
        return NULL;
    cJSON *array = NULL;
    const char *end = text;
    if (holds_nul(text, bytes)) {
        cli_fail("standard input: a NUL in the JSON text");
    } else {
        array = cJSON_ParseWithLengthOpts(text, bytes, &end, false);
        if (array && end[strspn(end, " \t\r\n")] != 0) {
            cJSON_Delete(array);
            array = NULL;
        }
        if (!array)
            cli_fail("standard input: not JSON, wrong at byte %zu", (size_t)(end - text));
        else if (!cJSON_IsArray(array))
            cli_fail("standard input: must be a JSON array of %s", of_what);
    }
    free(text);
    if (array && !cJSON_IsArray(array)) {
        cJSON_Delete(array);
        return NULL;
    }
    return array;
}

/* Points messages [size of array] at the array's roles and contents; false after a message. */
static bool fill_messages(const cJSON *array, struct agl_message *ret_messages)
{
    const cJSON *item = NULL;
    size_t index = 0;
    cJSON_ArrayForEach(item, array)
    {
        const cJSON *role = cJSON_GetObjectItemCaseSensitive(item, "role");
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(item, "content");
        if (!cJSON_IsString(role) || !cJSON_IsString(content)) {
            cli_fail("standard input: message %zu has no role or content of type string", index);
            return false;
        }
        ret_messages[index++] =
            (struct agl_message){.role = role->valuestring, .content = content->valuestring};
    }
    return true;
}

static bool fill_ids(const cJSON *array, uint32_t *ret_ids)
{
    const cJSON *item = NULL;
    size_t index = 0;
    cJSON_ArrayForEach(item, array)
    {
        double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(value >= 0 && value <= UINT32_MAX) || (double)(uint32_t)value != value) {
            cli_fail("standard input: element %zu is not an id", index);
            return false;
        }
        ret_ids[index++] = (uint32_t)value;
    }
    return true;
}

/* ---- the three commands ---------------------------------------------------------------------- */

static int print_ids(const uint32_t *ids, int count)
{
    putchar('[');
    for (int i = 0; i < count; i++)
        printf("%s%u", i > 0 ? "," : "", ids[i]);
    puts("]");
    return cli_finish(0);
}

static int encode(const struct agl_tokenizer *tokenizer)
{
    size_t bytes = 0;
    char *text = cli_read_stdin(&bytes);
    if (!text)
        return CLI_FAILED;
    /* A text has at most three ids for each byte, where normalisation spreads it; nearly always it
     * has no more ids than bytes. */
    uint32_t *ids = malloc((bytes + 1) * sizeof *ids);
    int count = ids ? agl_encode(tokenizer, text, bytes, ids, bytes) : -ENOMEM;
    if (count > 0 && (size_t)count > bytes) {
        free(ids);
        ids = malloc((size_t)count * sizeof *ids);
        count = ids ? agl_encode(tokenizer, text, bytes, ids, (size_t)count) : -ENOMEM;
    }
    int status = count < 0 ? cli_error("cannot encode the text", count) : print_ids(ids, count);
    free(ids);
    free(text);
    return status;
}

static int print_prompt(const struct agl_tokenizer *tokenizer, const struct agl_message *messages,
                        size_t message_count)
{
    uint32_t *ids = NULL;
    int count = agl_chat_encode(tokenizer, messages, message_count, AGL_CHAT_GENERATE, NULL, 0);
    if (count < 0)
        return cli_error("cannot render the messages", count);
    ids = malloc(((size_t)count + 1) * sizeof *ids);
    if (!ids)
        return cli_fail("no memory for %d ids", count);
    count =
        agl_chat_encode(tokenizer, messages, message_count, AGL_CHAT_GENERATE, ids, (size_t)count);
    int status = count < 0 ? cli_error("cannot render the messages", count) : print_ids(ids, count);
    free(ids);
    return status;
}

static int render(struct agl_tokenizer *tokenizer, const char *format)
{
    int err = format ? agl_chat_set_format(tokenizer, format) : 0;
    if (err < 0)
        return cli_error("cannot use the chat format", err);
    cJSON *array = read_array("messages");
    if (!array)
        return CLI_FAILED;
    size_t count = (size_t)cJSON_GetArraySize(array);
    struct agl_message *messages = calloc(count + 1, sizeof *messages);
    int status = CLI_FAILED;
    if (!messages)
        status = cli_fail("no memory for %zu messages", count);
    else if (fill_messages(array, messages))
        status = print_prompt(tokenizer, messages, count);
    free(messages);
    cJSON_Delete(array);
    return status;
}

static int print_text(const struct agl_tokenizer *tokenizer, const uint32_t *ids, size_t count)
{
    int bytes = agl_decode(tokenizer, ids, count, NULL, 0);
    if (bytes < 0)
        return cli_error("cannot decode the ids", bytes);
    char *text = malloc((size_t)bytes + 1);
    if (!text)
        return cli_fail("no memory for a text of %d bytes", bytes);
    bytes = agl_decode(tokenizer, ids, count, text, (size_t)bytes);
    int status = bytes < 0 ? cli_error("cannot decode the ids", bytes) : 0;
    if (status == 0) {
        fwrite(text, 1, (size_t)bytes, stdout);
        status = cli_finish(0);
    }
    free(text);
    return status;
}

static int decode(const struct agl_tokenizer *tokenizer)
{
    cJSON *array = read_array("ids");
    if (!array)
        return CLI_FAILED;
    size_t count = (size_t)cJSON_GetArraySize(array);
    uint32_t *ids = calloc(count + 1, sizeof *ids);
    int status = CLI_FAILED;
    if (!ids)
        status = cli_fail("no memory for %zu ids", count);
    else if (fill_ids(array, ids))
        status = print_text(tokenizer, ids, count);
    free(ids);
    cJSON_Delete(array);
    return status;
}

int tokenize_main(int argc, char **argv)
{
    struct tokenize_options options = {0};
    int status = parse(&options, argc, argv);
    if (status >= 0)
        return status;
    struct agl_tokenizer *tokenizer = NULL;
    int err = agl_tokenizer_open(&tokenizer, options.tokenizer);
    if (err < 0)
        return cli_error("cannot open the tokenizer", err);
    if (options.chat)
        status = render(tokenizer, options.format);
    else if (options.decode)
        status = decode(tokenizer);
    else
        status = encode(tokenizer);
    agl_tokenizer_close(tokenizer);
    return status;
}
