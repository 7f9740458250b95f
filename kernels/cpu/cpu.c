#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(CPU_HAS_X86_VARIANTS)
#include <cpuid.h>
#endif

#include "kernels/cpu/processors.h"

enum { PAGE_BYTES = 4096, HUGE_PAGE_BYTES = 2 << 20 };

/* The sets of operations, best first. */
struct variant {
    const char *name;
    const struct backend_ops *ops;
    int supported;
    int (*enable)(void); /* NULL, or what has to be asked for before; nonzero if granted */
};

enum { VARIANTS = 5 };

#if defined(CPU_HAS_X86_VARIANTS)
/* clang does not know this feature by name. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

#if defined(CPU_HAS_X86_VARIANTS)
static int has_amx(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & 1u << 24) && (d & 1u << 25);
}

/* The matrix unit's registers are large: the kernel gives them to a process that asks, for good. */
static int enable_amx(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

static void list_variants(struct variant ret_variants[VARIANTS])
{
    memset(ret_variants, 0, VARIANTS * sizeof *ret_variants);
    struct variant *next = ret_variants;
#if defined(CPU_HAS_X86_VARIANTS)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    int vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    *next++ = (struct variant){"amx", &cpu_ops_amx, vnni && has_amx(), enable_amx};
    *next++ = (struct variant){"avx512vnni", &cpu_ops_avx512vnni, vnni, NULL};
    *next++ = (struct variant){"avx512", &cpu_ops_avx512, avx512, NULL};
    *next++ = (struct variant){"avx2", &cpu_ops_avx2, avx2, NULL};
#endif
    *next = (struct variant){"plain", &cpu_ops_plain, 1, NULL};
}

/* `name` NULL: the best that this processor has. */
static int choose_variant(const char *name, struct variant *ret_variant, const char **ret_why)
{
    struct variant variants[VARIANTS];
    list_variants(variants);
    for (int i = 0; i < VARIANTS && variants[i].name; i++) {
        if (name && strcmp(name, variants[i].name) != 0)
            continue;
        if (variants[i].supported && (!variants[i].enable || variants[i].enable())) {
            *ret_variant = variants[i];
            return 0;
        }
        if (name) {
            *ret_why =
                "this processor lacks the instructions of that variant, or its kernel keeps them";
            return -EINVAL;
        }
    }
    *ret_why = "no such variant on this machine; known are plain and, on x86-64, avx2, avx512, "
               "avx512vnni and amx";
    return -EINVAL;
}

static uint64_t round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

int cpu_alloc(struct backend *backend, uint64_t bytes, void **ret_memory)
{
    uint64_t alignment = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : PAGE_BYTES;
    if (bytes > PTRDIFF_MAX - alignment)
        return -ENOMEM;
    uint64_t rounded = round_up(bytes ? bytes : 1, alignment);
    void *memory = aligned_alloc(alignment, rounded);
    if (!memory)
        return -ENOMEM;
    /* Fewer misses of the address translation; without huge pages it is a little slower, no more.
     */
    if (alignment == HUGE_PAGE_BYTES)
        madvise(memory, rounded, MADV_HUGEPAGE);
    *ret_memory = memory;
    return 0;
}

/* Late threads may still read what is freed or written to. (There is no pool when opening failed.)
 */
static void drain(struct backend *backend)
{
    struct pool *pool = ((struct cpu_backend *)backend)->pool;
    if (pool)
        pool_drain(pool);
}

void cpu_free(struct backend *backend, void *memory, uint64_t bytes)
{
    drain(backend);
    free(memory);
}

int cpu_upload(struct backend *backend, void *to, const void *from, uint64_t bytes)
{
    drain(backend);
    memcpy(to, from, bytes);
    return 0;
}

int cpu_download(struct backend *backend, void *to, const void *from, uint64_t bytes)
{
    pool_wait(((struct cpu_backend *)backend)->pool);
    memcpy(to, from, bytes);
    return 0;
}

int cpu_cache_open(struct backend *backend, const struct kv_cache_options *options,
                   struct kv_cache **ret_cache)
{
    if (options->type == TENSOR_BF16 || options->head_dim > CPU_HEAD_DIM_MAX)
        return -EINVAL;
    uint64_t bytes = kv_cache_bytes(options);
    if (bytes == 0)
        return -EINVAL;
    struct kv_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return -ENOMEM;
    void *memory; /* first, since this is what does not fit if the shape is beyond all measure */
    int err = cpu_alloc(backend, bytes, &memory);
    if (err < 0)
        goto free_cache;
    cache->layer_reads = calloc(options->layers, sizeof *cache->layer_reads);
    if (!cache->layer_reads) {
        err = -ENOMEM;
        goto free_memory;
    }
    cache->options = *options;
    cache->memory = memory;
    cache->bytes = bytes;
    cache->row_bytes = (uint64_t)options->head_dim * tensor_type_bytes(options->type);
    cache->key_lanes =
        options->block_tokens % CPU_KEY_LANES ? options->block_tokens : CPU_KEY_LANES;
    cache->head_bytes = cache->row_bytes * options->block_tokens;
    cache->half_bytes = cache->head_bytes * options->kv_heads;
    cache->block_bytes = cache->half_bytes * 2;
    cache->layer_bytes = cache->block_bytes * options->blocks;
    *ret_cache = cache;
    return 0;

free_memory:
    cpu_free(backend, memory, bytes);
free_cache:
    free(cache);
    return err;
}

void cpu_cache_close(struct backend *backend, struct kv_cache *cache)
{
    if (!cache)
        return;
    cpu_free(backend, cache->memory, cache->bytes);
    free(cache->layer_reads);
    free(cache);
}

int cpu_begin(struct backend *backend)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    if (cpu->pins_caller)
        processors_pin(cpu->caller_processor);
    cpu->pins_caller = false; /* once is enough */
    cpu->queues = true;
    return 0;
}

int cpu_end(struct backend *backend)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    cpu->queues = false;
    pool_wait(cpu->pool);
    return 0;
}

void cpu_finish(struct cpu_backend *cpu)
{
    if (!cpu->queues)
        pool_drain(cpu->pool);
}

struct select_job {
    const float *in;
    const uint32_t *indices;
    uint32_t width;
    float *out;
};

static void select_chunk(void *argument, uint32_t row, uint32_t thread)
{
    const struct select_job *job = argument;
    memcpy(job->out + (size_t)row * job->width, job->in + (size_t)job->indices[row] * job->width,
           job->width * sizeof *job->out);
}

int cpu_select_rows(struct backend *backend, const float *in, const uint32_t *indices,
                    uint32_t count, uint32_t width, float *out)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    struct select_job job = {.in = in, .indices = indices, .width = width, .out = out};
    pool_push(cpu->pool, &(struct pool_stage){.work = select_chunk, .chunks = count}, &job,
              sizeof job);
    cpu_finish(cpu);
    return 0;
}

const char *cpu_describe(const struct backend *backend)
{
    return ((const struct cpu_backend *)backend)->description;
}

void cpu_close(struct backend *backend)
{
    struct cpu_backend *cpu = (struct cpu_backend *)backend;
    pool_close(cpu->pool);
    cpu->pool = NULL;
    cpu_free(backend, cpu->scratch, CPU_SCRATCH_FLOATS * sizeof *cpu->scratch);
    cpu_free(backend, cpu->quantised, CPU_QUANTISED_BYTES);
    cpu_free(backend, cpu->partials, CPU_PARTIAL_FLOATS * sizeof *cpu->partials);
    free(cpu->own);
    free(cpu->tiles);
    free(cpu->panels);
    free(cpu);
}

/* The working memory of all operations; what was had on failure, cpu_close() frees. */
static int alloc_scratch(struct cpu_backend *cpu, uint32_t threads)
{
    void *memory;
    int err = cpu_alloc(&cpu->base, CPU_SCRATCH_FLOATS * sizeof *cpu->scratch, &memory);
    if (err < 0)
        return err;
    cpu->scratch = memory;
    err = cpu_alloc(&cpu->base, CPU_QUANTISED_BYTES, &memory);
    if (err < 0)
        return err;
    cpu->quantised = memory;
    err = cpu_alloc(&cpu->base, CPU_PARTIAL_FLOATS * sizeof *cpu->partials, &memory);
    if (err < 0)
        return err;
    cpu->partials = memory;
    cpu->own = aligned_alloc(PAGE_BYTES, round_up(threads * sizeof *cpu->own, PAGE_BYTES));
    cpu->tiles = aligned_alloc(PAGE_BYTES, round_up(threads * sizeof *cpu->tiles, PAGE_BYTES));
    cpu->panels = aligned_alloc(PAGE_BYTES, round_up(threads * sizeof *cpu->panels, PAGE_BYTES));
    if (!cpu->own || !cpu->tiles || !cpu->panels)
        return -ENOMEM;
    for (uint32_t i = 0; i < threads; i++)
        cpu->own[i].prepared = 0;
    return 0;
}

int cpu_open(struct backend **ret_backend, const struct backend_options *options,
             const char **ret_why)
{
    struct variant variant;
    int err = choose_variant(options->variant, &variant, ret_why);
    if (err < 0)
        return err;
    uint32_t processors[PROCESSORS_MAX], processor_count = 0;
    if (options->processors && *options->processors)
        err = processors_parse(options->processors, processors, &processor_count, ret_why);
    if (err < 0)
        return err;
    uint32_t threads = options->threads  ? options->threads
                       : processor_count ? processor_count
                                         : processors_allowed();
    if (threads > POOL_THREADS_MAX) {
        *ret_why = "more threads than the CPU backend can have (1024)";
        return -EINVAL;
    }
    struct cpu_backend *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        goto no_memory;
    cpu->base.ops = variant.ops;
    cpu->variant = variant.name;
    if (alloc_scratch(cpu, threads) < 0)
        goto close;
    err = pool_open(&cpu->pool, threads, processors, processor_count);
    if (err < 0) {
        *ret_why = "the threads of the CPU backend cannot be started";
        cpu_close(&cpu->base);
        return err;
    }
    cpu->pins_caller = processor_count > 0;
    cpu->caller_processor = processor_count ? processors[0] : 0;
    snprintf(cpu->description, sizeof cpu->description, "cpu, %u thread%s, %s", threads,
             threads == 1 ? "" : "s", variant.name);
    *ret_backend = &cpu->base;
    return 0;

close:
    cpu_close(&cpu->base);
no_memory:
    *ret_why = "no memory for the CPU backend";
    return -ENOMEM;
}
