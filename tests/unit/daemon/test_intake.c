#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/intake.h"
#include "tests/support/test.h"

static const struct geometry geometry = {.submission_slots = 8,
                                         .event_slots = 64,
                                         .max_requests = 16,
                                         .arena_bytes = 8192,
                                         .output_bytes = 4096};

static struct submission fine(void)
{
    return (struct submission){.op = SUBMISSION_GENERATE,
                               .priority = PRIORITY_REALTIME,
                               .flags = SUBMISSION_FLAGS_ALL,
                               .request = 1,
                               .model = 3,
                               .prompt_offset = 16,
                               .prompt_tokens = 8,
                               .max_tokens = 1,
                               .temperature = 0.7f,
                               .top_p = 0.9f,
                               .min_p = 0.05f,
                               .top_k = 40,
                               .seed = 5,
                               .first_token_deadline_ns = 1,
                               .deadline_ns = 2,
                               .stop_ids = {1, 2, 3, 4},
                               .stop_count = 4};
}

static int check(struct submission submission)
{
    const char *why = NULL;
    int err = intake_check(&submission, &geometry, &why);
    if (err == -EPROTO)
        assert_non_null(why);
    else
        assert_null(why);
    return err;
}

#define CHECK_WITH(field, value)          \
    ({                                    \
        struct submission with_ = fine(); \
        with_.field = (value);            \
        check(with_);                     \
    })

static void what_is_right_is_taken(void **state)
{
    (void)state;
    assert_int_equal(check(fine()), 0);
    struct submission extend = fine();
    extend.op = SUBMISSION_EXTEND;
    extend.parent = 9;
    extend.prompt_tokens = 0; /* just goes on */
    assert_int_equal(check(extend), 0);
    assert_int_equal(check((struct submission){.op = SUBMISSION_CANCEL, .request = 4}), 0);
    assert_int_equal(check((struct submission){.op = SUBMISSION_DETACH, .request = 4}), 0);
    assert_int_equal(check((struct submission){
                         .op = SUBMISSION_SET_PRIORITY, .priority = PRIORITY_HIGH, .request = 4}),
                     0);
}

static void a_broken_contract_ends_the_session(void **state)
{
    (void)state;
    assert_int_equal(CHECK_WITH(op, 0), -EPROTO);
    assert_int_equal(CHECK_WITH(op, 6), -EPROTO);
    assert_int_equal(CHECK_WITH(op, 255), -EPROTO);
    assert_int_equal(CHECK_WITH(request, 0), -EPROTO);
    assert_int_equal(CHECK_WITH(priority, 4), -EPROTO);
    assert_int_equal(CHECK_WITH(flags, 1 << 4), -EPROTO);
    assert_int_equal(CHECK_WITH(flags, 0x4000), -EPROTO);
    assert_int_equal(CHECK_WITH(parent, 1), -EPROTO);
    assert_int_equal(CHECK_WITH(stop_count, 5), -EPROTO);
    for (int i = 0; i < 4; i++)
        assert_int_equal(CHECK_WITH(reserved[i], 1), -EPROTO);
    struct submission extend = fine();
    extend.op = SUBMISSION_EXTEND;
    assert_int_equal(check(extend), -EPROTO);
}

static void short_operations_use_no_other_field(void **state)
{
    (void)state;
    static const uint8_t ops[] = {SUBMISSION_CANCEL, SUBMISSION_SET_PRIORITY, SUBMISSION_DETACH};
    for (size_t i = 0; i < sizeof ops; i++) {
        for (size_t at = 4; at < sizeof(struct submission); at++) {
            struct submission submission = {.op = ops[i], .request = 0x01010101};
            uint8_t *bytes = (uint8_t *)&submission;
            bool is_used =
                at == offsetof(struct submission, op) || (at >= 8 && at < 12) ||
                (ops[i] == SUBMISSION_SET_PRIORITY && at == offsetof(struct submission, priority));
            if (is_used)
                continue;
            bytes[at] = 1;
            assert_int_equal(check(submission), -EPROTO);
        }
    }
}

/* offset, tokens, the verdict; the arena has 8,192 bytes. */
static void a_prompt_lies_within_the_arena(void **state)
{
    (void)state;
    static const struct {
        uint32_t offset, tokens;
        int err;
    } cases[] = {
        {0, 2048, 0},
        {0, 2049, -EPROTO},
        {4, 2047, 0},
        {4, 2048, -EPROTO},
        {8188, 1, 0},
        {8188, 2, -EPROTO},
        {8192, 0, -EINVAL}, /* within, but empty */
        {8192, 1, -EPROTO},
        {8196, 0, -EPROTO},
        {8196, 1, -EPROTO},
        {1, 1, -EPROTO},
        {2, 1, -EPROTO},
        {3, 1, -EPROTO},
        {0, UINT32_MAX, -EPROTO},
        {0, 1u << 30, -EPROTO}, /* times four is 0 */
        {0, (1u << 30) + 1, -EPROTO},
        {UINT32_MAX - 3, 1, -EPROTO}, /* plus four is 0 */
        {UINT32_MAX - 3, 2, -EPROTO},
        {1u << 31, 1u << 29, -EPROTO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct submission submission = fine();
        submission.prompt_offset = cases[i].offset;
        submission.prompt_tokens = cases[i].tokens;
        assert_int_equal(check(submission), cases[i].err);
    }
}

static void parameters_out_of_range_are_refused(void **state)
{
    (void)state;
    assert_int_equal(CHECK_WITH(temperature, 0), 0);
    assert_int_equal(CHECK_WITH(temperature, 100), 0);
    assert_int_equal(CHECK_WITH(temperature, 100.1f), -EINVAL);
    assert_int_equal(CHECK_WITH(temperature, -0.1f), -EINVAL);
    assert_int_equal(CHECK_WITH(temperature, NAN), -EINVAL);
    assert_int_equal(CHECK_WITH(temperature, INFINITY), -EINVAL);
    assert_int_equal(CHECK_WITH(top_p, 1), 0);
    assert_int_equal(CHECK_WITH(top_p, 0), -EINVAL);
    assert_int_equal(CHECK_WITH(top_p, 1.001f), -EINVAL);
    assert_int_equal(CHECK_WITH(top_p, NAN), -EINVAL);
    assert_int_equal(CHECK_WITH(min_p, 0), 0);
    assert_int_equal(CHECK_WITH(min_p, 1), -EINVAL);
    assert_int_equal(CHECK_WITH(min_p, -0.5f), -EINVAL);
    assert_int_equal(CHECK_WITH(min_p, NAN), -EINVAL);
    assert_int_equal(CHECK_WITH(top_k, UINT32_MAX), 0);
    assert_int_equal(CHECK_WITH(max_tokens, UINT32_MAX), 0);
    assert_int_equal(CHECK_WITH(max_tokens, 0), -EINVAL);
    assert_int_equal(CHECK_WITH(prompt_tokens, 0), -EINVAL);
    assert_int_equal(CHECK_WITH(repetition_penalty, 1), -EINVAL);
    assert_int_equal(CHECK_WITH(presence_penalty, NAN), -EINVAL);
    assert_int_equal(CHECK_WITH(frequency_penalty, -1), -EINVAL);
    assert_int_equal(CHECK_WITH(extra_offset, 4), -EINVAL);
    assert_int_equal(CHECK_WITH(extra_bytes, 4), -EINVAL);
}

static void logits_need_an_output_arena(void **state)
{
    (void)state;
    struct geometry without = geometry;
    without.output_bytes = 0;
    struct submission submission = fine();
    const char *why;
    assert_int_equal(intake_check(&submission, &without, &why), -EINVAL);
    submission.flags = SUBMISSION_KEEP;
    assert_int_equal(intake_check(&submission, &without, &why), 0);
}

static void a_prompt_is_copied_and_its_ids_are_checked(void **state)
{
    (void)state;
    enum { COUNT = 2500, VOCAB = 3000 }; /* more than one piece */
    static uint32_t arena[COUNT + 2];
    static uint32_t ids[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        arena[i + 1] = i;
    arena[0] = arena[COUNT + 1] = UINT32_MAX; /* not part of it */
    assert_int_equal(intake_copy_prompt((uint8_t *)arena, 4, COUNT, VOCAB, ids), 0);
    assert_memory_equal(ids, arena + 1, sizeof ids);

    static const uint32_t places[] = {0, 1, 1023, 1024, 2047, 2048, COUNT - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        uint32_t *place = &arena[places[i] + 1];
        uint32_t before = *place;
        *place = VOCAB - 1;
        assert_int_equal(intake_copy_prompt((uint8_t *)arena, 4, COUNT, VOCAB, ids), 0);
        *place = VOCAB;
        assert_int_equal(intake_copy_prompt((uint8_t *)arena, 4, COUNT, VOCAB, ids), -EINVAL);
        *place = UINT32_MAX;
        assert_int_equal(intake_copy_prompt((uint8_t *)arena, 4, COUNT, VOCAB, ids), -EINVAL);
        *place = before;
    }
    assert_int_equal(intake_copy_prompt((uint8_t *)arena, 4, 0, VOCAB, ids), 0);
}

static void the_second_line_is_read_if_the_first_says_so(void **state)
{
    enum { SLOTS = 8 };
    static uint8_t slots[SLOTS * SUBMISSION_SLOT_BYTES];
    static _Atomic uint32_t cursor;
    struct ring_writer writer;
    struct ring_reader reader;
    struct submission sent = fine();
    struct submission got;
    ring_writer_init(&writer, slots, SLOTS, SUBMISSION_SLOT_BYTES, &cursor);
    ring_reader_init(&reader, slots, SLOTS, SUBMISSION_SLOT_BYTES, &cursor);
    memset(slots, 0x55, sizeof slots);
    assert_int_equal(intake_take(&reader, &got), -EAGAIN);

    sent.flags |= SUBMISSION_WIDE;
    assert_int_equal(ring_push(&writer, &sent), 0);
    sent.flags &= (uint16_t)~SUBMISSION_WIDE;
    assert_int_equal(ring_push_part(&writer, &sent, LAYOUT_LINE_BYTES), 0);
    assert_int_equal(slots[2 * SUBMISSION_SLOT_BYTES - 1], 0x55); /* not written either */

    assert_int_equal(intake_take(&reader, &got), 0);
    assert_int_equal(got.top_k, sent.top_k);
    assert_int_equal(got.stop_count, sent.stop_count);
    assert_memory_equal(got.stop_ids, sent.stop_ids, sizeof got.stop_ids);
    memset(&got, 0xaa, sizeof got);
    assert_int_equal(intake_take(&reader, &got), 0);
    assert_int_equal(got.request, sent.request);
    assert_true(got.seed == sent.seed);
    for (size_t at = LAYOUT_LINE_BYTES; at < sizeof got; at++)
        assert_int_equal(((uint8_t *)&got)[at], 0);
    assert_int_equal(intake_take(&reader, &got), -EAGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_right_is_taken),
        cmocka_unit_test(the_second_line_is_read_if_the_first_says_so),
        cmocka_unit_test(a_broken_contract_ends_the_session),
        cmocka_unit_test(short_operations_use_no_other_field),
        cmocka_unit_test(a_prompt_lies_within_the_arena),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(logits_need_an_output_arena),
        cmocka_unit_test(a_prompt_is_copied_and_its_ids_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
