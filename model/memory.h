/*
 * How much memory this process can still have: what the machine has free, and what its control
 * groups (version 2) leave it.
 */
#ifndef AGL_MODEL_MEMORY_H
#define AGL_MODEL_MEMORY_H

#include <stdint.h>

#include "model/failure.h"

/* root: "" for this machine, or a folder with a proc/ and sys/ of its own. What cannot be read
 * limits nothing: UINT64_MAX if none can. */
uint64_t memory_available(const char *root);

/* Whether this machine can still have so many bytes: an allocation alone would refuse nothing,
 * since pages come with their first touch. 0, or -ENOMEM with the figures. `for_what`: "the
 * weights". */
int memory_check(uint64_t bytes, const char *for_what, struct failure *failure);

#endif
