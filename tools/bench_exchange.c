/* The two processes, their ends, and their tasks. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench_exchange_state.h"
#include "tools/bench_machine.h"
#include "tools/bench_stop.h"

/* The index of the ends that a process keeps. */
enum { OURS, THEIRS };
enum { LINE_BYTES = 64 };

struct task {
    enum exchange_kind kind;
    uint32_t count;
    uint32_t read_words;
};

static const char *const names[EXCHANGE_KINDS] = {
    [EXCHANGE_LINE] = "raw cache-line exchange, no PAUSE",
    [EXCHANGE_LINE_PAUSE] = "raw cache-line exchange, PAUSE",
    [EXCHANGE_FUTEX] = "futex",
    [EXCHANGE_EVENTFD] = "eventfd",
    [EXCHANGE_PIPE] = "pipe",
    [EXCHANGE_STREAM] = "Unix socket, SOCK_STREAM",
    [EXCHANGE_SEQPACKET] = "Unix socket, SOCK_SEQPACKET",
    [EXCHANGE_HTTP] = "HTTP over loopback",
    [EXCHANGE_READ] = "reading once what the other side wrote",
};

const char *exchange_name(enum exchange_kind kind)
{
    return names[kind];
}

bool exchange_sleeps(enum exchange_kind kind)
{
    return kind != EXCHANGE_LINE && kind != EXCHANGE_LINE_PAUSE && kind != EXCHANGE_READ;
}

/* ---- the other process ------------------------------------------------------------------------
 */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Each process gives up the ends that are the other one's, so that it sees its death. */
static void keep_ends(struct exchange *exchange, int whose)
{
    close_fd(&exchange->tasks[whose == OURS ? 0 : 1]);
    close_fd(&exchange->pipes[0][whose == OURS ? 0 : 1]);
    close_fd(&exchange->pipes[1][whose == OURS ? 1 : 0]);
    close_fd(&exchange->streams[1 - whose]);
    close_fd(&exchange->packets[1 - whose]);
}

/* A signal to the whole group is for the parent, who ends this process when it has to. */
static void be_the_other_side(struct exchange *exchange, int processor, pid_t parent)
{
    struct task task;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    if (machine_pin(processor) < 0)
        _exit(1);
    keep_ends(exchange, THEIRS);
    while (read(exchange->tasks[0], &task, sizeof task) == sizeof task) {
        exchange->read_words = task.read_words;
        for (uint32_t i = 0; i < task.count; i++) {
            exchange->at++;
            if (exchange_answer(exchange, task.kind) < 0)
                _exit(1);
        }
    }
    _exit(0);
}

/* ---- this process ---------------------------------------------------------------------------- */

static int make_ends(struct exchange *exchange)
{
    exchange->events[0] = eventfd(0, EFD_CLOEXEC);
    exchange->events[1] = eventfd(0, EFD_CLOEXEC);
    if (exchange->events[0] < 0 || exchange->events[1] < 0 || pipe2(exchange->tasks, O_CLOEXEC) ||
        pipe2(exchange->pipes[0], O_CLOEXEC) || pipe2(exchange->pipes[1], O_CLOEXEC) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, exchange->streams) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, exchange->packets))
        return -errno;
    if (http_listen(&exchange->http_listen) < 0)
        exchange->http_listen = -1;
    return 0;
}

static int start_peer(struct exchange *exchange, int processor)
{
    pid_t self = getpid();
    exchange->peer = fork();
    if (exchange->peer < 0)
        return -errno;
    if (exchange->peer == 0)
        be_the_other_side(exchange, processor, self);
    keep_ends(exchange, OURS);
    if (exchange->http_listen >= 0 && http_connect(exchange->http_listen, &exchange->http.fd) < 0)
        exchange->http.fd = -1;
    close_fd(&exchange->http_listen); /* the other process has it too, and alone from now on */
    return 0;
}

int exchange_open(struct exchange **ret_exchange, int processor)
{
    struct exchange *exchange = malloc(sizeof *exchange);
    if (!exchange)
        return -ENOMEM;
    *exchange = (struct exchange){.peer = -1,
                                  .tasks = {-1, -1},
                                  .events = {-1, -1},
                                  .pipes = {{-1, -1}, {-1, -1}},
                                  .streams = {-1, -1},
                                  .packets = {-1, -1},
                                  .http_listen = -1,
                                  .http = {.fd = -1}};
    exchange->shared = mmap(NULL, sizeof *exchange->shared, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    int err = exchange->shared == MAP_FAILED ? -ENOMEM : make_ends(exchange);
    if (err == 0)
        err = start_peer(exchange, processor);
    if (err < 0) {
        exchange_close(exchange);
        return err;
    }
    *ret_exchange = exchange;
    return 0;
}

void exchange_close(struct exchange *exchange)
{
    if (!exchange)
        return;
    if (exchange->peer > 0) {
        kill(exchange->peer, SIGKILL); /* it may spin for an answer; it holds nothing */
        while (waitpid(exchange->peer, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    for (int i = 0; i < 2; i++) {
        close_fd(&exchange->tasks[i]);
        close_fd(&exchange->events[i]);
        close_fd(&exchange->pipes[0][i]);
        close_fd(&exchange->pipes[1][i]);
        close_fd(&exchange->streams[i]);
        close_fd(&exchange->packets[i]);
    }
    close_fd(&exchange->http_listen);
    close_fd(&exchange->http.fd);
    if (exchange->shared != MAP_FAILED)
        munmap(exchange->shared, sizeof *exchange->shared);
    free(exchange);
}

bool exchange_has(const struct exchange *exchange, enum exchange_kind kind)
{
    return kind != EXCHANGE_HTTP || exchange->http.fd >= 0;
}

int exchange_run(struct exchange *exchange, enum exchange_kind kind, uint32_t read_bytes,
                 uint64_t *ret_ticks, uint32_t count)
{
    uint32_t lines = (read_bytes + LINE_BYTES - 1) / LINE_BYTES;
    struct task task = {.kind = kind,
                        .count = EXCHANGE_WARM_UP_TRIPS + count,
                        .read_words = lines * (LINE_BYTES / (uint32_t)sizeof(uint64_t))};
    if (read_bytes > EXCHANGE_READ_BYTES_MAX)
        return -EINVAL;
    if (!exchange_has(exchange, kind))
        return -ENOTSUP;
    exchange->read_words = task.read_words;
    if (write(exchange->tasks[1], &task, sizeof task) != sizeof task)
        return -errno;
    if (exchange_sleeps(kind)) /* who spins looks by itself */
        bench_tick_begin();
    int err = exchange_time_trips(exchange, kind, ret_ticks, count);
    bench_tick_end();
    return err;
}
