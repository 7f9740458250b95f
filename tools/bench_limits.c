#include "tools/bench_limits.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <autoglm.h>

#include "tools/bench_peak.h"

enum { MIB = 1 << 20, KIB = 1 << 10 };
enum { ARITHMETIC_NS = 10 * 1000 * 1000, TURNS_AT_ONCE = 10000 };

struct limits {
    const char *isa;
    uint8_t *buffer;
    uint64_t bytes;
    _Atomic uint64_t sum; /* of all that was read, so that it is */
};

/* ---- a thread's part ------------------------------------------------------------------------- */

struct worker {
    pthread_t thread;
    struct limits *limits;
    enum limit limit;
    _Atomic int *start; /* of enum start */
    uint32_t index, count;
    uint64_t start_ns, end_ns;
    double done; /* bytes or multiply-adds */
};

enum start { START_NOT_YET, START_NOW, START_NEVER };

static void read_part(struct worker *worker)
{
    struct limits *limits = worker->limits;
    uint64_t part = limits->bytes / worker->count / KIB * KIB;
    uint64_t sum = peak_reader_of(limits->isa)(limits->buffer + worker->index * part, part);
    /* relaxed: nobody acts on it. */
    atomic_fetch_add_explicit(&limits->sum, sum, memory_order_relaxed);
    worker->done = (double)part;
}

static void multiply_for_a_while(struct worker *worker)
{
    peak_loop *loop = peak_loop_of(worker->limits->isa, worker->limit);
    do
        worker->done += loop(TURNS_AT_ONCE);
    while (agl_now_ns() - worker->start_ns < ARITHMETIC_NS);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    int start;
    /* acquire: pairs with run_all(); nothing but the word itself has to be seen. */
    while ((start = atomic_load_explicit(worker->start, memory_order_acquire)) == START_NOT_YET)
        continue;
    if (start == START_NEVER)
        return NULL;
    worker->start_ns = agl_now_ns();
    if (worker->limit == LIMIT_READ)
        read_part(worker);
    else
        multiply_for_a_while(worker);
    worker->end_ns = agl_now_ns();
    return NULL;
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* All begin at once, this thread as one of them; false: some could not be had. */
static bool run_all(struct worker *workers, uint32_t count)
{
    uint32_t started = 1;
    while (started < count &&
           pthread_create(&workers[started].thread, NULL, work, &workers[started]) == 0)
        started++;
    bool is_complete = started == count;
    /* release: pairs with work(). */
    atomic_store_explicit(workers[0].start, is_complete ? START_NOW : START_NEVER,
                          memory_order_release);
    if (is_complete)
        work(&workers[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    return is_complete;
}

/* From the first that began to the last that ended. */
static double rate(const struct worker *workers, uint32_t count)
{
    uint64_t start_ns = UINT64_MAX, end_ns = 0;
    double done = 0;
    for (uint32_t i = 0; i < count; i++) {
        start_ns = workers[i].start_ns < start_ns ? workers[i].start_ns : start_ns;
        end_ns = workers[i].end_ns > end_ns ? workers[i].end_ns : end_ns;
        done += workers[i].done;
    }
    return end_ns > start_ns ? done * 1e9 / (double)(end_ns - start_ns) : (double)NAN;
}

double limits_measure(struct limits *limits, enum limit limit, uint32_t threads)
{
    struct worker *workers = limits_have(limits, limit) ? calloc(threads, sizeof *workers) : NULL;
    if (!workers)
        return NAN;
    _Atomic int start = START_NOT_YET;
    for (uint32_t i = 0; i < threads; i++)
        workers[i] = (struct worker){
            .limits = limits, .limit = limit, .start = &start, .index = i, .count = threads};
    double result = run_all(workers, threads) ? rate(workers, threads) : (double)NAN;
    free(workers);
    return result;
}

/* ---- opening and closing --------------------------------------------------------------------- */

uint64_t limits_usual_bytes(void)
{
    const uint64_t least = UINT64_C(1024) * MIB;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    long cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache_bytes > 0 && 4 * (uint64_t)cache_bytes > least)
        return 4 * (uint64_t)cache_bytes;
#endif
    return least;
}

int limits_open(struct limits **ret_limits, const char *isa, uint64_t buffer_bytes)
{
    struct limits *limits = calloc(1, sizeof *limits);
    if (!limits)
        return -ENOMEM;
    limits->isa = isa;
    limits->bytes = buffer_bytes < MIB ? MIB : buffer_bytes / MIB * MIB;
    void *buffer =
        mmap(NULL, limits->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        free(limits);
        return -ENOMEM;
    }
    madvise(buffer, limits->bytes, MADV_HUGEPAGE);
    memset(buffer, 1, limits->bytes); /* memory that is there: zeros may be one page, read often */
    limits->buffer = buffer;
    *ret_limits = limits;
    return 0;
}

void limits_close(struct limits *limits)
{
    if (!limits)
        return;
    munmap(limits->buffer, limits->bytes);
    free(limits);
}

bool limits_have(const struct limits *limits, enum limit limit)
{
    return limit == LIMIT_READ || peak_loop_of(limits->isa, limit);
}

const char *limit_name(enum limit limit)
{
    static const char *const names[LIMITS] = {"read", "f32", "int8", "amx"};
    return names[limit];
}
