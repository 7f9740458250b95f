/*
 * A set-up of the plan brought to life: its daemon, the sessions that are asked, and the silent
 * ones beside them.
 */
#ifndef AGL_TOOLS_BENCH_STAGE_H
#define AGL_TOOLS_BENCH_STAGE_H

#include "tools/bench_daemon.h"
#include "tools/bench_plan.h"

struct stage {
    struct bench_setup setup;
    struct bench_daemon daemon;  /* pid 0: somebody else's, which cannot be held */
    struct agl_client **clients; /* [sessions + idle], those that are asked first; NULL: not yet */
    uint32_t model;              /* its index in the daemon */
    uint32_t turn;               /* which session is asked next */
    char model_name[64];
    uint32_t context_tokens;
    uint32_t left_out; /* prompts of the plan that do not fit into the model; not in `setup` */
};

/* Starts the daemon on `processor` (-1: anywhere), connects everybody and holds it. model: its
 * NAME=FOLDER; ignored with options->socket_path. 0; CLI_FAILED after a message;
 * bench_stop_status(). After a failure as well, stage_close(). */
int stage_open(struct stage *ret_stage, const struct bench_setup *setup,
               const struct bench_options *options, const char *model, int processor);
void stage_close(struct stage *stage);

/* The session whose turn it is. */
struct agl_client *stage_next(struct stage *stage);

/* Raises the limit of descriptors as far as it goes; how many sessions may be there at once. */
void stage_limits(uint32_t *ret_sessions);

#endif
