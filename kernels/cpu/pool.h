/*
 * A small thread pool for data-parallel loops: one caller, who works too, and threads that help.
 *
 * Work is cut into numbered chunks, and each thread takes the next number from one counter: a
 * thread that comes late, or is preempted, holds up no more than the chunk that it has in hand.
 * Helpers spin for a moment after a loop, since the next one usually follows within microseconds,
 * and then sleep: an idle pool uses no processor time. Nothing is allocated after opening.
 */
#ifndef AGL_KERNELS_CPU_POOL_H
#define AGL_KERNELS_CPU_POOL_H

#include <stdint.h>

struct pool;

enum { POOL_THREADS_MAX = 1024 };

/* Does the chunk with this number. `thread` is below the pool's number of threads, and no other
 * chunk runs under the same number at the same time: it picks the scratch memory. */
typedef void pool_work(void *job, uint32_t chunk, uint32_t thread);

/* `threads` counts the caller: 1 starts none. -EINVAL beyond POOL_THREADS_MAX or for 0; -ENOMEM,
 * -EAGAIN when threads cannot be had. */
int pool_open(struct pool **ret_pool, uint32_t threads);

/* NULL does nothing. */
void pool_close(struct pool *pool);

uint32_t pool_threads(const struct pool *pool);

/* Runs work(job, 0..chunks - 1, ...) on all threads and returns when all are done; what they wrote
 * is then visible to the caller. One caller at a time; not from inside work. */
void pool_run(struct pool *pool, pool_work *work, void *job, uint32_t chunks);

#endif
