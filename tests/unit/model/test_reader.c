/* All ways of reading, over the same extents, with the results of reads bent on their way to
 * reader_settle(). */
#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/reader_plan.h"

enum {
    FILE_BYTES = (3 << 20) + 1234, /* no whole number of pages */
    OTHER_BYTES = 5000,
    BLOCK_BYTES = 64 << 10,
    PAGE = READER_PAGE_BYTES,
};

static unsigned char byte_of(uint32_t file_index, uint64_t offset)
{
    uint64_t x = (offset / 8 + 1) * 0x9E3779B97F4A7C15u + file_index * 977u;
    return (unsigned char)((x ^ x >> 31) >> (offset % 8 * 7));
}

struct fixture {
    char folder[4096];
    struct reader_file files[2];
    unsigned char *memory; /* [MEMORY_BYTES], pages */
};

enum { MEMORY_BYTES = 4 << 20 };

static int write_file(const char *folder, const char *name, uint32_t index, size_t bytes)
{
    char path[4200];
    unsigned char *content = malloc(bytes);
    assert_non_null(content);
    for (size_t i = 0; i < bytes; i++)
        content[i] = byte_of(index, i);
    test_write_file(folder, name, content, bytes);
    free(content);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int set_up(void **state)
{
    static struct fixture fixture;
    test_folder(fixture.folder);
    fixture.files[0] =
        (struct reader_file){write_file(fixture.folder, "a", 0, FILE_BYTES), FILE_BYTES};
    fixture.files[1] =
        (struct reader_file){write_file(fixture.folder, "b", 1, OTHER_BYTES), OTHER_BYTES};
    fixture.memory = aligned_alloc(PAGE, MEMORY_BYTES);
    assert_non_null(fixture.memory);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    close(fixture->files[0].fd);
    close(fixture->files[1].fd);
    free(fixture->memory);
    test_remove_folder(fixture->folder);
    return 0;
}

/* What the next results are turned into; the real ones pass when the count is 0. */
static struct {
    unsigned count; /* results still to be bent */
    int64_t result; /* instead of the real one; 1 and more: at most so many bytes */
    bool direct_only;
    unsigned bent;
} bend;

int __real_reader_settle(struct reader_block *block, int64_t result,
                         struct reader_fault *ret_fault);
int __wrap_reader_settle(struct reader_block *block, int64_t result,
                         struct reader_fault *ret_fault);

int __wrap_reader_settle(struct reader_block *block, int64_t result, struct reader_fault *ret_fault)
{
    if (__atomic_load_n(&bend.count, __ATOMIC_RELAXED) > 0 &&
        (block->direct || !bend.direct_only)) {
        __atomic_fetch_sub(&bend.count, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&bend.bent, 1, __ATOMIC_RELAXED);
        if (bend.result < 1 || result > bend.result)
            result = bend.result;
    }
    return __real_reader_settle(block, result, ret_fault);
}

/* How many submissions go well before the others fail with `result`; result 0: all. */
static struct {
    unsigned before;
    unsigned failures; /* after so many, all goes well again */
    int result;
} breakage;

/* Instead: so many failures with -EINTR before every submission that goes well. */
static struct {
    unsigned each;
    unsigned calls;
} interruptions;

int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned count);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned count);

int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned count)
{
    if (interruptions.each > 0 &&
        interruptions.calls++ % (interruptions.each + 1) < interruptions.each)
        return -EINTR;
    if (breakage.result < 0 && breakage.before > 0) {
        breakage.before--;
    } else if (breakage.result < 0 && breakage.failures > 0) {
        breakage.failures--;
        return breakage.result;
    }
    return __real_io_uring_submit_and_wait(ring, count);
}

/* Four pieces, out of order: two that merge, one to the very end of the file, one loose. */
static size_t make_extents(const struct fixture *fixture, struct reader_extent *extents)
{
    unsigned char *memory = fixture->memory;
    size_t count = 0;
    extents[count++] = (struct reader_extent){
        0, FILE_BYTES - 300000, 300000, memory + (2 << 20) + (FILE_BYTES - 300000) % PAGE, true};
    extents[count++] =
        (struct reader_extent){1, 17, OTHER_BYTES - 17, memory + (3 << 20) + 1, false};
    extents[count++] =
        (struct reader_extent){0, 5000 + 700000, 500000, memory + 5000 % PAGE + 700000, true};
    extents[count++] = (struct reader_extent){0, 5000, 700000, memory + 5000 % PAGE, true};
    extents[count++] = (struct reader_extent){1, 0, 0, NULL, true};
    return count;
}

static void check_memory(const struct fixture *fixture)
{
    struct reader_extent extents[8];
    size_t count = make_extents(fixture, extents);
    for (size_t i = 0; i < count; i++)
        for (uint64_t n = 0; n < extents[i].bytes; n++)
            if (((unsigned char *)extents[i].destination)[n] !=
                byte_of(extents[i].file_index, extents[i].offset + n))
                fail_msg("extent %zu differs at %llu", i, (unsigned long long)n);
}

static int read_with(const struct fixture *fixture, const struct reader_options *options,
                     struct reader_stats *stats, struct reader_fault *fault)
{
    struct reader_extent extents[8];
    size_t count = make_extents(fixture, extents);
    int descriptors = test_open_descriptors();
    memset(fixture->memory, 0xA5, MEMORY_BYTES);
    int err = reader_read(fixture->files, 2, extents, count, options, stats, fault);
    assert_int_equal(test_open_descriptors(), descriptors);
    return err;
}

static const struct reader_options EVERY_WAY[] = {
    {.path = READER_RING, .cache = READER_DIRECT, .block_bytes = BLOCK_BYTES},
    {.path = READER_RING, .cache = READER_CACHED, .block_bytes = BLOCK_BYTES, .depth = 3},
    {.path = READER_RING, .cache = READER_PROBE},
    {.path = READER_AUTO, .cache = READER_PROBE, .block_bytes = 4097, .depth = 1},
    {.path = READER_THREADS, .cache = READER_DIRECT, .block_bytes = BLOCK_BYTES},
    {.path = READER_THREADS, .cache = READER_CACHED, .block_bytes = BLOCK_BYTES},
    {.path = READER_SERIAL, .cache = READER_DIRECT, .block_bytes = BLOCK_BYTES},
    {.path = READER_SERIAL, .cache = READER_PROBE},
};

enum { WAYS = sizeof EVERY_WAY / sizeof EVERY_WAY[0] };

/* Whether a ring may be had on this machine. */
static bool skip_way(const struct fixture *fixture, size_t way)
{
    struct reader_stats stats;
    struct reader_fault fault;
    static const struct reader_options ring = {.path = READER_RING};
    if (EVERY_WAY[way].path != READER_RING || read_with(fixture, &ring, &stats, &fault) != -ENOSYS)
        return false;
    fprintf(stderr, "*** SKIPPED: io_uring may not be used here\n");
    return true;
}

static void every_way_brings_the_same_bytes(void **state)
{
    const struct fixture *fixture = *state;
    for (size_t i = 0; i < WAYS; i++) {
        struct reader_stats stats;
        struct reader_fault fault;
        if (skip_way(fixture, i))
            continue;
        assert_int_equal(read_with(fixture, &EVERY_WAY[i], &stats, &fault), 0);
        check_memory(fixture);
        assert_string_equal(stats.path, EVERY_WAY[i].path == READER_SERIAL    ? "serial"
                                        : EVERY_WAY[i].path == READER_THREADS ? "threads"
                                                                              : "io_uring");
        assert_true(stats.bytes >= 1500000 + OTHER_BYTES - 17);
        assert_true(stats.bytes < 1500000 + OTHER_BYTES + 3 * PAGE);
        assert_int_equal(stats.retries, 0);
        if (EVERY_WAY[i].cache == READER_CACHED)
            assert_int_equal(stats.direct_bytes, 0);
        if (EVERY_WAY[i].block_bytes == BLOCK_BYTES)
            assert_in_range(stats.requests, 1500000 / BLOCK_BYTES, 1500000 / BLOCK_BYTES + 5);
    }
}

static void nothing_is_written_outside_the_pages_of_an_extent(void **state)
{
    const struct fixture *fixture = *state;
    for (size_t i = 0; i < WAYS; i++) {
        struct reader_stats stats;
        struct reader_fault fault;
        if (skip_way(fixture, i))
            continue;
        assert_int_equal(read_with(fixture, &EVERY_WAY[i], &stats, &fault), 0);
        size_t first_end = (5000 % PAGE + 1200000 + PAGE - 1) / PAGE * PAGE;
        for (size_t at = first_end; at < 2 << 20; at++)
            assert_int_equal(fixture->memory[at], 0xA5);
        assert_int_equal(fixture->memory[3 << 20], 0xA5);
        for (size_t at = (3 << 20) + 1 + OTHER_BYTES - 17; at < MEMORY_BYTES; at++)
            assert_int_equal(fixture->memory[at], 0xA5);
    }
}

static void what_is_in_the_page_cache_is_read_from_there(void **state)
{
    const struct fixture *fixture = *state;
    struct reader_stats stats;
    struct reader_fault fault;
    static const struct reader_options probe = {.path = READER_SERIAL, .cache = READER_PROBE};
    static const struct reader_options direct = {.path = READER_SERIAL, .cache = READER_DIRECT};
    assert_int_equal(read_with(fixture, &direct, &stats, &fault), 0);
    if (stats.direct_bytes == 0) {
        fprintf(stderr, "*** SKIPPED: this file system has no direct reads\n");
        skip();
    }
    assert_true(stats.direct_bytes >= 1500000 && stats.direct_bytes <= stats.bytes);
    assert_int_equal(fsync(fixture->files[0].fd), 0);
    assert_int_equal(posix_fadvise(fixture->files[0].fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(read_with(fixture, &probe, &stats, &fault), 0);
    assert_true(stats.direct_bytes >= 1500000);
    assert_int_equal(posix_fadvise(fixture->files[0].fd, 0, 0, POSIX_FADV_NORMAL), 0);
    unsigned char buffer[PAGE];
    for (uint64_t at = 0; at < FILE_BYTES; at += PAGE)
        assert_true(pread(fixture->files[0].fd, buffer, PAGE, (off_t)at) > 0);
    assert_int_equal(read_with(fixture, &probe, &stats, &fault), 0);
    assert_int_equal(stats.direct_bytes, 0);
    check_memory(fixture);
}

static void short_reads_go_on_where_they_ended(void **state)
{
    const struct fixture *fixture = *state;
    static const int64_t lengths[] = {1, 511, PAGE, 5000};
    for (size_t i = 0; i < WAYS; i++)
        for (size_t j = 0; j < 4; j++) {
            struct reader_stats stats;
            struct reader_fault fault;
            if (skip_way(fixture, i))
                break;
            bend.count = 9;
            bend.result = lengths[j];
            int err = read_with(fixture, &EVERY_WAY[i], &stats, &fault);
            bend.count = 0;
            assert_int_equal(err, 0);
            assert_true(stats.retries > 0);
            check_memory(fixture);
        }
}

static void reads_that_the_kernel_put_off_are_repeated(void **state)
{
    const struct fixture *fixture = *state;
    static const int64_t errors[] = {-EINTR, -EAGAIN, -EIO};
    for (size_t i = 0; i < WAYS; i++)
        for (size_t j = 0; j < 3; j++) {
            struct reader_stats stats;
            struct reader_fault fault;
            if (skip_way(fixture, i))
                break;
            bend.count = errors[j] == -EIO ? 1 : 20;
            bend.result = errors[j];
            int err = read_with(fixture, &EVERY_WAY[i], &stats, &fault);
            bend.count = 0;
            assert_int_equal(err, 0);
            check_memory(fixture);
        }
}

static void direct_reads_that_are_refused_go_through_the_page_cache(void **state)
{
    const struct fixture *fixture = *state;
    static const int64_t errors[] = {-EINVAL, -EOPNOTSUPP};
    for (size_t i = 0; i < WAYS; i++)
        for (size_t j = 0; j < 2; j++) {
            struct reader_stats stats;
            struct reader_fault fault;
            if (EVERY_WAY[i].cache != READER_DIRECT || skip_way(fixture, i))
                continue;
            bend = (typeof(bend)){.count = 1000, .result = errors[j], .direct_only = true};
            int err = read_with(fixture, &EVERY_WAY[i], &stats, &fault);
            unsigned bent = bend.bent;
            memset(&bend, 0, sizeof bend);
            assert_int_equal(err, 0);
            assert_int_equal(stats.retries, bent);
            check_memory(fixture);
        }
}

static void a_read_that_fails_twice_is_named_by_file_and_offset(void **state)
{
    const struct fixture *fixture = *state;
    static const int64_t errors[] = {-EIO, -EFAULT, -EBADF};
    for (size_t i = 0; i < WAYS; i++)
        for (size_t j = 0; j < 3; j++) {
            struct reader_stats stats;
            struct reader_fault fault = {77, 77, true};
            if (skip_way(fixture, i))
                break;
            bend.count = 100000;
            bend.result = errors[j];
            int err = read_with(fixture, &EVERY_WAY[i], &stats, &fault);
            bend.count = 0;
            assert_int_equal(err, errors[j]);
            assert_true(fault.file_index < 2 && !fault.shrank);
            assert_true(fault.offset < FILE_BYTES);
        }
}

static void a_file_that_shrinks_is_noticed_not_waited_for(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(ftruncate(fixture->files[0].fd, 1000000), 0);
    for (size_t i = 0; i < WAYS; i++) {
        struct reader_stats stats;
        struct reader_fault fault = {0};
        if (skip_way(fixture, i))
            continue;
        assert_int_equal(read_with(fixture, &EVERY_WAY[i], &stats, &fault), -ESTALE);
        assert_int_equal(fault.file_index, 0);
        assert_true(fault.shrank);
        assert_in_range(fault.offset, 1000000, FILE_BYTES);
    }
}

struct watch {
    uint64_t last;
    uint64_t total;
    unsigned calls;
    atomic_bool cancel;
    bool cancel_soon;
};

static void watch_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    struct watch *watch = context;
    assert_true(done_bytes >= watch->last && done_bytes <= total_bytes);
    watch->last = done_bytes;
    watch->total = total_bytes;
    watch->calls++;
    if (watch->cancel_soon)
        atomic_store(&watch->cancel, true);
}

static void progress_grows_to_the_total(void **state)
{
    const struct fixture *fixture = *state;
    for (size_t i = 0; i < WAYS; i++) {
        struct watch watch = {0};
        struct reader_options options = EVERY_WAY[i];
        struct reader_stats stats;
        struct reader_fault fault;
        if (skip_way(fixture, i))
            continue;
        options.progress = watch_progress;
        options.progress_context = &watch;
        assert_int_equal(read_with(fixture, &options, &stats, &fault), 0);
        assert_true(watch.calls > 0);
        assert_int_equal(watch.last, watch.total);
        assert_int_equal(watch.last, stats.bytes);
    }
}

/* What is still in flight after a return would land in the memory that is watched here. */
static void check_silence(const struct fixture *fixture)
{
    memset(fixture->memory, 0x5A, MEMORY_BYTES);
    usleep(20000);
    for (size_t at = 0; at < MEMORY_BYTES; at++)
        if (fixture->memory[at] != 0x5A)
            fail_msg("written after the return at %zu", at);
}

static void a_cancel_ends_the_reading_with_nothing_in_flight(void **state)
{
    const struct fixture *fixture = *state;
    for (size_t i = 0; i < WAYS; i++) {
        struct watch watch = {.cancel_soon = true};
        struct reader_options options = EVERY_WAY[i];
        struct reader_stats stats;
        struct reader_fault fault;
        if (skip_way(fixture, i))
            continue;
        options.block_bytes = PAGE;
        options.depth = 4;
        options.progress = watch_progress;
        options.progress_context = &watch;
        options.cancel = &watch.cancel;
        /* Other threads may be done before the calling one reports for the first time. */
        atomic_store(&watch.cancel, options.path == READER_THREADS);
        assert_int_equal(read_with(fixture, &options, &stats, &fault), -ECANCELED);
        check_silence(fixture);
    }
}

enum { LATE_BYTES = 16 };

static void *write_late(void *pipe_end)
{
    usleep(100000);
    static const char bytes[LATE_BYTES] = "these are late.";
    return write(*(int *)pipe_end, bytes, LATE_BYTES) == LATE_BYTES ? pipe_end : NULL;
}

/* A pipe stands for a disk that takes its time. */
static void a_cancel_waits_for_the_read_that_is_still_to_land(void **state)
{
    const struct fixture *fixture = *state;
    if (skip_way(fixture, 0))
        skip();
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const struct reader_file files[] = {fixture->files[0], {.fd = ends[0], .bytes = LATE_BYTES}};
    struct reader_extent extents[] = {
        {.file_index = 0, .bytes = PAGE, .destination = fixture->memory},
        {.file_index = 1, .bytes = LATE_BYTES, .destination = fixture->memory + PAGE},
    };
    struct watch watch = {.cancel_soon = true};
    struct reader_options options = {.path = READER_RING,
                                     .cache = READER_CACHED,
                                     .progress = watch_progress,
                                     .progress_context = &watch,
                                     .cancel = &watch.cancel};
    struct reader_stats stats;
    struct reader_fault fault;
    memset(fixture->memory, 0, 2 * PAGE);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_late, &ends[1]), 0);
    int err = reader_read(files, 2, extents, 2, &options, &stats, &fault);
    assert_string_equal((char *)fixture->memory + PAGE, "these are late.");
    void *written;
    assert_int_equal(pthread_join(writer, &written), 0);
    assert_non_null(written);
    assert_int_equal(err, -ECANCELED);
    close(ends[0]);
    close(ends[1]);
}

static void a_ring_that_breaks_is_drained_before_the_return(void **state)
{
    const struct fixture *fixture = *state;
    static const struct reader_options options = {
        .path = READER_RING, .cache = READER_DIRECT, .block_bytes = PAGE, .depth = 16};
    struct reader_stats stats;
    struct reader_fault fault;
    if (skip_way(fixture, 0))
        skip();
    for (unsigned before = 0; before < 8; before++) {
        breakage = (typeof(breakage)){before, UINT32_MAX, -EBADR};
        int err = read_with(fixture, &options, &stats, &fault);
        breakage.result = 0;
        assert_int_equal(err, -EBADR);
        check_silence(fixture);
        breakage = (typeof(breakage)){before, 5, -EAGAIN};
        err = read_with(fixture, &options, &stats, &fault);
        breakage.result = 0;
        assert_int_equal(err, 0);
        check_memory(fixture);
    }
    breakage = (typeof(breakage)){3, UINT32_MAX, -EBUSY};
    assert_int_equal(read_with(fixture, &options, &stats, &fault), -EBUSY);
    breakage.result = 0;
    check_silence(fixture);
}

static void interruptions_between_reads_that_succeed_are_not_counted_together(void **state)
{
    const struct fixture *fixture = *state;
    static const struct reader_options options = {
        .path = READER_RING, .cache = READER_CACHED, .block_bytes = PAGE, .depth = 1};
    struct reader_stats stats;
    struct reader_fault fault;
    if (skip_way(fixture, 0))
        skip();
    interruptions = (typeof(interruptions)){.each = 10};
    int err = read_with(fixture, &options, &stats, &fault);
    interruptions.each = 0;
    assert_int_equal(err, 0);
    assert_true(interruptions.calls > 2000);
    check_memory(fixture);
}

static void nothing_to_read_is_no_error(void **state)
{
    const struct fixture *fixture = *state;
    struct reader_stats stats;
    struct reader_fault fault;
    struct reader_extent none = {0, 0, 0, NULL, false};
    static const struct reader_options options = {.path = READER_AUTO};
    assert_int_equal(reader_read(fixture->files, 2, &none, 1, &options, &stats, &fault), 0);
    assert_int_equal(reader_read(NULL, 0, NULL, 0, &options, &stats, &fault), 0);
    assert_int_equal(stats.bytes, 0);
}

int main(void)
{
#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_FILES(every_way_brings_the_same_bytes),
        WITH_FILES(nothing_is_written_outside_the_pages_of_an_extent),
        WITH_FILES(what_is_in_the_page_cache_is_read_from_there),
        WITH_FILES(short_reads_go_on_where_they_ended),
        WITH_FILES(reads_that_the_kernel_put_off_are_repeated),
        WITH_FILES(direct_reads_that_are_refused_go_through_the_page_cache),
        WITH_FILES(a_read_that_fails_twice_is_named_by_file_and_offset),
        WITH_FILES(a_file_that_shrinks_is_noticed_not_waited_for),
        WITH_FILES(progress_grows_to_the_total),
        WITH_FILES(a_cancel_ends_the_reading_with_nothing_in_flight),
        WITH_FILES(a_cancel_waits_for_the_read_that_is_still_to_land),
        WITH_FILES(a_ring_that_breaks_is_drained_before_the_return),
        WITH_FILES(interruptions_between_reads_that_succeed_are_not_counted_together),
        WITH_FILES(nothing_to_read_is_no_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
