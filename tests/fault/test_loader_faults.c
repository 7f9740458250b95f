/* The loader with the 1st, 2nd, 3rd ... allocation or system call failing, until none is left to
 * fail. Each time it either opens the very same model or says why not; nothing leaks. */
#include "tests/support/test.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "model/model.h"
#include "model/reader_plan.h"
#include "model/weights.h"
#include "tests/support/gguf_files.h"
#include "tests/support/model_files.h"
#include "tests/support/model_stand.h"
#include "tests/support/packed_tensors.h"

enum fault_kind {
    FAULT_ALLOCATIONS,
    FAULT_CALLS,
    FAULT_SHORT_READS, /* one byte instead of what was asked for */
    FAULT_EMPTY_READS, /* the end of the file */
    FAULT_INTERRUPTED_READS,
};

static struct {
    atomic_bool armed;
    enum fault_kind kind;
    unsigned victim; /* 1: the first */
    atomic_uint seen;
    atomic_int live_allocations;
    bool no_ring;
    atomic_bool disk_error; /* the same read fails again when it is repeated */
} faults;

/* Whether this point, which belongs to the kind, is the one to fail. */
static bool strikes(enum fault_kind kind)
{
    if (!atomic_load(&faults.armed) || faults.kind != kind)
        return false;
    return atomic_fetch_add(&faults.seen, 1) + 1 == faults.victim;
}

static bool call_fails(int err)
{
    if (!strikes(FAULT_CALLS))
        return false;
    errno = err;
    return true;
}

static void *count_allocation(void *memory)
{
    if (memory && atomic_load(&faults.armed))
        atomic_fetch_add(&faults.live_allocations, 1);
    return memory;
}

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *memory);
void __wrap_free(void *memory);
__attribute__((format(printf, 2, 3))) int __wrap_asprintf(char **ret_text, const char *format, ...);
char *__real_realpath(const char *path, char *resolved);
char *__wrap_realpath(const char *path, char *resolved);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __real_lstat(const char *path, struct stat *status);
int __wrap_lstat(const char *path, struct stat *status);
int __real_fstat(int fd, struct stat *status);
int __wrap_lstat(const char *path, struct stat *status)
{
    return call_fails(EACCES) ? -1 : __real_lstat(path, status);
}

int __wrap_fstat(int fd, struct stat *status);
int __real_fstatfs(int fd, struct statfs *status);
int __wrap_fstatfs(int fd, struct statfs *status);
int __real_statx(int fd, const char *path, int flags, unsigned mask, struct statx *status);
int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *status);
FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
ssize_t __real_read(int fd, void *buffer, size_t bytes);
ssize_t __wrap_read(int fd, void *buffer, size_t bytes);
ssize_t __real_pread(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __real_preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags);
ssize_t __wrap_preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*function)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*function)(void *), void *argument);
int __real_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned count);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned count);
int __real_reader_settle(struct reader_block *block, int64_t result,
                         struct reader_fault *ret_fault);
int __wrap_reader_settle(struct reader_block *block, int64_t result,
                         struct reader_fault *ret_fault);

void *__wrap_malloc(size_t bytes)
{
    return strikes(FAULT_ALLOCATIONS) ? NULL : count_allocation(__real_malloc(bytes));
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return strikes(FAULT_ALLOCATIONS) ? NULL : count_allocation(__real_calloc(count, bytes));
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    if (strikes(FAULT_ALLOCATIONS))
        return NULL;
    void *larger = __real_realloc(memory, bytes);
    return memory ? larger : count_allocation(larger);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return strikes(FAULT_ALLOCATIONS) ? NULL
                                      : count_allocation(__real_aligned_alloc(alignment, bytes));
}

void __wrap_free(void *memory)
{
    if (memory && atomic_load(&faults.armed))
        atomic_fetch_sub(&faults.live_allocations, 1);
    __real_free(memory);
}

int __wrap_asprintf(char **ret_text, const char *format, ...)
{
    if (strikes(FAULT_ALLOCATIONS))
        return -1;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(ret_text, format, arguments);
    va_end(arguments);
    count_allocation(length < 0 ? NULL : *ret_text);
    return length;
}

char *__wrap_realpath(const char *path, char *resolved)
{
    return call_fails(EACCES) ? NULL : count_allocation(__real_realpath(path, resolved));
}

int __wrap_open(const char *path, int flags, ...)
{
    return call_fails(EMFILE) ? -1 : __real_open(path, flags);
}

int __wrap_access(const char *path, int mode)
{
    return call_fails(EACCES) ? -1 : __real_access(path, mode);
}

int __wrap_fstat(int fd, struct stat *status)
{
    return call_fails(EIO) ? -1 : __real_fstat(fd, status);
}

int __wrap_fstatfs(int fd, struct statfs *status)
{
    return call_fails(ENOSYS) ? -1 : __real_fstatfs(fd, status);
}

int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *status)
{
    return call_fails(ENOSYS) ? -1 : __real_statx(fd, path, flags, mask, status);
}

FILE *__wrap_fopen(const char *path, const char *mode)
{
    return call_fails(EMFILE) ? NULL : __real_fopen(path, mode);
}

/* A read's fate: -1 with errno, 0, fewer bytes, or `*bytes` as they were. */
static bool bend_read(size_t *bytes, ssize_t *ret_result)
{
    *ret_result = -1;
    if (call_fails(EIO))
        return true;
    if (strikes(FAULT_INTERRUPTED_READS)) {
        errno = EINTR;
        return true;
    }
    *ret_result = 0;
    if (strikes(FAULT_EMPTY_READS))
        return true;
    if (strikes(FAULT_SHORT_READS) && *bytes > 1)
        *bytes = 1;
    return false;
}

ssize_t __wrap_read(int fd, void *buffer, size_t bytes)
{
    ssize_t result;
    return bend_read(&bytes, &result) ? result : __real_read(fd, buffer, bytes);
}

ssize_t __wrap_pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    ssize_t result;
    return bend_read(&bytes, &result) ? result : __real_pread(fd, buffer, bytes, offset);
}

ssize_t __wrap_preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags)
{
    return call_fails(EOPNOTSUPP) ? -1 : __real_preadv2(fd, vectors, count, offset, flags);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*function)(void *), void *argument)
{
    return strikes(FAULT_CALLS) ? EAGAIN
                                : __real_pthread_create(thread, attributes, function, argument);
}

int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    if (faults.no_ring)
        return -EPERM;
    return strikes(FAULT_CALLS) ? -EPERM : __real_io_uring_queue_init(entries, ring, flags);
}

int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned count)
{
    if (strikes(FAULT_CALLS))
        return -EBADR;
    return strikes(FAULT_INTERRUPTED_READS) ? -EINTR : __real_io_uring_submit_and_wait(ring, count);
}

/* What the ring brings is bent here; what pread() brings was bent above. */
int __wrap_reader_settle(struct reader_block *block, int64_t result, struct reader_fault *ret_fault)
{
    if (!faults.no_ring && atomic_load(&faults.armed)) {
        if (strikes(FAULT_CALLS) || atomic_load(&faults.disk_error)) {
            result = -EIO;
            atomic_store(&faults.disk_error, true);
        } else if (strikes(FAULT_INTERRUPTED_READS)) {
            result = -EINTR;
        } else if (strikes(FAULT_EMPTY_READS)) {
            result = 0;
        } else if (strikes(FAULT_SHORT_READS) && result > 1) {
            result = 1;
        }
    }
    return __real_reader_settle(block, result, ret_fault);
}

struct fixture {
    struct model_stand stand;
    char path[4200]; /* of the model: the folder, or a file in it */
    void (*check)(const struct model *model);
    unsigned small_files;     /* each ends with an empty read that is no failure */
    unsigned allocations_min; /* points of each kind, at least */
    unsigned reads_min;
};

static void check_bytes(const struct tensor *tensor, const char *name)
{
    const unsigned char *bytes = tensor->data;
    for (uint64_t i = 0; i < tensor_bytes(tensor); i++)
        if (bytes[i] != test_tensor_byte(name, i))
            fail_msg("%s differs at %llu", name, (unsigned long long)i);
}

/* A fault on the way may cost speed, but nothing of the model. */
static void check_model(const struct model *model)
{
    assert_int_equal(model->config.vocab_size, 100);
    assert_int_equal(model->config.eos_count, 3);
    check_bytes(&model->embedding, "model.embed_tokens.weight");
    check_bytes(&model->final_norm, "model.norm.weight");
    check_bytes(&model->head, "lm_head.weight");
    check_bytes(&model->layers[0].v, "model.layers.0.self_attn.v_proj.weight");
    check_bytes(&model->layers[0].down, "model.layers.0.mlp.down_proj.weight");
}

static void check_gguf(const struct model *model)
{
    assert_int_equal(model->config.vocab_size, TEST_MODEL_VOCAB);
    assert_true(model->rotary_frequencies[0] == 1);
    assert_true(model->rotary_frequencies[7] < 1e-4F); /* a third of a thousandth, over 8 */
    check_bytes(&model->embedding, "token_embd.weight");
    check_bytes(&model->final_norm, "output_norm.weight");
    check_bytes(&model->head, "output.weight");
    check_bytes(&model->layers[0].v, "blk.0.attn_v.weight");
    check_bytes(&model->layers[0].down, "blk.0.ffn_down.weight");
}

static void write_text(const char *folder, const char *name, const char *text)
{
    test_write_file(folder, name, text, strlen(text));
}

static int set_up(void **state)
{
    static struct fixture fixture;
    model_stand_open(&fixture.stand, 1);
    test_write_model(fixture.stand.folder, &(struct test_model){.architecture = "LlamaForCausalLM",
                                                                .type = "F16",
                                                                .layers = 1,
                                                                .shards = 2,
                                                                .remainder = 0});
    write_text(fixture.stand.folder, "generation_config.json", "{\"eos_token_id\": 9}");
    write_text(fixture.stand.folder, "tokenizer.model", "YQ== 0\nYg== 1\n");
    write_text(fixture.stand.folder, "tokenizer_config.json",
               "{\"added_tokens_decoder\": {\"99\": {}}}");
    snprintf(fixture.path, sizeof fixture.path, "%s", fixture.stand.folder);
    fixture.check = check_model;
    fixture.small_files = 5;
    fixture.allocations_min = 100;
    fixture.reads_min = 10;
    *state = &fixture;
    return 0;
}

/* A GGUF file in two parts, the second with factors for the frequencies. */
static int set_up_gguf(void **state)
{
    static const float factors[TEST_MODEL_HEAD_DIM / 2] = {1, 1, 2, 2, 4, 4, 8, 8};
    static struct fixture fixture = {
        .check = check_gguf, .small_files = 0, .allocations_min = 15, .reads_min = 3};
    model_stand_open(&fixture.stand, 1);
    for (uint32_t i = 0; i < 2; i++) {
        struct test_gguf file;
        char name[32];
        test_gguf_init(&file);
        test_gguf_u32(&file, "split.no", i);
        test_gguf_u32(&file, "split.count", 2);
        test_gguf_u32(&file, "split.tensors.count", 13);
        if (i == 0) {
            test_gguf_model_values(&file, "llama");
            test_gguf_model_tensors(&file, "llama", GGUF_F16, 0);
        } else {
            test_gguf_tensor_of(&file, "rope_freqs.weight", GGUF_F32, 0, TEST_MODEL_HEAD_DIM / 2,
                                factors, sizeof factors);
        }
        snprintf(name, sizeof name, "m-%05u-of-00002.gguf", i + 1);
        test_gguf_write(&file, fixture.stand.folder, name);
        test_gguf_fini(&file);
    }
    snprintf(fixture.path, sizeof fixture.path, "%s/m-00001-of-00002.gguf", fixture.stand.folder);
    *state = &fixture;
    return 0;
}

/* A fault on the way may cost speed, but nothing of what is packed. */
static void check_packed(const struct model *model)
{
    enum { Q = TEST_MODEL_HEADS * TEST_MODEL_HEAD_DIM, FFN = TEST_MODEL_FFN };
    const struct model_layer *layer = &model->layers[0];
    test_check_packed(&model->embedding, TENSOR_Q8, "token_embd.weight", GGUF_Q5_0, 0);
    test_check_packed(&model->head, TENSOR_Q8, "output.weight", GGUF_Q5_0, 0);
    test_check_packed(&layer->q, TENSOR_Q8, "blk.0.attn_qkv.weight", GGUF_Q5_0, 0);
    test_check_packed(&layer->k, TENSOR_Q8, "blk.0.attn_qkv.weight", GGUF_Q5_0, Q);
    test_check_packed(&layer->up, TENSOR_Q8, "blk.0.ffn_up.weight", GGUF_Q5_0, FFN);
    test_check_packed(&layer->down, TENSOR_Q8, "blk.0.ffn_down.weight", GGUF_Q5_0, 0);
}

/* A GGUF file of a quantised type, which is packed while it is read, in several windows. */
static int set_up_packed(void **state)
{
    static struct fixture fixture = {
        .check = check_packed, .small_files = 0, .allocations_min = 20, .reads_min = 4};
    struct test_gguf file;
    model_stand_open(&fixture.stand, 2);
    test_gguf_init(&file);
    test_gguf_model_values(&file, "glm4");
    test_gguf_model_tensors(&file, "glm4", GGUF_Q5_0, 1);
    test_gguf_write(&file, fixture.stand.folder, "m.gguf");
    test_gguf_fini(&file);
    snprintf(fixture.path, sizeof fixture.path, "%s/m.gguf", fixture.stand.folder);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    model_stand_close(&fixture->stand);
    return 0;
}

/* One opening with the victim-th point failing. Returns what model_open() did; *ret_struck: there
 * was such a point. */
static int open_once(const struct fixture *fixture, unsigned victim, bool direct_io,
                     bool *ret_struck)
{
    struct model *model = NULL;
    struct failure failure = {""};
    int descriptors = test_open_descriptors();
    faults.victim = victim;
    atomic_store(&faults.seen, 0);
    atomic_store(&faults.live_allocations, 0);
    atomic_store(&faults.disk_error, false);
    atomic_store(&faults.armed, true);
    int err = model_open(&model, "tiny", fixture->path, fixture->stand.backend,
                         &(struct model_options){.direct_io = direct_io}, &failure);
    if (err == 0) {
        atomic_store(&faults.disk_error, false);
        fixture->check(model);
        /* The next model gets this memory: what it does not write is to show. */
        memset(model->weights->memory, 0xA5, model->weights->memory_bytes);
    } else {
        if (err > 0 || model || strlen(failure.text) < 10)
            fail_msg("point %u: %d, \"%s\"", victim, err, failure.text);
    }
    model_close(model, fixture->stand.backend);
    atomic_store(&faults.armed, false);
    assert_int_equal(test_open_descriptors(), descriptors);
    if (atomic_load(&faults.live_allocations) != 0)
        fail_msg("point %u: %d allocations leak after %d", victim,
                 atomic_load(&faults.live_allocations), err);
    *ret_struck = atomic_load(&faults.seen) >= victim;
    return err;
}

struct outcome {
    unsigned struck;
    unsigned failed;
    int last_err;
};

/* Fails every point of the kind in turn. */
static struct outcome fail_each(const struct fixture *fixture, enum fault_kind kind, bool direct_io,
                                bool no_ring)
{
    struct outcome outcome = {0};
    faults.kind = kind;
    faults.no_ring = no_ring;
    for (unsigned victim = 1;; victim++) {
        bool struck;
        int err = open_once(fixture, victim, direct_io, &struck);
        if (!struck) {
            assert_int_equal(err, 0);
            return outcome;
        }
        outcome.struck++;
        outcome.failed += err < 0;
        if (err < 0)
            outcome.last_err = err;
        assert_true(victim < 100000);
    }
}

static void every_allocation_that_fails_is_told_and_leaks_nothing(void **state)
{
    const struct fixture *fixture = *state;
    for (int no_ring = 0; no_ring <= 1; no_ring++) {
        struct outcome outcome = fail_each(*state, FAULT_ALLOCATIONS, true, no_ring);
        assert_true(outcome.struck > fixture->allocations_min);
        assert_int_equal(outcome.failed, outcome.struck);
        assert_int_equal(outcome.last_err, -ENOMEM);
    }
}

static void every_system_call_that_fails_is_told_or_made_up_for(void **state)
{
    const struct fixture *fixture = *state;
    for (int way = 0; way < 4; way++) {
        struct outcome outcome = fail_each(*state, FAULT_CALLS, way & 1, way & 2);
        assert_true(outcome.struck > fixture->reads_min + 4);
        assert_true(outcome.failed > fixture->reads_min / 2 && outcome.failed < outcome.struck);
    }
}

static void short_reads_and_interrupted_ones_change_nothing(void **state)
{
    const struct fixture *fixture = *state;
    for (int way = 0; way < 4; way++) {
        struct outcome outcome = fail_each(*state, FAULT_SHORT_READS, way & 1, way & 2);
        assert_true(outcome.struck > fixture->reads_min);
        assert_int_equal(outcome.failed, 0);
        outcome = fail_each(*state, FAULT_INTERRUPTED_READS, way & 1, way & 2);
        assert_true(outcome.struck > fixture->reads_min);
        assert_int_equal(outcome.failed, 0);
    }
}

static void files_that_end_early_are_always_noticed(void **state)
{
    const struct fixture *fixture = *state;
    for (int way = 0; way < 4; way++) {
        struct outcome outcome = fail_each(*state, FAULT_EMPTY_READS, way & 1, way & 2);
        assert_true(outcome.struck > fixture->reads_min / 2);
        /* The last read of each small file asks whether it has grown: it is empty by right. */
        assert_int_equal(outcome.failed + fixture->small_files, outcome.struck);
    }
}

int main(void)
{
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = __wrap_malloc, .free_fn = __wrap_free});
#define WITH_MODEL(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define WITH_GGUF(test)                                    \
    {                                                      \
        "gguf: " #test, test, set_up_gguf, tear_down, NULL \
    }
#define WITH_PACKED(test)                                      \
    {                                                          \
        "packed: " #test, test, set_up_packed, tear_down, NULL \
    }
    const struct CMUnitTest tests[] = {
        WITH_MODEL(every_allocation_that_fails_is_told_and_leaks_nothing),
        WITH_MODEL(every_system_call_that_fails_is_told_or_made_up_for),
        WITH_MODEL(short_reads_and_interrupted_ones_change_nothing),
        WITH_MODEL(files_that_end_early_are_always_noticed),
        WITH_GGUF(every_allocation_that_fails_is_told_and_leaks_nothing),
        WITH_GGUF(every_system_call_that_fails_is_told_or_made_up_for),
        WITH_GGUF(short_reads_and_interrupted_ones_change_nothing),
        WITH_GGUF(files_that_end_early_are_always_noticed),
        WITH_PACKED(every_allocation_that_fails_is_told_and_leaks_nothing),
        WITH_PACKED(every_system_call_that_fails_is_told_or_made_up_for),
        WITH_PACKED(short_reads_and_interrupted_ones_change_nothing),
        WITH_PACKED(files_that_end_early_are_always_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
