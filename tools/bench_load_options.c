#include "tools/bench_load_options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench_limits.h"
#include "tools/bench_machine.h"
#include "tools/cli.h"

/* Shapes and types are named by the table's own names. */
static const char engine_usage[] =
    "Usage: autoglm bench engine [OPTIONS]\n"
    "Measures the model's arithmetic alone, in this process: decoding at several batches and "
    "contexts,\n"
    "and prompts; and in the same rounds how fast this machine reads memory and multiplies. Each "
    "row\n"
    "is told as a share of both.\n"
    "\n"
    "  --model PATH         a model's folder or GGUF file\n"
    "  --shape NAME         the shape of a model, with random weights; default edge-1.5b. Others:\n"
    "                       %s\n"
    "  --quant TYPE         of the random weights; default q8. Types:\n"
    "                       %s\n"
    "  --head TYPE          of the output head's, which may be the embedding; default: as the "
    "others\n"
    "  --batch LIST         sequences decoded at once; default 1,2,4,8,16; 0: none\n"
    "  --context LIST       tokens before them; default 0,1024,4096\n"
    "  --prompt LIST        tokens of a prompt; default 128,512; 0: none\n";

static const char kernels_usage[] =
    "Usage: autoglm bench kernels [OPTIONS]\n"
    "Measures each operation of a backend alone, at the shapes of a model, in this process; and in "
    "the\n"
    "same rounds how fast this machine reads memory and multiplies. Each row is told as a share "
    "of\n"
    "both; what stays in a cache may go beyond the first.\n"
    "\n"
    "  --shape NAME         the model's shape; default edge-1.5b. Others:\n"
    "                       %s\n"
    "  --quant LIST         types of the matrices; default: all:\n"
    "                       %s\n"
    "  --rows LIST          rows of activations; default 1,2,4,8,16,64,512\n"
    "  --context LIST       of attention: tokens before them; default 0,1024,4096\n";

static const char common_usage[] =
    "  --cache TYPE         of keys and values: f16, the default, or f32\n"
    "  --threads LIST       threads, one number after the other; default: the processors allowed\n"
    "  --isa NAME           instructions: plain, avx2, avx512, avx512vnni, amx; default: the best\n"
    "  --rounds N           rounds, in which everything takes turns; default 5\n"
    "  --ms N               milliseconds of a row in a round, once at least; default %u\n"
    "  --buffer MIB         memory that is read to learn how fast it is; default: 1024, or four "
    "times\n"
    "                       the last cache\n"
    "  --json               as JSON\n"
    "  --help               this text\n";

enum {
    OPTION_MODEL = 256,
    OPTION_SHAPE,
    OPTION_QUANT,
    OPTION_HEAD,
    OPTION_BATCH,
    OPTION_CONTEXT,
    OPTION_PROMPT,
    OPTION_ROWS,
    OPTION_CACHE,
    OPTION_THREADS,
    OPTION_ISA,
    OPTION_ROUNDS,
    OPTION_MS,
    OPTION_BUFFER,
    OPTION_JSON,
    OPTION_HELP
};

#define COMMON_OPTIONS                                                                      \
    {"shape", required_argument, NULL, OPTION_SHAPE},                                       \
        {"quant", required_argument, NULL, OPTION_QUANT},                                   \
        {"context", required_argument, NULL, OPTION_CONTEXT},                               \
        {"cache", required_argument, NULL, OPTION_CACHE},                                   \
        {"threads", required_argument, NULL, OPTION_THREADS},                               \
        {"isa", required_argument, NULL, OPTION_ISA},                                       \
        {"rounds", required_argument, NULL, OPTION_ROUNDS},                                 \
        {"ms", required_argument, NULL, OPTION_MS},                                         \
        {"buffer", required_argument, NULL, OPTION_BUFFER},                                 \
        {"json", no_argument, NULL, OPTION_JSON}, {"help", no_argument, NULL, OPTION_HELP}, \
    {                                                                                       \
        NULL, 0, NULL, 0                                                                    \
    }

static const struct option engine_options[] = {{"model", required_argument, NULL, OPTION_MODEL},
                                               {"head", required_argument, NULL, OPTION_HEAD},
                                               {"batch", required_argument, NULL, OPTION_BATCH},
                                               {"prompt", required_argument, NULL, OPTION_PROMPT},
                                               COMMON_OPTIONS};
static const struct option kernels_options[] = {{"rows", required_argument, NULL, OPTION_ROWS},
                                                COMMON_OPTIONS};

enum {
    THREADS_MOST = 1024,
    BATCH_MOST = 1024,
    ROWS_MOST = 65536,
    CONTEXT_MOST = MODEL_CONTEXT_MAX - ROWS_MOST,
    ROUNDS_MOST = 1000,
    MS_MOST = 60000,
    ENGINE_MS = 250,
    KERNELS_MS = 50,
    BUFFER_MOST_MIB = 1 << 20,
    NAMES_BYTES = 256,
};

struct parser {
    enum load_command command;
    struct load_options options;
    bool has_type, has_head;
};

/* ---- help ------------------------------------------------------------------------------------ */

static const char *type_names(char text[NAMES_BYTES])
{
    size_t used = 0;
    for (int type = 0; type < SHAPE_TYPES && used < NAMES_BYTES; type++)
        used += (size_t)snprintf(text + used, NAMES_BYTES - used, "%s%s", type ? ", " : "",
                                 tensor_type_name((enum tensor_type)type));
    return text;
}

static void print_help(enum load_command command)
{
    char shapes[NAMES_BYTES], types[NAMES_BYTES];
    shape_names(shapes, sizeof shapes);
    type_names(types);
    if (command == LOAD_ENGINE)
        printf(engine_usage, shapes, types);
    else
        printf(kernels_usage, shapes, types);
    printf(common_usage, command == LOAD_ENGINE ? ENGINE_MS : KERNELS_MS);
}

/* ---- values ---------------------------------------------------------------------------------- */

static int read_shape(struct parser *parser, const char *name)
{
    char names[NAMES_BYTES];
    if (!shape_find(name, &parser->options.config))
        return cli_usage("--shape %s: must be one of %s", name, shape_names(names, sizeof names));
    parser->options.shape = name;
    return -1;
}

static int refuse_type(const char *option, const char *text)
{
    char names[NAMES_BYTES];
    return cli_usage("%s %s: must be one of %s", option, text, type_names(names));
}

static bool has_type(const struct load_options *options, enum tensor_type type)
{
    for (uint32_t i = 0; i < options->type_count; i++)
        if (options->types[i] == type)
            return true;
    return false;
}

/* One type of the engine, a list of the kernels. */
static int read_types(struct parser *parser, const char *text)
{
    struct load_options *options = &parser->options;
    char word[32];
    options->type_count = 0;
    for (const char *next = text;; next++) {
        size_t length = strcspn(next, ",");
        enum tensor_type type;
        snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : 0), next);
        if (!shape_type_find(word, &type))
            return refuse_type("--quant", text);
        if (!has_type(options, type))
            options->types[options->type_count++] = type;
        next += length;
        if (!*next)
            break;
    }
    if (parser->command == LOAD_ENGINE && options->type_count > 1)
        return cli_usage("--quant %s: one type at a time", text);
    parser->has_type = true;
    return -1;
}

static int read_cache(struct load_options *options, const char *text)
{
    if (!shape_type_find(text, &options->cache_type) ||
        (options->cache_type != TENSOR_F16 && options->cache_type != TENSOR_F32))
        return cli_usage("--cache %s: must be f16 or f32", text);
    return -1;
}

static int read_list(const char *name, const char *text, uint32_t least, uint32_t most,
                     struct bench_list *ret_list)
{
    return bench_list_read(name, text, least, most, ret_list) ? -1 : CLI_USAGE;
}

/* "0" alone leaves the rows out. */
static int read_list_or_none(const char *name, const char *text, uint32_t most,
                             struct bench_list *ret_list)
{
    *ret_list = (struct bench_list){.count = 0};
    return strcmp(text, "0") == 0 ? -1 : read_list(name, text, 1, most, ret_list);
}

static int read_number(const char *name, const char *text, uint64_t most, uint64_t *ret_value)
{
    return cli_count(name, text, 1, most, ret_value) ? -1 : CLI_USAGE;
}

static int read_small_number(const char *name, const char *text, uint32_t most, uint32_t *ret_value)
{
    uint64_t value = 0;
    int status = read_number(name, text, most, &value);
    if (status < 0)
        *ret_value = (uint32_t)value;
    return status;
}

static int read_buffer(struct load_options *options, const char *text)
{
    uint64_t mebibytes = 0;
    int status = read_number("--buffer", text, BUFFER_MOST_MIB, &mebibytes);
    options->buffer_bytes = mebibytes << 20;
    return status;
}

static int read_isa(struct load_options *options, const char *text)
{
    static const char *const isas[] = {BACKEND_CPU_VARIANTS, NULL};
    int i = cli_word("--isa", text, isas);
    if (i < 0)
        return CLI_USAGE;
    options->isa = isas[i];
    return -1;
}

static int read_option(struct parser *parser, int option)
{
    struct load_options *options = &parser->options;
    switch (option) {
    case OPTION_MODEL:
        options->model = optarg;
        return -1;
    case OPTION_SHAPE:
        return read_shape(parser, optarg);
    case OPTION_QUANT:
        return read_types(parser, optarg);
    case OPTION_HEAD:
        parser->has_head = true;
        return shape_type_find(optarg, &options->head_type) ? -1 : refuse_type("--head", optarg);
    case OPTION_BATCH:
        return read_list_or_none("--batch", optarg, BATCH_MOST, &options->batches);
    case OPTION_CONTEXT:
        return read_list("--context", optarg, 0, CONTEXT_MOST, &options->contexts);
    case OPTION_PROMPT:
        return read_list_or_none("--prompt", optarg, ROWS_MOST, &options->prompts);
    case OPTION_ROWS:
        return read_list("--rows", optarg, 1, ROWS_MOST, &options->rows);
    case OPTION_CACHE:
        return read_cache(options, optarg);
    case OPTION_THREADS:
        return read_list("--threads", optarg, 1, THREADS_MOST, &options->threads);
    case OPTION_ISA:
        return read_isa(options, optarg);
    case OPTION_ROUNDS:
        return read_small_number("--rounds", optarg, ROUNDS_MOST, &options->rounds);
    case OPTION_MS:
        return read_small_number("--ms", optarg, MS_MOST, &options->round_ms);
    case OPTION_BUFFER:
        return read_buffer(options, optarg);
    case OPTION_JSON:
        options->is_json = true;
        return -1;
    case OPTION_HELP:
        print_help(parser->command);
        return 0;
    default:
        return CLI_USAGE;
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void set_usual(struct parser *parser)
{
    struct load_options *options = &parser->options;
    struct machine machine;
    machine_describe(&machine);
    options->cache_type = TENSOR_F16;
    options->threads = (struct bench_list){1, {machine.processors ? machine.processors : 1}};
    options->batches = (struct bench_list){5, {1, 2, 4, 8, 16}};
    options->contexts = (struct bench_list){3, {0, 1024, 4096}};
    options->prompts = (struct bench_list){2, {128, 512}};
    options->rows = (struct bench_list){7, {1, 2, 4, 8, 16, 64, 512}};
    options->rounds = 5;
    options->round_ms = parser->command == LOAD_ENGINE ? ENGINE_MS : KERNELS_MS;
    options->buffer_bytes = limits_usual_bytes();
}

static int check_together(struct parser *parser)
{
    struct load_options *options = &parser->options;
    if (options->model && options->shape)
        return cli_usage("--model has its own shape: not with --shape");
    if (options->model && (parser->has_type || parser->has_head))
        return cli_usage("%s is for the random weights of a --shape, not for a --model",
                         parser->has_type ? "--quant" : "--head");
    if (parser->command == LOAD_ENGINE && !options->batches.count && !options->prompts.count)
        return cli_usage("--batch 0 --prompt 0: nothing is left to measure");
    if (!options->model && !options->shape)
        read_shape(parser, "edge-1.5b");
    if (!parser->has_type) {
        options->type_count = parser->command == LOAD_ENGINE ? 1 : SHAPE_TYPES;
        for (uint32_t i = 0; i < options->type_count; i++)
            options->types[i] = parser->command == LOAD_ENGINE ? TENSOR_Q8 : (enum tensor_type)i;
    }
    if (!parser->has_head)
        options->head_type = options->types[0];
    return -1;
}

int load_options_parse(struct load_options *ret_options, enum load_command command, int argc,
                       char **argv)
{
    struct parser parser = {.command = command};
    bool is_engine = command == LOAD_ENGINE;
    const char *name = is_engine ? "bench engine" : "bench kernels";
    int option;
    set_usual(&parser);
    optind = 1;
    while ((option = cli_option(name, argc, argv, ":",
                                is_engine ? engine_options : kernels_options)) != -1) {
        int status = option == CLI_BAD ? CLI_USAGE : read_option(&parser, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc)
        return cli_usage("%s: \"%s\" is one argument too many", name, argv[optind]);
    int status = check_together(&parser);
    if (status < 0)
        *ret_options = parser.options;
    return status;
}
