/*
 * A process for the case that the benchmark ends without putting away its daemons (SIGKILL, a
 * crash): it lets the held ones go on, so that they find the signal of that death and end, and then
 * removes their folders.
 */
#ifndef AGL_TOOLS_BENCH_GUARD_H
#define AGL_TOOLS_BENCH_GUARD_H

#include <sys/types.h>

/* 0 or a negative errno. Once at a time. */
int bench_guard_begin(void);
void bench_guard_end(void);

/* Adds a daemon, which may be held, with its folder, which holds its socket, "socket", alone; and
 * takes it away once its folder is removed. */
void bench_guard_add(pid_t pid, const char *folder);
void bench_guard_remove(pid_t pid);

#endif
