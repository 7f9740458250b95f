/*
 * One request there and back, and the caller's own time for its calls. What is timed contains the
 * library's calls and nothing else: no allocation, no printing.
 *
 * Everything here returns 0, CLI_FAILED after a message, or bench_stop_status().
 */
#ifndef AGL_TOOLS_BENCH_TRIP_H
#define AGL_TOOLS_BENCH_TRIP_H

#include <stdint.h>

#include <autoglm.h>

/* What is asked: `prompt_tokens` ids, one token of answer. */
struct trip_request {
    uint32_t model;
    uint32_t prompt_tokens;
};

struct trip {
    uint64_t first_event; /* ticks */
    uint64_t first_token; /* ticks */
    uint64_t step_ns;     /* the first step begun until the token, by the daemon, in whole us */
    int64_t rest_ns;      /* the first token less that, by the daemon's clock: the way, the wait */
};

/* Its parts, in ns: they need clocks that both sides can read, and one that cannot be read
 * backwards tells that the processors' clocks differ. */
struct trip_parts {
    int64_t taken;     /* agl_submit() called until the daemon had taken it */
    int64_t published; /* from then until it published the first event */
    int64_t seen;      /* from then until the caller had it */
};

int trip_make(struct agl_client *client, const struct trip_request *request, struct trip *ret_trip);
int trip_make_parts(struct agl_client *client, const struct trip_request *request,
                    struct trip_parts *ret_parts);

/* Mean ticks of one call, of as many as there are in a batch. */
struct trip_calls {
    uint64_t submit;     /* agl_prompt(), an id, agl_submit() */
    uint64_t poll_event; /* agl_poll() that finds an event; the events were there before */
    uint64_t poll_empty; /* agl_poll() that finds none */
};
enum { TRIP_BATCH = 16 }; /* requests; a session has room for as many */

/* Prompts of one id, whatever the request says; the daemon has to be awake. */
int trip_time_calls(struct agl_client *client, const struct trip_request *request,
                    struct trip_calls *ret_calls);

#endif
