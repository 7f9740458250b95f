#include "tools/bench_memory.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <autoglm.h>

enum { READERS_MAX = 256, PASSES = 5 };
enum { START_READ = 1, START_GIVE_UP = 2 };
static const size_t reader_bytes = (size_t)256 << 20;

struct reader {
    pthread_t thread;
    pthread_barrier_t *barrier; /* once a pass */
    _Atomic int *start;         /* 0: wait, START_READ, START_GIVE_UP */
    uint64_t *words;
    uint64_t start_ns[PASSES];
    uint64_t end_ns[PASSES];
    uint64_t sum;
};

static uint64_t sum_words(const uint64_t *words, size_t count)
{
    uint64_t sums[16] = {
        0}; /* independent streams, so that loads and not additions are the limit */
    for (size_t i = 0; i < count; i += 16)
        for (int lane = 0; lane < 16; lane++)
            sums[lane] += words[i + (size_t)lane];
    uint64_t sum = 0;
    for (int lane = 0; lane < 16; lane++)
        sum += sums[lane];
    return sum;
}

static void *read_all(void *argument)
{
    struct reader *reader = argument;
    while (!atomic_load(reader->start))
        sched_yield();
    if (atomic_load(reader->start) == START_GIVE_UP)
        return NULL;
    memset(reader->words, 1, reader_bytes);
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(reader->barrier);
        reader->start_ns[pass] = agl_now_ns();
        reader->sum += sum_words(reader->words, reader_bytes / 8);
        reader->end_ns[pass] = agl_now_ns();
    }
    return NULL;
}

static double best_pass(const struct reader *readers, int count)
{
    double best = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        uint64_t start_ns = UINT64_MAX;
        uint64_t end_ns = 0;
        for (int i = 0; i < count; i++) {
            if (readers[i].start_ns[pass] < start_ns)
                start_ns = readers[i].start_ns[pass];
            if (readers[i].end_ns[pass] > end_ns)
                end_ns = readers[i].end_ns[pass];
        }
        double rate = (double)reader_bytes * count / ((double)(end_ns - start_ns) / 1e9);
        if (rate > best)
            best = rate;
    }
    return best;
}

double bench_memory_read_bandwidth(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
        return 0;
    int count = CPU_COUNT(&allowed) < READERS_MAX ? CPU_COUNT(&allowed) : READERS_MAX;

    size_t bytes = reader_bytes * (size_t)count;
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct reader *readers = calloc((size_t)count, sizeof *readers);
    pthread_barrier_t barrier;
    double result = 0;
    if (memory == MAP_FAILED || !readers || pthread_barrier_init(&barrier, NULL, (unsigned)count))
        goto free_memory;
    madvise(memory, bytes, MADV_HUGEPAGE);

    /* The last reader is this thread. If a thread cannot be started, none begins: they would wait
     * for it at the barrier. */
    _Atomic int start = 0;
    int started = 0;
    for (; started < count; started++) {
        readers[started].barrier = &barrier;
        readers[started].start = &start;
        readers[started].words = (uint64_t *)(void *)(memory + reader_bytes * (size_t)started);
        if (started < count - 1 &&
            pthread_create(&readers[started].thread, NULL, read_all, &readers[started]))
            break;
    }
    bool complete = started == count;
    atomic_store(&start, complete ? START_READ : START_GIVE_UP);
    if (complete)
        read_all(&readers[count - 1]);
    for (int i = 0; i < started && i < count - 1; i++)
        pthread_join(readers[i].thread, NULL);
    if (complete)
        result = best_pass(readers, count);
    pthread_barrier_destroy(&barrier);

free_memory:
    free(readers);
    if (memory != MAP_FAILED)
        munmap(memory, bytes);
    return result;
}
