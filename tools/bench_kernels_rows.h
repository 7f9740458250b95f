/*
 * The operations that `bench kernels` measures: each as a row whose step calls it once, on weights,
 * activations and a cache that are there before.
 */
#ifndef AGL_TOOLS_BENCH_KERNELS_ROWS_H
#define AGL_TOOLS_BENCH_KERNELS_ROWS_H

#include "tools/bench_load_options.h"
#include "tools/bench_output.h"
#include "tools/bench_rate.h"
#include "tools/bench_stand.h"

enum {
    /* Up to so many rows are so many sequences; more are one sequence's prompt. */
    KERNELS_SEQUENCES_MOST = 16,
    KERNELS_HEAD_ROWS_MOST = 64, /* nobody wants more logits at once */
    KERNELS_ROWS_MOST = BENCH_LIST_MAX * (BENCH_LIST_MAX + 4),
};

/* The matrices of one operation, several times over, so that no cache holds what comes next. */
struct matrices {
    struct tensor tensors[3];
    uint32_t count;
    uint64_t bytes;  /* of one copy; they follow each other */
    uint32_t copies; /* 0: none */
    uint32_t next;
    void *memory;
};

struct kernels {
    const struct load_options *options;
    struct output *output;
    struct backend *backend;
    struct limits *limits;

    /* Activations in the memory of the CPU's backend, which is the host's. */
    void *memory;
    uint64_t memory_bytes;
    float *in, *gate, *up, *out[3], *cos_sin;
    struct tensor norm;

    struct kv_cache *cache;
    struct tokens tokens;
    struct matrices matrices;
    uint32_t layer; /* of the cache, for the next step */
};

enum kernel {
    KERNEL_QKV,
    KERNEL_O,
    KERNEL_GATE_UP,
    KERNEL_DOWN,
    KERNEL_HEAD,
    KERNEL_MATRICES, /* so many of them */
    KERNEL_EMBED = KERNEL_MATRICES,
    KERNEL_NORM,
    KERNEL_GATED_SILU,
    KERNEL_SELECT_ROWS,
    KERNEL_ROTARY_STORE,
    KERNEL_ATTENTION
};

/* "q, k, v" and so on. */
const char *kernel_name(enum kernel kernel);

struct kernel_row {
    struct kernels *kernels;
    enum kernel kernel;
    enum tensor_type type; /* of the matrices; f32 where there are none */
    struct step step;
    uint32_t rows; /* of activations: those of the step */
};

/* 0 or CLI_FAILED after a message; kernels_fini() in any case. Backend, limits, output and options
 * are the caller's. With a cache that is filled, or bench_stop_status(). */
int kernels_init(struct kernels *kernels);
void kernels_fini(struct kernels *kernels);

/* Draws the matrices of an operation; the same errors. A set of none is freed as well. */
int kernels_open_matrices(struct kernels *kernels, enum kernel kernel, enum tensor_type type);
void kernels_close_matrices(struct kernels *kernels);

/* A row's measurement: what it is called, its step and what that moves and multiplies. */
struct rate_row kernel_rate(struct kernel_row *row);

#endif
