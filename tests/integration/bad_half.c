#include "tests/integration/bad_half.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL };

static int or_errno(int fd)
{
    return fd < 0 ? -errno : fd;
}

static int or_close(int fd, int result)
{
    if (result == 0)
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

/* A memfd of that size with every page there. */
static int make_whole(uint64_t bytes)
{
    int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -errno : or_close(fd, fallocate(fd, 0, 0, (off_t)bytes));
}

int half_make_sealed(uint64_t bytes, int seals)
{
    int fd = make_whole(bytes);
    return fd < 0 ? fd : or_close(fd, fcntl(fd, F_ADD_SEALS, seals));
}

int half_make(uint64_t bytes)
{
    return half_make_sealed(bytes, SEALS);
}

static int open_again(int fd, int flags)
{
    char path[64];
    if (fd < 0)
        return fd;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = or_errno(open(path, flags | O_CLOEXEC));
    close(fd);
    return again;
}

/* ---- memory, but not like that ----------------------------------------------------------------
 */

static int make_unsealed(const struct stranger *stranger, uint64_t bytes)
{
    return make_whole(bytes);
}

static int make_shrinkable(const struct stranger *stranger, uint64_t bytes)
{
    return half_make_sealed(bytes, SEALS & ~F_SEAL_SHRINK);
}

static int make_growable(const struct stranger *stranger, uint64_t bytes)
{
    return half_make_sealed(bytes, SEALS & ~F_SEAL_GROW);
}

static int make_writable(const struct stranger *stranger, uint64_t bytes)
{
    return half_make_sealed(bytes, SEALS & ~F_SEAL_FUTURE_WRITE);
}

static int make_sealable(const struct stranger *stranger, uint64_t bytes)
{
    return half_make_sealed(bytes, SEALS & ~F_SEAL_SEAL);
}

static int make_small(const struct stranger *stranger, uint64_t bytes)
{
    return half_make(bytes - LAYOUT_PAGE_BYTES);
}

static int make_smaller(const struct stranger *stranger, uint64_t bytes)
{
    return half_make(bytes - 1);
}

static int make_large(const struct stranger *stranger, uint64_t bytes)
{
    return half_make(bytes + LAYOUT_PAGE_BYTES);
}

static int make_empty(const struct stranger *stranger, uint64_t bytes)
{
    int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -errno : or_close(fd, fcntl(fd, F_ADD_SEALS, SEALS));
}

/* Made larger again after it was right, or was cut: what came last counts. */
static int make_grown(const struct stranger *stranger, uint64_t bytes)
{
    int fd = make_whole(bytes);
    if (fd < 0)
        return fd;
    return or_close(fd, ftruncate(fd, (off_t)bytes * 4) || fcntl(fd, F_ADD_SEALS, SEALS));
}

static int make_truncated(const struct stranger *stranger, uint64_t bytes)
{
    int fd = make_whole(bytes);
    if (fd < 0)
        return fd;
    return or_close(fd, ftruncate(fd, 0) || fcntl(fd, F_ADD_SEALS, SEALS));
}

static int make_sparse(const struct stranger *stranger, uint64_t bytes)
{
    int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    return or_close(fd, ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, SEALS));
}

static int make_punched(const struct stranger *stranger, uint64_t bytes)
{
    enum { PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
    int fd = make_whole(bytes);
    if (fd < 0)
        return fd;
    return or_close(fd,
                    fallocate(fd, PUNCH, (off_t)bytes / 2 / LAYOUT_PAGE_BYTES * LAYOUT_PAGE_BYTES,
                              LAYOUT_PAGE_BYTES) ||
                        fcntl(fd, F_ADD_SEALS, SEALS));
}

/* Pages that are missing would be a SIGBUS, so none has to be in the pool. */
static int make_huge(const struct stranger *stranger, uint64_t bytes)
{
    int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);
    if (fd < 0)
        return -errno;
    return or_close(fd, ftruncate(fd, 2 << 20) || fcntl(fd, F_ADD_SEALS, SEALS));
}

static int make_secret(const struct stranger *stranger, uint64_t bytes)
{
    int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    return fd < 0 ? -errno : or_close(fd, ftruncate(fd, (off_t)bytes));
}

static int make_named(const struct stranger *stranger, uint64_t bytes)
{
    char name[64];
    snprintf(name, sizeof name, "/autoglm-hostile-%d", (int)getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return -errno;
    shm_unlink(name);
    return or_close(fd, fallocate(fd, 0, 0, (off_t)bytes));
}

/* Right, but opened in a way that does not do. */
static int make_write_only(const struct stranger *stranger, uint64_t bytes)
{
    return open_again(half_make(bytes), O_WRONLY);
}

static int make_path_only(const struct stranger *stranger, uint64_t bytes)
{
    return open_again(half_make(bytes), O_PATH);
}

/* ---- files and others -------------------------------------------------------------------------
 */

static int make_file(const struct stranger *stranger, uint64_t bytes)
{
    FILE *file = tmpfile();
    if (!file)
        return -errno;
    int fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, 0);
    fclose(file);
    return fd < 0 ? -errno : or_close(fd, ftruncate(fd, (off_t)bytes));
}

static int make_zero(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(open("/dev/zero", O_RDWR | O_CLOEXEC));
}

static int make_folder(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

static int make_proc(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
}

static int make_pipe(const struct stranger *stranger, uint64_t bytes)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    close(ends[1]);
    return ends[0];
}

static int make_socket(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static int make_eventfd(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(eventfd(0, EFD_CLOEXEC));
}

static int make_epoll(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(epoll_create1(EPOLL_CLOEXEC));
}

static int make_timer(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
}

static int make_signal(const struct stranger *stranger, uint64_t bytes)
{
    sigset_t none;
    sigemptyset(&none);
    return or_errno(signalfd(-1, &none, SFD_CLOEXEC));
}

static int make_process(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno((int)syscall(SYS_pidfd_open, getpid(), 0));
}

/* ---- what the daemon gave ---------------------------------------------------------------------
 */

static int make_daemon_half(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(fcntl(stranger->daemon_fd, F_DUPFD_CLOEXEC, 0));
}

static int make_board(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(fcntl(stranger->board_fd, F_DUPFD_CLOEXEC, 0));
}

static int make_doorbell(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(fcntl(stranger->doorbell_fd, F_DUPFD_CLOEXEC, 0));
}

static int make_own_socket(const struct stranger *stranger, uint64_t bytes)
{
    return or_errno(fcntl(stranger->socket_fd, F_DUPFD_CLOEXEC, 0));
}

#define NOT_SEALED -EPROTO, "client half: not sealed against"
#define NOT_MEMORY -EPROTO, "client half: not a memfd"
#define NOT_THE_SIZE -EPROTO, "client half: not of the agreed size"
#define NOT_WHOLE -EPROTO, "client half: not all there"

const struct bad_half bad_halves[] = {
    {"no seals", make_unsealed, NOT_SEALED},
    {"all seals but SHRINK", make_shrinkable, NOT_SEALED},
    {"all seals but GROW", make_growable, NOT_SEALED},
    {"all seals but FUTURE_WRITE", make_writable, NOT_SEALED},
    {"all seals but SEAL", make_sealable, NOT_SEALED},
    {"a page too small", make_small, NOT_THE_SIZE},
    {"a byte too small", make_smaller, NOT_THE_SIZE},
    {"a page too large", make_large, NOT_THE_SIZE},
    {"empty", make_empty, NOT_THE_SIZE},
    {"grown", make_grown, NOT_THE_SIZE},
    {"truncated", make_truncated, NOT_THE_SIZE},
    {"sparse", make_sparse, NOT_WHOLE},
    {"with a hole", make_punched, NOT_WHOLE},
    {"huge pages", make_huge, -EPROTO, "client half: not on tmpfs"},
    {"secret memory", make_secret, NOT_MEMORY},
    {"a named object", make_named, NOT_SEALED},
    {"opened for writing only", make_write_only, -EACCES, "client half: Permission denied"},
    {"opened as a path", make_path_only, NOT_MEMORY},
    {"a file", make_file, -EPROTO,
     "client half: not "}, /* a memfd, or sealed where /tmp is tmpfs */
    {"/dev/zero", make_zero, NOT_MEMORY},
    {"a folder", make_folder, NOT_MEMORY},
    {"/proc/self/mem", make_proc, NOT_MEMORY},
    {"a pipe", make_pipe, NOT_MEMORY},
    {"a socket", make_socket, NOT_MEMORY},
    {"an eventfd", make_eventfd, NOT_MEMORY},
    {"an epoll", make_epoll, NOT_MEMORY},
    {"a timerfd", make_timer, NOT_MEMORY},
    {"a signalfd", make_signal, NOT_MEMORY},
    {"a pidfd", make_process, NOT_MEMORY},
    {"the daemon's half", make_daemon_half, NOT_THE_SIZE},
    {"the board", make_board, NOT_THE_SIZE},
    {"the doorbell", make_doorbell, NOT_MEMORY},
    {"its own socket", make_own_socket, NOT_MEMORY},
};

const uint32_t bad_half_count = sizeof bad_halves / sizeof *bad_halves;
