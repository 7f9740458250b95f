#include <stdlib.h>

#include "client/merge_queue.h"
#include "tests/support/test.h"

static void assert_pops(struct merge_queue *queue, uint32_t rank, uint32_t position)
{
    uint32_t got_rank = 0;
    uint32_t got_position = 0;
    assert_true(merge_queue_pop(queue, &got_rank, &got_position));
    assert_int_equal(got_rank, rank);
    assert_int_equal(got_position, position);
}

static void places_come_by_rank_and_then_from_the_left(void **state)
{
    struct merge_queue queue;
    merge_queue_init(&queue);
    static const uint32_t pushed[][2] = {{5, 9}, {3, 7}, {5, 1}, {3, 2}, {9, 0}, {5, 4}};
    static const uint32_t popped[][2] = {{3, 2}, {3, 7}, {5, 1}, {5, 4}, {5, 9}, {9, 0}};
    for (int i = 0; i < 6; i++)
        assert_int_equal(merge_queue_push(&queue, pushed[i][0], pushed[i][1]), 0);
    for (int i = 0; i < 6; i++)
        assert_pops(&queue, popped[i][0], popped[i][1]);
    uint32_t rank = 77;
    uint32_t position = 78;
    assert_false(merge_queue_pop(&queue, &rank, &position));
    assert_int_equal(rank, 77);
    merge_queue_fini(&queue);
}

static void a_lower_rank_pushed_meanwhile_comes_first(void **state)
{
    struct merge_queue queue;
    merge_queue_init(&queue);
    for (uint32_t i = 0; i < 10; i++)
        merge_queue_push(&queue, 4, i * 10);
    assert_pops(&queue, 4, 0);
    assert_pops(&queue, 4, 10);
    merge_queue_push(&queue, 2, 15);
    merge_queue_push(&queue, 4, 10);
    merge_queue_push(&queue, 4, 5);
    merge_queue_push(&queue, 4, 55); /* far from both ends of the list */
    assert_pops(&queue, 2, 15);
    static const uint32_t rest[] = {5, 10, 20, 30, 40, 50, 55, 60, 70, 80, 90};
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++)
        assert_pops(&queue, 4, rest[i]);
    merge_queue_fini(&queue);
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static void random_places_come_in_order_after_each_clear(void **state)
{
    enum { COUNT = 5000 };
    static uint64_t keys[COUNT];
    struct merge_queue queue;
    uint32_t random = 99;
    merge_queue_init(&queue);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < COUNT; i++) {
            random = random * 1664525u + 1013904223u;
            uint32_t rank = (random >> 8) % (round % 2 ? 7 : 900);
            uint32_t position = (random >> 4) % 100000;
            keys[i] = (uint64_t)rank << 32 | position;
            assert_int_equal(merge_queue_push(&queue, rank, position), 0);
        }
        qsort(keys, COUNT, sizeof *keys, compare_keys);
        int taken = round == 3 ? COUNT / 2 : COUNT; /* once, clear what is left */
        for (int i = 0; i < taken; i++)
            assert_pops(&queue, (uint32_t)(keys[i] >> 32), (uint32_t)keys[i]);
        merge_queue_clear(&queue);
        uint32_t rank = 0;
        uint32_t position = 0;
        assert_false(merge_queue_pop(&queue, &rank, &position));
    }
    merge_queue_fini(&queue);
}

static void places_in_order_cost_no_sorting(void **state)
{
    struct merge_queue queue;
    merge_queue_init(&queue);
    for (uint32_t i = 0; i < 100000; i++)
        merge_queue_push(&queue, i % 3, i);
    uint32_t rank = 0;
    uint32_t position = 0;
    while (merge_queue_pop(&queue, &rank, &position))
        continue;
    assert_int_equal(queue.pushes, 100000);
    assert_true(queue.steps < 20);
    merge_queue_fini(&queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_come_by_rank_and_then_from_the_left),
        cmocka_unit_test(a_lower_rank_pushed_meanwhile_comes_first),
        cmocka_unit_test(random_places_come_in_order_after_each_clear),
        cmocka_unit_test(places_in_order_cost_no_sorting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
