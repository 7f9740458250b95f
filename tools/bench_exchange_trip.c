/* One trip by each means: how it is asked here and answered in the other process. */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/bench_clock.h"
#include "tools/bench_exchange_state.h"
#include "tools/bench_stop.h"

enum { LINE_BYTES = 64, SPINS_PER_LOOK = 1 << 16, NS_PER_S = 1000000000 };

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

/* As the spinning sides of the library and of the daemon do. */
static inline void pause_spin(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

/* with_pause is a constant wherever this comes to be: it costs no branch. */
static inline __attribute__((always_inline)) int
spin_for(struct exchange *exchange, const _Atomic uint64_t *word, uint64_t value, bool with_pause)
{
    uint32_t spins = 0;
    /* acquire: pairs with the other side's release; what it wrote before is there. */
    while (atomic_load_explicit(word, memory_order_acquire) != value) {
        if (with_pause)
            pause_spin();
        if (++spins % SPINS_PER_LOOK == 0 && !may_go_on(exchange))
            return -EINTR;
    }
    return 0;
}

static inline __attribute__((always_inline)) int ask_line(struct exchange *exchange,
                                                          bool with_pause)
{
    struct shared *shared = exchange->shared;
    atomic_store_explicit(&shared->there, exchange->at, memory_order_release);
    return spin_for(exchange, &shared->back, exchange->at, with_pause);
}

static inline __attribute__((always_inline)) int answer_line(struct exchange *exchange,
                                                             bool with_pause)
{
    struct shared *shared = exchange->shared;
    int err = spin_for(exchange, &shared->there, exchange->at, with_pause);
    atomic_store_explicit(&shared->back, exchange->at, memory_order_release);
    return err;
}

/* The other side fills the words as a client fills a prompt, and then publishes. */
static int answer_read(struct exchange *exchange)
{
    struct shared *shared = exchange->shared;
    int err = spin_for(exchange, &shared->there, exchange->at, true);
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
    int err = ask_line(exchange, true);
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

/* ---- all of them ----------------------------------------------------------------------------- */

int exchange_answer(struct exchange *exchange, enum exchange_kind kind)
{
    switch (kind) {
    case EXCHANGE_LINE:
        return answer_line(exchange, false);
    case EXCHANGE_LINE_PAUSE:
        return answer_line(exchange, true);
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
        return answer_by(exchange, exchange->streams[1], exchange->streams[1],
                         EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_SEQPACKET:
        return answer_by(exchange, exchange->packets[1], exchange->packets[1],
                         EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_HTTP:
        return answer_http(exchange);
    case EXCHANGE_KINDS:
        break;
    }
    return -EINVAL;
}

static inline __attribute__((always_inline)) int ask(struct exchange *exchange,
                                                     enum exchange_kind kind)
{
    switch (kind) {
    case EXCHANGE_LINE:
        return ask_line(exchange, false);
    case EXCHANGE_LINE_PAUSE:
        return ask_line(exchange, true);
    case EXCHANGE_FUTEX:
        return ask_futex(exchange);
    case EXCHANGE_EVENTFD:
        return ask_by(exchange, exchange->events[0], exchange->events[1], sizeof(uint64_t));
    case EXCHANGE_PIPE:
        return ask_by(exchange, exchange->pipes[0][1], exchange->pipes[1][0],
                      EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_STREAM:
        return ask_by(exchange, exchange->streams[0], exchange->streams[0], EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_SEQPACKET:
        return ask_by(exchange, exchange->packets[0], exchange->packets[0], EXCHANGE_MESSAGE_BYTES);
    case EXCHANGE_HTTP:
        return http_ask(&exchange->http, 1);
    case EXCHANGE_READ: /* time_read() */
    case EXCHANGE_KINDS:
        break;
    }
    return -EINVAL;
}

static inline __attribute__((always_inline)) int
time_trip(struct exchange *exchange, enum exchange_kind kind, uint64_t *ret_ticks)
{
    if (bench_stop_signal())
        return -EINTR;
    exchange->at++;
    if (kind == EXCHANGE_READ)
        return time_read(exchange, ret_ticks);
    uint64_t start = bench_ticks();
    int err = ask(exchange, kind);
    *ret_ticks = bench_ticks() - start;
    return err;
}

static inline __attribute__((always_inline)) int
time_trips(struct exchange *exchange, enum exchange_kind kind, uint64_t *ret_ticks, uint32_t count)
{
    uint64_t ignored;
    int err = 0;
    for (uint32_t i = 0; i < EXCHANGE_WARM_UP_TRIPS && err == 0; i++)
        err = time_trip(exchange, kind, &ignored);
    for (uint32_t i = 0; i < count && err == 0; i++)
        err = time_trip(exchange, kind, &ret_ticks[i]);
    return err;
}

int exchange_time_trips(struct exchange *exchange, enum exchange_kind kind, uint64_t *ret_ticks,
                        uint32_t count)
{
    /* The bare ones by themselves, so that what is timed is the exchange and no choice. */
    switch (kind) {
    case EXCHANGE_LINE:
        return time_trips(exchange, EXCHANGE_LINE, ret_ticks, count);
    case EXCHANGE_LINE_PAUSE:
        return time_trips(exchange, EXCHANGE_LINE_PAUSE, ret_ticks, count);
    default:
        return time_trips(exchange, kind, ret_ticks, count);
    }
}
