/* What the measurements of the arithmetic stand on: invented tokens and a filled cache. */
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/support/test.h"
#include "tools/bench_shape.h"
#include "tools/bench_stand.h"
#include "tools/cli.h"

static void a_batch_has_its_sequences_behind_their_contexts(void **state)
{
    struct tokens tokens;
    struct step step = {.sequences = 2, .rows = 3, .context = 10};
    const uint32_t positions[] = {10, 11, 12, 10, 11, 12}, sequences[] = {0, 0, 0, 1, 1, 1};
    assert_int_equal(tokens_init(&tokens, 6, 2, 4, 50), 0);
    struct batch batch = tokens_batch(&tokens, &step);
    assert_int_equal(batch.rows, 6);
    assert_int_equal(batch.sequence_count, 2);
    assert_memory_equal(batch.positions, positions, sizeof positions);
    assert_memory_equal(batch.sequences, sequences, sizeof sequences);
    assert_int_equal(tokens.logit_rows[0], 2);
    assert_int_equal(tokens.logit_rows[1], 5);
    for (uint32_t i = 0; i < 6; i++)
        assert_true(batch.ids[i] < 50);
    for (uint32_t i = 0; i < 8; i++) /* no block belongs to two */
        assert_int_equal(batch.block_tables[i], i);
    uint32_t before[6];
    memcpy(before, batch.ids, sizeof before);
    batch = tokens_batch(&tokens, &step);
    assert_memory_not_equal(batch.ids, before, sizeof before); /* no row stays in a cache */
    tokens_fini(&tokens);
}

/* Whether one of a position's f16 is not zero; `step` elements are between them. */
static bool is_filled(const char *from, uint32_t dims, uint32_t step)
{
    static const char zero[sizeof(uint16_t)];
    for (uint32_t i = 0; i < dims; i++)
        if (memcmp(from + (size_t)i * step * sizeof zero, zero, sizeof zero) != 0)
            return true;
    return false;
}

static bool position_is_filled(const struct kv_cache *cache, uint32_t layer, uint32_t position,
                               uint32_t half, uint32_t head)
{
    uint32_t token = position % STAND_BLOCK_TOKENS, dims = cache->options.head_dim;
    const char *from = cpu_cache_head(cache, layer, position / STAND_BLOCK_TOKENS, half, head);
    return half ? is_filled(from + token * cache->row_bytes, dims, 1)
                : is_filled(from + cpu_key_offset(cache, token), dims, cache->key_lanes);
}

/* 3 sequences of 2 blocks, 20 positions of which there are. */
static void every_position_is_filled_in_every_layer(void **state)
{
    enum { SEQUENCES = 3, BLOCKS = 2, POSITIONS = 20 };
    struct model_config config;
    struct backend *backend;
    struct kv_cache *cache;
    const char *isa;
    assert_true(shape_find("story", &config));
    struct kv_cache_options options = {.type = TENSOR_F16,
                                       .layers = config.layers,
                                       .kv_heads = config.kv_heads,
                                       .head_dim = config.head_dim,
                                       .blocks = SEQUENCES * BLOCKS,
                                       .block_tokens = STAND_BLOCK_TOKENS};
    assert_int_equal(stand_open_backend(&backend, 1, NULL, &isa), 0);
    assert_int_equal(backend->ops->cache_open(backend, &options, &cache), 0);
    memset(cache->memory, 0, cache->bytes);
    assert_int_equal(stand_fill_cache(backend, cache, &config, SEQUENCES, BLOCKS, POSITIONS), 0);
    for (uint32_t layer = 0; layer < config.layers; layer++)
        for (uint32_t position = 0; position < SEQUENCES * BLOCKS * STAND_BLOCK_TOKENS; position++)
            for (uint32_t half = 0; half < 2; half++)
                for (uint32_t head = 0; head < config.kv_heads; head++)
                    assert_int_equal(position_is_filled(cache, layer, position, half, head),
                                     position % (BLOCKS * STAND_BLOCK_TOKENS) < POSITIONS);
    backend->ops->cache_close(backend, cache);
    backend_close(backend);
}

static void a_backend_tells_its_instructions(void **state)
{
    static const char *const isas[] = {BACKEND_CPU_VARIANTS};
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        struct backend *backend;
        const char *why, *isa;
        struct backend_options options = {.device = "cpu", .threads = 1, .variant = isas[i]};
        if (backend_open(&backend, &options, &why) < 0)
            continue;
        backend_close(backend);
        assert_int_equal(stand_open_backend(&backend, 1, isas[i], &isa), 0);
        assert_string_equal(isa, isas[i]);
        backend_close(backend);
    }
}

static void packed_matrices_are_held_against_whole_numbers(void **state)
{
    struct limits *limits;
    assert_int_equal(limits_open(&limits, "plain", 1), 0);
    assert_int_equal(stand_peak(limits, TENSOR_Q8, 1), LIMIT_F32); /* there is nothing else */
    limits_close(limits);
#if defined(__x86_64__)
    assert_int_equal(limits_open(&limits, "avx2", 1), 0);
    assert_int_equal(stand_peak(limits, TENSOR_Q4, 512), LIMIT_INT8);
    assert_int_equal(stand_peak(limits, TENSOR_F16, 512), LIMIT_F32);
    limits_close(limits);
    assert_int_equal(limits_open(&limits, "amx", 1), 0);
    assert_int_equal(stand_peak(limits, TENSOR_Q4_SUPER, 8), LIMIT_INT8);
    assert_int_equal(stand_peak(limits, TENSOR_Q4_SUPER, 9), LIMIT_AMX);
    limits_close(limits);
#endif
}

static void memory_that_is_not_there_is_refused(void **state)
{
    assert_int_equal(stand_check_memory(1, "one byte"), 0);
    assert_int_equal(stand_check_memory((uint64_t)1 << 62, "the test"), CLI_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_has_its_sequences_behind_their_contexts),
        cmocka_unit_test(every_position_is_filled_in_every_layer),
        cmocka_unit_test(a_backend_tells_its_instructions),
        cmocka_unit_test(packed_matrices_are_held_against_whole_numbers),
        cmocka_unit_test(memory_that_is_not_there_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
