/*
 * Two threads that talk through a pair of rings and sleep between messages, in every way of
 * waiting. A lost wake-up shows as a sleep that lasts its whole three seconds although a message is
 * there.
 *
 * usage: stress_doorbell [SECONDS for each way]
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "shm/doorbell.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "tests/stress/stress.h"

enum { SLOTS = 16, SLOT_BYTES = 64, BURST_MAX = 4, MS = 1000000, LOST_MS = 3000 };
static const uint64_t lost_ns = (uint64_t)LOST_MS * MS;

enum way { WAY_SPIN, WAY_ADAPTIVE, WAY_SLEEP, WAY_FD };

struct message {
    uint32_t seq;
    uint32_t number; /* STOP: the other side has had enough */
    uint8_t rest[SLOT_BYTES - 8];
};
enum { STOP = UINT32_MAX };

/* What one side writes. */
struct half {
    _Alignas(128) _Atomic uint32_t cursor;
    _Alignas(128) _Atomic uint32_t sleep;
    _Alignas(128) uint8_t slots[SLOTS * SLOT_BYTES];
};

struct side {
    struct half *half;
    const struct half *other;
    struct ring_writer writer;
    struct ring_reader reader;
    struct spinner spinner;
    uint32_t rung;
    uint32_t random;
    int own_fd, other_fd; /* eventfds: to be woken by, to wake by */
    uint64_t sleeps, wakes;
};

static enum way way;

static void init_side(struct side *side, struct half *half, struct half *other, uint32_t random)
{
    memset(half, 0, sizeof *half);
    *side = (struct side){.half = half, .other = other, .random = random};
    ring_writer_init(&side->writer, half->slots, SLOTS, SLOT_BYTES, &other->cursor);
    ring_reader_init(&side->reader, other->slots, SLOTS, SLOT_BYTES, &half->cursor);
    spinner_init(&side->spinner, way == WAY_SPIN ? UINT64_MAX : way == WAY_ADAPTIVE ? 20000 : 0);
}

static void send(struct side *side, uint32_t number)
{
    static const uint64_t one = 1;
    uint32_t slot = side->writer.tail % SLOTS * SLOT_BYTES;
    struct message message = {.number = number};
    if (ring_push(&side->writer, &message) < 0)
        STRESS_FAIL("no room for message %u", number);
    /* Who publishes may be held up here: the sleeper then reads the message by itself and sleeps
     * for the next one before we look at its word. */
    if (stress_random(&side->random) % 4 == 0)
        stress_delay(stress_random(&side->random) % 256);
    switch (doorbell_sleeper(&side->other->sleep, &side->rung)) {
    case DOORBELL_NONE:
        return;
    case DOORBELL_FUTEX:
        doorbell_wake((const _Atomic uint32_t *)(const void *)(side->half->slots + slot));
        break;
    case DOORBELL_FD:
        if (write(side->other_fd, &one, sizeof one) != sizeof one)
            STRESS_FAIL("eventfd: errno %d", errno);
        break;
    }
    side->wakes++;
}

static bool spin(struct side *side)
{
    uint64_t budget_ns = spinner_budget_ns(&side->spinner);
    uint64_t start_ns = stress_now_ns();
    uint64_t until_ns = budget_ns < lost_ns ? start_ns + budget_ns : start_ns + lost_ns;
    uint32_t turns = 0;
    if (budget_ns == 0)
        return false;
    do {
        for (int i = 0; i < 32; i++) {
            if (ring_is_ready(&side->reader))
                return true;
            stress_pause(&turns);
        }
    } while (stress_now_ns() < until_ns);
    return false;
}

/* Sleeps until a message is there, or fails the program. */
static void sleep_for_message(struct side *side)
{
    const _Atomic uint32_t *slot = ring_next(&side->reader);
    uint64_t start_ns = stress_now_ns();
    ring_return(&side->reader);
    while (!ring_is_ready(&side->reader)) {
        doorbell_announce(&side->half->sleep, way == WAY_FD ? DOORBELL_FD : DOORBELL_FUTEX);
        uint32_t seen = atomic_load_explicit(slot, memory_order_relaxed);
        if (seen != ring_expected(&side->reader)) {
            side->sleeps++;
            if (way == WAY_FD) {
                struct pollfd entry = {.fd = side->own_fd, .events = POLLIN};
                uint64_t count;
                if (poll(&entry, 1, LOST_MS) > 0 &&
                    read(side->own_fd, &count, sizeof count) != sizeof count)
                    STRESS_FAIL("eventfd: errno %d", errno);
            } else {
                doorbell_wait(slot, seen, lost_ns);
            }
        }
        doorbell_awake(&side->half->sleep);
        if (stress_now_ns() - start_ns >= lost_ns)
            STRESS_FAIL("LOST WAKE-UP: a message %s after %d ms of sleep",
                        ring_is_ready(&side->reader) ? "was there" : "did not come", LOST_MS);
    }
}

static uint32_t receive(struct side *side)
{
    struct message message;
    while (ring_pop(&side->reader, &message) < 0) {
        spinner_begin(&side->spinner, stress_now_ns());
        if (!spin(side))
            sleep_for_message(side);
        spinner_arrival(&side->spinner, stress_now_ns());
    }
    return message.number;
}

static void *answer(void *argument)
{
    struct side *side = argument;
    uint32_t number;
    while ((number = receive(side)) != STOP) {
        /* A moment of varying length: the answer meets the asker in every state of its sleep. */
        if (stress_random(&side->random) % 2)
            stress_delay(stress_random(&side->random) % 64);
        send(side, number);
    }
    return NULL;
}

static void ask(struct side *side, uint64_t until_ns, uint32_t *ret_rounds)
{
    uint32_t rounds = 0;
    for (uint32_t number = 0; stress_now_ns() < until_ns; rounds++) {
        uint32_t burst = 1 + stress_random(&side->random) % BURST_MAX;
        for (uint32_t i = 0; i < burst; i++) {
            send(side, number + i);
            stress_delay(stress_random(&side->random) % 32);
        }
        for (uint32_t i = 0; i < burst; i++, number++)
            if (receive(side) != number)
                STRESS_FAIL("answer %u did not come in its turn", number);
    }
    send(side, STOP);
    *ret_rounds = rounds;
}

static void talk(const char *name, enum way by, struct half *halves, double seconds)
{
    static struct side sides[2];
    pthread_t thread;
    uint32_t rounds;
    way = by;
    for (int i = 0; i < 2; i++)
        init_side(&sides[i], &halves[i], &halves[1 - i], 11 + (uint32_t)i);
    int fds[2] = {eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    for (int i = 0; i < 2; i++) {
        sides[i].own_fd = fds[i];
        sides[i].other_fd = fds[1 - i];
    }
    if (fds[0] < 0 || fds[1] < 0 || pthread_create(&thread, NULL, answer, &sides[1]) != 0)
        STRESS_FAIL("no thread, or no descriptor");
    ask(&sides[0], stress_now_ns() + (uint64_t)(seconds * 1e9), &rounds);
    pthread_join(thread, NULL);
    uint64_t sleeps = sides[0].sleeps + sides[1].sleeps;
    printf("%s: %u rounds, %llu sleeps, %llu wake-ups\n", name, rounds, (unsigned long long)sleeps,
           (unsigned long long)(sides[0].wakes + sides[1].wakes));
    if ((by == WAY_SLEEP || by == WAY_FD) && sleeps < rounds / 8)
        STRESS_FAIL("%s: hardly ever slept: this run shows nothing", name);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 0.7;
    struct region region;
    if (region_create(&region, "stress", 4096 * ((2 * sizeof(struct half) + 4095) / 4096)) < 0)
        STRESS_FAIL("no shared memory");
    struct half *halves = (void *)region.base;
    talk("spinning", WAY_SPIN, halves, seconds);
    talk("adaptive", WAY_ADAPTIVE, halves, seconds);
    talk("futex", WAY_SLEEP, halves, seconds);
    talk("eventfd", WAY_FD, halves, seconds);
    region_fini(&region);
    return 0;
}
