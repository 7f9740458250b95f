#include "tools/bench_exchange.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench_clock.h"
#include "tools/bench_http.h"
#include "tools/bench_stop.h"

enum { OURS, THEIRS };
enum { LINE_BYTES = 64, WARM_UP_TRIPS = 32, SPINS_PER_LOOK = 1 << 16, NS_PER_S = 1000000000 };

/* What both processes map. Two lines apart, one writer each; `there` is ours, `back` theirs. */
struct shared {
    _Alignas(128) _Atomic uint64_t there;
    _Alignas(128) _Atomic uint64_t back;
    _Alignas(128) _Atomic uint32_t futex_there;
    _Alignas(128) _Atomic uint32_t futex_back;
    _Alignas(4096) uint64_t words[EXCHANGE_READ_BYTES_MAX / sizeof(uint64_t)];
};

struct task {
    enum exchange_kind kind;
    uint32_t count;
    uint32_t read_words;
};

struct exchange {
    struct shared *shared;
    pid_t peer;
    uint64_t at; /* trips begun; each process counts for itself */
    uint32_t read_words;
    int tasks[2]; /* a pipe: what the other process does next */
    int events[2];
    int pipes[2][2]; /* [there, back] */
    int streams[2];
    int packets[2];
    int http_listen; /* -1: no loopback here */
    struct http http;
    uint64_t noted_at; /* may_go_on(): the trip that was seen last, and when */
    uint64_t noted_ns;
};

static const char *const names[EXCHANGE_KINDS] = {
    [EXCHANGE_LINE] = "raw cache-line exchange",
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

/* Asked now and then by who waits: false when told to stop, or when the same trip has lasted too
 * long. */
static bool may_go_on(struct exchange *exchange)
{
    uint64_t now_ns = agl_now_ns();
    if (exchange->noted_at != exchange->at) {
        exchange->noted_at = exchange->at;
        exchange->noted_ns = now_ns;
    }
    return !bench_stop_signal() &&
           now_ns - exchange->noted_ns < (uint64_t)BENCH_PATIENCE_S * NS_PER_S;
}

/* ---- by memory ------------------------------------------------------------------------------- */

static int spin_for(struct exchange *exchange, const _Atomic uint64_t *word, uint64_t value)
{
    uint32_t spins = 0;
    /* acquire: pairs with the other side's release; what it wrote before is there. */
    while (atomic_load_explicit(word, memory_order_acquire) != value)
        if (++spins % SPINS_PER_LOOK == 0 && !may_go_on(exchange))
            return -EINTR;
    return 0;
}

static inline int ask_line(struct exchange *exchange)
{
    struct shared *shared = exchange->shared;
    atomic_store_explicit(&shared->there, exchange->at, memory_order_release);
    return spin_for(exchange, &shared->back, exchange->at);
}

static int answer_line(struct exchange *exchange)
{
    struct shared *shared = exchange->shared;
    int err = spin_for(exchange, &shared->there, exchange->at);
    atomic_store_explicit(&shared->back, exchange->at, memory_order_release);
    return err;
}

/* The other side fills the words as a client fills a prompt, and then publishes. */
static int answer_read(struct exchange *exchange)
{
    struct shared *shared = exchange->shared;
    int err = spin_for(exchange, &shared->there, exchange->at);
    for (uint32_t i = 0; i < exchange->read_words; i++)
        shared->words[i] = exchange->at;
    atomic_store_explicit(&shared->back, exchange->at, memory_order_release);
    return err;
}

/* Whole lines, in streams that do not depend on each other: loads are the limit. */
static uint64_t sum_words(const uint64_t *words, uint32_t count)
{
    enum { LANES = LINE_BYTES / sizeof(uint64_t) };
    uint64_t sums[LANES] = {0};
    for (uint32_t i = 0; i < count; i += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++)
            sums[lane] += words[i + lane];
    uint64_t sum = 0;
    for (uint32_t lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

/* The reading alone is timed, not the wait for it. */
static int time_read(struct exchange *exchange, uint64_t *ret_ticks)
{
    int err = ask_line(exchange);
    uint64_t start = bench_ticks();
    uint64_t sum = sum_words(exchange->shared->words, exchange->read_words);
    __asm__ volatile("" : : "r"(sum) : "memory"); /* the sum is there before the clock is read */
    *ret_ticks = bench_ticks() - start;
    return err == 0 && sum != exchange->at * exchange->read_words ? -EIO : err;
}

/* ---- by sleeping ----------------------------------------------------------------------------- */

static void wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int sleep_for(struct exchange *exchange, _Atomic uint32_t *word, uint32_t value)
{
    for (;;) {
        uint32_t seen = atomic_load_explicit(word, memory_order_acquire);
        if (seen == value)
            return 0;
        if (syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0) < 0 && errno == EINTR &&
            !may_go_on(exchange))
            return -EINTR;
    }
}

static int ask_futex(struct exchange *exchange)
{
    struct shared *shared = exchange->shared;
    atomic_store_explicit(&shared->futex_there, (uint32_t)exchange->at, memory_order_release);
    wake(&shared->futex_there);
    return sleep_for(exchange, &shared->futex_back, (uint32_t)exchange->at);
}

static int answer_futex(struct exchange *exchange)
{
    struct shared *shared = exchange->shared;
    int err = sleep_for(exchange, &shared->futex_there, (uint32_t)exchange->at);
    atomic_store_explicit(&shared->futex_back, (uint32_t)exchange->at, memory_order_release);
    wake(&shared->futex_back);
    return err;
}

/* What is sent here is smaller than what any of these descriptors takes or gives in one piece. */
static int receive(struct exchange *exchange, int fd, size_t bytes)
{
    char message[EXCHANGE_MESSAGE_BYTES];
    for (;;) {
        ssize_t got = read(fd, message, bytes);
        if (got == (ssize_t)bytes)
            return 0;
        if (got >= 0)
            return got == 0 ? -EPIPE : -EIO;
        if (errno != EINTR)
            return -errno;
        if (!may_go_on(exchange))
            return -EINTR;
    }
}

static int give(struct exchange *exchange, int fd, size_t bytes)
{
    static const union {
        uint64_t one; /* an eventfd takes a number, and none of 0 */
        char message[EXCHANGE_MESSAGE_BYTES];
    } content = {.one = 1};
    for (;;) {
        if (write(fd, &content, bytes) == (ssize_t)bytes)
            return 0;
        if (errno != EINTR)
            return -errno;
        if (!may_go_on(exchange))
            return -EINTR;
    }
}

static inline int ask_by(struct exchange *exchange, int out_fd, int in_fd, size_t bytes)
{
    int err = give(exchange, out_fd, bytes);
    return err < 0 ? err : receive(exchange, in_fd, bytes);
}

static inline int answer_by(struct exchange *exchange, int in_fd, int out_fd, size_t bytes)
{
    int err = receive(exchange, in_fd, bytes);
    return err < 0 ? err : give(exchange, out_fd, bytes);
}

static int answer_http(struct exchange *exchange)
{
    int err = 0;
    if (exchange->http.fd < 0)
        err = http_accept(exchange->http_listen, &exchange->http.fd);
    return err < 0 ? err : http_answer(&exchange->http);
}

/* ---- the other process ----------------------------------------------------------------------- */

static int answer(struct exchange *exchange, enum exchange_kind kind)
{
    switch (kind) {
    case EXCHANGE_LINE:
        return answer_line(exchange);
    case EXCHANGE_READ:
        return answer_read(exchange);
    case EXCHANGE_FUTEX:
        return answer_futex(exchange);
    case EXCHANGE_EVENTFD:
        return answer_by(exchange, exchange->events[0], exchange->events[1], sizeof(uint64_t));
    case EXCHANGE_PIPE:
        return answer_by(exchange, exchange->pipes[0][0], exchange->pipes[1][1],
                         EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_STREAM:
        return answer_by(exchange, exchange->streams[THEIRS], exchange->streams[THEIRS],
                         EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_SEQPACKET:
        return answer_by(exchange, exchange->packets[THEIRS], exchange->packets[THEIRS],
                         EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_HTTP:
        return answer_http(exchange);
    case EXCHANGE_KINDS:
        break;
    }
    return -EINVAL;
}

static void pin(int processor)
{
    cpu_set_t set;
    if (processor < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((size_t)processor, &set);
    sched_setaffinity(0, sizeof set, &set);
}

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
    pin(processor);
    keep_ends(exchange, THEIRS);
    while (read(exchange->tasks[0], &task, sizeof task) == sizeof task) {
        exchange->read_words = task.read_words;
        for (uint32_t i = 0; i < task.count; i++) {
            exchange->at++;
            if (answer(exchange, task.kind) < 0)
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

static inline int ask(struct exchange *exchange, enum exchange_kind kind)
{
    switch (kind) {
    case EXCHANGE_LINE:
        return ask_line(exchange);
    case EXCHANGE_FUTEX:
        return ask_futex(exchange);
    case EXCHANGE_EVENTFD:
        return ask_by(exchange, exchange->events[0], exchange->events[1], sizeof(uint64_t));
    case EXCHANGE_PIPE:
        return ask_by(exchange, exchange->pipes[0][1], exchange->pipes[1][0],
                      EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_STREAM:
        return ask_by(exchange, exchange->streams[OURS], exchange->streams[OURS],
                      EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_SEQPACKET:
        return ask_by(exchange, exchange->packets[OURS], exchange->packets[OURS],
                      EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_HTTP:
        return http_ask(&exchange->http, 1);
    case EXCHANGE_READ: /* time_read() */
    case EXCHANGE_KINDS:
        break;
    }
    return -EINVAL;
}

static inline int time_trip(struct exchange *exchange, enum exchange_kind kind, uint64_t *ret_ticks)
{
    exchange->at++;
    if (kind == EXCHANGE_READ)
        return time_read(exchange, ret_ticks);
    uint64_t start = bench_ticks();
    int err = ask(exchange, kind);
    *ret_ticks = bench_ticks() - start;
    return err;
}

static int time_trips(struct exchange *exchange, enum exchange_kind kind, uint64_t *ret_ticks,
                      uint32_t count)
{
    uint64_t ignored;
    int err = 0;
    for (uint32_t i = 0; i < WARM_UP_TRIPS && err == 0; i++)
        err = time_trip(exchange, kind, &ignored);
    for (uint32_t i = 0; i < count && err == 0; i++)
        err = time_trip(exchange, kind, &ret_ticks[i]);
    return err;
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
                        .count = WARM_UP_TRIPS + count,
                        .read_words = lines * (LINE_BYTES / (uint32_t)sizeof(uint64_t))};
    if (read_bytes > EXCHANGE_READ_BYTES_MAX)
        return -EINVAL;
    if (!exchange_has(exchange, kind))
        return -ENOTSUP;
    exchange->read_words = task.read_words;
    if (write(exchange->tasks[1], &task, sizeof task) != sizeof task)
        return -errno;
    /* By itself, so that what is timed is no more than the exchange. */
    if (kind == EXCHANGE_LINE)
        return time_trips(exchange, EXCHANGE_LINE, ret_ticks, count);
    if (kind != EXCHANGE_READ)
        bench_tick_begin();
    int err = time_trips(exchange, kind, ret_ticks, count);
    bench_tick_end();
    return err;
}
