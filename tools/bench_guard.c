#include "tools/bench_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/bench_plan.h"

enum { DAEMONS_MAX = BENCH_SETUPS_MAX, FOLDER_BYTES = 64, LOOK_NS = 5000000, LOOKS_MAX = 2000 };

/* Mapped by both processes. */
struct held {
    _Atomic pid_t pid; /* 0: nobody; stored after the folder and cleared before it changes */
    char folder[FOLDER_BYTES];
};
static struct held *held; /* [DAEMONS_MAX]; NULL: no guard */
static pid_t guard;
static int end_fd = -1; /* closed when this process ends, however it does */

/* The daemon removes its socket when it ends; we, with the last look, that of one that was killed.
 * true: nothing is left. */
static bool is_removed(const char *folder, bool is_last_look)
{
    char socket_path[FOLDER_BYTES + 8];
    if (rmdir(folder) == 0 || errno == ENOENT)
        return true;
    snprintf(socket_path, sizeof socket_path, "%s/socket", folder);
    return is_last_look && unlink(socket_path) == 0 && rmdir(folder) == 0;
}

/* Waits for the daemons' ends, for ten seconds at most. */
static void remove_folders(void)
{
    int left = 1;
    for (int look = 1; look <= LOOKS_MAX && left; look++) {
        left = 0;
        for (int i = 0; i < DAEMONS_MAX; i++) {
            if (held[i].pid && is_removed(held[i].folder, look == LOOKS_MAX))
                held[i].pid = 0;
            left += held[i].pid != 0;
        }
        if (left)
            nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
    }
}

/* In a group of its own, which neither Ctrl-C nor a kill of the benchmark's group reaches; it ends
 * when its parent has. */
static void stand_guard(int fd)
{
    char nothing;
    setpgid(0, 0);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    while (read(fd, &nothing, 1) < 0 && errno == EINTR)
        continue;
    for (int i = 0; i < DAEMONS_MAX; i++)
        if (held[i].pid)
            kill(held[i].pid, SIGCONT);
    remove_folders();
    _exit(0);
}

int bench_guard_begin(void)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    void *memory = mmap(NULL, DAEMONS_MAX * sizeof *held, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        close(fds[0]);
        close(fds[1]);
        return -ENOMEM;
    }
    held = memory;
    guard = fork();
    if (guard == 0) {
        close(fds[1]);
        stand_guard(fds[0]);
    }
    int err = guard < 0 ? -errno : 0;
    close(fds[0]);
    end_fd = fds[1];
    if (err < 0)
        bench_guard_end();
    return err;
}

void bench_guard_end(void)
{
    if (!held)
        return;
    close(end_fd);
    while (guard > 0 && waitpid(guard, NULL, 0) < 0 && errno == EINTR)
        continue;
    munmap(held, DAEMONS_MAX * sizeof *held);
    held = NULL;
}

static struct held *find(pid_t pid)
{
    for (int i = 0; held && i < DAEMONS_MAX; i++)
        if (held[i].pid == pid)
            return &held[i];
    return NULL;
}

void bench_guard_add(pid_t pid, const char *folder)
{
    struct held *place = find(0);
    if (!place)
        return;
    snprintf(place->folder, sizeof place->folder, "%s", folder);
    place->pid = pid;
}

void bench_guard_remove(pid_t pid)
{
    struct held *place = find(pid);
    if (place)
        place->pid = 0;
}
