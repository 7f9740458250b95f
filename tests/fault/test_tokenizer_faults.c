/* Every allocation of the text side fails once: the error comes back, nothing leaks, and outputs
 * stay as they were. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "tests/support/test.h"

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

static int allocations_left = -1; /* -1: none fails */
static int allocation_failed;

static int may_allocate(void)
{
    if (allocations_left < 0)
        return 1;
    if (allocations_left-- > 0)
        return 1;
    allocations_left = -1; /* one failure a round */
    allocation_failed = 1;
    return 0;
}

void *__wrap_malloc(size_t bytes)
{
    return may_allocate() ? __real_malloc(bytes) : NULL;
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return may_allocate() ? __real_calloc(count, bytes) : NULL;
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return may_allocate() ? __real_realloc(old, bytes) : NULL;
}

/* Lets the next allocation fail after `allowed` good ones. */
static void fail_after(int allowed)
{
    allocation_failed = 0;
    allocations_left = allowed;
}

/* True if an allocation had failed; from now on none does. */
static int had_failed(void)
{
    allocations_left = -1;
    return allocation_failed;
}

static void open_small(const char *name, struct agl_tokenizer **ret_tokenizer)
{
    char path[4096];
    snprintf(path, sizeof path, AGL_SOURCE_DIR "/tests/data/tokenizer/%s.tokenizer.json", name);
    assert_int_equal(agl_tokenizer_open(ret_tokenizer, path), 0);
}

static void opening_survives_each_failing_allocation(void **state)
{
    char path[4096];
    int descriptors = test_open_descriptors();
    int rounds = 0;
    snprintf(path, sizeof path, AGL_SOURCE_DIR "/tests/data/tokenizer/glm4.tokenizer.json");
    for (;; rounds++) {
        struct agl_tokenizer *tokenizer = (void *)1;
        fail_after(rounds);
        int err = agl_tokenizer_open(&tokenizer, path);
        if (!had_failed()) {
            assert_int_equal(err, 0);
            agl_tokenizer_close(tokenizer);
            break;
        }
        assert_int_equal(err, -ENOMEM);
        assert_ptr_equal(tokenizer, (void *)1);
        assert_int_equal(test_open_descriptors(), descriptors);
    }
    assert_true(rounds >= 8);
}

static void opening_a_model_survives_each_failing_allocation(void **state)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[4096];
    char folder[4096];
    size_t bytes = 0;
    int rounds = 0;
    for (int i = 0; i < 256; i++)
        bytes +=
            (size_t)sprintf(text + bytes, "%c%c== %d\n", digits[i >> 2], digits[(i & 3) << 4], i);
    bytes += (size_t)sprintf(text + bytes, "YWI= 256\n");
    test_folder(folder);
    test_write_file(folder, "tokenizer.model", text, bytes);
    for (;; rounds++) {
        struct agl_tokenizer *tokenizer = NULL;
        fail_after(rounds);
        int err = agl_tokenizer_open(&tokenizer, folder);
        if (!had_failed()) {
            agl_tokenizer_close(tokenizer);
            assert_int_equal(err, 0);
            break;
        }
        assert_int_equal(err, -ENOMEM);
        assert_null(tokenizer);
    }
    assert_true(rounds >= 7);
    test_remove_folder(folder);
}

static void encoding_survives_each_failing_allocation(void **state)
{
    static const char *const names[] = {"glm4", "qwen2"};
    char text[1200];
    memset(text, 'a', sizeof text); /* a long piece, and marks to be sorted */
    memcpy(text, "e\xCC\x81\xCC\x96", 5);
    for (int i = 0; i < 2; i++) {
        struct agl_tokenizer *tokenizer = NULL;
        int rounds = 0;
        open_small(names[i], &tokenizer);
        for (;; rounds++) {
            uint32_t ids[2] = {77, 78};
            fail_after(rounds);
            int count = agl_encode(tokenizer, text, sizeof text, ids, 2);
            if (!had_failed()) {
                assert_true(count > 2);
                break;
            }
            assert_int_equal(count, -ENOMEM);
            assert_int_equal(ids[0], 77);
            assert_true(strlen(agl_error_detail()) > 0);
        }
        assert_true(rounds >= 6);
        agl_tokenizer_close(tokenizer);
    }
}

static void rendering_survives_each_failing_allocation(void **state)
{
    static const struct agl_message messages[] = {{"system", "S"}, {"user", "Hello"}};
    struct agl_tokenizer *tokenizer = NULL;
    int rounds = 0;
    open_small("glm4", &tokenizer);
    assert_int_equal(agl_chat_set_format(tokenizer, "glm4-0414"), 0);
    for (;; rounds++) {
        uint32_t id = 77;
        fail_after(rounds);
        int count = agl_chat_encode(tokenizer, messages, 2, AGL_CHAT_GENERATE, &id, 1);
        if (!had_failed()) {
            assert_true(count > 6);
            break;
        }
        assert_int_equal(count, -ENOMEM);
        assert_int_equal(id, 77);
    }
    assert_true(rounds >= 3);
    struct agl_detokenizer *detokenizer = NULL;
    fail_after(0);
    assert_int_equal(agl_detokenizer_open(&detokenizer, tokenizer), -ENOMEM);
    assert_null(detokenizer);
    had_failed();
    agl_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_survives_each_failing_allocation),
        cmocka_unit_test(opening_a_model_survives_each_failing_allocation),
        cmocka_unit_test(encoding_survives_each_failing_allocation),
        cmocka_unit_test(rendering_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
