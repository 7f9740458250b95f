/* Mutations of fuzz_region's inputs that keep the records whole; libFuzzer's own mix them with
 * mutations of single bytes. */
#include <string.h>

#include "shm/layout.h"
#include "tests/fuzz/fuzz_region.h"

/* libFuzzer's. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

enum { RECORD_BYTES = sizeof(struct region_record) };

/* xorshift; state is never 0. */
static uint32_t next(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static uint32_t likely_value(uint32_t *random)
{
    static const uint32_t values[] = {
        0,          1,          2,          3,          5,          8,          15,
        16,         17,         64,         99,         100,        101,        4095,
        4096,       0x3f800000, 0x40000000, 0x42c80000, 0x42c80001, 0x7fc00000, 0x7f800000,
        0x80000000, 0xbf800000, 0x7fffffff, 0xffff0000, 0xfffffff0, 0xfffffffe, 0xffffffff};
    uint32_t any = next(random);
    switch (any % 4) {
    case 0:
        return next(random);
    case 1:
        return next(random) % 256;
    default:
        return values[any / 4 % (sizeof values / sizeof values[0])];
    }
}

static struct region_record any_record(uint32_t *random)
{
    static const uint16_t fields[] = {
        offsetof(struct submission, op),
        offsetof(struct submission, priority),
        offsetof(struct submission, flags),
        offsetof(struct submission, request),
        offsetof(struct submission, parent),
        offsetof(struct submission, model),
        offsetof(struct submission, prompt_offset),
        offsetof(struct submission, prompt_tokens),
        offsetof(struct submission, max_tokens),
        offsetof(struct submission, temperature),
        offsetof(struct submission, top_p),
        offsetof(struct submission, min_p),
        offsetof(struct submission, stop_ids),
        offsetof(struct submission, stop_count),
        offsetof(struct submission, repetition_penalty),
        offsetof(struct submission, presence_penalty),
        offsetof(struct submission, frequency_penalty),
        offsetof(struct submission, extra_offset),
        offsetof(struct submission, extra_bytes),
        offsetof(struct submission, reserved),
    };
    struct region_record record = {.op = (uint8_t)(next(random) % REGION_OPS),
                                   .a = (uint8_t)next(random),
                                   .b = (uint16_t)next(random),
                                   .value = likely_value(random)};
    if (record.op == REGION_FIELD && next(random) % 4)
        record.b = fields[record.b % (sizeof fields / sizeof fields[0])] - 4;
    else if (record.op == REGION_TURN || record.op == REGION_SLOT)
        record.b %= next(random) % 2 ? 4 : 300;
    else if (record.op == REGION_DRAFT)
        record.value = next(random);
    else if (record.op == REGION_IMAGE)
        record.a %= 20;
    return record;
}

static size_t insert(uint8_t *data, size_t records, size_t at, const struct region_record *record)
{
    memmove(data + (at + 1) * RECORD_BYTES, data + at * RECORD_BYTES,
            (records - at) * RECORD_BYTES);
    memcpy(data + at * RECORD_BYTES, record, RECORD_BYTES);
    return records + 1;
}

static size_t erase(uint8_t *data, size_t records, size_t at)
{
    memmove(data + at * RECORD_BYTES, data + (at + 1) * RECORD_BYTES,
            (records - at - 1) * RECORD_BYTES);
    return records - 1;
}

/* One change of whole records: a new one, a copy of one, one replaced, one less. */
static size_t change(uint8_t *data, size_t records, size_t records_max, uint32_t *random)
{
    size_t at = next(random) % (records + 1);
    struct region_record record = any_record(random);
    uint32_t kind = next(random) % 8;
    if (records && kind == 0)
        return erase(data, records, at % records);
    if (records && kind == 1) {
        memcpy(data + at % records * RECORD_BYTES, &record, RECORD_BYTES);
        return records;
    }
    if (records >= records_max)
        return records;
    if (records && kind == 2)
        memcpy(&record, data + next(random) % records * RECORD_BYTES, RECORD_BYTES);
    return insert(data, records, at, &record);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    uint32_t random = seed * 2 + 1;
    next(&random);
    if (next(&random) % 4 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    size_t records = size / RECORD_BYTES;
    for (uint32_t changes = next(&random) % 3 + 1; changes; changes--)
        records = change(data, records, max_size / RECORD_BYTES, &random);
    return records * RECORD_BYTES;
}
