/* Opening the engine with every allocation and system call failing in turn: the error comes back,
 * nothing leaks, and with none failing it opens. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/engine.h"
#include "tests/support/fake_forward.h"
#include "tests/support/test.h"

static int calls_left = -1; /* until one fails; -1: none does */
static int blocks_held;

static int fails(void)
{
    if (calls_left < 0)
        return 0;
    return calls_left-- == 0;
}

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *memory);
void __wrap_free(void *memory);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *memory, size_t bytes);
int __wrap_munmap(void *memory, size_t bytes);
int __real_epoll_create1(int flags);
int __wrap_epoll_create1(int flags);
int __real_eventfd(unsigned count, int flags);
int __wrap_eventfd(unsigned count, int flags);
int __real_epoll_ctl(int fd, int operation, int other, struct epoll_event *event);
int __wrap_epoll_ctl(int fd, int operation, int other, struct epoll_event *event);

void *__wrap_calloc(size_t count, size_t bytes)
{
    void *memory = fails() ? NULL : __real_calloc(count, bytes);
    blocks_held += memory != NULL;
    return memory;
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    void *memory = fails() ? NULL : __real_aligned_alloc(alignment, bytes);
    blocks_held += memory != NULL;
    return memory;
}

void __wrap_free(void *memory)
{
    blocks_held -= memory != NULL;
    __real_free(memory);
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    void *memory = fails() ? MAP_FAILED : __real_mmap(at, bytes, protection, flags, fd, offset);
    blocks_held += memory != MAP_FAILED;
    return memory;
}

int __wrap_munmap(void *memory, size_t bytes)
{
    blocks_held--;
    return __real_munmap(memory, bytes);
}

static int failed_call(int error)
{
    errno = error;
    return -1;
}

int __wrap_epoll_create1(int flags)
{
    return fails() ? failed_call(EMFILE) : __real_epoll_create1(flags);
}

int __wrap_eventfd(unsigned count, int flags)
{
    return fails() ? failed_call(EMFILE) : __real_eventfd(count, flags);
}

int __wrap_epoll_ctl(int fd, int operation, int other, struct epoll_event *event)
{
    return fails() ? failed_call(ENOSPC) : __real_epoll_ctl(fd, operation, other, event);
}

static const struct config config = {.block_tokens = 16,
                                     .cache_bytes = 1 << 16,
                                     .cache_type = TENSOR_F32,
                                     .step_tokens = 16,
                                     .chunk_tokens = 8,
                                     .running_max = 3,
                                     .kept_max = 2,
                                     .queue_requests = 4,
                                     .queue_tokens = 200,
                                     .sessions_max = 4,
                                     .slow_reader_ns = 1000};

static struct model some_model(enum model_architecture architecture)
{
    return (struct model){.name = "some",
                          .config = {.architecture = architecture,
                                     .layers = 1,
                                     .kv_heads = 1,
                                     .head_dim = 1,
                                     .vocab_rows = 10,
                                     .vocab_size = 10,
                                     .context_tokens = 64}};
}

static void opening_survives_every_failure_and_leaks_nothing(void **state)
{
    (void)state;
    struct model echo = some_model(MODEL_ECHO);
    struct model glm = some_model(MODEL_GLM);
    struct model *models[] = {&echo, &glm};
    int descriptors = test_open_descriptors();
    int failures = 0;
    for (;; failures++) {
        static struct board board;
        struct failure failure = {""};
        struct engine *engine = NULL;
        int before = blocks_held;
        calls_left = failures;
        int err = engine_open(&engine, &config, models, 2, &fake_backend, &board, &failure);
        int left = calls_left;
        calls_left = -1;
        if (err == 0) {
            assert_true(left >= 0); /* nothing failed: it was not for a failure ignored */
            engine_close(engine);
            assert_int_equal(blocks_held, before);
            break;
        }
        assert_true(err == -ENOMEM || err == -EMFILE || err == -ENOSPC);
        assert_null(engine);
        assert_true(strlen(failure.text) > 0);
        assert_int_equal(blocks_held, before);
        assert_int_equal(test_open_descriptors(), descriptors);
    }
    assert_true(failures > 15);
    assert_int_equal(test_open_descriptors(), descriptors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_survives_every_failure_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
