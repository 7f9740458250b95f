#include "tools/bench_stop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/time.h>

#include <autoglm.h>

/* Lock-free, so a handler may store it, in whatever thread it runs. relaxed throughout: it stands
 * by itself. */
static _Atomic int stop_signal;
static atomic_bool stop_flag;

static void note_signal(int signal_number)
{
    atomic_store_explicit(&stop_flag, true, memory_order_relaxed);
    atomic_store_explicit(&stop_signal, signal_number, memory_order_relaxed);
}

/* Only interrupts. */
static void tick(int signal_number)
{
    (void)signal_number;
}

/* Without SA_RESTART: what blocks ends with EINTR, and who waits looks at the note. */
static void handle(int signal_number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
}

void bench_stop_catch(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction before;
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            handle(signals[i], note_signal);
    }
    handle(SIGPIPE, SIG_IGN);
}

int bench_stop_signal(void)
{
    return atomic_load_explicit(&stop_signal, memory_order_relaxed);
}

const atomic_bool *bench_stop_flag(void)
{
    return &stop_flag;
}

int bench_stop_status(void)
{
    int signal_number = bench_stop_signal();
    return signal_number ? 128 + signal_number : 0;
}

static void set_timer(long us)
{
    struct itimerval timer = {.it_interval = {.tv_usec = us}, .it_value = {.tv_usec = us}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

void bench_tick_begin(void)
{
    handle(SIGALRM, tick);
    set_timer(BENCH_LOOK_NS / 1000);
}

void bench_tick_end(void)
{
    set_timer(0);
}

uint64_t bench_give_up_ns(void)
{
    return agl_now_ns() + BENCH_PATIENCE_S * UINT64_C(1000000000);
}

bool bench_may_wait(uint64_t give_up_ns)
{
    return !bench_stop_signal() && agl_now_ns() < give_up_ns;
}
