/*
 * A ring with one writer and one reader, each in its own process; the slots lie in the writer's
 * memory, the reader's cursor in the reader's. Neither side ever writes where the other one does.
 *
 * Every slot begins with a uint32_t sequence number: the message at position p (0, 1, 2, ...,
 * wrapping) lies in slot p & mask and carries p + 1. It is stored last and read first, so that one
 * cache line moves a message and no index has to be published by the writer. The reader publishes
 * its position in `cursor`, lazily, to give space back.
 *
 * Neither side trusts the other. The writer believes a cursor only if it lies between the last one
 * and its own tail; the reader believes a slot only if it carries exactly the expected number, and
 * gets a private copy of it to check and use. All sizes are private.
 *
 * Also used between two threads of one process (control and engine).
 */
#ifndef AGL_SHM_RING_H
#define AGL_SHM_RING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

/* The orderings have names of their own so that the stress tests can weaken each one and see the
 * tests fail; nothing else ever defines them. */
#ifndef RING_PUBLISH_ORDER
#define RING_PUBLISH_ORDER memory_order_release
#endif
#ifndef RING_TAKE_ORDER
#define RING_TAKE_ORDER memory_order_acquire
#endif
#ifndef RING_RETURN_ORDER
#define RING_RETURN_ORDER memory_order_release
#endif
#ifndef RING_REUSE_ORDER
#define RING_REUSE_ORDER memory_order_acquire
#endif

struct ring_writer {
    uint8_t *slots;                 /* [slot_count, slot_bytes], zeroed before first use */
    const _Atomic uint32_t *cursor; /* in the reader's memory */
    uint32_t slot_bytes;
    uint32_t slot_count; /* a power of two */
    uint32_t tail;       /* messages written so far */
    uint32_t head;       /* messages known to be read */
};

struct ring_reader {
    const uint8_t *slots;
    _Atomic uint32_t *cursor; /* in our own memory */
    uint32_t slot_bytes;
    uint32_t slot_count;
    uint32_t head;      /* messages read so far */
    uint32_t published; /* the value in *cursor */
};

static inline void ring_writer_init(struct ring_writer *writer, void *slots, uint32_t slot_count,
                                    uint32_t slot_bytes, const _Atomic uint32_t *cursor)
{
    *writer = (struct ring_writer){
        .slots = slots, .cursor = cursor, .slot_bytes = slot_bytes, .slot_count = slot_count};
}

static inline void ring_reader_init(struct ring_reader *reader, const void *slots,
                                    uint32_t slot_count, uint32_t slot_bytes,
                                    _Atomic uint32_t *cursor)
{
    *reader = (struct ring_reader){
        .slots = slots, .cursor = cursor, .slot_bytes = slot_bytes, .slot_count = slot_count};
}

/* How many messages fit now: 0 to slot_count, or -EPROTO if the reader's cursor makes no sense
 * (nothing changed then). Looks at the cursor only when fewer than `wanted` are known to fit. */
static inline int32_t ring_room(struct ring_writer *writer, uint32_t wanted)
{
    uint32_t used = writer->tail - writer->head;
    if (writer->slot_count - used < wanted) {
        /* acquire: pairs with the release in ring_return(); the reader has copied what lay in the
         * slots before this cursor, so they may be written again. */
        uint32_t head = atomic_load_explicit(writer->cursor, RING_REUSE_ORDER);
        if (writer->tail - head > used)
            return -EPROTO; /* outside of [head, tail]: a broken or hostile reader */
        writer->head = head;
        used = writer->tail - head;
    }
    return (int32_t)(writer->slot_count - used);
}

/* Appends one message of which only the first `bytes` (at most slot_bytes) count: the rest of the
 * slot stays as it was, and the reader must know from these bytes that it is to be left alone. The
 * first four bytes are ignored. 0; -EAGAIN: no room; -EPROTO as above. */
static inline int ring_push_part(struct ring_writer *writer, const void *message, uint32_t bytes)
{
    int32_t room = ring_room(writer, 1);
    if (room <= 0)
        return room < 0 ? room : -EAGAIN;

    uint8_t *slot =
        writer->slots + (size_t)(writer->tail & (writer->slot_count - 1)) * writer->slot_bytes;
    memcpy(slot + 4, (const uint8_t *)message + 4, bytes - 4);
    writer->tail++;
    /* release: pairs with the acquire in ring_peek(); makes the copy above visible, and for
     * submissions also the prompt in the arena. */
    atomic_store_explicit((_Atomic uint32_t *)(void *)slot, writer->tail, RING_PUBLISH_ORDER);
    return 0;
}

/* Appends one message of slot_bytes. */
static inline int ring_push(struct ring_writer *writer, const void *message)
{
    return ring_push_part(writer, message, writer->slot_bytes);
}

/* The word that will hold ring_expected() when the next message is there: for ring_pop(), and for a
 * futex to sleep on. */
static inline const _Atomic uint32_t *ring_next(const struct ring_reader *reader)
{
    return (
        const _Atomic uint32_t *)(const void *)(reader->slots +
                                                (size_t)(reader->head & (reader->slot_count - 1)) *
                                                    reader->slot_bytes);
}

static inline uint32_t ring_expected(const struct ring_reader *reader)
{
    return reader->head + 1;
}

/* Gives all read slots back to the writer. ring_pop() does so by itself after every quarter of the
 * ring; a reader that goes to sleep calls this first. */
static inline void ring_return(struct ring_reader *reader)
{
    if (reader->published == reader->head)
        return;
    reader->published = reader->head;
    /* release: pairs with the acquire in ring_room(); our copies are made before the slots are
     * free. */
    atomic_store_explicit(reader->cursor, reader->head, RING_RETURN_ORDER);
}

/* Whether a message is there, without taking it. */
static inline int ring_is_ready(const struct ring_reader *reader)
{
    /* relaxed: only a hint; ring_pop() looks again, with acquire. */
    return atomic_load_explicit(ring_next(reader), memory_order_relaxed) == ring_expected(reader);
}

/* Copies the first `bytes` of the next message without taking it. 0; -EAGAIN: nothing there yet.
 * Everything after this is about the copy: who wants more of the slot reads that with
 * ring_peek_rest(), never the same bytes again. */
static inline int ring_peek(const struct ring_reader *reader, void *ret_message, uint32_t bytes)
{
    const _Atomic uint32_t *slot = ring_next(reader);
    uint32_t expected = ring_expected(reader);
    /* acquire: pairs with the release in ring_push_part(); the message was written before its
     * number. */
    if (atomic_load_explicit(slot, RING_TAKE_ORDER) != expected)
        return -EAGAIN;
    memcpy((uint8_t *)ret_message + 4, (const uint8_t *)slot + 4, bytes - 4);
    memcpy(ret_message, &expected, 4);
    /* The compiler may not read the slot a second time instead of the copy: a hostile writer could
     * change it between a check and a use. */
    __asm__ volatile("" ::: "memory");
    return 0;
}

/* After ring_peek() of `from` bytes: the others of the slot. */
static inline void ring_peek_rest(const struct ring_reader *reader, void *ret_message,
                                  uint32_t from)
{
    memcpy((uint8_t *)ret_message + from, (const uint8_t *)ring_next(reader) + from,
           reader->slot_bytes - from);
    __asm__ volatile("" ::: "memory"); /* as in ring_peek() */
}

/* Takes what ring_peek() has shown. */
static inline void ring_advance(struct ring_reader *reader)
{
    reader->head++;
    if (reader->head - reader->published >= reader->slot_count / 4)
        ring_return(reader);
}

/* Takes the next message out of the ring: slot_bytes, so *ret_message must have room for as many.
 * 0; -EAGAIN: nothing there yet. */
static inline int ring_pop(struct ring_reader *reader, void *ret_message)
{
    int err = ring_peek(reader, ret_message, reader->slot_bytes);
    if (err == 0)
        ring_advance(reader);
    return err;
}

#endif
