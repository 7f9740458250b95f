#include <errno.h>
#include <stdlib.h>

#include "tests/support/client_half.h"
#include "tests/support/test.h"

enum { SIZE = 4 * LAYOUT_PAGE_BYTES };

static void open_with_output(struct client_half *client, uint32_t output_bytes)
{
    struct geometry geometry = CLIENT_HALF_GEOMETRY;
    geometry.output_bytes = output_bytes;
    client_half_open(client, &geometry);
}

static void give_back(struct client_half *client, uint64_t cursor)
{
    atomic_store(&client->words->output_cursor, cursor);
}

static void a_session_finds_its_parts_where_the_client_put_them(void **state)
{
    (void)state;
    struct client_half client;
    struct event event = {.kind = EVENT_TOKENS, .request = 7};
    client_half_open(&client, &CLIENT_HALF_GEOMETRY);
    struct session *session = client.session;
    client.arena[5] = 55;
    assert_int_equal(((const uint32_t *)(const void *)session->arena)[5], 55);
    atomic_store(&client.words->sleep, 9);
    assert_int_equal(atomic_load(&session->client_words->sleep), 9);
    assert_int_equal(ring_push(&session->events, &event), 0);
    assert_int_equal(client_half_poll(&client, &event), 1);
    assert_int_equal(event.request, 7);
    struct submission submission = client_half_request(&client, 3, 1, 1);
    assert_int_equal(ring_push(&client.submissions, &submission), 0);
    assert_int_equal(ring_pop(&session->submissions, &submission), 0);
    assert_int_equal(submission.request, 3);
    client_half_close(&client);
}

static void regions_of_another_size_are_refused(void **state)
{
    (void)state;
    struct client_half client;
    client_half_open(&client, &CLIENT_HALF_GEOMETRY);
    struct session *other = NULL;
    struct session_options options = client.session->options;
    options.client_half.bytes -= LAYOUT_PAGE_BYTES;
    assert_int_equal(session_open(&other, &options), -EINVAL);
    options = client.session->options;
    options.daemon_half.bytes += LAYOUT_PAGE_BYTES;
    assert_int_equal(session_open(&other, &options), -EINVAL);
    options = client.session->options;
    options.geometry.max_requests = 3;
    assert_int_equal(session_open(&other, &options), -EINVAL);
    assert_null(other);
    client_half_close(&client);
}

static void closing_gives_back_every_descriptor(void **state)
{
    (void)state;
    int before = test_open_descriptors();
    struct client_half client;
    client_half_open(&client, &CLIENT_HALF_GEOMETRY);
    assert_true(test_open_descriptors() > before);
    client_half_close(&client);
    assert_int_equal(test_open_descriptors(), before);
    session_close(NULL);
}

static void a_session_without_descriptors_closes_none(void **state)
{
    (void)state;
    int before = test_open_descriptors();
    struct session *session = NULL;
    struct session_options options = {.geometry = CLIENT_HALF_GEOMETRY,
                                      .client_half = REGION_EMPTY,
                                      .daemon_half = REGION_EMPTY,
                                      .socket_fd = -1,
                                      .doorbell_fd = -1};
    options.client_half.bytes = client_half_bytes(&options.geometry);
    options.daemon_half.bytes = daemon_half_bytes(&options.geometry);
    assert_int_equal(session_open(&session, &options), 0);
    errno = 0;
    session_close(session);
    assert_int_equal(errno, 0); /* not even tried */
    assert_int_equal(test_open_descriptors(), before);
}

static void only_the_first_reason_for_an_end_counts(void **state)
{
    (void)state;
    struct client_half client;
    client_half_open(&client, &CLIENT_HALF_GEOMETRY);
    session_break(client.session, -EPROTO, "first");
    session_break(client.session, -EIO, "second");
    assert_int_equal(client.session->broken, -EPROTO);
    assert_string_equal(client.session->broken_why, "first");
    client_half_close(&client);
}

/* ---- the output arena ------------------------------------------------------------------------ */

static uint32_t take(struct session *session, uint64_t bytes, uint64_t *ret_release)
{
    assert_int_equal(session_output_plan(session, bytes), 1);
    uint32_t offset = session_output_take(session, bytes, ret_release);
    session->output_planned = session->output_tail;
    return offset;
}

static void rows_lie_behind_each_other_and_never_wrap(void **state)
{
    (void)state;
    struct client_half client;
    uint64_t release;
    open_with_output(&client, SIZE);
    struct session *session = client.session;
    assert_int_equal(take(session, 5000, &release), 0);
    assert_int_equal(take(session, 5000, &release), 5056);
    assert_int_equal(take(session, 5000, &release), 10112);
    assert_int_equal(session_output_plan(session, 5000), 0);
    give_back(&client, 5056);
    assert_int_equal(take(session, 5000, &release), 0); /* not at 15,168 */
    assert_int_equal(session_output_plan(session, 1), 0);
    give_back(&client, release);
    assert_int_equal(take(session, 16384, &release), 0);
    client_half_close(&client);
}

static void a_row_as_large_as_the_arena_always_fits_once_it_is_empty(void **state)
{
    (void)state;
    struct client_half client;
    uint64_t release = 0;
    open_with_output(&client, SIZE);
    static const uint32_t sizes[] = {SIZE, 64, SIZE, 5000, SIZE - 64, 12000, 9000};
    for (uint32_t i = 0; i < 50; i++) {
        uint32_t bytes = sizes[i % (sizeof sizes / sizeof *sizes)];
        uint64_t before = release;
        uint32_t offset = take(client.session, bytes, &release);
        assert_true(offset + bytes <= SIZE);
        assert_true(release - before <= SIZE); /* what the library believes at the most */
        give_back(&client, release);
    }
    assert_int_equal(session_output_plan(client.session, SIZE + 1), 0);
    client_half_close(&client);
}

static void a_cursor_outside_of_what_was_given_out_is_nonsense(void **state)
{
    (void)state;
    struct client_half client;
    uint64_t release;
    open_with_output(&client, SIZE);
    take(client.session, SIZE / 2, &release);
    give_back(&client, release + 1);
    assert_int_equal(session_output_plan(client.session, SIZE), -EPROTO);
    give_back(&client, UINT64_MAX);
    assert_int_equal(session_output_plan(client.session, SIZE), -EPROTO);
    give_back(&client, release);
    assert_int_equal(session_output_plan(client.session, SIZE), 1);
    give_back(&client, release - 1); /* backwards */
    assert_int_equal(session_output_plan(client.session, SIZE), -EPROTO);
    client_half_close(&client);
}

/* Rows are planned for a step, some of them are not taken after all. Those that are never overlap
 * with one that was not given back. */
static void rows_given_out_never_overlap(void **state)
{
    (void)state;
    enum { ROWS = 64 };
    struct client_half client;
    unsigned seed = 1;
    open_with_output(&client, SIZE);
    struct session *session = client.session;
    struct {
        uint32_t offset, bytes;
        uint64_t release;
    } rows[ROWS];
    uint32_t first = 0;
    uint32_t last = 0;
    uint32_t taken = 0;
    for (int step = 0; step < 20000; step++) {
        uint32_t planned[4];
        uint32_t count = 0;
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t bytes = 1 + (uint32_t)rand_r(&seed) % (i ? 4000 : SIZE);
            if (session_output_plan(session, bytes) == 1)
                planned[count++] = bytes;
        }
        for (uint32_t i = 0; i < count; i++) {
            if (rand_r(&seed) % 3 == 0)
                continue;
            uint64_t release;
            uint32_t offset = session_output_take(session, planned[i], &release);
            assert_true(offset + planned[i] <= SIZE);
            for (uint32_t at = first; at != last; at++)
                assert_true(offset >= rows[at % ROWS].offset + rows[at % ROWS].bytes ||
                            rows[at % ROWS].offset >= offset + planned[i]);
            assert_true(last - first < ROWS);
            rows[last % ROWS].offset = offset;
            rows[last % ROWS].bytes = planned[i];
            rows[last++ % ROWS].release = release;
            taken++;
        }
        session->output_planned = session->output_tail;
        if (last != first && rand_r(&seed) % 2) {
            first += 1 + (uint32_t)rand_r(&seed) % (last - first);
            give_back(&client, rows[(first - 1) % ROWS].release);
        }
    }
    assert_true(taken > 5000);
    client_half_close(&client);
}

static void a_list_rotates(void **state)
{
    (void)state;
    struct session sessions[3] = {0};
    struct session_list list = {0};
    session_list_rotate(&list);
    for (int i = 0; i < 3; i++)
        session_list_add(&list, &sessions[i]);
    session_list_rotate(&list);
    assert_ptr_equal(list.first, &sessions[1]);
    assert_ptr_equal(list.last, &sessions[0]);
    session_list_remove(&list, &sessions[2]);
    session_list_remove(&list, &sessions[1]);
    assert_ptr_equal(list.first, &sessions[0]);
    session_list_rotate(&list);
    session_list_remove(&list, &sessions[0]);
    assert_null(list.first);
    assert_null(list.last);
    assert_int_equal(list.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_finds_its_parts_where_the_client_put_them),
        cmocka_unit_test(regions_of_another_size_are_refused),
        cmocka_unit_test(closing_gives_back_every_descriptor),
        cmocka_unit_test(a_session_without_descriptors_closes_none),
        cmocka_unit_test(only_the_first_reason_for_an_end_counts),
        cmocka_unit_test(rows_lie_behind_each_other_and_never_wrap),
        cmocka_unit_test(a_row_as_large_as_the_arena_always_fits_once_it_is_empty),
        cmocka_unit_test(a_cursor_outside_of_what_was_given_out_is_nonsense),
        cmocka_unit_test(rows_given_out_never_overlap),
        cmocka_unit_test(a_list_rotates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
