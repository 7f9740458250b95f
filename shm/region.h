/*
 * The memory behind a half: anonymous, sealed, passed by descriptor. The maker writes to it through
 * the mapping it made before sealing; nobody can write, truncate, grow or punch it otherwise, so
 * the peer may map it read-only and read without fear of a signal.
 */
#ifndef AGL_SHM_REGION_H
#define AGL_SHM_REGION_H

#include <stdint.h>

struct region {
    uint8_t *base; /* NULL: empty */
    uint64_t bytes;
    int fd; /* -1: none */
};

#define REGION_EMPTY ((struct region){.base = 0, .bytes = 0, .fd = -1})

/* Makes `bytes` (a multiple of the page size) of zeroed shared memory, mapped for writing with
 * every page present, then sealed. `name` shows in /proc/PID/maps. -ENOMEM, -EMFILE, ... */
int region_create(struct region *ret_region, const char *name, uint64_t bytes);

/* Maps a peer's region for reading, after checking that it is what region_create() makes: a tmpfs
 * memfd with all four seals, exactly `bytes` large, with every page present and none beyond. On
 * success the region owns fd; on failure the caller still does. -EPROTO: not such a region, with
 * *ret_why naming what was wrong (a constant); else the error of the system. */
int region_map_peer(struct region *ret_region, int fd, uint64_t bytes, const char **ret_why);

/* Closes the descriptor, once nobody is to be given it any more: the mapping stays. */
void region_close_fd(struct region *region);

/* Unmaps and closes. Nothing to do for REGION_EMPTY. */
void region_fini(struct region *region);

#endif
