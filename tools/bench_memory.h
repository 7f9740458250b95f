/*
 * The machine's own limits, measured now: what the other figures are held against.
 */
#ifndef AGL_TOOLS_BENCH_MEMORY_H
#define AGL_TOOLS_BENCH_MEMORY_H

/* Bytes a second that all allowed processors together read from memory that does not fit into any
 * cache: 256 MiB a processor, best of five passes. About half a second; 0 if it cannot be measured.
 */
double bench_memory_read_bandwidth(void);

#endif
