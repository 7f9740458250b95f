/*
 * What the files of the CPU backend share. Each operation's contract is in backend.h.
 */
#ifndef AGL_KERNELS_CPU_CPU_H
#define AGL_KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/variant.h"

enum {
    /* Floats of the matrix scratch: normed inputs, and outputs that wait for their norm. Wider
     * batches go through it in parts; a row must fit. */
    CPU_SCRATCH_FLOATS = 1 << 20,
    /* As many inputs rounded to 8 bits: 32 numbers take 32 bytes and a group's 16. */
    CPU_QUANTISED_BYTES = CPU_SCRATCH_FLOATS / 32 * 48 + 4096, /* a tile reads beyond its rows */
    CPU_STRIPS = 2,          /* strips that are unpacked at once, */
    CPU_STRIP_GROUPS = 32,   /* of their columns so many groups of 32, */
    CPU_STRIP_ROWS = 512,    /* for so many rows of inputs */
    CPU_PANEL_COLUMNS = 512, /* of plain weights that are widened to f32 at once */
    CPU_PANEL_ROWS = 128,    /* of inputs that meet them */
    CPU_PANEL_FLOATS = 8 * (CPU_PANEL_COLUMNS + 16),
    CPU_PANEL_OUTPUTS = 64, /* of which sums are kept at once */
    CPU_PANEL_SUMS = 16 * (CPU_PANEL_OUTPUTS * CPU_PANEL_ROWS + 16),
    CPU_HEAD_DIM_MAX = 1024,
    CPU_TILE_POSITIONS = 64, /* of attention: positions 0..63, 64..127, ... are handled together */
    CPU_SPLIT_POSITIONS = 512, /* and 0..511, ... summed up for themselves; whole tiles */
    CPU_HEADS_AT_ONCE = 16,    /* query heads of a group that share what is read from the cache */
    CPU_QUERIES_AT_ONCE = 96,  /* of several rows of a prompt: the same */
    CPU_QUERY_FLOATS = CPU_HEADS_AT_ONCE * CPU_HEAD_DIM_MAX,
    CPU_SPLITS_AT_ONCE = 4,   /* of a chunk: each but the first is asked for in time */
    CPU_KEY_LANES = 16,       /* positions whose keys lie dimension by dimension */
    CPU_OWN_INPUTS = 1 << 15, /* floats that a thread prepares for itself */
    CPU_OWN_QUANTISED = CPU_OWN_INPUTS / 32 * 48 + 4096,
    CPU_OWN_OUTPUTS = 1 << 14,
    CPU_PARTIAL_FLOATS = 1 << 20, /* sums of splits that wait for the others */
};

/* One head's softmax so far: the largest score, the weights' sum, and the weighted values, which
 * follow. */
struct cpu_running {
    float maximum;
    float sum;
};

/* In attention: queries and their sums, each padded to whole vectors, one after the other; and keys
 * and values of a tile that are not read as they lie in the cache. */
struct cpu_attention {
    float queries[CPU_QUERY_FLOATS] __attribute__((aligned(64)));
    float sums[CPU_QUERY_FLOATS];
    float split_sums[CPU_QUERY_FLOATS];
    float keys[CPU_TILE_POSITIONS * CPU_HEAD_DIM_MAX];
    float values[CPU_TILE_POSITIONS * CPU_HEAD_DIM_MAX];
    struct cpu_running running[CPU_QUERIES_AT_ONCE];
    struct cpu_running split_running[CPU_QUERIES_AT_ONCE];
    uint32_t counts[CPU_QUERIES_AT_ONCE]; /* positions that a query sees; ascending */
    uint32_t blocks[CPU_SPLITS_AT_ONCE * CPU_SPLIT_POSITIONS]; /* at most one a position */
};

/* One thread's working memory for a chunk of which others do the same (pool.h). */
struct cpu_own {
    uint64_t prepared; /* the stage whose inputs are in the next two */
    float inputs[CPU_OWN_INPUTS] __attribute__((aligned(64)));
    char quantised[CPU_OWN_QUANTISED] __attribute__((aligned(64)));
    float outputs[2 * CPU_OWN_OUTPUTS] __attribute__((aligned(64)));
    struct cpu_attention attention;
};

/* A part of a strip of packed weights, unpacked for a matrix unit. */
struct cpu_strip {
    int8_t numbers[CPU_STRIP_GROUPS][8][64] __attribute__((aligned(64)));
    float scales[CPU_STRIP_GROUPS][16];
    float mins[CPU_STRIP_GROUPS][16]; /* or the factors of both halves */
    float second[CPU_STRIP_GROUPS][16];
};

/* One thread's working memory for a matrix unit (linear_amx.c). */
struct cpu_tiles {
    struct cpu_strip strips[CPU_STRIPS];
    int32_t products[4][16][16];
    float sums[CPU_STRIP_ROWS][CPU_STRIPS][16];
};

/* One thread's working memory for a panel of plain weights (linear_panel.c). */
struct cpu_panel {
    float weights[CPU_PANEL_FLOATS] __attribute__((aligned(64)));
    float sums[CPU_PANEL_SUMS] __attribute__((aligned(64))); /* lane by lane */
};

struct cpu_backend {
    struct backend base;
    struct pool *pool;
    float *scratch;           /* [CPU_SCRATCH_FLOATS] */
    char *quantised;          /* [CPU_QUANTISED_BYTES]: inputs of packed weights (quantised.h) */
    struct cpu_own *own;      /* one a thread */
    struct cpu_tiles *tiles;  /* one a thread */
    struct cpu_panel *panels; /* one a thread */
    float *partials;          /* [CPU_PARTIAL_FLOATS]: attention's, of each split */
    bool pins_caller;         /* still to be done, by the thread that begins the first step */
    uint32_t caller_processor;
    bool queues; /* between begin and end */
    const char *variant;
    char description[64];
};

/*
 * Keys and values, [layers, blocks, 2, kv_heads, block_tokens, head_dim]; but a head's keys of a
 * block are [block_tokens / key_lanes, head_dim, key_lanes], so that a vector of positions meets a
 * number of the query and no score is a sum across lanes. key_lanes: CPU_KEY_LANES, or where that
 * does not divide a block, the whole block.
 */
struct kv_cache {
    struct kv_cache_options options;
    char *memory;
    uint64_t bytes;
    uint64_t layer_bytes;
    uint64_t block_bytes;
    uint64_t half_bytes; /* of a block: its keys, then its values */
    uint64_t head_bytes; /* of a half: one head's tokens */
    uint64_t row_bytes;  /* of a head: one token's vector */
    uint32_t key_lanes;
    uint64_t *layer_reads; /* [layers]: the last stage that reads the layer's */
};

/* Opens with one of the tables below; *ret_why as in backend_open(). */
int cpu_open(struct backend **ret_backend, const struct backend_options *options,
             const char **ret_why);

/* cpu.c: what no instruction set changes. */
void cpu_close(struct backend *backend);
const char *cpu_describe(const struct backend *backend);
int cpu_alloc(struct backend *backend, uint64_t bytes, void **ret_memory);
void cpu_free(struct backend *backend, void *memory, uint64_t bytes);
int cpu_upload(struct backend *backend, void *to, const void *from, uint64_t bytes);
int cpu_download(struct backend *backend, void *to, const void *from, uint64_t bytes);
int cpu_cache_open(struct backend *backend, const struct kv_cache_options *options,
                   struct kv_cache **ret_cache);
void cpu_cache_close(struct backend *backend, struct kv_cache *cache);
int cpu_begin(struct backend *backend);
int cpu_end(struct backend *backend);
int cpu_pack(struct backend *backend, const struct tensor *tensor, void *memory,
             quant_source *source, void *context);
/* The end of an operation: unless it is queued, it is done now. */
void cpu_finish(struct cpu_backend *cpu);
int cpu_select_rows(struct backend *backend, const float *in, const uint32_t *indices,
                    uint32_t count, uint32_t width, float *out);

/* The keys (half 0) or values (half 1) of one block and head; `block` is the cache's own number. */
static inline char *cpu_cache_head(const struct kv_cache *cache, uint32_t layer, uint32_t block,
                                   uint32_t half, uint32_t kv_head)
{
    return cache->memory + layer * cache->layer_bytes + block * cache->block_bytes +
           half * cache->half_bytes + kv_head * cache->head_bytes;
}

/* Where in a head's keys a token's first number is; the next are key_lanes elements apart. */
static inline uint64_t cpu_key_offset(const struct kv_cache *cache, uint32_t token)
{
    uint32_t lane = token % cache->key_lanes;
    return (token - lane) * cache->row_bytes + lane * tensor_type_bytes(cache->options.type);
}

/* One set of these for each variant; ops.c makes the table. */
int VARIANT(cpu_embed)(struct backend *backend, const struct tensor *table,
                       const struct batch *batch, float *out);
int VARIANT(cpu_linear)(struct backend *backend, const float *in, uint32_t rows, uint32_t width,
                        const struct rms_norm *norm, const struct linear_output *outputs,
                        uint32_t count);
int VARIANT(cpu_linear_gated)(struct backend *backend, const float *in, uint32_t rows,
                              uint32_t width, const struct rms_norm *norm,
                              const struct tensor *gate, const struct tensor *up, float *out,
                              float *work);
int VARIANT(cpu_rotary_store)(struct backend *backend, const struct attention_shape *shape,
                              const struct batch *batch, const float *cos_sin, float *q,
                              const float *k, const float *v, struct kv_cache *cache,
                              uint32_t layer);
int VARIANT(cpu_attention)(struct backend *backend, const struct attention_shape *shape,
                           const struct batch *batch, const float *q, const struct kv_cache *cache,
                           uint32_t layer, float *out);
int VARIANT(cpu_gated_silu)(struct backend *backend, float *gate, const float *up, uint32_t rows,
                            uint32_t width);
int VARIANT(cpu_linear_add)(struct backend *backend, const float *in, uint32_t rows,
                            const struct tensor *weight, const struct tensor *bias,
                            const struct rms_norm *norm, float *residual);

/* out = norm(in) for one row. Used by linear. */
void VARIANT(cpu_norm_row)(const struct rms_norm *norm, const float *in, uint32_t width,
                           float *out);
/* gate = silu(gate) * up */
void VARIANT(cpu_gate)(float *gate, const float *up, size_t elements);

/* Stages: the same, and residual += norm(in). */
void VARIANT(cpu_push_gate)(struct cpu_backend *cpu, float *gate, const float *up, size_t elements);
void VARIANT(cpu_push_norm_add)(struct pool *pool, const struct rms_norm *norm, const float *in,
                                uint32_t rows, uint32_t width, float *residual);

extern const struct backend_ops cpu_ops_plain;
extern const struct backend_ops cpu_ops_avx2;
extern const struct backend_ops cpu_ops_avx512;
extern const struct backend_ops cpu_ops_avx512vnni;
extern const struct backend_ops cpu_ops_amx;

#endif
