#include <stdatomic.h>

#include "kernels/cpu/cpu.h"

struct pack_job {
    const struct tensor *tensor;
    void *memory;
    quant_source *source;
    void *context;
    _Atomic int err; /* the first */
};

static void pack_chunk(void *argument, uint32_t strip, uint32_t thread)
{
    struct pack_job *job = argument;
    /* relaxed: whoever sees it late packs in vain, no more. */
    if (atomic_load_explicit(&job->err, memory_order_relaxed) < 0)
        return;
    int err = quant_pack_strip(job->tensor, job->memory, strip, job->source, job->context);
    int none = 0;
    /* relaxed: read after the loop, which orders everything. */
    if (err < 0)
        atomic_compare_exchange_strong_explicit(&job->err, &none, err, memory_order_relaxed,
                                                memory_order_relaxed);
}

int cpu_pack(struct backend *backend, const struct tensor *tensor, void *memory,
             quant_source *source, void *context)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    struct pack_job job = {
        .tensor = tensor, .memory = memory, .source = source, .context = context};
    assert(tensor_type_is_packed(tensor->type));
    pool_run(cpu->pool, pack_chunk, &job,
             (uint32_t)(((uint64_t)tensor->rows + PACKED_STRIP - 1) / PACKED_STRIP));
    return atomic_load_explicit(&job.err, memory_order_relaxed);
}
