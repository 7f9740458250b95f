/*
 * Matrix products: out[r][o] = sum over k of in[r][k] * weight[o][k], with weights of plain types.
 * Packed ones are in linear_packed.c; linear_stages.c cuts the work into chunks.
 *
 * Here: few rows, as in decoding. What takes the time is reading the weights. Several outputs are
 * summed at once: as many streams of loads, and each input is used for all of them; each weight is
 * used for all rows while it is in a register. More rows are in linear_panel.c, by the same sums
 * (linear_plain.h).
 */
#include <assert.h>

#include "kernels/cpu/linear_plain.h"

enum {
#if VECTOR_LANES == 16
    ROWS_MAX = 8, /* 32 registers: up to 24 of sums, 4 of weights, 1 of inputs */
    ROWS_FOUR = 6,
#else
    ROWS_MAX = 3, /* 16 registers: up to 9 of sums, 4 of weights, 1 of inputs */
    ROWS_FOUR = 2,
#endif
    GROUP = 4,          /* outputs at once up to ROWS_FOUR rows; with more, one less */
    AHEAD_BYTES = 2048, /* of each output's weights */
};

/* Weights of `outputs` rows from `weight` on, and what is asked for while they are read. */
struct group {
    const float *in;           /* [rows, width] */
    const char *weight, *next; /* next: what is read after them */
    size_t width;
};

/* lanes[r][o] of all whole vectors of columns. The last columns ask for the first ones of what is
 * next. */
SPECIALISED void sum_group(const struct group *group, enum tensor_type type, int rows, int outputs,
                           vector_f32 ret_lanes[ROWS_MAX][GROUP])
{
    size_t width = group->width, bytes = tensor_type_bytes(type);
    size_t row_bytes = width * bytes, ahead = AHEAD_BYTES / bytes;
    size_t whole = width - width % VECTOR_LANES;
    size_t own = whole > ahead ? whole - ahead : 0; /* columns that ask for their own row's */
    vector_f32 lanes[ROWS_MAX][GROUP];
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outputs; o++)
            lanes[r][o] = vector_all(0.0f);
    const char *asked = group->weight + ahead * bytes;
    size_t k = 0;
    for (size_t end = own;; end = whole, asked = group->next - own * bytes) {
        for (; k < end; k += VECTOR_LANES) {
            vector_f32 w[GROUP];
            for (int o = 0; o < outputs; o++) {
                w[o] = load_elements(type, group->weight + o * row_bytes, k);
                __builtin_prefetch(asked + o * row_bytes + k * bytes);
            }
            for (int r = 0; r < rows; r++) {
                vector_f32 x = in_register(load_f32(group->in + r * width + k));
                for (int o = 0; o < outputs; o++)
                    lanes[r][o] = multiply_add(x, w[o], lanes[r][o]);
            }
        }
        if (end == whole)
            break;
    }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outputs; o++)
            ret_lanes[r][o] = lanes[r][o];
}

/* The columns beyond whole vectors. */
static void add_tail(const struct group *group, enum tensor_type type, int rows, int outputs,
                     vector_f32 lanes[ROWS_MAX][GROUP])
{
    size_t row_bytes = group->width * tensor_type_bytes(type);
    size_t left = group->width % VECTOR_LANES, whole = group->width - left;
    for (int r = 0; r < rows; r++) {
        vector_f32 x = load_tail(TENSOR_F32, group->in + (size_t)r * group->width, whole, left);
        for (int o = 0; o < outputs; o++)
            lanes[r][o] =
                multiply_add(x, load_tail(type, group->weight + (size_t)o * row_bytes, whole, left),
                             lanes[r][o]);
    }
}

/* The sums of the outputs [first, end) of a group that begins with output `from`. */
static void write_group(const struct linear_job *job, const struct linear_part *part, uint32_t from,
                        uint32_t first, uint32_t end, vector_f32 lanes[ROWS_MAX][GROUP])
{
    for (uint32_t o = first; o < end; o++) {
        float bias = bias_at(&part->map->bias, o);
        for (uint32_t r = 0; r < part->rows; r++)
            write_sum(part->map, place_of(job, part->map, part->row + r, o),
                      vector_sum(lanes[r][o - from]) + bias);
    }
}

/* The last group begins early enough to be whole: what it computes again is not written again. */
SPECIALISED void multiply_rows(const struct linear_job *job, const struct linear_part *part,
                               enum tensor_type type, int rows)
{
    int outputs = rows <= ROWS_FOUR ? GROUP : GROUP - 1;
    size_t row_bytes = job->width * tensor_type_bytes(type);
    uint32_t last = part->end - (uint32_t)outputs;
    struct group group = {.in = job->in + (size_t)part->row * job->width, .width = job->width};
    for (uint32_t o = part->first; o < part->end; o += (uint32_t)outputs) {
        uint32_t from = o < last ? o : last;
        vector_f32 lanes[ROWS_MAX][GROUP];
        group.weight = (const char *)part->map->weight.data + from * row_bytes;
        group.next = group.weight + (o < last ? (size_t)outputs * row_bytes : 0);
        sum_group(&group, type, rows, outputs, lanes);
        if (job->width % VECTOR_LANES)
            add_tail(&group, type, rows, outputs, lanes);
        write_group(job, part, from, o, from + (uint32_t)outputs, lanes);
    }
}

SPECIALISED void multiply_few(const struct linear_job *job, const struct linear_part *part,
                              enum tensor_type type)
{
    switch (part->rows) {
    case 1:
        multiply_rows(job, part, type, 1);
        break;
    case 2:
        multiply_rows(job, part, type, 2);
        break;
    case 3:
        multiply_rows(job, part, type, 3);
        break;
#if VECTOR_LANES == 16
    case 4:
        multiply_rows(job, part, type, 4);
        break;
    case 5:
        multiply_rows(job, part, type, 5);
        break;
    case 6:
        multiply_rows(job, part, type, 6);
        break;
    case 7:
        multiply_rows(job, part, type, 7);
        break;
    case 8:
        multiply_rows(job, part, type, 8);
        break;
#endif
    default:
        assert(!"more rows than this way takes");
    }
}

void VARIANT(cpu_multiply_plain)(const struct linear_job *job, const struct linear_part *part,
                                 uint32_t thread)
{
    if (part->rows > ROWS_MAX || part->end - part->first < GROUP) {
        VARIANT(cpu_multiply_panel)(job, part, thread);
        return;
    }
    switch (part->map->weight.type) {
    case TENSOR_F32:
        multiply_few(job, part, TENSOR_F32);
        break;
    case TENSOR_F16:
        multiply_few(job, part, TENSOR_F16);
        break;
    case TENSOR_BF16:
        multiply_few(job, part, TENSOR_BF16);
        break;
    default:
        assert(!"weights of a packed type are not plain");
    }
}
