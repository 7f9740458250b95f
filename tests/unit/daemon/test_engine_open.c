/* What the engine promises to serve, it has the memory for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/engine.h"
#include "model/memory.h"
#include "tests/support/test.h"

static uint64_t available_bytes;

uint64_t __wrap_memory_available(const char *root);
uint64_t __wrap_memory_available(const char *root)
{
    assert_string_equal(root, "");
    return available_bytes;
}

/* Opens the engine with `count` times the same tiny model. */
static int open_and_close(uint32_t count, struct failure *failure)
{
    struct backend_options backend_options = {.device = "cpu", .threads = 1};
    struct model_options model_options = {.memory_bytes = 1 << 30};
    struct model *models[2];
    struct backend *backend = NULL;
    struct engine *engine = NULL;
    struct config config;
    const char *why = NULL;
    struct board *board = calloc(1, sizeof *board);
    assert_non_null(board);
    config_defaults(&config);
    config.cache_bytes = 8 << 20;
    assert_int_equal(backend_open(&backend, &backend_options, &why), 0);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(model_open(&models[i], "tiny", AGL_SOURCE_DIR "/tests/data/models/glm",
                                    backend, &model_options, failure),
                         0);
    int err = engine_open(&engine, &config, models, count, backend, board, failure);
    engine_close(engine);
    for (uint32_t i = 0; i < count; i++)
        model_close(models[i], backend);
    backend_close(backend);
    free(board);
    return err;
}

static void a_cache_beyond_the_memory_is_refused_with_the_figures(void **state)
{
    struct failure failure = {""};
    available_bytes = 1 << 20;
    assert_int_equal(open_and_close(1, &failure), -ENOMEM);
    assert_non_null(strstr(failure.text, "model tiny needs "));
    assert_non_null(strstr(failure.text, "1.0 MiB of memory are available"));
    assert_non_null(strstr(failure.text, "cache_mib"));
}

static void what_one_model_takes_the_next_has_not(void **state)
{
    struct failure failure = {""};
    available_bytes = 1ull << 32;
    assert_int_equal(open_and_close(2, &failure), 0);
    available_bytes = 7 << 20; /* enough for one half of the cache, not for both */
    assert_int_equal(open_and_close(2, &failure), -ENOMEM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_beyond_the_memory_is_refused_with_the_figures),
        cmocka_unit_test(what_one_model_takes_the_next_has_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
