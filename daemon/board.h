/*
 * The board: what everybody may know of the daemon. It lives in a sealed region whose descriptor
 * every session gets; a copy of it is written to the named object /autoglm.INSTANCE (shm_open, mode
 * 0640) for tools without a session. The copy is written with pwrite, never mapped, so that nobody
 * who can truncate it can harm the daemon (docs/design/shared-memory.md).
 */
#ifndef AGL_DAEMON_BOARD_H
#define AGL_DAEMON_BOARD_H

#include "daemon/failure.h"
#include "daemon/model.h"
#include "shm/layout.h"
#include "shm/region.h"

struct board_owner {
    struct region region;
    struct board *board; /* in region */
    int named_fd;        /* the copy; -1: none */
    char name[64];       /* "/autoglm.INSTANCE" */
};

/* Makes both. An object of that name left by a dead daemon is taken over; -EADDRINUSE if its daemon
 * lives. */
int board_open(struct board_owner *ret_owner, const char *instance, struct failure *failure);

/* Removes the name. */
void board_close(struct board_owner *owner);

/* Adds a model; before clients are let in. */
int board_add_model(struct board_owner *owner, const struct model *model, uint32_t blocks,
                    uint32_t block_tokens, uint64_t cache_bytes);

/* Writes the copy if anything has changed since the last time. Control thread. */
void board_mirror(struct board_owner *owner);

#endif
