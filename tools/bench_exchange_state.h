/*
 * What the files of the exchange share. Both processes have a struct exchange; each counts its
 * trips by itself.
 */
#ifndef AGL_TOOLS_BENCH_EXCHANGE_STATE_H
#define AGL_TOOLS_BENCH_EXCHANGE_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "tools/bench_exchange.h"
#include "tools/bench_http.h"

/* What both processes map. Two lines apart, one writer each; `there` is ours, `back` theirs. */
struct shared {
    _Alignas(128) _Atomic uint64_t there;
    _Alignas(128) _Atomic uint64_t back;
    _Alignas(128) _Atomic uint32_t futex_there;
    _Alignas(128) _Atomic uint32_t futex_back;
    _Alignas(4096) uint64_t words[EXCHANGE_READ_BYTES_MAX / sizeof(uint64_t)];
};

struct exchange {
    struct shared *shared;
    pid_t peer;
    uint64_t at; /* trips begun; each process counts for itself */
    uint32_t read_words;
    int tasks[2]; /* a pipe: what the other process does next */
    int events[2];
    int pipes[2][2]; /* [there, back] */
    int streams[2];
    int packets[2];
    int http_listen; /* -1: no loopback here */
    struct http http;
    uint64_t noted_at; /* when waiting: the trip that was seen last, and when */
    uint64_t noted_ns;
};

/* One answer, in the other process. 0 or a negative errno. */
int exchange_answer(struct exchange *exchange, enum exchange_kind kind);

/* Some trips that are not counted, EXCHANGE_WARM_UP_TRIPS, and then `count`. As exchange_run(). */
enum { EXCHANGE_WARM_UP_TRIPS = 32 };
int exchange_time_trips(struct exchange *exchange, enum exchange_kind kind, uint64_t *ret_ticks,
                        uint32_t count);

#endif
