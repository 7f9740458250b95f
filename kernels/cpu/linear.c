/*
 * Matrix products: out[r][o] = sum over k of in[r][k] * weight[o][k].
 *
 * A tile of a few rows and a few outputs is summed at once, so that each weight read serves several
 * rows and each input several outputs. Every (row, output) has one vector of sums of its own and
 * meets its products in ascending k, whatever the tile: its bits do not depend on who else is in
 * the batch.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>

#include "kernels/cpu/cpu.h"
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
};

/* One weight matrix as the chunks see it. */
struct map {
    const struct linear_output *output;
    bool add; /* to what is in output->out */
    uint32_t chunk_outputs;
    uint32_t first_chunk;
};

struct linear_job {
    const float *in;
    uint32_t first_row; /* of the outputs, for in's row 0 */
    uint32_t rows;
    uint32_t width;
    const struct map *maps;
    uint32_t count;
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
    }
}

/* Enough work to be worth a thread's attention, little enough to be shared evenly. */
static uint32_t chunk_outputs(uint32_t rows, uint32_t width)
{
    uint64_t by_weights = CHUNK_WEIGHTS / (uint64_t)width;
    uint64_t by_products = CHUNK_PRODUCTS / ((uint64_t)width * rows);
    uint64_t outputs = by_products < CHUNK_OUTPUTS_MIN ? CHUNK_OUTPUTS_MIN : by_products;
    outputs = outputs < by_weights ? outputs : by_weights;
    outputs -= outputs % TILE_OUTPUTS;
    return outputs ? (uint32_t)outputs : TILE_OUTPUTS;
}

static void multiply(struct pool *pool, struct linear_job *job, struct map *maps)
{
    uint32_t chunks = 0;
    for (uint32_t i = 0; i < job->count; i++) {
        maps[i].chunk_outputs = chunk_outputs(job->rows, job->width);
        maps[i].first_chunk = chunks;
        uint32_t outputs = maps[i].output->weight.rows;
        chunks += outputs / maps[i].chunk_outputs + (outputs % maps[i].chunk_outputs != 0);
    }
    job->maps = maps;
    pool_run(pool, linear_chunk, job, chunks);
}

/* How many rows of `width` fit into the scratch memory. */
static uint32_t rows_at_once(uint32_t rows, uint32_t width)
{
    uint32_t fit = CPU_SCRATCH_FLOATS / width;
    return rows < fit ? rows : fit;
}

int VARIANT(cpu_linear)(struct backend *backend, const float *in, uint32_t rows, uint32_t width,
                        const struct rms_norm *norm, const struct linear_output *outputs,
                        uint32_t count)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    bool normed = norm && norm->weight.data;
    struct map maps[MAPS_MAX];
    assert(count <= MAPS_MAX && width > 0);
    if (normed && width > CPU_SCRATCH_FLOATS)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        assert(outputs[i].weight.cols == width);
        maps[i] = (struct map){.output = &outputs[i]};
    }

    uint32_t step = normed && rows ? rows_at_once(rows, width) : rows;
    for (uint32_t row = 0; row < rows; row += step) {
        struct linear_job job = {.in = in + (size_t)row * width,
                                 .first_row = row,
                                 .rows = rows - row < step ? rows - row : step,
                                 .width = width,
                                 .count = count};
        if (normed) {
            VARIANT(cpu_norm_rows)(cpu->pool, norm, job.in, job.rows, width, cpu->scratch);
            job.in = cpu->scratch;
        }
        multiply(cpu->pool, &job, maps);
    }
    return 0;
}

/* With a norm of the output: through the scratch, in parts. */
static void linear_norm_add(struct cpu_backend *cpu, const float *in, uint32_t rows,
                            const struct tensor *weight, const struct tensor *bias,
                            const struct rms_norm *norm, float *residual)
{
    struct linear_output output = {.weight = *weight, .out = cpu->scratch};
    if (bias)
        output.bias = *bias;
    struct map map = {.output = &output};
    uint32_t step = rows_at_once(rows, weight->rows);
    for (uint32_t row = 0; row < rows; row += step) {
        struct linear_job job = {.in = in + (size_t)row * weight->cols,
                                 .rows = rows - row < step ? rows - row : step,
                                 .width = weight->cols,
                                 .count = 1};
        multiply(cpu->pool, &job, &map);
        VARIANT(cpu_norm_add_rows)
        (cpu->pool, norm, cpu->scratch, job.rows, weight->rows,
         residual + (size_t)row * weight->rows);
    }
}

int VARIANT(cpu_linear_add)(struct backend *backend, const float *in, uint32_t rows,
                            const struct tensor *weight, const struct tensor *bias,
                            const struct rms_norm *norm, float *residual)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    assert(weight->cols > 0 && weight->rows > 0);
    if (norm && norm->weight.data) {
        if (weight->rows > CPU_SCRATCH_FLOATS)
            return -EINVAL;
        linear_norm_add(cpu, in, rows, weight, bias, norm, residual);
        return 0;
    }
    struct linear_output output = {.weight = *weight, .out = residual};
    if (bias)
        output.bias = *bias;
    struct map map = {.output = &output, .add = true};
    struct linear_job job = {.in = in, .rows = rows, .width = weight->cols, .count = 1};
    if (rows)
        multiply(cpu->pool, &job, &map);
    return 0;
}
