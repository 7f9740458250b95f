#include "shm/ring.h"

#include <stdlib.h>

#include "tests/support/test.h"

enum { SLOTS = 8, SLOT_BYTES = 64 };

struct message {
    uint32_t seq;
    uint32_t value;
    uint8_t rest[SLOT_BYTES - 8];
};

static struct {
    _Alignas(64) uint8_t slots[SLOTS * SLOT_BYTES];
    _Atomic uint32_t cursor;
} shared;
static struct ring_writer writer;
static struct ring_reader reader;

/* A ring that has already moved `position` messages. */
static void start_at(uint32_t position)
{
    memset(&shared, 0, sizeof shared);
    ring_writer_init(&writer, shared.slots, SLOTS, SLOT_BYTES, &shared.cursor);
    ring_reader_init(&reader, shared.slots, SLOTS, SLOT_BYTES, &shared.cursor);
    writer.tail = writer.head = position;
    reader.head = reader.published = position;
    shared.cursor = position;
    for (uint32_t p = position - SLOTS; position && p != position; p++) {
        uint32_t seq = p + 1;
        memcpy(shared.slots + (size_t)(p % SLOTS) * SLOT_BYTES, &seq, sizeof seq);
    }
}

static int setup(void **state)
{
    start_at(0);
    return 0;
}

static int push(uint32_t value)
{
    struct message message = {.seq = 0xdeadbeef, .value = value};
    memset(message.rest, (int)(value & 0xff), sizeof message.rest);
    return ring_push(&writer, &message);
}

static void expect(uint32_t value)
{
    struct message message;
    assert_true(ring_is_ready(&reader));
    assert_int_equal(ring_pop(&reader, &message), 0);
    assert_int_equal(message.value, value);
    assert_int_equal(message.seq, reader.head);
    for (size_t i = 0; i < sizeof message.rest; i++)
        assert_int_equal(message.rest[i], value & 0xff);
}

static void an_empty_ring_gives_nothing_and_changes_nothing(void **state)
{
    struct message message = {.value = 77};
    assert_false(ring_is_ready(&reader));
    assert_int_equal(ring_pop(&reader, &message), -EAGAIN);
    assert_int_equal(message.value, 77);
    assert_int_equal(reader.head, 0);
}

static void messages_come_whole_and_in_order(void **state)
{
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(push(i), 0);
    for (uint32_t i = 0; i < SLOTS; i++)
        expect(i);
    struct message message;
    assert_int_equal(ring_pop(&reader, &message), -EAGAIN);
}

static void a_full_ring_takes_no_more_and_loses_nothing(void **state)
{
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(push(i), 0);
    assert_int_equal(push(99), -EAGAIN);
    assert_int_equal(ring_room(&writer, 1), 0);
    expect(0);
    assert_int_equal(push(99), -EAGAIN); /* read, but not given back yet: that is lazy */
    ring_return(&reader);
    assert_int_equal(push(8), 0);
    assert_int_equal(push(99), -EAGAIN);
    for (uint32_t i = 1; i <= SLOTS; i++)
        expect(i);
}

static void room_comes_back_after_every_quarter(void **state)
{
    for (uint32_t i = 0; i < SLOTS; i++)
        push(i);
    expect(0);
    assert_int_equal(shared.cursor, 0);
    expect(1);
    assert_int_equal(shared.cursor, 2);
    assert_int_equal(ring_room(&writer, 1), 2);
    assert_int_equal(ring_room(&writer, SLOTS), 2);
}

static void returning_nothing_stores_nothing(void **state)
{
    shared.cursor = 1234; /* a store would overwrite it */
    ring_return(&reader);
    assert_int_equal(shared.cursor, 1234);
}

static void the_writer_looks_at_the_cursor_only_when_it_must(void **state)
{
    push(0);
    shared.cursor = 77; /* nonsense, but nobody looks */
    assert_int_equal(ring_room(&writer, SLOTS - 1), SLOTS - 1);
    assert_int_equal(ring_room(&writer, SLOTS), -EPROTO);
}

static void numbers_wrap_around_at_two_to_the_32nd(void **state)
{
    start_at(UINT32_MAX - 20);
    for (uint32_t i = 0; i < 64; i++) {
        for (uint32_t k = 0; k < 1 + i % SLOTS; k++)
            assert_int_equal(push(i * 100 + k), 0);
        for (uint32_t k = 0; k < 1 + i % SLOTS; k++)
            expect(i * 100 + k);
        struct message message;
        assert_int_equal(ring_pop(&reader, &message), -EAGAIN);
        ring_return(&reader);
    }
    assert_true(writer.tail < 1000);
    start_at(UINT32_MAX - 3);
    for (uint32_t i = 0; i < SLOTS; i++) /* full across the wrap */
        assert_int_equal(push(i), 0);
    assert_int_equal(push(99), -EAGAIN);
    for (uint32_t i = 0; i < SLOTS; i++)
        expect(i);
}

static void a_cursor_out_of_bounds_is_refused_and_changes_nothing(void **state)
{
    for (uint32_t base = 0; base < 2; base++) {
        uint32_t position = base ? UINT32_MAX - 3 : 100;
        start_at(position);
        for (uint32_t i = 0; i < SLOTS; i++)
            push(i);
        const uint32_t bad[] = {position + SLOTS + 1, position - 1, position + 0x80000000u,
                                position - SLOTS, position + SLOTS + 0x7fffffffu};
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            struct ring_writer before = writer;
            shared.cursor = bad[i];
            assert_int_equal(push(1), -EPROTO);
            assert_int_equal(ring_room(&writer, 1), -EPROTO);
            assert_memory_equal(&writer, &before, sizeof writer);
        }
        for (uint32_t good = 0; good <= SLOTS; good++) {
            writer.head = position;
            shared.cursor = position + good;
            assert_int_equal(ring_room(&writer, SLOTS), good);
        }
    }
}

static void a_cursor_may_not_go_back(void **state)
{
    for (uint32_t i = 0; i < SLOTS; i++)
        push(i);
    shared.cursor = 5;
    assert_int_equal(ring_room(&writer, SLOTS), 5);
    shared.cursor = 4;
    assert_int_equal(ring_room(&writer, SLOTS), -EPROTO);
}

static void only_the_expected_number_is_a_message(void **state)
{
    start_at(100);
    _Atomic uint32_t *slot =
        (_Atomic uint32_t *)(void *)(shared.slots + (100 % SLOTS) * SLOT_BYTES);
    assert_ptr_equal(slot, ring_next(&reader));
    assert_int_equal(ring_expected(&reader), 101);
    const uint32_t bad[] = {0, 1, 93, 100, 102, 109, 101 + 0x80000000u, UINT32_MAX};
    struct message message;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        atomic_store(slot, bad[i]);
        assert_false(ring_is_ready(&reader));
        assert_int_equal(ring_pop(&reader, &message), -EAGAIN);
    }
    atomic_store(slot, 101);
    assert_int_equal(ring_pop(&reader, &message), 0);
}

/* Random pushes and pops against a plain count, from just before the wrap. */
static void a_ring_is_a_queue(void **state)
{
    start_at(UINT32_MAX - 5000);
    srandom(3);
    uint32_t pushed = 0;
    uint32_t popped = 0;
    for (int i = 0; i < 50000; i++) {
        if (random() % 2) {
            int err = push(pushed);
            assert_true(err == 0 || (err == -EAGAIN && pushed - popped >= SLOTS - SLOTS / 4 + 1));
            pushed += err == 0;
        } else if (popped != pushed) {
            expect(popped++);
        } else {
            assert_false(ring_is_ready(&reader));
        }
    }
    assert_true(popped > 10000);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup(test, setup)
    const struct CMUnitTest tests[] = {
        FRESH(an_empty_ring_gives_nothing_and_changes_nothing),
        FRESH(messages_come_whole_and_in_order),
        FRESH(a_full_ring_takes_no_more_and_loses_nothing),
        FRESH(room_comes_back_after_every_quarter),
        FRESH(returning_nothing_stores_nothing),
        FRESH(the_writer_looks_at_the_cursor_only_when_it_must),
        FRESH(numbers_wrap_around_at_two_to_the_32nd),
        FRESH(a_cursor_out_of_bounds_is_refused_and_changes_nothing),
        FRESH(a_cursor_may_not_go_back),
        FRESH(only_the_expected_number_is_a_message),
        FRESH(a_ring_is_a_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
