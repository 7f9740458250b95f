/*
 * What a dispatch is held against: round trips between this process and another one, measured in
 * the same run on the same two processors, each by another means.
 *
 * The other side is a process as the daemon is one, so that address spaces are changed and pages
 * mapped in the same way. It sleeps between measurements.
 */
#ifndef AGL_TOOLS_BENCH_EXCHANGE_H
#define AGL_TOOLS_BENCH_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

struct exchange;

enum exchange_kind {
    EXCHANGE_LINE,       /* a word of a cache line there and one back, both sides spinning */
    EXCHANGE_LINE_PAUSE, /* the same with a PAUSE between two looks at the word */
    EXCHANGE_FUTEX,      /* a word with both sides asleep; all the following ones as well */
    EXCHANGE_EVENTFD,    /* one each way */
    EXCHANGE_PIPE,       /* one each way, EXCHANGE_MESSAGE_BYTES a message */
    EXCHANGE_STREAM,     /* Unix socket, SOCK_STREAM */
    EXCHANGE_SEQPACKET,  /* Unix socket, SOCK_SEQPACKET */
    EXCHANGE_HTTP,       /* bench_http.h */
    EXCHANGE_READ,       /* no round trip: reading once what the other side has just written */
    EXCHANGE_KINDS
};
/* The bare exchanges are the first kinds. Which of them is faster depends on the processor: a look
 * can take the line away from who is about to write it, and a PAUSE can be long. */
enum { EXCHANGE_LINES = 2 };
enum { EXCHANGE_MESSAGE_BYTES = 64, EXCHANGE_READ_BYTES_MAX = 1 << 17 };

/* A row's name. */
const char *exchange_name(enum exchange_kind kind);

/* Whether both sides sleep until they are woken. */
bool exchange_sleeps(enum exchange_kind kind);

/* Starts the other process, on `processor` (-1: anywhere). It ends with this one, however that
 * ends. 0 or a negative errno. */
int exchange_open(struct exchange **ret_exchange, int processor);

/* NULL does nothing. */
void exchange_close(struct exchange *exchange);

/* Whether it can be measured here: not HTTP where there is no loopback. */
bool exchange_has(const struct exchange *exchange, enum exchange_kind kind);

/* Makes some trips that are not counted and then `count`, whose durations in bench_ticks() go to
 * ret_ticks [count]. read_bytes: of EXCHANGE_READ, a multiple of 4. 0; -EINTR: told to stop, or the
 * other side was silent for too long (bench_stop.h); another negative errno: the other side is
 * gone, or did not answer right. After an error only exchange_close() works. */
int exchange_run(struct exchange *exchange, enum exchange_kind kind, uint32_t read_bytes,
                 uint64_t *ret_ticks, uint32_t count);

#endif
