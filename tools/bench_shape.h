/*
 * The shapes of well-known models, and what a step of one costs: the least that has to be read and
 * multiplied.
 */
#ifndef AGL_TOOLS_BENCH_SHAPE_H
#define AGL_TOOLS_BENCH_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

/* "edge-1.5b" and so on; false: there is none of the name. */
bool shape_find(const char *name, struct model_config *ret_config);

/* All names as a sentence would have them: "edge-1.5b, edge-4b, ...". Returns text. */
const char *shape_names(char *text, size_t bytes);

/* A type of tensor.h by its name; false: there is none. */
bool shape_type_find(const char *name, enum tensor_type *ret_type);
enum { SHAPE_TYPES = TENSOR_Q4_SUPER + 1 };

/* `sequences` of them, each with `rows` tokens of which the first stands behind `context` others
 * that are in the cache; the last of each wants logits. */
struct step {
    uint32_t sequences;
    uint32_t rows;
    uint32_t context;
};

struct step_cost {
    uint64_t weight_bytes; /* every weight once, but for the embedding's rows */
    uint64_t cache_bytes;  /* the keys and values of every position once */
    double macs;           /* multiply-adds of matrices and attention */
};

struct step_cost step_cost(const struct model *model, enum tensor_type cache_type,
                           const struct step *step);

/* The two parts that a single operation has. `layers` of them. */
uint64_t step_cache_bytes(const struct model_config *config, enum tensor_type cache_type,
                          uint32_t layers, const struct step *step);
double step_attention_macs(const struct model_config *config, uint32_t layers,
                           const struct step *step);

#endif
