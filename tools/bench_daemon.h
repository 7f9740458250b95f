/*
 * A daemon of the benchmark's own: started in a private folder with the echo model, stopped and
 * removed without a trace.
 */
#ifndef AGL_TOOLS_BENCH_DAEMON_H
#define AGL_TOOLS_BENCH_DAEMON_H

#include <sys/types.h>

struct bench_daemon {
    pid_t pid;
    char folder[64];
    char socket_path[96];
};

/* Starts `program` (NULL: autoglmd beside this program, else in $PATH) with --wait `mode`, on
 * `processor` (-1: anywhere), and waits until it serves. 0 or CLI_FAILED after a message. */
int bench_daemon_start(struct bench_daemon *ret_daemon, const char *program, const char *mode,
                       int processor);
void bench_daemon_stop(struct bench_daemon *daemon);

/* Holds the process and lets it go on, so that something else can be measured on its processor. */
void bench_daemon_pause(const struct bench_daemon *daemon);
void bench_daemon_resume(const struct bench_daemon *daemon);

#endif
