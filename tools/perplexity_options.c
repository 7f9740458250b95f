#include "tools/perplexity_options.h"

#include <stdio.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/perplexity_windows.h"

static const char usage[] =
    "Usage: autoglm perplexity --model PATH [OPTIONS] [FILE]\n"
    "How well a model foresees a text: the perplexity of its tokens, with the standard error. The\n"
    "text is cut into windows; of each, the tokens of the second half are scored. Needs no "
    "daemon:\n"
    "the model is loaded here. Without FILE, or with -, the text is read from stdin.\n"
    "\n"
    "  --model PATH       a GGUF file or a model folder\n"
    "  --tokenizer PATH   a tokenizer file or model folder; default: the model's own\n"
    "  --window N         tokens of a window; default 512\n"
    "  --chunks N         the first N windows only\n"
    "  --bos ID           the token that stands in place of the first one of each window; none:\n"
    "                     there is none; default: what the model's files say\n"
    "  --quant TYPE       quantise f32, f16 and bf16 matrices: none (default), q8, q8_min, q4, "
    "q4_min\n"
    "  --quant-head TYPE, --quant-embedding TYPE\n"
    "                     these two then: q8 (default), keep (as they are), quant (as the rest)\n"
    "  --threads N        default: as many as processors are allowed\n"
    "  --isa NAME         auto (default), plain, avx2, avx512, avx512vnni or amx\n"
    "  --cache-type TYPE  f16 (default) or f32\n"
    "  --json             as JSON\n"
    "  --socket PATH      taken by every command; has no meaning here\n"
    "  --help             this text\n";

enum {
    OPTION_MODEL = 256,
    OPTION_TOKENIZER,
    OPTION_WINDOW,
    OPTION_CHUNKS,
    OPTION_BOS,
    OPTION_QUANT,
    OPTION_QUANT_HEAD,
    OPTION_QUANT_EMBEDDING,
    OPTION_THREADS,
    OPTION_ISA,
    OPTION_CACHE_TYPE,
    OPTION_JSON,
    OPTION_SOCKET,
    OPTION_HELP
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, OPTION_MODEL},
    {"tokenizer", required_argument, NULL, OPTION_TOKENIZER},
    {"window", required_argument, NULL, OPTION_WINDOW},
    {"chunks", required_argument, NULL, OPTION_CHUNKS},
    {"bos", required_argument, NULL, OPTION_BOS},
    {"quant", required_argument, NULL, OPTION_QUANT},
    {"quant-head", required_argument, NULL, OPTION_QUANT_HEAD},
    {"quant-embedding", required_argument, NULL, OPTION_QUANT_EMBEDDING},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"isa", required_argument, NULL, OPTION_ISA},
    {"cache-type", required_argument, NULL, OPTION_CACHE_TYPE},
    {"json", no_argument, NULL, OPTION_JSON},
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

enum { THREADS_MAX = 1024 }; /* as autoglmd's */

static int read_bos(struct perplexity_options *options)
{
    uint64_t id = 0;
    if (strcmp(optarg, "none") == 0) {
        options->bos = PERPLEXITY_NO_BOS;
        return -1;
    }
    if (!cli_count("--bos", optarg, 0, INT32_MAX, &id))
        return CLI_USAGE;
    options->bos = (int64_t)id;
    return -1;
}

static int read_quant(struct perplexity_options *options)
{
    static const char *const words[] = {MODEL_QUANT_WORDS, NULL};
    static const enum tensor_type types[] = {MODEL_QUANT_TYPES};
    int i = cli_word("--quant", optarg, words);
    if (i < 0)
        return CLI_USAGE;
    options->quant = types[i];
    options->quant_name = words[i];
    return -1;
}

static int read_wide(const char *name, enum model_wide *ret_wide)
{
    static const char *const words[] = {MODEL_WIDE_WORDS, NULL};
    static const enum model_wide values[] = {MODEL_WIDE_VALUES};
    int i = cli_word(name, optarg, words);
    if (i < 0)
        return CLI_USAGE;
    *ret_wide = values[i];
    return -1;
}

static int read_cache_type(struct perplexity_options *options)
{
    static const char *const words[] = {"f16", "f32", NULL};
    int i = cli_word("--cache-type", optarg, words);
    if (i < 0)
        return CLI_USAGE;
    options->cache_type = i == 0 ? TENSOR_F16 : TENSOR_F32;
    return -1;
}

static int read_isa(struct perplexity_options *options)
{
    static const char *const words[] = {"auto", BACKEND_CPU_VARIANTS, NULL};
    int i = cli_word("--isa", optarg, words);
    if (i < 0)
        return CLI_USAGE;
    options->isa = i == 0 ? NULL : words[i];
    return -1;
}

static int read_number(struct perplexity_options *options, int option)
{
    bool is_good = false;
    switch (option) {
    case OPTION_WINDOW:
        is_good = cli_count("--window", optarg, PERPLEXITY_WINDOW_MIN, MODEL_CONTEXT_MAX,
                            &options->window);
        break;
    case OPTION_CHUNKS:
        is_good = cli_count("--chunks", optarg, 1, UINT32_MAX, &options->chunks);
        break;
    case OPTION_THREADS:
        is_good = cli_count("--threads", optarg, 1, THREADS_MAX, &options->threads);
        break;
    default:
        break;
    }
    return is_good ? -1 : CLI_USAGE;
}

static int read_option(struct perplexity_options *options, int option)
{
    switch (option) {
    case OPTION_MODEL:
        options->model = optarg;
        return -1;
    case OPTION_TOKENIZER:
        options->tokenizer = optarg;
        return -1;
    case OPTION_BOS:
        return read_bos(options);
    case OPTION_QUANT:
        return read_quant(options);
    case OPTION_QUANT_HEAD:
        return read_wide("--quant-head", &options->quant_head);
    case OPTION_QUANT_EMBEDDING:
        return read_wide("--quant-embedding", &options->quant_embedding);
    case OPTION_ISA:
        return read_isa(options);
    case OPTION_CACHE_TYPE:
        return read_cache_type(options);
    case OPTION_JSON:
        options->is_json = true;
        return -1;
    case OPTION_SOCKET:
        return -1;
    case OPTION_HELP:
        fputs(usage, stdout);
        return 0;
    default:
        return read_number(options, option);
    }
}

int perplexity_parse(struct perplexity_options *ret_options, int argc, char **argv)
{
    struct perplexity_options options = {.window = 512,
                                         .bos = PERPLEXITY_BOS_OF_MODEL,
                                         .cache_type = TENSOR_F16,
                                         .quant = TENSOR_F32,
                                         .quant_name = "none"};
    int option;
    optind = 1;
    while ((option = cli_option("perplexity", argc, argv, ":", long_options)) != -1) {
        int status = option == CLI_BAD ? CLI_USAGE : read_option(&options, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc)
        options.text = argv[optind++];
    if (optind < argc)
        return cli_usage("perplexity: \"%s\" is one file too many", argv[optind]);
    if (!options.model)
        return cli_usage("perplexity: --model PATH is missing");
    if (!options.tokenizer)
        options.tokenizer = options.model;
    *ret_options = options;
    return -1;
}
