/*
 * A daemon of the benchmark's own: started in a private folder, stopped and removed without a
 * trace.
 */
#ifndef AGL_TOOLS_BENCH_DAEMON_H
#define AGL_TOOLS_BENCH_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct bench_daemon {
    pid_t pid; /* 0: none */
    bool is_held;
    char folder[64];
    char socket_path[96];
    char instance[32];
};

struct bench_daemon_options {
    const char *program; /* NULL: autoglmd beside this program, else in $PATH */
    const char *wait;    /* its way of waiting */
    const char *model;   /* its only one, NAME=FOLDER */
    uint32_t sessions;   /* of this user, at the most */
    int processor;       /* -1: anywhere */
};

/* Starts the daemon and waits until it serves. It ends with this process, however that ends; while
 * it is held only with a guard (bench_guard.h). 0; CLI_FAILED after a message; bench_stop_status().
 */
int bench_daemon_start(struct bench_daemon *ret_daemon, const struct bench_daemon_options *options);

/* Ends it in the ordinary way, or after BENCH_PATIENCE_S by force. Does nothing without one. */
void bench_daemon_stop(struct bench_daemon *daemon);

/* Holds the process and lets it go on, so that something else can be measured on its processor. 0;
 * CLI_FAILED after a message: it has ended; bench_stop_status(). */
int bench_daemon_hold(struct bench_daemon *daemon);
void bench_daemon_resume(struct bench_daemon *daemon);

#endif
