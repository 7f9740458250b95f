/*
 * What `autoglm bench dispatch` is asked to measure, and the order in which it does: phases, one
 * after the other, of set-ups that take turns.
 */
#ifndef AGL_TOOLS_BENCH_PLAN_H
#define AGL_TOOLS_BENCH_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/bench_list.h"

enum bench_mode { BENCH_SPIN, BENCH_ADAPTIVE, BENCH_SLEEP, BENCH_MODES };

enum bench_pinning { BENCH_PINNED = 1, BENCH_UNPINNED = 2 };

enum {
    BENCH_SESSIONS_MAX = 1024,
    BENCH_IDLE_MAX = 16384,
    BENCH_PROMPT_MAX = 32000,
    BENCH_TRIPS_LEAST = 20,
};

struct bench_options {
    const char *socket_path; /* NULL: daemons of our own */
    const char *model;       /* with socket_path: its name */
    const char *daemon;      /* the program; NULL: the one of this installation */
    const char *folder;      /* of the real model; NULL: the bundled one; "none" */
    bool modes[BENCH_MODES];
    unsigned pinning;  /* of enum bench_pinning */
    int processors[2]; /* the client's and the other side's; -1: the first two allowed */
    struct bench_list sessions, idle, prompts;
    bool is_full;
    bool leaves_out_idle; /* the usual idle sessions do not fit */
    uint32_t trips, blocks;
    bool shows_histogram;
    bool is_json;
};

/* A daemon with the sessions connected to it. */
struct bench_setup {
    enum bench_mode mode;
    bool is_real;      /* the real model instead of the echo */
    uint32_t sessions; /* asked in turn, one request in flight in all */
    uint32_t idle;     /* connected beside them, silent */
    struct bench_list prompts;
};

/* Set-ups that are there at the same time, held while it is not their turn. */
enum { BENCH_SETUPS_MAX = 256 };
struct bench_plan {
    uint32_t count;
    struct bench_setup setups[BENCH_SETUPS_MAX];
    uint32_t phases[BENCH_SETUPS_MAX]; /* of each set-up, not falling, from 0 */
};

/* Reads "spin,sleep"; false: it makes no sense. */
bool bench_parse_modes(const char *text, bool ret_modes[BENCH_MODES]);

const char *bench_mode_name(enum bench_mode mode);

/* Lays out the set-ups. Without any list, a star around one session, none idle, one token: each of
 * the usual values in turn, the others left at their least. With lists or is_full, every
 * combination of them. has_real: there is a real model; it is asked in the first set-up of each way
 * of waiting alone. sessions_at_once: how many may be connected in a phase.
 * 0; -ENOSPC: one way of waiting with one number of sessions does not fit into a phase. */
int bench_plan_make(struct bench_plan *ret_plan, const struct bench_options *options, bool has_real,
                    uint32_t sessions_at_once);

#endif
