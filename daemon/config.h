/*
 * Flags and configuration files become one read-only struct.
 *
 * Order, later ones winning: built-in defaults, the file given by --config (or
 * /etc/autoglm/autoglm.json where it exists), the drop-ins FILE.d/NAME.json in the order of their
 * names, flags. The files are JSON with // and slash-star comments; an unknown key is an error that
 * names the nearest known one. autoglm.conf(5) lists the keys. A relative model folder counts from
 * the folder of the file that names it, or from the current one in a flag.
 */
#ifndef AGL_DAEMON_CONFIG_H
#define AGL_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/tensor.h"
#include "model/failure.h"
#include "model/model.h"
#include "shm/layout.h"

enum { CONFIG_PATH_BYTES = 256, CONFIG_MODELS_MAX = BOARD_MODELS_MAX };

/* How the engine waits while nothing is to be done. */
enum engine_wait { ENGINE_WAIT_ADAPTIVE = 0, ENGINE_WAIT_SPIN = 1, ENGINE_WAIT_SLEEP = 2 };

struct config_model {
    char name[MODEL_NAME_BYTES];
    char folder[CONFIG_PATH_BYTES]; /* or "echo:" */
};

struct config {
    char socket_path[108];   /* "socket"; default /run/autoglm/autoglm.sock */
    char instance[32];       /* "instance"; the board is /autoglm.INSTANCE; default "default" */
    char socket_group[64];   /* "socket_group": who may connect besides the owner; "" none */
    uint32_t socket_mode;    /* "socket_mode", octal string; default 0660 */
    char allow_users[1024];  /* "allow_users", names or numbers with commas between; "" all */
    char allow_groups[1024]; /* "allow_groups", likewise: who is in one of them is let in too */
    struct config_model models[CONFIG_MODELS_MAX]; /* "models": {NAME: FOLDER} */
    uint32_t model_count;

    char device[16]; /* "device": "cpu" */
    char
        cpu_variant[16]; /* "cpu_variant": "auto", "plain", "avx2", "avx512", "avx512vnni", "amx" */
    uint32_t threads;    /* "threads"; 0: as many as processors are allowed */
    char cpus[256];      /* "cpus": processors to run on, "0-3,8"; "": wherever it may */
    enum engine_wait wait; /* "wait": "adaptive", "spin", "sleep" */
    uint64_t spin_ns;      /* "spin_us"; adaptive: spin no longer than this; default 50 us */

    uint32_t context_tokens;     /* "context_tokens"; 0: the model's own */
    uint32_t block_tokens;       /* "block_tokens"; tokens of a cache block; default 16 */
    uint64_t cache_bytes;        /* "cache_mib"; of all models' caches; default 1 GiB */
    enum tensor_type cache_type; /* "cache_type": "f16", "f32"; default f16 */
    uint64_t memory_bytes;       /* "memory_mib": for weights; 0: what the machine has free */
    enum tensor_type quant;      /* "quant": "none", "q8", "q8_min", "q4", "q4_min"; default none */
    enum model_wide quant_head;  /* "quant_head": "q8", "keep", "quant"; default q8 */
    enum model_wide quant_embedding; /* "quant_embedding": likewise */

    uint32_t step_tokens;    /* "step_tokens"; rows of one step at the most; default 256 */
    uint32_t chunk_tokens;   /* "chunk_tokens"; prompt tokens of one sequence a step; default 64 */
    uint32_t running_max;    /* "running_max"; sequences in one step; default 64 */
    uint32_t kept_max;       /* "kept_max"; ended sequences kept to be continued; default 256 */
    uint32_t queue_requests; /* "queue_requests"; default 4096 */
    uint32_t queue_tokens;   /* "queue_tokens"; prompt tokens waiting; default 4 Mi */

    uint32_t sessions_max;      /* "sessions_max"; default 1024 */
    uint32_t sessions_per_user; /* "sessions_per_user"; default 256 */
    uint32_t
        user_queued_requests; /* "user_queued_requests"; of one user; 0: no limit; default 1024 */
    uint32_t user_queued_tokens; /* "user_queued_tokens"; likewise; default 1 Mi */
    uint64_t user_memory_bytes;  /* "user_memory_mib"; sessions of one user; default 1 GiB */
    uint64_t slow_reader_ns;     /* "slow_reader_ms"; a request parked longer than this ends; 5 s */
    uint64_t handshake_ns;       /* "handshake_ms"; default 2 s */
    uint64_t drain_ns;           /* "drain_ms"; for running requests after SIGTERM; default 10 s */
    struct geometry geometry_max; /* "session": {"submission_slots", "event_slots",
                                     "max_requests", "arena_bytes", "output_bytes"} */

    uint32_t log_level; /* "log_level": "error", "warning", "info", "debug"; as journald numbers */
    bool check_only;    /* --check-config */
};

/* What config_read() found the command line to ask for. */
enum config_action { CONFIG_RUN = 0, CONFIG_HELP = 1, CONFIG_VERSION = 2 };

/* Every value as it is when nothing is said; no models. */
void config_defaults(struct config *ret_config);

/* Reads flags and files. On -EINVAL and friends *failure says which file, key or flag was wrong and
 * why. Returns enum config_action. */
int config_read(struct config *ret_config, int argc, char **argv, struct failure *failure);

/* The text of --help. */
void config_usage(FILE *out);

/* The effective values, as a configuration file that would give the same. */
void config_write(FILE *out, const struct config *config);

/* "0.1.0" */
const char *config_version(void);

#endif
