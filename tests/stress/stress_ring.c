/*
 * Two threads on one mapping: many messages through a ring, each checked byte by byte, with the
 * ring mostly full and mostly empty, across the wrap at 2^32; and payloads outside of the slots, as
 * prompts are, published by the ring and given back by an answer.
 *
 * usage: stress_ring [MESSAGES]
 */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "shm/region.h"
#include "shm/ring.h"
#include "tests/stress/stress.h"

enum { SLOTS = 16, SLOT_BYTES = 64, BLOCKS = 8, BLOCK_WORDS = 256 };

struct message {
    uint32_t seq;
    uint32_t number;
    uint64_t words[7];
};
static_assert(sizeof(struct message) == SLOT_BYTES, "a slot");

/* One writer a line, as in layout.h. */
struct shared {
    _Alignas(128) _Atomic uint32_t cursor;
    _Alignas(128) _Atomic uint32_t answer_cursor;
    _Alignas(128) uint8_t slots[SLOTS * SLOT_BYTES];
    _Alignas(128) uint8_t answer_slots[SLOTS * SLOT_BYTES];
    _Alignas(128) uint32_t blocks[BLOCKS][BLOCK_WORDS];
};

static struct shared *shared;
static uint32_t messages = 300000;
static struct {
    struct ring_writer writer, answer_writer;
    struct ring_reader reader, answer_reader;
    uint32_t writer_delay, reader_delay; /* at most so many pauses now and then */
} run;

static uint64_t word_of(uint32_t number, uint32_t i)
{
    return (number + 1) * 0x9e3779b97f4a7c15u ^ i * 0xff51afd7ed558ccdu;
}

static void start_rings(uint32_t position)
{
    memset(shared, 0, sizeof *shared);
    ring_writer_init(&run.writer, shared->slots, SLOTS, SLOT_BYTES, &shared->cursor);
    ring_reader_init(&run.reader, shared->slots, SLOTS, SLOT_BYTES, &shared->cursor);
    ring_writer_init(&run.answer_writer, shared->answer_slots, SLOTS, SLOT_BYTES,
                     &shared->answer_cursor);
    ring_reader_init(&run.answer_reader, shared->answer_slots, SLOTS, SLOT_BYTES,
                     &shared->answer_cursor);
    run.writer.head = run.writer.tail = run.reader.head = run.reader.published = position;
    atomic_store_explicit(&shared->cursor, position, memory_order_relaxed);
}

static void push(struct ring_writer *writer, const struct message *message)
{
    uint32_t turns = 0;
    int err;
    while ((err = ring_push(writer, message)) == -EAGAIN)
        stress_pause(&turns);
    if (err < 0)
        STRESS_FAIL("message %u: ring_push() gave %d", message->number, err);
}

static void pop(struct ring_reader *reader, struct message *ret_message)
{
    uint32_t turns = 0;
    while (ring_pop(reader, ret_message) < 0) {
        ring_return(reader);
        stress_pause(&turns);
    }
}

/* ---- payload in the slot --------------------------------------------------------------------- */

static void *write_all(void *argument)
{
    uint32_t random = 1;
    for (uint32_t number = 0; number < messages; number++) {
        struct message message = {.number = number};
        for (uint32_t i = 0; i < 7; i++)
            message.words[i] = word_of(number, i);
        push(&run.writer, &message);
        if (run.writer_delay && stress_random(&random) % 8 == 0)
            stress_delay(stress_random(&random) % run.writer_delay);
    }
    return NULL;
}

static void read_all(void)
{
    uint32_t random = 2;
    for (uint32_t number = 0; number < messages; number++) {
        struct message message;
        pop(&run.reader, &message);
        if (message.number != number)
            STRESS_FAIL("message %u came instead of %u", message.number, number);
        for (uint32_t i = 0; i < 7; i++)
            if (message.words[i] != word_of(number, i))
                STRESS_FAIL("message %u, word %u: torn", number, i);
        if (run.reader_delay && stress_random(&random) % 8 == 0)
            stress_delay(stress_random(&random) % run.reader_delay);
    }
}

/* ---- payload beside the slot ----------------------------------------------------------------- */

/* As a client: a block is written again only after the answer to its message came. */
static void *write_blocks(void *argument)
{
    uint32_t answered = 0;
    uint32_t count = messages / 8;
    for (uint32_t number = 0; number < count; number++) {
        struct message message = {.number = number};
        while (number - answered >= BLOCKS) {
            struct message answer;
            pop(&run.answer_reader, &answer);
            if (answer.number != answered++)
                STRESS_FAIL("answer %u came instead of %u", answer.number, answered - 1);
        }
        uint32_t *block = shared->blocks[number % BLOCKS];
        for (uint32_t i = 0; i < BLOCK_WORDS; i++)
            block[i] = (uint32_t)word_of(number, i);
        push(&run.writer, &message);
    }
    while (answered++ < count) {
        struct message answer;
        pop(&run.answer_reader, &answer);
    }
    return NULL;
}

static void read_blocks(void)
{
    for (uint32_t number = 0; number < messages / 8; number++) {
        struct message message;
        pop(&run.reader, &message);
        uint32_t copy[BLOCK_WORDS];
        memcpy(copy, shared->blocks[message.number % BLOCKS], sizeof copy);
        for (uint32_t i = 0; i < BLOCK_WORDS; i++)
            if (copy[i] != (uint32_t)word_of(number, i))
                STRESS_FAIL("block of message %u, word %u: not what was written", number, i);
        push(&run.answer_writer, &(struct message){.number = message.number});
    }
}

/* ---------------------------------------------------------------------------------------------- */

static void transport(const char *name, uint32_t writer_delay, uint32_t reader_delay,
                      bool is_in_blocks)
{
    pthread_t thread;
    uint64_t start_ns = stress_now_ns();
    start_rings(UINT32_MAX - 1000);
    run.writer_delay = writer_delay;
    run.reader_delay = reader_delay;
    if (pthread_create(&thread, NULL, is_in_blocks ? write_blocks : write_all, NULL) != 0)
        STRESS_FAIL("no thread");
    if (is_in_blocks)
        read_blocks();
    else
        read_all();
    pthread_join(thread, NULL);
    printf("%s: %u messages, %.2f s\n", name, is_in_blocks ? messages / 8 : messages,
           (double)(stress_now_ns() - start_ns) * 1e-9);
}

int main(int argc, char **argv)
{
    struct region region;
    if (argc > 1)
        messages = (uint32_t)strtoul(argv[1], NULL, 10);
    if (region_create(&region, "stress", (sizeof *shared + 4095) / 4096 * 4096) < 0)
        STRESS_FAIL("no shared memory");
    shared = (void *)region.base;
    transport("ring mostly full", 0, 40, false);
    transport("ring mostly empty", 40, 0, false);
    transport("both as fast as they can", 0, 0, false);
    transport("payload outside of the slots", 0, 0, true);
    region_fini(&region);
    return 0;
}
