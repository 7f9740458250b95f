/*
 * What belongs to this program: installed with it, or in the tree that it was built in.
 */
#ifndef AGL_TOOLS_BENCH_PLACE_H
#define AGL_TOOLS_BENCH_PLACE_H

#include <stdbool.h>

enum { PLACE_BYTES = 4096 };

/* The daemon; where there is none, its bare name, which is looked for in $PATH. */
void place_daemon(char ret_program[PLACE_BYTES]);

/* The folder of the bundled model; false: it is not there. */
bool place_bundled_model(char ret_folder[PLACE_BYTES]);

#endif
