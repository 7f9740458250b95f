/*
 * The options of `autoglm bench engine` and `autoglm bench kernels`.
 */
#ifndef AGL_TOOLS_BENCH_LOAD_OPTIONS_H
#define AGL_TOOLS_BENCH_LOAD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/bench_list.h"
#include "tools/bench_shape.h"

enum load_command { LOAD_ENGINE, LOAD_KERNELS };

struct load_options {
    const char *model; /* a folder or a GGUF file; NULL: the shape */
    const char *shape;
    struct model_config config;          /* of the shape */
    enum tensor_type types[SHAPE_TYPES]; /* [type_count]; of the engine one */
    uint32_t type_count;
    enum tensor_type head_type; /* of the engine's head */
    enum tensor_type cache_type;
    struct bench_list threads; /* as many as processors are allowed, unless told */
    struct bench_list batches, contexts, prompts; /* of the engine; contexts of both */
    struct bench_list rows;                       /* of the kernels */
    const char *isa;                              /* NULL: the best */
    uint32_t rounds;
    uint32_t round_ms;
    uint64_t buffer_bytes;
    bool is_json;
};

/* -1: they make sense; else an exit status, after the help or a message. */
int load_options_parse(struct load_options *ret_options, enum load_command command, int argc,
                       char **argv);

#endif
