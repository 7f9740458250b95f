/*
 * Attention over the paged cache, with a running maximum (Milakov and Gimelshein 2018, arXiv
 * 1805.02867): keys and values are read once for all query heads that share them, tile by tile, and
 * nothing is as long as the context.
 *
 * Tiles and splits are counted from position 0 and have fixed sizes, a split is summed up for
 * itself, and splits are joined in ascending order: the order of every sum follows from the row's
 * position alone, not from where its prompt was cut, how the cache is divided into blocks, which
 * threads took part, or who else is in the batch.
 *
 * A few rows: a chunk of the stage is one split or a few, so that threads share a long context, and
 * another stage joins them. Many rows: a chunk is a span of rows, of which those of one sequence
 * meet what is read together.
 */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/cpu.h"

enum {
    SPLIT_ROWS_MAX = 16,
    CHUNKS_PER_THREAD = 8, /* at least: the last to end is not late by much */
};

static_assert(CPU_SPLIT_POSITIONS % CPU_TILE_POSITIONS == 0, "splits are whole tiles");
static_assert(CPU_HEAD_DIM_MAX % VECTOR_LANES == 0, "a padded head is whole vectors");
static_assert(CPU_QUERIES_AT_ONCE >= CPU_HEADS_AT_ONCE, "one row fits");

struct attention_job {
    struct cpu_backend *cpu;
    struct attention_shape shape;
    struct batch batch;
    const float *q;
    const struct kv_cache *cache;
    uint32_t layer;
    float *out;
    uint32_t group;        /* query heads for one key-value head */
    uint32_t group_chunks; /* each of up to CPU_HEADS_AT_ONCE of them */
    uint32_t splits;       /* of the longest row; 1: none is split */
    uint32_t chunk_splits; /* of a chunk */
    uint32_t span;         /* or rows of a chunk */
    uint32_t partial_floats;
};

static_assert(sizeof(struct attention_job) <= POOL_JOB_BYTES, "the pool copies jobs");

/* What a chunk is about: some splits of one row, or rows of one sequence. */
struct share {
    uint32_t row, rows, kv_head, first_head, heads, split, splits;
};

static uint32_t row_splits(const struct attention_job *job, uint32_t row)
{
    return job->batch.positions[row] / CPU_SPLIT_POSITIONS + 1;
}

static struct share find_share(const struct attention_job *job, uint32_t chunk)
{
    uint32_t part = chunk % job->group_chunks;
    chunk /= job->group_chunks;
    uint32_t kv_head = chunk % job->shape.kv_heads, left = job->group - part * CPU_HEADS_AT_ONCE;
    return (struct share){.row = chunk / job->shape.kv_heads,
                          .rows = 1,
                          .kv_head = kv_head,
                          .first_head = kv_head * job->group + part * CPU_HEADS_AT_ONCE,
                          .heads = left < CPU_HEADS_AT_ONCE ? left : CPU_HEADS_AT_ONCE};
}

/* Of a chunk of splits; some rows have fewer. */
static struct share find_splits(const struct attention_job *job, uint32_t chunk)
{
    uint32_t chunks = (job->splits + job->chunk_splits - 1) / job->chunk_splits;
    struct share share = find_share(job, chunk / chunks);
    share.split = chunk % chunks * job->chunk_splits;
    uint32_t all = row_splits(job, share.row), left = all > share.split ? all - share.split : 0;
    share.splits = left < job->chunk_splits ? left : job->chunk_splits;
    return share;
}

static float *out_of(const struct attention_job *job, uint32_t row, uint32_t head)
{
    return job->out + ((size_t)row * job->shape.heads + head) * job->shape.head_dim;
}

/* Maximum and sum, then, a vector on, the sums. */
static float *partial_of(const struct attention_job *job, uint32_t row, uint32_t head,
                         uint32_t split)
{
    size_t index = ((size_t)row * job->shape.heads + head) * job->splits + split;
    return job->cpu->partials + index * job->partial_floats;
}

/* Takes what later stages may overwrite: the queries, in the order of rows. */
static void take_queries(const struct attention_job *job, const struct share *share,
                         struct cpu_attention *own)
{
    uint32_t dims = job->shape.head_dim;
    float *to = own->queries;
    for (uint32_t row = share->row; row < share->row + share->rows; row++) {
        const float *from = job->q + ((size_t)row * job->shape.heads + share->first_head) * dims;
        for (uint32_t h = 0; h < share->heads; h++, from += dims, to += padded(dims))
            memcpy(to, from, dims * sizeof *to);
    }
}

/* How many positions from `first` on each query sees, up to `most`. Returns the last one's, the
 * largest. */
static uint32_t count_positions(const struct attention_job *job, const struct share *share,
                                uint32_t first, uint32_t most, struct cpu_attention *own)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < share->rows * share->heads; i++) {
        uint32_t positions = job->batch.positions[share->row + i / share->heads] + 1;
        count = positions > first ? positions - first : 0;
        count = count < most ? count : most;
        own->counts[i] = count;
    }
    return count;
}

/* And the blocks that these are in. */
static void take_blocks(const struct attention_job *job, uint32_t row, uint32_t first,
                        uint32_t count, struct cpu_attention *own)
{
    const uint32_t *table =
        job->batch.block_tables + (size_t)job->batch.sequences[row] * job->batch.table_stride;
    uint32_t tokens = job->cache->options.block_tokens;
    for (uint32_t i = first / tokens; i <= (first + count - 1) / tokens; i++) {
        assert(table[i] < job->cache->options.blocks);
        own->blocks[i - first / tokens] = table[i];
    }
}

static struct stretch take_stretch(const struct attention_job *job, const struct share *share,
                                   uint32_t split, uint32_t splits, struct cpu_attention *own)
{
    uint32_t first = split * CPU_SPLIT_POSITIONS;
    uint32_t count = count_positions(job, share, first, splits * CPU_SPLIT_POSITIONS, own);
    take_blocks(job, share->row, first, count, own);
    return (struct stretch){.cache = job->cache,
                            .layer = job->layer,
                            .kv_head = share->kv_head,
                            .first = first,
                            .count = count,
                            .queries = share->rows * share->heads,
                            .scale = job->shape.scale};
}

/* One of the splits joins those before it. */
static void join(struct cpu_running *running, float *sums, const struct cpu_running *split,
                 const float *split_sums, size_t width)
{
    float maximum = split->maximum > running->maximum ? split->maximum : running->maximum;
    vector_f32 before = vector_exp(vector_all(running->maximum - maximum));
    vector_f32 now = vector_exp(vector_all(split->maximum - maximum));
    for (size_t d = 0; d < width; d += VECTOR_LANES)
        store_f32(sums + d,
                  multiply_add(load_f32(split_sums + d), now, load_f32(sums + d) * before));
    running->sum = running->sum * before[0] + split->sum * now[0];
    running->maximum = maximum;
}

static void write_out(float *out, const float *sums, float sum, uint32_t dims)
{
    float inverse = 1.0f / sum;
    for (uint32_t d = 0; d < dims; d++)
        out[d] = sums[d] * inverse;
}

/* The first split, or one that joins those before it, for all queries that see some of it. */
static void take_split(uint32_t split, uint32_t queries, size_t width, struct cpu_attention *own)
{
    if (split == 0) {
        memcpy(own->running, own->split_running, queries * sizeof *own->running);
        memcpy(own->sums, own->split_sums, queries * width * sizeof *own->sums);
        return;
    }
    for (uint32_t i = 0; i < queries; i++)
        if (own->counts[i])
            join(&own->running[i], own->sums + i * width, &own->split_running[i],
                 own->split_sums + i * width, width);
}

static void attend_rows(const struct attention_job *job, const struct share *share,
                        struct cpu_attention *own)
{
    size_t width = padded(job->shape.head_dim);
    uint32_t queries = share->rows * share->heads;
    take_queries(job, share, own);
    for (uint32_t i = 0; i < row_splits(job, share->row + share->rows - 1); i++) {
        struct stretch stretch = take_stretch(job, share, i, 1, own);
        sum_split(&(struct split){&stretch, 0, own->split_sums, own->split_running}, own);
        take_split(i, queries, width, own);
    }
    for (uint32_t i = 0; i < queries; i++)
        write_out(out_of(job, share->row + i / share->heads, share->first_head + i % share->heads),
                  own->sums + i * width, own->running[i].sum, job->shape.head_dim);
}

/* The last rows first: they see most. */
static void span_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attention_job *job = argument;
    uint32_t parts = job->shape.kv_heads * job->group_chunks, rows = job->batch.rows;
    uint32_t spans = (rows + job->span - 1) / job->span, first = spans - 1 - chunk / parts;
    struct share share = find_share(job, chunk % parts);
    const uint32_t *sequences = job->batch.sequences;
    first *= job->span;
    uint32_t end = rows - first < job->span ? rows : first + job->span;
    for (uint32_t row = first; row < end; row = share.row + share.rows) {
        share.row = row;
        share.rows = 1;
        while (row + share.rows < end && sequences[row + share.rows] == sequences[row])
            share.rows++;
        attend_rows(job, &share, &job->cpu->own[thread].attention);
    }
}

static void split_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attention_job *job = argument;
    struct share share = find_splits(job, chunk);
    struct cpu_attention *own = &job->cpu->own[thread].attention;
    if (!share.splits)
        return;
    take_queries(job, &share, own);
    struct stretch stretch = take_stretch(job, &share, share.split, share.splits, own);
    pool_inputs_read(job->cpu->pool, thread);
    size_t width = padded(job->shape.head_dim);
    for (uint32_t i = 0; i < share.splits; i++)
        sum_split(&(struct split){&stretch, i * CPU_SPLIT_POSITIONS,
                                  own->split_sums + i * share.heads * width,
                                  own->split_running + (size_t)i * share.heads},
                  own);
}

static void commit_split(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attention_job *job = argument;
    struct share share = find_splits(job, chunk);
    const struct cpu_attention *own = &job->cpu->own[thread].attention;
    uint32_t dims = job->shape.head_dim;
    size_t width = padded(dims);
    for (uint32_t i = 0; i < share.splits * share.heads; i++) {
        uint32_t head = share.first_head + i % share.heads;
        const float *sums = own->split_sums + i * width;
        if (job->splits == 1) {
            write_out(out_of(job, share.row, head), sums, own->split_running[i].sum, dims);
            continue;
        }
        float *partial = partial_of(job, share.row, head, share.split + i / share.heads);
        memcpy(partial, &own->split_running[i], sizeof own->split_running[i]);
        memcpy(partial + VECTOR_LANES, sums, width * sizeof *sums);
    }
}

/* A chunk is one head of one row. */
static void join_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attention_job *job = argument;
    uint32_t row = chunk / job->shape.heads, head = chunk % job->shape.heads;
    float *sums = partial_of(job, row, head, 0) + VECTOR_LANES;
    struct cpu_running running;
    memcpy(&running, sums - VECTOR_LANES, sizeof running);
    for (uint32_t i = 1; i < row_splits(job, row); i++) {
        const float *partial = partial_of(job, row, head, i);
        struct cpu_running split;
        memcpy(&split, partial, sizeof split);
        join(&running, sums, &split, partial + VECTOR_LANES, padded(job->shape.head_dim));
    }
    write_out(out_of(job, row, head), sums, running.sum, job->shape.head_dim);
}

/* How a row's context is shared out; 0: not at all. */
static uint32_t choose_splits(const struct attention_job *job)
{
    uint32_t splits = 1;
    for (uint32_t row = 0; row < job->batch.rows && row < SPLIT_ROWS_MAX; row++)
        splits = row_splits(job, row) > splits ? row_splits(job, row) : splits;
    uint64_t floats = (uint64_t)job->batch.rows * job->shape.heads * splits * job->partial_floats;
    return job->batch.rows <= SPLIT_ROWS_MAX && (splits == 1 || floats <= CPU_PARTIAL_FLOATS)
               ? splits
               : 0;
}

/* How many queries fit into a thread's memory. */
static uint32_t queries_at_once(const struct attention_job *job)
{
    uint32_t queries = CPU_QUERY_FLOATS / (uint32_t)padded(job->shape.head_dim);
    return queries < CPU_QUERIES_AT_ONCE ? queries : CPU_QUERIES_AT_ONCE;
}

/* How many of `parts` a chunk takes: up to `most`, and so few that every thread has chunks. */
static uint32_t choose_length(const struct attention_job *job, uint32_t parts, uint32_t most)
{
    uint64_t all = (uint64_t)parts * job->shape.kv_heads * job->group_chunks;
    uint64_t even = all / ((uint64_t)pool_threads(job->cpu->pool) * CHUNKS_PER_THREAD) + 1;
    return even < most ? (uint32_t)even : most;
}

static void push_splits(struct attention_job *job)
{
    struct pool *pool = job->cpu->pool;
    uint32_t heads = job->group < CPU_HEADS_AT_ONCE ? job->group : CPU_HEADS_AT_ONCE;
    uint32_t most = queries_at_once(job) / heads;
    most = most < CPU_SPLITS_AT_ONCE ? most : CPU_SPLITS_AT_ONCE;
    job->chunk_splits = choose_length(job, job->batch.rows * job->splits, most);
    uint32_t chunks = (job->splits + job->chunk_splits - 1) / job->chunk_splits;
    struct pool_stage stage = {.work = split_chunk,
                               .commit = commit_split,
                               .chunks = job->batch.rows * job->shape.kv_heads * job->group_chunks *
                                         chunks};
    job->cache->layer_reads[job->layer] = pool_push(pool, &stage, job, sizeof *job);
    stage = (struct pool_stage){.work = join_chunk, .chunks = job->batch.rows * job->shape.heads};
    if (job->splits > 1)
        pool_push(pool, &stage, job, sizeof *job);
}

static void push_spans(struct attention_job *job)
{
    uint32_t heads = job->group < CPU_HEADS_AT_ONCE ? job->group : CPU_HEADS_AT_ONCE;
    job->span = choose_length(job, job->batch.rows, queries_at_once(job) / heads);
    uint32_t spans = (job->batch.rows + job->span - 1) / job->span;
    struct pool_stage stage = {.work = span_chunk,
                               .chunks = spans * job->shape.kv_heads * job->group_chunks};
    job->cache->layer_reads[job->layer] = pool_push(job->cpu->pool, &stage, job, sizeof *job);
}

int VARIANT(cpu_attention)(struct backend *backend, const struct attention_shape *shape,
                           const struct batch *batch, const float *q, const struct kv_cache *cache,
                           uint32_t layer, float *out)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    assert(shape->head_dim == cache->options.head_dim);
    assert(shape->kv_heads == cache->options.kv_heads && layer < cache->options.layers);
    assert(shape->heads % shape->kv_heads == 0);
    uint32_t group = shape->heads / shape->kv_heads;
    struct attention_job job = {
        .cpu = cpu,
        .shape = *shape,
        .batch = *batch,
        .q = q,
        .cache = cache,
        .layer = layer,
        .out = out,
        .group = group,
        .group_chunks = (group + CPU_HEADS_AT_ONCE - 1) / CPU_HEADS_AT_ONCE,
        .partial_floats = (uint32_t)padded(shape->head_dim) + VECTOR_LANES,
    };
    job.splits = choose_splits(&job);
    if (job.splits)
        push_splits(&job);
    else
        push_spans(&job);
    cpu_finish(cpu);
    return 0;
}
