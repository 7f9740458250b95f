#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"

enum { CHUNK_ELEMENTS = 4096 };

struct silu_job {
    float *gate;
    const float *up;
    size_t elements;
};

/* silu(x) * up = x / (1 + e^-x) * up. Where e^-x would overflow, vector_exp() ends at e^88, and
 * what should be 0 comes out below 1e-36 |up|. */
SPECIALISED vector_f32 gated(vector_f32 x, vector_f32 up)
{
    return x / (1.0f + vector_exp(-x)) * up;
}

void VARIANT(cpu_gate)(float *gate, const float *up, size_t elements)
{
    size_t i = 0;
    for (; i + VECTOR_LANES <= elements; i += VECTOR_LANES)
        store_f32(gate + i, gated(load_f32(gate + i), load_f32(up + i)));
    if (i < elements)
        store_tail(gate + i,
                   gated(load_tail(TENSOR_F32, gate, i, elements - i),
                         load_tail(TENSOR_F32, up, i, elements - i)),
                   elements - i);
}

static void silu_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct silu_job *job = argument;
    size_t first = (size_t)chunk * CHUNK_ELEMENTS, left = job->elements - first;
    VARIANT(cpu_gate)
    (job->gate + first, job->up + first, left < CHUNK_ELEMENTS ? left : CHUNK_ELEMENTS);
}

void VARIANT(cpu_push_gate)(struct cpu_backend *cpu, float *gate, const float *up, size_t elements)
{
    struct silu_job job = {.gate = gate, .up = up, .elements = elements};
    struct pool_stage stage = {
        .work = silu_chunk, .chunks = (uint32_t)((elements + CHUNK_ELEMENTS - 1) / CHUNK_ELEMENTS)};
    pool_push(cpu->pool, &stage, &job, sizeof job);
}

int VARIANT(cpu_gated_silu)(struct backend *backend, float *gate, const float *up, uint32_t rows,
                            uint32_t width)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    VARIANT(cpu_push_gate)(cpu, gate, up, (size_t)rows * width);
    cpu_finish(cpu);
    return 0;
}
