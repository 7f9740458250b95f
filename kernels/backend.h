/*
 * backend.h - all that the daemon sees of a device: memory, and a small table of operations, each
 * at the grain of a fused kernel. The CPU backend (kernels/cpu/) is the reference that defines the
 * results.
 *
 * Every operation works on a batch: `rows` tokens of many sequences, packed. Activations are f32,
 * [rows, width], row-major. The result for one row depends on that row and its own sequence alone,
 * bit for bit on the CPU: never on the batch's other members, on its size or on the number of
 * threads.
 *
 * Matrices may be of any type; vectors (norms, biases) are of the plain ones. A matrix of a packed
 * type meets inputs rounded to 8 bits: each row's 32 columns of a group to q * scale, |q| <= 127,
 * scale = largest magnitude / 127; below 2^-100 they count as zero, and one that is not finite
 * makes the results NaN.
 *
 * Between begin() and end() operations are queued: they are done in their order, the last of them
 * when end() returns. Until then the caller leaves alone what it gave them, arrays of outputs,
 * norms and shapes excepted. Otherwise an operation is done on return.
 *
 * Threads: a backend is used by one thread at a time. It may use threads of its own inside a call.
 * Nothing here allocates, locks or logs after opening, save alloc, free and the cache's open and
 * close. Errors: 0 or a negative errno; -EIO means that the device is lost.
 */
#ifndef AGL_KERNELS_BACKEND_H
#define AGL_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/quant.h"
#include "kernels/tensor.h"

struct backend;
struct kv_cache;

enum rotary_kind {
    ROTARY_INTERLEAVED = 0, /* pairs (2i, 2i + 1): ChatGLM, GLM-4, GLM-4-0414 */
    ROTARY_HALVES = 1       /* pairs (i, i + rotary_dims / 2): Llama, Qwen, GLM-4.5 */
};

/* One step's tokens, all arrays in host memory and owned by the caller. Rows of one sequence stand
 * together, at ascending positions without gaps; everything before them is in the cache already. */
struct batch {
    uint32_t rows;
    const uint32_t *ids;       /* [rows], below the embedding's rows */
    const uint32_t *positions; /* [rows] */
    const uint32_t *sequences; /* [rows], index into block_tables */
    uint32_t sequence_count;
    const uint32_t *block_tables; /* [sequence_count, table_stride]: cache blocks by position */
    uint32_t table_stride;
};

/* y = RMSNorm(x): x * weight / sqrt(mean(x^2) + eps); Zhang and Sennrich 2019, arXiv 1910.07467. */
struct rms_norm {
    struct tensor weight; /* [width]; absent: no norm */
    float eps;
};

/* One of several linear maps of the same input. */
struct linear_output {
    struct tensor weight; /* [out, in] */
    struct tensor bias;   /* [out] or absent */
    float *out;           /* [rows, out] */
};

struct attention_shape {
    uint32_t heads;
    uint32_t kv_heads; /* divides heads; head h reads key-value head h / (heads / kv_heads) */
    uint32_t head_dim;
    uint32_t rotary_dims; /* even, <= head_dim: the first so many dimensions of a head turn */
    enum rotary_kind rotary;
    float scale; /* 1 / sqrt(head_dim) */
};

struct kv_cache_options {
    enum tensor_type type; /* TENSOR_F32 or TENSOR_F16 */
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t blocks;
    uint32_t block_tokens;
};

/* Sets of CPU instructions by name, the plainest first; a processor may lack some. */
#define BACKEND_CPU_VARIANTS "plain", "avx2", "avx512", "avx512vnni", "amx"

struct backend_options {
    const char *device; /* "cpu" */
    uint32_t threads;   /* 0: as many as processors are allowed, or listed */
    /* Processors to run on, "0-3,8": the thread that begins steps on the first of them that is
     * allowed, the backend's own on the next ones in turns. NULL or "": wherever they may. */
    const char *processors;
    const char *variant; /* of BACKEND_CPU_VARIANTS; NULL: the best there is */
};

struct backend_ops {
    const char *name;
    bool host_memory; /* alloc() gives memory that the host can write, so files are read into place
                       */

    void (*close)(struct backend *backend);
    /* One line for people: "cpu, 2 threads, avx512". */
    const char *(*describe)(const struct backend *backend);

    /* Memory of the device, aligned to 4096; for weights and activations. -ENOMEM. */
    int (*alloc)(struct backend *backend, uint64_t bytes, void **ret_memory);
    void (*free)(struct backend *backend, void *memory, uint64_t bytes);
    /* Copies host memory to device memory and back; done on return. */
    int (*upload)(struct backend *backend, void *to, const void *from, uint64_t bytes);
    int (*download)(struct backend *backend, void *to, const void *from, uint64_t bytes);

    /* Fills `memory`, tensor_bytes() large, with a matrix of a packed type, on all threads.
     * tensor->data is not looked at. The source's errors. */
    int (*pack)(struct backend *backend, const struct tensor *tensor, void *memory,
                quant_source *source, void *context);

    /* The paged key-value cache of one model. */
    int (*cache_open)(struct backend *backend, const struct kv_cache_options *options,
                      struct kv_cache **ret_cache);
    void (*cache_close)(struct backend *backend, struct kv_cache *cache);

    /* Of a step: see above. */
    int (*begin)(struct backend *backend);
    int (*end)(struct backend *backend);

    /* out[r] = table[ids[r]]. out: [rows, table.cols] */
    int (*embed)(struct backend *backend, const struct tensor *table, const struct batch *batch,
                 float *out);

    /* outputs[i].out = norm(in) * weight_i^T + bias_i, for `count` maps of one input, normed once.
     * in: [rows, width] */
    int (*linear)(struct backend *backend, const float *in, uint32_t rows, uint32_t width,
                  const struct rms_norm *norm, const struct linear_output *outputs, uint32_t count);

    /* out = silu(norm(in) * gate^T) * (norm(in) * up^T), silu(x) = x / (1 + exp(-x)).
     * in: [rows, width]; out, work: [rows, gate.rows], the second may be written or not. */
    int (*linear_gated)(struct backend *backend, const float *in, uint32_t rows, uint32_t width,
                        const struct rms_norm *norm, const struct tensor *gate,
                        const struct tensor *up, float *out, float *work);

    /* Turns q and k by their positions and writes k and v into the cache of `layer`.
     * Su et al. 2021, arXiv 2104.09864. q: [rows, heads * head_dim], k, v: [rows, kv_heads *
     * head_dim]; cos_sin: [rows, rotary_dims / 2, 2], angles' cosines and sines. q changes in
     * place. */
    int (*rotary_store)(struct backend *backend, const struct attention_shape *shape,
                        const struct batch *batch, const float *cos_sin, float *q, const float *k,
                        const float *v, struct kv_cache *cache, uint32_t layer);

    /* out = softmax(q k^T * scale) v over each row's own sequence, positions 0 to the row's own.
     * Softmax in f32 with a running maximum. q, out: [rows, heads * head_dim] */
    int (*attention)(struct backend *backend, const struct attention_shape *shape,
                     const struct batch *batch, const float *q, const struct kv_cache *cache,
                     uint32_t layer, float *out);

    /* gate = silu(gate) * up, silu(x) = x / (1 + exp(-x)). gate, up: [rows, width] */
    int (*gated_silu)(struct backend *backend, float *gate, const float *up, uint32_t rows,
                      uint32_t width);

    /* residual += norm(in * weight^T + bias); the norm may be absent, as may the bias.
     * in: [rows, weight.cols]; residual: [rows, weight.rows] */
    int (*linear_add)(struct backend *backend, const float *in, uint32_t rows,
                      const struct tensor *weight, const struct tensor *bias,
                      const struct rms_norm *norm, float *residual);

    /* out[i] = in[indices[i]]; in: [*, width], out: [count, width] */
    int (*select_rows)(struct backend *backend, const float *in, const uint32_t *indices,
                       uint32_t count, uint32_t width, float *out);
};

/* Begins every backend's own struct. */
struct backend {
    const struct backend_ops *ops;
};

/* Opens a device. -ENODEV: no such device, -EINVAL: an option makes no sense; *ret_why is then a
 * constant that says more. */
int backend_open(struct backend **ret_backend, const struct backend_options *options,
                 const char **ret_why);

/* NULL does nothing. */
void backend_close(struct backend *backend);

/* The memory that a cache of these options takes, in bytes; UINT64_MAX on overflow. */
uint64_t kv_cache_bytes(const struct kv_cache_options *options);

#endif
