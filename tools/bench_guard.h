/*
 * A process that does one thing: when the benchmark ends without letting its held daemons go on
 * (SIGKILL, a crash), it does, so that they find the signal of that death and end.
 */
#ifndef AGL_TOOLS_BENCH_GUARD_H
#define AGL_TOOLS_BENCH_GUARD_H

#include <sys/types.h>

/* 0 or a negative errno. Once at a time. */
int bench_guard_begin(void);
void bench_guard_end(void);

/* Adds a process to those that may be held, and takes it away before it is waited for. */
void bench_guard_add(pid_t pid);
void bench_guard_remove(pid_t pid);

#endif
