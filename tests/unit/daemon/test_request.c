#include <errno.h>

#include "daemon/request.h"
#include "tests/support/test.h"

static void the_timer_is_the_earliest_of_what_still_counts(void **state)
{
    (void)state;
    struct request request = {.first_token_deadline_ns = 300, .deadline_ns = 500};
    assert_int_equal(request_timer_ns(&request, 50), 300);
    request.parked_since_ns = 200;
    assert_int_equal(request_timer_ns(&request, 50), 250);
    request.parked_since_ns = 0;
    request.first_token_ns = 100;
    assert_int_equal(request_timer_ns(&request, 50), 500);
    request.deadline_ns = UINT64_MAX;
    assert_true(request_timer_ns(&request, 50) == UINT64_MAX);
}

static void own_stop_ids_hold_even_where_the_models_are_ignored(void **state)
{
    (void)state;
    static const uint32_t eos[] = {7, 8};
    struct request request = {.stop_ids = {5, 9}, .stop_count = 1};
    assert_true(request_stops_at(&request, 5, eos, 2));
    assert_true(request_stops_at(&request, 8, eos, 2));
    assert_false(request_stops_at(&request, 8, eos, 1));
    assert_false(request_stops_at(&request, 9, eos, 2));
    request.flags = SUBMISSION_IGNORE_EOS;
    assert_false(request_stops_at(&request, 8, eos, 2));
    assert_true(request_stops_at(&request, 5, eos, 2));
}

static void a_queue_gives_higher_classes_first_and_keeps_the_order_within(void **state)
{
    (void)state;
    static const uint8_t classes[] = {1, 3, 0, 1, 3, 2};
    static const int order[] = {1, 4, 5, 0, 3, 2};
    struct request requests[6] = {0};
    struct request_queue queue;
    request_queue_init(&queue);
    assert_null(request_queue_first(&queue));
    for (int i = 0; i < 6; i++) {
        requests[i].priority = classes[i];
        requests[i].queue_tokens = 10;
        request_queue_add(&queue, &requests[i]);
    }
    assert_int_equal(queue.requests, 6);
    assert_int_equal(queue.tokens, 60);
    for (int i = 0; i < 6; i++) {
        assert_ptr_equal(request_queue_first(&queue), &requests[order[i]]);
        request_queue_remove(&queue, &requests[order[i]]);
    }
    assert_int_equal(queue.requests + queue.tokens, 0);
}

static void a_request_stands_in_two_lists_at_once(void **state)
{
    (void)state;
    struct request requests[3] = {0};
    struct request_list by_state = {.link = REQUEST_BY_STATE};
    struct request_list by_blocks = {.link = REQUEST_BY_BLOCKS};
    for (int i = 0; i < 3; i++) {
        request_list_add(&by_state, &requests[i]);
        request_list_add(&by_blocks, &requests[2 - i]);
    }
    request_list_remove(&by_state, &requests[1]);
    assert_ptr_equal(by_blocks.first->links[REQUEST_BY_BLOCKS].next, &requests[1]);
    request_list_remove(&by_blocks, &requests[2]);
    assert_ptr_equal(by_blocks.first, &requests[1]);
    assert_ptr_equal(by_state.first, &requests[0]);
    assert_ptr_equal(by_state.last, &requests[2]);
    assert_int_equal(by_state.count, 2);
}

static void a_pool_gives_each_request_memory_of_its_own(void **state)
{
    (void)state;
    enum { CAPACITY = 5, CONTEXT = 1500, BLOCKS = 1100 }; /* more than a page each */
    struct request_pool pool;
    struct request *taken[CAPACITY];
    assert_int_equal(request_pool_init(&pool, CAPACITY, CONTEXT, BLOCKS), 0);
    for (uint32_t i = 0; i < CAPACITY; i++) {
        taken[i] = request_pool_take(&pool);
        assert_non_null(taken[i]);
        assert_int_equal(taken[i]->known_tokens, 0);
        assert_int_equal(taken[i]->blocks.capacity, BLOCKS);
        for (uint32_t k = 0; k < CONTEXT; k++)
            taken[i]->tokens[k] = i * 10;
        for (uint32_t k = 0; k < BLOCKS; k++)
            taken[i]->blocks.blocks[k] = i * 10 + 1;
    }
    assert_null(request_pool_take(&pool));
    for (uint32_t i = 0; i < CAPACITY; i++) {
        for (uint32_t k = 0; k < CONTEXT; k++)
            assert_int_equal(taken[i]->tokens[k], i * 10);
        for (uint32_t k = 0; k < BLOCKS; k++)
            assert_int_equal(taken[i]->blocks.blocks[k], i * 10 + 1);
    }
    taken[2]->known_tokens = 77;
    request_pool_give(&pool, taken[2]);
    assert_ptr_equal(request_pool_take(&pool), taken[2]); /* the one whose pages are there */
    assert_int_equal(taken[2]->known_tokens, 0);
    request_pool_fini(&pool);
}

static void a_pool_beyond_all_memory_is_refused(void **state)
{
    (void)state;
    struct request_pool pool;
    assert_int_equal(request_pool_init(&pool, 1u << 20, UINT32_MAX, 1), -ENOMEM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_timer_is_the_earliest_of_what_still_counts),
        cmocka_unit_test(own_stop_ids_hold_even_where_the_models_are_ignored),
        cmocka_unit_test(a_queue_gives_higher_classes_first_and_keeps_the_order_within),
        cmocka_unit_test(a_request_stands_in_two_lists_at_once),
        cmocka_unit_test(a_pool_gives_each_request_memory_of_its_own),
        cmocka_unit_test(a_pool_beyond_all_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
