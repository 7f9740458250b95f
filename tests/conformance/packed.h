/*
 * Packed matrices for tests, with the exact values that they stand for.
 */
#ifndef AGL_TESTS_CONFORMANCE_PACKED_H
#define AGL_TESTS_CONFORMANCE_PACKED_H

#include "tests/conformance/data.h"

enum { PACKED_TYPES = 7 };
extern const enum tensor_type packed_types[PACKED_TYPES];

struct packed {
    struct tensor tensor;
    struct quant_group *groups; /* [rows][group_count], as they went in */
    uint32_t group_count;
    void *memory;
};

/* Random numbers over the whole range of the type, some groups all lowest or all highest; scales
 * of either sign and size, some zero, some below the smallest normal f16. */
struct packed packed_random(struct backend *backend, struct random *random, enum tensor_type type,
                            uint32_t rows, uint32_t cols);
void packed_free(struct backend *backend, struct packed *packed);

/* The parts of an element: weight = scale * number + min, each exact. */
struct packed_element {
    double scale; /* the product with the factor, where there is one */
    double min;
    int number; /* the bias taken off */
};

struct packed_element packed_element(const struct packed *packed, uint32_t row, uint32_t column);

/* A row of inputs as packed weights meet it, by the words of backend.h. */
void round_inputs(const float *in, uint32_t width, int *ret_numbers, double *ret_scales);

#endif
