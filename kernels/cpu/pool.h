/*
 * The threads of the CPU backend: one caller, who works too, and helpers.
 *
 * Work comes in stages, each cut into numbered chunks. Stages are pushed one after the other and
 * begin in that order, each when the one before is complete; the caller need not be there for it,
 * so that a step goes on while any one of the threads runs. Whoever has nothing left to take redoes
 * a chunk whose owner is late: docs/design/threads.md has the rules and why they suffice.
 *
 * Helpers are awake within a step, spin a little after it, and then sleep: an idle pool uses no
 * processor time. Nothing is allocated after opening.
 */
#ifndef AGL_KERNELS_CPU_POOL_H
#define AGL_KERNELS_CPU_POOL_H

#include <stddef.h>
#include <stdint.h>

struct pool;

enum {
    POOL_THREADS_MAX = 1024,
    POOL_JOB_BYTES = 1024,
    POOL_REDO_CHUNKS_MAX = 4096, /* stages of more chunks have none redone */
};

/* Does the chunk with this number. `thread` is below the pool's number of threads, and no other
 * chunk runs under the same number at the same time: it picks the working memory. */
typedef void pool_work(void *job, uint32_t chunk, uint32_t thread);

/*
 * Without `commit` a chunk is worked on once, by who takes it, and writes its results where they
 * belong.
 *
 * With it a chunk may be worked on by several threads at once, and still by one of them when the
 * stage is long over: `work` reads, and writes to its thread's working memory alone. One of them
 * then commits, from the same memory. What `work` reads is weights and caches, which stay (`after`,
 * pool_drain()), its job, and inputs that later stages may overwrite: of these it takes what it
 * needs first and then calls pool_inputs_read().
 */
struct pool_stage {
    pool_work *work;
    pool_work *commit;
    uint32_t chunks;
    uint64_t after; /* a stage that overwrites what work of the stages up to this number reads all
                       the time: it waits for late threads there; 0: none */
};

/* `threads` counts the caller: 1 starts none. processors: where thread 0, 1, ... is to run, in
 * turns; the caller pins itself. -EINVAL beyond POOL_THREADS_MAX or for 0; -ENOMEM, -EAGAIN when
 * threads cannot be had; what pthread_setaffinity_np() says. */
int pool_open(struct pool **ret_pool, uint32_t threads, const uint32_t *processors,
              uint32_t processor_count);

/* NULL does nothing. */
void pool_close(struct pool *pool);

uint32_t pool_threads(const struct pool *pool);

/* One caller at a time; not from inside work. The job is copied, up to POOL_JOB_BYTES; with 0 bytes
 * it stays where it is, as long as the stage may be worked on. Returns the stage's number, counted
 * from 1. */
uint64_t pool_push(struct pool *pool, const struct pool_stage *stage, void *job, size_t job_bytes);

/* Works until all stages are complete; what they wrote is then visible to the caller, and their
 * inputs are not read any more. */
void pool_wait(struct pool *pool);

/* The same, and no thread is at any chunk still: what work reads may be changed and freed. */
void pool_drain(struct pool *pool);

/* One stage without `commit`, from push to drain. */
void pool_run(struct pool *pool, pool_work *work, void *job, uint32_t chunks);

/* From inside work: from now on the chunk reads no inputs. */
void pool_inputs_read(struct pool *pool, uint32_t thread);

/* From inside work: the number of the thread's stage. */
uint64_t pool_number(const struct pool *pool, uint32_t thread);

/* Chunks that were worked on more than once since opening, for tests and measurements. */
uint64_t pool_redone_chunks(const struct pool *pool);

#endif
