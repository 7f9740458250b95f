/*
 * What a dispatch is held against, measured in the same run on the same two processors: the bare
 * exchange of a cache line between two threads, and a round trip over a Unix socket.
 */
#ifndef AGL_TOOLS_BENCH_EXCHANGE_H
#define AGL_TOOLS_BENCH_EXCHANGE_H

#include <stdint.h>

struct exchange;

/* Starts the other thread, on `processor` (-1: anywhere). It sleeps between measurements. 0 or a
 * negative errno. */
int exchange_open(struct exchange **ret_exchange, int processor);
void exchange_close(struct exchange *exchange);

/* `count` round trips each; their durations in bench_ticks() go to ret_ticks [count]. */
void exchange_line(struct exchange *exchange, uint64_t *ret_ticks, uint32_t count);
void exchange_socket(struct exchange *exchange, uint64_t *ret_ticks, uint32_t count);

#endif
