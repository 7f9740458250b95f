/*
 * Matrix products: out[r][o] = sum over k of in[r][k] * weight[o][k].
 *
 * A tile of a few rows and a few outputs is summed at once, so that each weight read serves several
 * rows and each input several outputs. Every (row, output) has one vector of sums of its own and
 * meets its products in ascending k, whatever the tile: its bits do not depend on who else is in
 * the batch.
 *
 * Weights of plain types are multiplied here, packed ones in linear_packed.c.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/quantised.h"
#include "kernels/cpu/vector.h"

enum {
#if VECTOR_LANES == 16
    TILE_ROWS = 4, /* 32 registers: 16 of sums, 4 of weights */
#else
    TILE_ROWS = 2, /* 16 registers: 8 of sums, 4 of weights */
#endif
    TILE_OUTPUTS = 4,
    CHUNK_WEIGHTS = 1 << 16, /* of one chunk: they stay in the cache for all rows */
    CHUNK_PRODUCTS = 1 << 18,
    CHUNK_OUTPUTS_MIN = 8,
    PACKED_CHUNK_BYTES = 1 << 17,    /* long enough for a stream to get going */
    PACKED_CHUNK_PRODUCTS = 1 << 22, /* the same for many rows */
    PACKED_CHUNK_STRIPS = 4,         /* as many as are read at once */
    CHUNKS_PER_THREAD = 8,           /* of a matrix: the last to end is not late by much */
    PREPARE_ELEMENTS = 1 << 13,      /* of a chunk of inputs to norm and to round */
};

enum { MAPS_MAX = 8 };

/* sums[r][o] for r < rows, o < outputs, of inputs and weights from these pointers on. */
SPECIALISED void sum_tile(const float *in, const char *weight, size_t width, enum tensor_type type,
                          int rows, int outputs, float sums[TILE_ROWS][TILE_OUTPUTS])
{
    size_t row_bytes = width * tensor_type_bytes(type);
    vector_f32 lanes[TILE_ROWS][TILE_OUTPUTS] = {0};
    size_t whole = width - width % VECTOR_LANES;
    size_t left = width - whole;
    for (size_t k = 0; k < whole; k += VECTOR_LANES) {
        vector_f32 w[TILE_OUTPUTS];
        for (int o = 0; o < outputs; o++)
            w[o] = load_elements(type, weight + o * row_bytes, k);
        for (int r = 0; r < rows; r++) {
            vector_f32 x = load_f32(in + r * width + k);
            for (int o = 0; o < outputs; o++)
                lanes[r][o] = multiply_add(x, w[o], lanes[r][o]);
        }
    }
    for (int r = 0; left && r < rows; r++) {
        vector_f32 x = load_tail(TENSOR_F32, in + r * width, whole, left);
        for (int o = 0; o < outputs; o++)
            lanes[r][o] =
                multiply_add(x, load_tail(type, weight + o * row_bytes, whole, left), lanes[r][o]);
    }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outputs; o++)
            sums[r][o] = vector_sum(lanes[r][o]);
}

SPECIALISED void sum_rows(const float *in, const char *weight, size_t width, enum tensor_type type,
                          int rows, int outputs, float sums[TILE_ROWS][TILE_OUTPUTS])
{
    if (outputs == TILE_OUTPUTS)
        sum_tile(in, weight, width, type, rows, TILE_OUTPUTS, sums);
    else
        for (int o = 0; o < outputs; o++) {
            float one[TILE_ROWS][TILE_OUTPUTS];
            sum_tile(in, weight + o * width * tensor_type_bytes(type), width, type, rows, 1, one);
            for (int r = 0; r < rows; r++)
                sums[r][o] = one[r][0];
        }
}

static float bias_at(const struct tensor *bias, uint32_t index)
{
    return bias->data ? load_tail(bias->type, bias->data, index, 1)[0] : 0.0f;
}

static void write_tile(const struct map *map, uint32_t first_row, int rows, uint32_t first_output,
                       int outputs, float sums[TILE_ROWS][TILE_OUTPUTS])
{
    const struct linear_output *output = map->output;
    for (int o = 0; o < outputs; o++) {
        float bias = bias_at(&output->bias, first_output + (uint32_t)o);
        for (int r = 0; r < rows; r++) {
            float *to = output->out + (size_t)(first_row + (uint32_t)r) * output->weight.rows +
                        first_output + o;
            float sum = sums[r][o] + bias;
            *to = map->add ? *to + sum : sum;
        }
    }
}

SPECIALISED void multiply_outputs(const struct linear_job *job, const struct map *map,
                                  uint32_t first, uint32_t end, enum tensor_type type)
{
    const char *weights = map->output->weight.data;
    size_t row_bytes = job->width * tensor_type_bytes(type);
    for (uint32_t row = 0; row < job->rows; row += TILE_ROWS) {
        const float *in = job->in + (size_t)row * job->width;
        int rows = job->rows - row < TILE_ROWS ? (int)(job->rows - row) : TILE_ROWS;
        for (uint32_t o = first; o < end; o += TILE_OUTPUTS) {
            int outputs = end - o < TILE_OUTPUTS ? (int)(end - o) : TILE_OUTPUTS;
            const char *weight = weights + o * row_bytes;
            float sums[TILE_ROWS][TILE_OUTPUTS];
            if (rows == TILE_ROWS)
                sum_rows(in, weight, job->width, type, TILE_ROWS, outputs, sums);
            else
                for (int r = 0; r < rows; r++)
                    sum_rows(in + (size_t)r * job->width, weight, job->width, type, 1, outputs,
                             sums + r);
            write_tile(map, job->first_row + row, rows, o, outputs, sums);
        }
    }
}

static void linear_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct linear_job *job = argument;
    const struct map *map = job->maps;
    while (map + 1 < job->maps + job->count && map[1].first_chunk <= chunk)
        map++;
    const struct tensor *weight = &map->output->weight;
    uint32_t first = (chunk - map->first_chunk) * map->chunk_outputs;
    uint32_t end =
        weight->rows - first < map->chunk_outputs ? weight->rows : first + map->chunk_outputs;
    switch (weight->type) {
    case TENSOR_F32:
        multiply_outputs(job, map, first, end, TENSOR_F32);
        break;
    case TENSOR_F16:
        multiply_outputs(job, map, first, end, TENSOR_F16);
        break;
    case TENSOR_BF16:
        multiply_outputs(job, map, first, end, TENSOR_BF16);
        break;
    default:
        VARIANT(cpu_multiply_packed)(job, map, first, end, thread);
    }
}

/* Enough work to be worth a thread's attention, little enough to be shared evenly. */
static uint32_t plain_chunk_outputs(uint32_t rows, uint32_t width)
{
    uint64_t by_weights = CHUNK_WEIGHTS / (uint64_t)width;
    uint64_t by_products = CHUNK_PRODUCTS / ((uint64_t)width * rows);
    uint64_t outputs = by_products < CHUNK_OUTPUTS_MIN ? CHUNK_OUTPUTS_MIN : by_products;
    outputs = outputs < by_weights ? outputs : by_weights;
    outputs -= outputs % TILE_OUTPUTS;
    return outputs ? (uint32_t)outputs : TILE_OUTPUTS;
}

static uint32_t packed_chunk_outputs(const struct linear_job *job, const struct tensor *weight)
{
    uint32_t threads = pool_threads(job->cpu->pool);
    uint64_t strips = PACKED_CHUNK_BYTES / packed_strip_bytes(weight->type, weight->cols);
    uint64_t by_products =
        PACKED_CHUNK_PRODUCTS / ((uint64_t)job->rows * job->width * PACKED_STRIP);
    uint64_t by_threads = weight->rows / PACKED_STRIP / ((uint64_t)threads * CHUNKS_PER_THREAD);
    uint32_t unit = job->rows > PANEL_ROWS ? 1 : PACKED_CHUNK_STRIPS;
    if (job->rows > PANEL_ROWS)
        strips = by_products;
    strips = strips < by_threads ? strips : by_threads;
    strips -= strips % unit;
    return (strips ? (uint32_t)strips : unit) * PACKED_STRIP;
}

static void multiply(struct linear_job *job, struct map *maps, uint32_t count)
{
    uint32_t chunks = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct tensor *weight = &maps[i].output->weight;
        maps[i].chunk_outputs = tensor_type_is_packed(weight->type)
                                    ? packed_chunk_outputs(job, weight)
                                    : plain_chunk_outputs(job->rows, job->width);
        maps[i].first_chunk = chunks;
        chunks +=
            weight->rows / maps[i].chunk_outputs + (weight->rows % maps[i].chunk_outputs != 0);
    }
    job->maps = maps;
    job->count = count;
    pool_run(job->cpu->pool, linear_chunk, job, chunks);
}

/* What the weights want to meet: inputs normed, rounded, both or neither. */
struct prepare_job {
    const struct linear_job *linear;
    const struct rms_norm *norm; /* NULL: none */
    bool quantise;
    uint32_t chunk_rows;
};

static void prepare_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct prepare_job *job = argument;
    const struct linear_job *linear = job->linear;
    uint32_t row = chunk * job->chunk_rows;
    uint32_t end = linear->rows - row < job->chunk_rows ? linear->rows : row + job->chunk_rows;
    for (; row < end; row++) {
        const float *in = linear->in + (size_t)row * linear->width;
        if (job->norm) {
            float *normed = linear->cpu->scratch + (size_t)row * linear->width;
            VARIANT(cpu_norm_row)(job->norm, in, linear->width, normed);
            in = normed;
        }
        if (job->quantise)
            VARIANT(cpu_quantise_row)(linear->cpu, in, row, linear->rows, linear->width);
    }
}

/* After it, job->in are the normed inputs. */
static void prepare(struct linear_job *job, const struct rms_norm *norm, bool quantise)
{
    if (!norm && !quantise)
        return;
    uint32_t chunk_rows = PREPARE_ELEMENTS / job->width;
    struct prepare_job prepare = {.linear = job,
                                  .norm = norm,
                                  .quantise = quantise,
                                  .chunk_rows = chunk_rows ? chunk_rows : 1};
    uint32_t chunks = job->rows / prepare.chunk_rows + (job->rows % prepare.chunk_rows != 0);
    pool_run(job->cpu->pool, prepare_chunk, &prepare, chunks);
    if (norm)
        job->in = job->cpu->scratch;
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

int VARIANT(cpu_linear)(struct backend *backend, const float *in, uint32_t rows, uint32_t width,
                        const struct rms_norm *norm, const struct linear_output *outputs,
                        uint32_t count)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    bool normed = norm && norm->weight.data, quantise = false;
    struct map maps[MAPS_MAX];
    assert(count <= MAPS_MAX && width > 0);
    for (uint32_t i = 0; i < count; i++) {
        assert(outputs[i].weight.cols == width);
        maps[i] = (struct map){.output = &outputs[i]};
        quantise = quantise || tensor_type_is_packed(outputs[i].weight.type);
    }

    uint32_t step = rows;
    if (quantise)
        step = quantised_rows_at_once(rows, width);
    else if (normed)
        step = rows_at_once(rows, width);
    if (!step && rows)
        return -EINVAL;
    for (uint32_t row = 0; row < rows; row += step) {
        struct linear_job job = {.cpu = cpu,
                                 .in = in + (size_t)row * width,
                                 .first_row = row,
                                 .rows = rows - row < step ? rows - row : step,
                                 .width = width};
        prepare(&job, normed ? norm : NULL, quantise);
        multiply(&job, maps, count);
    }
    return 0;
}

/* With a norm of the output: through the scratch, in parts. */
static void linear_norm_add(struct cpu_backend *cpu, const struct linear_job *whole, uint32_t step,
                            const struct linear_output *output, const struct rms_norm *norm,
                            float *residual)
{
    struct linear_output to_scratch = *output;
    to_scratch.out = cpu->scratch;
    struct map map = {.output = &to_scratch};
    uint32_t outputs = output->weight.rows;
    for (uint32_t row = 0; row < whole->rows; row += step) {
        struct linear_job job = *whole;
        job.in += (size_t)row * job.width;
        job.rows = job.rows - row < step ? job.rows - row : step;
        prepare(&job, NULL, tensor_type_is_packed(output->weight.type));
        multiply(&job, &map, 1);
        VARIANT(cpu_norm_add_rows)
        (cpu->pool, norm, cpu->scratch, job.rows, outputs, residual + (size_t)row * outputs);
    }
}

static void linear_add(const struct linear_job *whole, uint32_t step,
                       const struct linear_output *output)
{
    struct map map = {.output = output, .add = true};
    for (uint32_t row = 0; row < whole->rows; row += step) {
        struct linear_job job = *whole;
        job.in += (size_t)row * job.width;
        job.first_row = row;
        job.rows = job.rows - row < step ? job.rows - row : step;
        prepare(&job, NULL, tensor_type_is_packed(output->weight.type));
        multiply(&job, &map, 1);
    }
}

int VARIANT(cpu_linear_add)(struct backend *backend, const float *in, uint32_t rows,
                            const struct tensor *weight, const struct tensor *bias,
                            const struct rms_norm *norm, float *residual)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    bool normed = norm && norm->weight.data;
    assert(weight->cols > 0 && weight->rows > 0);
    uint32_t step = rows;
    if (tensor_type_is_packed(weight->type))
        step = quantised_rows_at_once(rows, weight->cols);
    if (normed) {
        uint32_t fit = rows_at_once(rows, weight->rows);
        step = step < fit ? step : fit;
    }
    if (!step && rows)
        return -EINVAL;
    struct linear_job job = {.cpu = cpu, .in = in, .rows = rows, .width = weight->cols};
    struct linear_output output = {.weight = *weight, .out = residual};
    if (bias)
        output.bias = *bias;
    if (normed)
        linear_norm_add(cpu, &job, step, &output, norm, residual);
    else
        linear_add(&job, step, &output);
    return 0;
}
