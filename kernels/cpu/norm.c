#include <assert.h>
#include <math.h>
#include <stdbool.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"

struct norm_job {
    struct rms_norm norm;
    const float *in;
    uint32_t width;
    bool add; /* to what is in out */
    float *out;
};

static float inverse_rms(const float *in, size_t width, float eps)
{
    vector_f32 squares = {0};
    size_t i = 0;
    for (; i + VECTOR_LANES <= width; i += VECTOR_LANES) {
        vector_f32 x = load_f32(in + i);
        squares = multiply_add(x, x, squares);
    }
    if (i < width) {
        vector_f32 x = load_tail(TENSOR_F32, in, i, width - i);
        squares = multiply_add(x, x, squares);
    }
    return 1.0f / sqrtf(vector_sum(squares) / (float)width + eps);
}

/* What a row's element turns into, for whole vectors and for the tail alike. */
SPECIALISED vector_f32 scaled(vector_f32 x, vector_f32 weight, vector_f32 inverse, vector_f32 base)
{
    return base + x * inverse * weight;
}

SPECIALISED void norm_row(const struct norm_job *job, const float *in, float *out,
                          enum tensor_type type)
{
    const void *weight = job->norm.weight.data;
    size_t width = job->width;
    vector_f32 inverse = vector_all(inverse_rms(in, width, job->norm.eps));
    size_t i = 0;
    for (; i + VECTOR_LANES <= width; i += VECTOR_LANES) {
        vector_f32 base = job->add ? load_f32(out + i) : (vector_f32){0};
        store_f32(out + i, scaled(load_f32(in + i), load_elements(type, weight, i), inverse, base));
    }
    if (i < width) {
        size_t left = width - i;
        vector_f32 base = job->add ? load_tail(TENSOR_F32, out, i, left) : (vector_f32){0};
        store_tail(out + i,
                   scaled(load_tail(TENSOR_F32, in, i, left), load_tail(type, weight, i, left),
                          inverse, base),
                   left);
    }
}

static void norm_any_row(const struct norm_job *job, const float *in, float *out)
{
    switch (job->norm.weight.type) {
    case TENSOR_F32:
        norm_row(job, in, out, TENSOR_F32);
        break;
    case TENSOR_F16:
        norm_row(job, in, out, TENSOR_F16);
        break;
    case TENSOR_BF16:
        norm_row(job, in, out, TENSOR_BF16);
        break;
    default:
        assert(!"a norm's weights are not packed");
    }
}

void VARIANT(cpu_norm_row)(const struct rms_norm *norm, const float *in, uint32_t width, float *out)
{
    assert(norm->weight.cols == width);
    struct norm_job job = {.norm = *norm, .width = width};
    norm_any_row(&job, in, out);
}

static void norm_chunk(void *argument, uint32_t row, uint32_t thread)
{
    const struct norm_job *job = argument;
    norm_any_row(job, job->in + (size_t)row * job->width, job->out + (size_t)row * job->width);
}

void VARIANT(cpu_push_norm_add)(struct pool *pool, const struct rms_norm *norm, const float *in,
                                uint32_t rows, uint32_t width, float *residual)
{
    assert(norm->weight.cols == width);
    struct norm_job job = {.norm = *norm, .in = in, .width = width, .add = true, .out = residual};
    pool_push(pool, &(struct pool_stage){.work = norm_chunk, .chunks = rows}, &job, sizeof job);
}
