/*
 * Loops that do nothing but one kind of arithmetic, or reading, at the pace of the processor.
 */
#ifndef AGL_TOOLS_BENCH_PEAK_H
#define AGL_TOOLS_BENCH_PEAK_H

#include <stddef.h>
#include <stdint.h>

#include "tools/bench_limits.h"

/* Does `turns` turns of a loop; returns how many multiply-adds that was. */
typedef double peak_loop(uint64_t turns);

/* Reads all of it, a whole number of KiB, aligned to 64 bytes; returns something that needs it. */
typedef uint64_t peak_reader(const void *memory, size_t bytes);

/* NULL: the set has none. */
peak_loop *peak_loop_of(const char *isa, enum limit limit);
peak_reader *peak_reader_of(const char *isa);

#endif
