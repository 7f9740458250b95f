/*
 * The board: what everybody may know of the daemon. It lives in a sealed region whose descriptor
 * every session gets; a copy of it is written to the named object /autoglm.INSTANCE (shm_open, mode
 * 0640) for tools without a session. The copy is written with pwrite, never mapped, so that nobody
 * who can truncate it can harm the daemon (docs/design/shared-memory.md).
 *
 * The daemon holds a write lock on the named object, which only its own user could take and which
 * ends with the daemon: who finds the object without that lock knows that its daemon is dead.
 */
#ifndef AGL_DAEMON_BOARD_H
#define AGL_DAEMON_BOARD_H

#include <stdatomic.h>

#include "model/failure.h"
#include "model/model.h"
#include "shm/layout.h"
#include "shm/region.h"

struct board_owner {
    struct region region;
    struct board *board; /* in region */
    int named_fd;        /* the copy; -1: none */
    char name[64];       /* "/autoglm.INSTANCE" */
    uint64_t *mirrored;  /* what the copy holds, as 64-bit words */
};

/* Makes both. An object of that name left by a dead daemon is replaced; -EADDRINUSE if its daemon
 * lives; -EINVAL: no name for an object. */
int board_open(struct board_owner *ret_owner, const char *instance, struct failure *failure);

/* Removes the name, if it still is ours, and unmaps. What is closed already (named_fd -1, region
 * empty) stays so. */
void board_close(struct board_owner *owner);

/* Adds a model; before clients are let in. -ENOSPC: BOARD_MODELS_MAX are there already. */
int board_add_model(struct board_owner *owner, const struct model *model, uint32_t blocks,
                    uint32_t block_tokens, uint64_t cache_bytes);

/* Adds to a counter. relaxed, and no read-modify-write: for onlookers, and each counter has one
 * thread that writes it, the engine's or the control thread. */
static inline void board_add(_Atomic uint64_t *counter, uint64_t more)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + more, memory_order_relaxed);
}

/* Writes the copy if anything has changed since the last time, or if somebody has cut it short.
 * Control thread. */
void board_mirror(struct board_owner *owner);

#endif
