/*
 * Lists of processors, as people write them: "0-3,8".
 */
#ifndef AGL_KERNELS_CPU_PROCESSORS_H
#define AGL_KERNELS_CPU_PROCESSORS_H

#include <stdint.h>

enum { PROCESSORS_MAX = 1024 };

/* As many as this process may run on. */
uint32_t processors_allowed(void);

/* The listed ones that this process may run on, in the list's order. -EINVAL: it is no list, or
 * none of them is allowed; *ret_why says which. */
int processors_parse(const char *list, uint32_t ret_processors[PROCESSORS_MAX], uint32_t *ret_count,
                     const char **ret_why);

/* Keeps the calling thread on one. */
void processors_pin(uint32_t processor);

#endif
