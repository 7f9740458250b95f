#include "shm/layout.h"

#include "shm/message.h"
#include "tests/support/test.h"

static const struct geometry usual = {.submission_slots = 32,
                                      .event_slots = 64,
                                      .max_requests = 16,
                                      .arena_bytes = 131072,
                                      .output_bytes = 8192};

/* Offsets are pinned where they are declared; what is not, here. A change to any of these numbers
 * is a change of LAYOUT_MAJOR. */
static void every_field_lies_where_layout_1_0_put_it(void **state)
{
    static const struct {
        size_t is, was;
    } fields[] = {
        {offsetof(struct submission, seq), 0},
        {offsetof(struct submission, priority), 5},
        {offsetof(struct submission, flags), 6},
        {offsetof(struct submission, parent), 12},
        {offsetof(struct submission, prompt_tokens), 24},
        {offsetof(struct submission, top_p), 52},
        {offsetof(struct submission, min_p), 68},
        {offsetof(struct submission, top_k), 64},
        {offsetof(struct submission, first_token_deadline_ns), 32},
        {offsetof(struct submission, presence_penalty), 96},
        {offsetof(struct submission, frequency_penalty), 100},
        {offsetof(struct submission, extra_bytes), 108},
        {offsetof(struct event, reason), 5},
        {offsetof(struct event, count), 6},
        {offsetof(struct event, index), 12},
        {offsetof(struct event, accepted.prompt_tokens), 24},
        {offsetof(struct event, accepted.published_ns), 32},
        {offsetof(struct event, output.release), 24},
        {offsetof(struct event, done.error), 28},
        {offsetof(struct event, done.generate_us), 44},
        {offsetof(struct event, done.done_ns), 56},
        {offsetof(struct event, overflow.parked_ns), 16},
        {offsetof(struct event, shutdown.error), 16},
        {sizeof(struct event_token), 8},
        {offsetof(struct board, model_count), 108},
        {offsetof(struct board, sessions_total), 144},
        {offsetof(struct board, sessions_refused), 184},
        {offsetof(struct board_model, weights_bytes), 408},
        {offsetof(struct board_model, busy_ns), 456},
        {offsetof(struct message_hello, geometry), 16},
        {offsetof(struct message_hello, name), 40},
        {offsetof(struct message_welcome, geometry), 16},
        {offsetof(struct message_welcome, board_bytes), 44},
        {offsetof(struct message_error, text), 16},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].is != fields[i].was)
            fail_msg("field %zu lies at %zu, was at %zu", i, fields[i].is, fields[i].was);
}

static void a_usual_geometry_is_valid(void **state)
{
    assert_true(geometry_is_valid(&usual));
}

#define ONE_CHANGED(field, value, verdict)                                                         \
    do {                                                                                           \
        struct geometry changed = usual;                                                           \
        changed.field = (value);                                                                   \
        if (geometry_is_valid(&changed) != (verdict))                                              \
            fail_msg("%s = %u: must be %s", #field, (unsigned)(value), verdict ? "valid" : "not"); \
    } while (0)

static void each_field_of_a_geometry_has_its_limits(void **state)
{
    ONE_CHANGED(submission_slots, 0, 0);
    ONE_CHANGED(submission_slots, 4, 0);
    ONE_CHANGED(submission_slots, 8, 1);
    ONE_CHANGED(submission_slots, 33, 0);
    ONE_CHANGED(submission_slots, 4096, 1);
    ONE_CHANGED(submission_slots, 8192, 0);
    ONE_CHANGED(submission_slots, 0x80000000u, 0);
    ONE_CHANGED(event_slots, 0, 0);
    ONE_CHANGED(event_slots, 32, 0); /* 2 * 16 + 2 must fit */
    ONE_CHANGED(event_slots, 63, 0);
    ONE_CHANGED(event_slots, 4096, 1);
    ONE_CHANGED(event_slots, 8192, 0);
    ONE_CHANGED(max_requests, 0, 0);
    ONE_CHANGED(max_requests, 1, 1);
    ONE_CHANGED(max_requests, 15, 0);
    ONE_CHANGED(max_requests, 32, 0);
    ONE_CHANGED(max_requests, 0x80000000u, 0); /* twice that is 0 */
    ONE_CHANGED(arena_bytes, 0, 0);
    ONE_CHANGED(arena_bytes, 4095, 0);
    ONE_CHANGED(arena_bytes, 4096, 1);
    ONE_CHANGED(arena_bytes, 4097, 0);
    ONE_CHANGED(arena_bytes, 64u << 20, 1);
    ONE_CHANGED(arena_bytes, (64u << 20) + 4096, 0);
    ONE_CHANGED(arena_bytes, UINT32_MAX, 0);
    ONE_CHANGED(output_bytes, 0, 1);
    ONE_CHANGED(output_bytes, 100, 0);
    ONE_CHANGED(output_bytes, (64u << 20) + 4096, 0);
    ONE_CHANGED(stagger, 63, 1);
    ONE_CHANGED(stagger, 64, 0);
}

static void even_one_request_needs_the_smallest_event_ring(void **state)
{
    struct geometry small = usual;
    small.max_requests = 1;
    small.event_slots = GEOMETRY_SLOTS_MIN;
    assert_true(geometry_is_valid(&small));
    small.event_slots = 4; /* 2 * 1 + 2 */
    assert_false(geometry_is_valid(&small));
}

static void parts_of_a_half_do_not_overlap_at_any_stagger(void **state)
{
    for (uint32_t slots = GEOMETRY_SLOTS_MIN; slots <= GEOMETRY_SLOTS_MAX; slots *= 2)
        for (uint32_t stagger = 0; stagger < LAYOUT_STAGGERS; stagger++) {
            struct geometry g = usual;
            g.submission_slots = slots;
            g.event_slots = slots;
            g.stagger = stagger;
            assert_true(client_half_words(&g) + sizeof(struct client_words) <=
                        client_half_ring(&g));
            assert_true(client_half_ring(&g) + (uint64_t)slots * SUBMISSION_SLOT_BYTES <=
                        client_half_arena(&g));
            assert_int_equal(client_half_bytes(&g), client_half_arena(&g) + g.arena_bytes);
            assert_true(daemon_half_words(&g) + sizeof(struct daemon_words) <=
                        daemon_half_ring(&g));
            assert_true(daemon_half_ring(&g) + (uint64_t)slots * EVENT_SLOT_BYTES <=
                        daemon_half_arena(&g));
            assert_int_equal(client_half_ring(&g) % LAYOUT_LINE_BYTES, 0);
            assert_int_equal(daemon_half_ring(&g) % LAYOUT_LINE_BYTES, 0);
            assert_int_equal(client_half_arena(&g) % LAYOUT_PAGE_BYTES, 0);
            assert_int_equal(client_half_bytes(&g) % LAYOUT_PAGE_BYTES, 0);
            assert_int_equal(daemon_half_bytes(&g) % LAYOUT_PAGE_BYTES, 0);
        }
}

static void a_stagger_moves_words_and_ring_but_not_the_arena(void **state)
{
    struct geometry g = usual;
    uint64_t arena = client_half_arena(&g);
    uint64_t bytes = daemon_half_bytes(&g);
    g.stagger = 63;
    assert_int_equal(client_half_words(&g), 63 * LAYOUT_LINE_BYTES);
    assert_int_equal(client_half_arena(&g), arena);
    assert_int_equal(daemon_half_bytes(&g), bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_lies_where_layout_1_0_put_it),
        cmocka_unit_test(a_usual_geometry_is_valid),
        cmocka_unit_test(each_field_of_a_geometry_has_its_limits),
        cmocka_unit_test(even_one_request_needs_the_smallest_event_ring),
        cmocka_unit_test(parts_of_a_half_do_not_overlap_at_any_stagger),
        cmocka_unit_test(a_stagger_moves_words_and_ring_but_not_the_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
