#include "tools/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MESSAGE_BYTES = 2048 };

int cli_fail(const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fflush(stdout);
    fprintf(stderr, "autoglm: %s\n", text);
    return CLI_FAILED;
}

int cli_usage(const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "autoglm: %s\nTry 'autoglm --help' or 'autoglm COMMAND --help'.\n", text);
    return CLI_USAGE;
}

int cli_error(const char *doing, int error)
{
    const char *detail = agl_error_detail();
    if (*detail && strcasecmp(detail, agl_strerror(error)) != 0)
        return cli_fail("%s: %s: %s", doing, agl_strerror(error), detail);
    return cli_fail("%s: %s", doing, agl_strerror(error));
}

int cli_move_socket(int argc, char **argv)
{
    int words = 0;
    if (argc >= 2 && strcmp(argv[1], "--socket") == 0)
        words = 2;
    else if (argc >= 2 && strncmp(argv[1], "--socket=", strlen("--socket=")) == 0)
        words = 1;
    if (words && argc < words + 2)
        return cli_usage("%s: a path and a command must follow", argv[1]);
    char *word = argv[1 + words];
    if (words)
        memmove(argv + 2, argv + 1, (size_t)words * sizeof *argv);
    if (words)
        argv[1] = word;
    return 0;
}

int cli_finish(int status)
{
    int err = fflush(stdout) != 0 ? errno : 0;
    if (status == 0 && (err || ferror(stdout)))
        return cli_fail("cannot write to standard output%s%s", err ? ": " : "",
                        err ? strerror(err) : "");
    return status;
}

bool cli_number(const char *option, const char *text, double least, double most, double *ret_value)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < least || value > most) {
        cli_usage("%s %s: must be a number from %g to %g", option, text, least, most);
        return false;
    }
    *ret_value = value;
    return true;
}

bool cli_count(const char *option, const char *text, uint64_t least, uint64_t most,
               uint64_t *ret_value)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value < least || value > most) {
        cli_usage("%s %s: must be a whole number from %llu to %llu", option, text,
                  (unsigned long long)least, (unsigned long long)most);
        return false;
    }
    *ret_value = value;
    return true;
}

int cli_word(const char *option, const char *text, const char *const *words)
{
    char all[256] = "";
    size_t used = 0;
    for (int i = 0; words[i]; i++) {
        const char *between = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        if (strcmp(text, words[i]) == 0)
            return i;
        if (used < sizeof all)
            used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", between, words[i]);
    }
    cli_usage("%s %s: must be %s", option, text, all);
    return -1;
}

int cli_option(const char *command, int argc, char **argv, const char *letters,
               const struct option *options)
{
    opterr = 0;
    int option = getopt_long(argc, argv, letters, options, NULL);
    if (option != '?' && option != ':')
        return option;
    const char *wrong = option == ':' ? "needs a value" : "is not an option";
    if (option == '?' && optopt > UINT8_MAX)
        cli_usage("%s: %s takes no value", command, argv[optind - 1]);
    else if (option == '?' && optopt) /* a letter, maybe amid others in one word */
        cli_usage("%s: -%c %s", command, optopt, wrong);
    else
        cli_usage("%s: %s %s", command, argv[optind - 1], wrong);
    return CLI_BAD;
}

/* All of a stream, whose name is for the messages. */
static char *read_stream(FILE *stream, const char *name, size_t *ret_bytes)
{
    size_t bytes = 0;
    size_t capacity = 1 << 16;
    char *text = malloc(capacity);
    while (text) {
        bytes += fread(text + bytes, 1, capacity - 1 - bytes, stream);
        if (bytes < capacity - 1)
            break;
        char *larger = realloc(text, capacity * 2);
        if (!larger)
            free(text);
        text = larger;
        capacity *= 2;
    }
    if (!text) {
        cli_fail("%s does not fit into memory", name);
        return NULL;
    }
    if (ferror(stream)) {
        cli_fail("cannot read %s: %s", name, strerror(errno));
        free(text);
        return NULL;
    }
    text[bytes] = 0;
    *ret_bytes = bytes;
    return text;
}

char *cli_read_stdin(size_t *ret_bytes)
{
    return read_stream(stdin, "standard input", ret_bytes);
}

char *cli_read_file(const char *path, size_t *ret_bytes)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        cli_fail("%s: %s", path, strerror(errno));
        return NULL;
    }
    char *text = read_stream(file, path, ret_bytes);
    fclose(file);
    return text;
}

uint32_t *cli_parse_ids(const char *text, uint32_t *ret_count)
{
    uint32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof *ids);
    if (!ids) {
        cli_fail("not enough memory for the ids");
        return NULL;
    }
    uint32_t count = 0;
    for (const char *at = text; *at;) {
        char *end = NULL;
        unsigned long long id = *at >= '0' && *at <= '9' ? strtoull(at, &end, 10) : UINT64_MAX;
        if (id > UINT32_MAX || (*end != ',' && *end != 0) || (*end == ',' && end[1] == 0)) {
            cli_usage("--ids: \"%.20s\" is not a list of ids such as 1,403,407", at);
            free(ids);
            return NULL;
        }
        ids[count++] = (uint32_t)id;
        at = *end ? end + 1 : end;
    }
    *ret_count = count;
    return ids;
}

int cli_connect(struct agl_client **ret_client, const struct agl_options *options)
{
    int err = agl_connect(ret_client, options);
    if (err == -ENOENT || err == -ECONNREFUSED)
        return cli_fail("%s; does autoglmd run, and is this its --socket?", agl_error_detail());
    return err < 0 ? cli_error("cannot connect", err) : 0;
}

int cli_open_tokenizer(struct agl_tokenizer **ret_tokenizer, const char *path,
                       const struct agl_model *model)
{
    if (!path && !model->folder[0])
        return cli_fail("model %s has no files and so no tokenizer: use --ids, or name one with "
                        "--tokenizer PATH",
                        model->name);
    int err = agl_tokenizer_open(ret_tokenizer, path ? path : model->folder);
    return err < 0 ? cli_error("cannot open the tokenizer", err) : 0;
}
