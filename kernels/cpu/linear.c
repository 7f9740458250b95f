/*
 * Matrix products: out[r][o] = sum over k of in[r][k] * weight[o][k].
 *
 * A tile of a few rows and a few outputs is summed at once, so that each weight read serves several
 * rows and each input several outputs. Every (row, output) has one vector of sums of its own and
 * meets its products in ascending k, whatever the tile: its bits do not depend on who else is in
 * the batch.
 *
 * Weights of plain types are multiplied here, packed ones in linear_packed.c; linear_stages.c cuts
 * the work into chunks.
 */
#include <assert.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/vector.h"

enum {
#if VECTOR_LANES == 16
    TILE_ROWS = 4, /* 32 registers: 16 of sums, 4 of weights */
#else
    TILE_ROWS = 2, /* 16 registers: 8 of sums, 4 of weights */
#endif
    TILE_OUTPUTS = 4,
};

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
    for (int o = 0; o < outputs; o++) {
        float bias = bias_at(&map->bias, first_output + (uint32_t)o);
        for (int r = 0; r < rows; r++) {
            float *to = map->out + (size_t)(first_row + (uint32_t)r) * map->stride +
                        (first_output + (uint32_t)o - map->first);
            float sum = sums[r][o] + bias;
            *to = map->add ? *to + sum : sum;
        }
    }
}

SPECIALISED void multiply_outputs(const struct linear_job *job, const struct map *map,
                                  uint32_t first, uint32_t end, enum tensor_type type)
{
    const char *weights = map->weight.data;
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

void VARIANT(cpu_multiply_plain)(const struct linear_job *job, const struct map *map,
                                 uint32_t first, uint32_t end)
{
    switch (map->weight.type) {
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
        assert(!"weights of a packed type are not plain");
    }
}
