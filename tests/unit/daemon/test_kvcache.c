#include <errno.h>

#include "daemon/kvcache.h"
#include "tests/support/test.h"

enum { BLOCKS = 10, TOKENS = 16 };

static struct kvcache_table table_of(uint32_t *memory, uint32_t capacity)
{
    return (struct kvcache_table){.blocks = memory, .capacity = capacity};
}

static void tokens_round_up_to_blocks(void **state)
{
    (void)state;
    struct kvcache cache;
    assert_int_equal(kvcache_init(&cache, BLOCKS, TOKENS), 0);
    assert_int_equal(kvcache_blocks_for(&cache, 0), 0);
    assert_int_equal(kvcache_blocks_for(&cache, 1), 1);
    assert_int_equal(kvcache_blocks_for(&cache, 16), 1);
    assert_int_equal(kvcache_blocks_for(&cache, 17), 2);
    assert_int_equal(kvcache_blocks_for(&cache, UINT32_MAX), 1u << 28);
    kvcache_fini(&cache);
}

static void a_table_grows_only_by_what_is_missing(void **state)
{
    (void)state;
    struct kvcache cache;
    uint32_t memory[BLOCKS];
    struct kvcache_table table = table_of(memory, BLOCKS);
    assert_int_equal(kvcache_init(&cache, BLOCKS, TOKENS), 0);
    assert_int_equal(kvcache_grow(&cache, &table, 17), 0);
    assert_int_equal(table.count, 2);
    uint32_t first = memory[0];
    assert_int_equal(kvcache_grow(&cache, &table, 5), 0);
    assert_int_equal(table.count, 2);
    assert_int_equal(kvcache_grow(&cache, &table, 48), 0);
    assert_int_equal(table.count, 3);
    assert_int_equal(memory[0], first);
    assert_int_equal(cache.free_blocks, BLOCKS - 3);
    kvcache_fini(&cache);
}

static void no_block_belongs_to_two_tables(void **state)
{
    (void)state;
    struct kvcache cache;
    uint32_t memory[2][BLOCKS];
    struct kvcache_table tables[2] = {table_of(memory[0], BLOCKS), table_of(memory[1], BLOCKS)};
    assert_int_equal(kvcache_init(&cache, BLOCKS, TOKENS), 0);
    for (uint32_t tokens = TOKENS; tokens <= 5 * TOKENS; tokens += TOKENS) {
        assert_int_equal(kvcache_grow(&cache, &tables[0], tokens), 0);
        assert_int_equal(kvcache_grow(&cache, &tables[1], tokens), 0);
    }
    int owners[BLOCKS] = {0};
    for (int i = 0; i < 2; i++) {
        for (uint32_t j = 0; j < tables[i].count; j++) {
            assert_in_range(memory[i][j], 0, BLOCKS - 1);
            owners[memory[i][j]]++;
        }
    }
    for (int i = 0; i < BLOCKS; i++)
        assert_int_equal(owners[i], 1);
    kvcache_fini(&cache);
}

static void a_growth_that_does_not_fit_changes_nothing(void **state)
{
    (void)state;
    struct kvcache cache;
    uint32_t memory[2][BLOCKS];
    struct kvcache_table tables[2] = {table_of(memory[0], BLOCKS), table_of(memory[1], BLOCKS)};
    assert_int_equal(kvcache_init(&cache, BLOCKS, TOKENS), 0);
    assert_int_equal(kvcache_grow(&cache, &tables[0], 7 * TOKENS), 0);
    assert_int_equal(kvcache_grow(&cache, &tables[1], TOKENS), 0);
    assert_int_equal(kvcache_grow(&cache, &tables[1], 4 * TOKENS), -ENOSPC);
    assert_int_equal(tables[1].count, 1);
    assert_int_equal(cache.free_blocks, 2);
    assert_int_equal(kvcache_grow(&cache, &tables[1], 3 * TOKENS), 0);
    kvcache_fini(&cache);
}

static void a_table_never_names_more_than_it_can_hold(void **state)
{
    (void)state;
    struct kvcache cache;
    uint32_t memory[2];
    struct kvcache_table table = table_of(memory, 2);
    assert_int_equal(kvcache_init(&cache, BLOCKS, TOKENS), 0);
    assert_int_equal(kvcache_grow(&cache, &table, 2 * TOKENS + 1), -EMSGSIZE);
    assert_int_equal(table.count, 0);
    kvcache_fini(&cache);
}

static void shrinking_gives_back_what_is_beyond(void **state)
{
    (void)state;
    struct kvcache cache;
    uint32_t memory[BLOCKS];
    struct kvcache_table table = table_of(memory, BLOCKS);
    assert_int_equal(kvcache_init(&cache, BLOCKS, TOKENS), 0);
    assert_int_equal(kvcache_grow(&cache, &table, BLOCKS * TOKENS), 0);
    assert_int_equal(cache.free_blocks, 0);
    kvcache_shrink(&cache, &table, TOKENS + 1);
    assert_int_equal(table.count, 2);
    assert_int_equal(cache.free_blocks, BLOCKS - 2);
    kvcache_shrink(&cache, &table, 5 * TOKENS); /* more than it has: no change */
    assert_int_equal(table.count, 2);
    kvcache_shrink(&cache, &table, 0);
    assert_int_equal(table.count, 0);
    assert_int_equal(cache.free_blocks, BLOCKS);
    kvcache_fini(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_round_up_to_blocks),
        cmocka_unit_test(a_table_grows_only_by_what_is_missing),
        cmocka_unit_test(no_block_belongs_to_two_tables),
        cmocka_unit_test(a_growth_that_does_not_fit_changes_nothing),
        cmocka_unit_test(a_table_never_names_more_than_it_can_hold),
        cmocka_unit_test(shrinking_gives_back_what_is_beyond),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
