#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/support/test.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum {
    BYTES = 3 * 4096,
    ALL_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL
};

static void the_maker_writes_and_the_peer_reads(void **state)
{
    int open_before = test_open_descriptors();
    struct region ours, theirs;
    const char *why = "unset";
    assert_int_equal(region_create(&ours, "test", BYTES), 0);
    assert_int_equal(ours.bytes, BYTES);
    for (size_t i = 0; i < BYTES; i++)
        assert_int_equal(ours.base[i], 0);
    int fd = dup(ours.fd);
    assert_int_equal(region_map_peer(&theirs, fd, BYTES, &why), 0);
    assert_null(why);
    assert_int_equal(theirs.fd, fd);
    ours.base[BYTES - 1] = 42;
    assert_int_equal(theirs.base[BYTES - 1], 42);
    region_close_fd(&theirs);
    region_close_fd(&theirs); /* nothing to do */
    assert_int_equal(theirs.fd, -1);
    assert_int_equal(test_open_descriptors(), open_before + 1);
    assert_int_equal(theirs.base[BYTES - 1], 42);
    region_fini(&ours);
    assert_int_equal(theirs.base[BYTES - 1], 42); /* the pages live on */
    region_fini(&theirs);
    region_fini(&theirs); /* nothing to do */
    assert_int_equal(test_open_descriptors(), open_before);
}

static void nobody_can_change_the_memory_behind_the_makers_back(void **state)
{
    struct region ours;
    char path[64];
    assert_int_equal(region_create(&ours, "test", BYTES), 0);
    int fd = ours.fd;
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(ftruncate(fd, 2 * BYTES), -1);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    assert_ptr_equal(mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    void *view = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(view, MAP_FAILED);
    assert_int_equal(mprotect(view, BYTES, PROT_READ | PROT_WRITE), -1);
    assert_int_equal(madvise(view, BYTES, MADV_REMOVE), -1);
    munmap(view, BYTES);

    /* Nor through a description of its own. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR);
    if (again >= 0) {
        assert_int_equal(ftruncate(again, 0), -1);
        assert_int_equal(pwrite(again, "x", 1, 0), -1);
        assert_ptr_equal(mmap(NULL, BYTES, PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
        close(again);
    }
    ours.base[0] = 1; /* the maker still can */
    region_fini(&ours);
}

static void assert_not_mapped(int fd, uint64_t bytes, const char *part)
{
    struct region region = {.base = (void *)1, .bytes = 2, .fd = 3};
    const char *why = NULL;
    assert_int_equal(region_map_peer(&region, fd, bytes, &why), -EPROTO);
    assert_non_null(why);
    if (!strstr(why, part))
        fail_msg("\"%s\" does not say \"%s\"", why, part);
    assert_int_equal(region.fd, 3);
    assert_int_not_equal(fcntl(fd, F_GETFD), -1); /* still the caller's */
}

static int memfd(unsigned flags, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | flags);
    if (fd < 0)
        return -1;
    assert_int_equal(fallocate(fd, 0, 0, BYTES), 0);
    if (seals)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void a_region_with_holes_is_refused_and_not_filled(void **state)
{
    struct stat status;
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    assert_int_equal(pwrite(fd, "x", 1, 4096), 1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, ALL_SEALS), 0);
    assert_not_mapped(fd, BYTES, "not all there");
    assert_int_equal(fstat(fd, &status), 0);
    assert_true(status.st_blocks * 512 < BYTES);
    close(fd);
}

static void pages_behind_the_end_are_refused(void **state)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    char bytes[BYTES] = "";
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, BYTES, 40 << 20), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, ALL_SEALS), 0);
    assert_not_mapped(fd, BYTES, "pages behind the end");
    close(fd);
    /* Nor do they stand for those that are missing before it. */
    fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, BYTES, BYTES), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, ALL_SEALS), 0);
    assert_not_mapped(fd, BYTES, "not all there");
    close(fd);
}

static void any_missing_seal_is_refused(void **state)
{
    static const int seals[] = {F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL};
    for (size_t i = 0; i < sizeof seals / sizeof seals[0]; i++) {
        int fd = memfd(MFD_ALLOW_SEALING, ALL_SEALS & ~seals[i]);
        assert_not_mapped(fd, BYTES, "not sealed");
        close(fd);
    }
    int fd = memfd(0, 0); /* cannot be sealed at all, and says so by F_SEAL_SEAL alone */
    assert_not_mapped(fd, BYTES, "not sealed");
    close(fd);
    fd = memfd(MFD_ALLOW_SEALING, ALL_SEALS);
    struct region region;
    const char *why;
    assert_int_equal(region_map_peer(&region, fd, BYTES, &why), 0);
    region_fini(&region);
}

static void another_size_is_refused(void **state)
{
    int fd = memfd(MFD_ALLOW_SEALING, ALL_SEALS);
    assert_not_mapped(fd, BYTES - 4096, "size");
    assert_not_mapped(fd, BYTES + 4096, "size");
    assert_not_mapped(fd, BYTES - 1, "size");
    assert_not_mapped(fd, 0, "size");
    assert_not_mapped(fd, UINT64_MAX, "size");
    close(fd);
}

static void what_is_no_memfd_is_refused(void **state)
{
    char folder[4096];
    char path[4200];
    int pipes[2];
    test_folder(folder);
    snprintf(path, sizeof path, "%s/file", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    /* A file on a tmpfs is as unsealed as one elsewhere, but says so in other words. */
    assert_not_mapped(fd, BYTES, "");
    close(fd);
    test_remove_folder(folder);
    assert_int_equal(pipe(pipes), 0);
    assert_not_mapped(pipes[0], BYTES, "not a memfd");
    close(pipes[0]);
    close(pipes[1]);
    fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    assert_not_mapped(fd, BYTES, "not a memfd");
    close(fd);
}

static void huge_pages_are_refused(void **state)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (fd < 0)
        return; /* not in this kernel: then nobody can send one either */
    if (ftruncate(fd, 2 << 20) == 0 && fcntl(fd, F_ADD_SEALS, ALL_SEALS) == 0)
        assert_not_mapped(fd, 2 << 20, "not on tmpfs");
    close(fd);
}

static void a_region_without_memory_is_an_error_and_leaves_nothing(void **state)
{
    int open_before = test_open_descriptors();
    struct region region = {.fd = 77};
    assert_true(region_create(&region, "test", 1ULL << 60) < 0);
    assert_true(region_create(&region, "test", 0) < 0);
    assert_int_equal(region.fd, 77);
    assert_int_equal(test_open_descriptors(), open_before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_maker_writes_and_the_peer_reads),
        cmocka_unit_test(nobody_can_change_the_memory_behind_the_makers_back),
        cmocka_unit_test(any_missing_seal_is_refused),
        cmocka_unit_test(a_region_with_holes_is_refused_and_not_filled),
        cmocka_unit_test(pages_behind_the_end_are_refused),
        cmocka_unit_test(another_size_is_refused),
        cmocka_unit_test(what_is_no_memfd_is_refused),
        cmocka_unit_test(huge_pages_are_refused),
        cmocka_unit_test(a_region_without_memory_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
