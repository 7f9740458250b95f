#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "tests/support/test.h"

/* The allocation with this number, counted from 1, fails. */
static int allocations, failing_allocation;

void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

void *__wrap_calloc(size_t count, size_t bytes)
{
    return ++allocations == failing_allocation ? NULL : __real_calloc(count, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return ++allocations == failing_allocation ? NULL : __real_aligned_alloc(alignment, bytes);
}

static int open_cpu(struct backend **ret_backend, const char *variant, uint32_t threads,
                    const char **ret_why)
{
    struct backend_options options = {.device = "cpu", .threads = threads, .variant = variant};
    return backend_open(ret_backend, &options, ret_why);
}

static void the_processor_is_opened_and_says_what_it_is(void **state)
{
    const char *why = NULL;
    struct backend *backend = NULL;
    assert_int_equal(open_cpu(&backend, "plain", 2, &why), 0);
    assert_null(why);
    assert_string_equal(backend->ops->name, "cpu");
    assert_true(backend->ops->host_memory);
    assert_string_equal(backend->ops->describe(backend), "cpu, 2 threads, plain");
    backend_close(backend);

    assert_int_equal(open_cpu(&backend, "plain", 1, &why), 0);
    assert_string_equal(backend->ops->describe(backend), "cpu, 1 thread, plain");
    backend_close(backend);
    backend_close(NULL);
}

static void without_a_variant_the_best_is_taken(void **state)
{
    const char *expected = "plain";
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        expected = "avx2";
    if (strcmp(expected, "avx2") == 0 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        expected = "avx512";
    if (strcmp(expected, "avx512") == 0 && __builtin_cpu_supports("avx512vnni"))
        expected = "avx512vnni";
    /* Whether the matrix unit is to be had, the kernel decides. */
    struct backend *amx = NULL;
    const char *reason = NULL;
    if (open_cpu(&amx, "amx", 1, &reason) == 0) {
        expected = "amx";
        backend_close(amx);
    }
#endif
    const char *why = NULL;
    struct backend *backend = NULL;
    assert_int_equal(open_cpu(&backend, NULL, 0, &why), 0);
    const char *variant = strrchr(backend->ops->describe(backend), ' ') + 1;
    assert_string_equal(variant, expected);
    backend_close(backend);
}

static void other_devices_and_variants_are_refused_with_the_reason(void **state)
{
    const char *why = NULL;
    struct backend *backend = NULL;
    struct backend_options cuda = {.device = "cuda"};
    assert_int_equal(backend_open(&backend, &cuda, &why), -ENODEV);
    assert_non_null(why);
    why = NULL;
    assert_int_equal(open_cpu(&backend, "sse9", 1, &why), -EINVAL);
    assert_non_null(why);
    why = NULL;
    assert_int_equal(open_cpu(&backend, "plain", 100000, &why), -EINVAL);
    assert_non_null(why);
    assert_null(backend);
}

static void memory_is_aligned_to_pages_and_large_memory_to_huge_ones(void **state)
{
    const char *why;
    struct backend *backend;
    assert_int_equal(open_cpu(&backend, NULL, 1, &why), 0);
    static const uint64_t sizes[] = {0, 1, 4095, 4097, 2 << 20, (5 << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *memory = NULL;
        assert_int_equal(backend->ops->alloc(backend, sizes[i], &memory), 0);
        assert_int_equal((uintptr_t)memory % (sizes[i] < 2 << 20 ? 4096 : 2 << 20), 0);
        memset(memory, 1, sizes[i]);
        backend->ops->free(backend, memory, sizes[i]);
    }
    void *memory = NULL;
    assert_int_equal(backend->ops->alloc(backend, UINT64_MAX, &memory), -ENOMEM);
    assert_null(memory);
    backend_close(backend);
}

static void what_is_uploaded_is_downloaded(void **state)
{
    const char *why;
    struct backend *backend;
    assert_int_equal(open_cpu(&backend, NULL, 1, &why), 0);
    void *memory;
    assert_int_equal(backend->ops->alloc(backend, 100, &memory), 0);
    char out[6] = "";
    assert_int_equal(backend->ops->upload(backend, memory, "hello", 6), 0);
    assert_int_equal(backend->ops->download(backend, out, memory, 6), 0);
    assert_string_equal(out, "hello");
    backend->ops->free(backend, memory, 100);
    backend_close(backend);
}

static void the_cache_takes_keys_and_values_of_every_token(void **state)
{
    struct kv_cache_options options = {.type = TENSOR_F16,
                                       .layers = 40,
                                       .kv_heads = 2,
                                       .head_dim = 128,
                                       .blocks = 64,
                                       .block_tokens = 16};
    /* GLM-4-9B: 40 KiB a token. */
    assert_int_equal(kv_cache_bytes(&options), 64u * 16 * 40 * 1024);
    options.type = TENSOR_F32;
    assert_int_equal(kv_cache_bytes(&options), 64u * 16 * 80 * 1024);
    options.blocks = options.layers = options.kv_heads = options.head_dim = UINT32_MAX;
    assert_true(kv_cache_bytes(&options) == UINT64_MAX);
}

static void caches_without_sense_or_beyond_memory_are_refused(void **state)
{
    const char *why;
    struct backend *backend;
    assert_int_equal(open_cpu(&backend, NULL, 1, &why), 0);
    struct kv_cache_options good = {.type = TENSOR_F16,
                                    .layers = 2,
                                    .kv_heads = 2,
                                    .head_dim = 8,
                                    .blocks = 4,
                                    .block_tokens = 16};
    struct kv_cache *cache = NULL;
    struct kv_cache_options bad = good;
    bad.type = TENSOR_BF16;
    assert_int_equal(backend->ops->cache_open(backend, &bad, &cache), -EINVAL);
    bad = good;
    bad.blocks = 0;
    assert_int_equal(backend->ops->cache_open(backend, &bad, &cache), -EINVAL);
    bad = good;
    bad.head_dim = 100000;
    assert_int_equal(backend->ops->cache_open(backend, &bad, &cache), -EINVAL);
    bad = good;
    bad.blocks = bad.layers = bad.kv_heads = UINT32_MAX;
    assert_int_equal(backend->ops->cache_open(backend, &bad, &cache), -ENOMEM);
    assert_null(cache);
    assert_int_equal(backend->ops->cache_open(backend, &good, &cache), 0);
    backend->ops->cache_close(backend, cache);
    backend->ops->cache_close(backend, NULL);
    backend_close(backend);
}

static void an_allocation_that_fails_is_told_and_leaves_nothing(void **state)
{
    struct backend *backend = NULL;
    int err = -ENOMEM, failures = 0;
    for (; err < 0; failures += err < 0) {
        const char *why = NULL;
        allocations = 0;
        failing_allocation = failures + 1;
        err = open_cpu(&backend, "plain", 2, &why);
        failing_allocation = 0;
        assert_true(err == 0 || (err == -ENOMEM && !backend && why));
    }
    /* Itself, its scratch, rounded inputs, partial sums, own memory, strips, panels, the
     * pool. */
    assert_int_equal(failures, 8);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_processor_is_opened_and_says_what_it_is),
        cmocka_unit_test(without_a_variant_the_best_is_taken),
        cmocka_unit_test(other_devices_and_variants_are_refused_with_the_reason),
        cmocka_unit_test(memory_is_aligned_to_pages_and_large_memory_to_huge_ones),
        cmocka_unit_test(what_is_uploaded_is_downloaded),
        cmocka_unit_test(the_cache_takes_keys_and_values_of_every_token),
        cmocka_unit_test(an_allocation_that_fails_is_told_and_leaves_nothing),
        cmocka_unit_test(caches_without_sense_or_beyond_memory_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
