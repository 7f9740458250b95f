/*
 * What `bench engine` and `bench kernels` stand on: a backend, batches of invented tokens, a cache
 * that is filled without computing, and whether there is the memory for it all.
 */
#ifndef AGL_TOOLS_BENCH_STAND_H
#define AGL_TOOLS_BENCH_STAND_H

#include "kernels/backend.h"
#include "model/model.h"
#include "tools/bench_limits.h"
#include "tools/bench_shape.h"

enum { STAND_BLOCK_TOKENS = 16 /* as the daemon has it */ };

/* A CPU backend; isa NULL: the best. *ret_isa is the name of what it has. 0 or CLI_FAILED after a
 * message. */
int stand_open_backend(struct backend **ret_backend, uint32_t threads, const char *isa,
                       const char **ret_isa);

/* Which peak a matrix of a type is held against when it meets so many rows: whole numbers for
 * packed ones, where the set of instructions has them. */
enum limit stand_peak(const struct limits *limits, enum tensor_type type, uint32_t rows);

/* 0, or CLI_FAILED after a message with the figures if the machine has not so much memory free.
 * `for_what`: "the weights and ...". */
int stand_check_memory(uint64_t bytes, const char *for_what);

/* limits_open() if the memory is there. 0 or CLI_FAILED after a message. */
int stand_open_limits(struct limits **ret_limits, const char *isa, uint64_t buffer_bytes);

/* Tokens enough for steps of `rows` in all, of sequences with `blocks` blocks each of a cache; the
 * sequences' blocks follow each other. */
struct tokens {
    uint32_t *ids, *positions, *sequences, *logit_rows; /* [rows] */
    uint32_t *block_tables;                             /* [sequences, blocks] */
    uint32_t blocks;
    uint32_t vocab_size;
    uint64_t state; /* of the invented ids */
};

/* -ENOMEM. */
int tokens_init(struct tokens *tokens, uint32_t rows, uint32_t sequences, uint32_t blocks,
                uint32_t vocab_size);
void tokens_fini(struct tokens *tokens);

/* The batch of a step, with new ids; valid until the next. logit_rows are then those of the last
 * token of each sequence. */
struct batch tokens_batch(struct tokens *tokens, const struct step *step);

/* Fills the first `positions` positions of each of `sequences`, of `blocks` blocks each, with keys
 * and values of a usual size, in all layers. 0; -ENOMEM; -ECANCELED when a signal came. */
int stand_fill_cache(struct backend *backend, struct kv_cache *cache,
                     const struct model_config *config, uint32_t sequences, uint32_t blocks,
                     uint32_t positions);

struct attention_shape stand_attention_shape(const struct model_config *config);

#endif
