/*
 * The linear maps as stages of the pool.
 *
 * A few rows, as in decoding: one stage. Every thread norms and rounds the inputs for itself, which
 * takes less time than to wait for another, and works on chunks of outputs in memory of its own;
 * who commits a chunk adds it to the residual, or writes it. So a late thread's chunk can be
 * redone.
 *
 * Many rows: the inputs are prepared in a stage, in shared memory, then multiplied in another.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/quantised.h"

enum {
    CHUNK_BYTES = 1 << 18,  /* of plain weights: long enough for streams to get going */
    CHUNK_INPUTS = 1 << 18, /* floats, of many rows */
    CHUNK_OUTPUTS = 24,     /* whole tiles of every variant */
    CHUNK_OUTPUTS_MIN = 8,
    PACKED_CHUNK_BYTES = 1 << 17,  /* long enough for a stream to get going */
    PACKED_CHUNK_CACHED = 1 << 18, /* of many rows: stays in the cache for all of them */
    PACKED_CHUNK_STRIPS = 4,       /* as many as are read at once */
    CHUNKS_PER_THREAD = 8,         /* of a matrix: the last to end is not late by much */
    PREPARE_ELEMENTS = 1 << 13,    /* of a chunk of inputs to norm and to round */
    OWN_ROWS_MAX = PANEL_ROWS,
    OWN_ELEMENTS = 1 << 16, /* of several rows, which all threads together prepare for themselves */
};

static_assert(sizeof(struct linear_job) <= POOL_JOB_BYTES, "the pool copies jobs");
static_assert(CPU_OWN_OUTPUTS / OWN_ROWS_MAX >= PACKED_CHUNK_STRIPS * PACKED_STRIP,
              "a chunk's outputs fit");

static void multiply_part(const struct linear_job *job, const struct linear_part *part,
                          uint32_t thread)
{
    if (tensor_type_is_packed(part->map->weight.type))
        VARIANT(cpu_multiply_packed)(job, part->map, part->first, part->end, thread);
    else
        VARIANT(cpu_multiply_plain)(job, part, thread);
}

static uint32_t parts_of(uint32_t whole, uint32_t part)
{
    return whole / part + (whole % part != 0);
}

/* Chunks of the same rows follow each other: their inputs stay in the cache. */
static struct linear_part find_part(const struct linear_job *job, uint32_t chunk)
{
    const struct map *map = job->maps;
    while (!job->gated && map + 1 < job->maps + job->count && map[1].first_chunk <= chunk)
        map++;
    uint32_t a_row = parts_of(map->weight.rows, map->chunk_outputs);
    chunk -= map->first_chunk;
    uint32_t row = chunk / a_row * map->chunk_rows;
    uint32_t first = chunk % a_row * map->chunk_outputs;
    uint32_t rows = job->rows - row, outputs = map->weight.rows - first;
    return (struct linear_part){
        .map = map,
        .first = first,
        .end = first + (outputs < map->chunk_outputs ? outputs : map->chunk_outputs),
        .row = row,
        .rows = rows < map->chunk_rows ? rows : map->chunk_rows};
}

static void shared_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct linear_job *job = argument;
    struct linear_part part = find_part(job, chunk);
    multiply_part(job, &part, thread);
}

/* Once a stage: the inputs as the weights want to meet them, in the thread's own memory. */
static void prepare_own(const struct linear_job *job, struct cpu_own *own, uint32_t thread)
{
    struct pool *pool = job->cpu->pool;
    uint64_t number = pool_number(pool, thread);
    for (uint32_t row = 0; own->prepared != number && row < job->rows; row++) {
        const float *in = job->in + (size_t)row * job->width;
        float *to = own->inputs + (size_t)row * job->width;
        if (job->norm.weight.data) {
            VARIANT(cpu_norm_row)(&job->norm, in, job->width, to);
            in = to;
        } else if (job->has_plain) {
            memcpy(to, in, job->width * sizeof *to);
        }
        if (job->has_packed)
            VARIANT(cpu_quantise_row)(own->quantised, in, row, job->rows, job->width);
    }
    own->prepared = number;
    pool_inputs_read(pool, thread);
}

static void own_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct linear_job *shared = argument;
    struct cpu_own *own = &shared->cpu->own[thread];
    prepare_own(shared, own, thread);
    struct linear_job job = *shared;
    job.in = own->inputs;
    job.quantised = own->quantised;
    job.first_row = 0;
    struct linear_part part = find_part(shared, chunk);
    for (uint32_t i = 0; i < (job.gated ? 2 : 1); i++) {
        struct map map = part.map[i];
        struct linear_part own_part = part;
        own_part.map = &map;
        map.out = own->outputs + (size_t)i * CPU_OWN_OUTPUTS;
        map.stride = part.end - part.first;
        map.first = part.first;
        map.add = false;
        multiply_part(&job, &own_part, thread);
    }
    if (job.gated)
        VARIANT(cpu_gate)
    (own->outputs, own->outputs + CPU_OWN_OUTPUTS, (size_t)job.rows * (part.end - part.first));
}

static void commit_own_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct linear_job *job = argument;
    struct linear_part part = find_part(job, chunk);
    uint32_t count = part.end - part.first;
    const float *from = job->cpu->own[thread].outputs;
    for (uint32_t row = 0; row < job->rows; row++, from += count) {
        float *to = part.map->out + (size_t)(job->first_row + row) * part.map->stride + part.first;
        for (uint32_t i = 0; part.map->add && i < count; i++)
            to[i] = to[i] + from[i];
        if (!part.map->add)
            memcpy(to, from, count * sizeof *to);
    }
}

/* Rows of a plain map's chunk: about equal parts, of which the inputs stay in the second cache. */
static uint32_t plain_chunk_rows(const struct linear_job *job)
{
    uint32_t most = CHUNK_INPUTS / job->width;
    most = most < CPU_PANEL_ROWS ? most : CPU_PANEL_ROWS;
    most = most > OWN_ROWS_MAX ? most : OWN_ROWS_MAX;
    return parts_of(job->rows, parts_of(job->rows, most));
}

/* Enough work to be worth a thread's attention, little enough to be shared evenly. Of many rows as
 * much as a panel's sums are kept for: each input that is fetched serves so many outputs. */
static uint32_t plain_chunk_outputs(const struct linear_job *job, const struct map *map)
{
    uint64_t row_bytes = (uint64_t)job->width * tensor_type_bytes(map->weight.type);
    uint64_t outputs = job->rows > OWN_ROWS_MAX ? CPU_PANEL_OUTPUTS : CHUNK_BYTES / row_bytes;
    uint64_t chunks = (uint64_t)pool_threads(job->cpu->pool) * CHUNKS_PER_THREAD /
                      parts_of(job->rows, map->chunk_rows);
    uint64_t by_threads = map->weight.rows / (chunks ? chunks : 1);
    outputs = outputs < by_threads ? outputs : by_threads;
    outputs -= outputs % (outputs < CHUNK_OUTPUTS ? CHUNK_OUTPUTS_MIN : CHUNK_OUTPUTS);
    return outputs ? (uint32_t)outputs : CHUNK_OUTPUTS_MIN;
}

static uint32_t packed_chunk_outputs(const struct linear_job *job, const struct tensor *weight)
{
    uint32_t threads = pool_threads(job->cpu->pool);
    uint64_t strips = PACKED_CHUNK_BYTES / packed_strip_bytes(weight->type, weight->cols);
    uint64_t by_threads = weight->rows / PACKED_STRIP / ((uint64_t)threads * CHUNKS_PER_THREAD);
    uint32_t unit = PACKED_CHUNK_STRIPS;
    if (job->rows > PANEL_ROWS) {
        strips = PACKED_CHUNK_CACHED / packed_strip_bytes(weight->type, weight->cols);
        unit = 1;
    }
    strips = strips < by_threads ? strips : by_threads;
    strips -= strips % unit;
    return (strips ? (uint32_t)strips : unit) * PACKED_STRIP;
}

static uint32_t count_chunks(struct linear_job *job, bool own)
{
    uint32_t chunks = 0,
             fit = CPU_OWN_OUTPUTS / (job->rows < OWN_ROWS_MAX ? job->rows : OWN_ROWS_MAX);
    fit -= fit % (PACKED_CHUNK_STRIPS * PACKED_STRIP);
    for (uint32_t i = 0; i < job->count; i++) {
        struct map *map = &job->maps[i];
        bool packed = tensor_type_is_packed(map->weight.type);
        map->chunk_rows = packed ? job->rows : plain_chunk_rows(job);
        map->chunk_outputs =
            packed ? packed_chunk_outputs(job, &map->weight) : plain_chunk_outputs(job, map);
        if (own && map->chunk_outputs > fit)
            map->chunk_outputs = fit;
        map->first_chunk = chunks;
        if (!job->gated || i == 0)
            chunks += parts_of(map->weight.rows, map->chunk_outputs) *
                      parts_of(job->rows, map->chunk_rows);
    }
    return chunks;
}

/* Whether every thread prepares the inputs for itself. */
static bool is_own(const struct linear_job *job)
{
    uint64_t padded = (uint64_t)panel_stride(job->rows) * packed_groups(job->width) * PACKED_GROUP;
    uint64_t all = padded * pool_threads(job->cpu->pool);
    bool mixed = job->gated && job->has_plain && job->has_packed; /* cut differently */
    return !mixed && job->rows <= OWN_ROWS_MAX && padded <= CPU_OWN_INPUTS &&
           (job->rows == 1 || all <= OWN_ELEMENTS);
}

static void push_own(struct linear_job *job)
{
    struct pool_stage stage = {
        .work = own_chunk, .commit = commit_own_chunk, .chunks = count_chunks(job, true)};
    pool_push(job->cpu->pool, &stage, job, sizeof *job);
}

struct prepare_job {
    struct cpu_backend *cpu;
    const float *in;
    struct rms_norm norm;
    bool quantise;
    uint32_t rows, width, chunk_rows;
};

static void prepare_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct prepare_job *job = argument;
    uint32_t row = chunk * job->chunk_rows;
    uint32_t end = job->rows - row < job->chunk_rows ? job->rows : row + job->chunk_rows;
    for (; row < end; row++) {
        const float *in = job->in + (size_t)row * job->width;
        if (job->norm.weight.data) {
            float *normed = job->cpu->scratch + (size_t)row * job->width;
            VARIANT(cpu_norm_row)(&job->norm, in, job->width, normed);
            in = normed;
        }
        if (job->quantise)
            VARIANT(cpu_quantise_row)(job->cpu->quantised, in, row, job->rows, job->width);
    }
}

/* After it, job->in are the normed inputs. */
static void push_prepare(struct linear_job *job)
{
    if (!job->norm.weight.data && !job->has_packed)
        return;
    uint32_t chunk_rows = PREPARE_ELEMENTS / job->width;
    struct prepare_job prepare = {.cpu = job->cpu,
                                  .in = job->in,
                                  .norm = job->norm,
                                  .quantise = job->has_packed,
                                  .rows = job->rows,
                                  .width = job->width,
                                  .chunk_rows = chunk_rows ? chunk_rows : 1};
    uint32_t chunks = job->rows / prepare.chunk_rows + (job->rows % prepare.chunk_rows != 0);
    pool_push(job->cpu->pool, &(struct pool_stage){.work = prepare_chunk, .chunks = chunks},
              &prepare, sizeof prepare);
    job->quantised = job->cpu->quantised;
    if (job->norm.weight.data)
        job->in = job->cpu->scratch;
}

static void push_shared(struct linear_job *job)
{
    bool gated = job->gated;
    job->gated = false; /* two maps like any */
    push_prepare(job);
    struct pool_stage stage = {.work = shared_chunk, .chunks = count_chunks(job, false)};
    pool_push(job->cpu->pool, &stage, job, sizeof *job);
    size_t offset = (size_t)job->first_row * job->maps[0].weight.rows;
    if (gated)
        VARIANT(cpu_push_gate)
    (job->cpu, job->maps[0].out + offset, job->maps[1].out + offset,
     (size_t)job->rows * job->maps[0].weight.rows);
}

/* How many rows of `width` go through the scratch memory at once, in about equal parts; 0: not
 * one does. */
static uint32_t rows_at_once(uint32_t rows, uint32_t width)
{
    uint32_t fit = CPU_SCRATCH_FLOATS / width;
    if (rows <= fit)
        return rows;
    uint32_t parts = fit ? rows / fit + (rows % fit != 0) : 1;
    return fit ? rows / parts + (rows % parts != 0) : 0;
}

/* The same for the rounded inputs. Whole panels, or as many rows as one tile takes. */
static uint32_t quantised_rows_at_once(uint32_t rows, uint32_t width)
{
    uint64_t fit = CPU_SCRATCH_FLOATS / ((uint64_t)packed_groups(width) * PACKED_GROUP);
    if (fit < PANEL_ROWS)
        return fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : (uint32_t)fit;
    fit -= fit % PANEL_ROWS;
    if (rows <= fit)
        return rows;
    uint64_t parts = (rows + fit - 1) / fit;
    uint64_t step = (rows + parts - 1) / parts;
    return (uint32_t)((step + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS);
}

/* Which rows of a call go through the working memory at once; 0: not one. */
static uint32_t rows_of_step(const struct linear_job *job, uint32_t out_width)
{
    uint32_t step = job->rows;
    if (is_own(job))
        step = job->rows;
    else if (job->has_packed)
        step = quantised_rows_at_once(job->rows, job->width);
    else if (job->norm.weight.data)
        step = rows_at_once(job->rows, job->width);
    if (!out_width)
        return step;
    uint32_t fit = rows_at_once(job->rows, out_width);
    return step < fit ? step : fit;
}

static struct linear_job rows_of_job(const struct linear_job *whole, uint32_t row, uint32_t step)
{
    struct linear_job job = *whole;
    job.in += (size_t)row * job.width;
    job.first_row = row;
    job.rows = job.rows - row < step ? job.rows - row : step;
    return job;
}

static int push_all(const struct linear_job *whole)
{
    uint32_t step = rows_of_step(whole, 0);
    if (!step && whole->rows)
        return -EINVAL;
    for (uint32_t row = 0; row < whole->rows; row += step) {
        struct linear_job job = rows_of_job(whole, row, step);
        if (is_own(&job))
            push_own(&job);
        else
            push_shared(&job);
    }
    cpu_finish(whole->cpu);
    return 0;
}

static void add_map(struct linear_job *job, struct tensor weight, struct tensor bias, float *out)
{
    assert(weight.cols == job->width && weight.rows > 0 && job->count < MAPS_MAX);
    job->maps[job->count++] =
        (struct map){.weight = weight, .bias = bias, .out = out, .stride = weight.rows};
    if (tensor_type_is_packed(weight.type))
        job->has_packed = true;
    else
        job->has_plain = true;
}

int VARIANT(cpu_linear)(struct backend *backend, const float *in, uint32_t rows, uint32_t width,
                        const struct rms_norm *norm, const struct linear_output *outputs,
                        uint32_t count)
{
    struct linear_job job = {
        .cpu = (struct cpu_backend *)backend, .in = in, .rows = rows, .width = width};
    assert(width > 0);
    if (norm)
        job.norm = *norm;
    for (uint32_t i = 0; i < count; i++)
        add_map(&job, outputs[i].weight, outputs[i].bias, outputs[i].out);
    return push_all(&job);
}

int VARIANT(cpu_linear_gated)(struct backend *backend, const float *in, uint32_t rows,
                              uint32_t width, const struct rms_norm *norm,
                              const struct tensor *gate, const struct tensor *up, float *out,
                              float *work)
{
    struct linear_job job = {.cpu = (struct cpu_backend *)backend,
                             .in = in,
                             .rows = rows,
                             .width = width,
                             .gated = true};
    assert(width > 0 && gate->rows == up->rows);
    if (norm)
        job.norm = *norm;
    add_map(&job, *gate, (struct tensor){0}, out);
    add_map(&job, *up, (struct tensor){0}, work);
    return push_all(&job);
}

/* residual += norm(product): through the scratch, in parts. */
static int push_normed(const struct linear_job *whole, const struct rms_norm *norm, float *residual)
{
    uint32_t outputs = whole->maps[0].weight.rows;
    uint32_t step = rows_of_step(whole, outputs);
    if (!step && whole->rows)
        return -EINVAL;
    for (uint32_t row = 0; row < whole->rows; row += step) {
        struct linear_job job = rows_of_job(whole, row, step);
        job.first_row = 0;
        job.maps[0].add = false;
        job.maps[0].out = job.cpu->scratch;
        if (is_own(&job))
            push_own(&job);
        else
            push_shared(&job);
        VARIANT(cpu_push_norm_add)
        (job.cpu->pool, norm, job.cpu->scratch, job.rows, outputs,
         residual + (size_t)row * outputs);
    }
    cpu_finish(whole->cpu);
    return 0;
}

int VARIANT(cpu_linear_add)(struct backend *backend, const float *in, uint32_t rows,
                            const struct tensor *weight, const struct tensor *bias,
                            const struct rms_norm *norm, float *residual)
{
    struct linear_job job = {
        .cpu = (struct cpu_backend *)backend, .in = in, .rows = rows, .width = weight->cols};
    add_map(&job, *weight, bias ? *bias : (struct tensor){0}, residual);
    job.maps[0].add = true;
    return norm && norm->weight.data ? push_normed(&job, norm, residual) : push_all(&job);
}
