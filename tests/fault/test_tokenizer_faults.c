/* Every allocation of the text side fails once: the error comes back, nothing leaks, and outputs
 * stay as they were. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "autoglm.h"
#include "tests/support/gguf_files.h"
#include "tests/support/test.h"

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
char *__real_strndup(const char *text, size_t bytes);
char *__wrap_strndup(const char *text, size_t bytes);
ssize_t __real_pread(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *buffer, size_t bytes, off_t offset);
int __real_fstat(int fd, struct stat *status);
int __wrap_fstat(int fd, struct stat *status);

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

char *__wrap_strndup(const char *text, size_t bytes)
{
    return may_allocate() ? __real_strndup(text, bytes) : NULL;
}

static int preads_left = -1; /* the one after these gives pread_result; -1: none does */
static ssize_t pread_result;

ssize_t __wrap_pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    if (preads_left < 0 || preads_left-- > 0)
        return __real_pread(fd, buffer, bytes, offset);
    errno = EIO;
    return pread_result;
}

static int fstat_fails;

int __wrap_fstat(int fd, struct stat *status)
{
    errno = EIO;
    return fstat_fails ? -1 : __real_fstat(fd, status);
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

static void write_gguf(const char *folder, char *ret_path)
{
    static const char *const texts[] = {"a", "b", "ab", "<|im_start|>", "<|im_end|>"};
    struct test_gguf file;
    test_gguf_init(&file);
    test_gguf_string(&file, "general.architecture", "llama");
    test_gguf_string(&file, "tokenizer.ggml.model", "gpt2");
    test_gguf_string(&file, "tokenizer.ggml.pre", "smollm");
    test_gguf_string(&file, "tokenizer.chat_template", "<|im_start|>system\na<|im_end|>");
    test_gguf_strings(&file, "tokenizer.ggml.tokens", texts, 5);
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", (const int32_t[]){1, 1, 1, 3, 3}, 5);
    test_gguf_strings(&file, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
    test_gguf_write(&file, folder, "x.gguf");
    test_gguf_fini(&file);
    snprintf(ret_path, 4200, "%s/x.gguf", folder);
}

static void opening_a_gguf_file_survives_each_failing_allocation(void **state)
{
    char folder[4096], path[4200];
    int descriptors = test_open_descriptors(), rounds = 0;
    test_folder(folder);
    write_gguf(folder, path);
    for (;; rounds++) {
        struct agl_tokenizer *tokenizer = NULL;
        fail_after(rounds);
        int err = agl_tokenizer_open(&tokenizer, path);
        if (!had_failed()) {
            assert_int_equal(err, 0);
            assert_string_equal(agl_chat_format(tokenizer), "chatml");
            agl_tokenizer_close(tokenizer);
            break;
        }
        assert_int_equal(err, -ENOMEM);
        assert_null(tokenizer);
        assert_int_equal(test_open_descriptors(), descriptors);
    }
    assert_true(rounds >= 11);
    test_remove_folder(folder);
}

static void opening_a_gguf_file_survives_failing_calls(void **state)
{
    char folder[4096], path[4200];
    struct agl_tokenizer *tokenizer = NULL;
    int descriptors = test_open_descriptors();
    test_folder(folder);
    write_gguf(folder, path);
    /* The first read asks what the file is, the second reads it. */
    preads_left = 1;
    pread_result = -1;
    assert_int_equal(agl_tokenizer_open(&tokenizer, path), -EIO);
    assert_non_null(strstr(agl_error_detail(), "x.gguf: header: reading at 0"));
    preads_left = 1;
    pread_result = 0;
    assert_int_equal(agl_tokenizer_open(&tokenizer, path), -EINVAL);
    assert_non_null(strstr(agl_error_detail(), "x.gguf: header: the file ends at 0"));
    fstat_fails = 1;
    assert_int_equal(agl_tokenizer_open(&tokenizer, path), -EIO);
    fstat_fails = 0;
    assert_null(tokenizer);
    assert_int_equal(test_open_descriptors(), descriptors);
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
        cmocka_unit_test(opening_a_gguf_file_survives_each_failing_allocation),
        cmocka_unit_test(opening_a_gguf_file_survives_failing_calls),
        cmocka_unit_test(encoding_survives_each_failing_allocation),
        cmocka_unit_test(rendering_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
