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

static void silu_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct silu_job *job = argument;
    size_t i = (size_t)chunk * CHUNK_ELEMENTS;
    size_t end = job->elements - i < CHUNK_ELEMENTS ? job->elements : i + CHUNK_ELEMENTS;
    for (; i + VECTOR_LANES <= end; i += VECTOR_LANES)
        store_f32(job->gate + i, gated(load_f32(job->gate + i), load_f32(job->up + i)));
    if (i < end)
        store_tail(job->gate + i,
                   gated(load_tail(TENSOR_F32, job->gate, i, end - i),
                         load_tail(TENSOR_F32, job->up, i, end - i)),
                   end - i);
}

int VARIANT(cpu_gated_silu)(struct backend *backend, float *gate, const float *up, uint32_t rows,
                            uint32_t width)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    struct silu_job job = {.gate = gate, .up = up, .elements = (size_t)rows * width};
    uint32_t chunks = (uint32_t)((job.elements + CHUNK_ELEMENTS - 1) / CHUNK_ELEMENTS);
    pool_run(cpu->pool, silu_chunk, &job, chunks);
    return 0;
}
