#ifndef AGL_TOOLS_PERPLEXITY_OPTIONS_H
#define AGL_TOOLS_PERPLEXITY_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"

/* `bos`, where the model's own files are to tell. */
enum { PERPLEXITY_BOS_OF_MODEL = -2 };

struct perplexity_options {
    const char *model;     /* a folder or a GGUF file */
    const char *tokenizer; /* the same if not given */
    const char *text;      /* a file; NULL or "-": standard input */
    const char *isa;       /* NULL: the best there is */
    uint64_t threads;      /* 0: as many as there are processors */
    uint64_t window;       /* tokens */
    uint64_t chunks;       /* windows at the most; 0: all */
    int64_t bos;           /* an id, PERPLEXITY_NO_BOS, PERPLEXITY_BOS_OF_MODEL */
    enum tensor_type cache_type;
    enum tensor_type quant; /* what plain matrices become; a plain type: they stay */
    const char *quant_name; /* as given; "none" */
    enum model_wide quant_head;
    enum model_wide quant_embedding;
    bool is_json;
};

/* Reads the command's words. -1: go on; else the exit status, after the help or a message. */
int perplexity_parse(struct perplexity_options *ret_options, int argc, char **argv);

#endif
