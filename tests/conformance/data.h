/*
 * Data for tests of kernels: seeded numbers, and tensors of any type together with the exact values
 * that they stand for.
 */
#ifndef AGL_TESTS_CONFORMANCE_DATA_H
#define AGL_TESTS_CONFORMANCE_DATA_H

#include <stdint.h>

#include "kernels/backend.h"

/* The unit roundoff of f32: one operation errs by at most this, relatively. */
#define ROUNDOFF_F32 0x1p-24

struct random {
    uint64_t state;
};

uint32_t random_u32(struct random *random);

/* In [-1, 1), a multiple of 2^-23. */
float random_float(struct random *random);

/* An allocated array of them, each scaled; release with free(). */
float *random_floats(struct random *random, size_t count, float scale);

struct values {
    struct tensor tensor; /* its data begins one element into the memory: nothing is well aligned */
    double *exact;        /* [rows, cols] */
    void *memory;
};

/* Uniform in [-scale, scale), rounded to the type. */
struct values values_random(struct random *random, enum tensor_type type, uint32_t rows,
                            uint32_t cols, double scale);
void values_free(struct values *values);

/* The value of an f16, by its definition. */
double value_of_f16(uint16_t half);

/* Higham's gamma_n = n u / (1 - n u): n operations in a row err by at most this, relatively. */
double rounding_bound(double operations);

/* The length of the longest chain of additions in a sum of n products. The CPU backend's sums run
 * in at least 4 lanes; joining these takes 2 more. */
double sum_chain(uint32_t n);

/* The variants that this machine can run; the last is NULL. */
const char *const *runnable_variants(void);

/* Opens the CPU backend; fails the test if it cannot. */
struct backend *open_variant(const char *variant, uint32_t threads);

#endif
