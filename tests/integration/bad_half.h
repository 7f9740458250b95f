/*
 * Descriptors that are no client half, and one that is.
 */
#ifndef AGL_TESTS_INTEGRATION_BAD_HALF_H
#define AGL_TESTS_INTEGRATION_BAD_HALF_H

#include <stdint.h>

#include "tests/support/stranger.h"

struct bad_half {
    const char *what;
    /* A descriptor for a half of `bytes` bytes, the caller's to close; a negative errno: this
     * machine has no such thing. */
    int (*make)(const struct stranger *stranger, uint64_t bytes);
    int error;        /* that the daemon refuses it with */
    const char *text; /* and what it says */
};

extern const struct bad_half bad_halves[];
extern const uint32_t bad_half_count;

/* A right one; and the same, of a size of its own choice and with only some of the seals. */
int half_make(uint64_t bytes);
int half_make_sealed(uint64_t bytes, int seals);

#endif
