#include "tools/bench_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench_plan.h"

enum { PIDS_MAX = BENCH_SETUPS_MAX };

/* Mapped by both processes; 0: no process. NULL: no guard. */
static _Atomic pid_t *pids;
static pid_t guard;
static int end_fd = -1; /* closed when this process ends, however it does */

/* Ctrl-C reaches the whole group; this process ends when its parent has. */
static void stand_guard(int fd)
{
    char nothing;
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    while (read(fd, &nothing, 1) < 0 && errno == EINTR)
        continue;
    for (int i = 0; i < PIDS_MAX; i++)
        if (pids[i])
            kill(pids[i], SIGCONT);
    _exit(0);
}

int bench_guard_begin(void)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    void *memory = mmap(NULL, PIDS_MAX * sizeof *pids, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        close(fds[0]);
        close(fds[1]);
        return -ENOMEM;
    }
    pids = memory;
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
    if (!pids)
        return;
    close(end_fd);
    while (guard > 0 && waitpid(guard, NULL, 0) < 0 && errno == EINTR)
        continue;
    munmap((void *)pids, PIDS_MAX * sizeof *pids);
    pids = NULL;
}

static void replace(pid_t from, pid_t to)
{
    for (int i = 0; pids && i < PIDS_MAX; i++) {
        if (pids[i] != from)
            continue;
        pids[i] = to;
        return;
    }
}

void bench_guard_add(pid_t pid)
{
    replace(0, pid);
}

void bench_guard_remove(pid_t pid)
{
    replace(pid, 0);
}
