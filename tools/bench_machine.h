/*
 * The machine that is measured, and on which of its processors.
 */
#ifndef AGL_TOOLS_BENCH_MACHINE_H
#define AGL_TOOLS_BENCH_MACHINE_H

#include <stdint.h>

struct machine {
    char processor[96];  /* the kernel's name of its kind, else of its architecture */
    char kernel[96];     /* "Linux 6.1.0-18-amd64" */
    uint32_t processors; /* that this process may use now; 0: cannot be told */
};

void machine_describe(struct machine *ret_machine);

/* Keeps this process, and those that it starts from now on, to one processor. -1: does nothing.
 * 0 or a negative errno. */
int machine_pin(int processor);

#endif
