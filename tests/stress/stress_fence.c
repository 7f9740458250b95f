/*
 * The one full fence, put to the question (Dekker's): in each round one thread publishes a message
 * and looks whether the other one sleeps, while the other one announces its sleep and looks for a
 * message. If both see the old value, the wake-up is lost. With the fence that never happens;
 * without it, it does on every processor with a store buffer, x86 among them. ThreadSanitizer does
 * not model fences, so this is run as it is.
 *
 * usage: stress_fence [SECONDS]. Ends at the first lost wake-up, with exit code 1.
 */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#ifdef STRESS_WEAK_FENCE
/* Only a barrier for the compiler, as somebody might write who thinks that x86 needs no more. */
#define DOORBELL_FENCE() atomic_signal_fence(memory_order_seq_cst)
#endif
#include "shm/doorbell.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "tests/stress/stress.h"

enum { SLOTS = 16, SLOT_BYTES = 64, ROUNDS_PER_CLOCK = 64, CLUTTER_BYTES = 8 << 20 };

struct shared {
    _Alignas(128) uint8_t slots[SLOTS * SLOT_BYTES];
    _Alignas(128) _Atomic uint32_t sleep; /* the reader's */
    _Alignas(128) _Atomic uint32_t cursor;
    /* Not part of what is tested: how the two meet, and what the writer saw in a round. */
    _Alignas(128) _Atomic uint32_t reader_turn;
    _Alignas(128) _Atomic uint32_t writer_turn;
    _Alignas(128) _Atomic uint32_t writer_done;
    _Atomic bool has_rung;
};

static struct shared *shared;
static _Atomic bool is_over;
static uint8_t clutter[2][CLUTTER_BYTES];

/* Both sides pass together, as nearly as a cache line allows. */
static void meet(_Atomic uint32_t *own, const _Atomic uint32_t *other)
{
    uint32_t turns = 0;
    uint32_t turn = atomic_load_explicit(own, memory_order_relaxed) + 1;
    atomic_store_explicit(own, turn, memory_order_release);
    while ((int32_t)(atomic_load_explicit(other, memory_order_acquire) - turn) < 0 &&
           !atomic_load_explicit(&is_over, memory_order_relaxed)) {
        /* Seldom yields: on a busy machine the rounds that count are those in which both run. */
        if (++turns % 4096 == 0)
            sched_yield();
        cpu_relax();
    }
}

/* Stores go to memory in order, so one behind many that miss the cache waits long, while a load may
 * pass them all. As in any program that did some work before. Of varying number, so that the two
 * cross in all ways. */
static void fill_store_buffer(volatile uint8_t *cold, uint32_t *random)
{
    for (uint32_t i = stress_random(random) % 16; i > 0; i--)
        cold[stress_random(random) % CLUTTER_BYTES] = 1;
}

static void *publish(void *argument)
{
    struct ring_writer writer;
    uint32_t rung = 0;
    uint32_t random = 5;
    ring_writer_init(&writer, shared->slots, SLOTS, SLOT_BYTES, &shared->cursor);
    for (uint32_t round = 1; !atomic_load_explicit(&is_over, memory_order_relaxed); round++) {
        static const uint8_t message[SLOT_BYTES];
        /* The word that will be loaded is brought near, the one that will be stored to is far:
         * without a fence the load overtakes the store by the time of a cache miss. */
        meet(&shared->writer_turn, &shared->reader_turn);
        uint32_t unused = 0;
        doorbell_sleeper(&shared->sleep, &unused);
        meet(&shared->writer_turn, &shared->reader_turn);
        fill_store_buffer(clutter[0], &random);
        if (ring_push(&writer, message) < 0 && !atomic_load(&is_over))
            STRESS_FAIL("no room");
        bool has_rung = doorbell_sleeper(&shared->sleep, &rung) != DOORBELL_NONE;
        atomic_store_explicit(&shared->has_rung, has_rung, memory_order_relaxed);
        atomic_store_explicit(&shared->writer_done, round, memory_order_release);
    }
    return NULL;
}

/* Whether the wake-up of this round was lost. */
static bool sleep_once(struct ring_reader *reader, uint32_t round, uint32_t *random)
{
    uint8_t message[SLOT_BYTES];
    uint32_t turns = 0;
    meet(&shared->reader_turn, &shared->writer_turn);
    (void)ring_is_ready(reader);
    meet(&shared->reader_turn, &shared->writer_turn);
    fill_store_buffer(clutter[1], random);
    doorbell_announce(&shared->sleep, DOORBELL_FD);
    bool is_ready = ring_is_ready(reader);

    while (atomic_load_explicit(&shared->writer_done, memory_order_acquire) != round)
        stress_pause(&turns);
    bool has_rung = atomic_load_explicit(&shared->has_rung, memory_order_relaxed);
    doorbell_awake(&shared->sleep);
    if (ring_pop(reader, message) < 0)
        STRESS_FAIL("round %u: no message", round);
    ring_return(reader);
    return !is_ready && !has_rung;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 1.5;
    struct region region;
    struct ring_reader reader;
    pthread_t thread;
    stress_need_two_processors("the fence's test");
    if (region_create(&region, "stress", (sizeof *shared + 4095) / 4096 * 4096) < 0)
        STRESS_FAIL("no shared memory");
    shared = (void *)region.base;
    ring_reader_init(&reader, shared->slots, SLOTS, SLOT_BYTES, &shared->cursor);
    memset(clutter, 1, sizeof clutter); /* no page faults later */
    if (pthread_create(&thread, NULL, publish, NULL) != 0)
        STRESS_FAIL("no thread");

    uint64_t until_ns = stress_now_ns() + (uint64_t)(seconds * 1e9);
    uint32_t round = 1;
    uint32_t random = 9;
    while (round % ROUNDS_PER_CLOCK || stress_now_ns() < until_ns) {
        if (sleep_once(&reader, round, &random))
            STRESS_FAIL("LOST WAKE-UP: in round %u both sides saw the old value", round);
        round++;
    }
    atomic_store(&is_over, true);
    pthread_join(thread, NULL);
    printf("%u rounds, no wake-up lost\n", round - 1);
    region_fini(&region);
    return 0;
}
