#include "tools/bench_exchange.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/bench_clock.h"

enum { MESSAGE_BYTES = 64 };
enum task { TASK_LINE = 1, TASK_SOCKET = 2, TASK_END = 3 };

struct exchange {
    _Alignas(128) _Atomic uint64_t there; /* two lines apart, one writer each */
    _Alignas(128) _Atomic uint64_t back;
    _Alignas(128) pthread_t thread;
    int sockets[2];
    int tasks[2]; /* a pipe: what the other thread does next */
    uint32_t count;
};

static bool transfer(ssize_t (*call)(int, void *, size_t), int fd, void *buffer)
{
    return call(fd, buffer, MESSAGE_BYTES) == MESSAGE_BYTES;
}

static ssize_t send_message(int fd, void *buffer, size_t bytes)
{
    return send(fd, buffer, bytes, MSG_NOSIGNAL);
}

static void answer_line(struct exchange *exchange)
{
    for (uint64_t i = 1; i <= exchange->count; i++) {
        while (atomic_load_explicit(&exchange->there, memory_order_acquire) != i)
            continue;
        atomic_store_explicit(&exchange->back, i, memory_order_release);
    }
}

static void answer_socket(struct exchange *exchange)
{
    char buffer[MESSAGE_BYTES];
    for (uint32_t i = 0; i < exchange->count; i++)
        if (!transfer(read, exchange->sockets[1], buffer) ||
            !transfer(send_message, exchange->sockets[1], buffer))
            return;
}

static void *other_side(void *argument)
{
    struct exchange *exchange = argument;
    char task = 0;
    while (read(exchange->tasks[0], &task, 1) == 1 && task != TASK_END) {
        if (task == TASK_LINE)
            answer_line(exchange);
        else
            answer_socket(exchange);
    }
    return NULL;
}

static void give_task(struct exchange *exchange, enum task task, uint32_t count)
{
    char byte = (char)task;
    exchange->count = count;
    atomic_store(&exchange->there, 0);
    atomic_store(&exchange->back, 0);
    if (write(exchange->tasks[1], &byte, 1) != 1)
        abort(); /* a pipe of our own with room for it */
}

int exchange_open(struct exchange **ret_exchange, int processor)
{
    struct exchange *exchange = aligned_alloc(128, sizeof *exchange);
    if (!exchange)
        return -ENOMEM;
    *exchange = (struct exchange){.sockets = {-1, -1}, .tasks = {-1, -1}};
    int err = 0;
    if (pipe(exchange->tasks) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, exchange->sockets) < 0) {
        err = -errno;
        goto fail;
    }
    err = -pthread_create(&exchange->thread, NULL, other_side, exchange);
    if (err < 0)
        goto fail;
    if (processor >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)processor, &set);
        pthread_setaffinity_np(exchange->thread, sizeof set, &set);
    }
    *ret_exchange = exchange;
    return 0;

fail:
    for (int i = 0; i < 2; i++) {
        if (exchange->tasks[i] >= 0)
            close(exchange->tasks[i]);
        if (exchange->sockets[i] >= 0)
            close(exchange->sockets[i]);
    }
    free(exchange);
    return err;
}

void exchange_close(struct exchange *exchange)
{
    if (!exchange)
        return;
    give_task(exchange, TASK_END, 0);
    pthread_join(exchange->thread, NULL);
    for (int i = 0; i < 2; i++) {
        close(exchange->tasks[i]);
        close(exchange->sockets[i]);
    }
    free(exchange);
}

void exchange_line(struct exchange *exchange, uint64_t *ret_ticks, uint32_t count)
{
    give_task(exchange, TASK_LINE, count);
    for (uint64_t i = 1; i <= count; i++) {
        uint64_t start = bench_ticks();
        atomic_store_explicit(&exchange->there, i, memory_order_release);
        while (atomic_load_explicit(&exchange->back, memory_order_acquire) != i)
            continue;
        ret_ticks[i - 1] = bench_ticks() - start;
    }
}

void exchange_socket(struct exchange *exchange, uint64_t *ret_ticks, uint32_t count)
{
    char buffer[MESSAGE_BYTES] = {0};
    give_task(exchange, TASK_SOCKET, count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t start = bench_ticks();
        bool good = transfer(send_message, exchange->sockets[0], buffer) &&
                    transfer(read, exchange->sockets[0], buffer);
        ret_ticks[i] = good ? bench_ticks() - start : 0;
    }
}
