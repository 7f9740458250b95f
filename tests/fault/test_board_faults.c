/*
 * The board while the system refuses what it needs, or the object of its name becomes another one
 * between two looks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/board.h"
#include "tests/support/test.h"

/* ---- the faults ------------------------------------------------------------------------------ */

static const char *fault; /* this call fails ... */
static int fault_errno;   /* so ... */
static int calls_before;  /* after so many that do not */

static bool fails(const char *call)
{
    if (!fault || strcmp(fault, call) != 0 || calls_before-- > 0)
        return false;
    fault = NULL;
    errno = fault_errno;
    return true;
}

static void fail_call(const char *call, int before, int error)
{
    fault = call;
    fault_errno = error;
    calls_before = before;
}

/* The declarations come first, for -Wmissing-prototypes. */
#define WRAP(type, name, parameters, arguments, failure_value)           \
    type __real_##name parameters;                                       \
    type __wrap_##name parameters;                                       \
    type __wrap_##name parameters                                        \
    {                                                                    \
        return fails(#name) ? (failure_value) : __real_##name arguments; \
    }

WRAP(void *, calloc, (size_t count, size_t bytes), (count, bytes), NULL)
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), -1)
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode), -1)
WRAP(ssize_t, pwrite, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at),
     -1)
WRAP(int, shm_open, (const char *name, int flags, mode_t mode), (name, flags, mode), -1)

static bool is_mounted_over; /* every second look at an object is at another file system's */

int __real_fstat(int fd, struct stat *status);
int __wrap_fstat(int fd, struct stat *status);
int __wrap_fstat(int fd, struct stat *status)
{
    static unsigned looks;
    if (fails("fstat"))
        return -1;
    int err = __real_fstat(fd, status);
    if (is_mounted_over)
        status->st_dev += ++looks % 2;
    return err;
}

/* Of the commands those about locks alone. */
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    if (command == F_OFD_GETLK && fails("F_OFD_GETLK"))
        return -1;
    if (command == F_OFD_SETLK && fails("F_OFD_SETLK"))
        return -1;
    return __real_fcntl(fd, command, argument);
}

static unsigned made_anew; /* so many times yet somebody makes a removed object anew */

static void leave_object(const char *name)
{
    int fd = __real_shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
    assert_true(fd >= 0);
    close(fd);
}

int __real_shm_unlink(const char *name);
int __wrap_shm_unlink(const char *name);
int __wrap_shm_unlink(const char *name)
{
    if (fails("shm_unlink"))
        return -1;
    int err = __real_shm_unlink(name);
    if (made_anew) {
        made_anew--;
        leave_object(name);
    }
    return err;
}

/* ---- one board ------------------------------------------------------------------------------- */

static char instance[32];
static char name[64];
static struct board_owner owner;
static struct failure failure;
static int descriptors;

static int setup(void **state)
{
    static int number;
    snprintf(instance, sizeof instance, "test-f%d-%d", (int)getpid(), number++);
    snprintf(name, sizeof name, "/autoglm.%s", instance);
    failure.text[0] = 0;
    descriptors = test_open_descriptors();
    return 0;
}

static int teardown(void **state)
{
    fault = NULL;
    is_mounted_over = false;
    made_anew = 0;
    __real_shm_unlink(name);
    assert_int_equal(test_open_descriptors(), descriptors);
    return 0;
}

static bool is_there(void)
{
    char path[96];
    snprintf(path, sizeof path, "/dev/shm%s", name);
    return access(path, F_OK) == 0;
}

static void expect_refusal(int error, const char *text)
{
    struct board_owner untouched = {.named_fd = -42};
    assert_int_equal(board_open(&untouched, instance, &failure), error);
    if (!strstr(failure.text, text))
        fail_msg("it says \"%s\", not \"%s\"", failure.text, text);
    assert_int_equal(untouched.named_fd, -42);
    assert_int_equal(test_open_descriptors(), descriptors);
}

static off_t copy_bytes(void)
{
    struct stat status;
    assert_int_equal(__real_fstat(owner.named_fd, &status), 0);
    return status.st_size;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void without_memory_there_is_no_board_and_no_name(void **state)
{
    fail_call("calloc", 0, ENOMEM);
    expect_refusal(-ENOMEM, "out of memory");
    assert_false(is_there());
    fail_call("memfd_create", 0, EMFILE);
    expect_refusal(-EMFILE, "cannot make its shared memory: Too many open files");
    assert_false(is_there());
}

static void a_name_that_cannot_be_made_is_told(void **state)
{
    char text[128];
    snprintf(text, sizeof text, "/dev/shm%s: No space left", name);
    fail_call("shm_open", 0, ENOSPC);
    expect_refusal(-ENOSPC, text);
}

static void a_new_object_that_cannot_be_locked_is_removed(void **state)
{
    fail_call("F_OFD_SETLK", 0, ENOLCK);
    expect_refusal(-ENOLCK, "No locks available");
    assert_false(is_there());
}

static void a_new_object_that_cannot_be_shown_is_removed(void **state)
{
    fail_call("fchmod", 0, EPERM);
    expect_refusal(-EPERM, "Operation not permitted");
    assert_false(is_there());
}

static void an_object_that_says_nothing_of_its_daemon_is_left(void **state)
{
    leave_object(name);
    fail_call("F_OFD_GETLK", 0, EINVAL);
    expect_refusal(-EINVAL, "Invalid argument");
    assert_true(is_there());
}

/* In /dev/shm nobody but its owner removes an object. */
static void a_stale_object_of_somebody_else_is_told(void **state)
{
    leave_object(name);
    fail_call("shm_unlink", 0, EACCES);
    expect_refusal(-EACCES, "left behind, but cannot be removed: Permission denied");
    assert_true(is_there());
    fail_call("shm_open", 1, EACCES); /* the second, to look at it */
    expect_refusal(-EACCES, "exists, and: Permission denied");
}

static void an_object_that_goes_by_itself_is_no_hindrance(void **state)
{
    leave_object(name);
    fail_call("shm_open", 1, ENOENT); /* gone before it was looked at */
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    board_close(&owner);
    leave_object(name);
    fail_call("shm_unlink", 0, ENOENT); /* gone before it was removed */
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    board_close(&owner);
    assert_false(is_there());
}

static void an_object_that_is_made_anew_for_ever_ends_the_attempts(void **state)
{
    leave_object(name);
    made_anew = 3; /* patience for so many */
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    board_close(&owner);
    leave_object(name);
    made_anew = 1000;
    expect_refusal(-EADDRINUSE, "somebody keeps making it anew");
    assert_true(made_anew > 900);
}

/* ---- the copy -------------------------------------------------------------------------------- */

static void a_full_file_system_delays_the_copy_and_no_more(void **state)
{
    struct board copy;
    fail_call("pwrite", 0, ENOSPC);
    assert_int_equal(board_open(&owner, instance, &failure), 0); /* without a copy yet */
    assert_int_equal(copy_bytes(), 0);
    board_mirror(&owner); /* the next turn */
    assert_int_equal(copy_bytes(), sizeof copy);
    assert_int_equal(pread(owner.named_fd, &copy, sizeof copy, 0), sizeof copy);
    assert_int_equal(copy.magic, BOARD_MAGIC);
    board_close(&owner);
}

static void a_copy_of_unknown_size_is_written_again(void **state)
{
    uint32_t magic = 0;
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    assert_int_equal(pwrite(owner.named_fd, &magic, sizeof magic, 0), sizeof magic);
    fail_call("fstat", 0, EIO);
    board_mirror(&owner);
    assert_int_equal(pread(owner.named_fd, &magic, sizeof magic, 0), sizeof magic);
    assert_int_equal(magic, BOARD_MAGIC);
    board_close(&owner);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void a_name_that_cannot_be_compared_is_left(void **state)
{
    for (int look = 0; look < 2; look++) { /* at ours, at the named one */
        assert_int_equal(board_open(&owner, instance, &failure), 0);
        fail_call("fstat", look, EIO);
        board_close(&owner);
        assert_null(fault);
        assert_true(is_there());
        __real_shm_unlink(name);
    }
}

static void a_name_of_another_file_system_is_not_ours(void **state)
{
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    is_mounted_over = true;
    board_close(&owner);
    assert_true(is_there());
}

static void a_name_that_may_not_be_looked_at_is_removed(void **state)
{
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    fail_call("shm_open", 0, EMFILE);
    board_close(&owner);
    assert_null(fault);
    assert_false(is_there());
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(without_memory_there_is_no_board_and_no_name),
        TEST(a_name_that_cannot_be_made_is_told),
        TEST(a_new_object_that_cannot_be_locked_is_removed),
        TEST(a_new_object_that_cannot_be_shown_is_removed),
        TEST(an_object_that_says_nothing_of_its_daemon_is_left),
        TEST(a_stale_object_of_somebody_else_is_told),
        TEST(an_object_that_goes_by_itself_is_no_hindrance),
        TEST(an_object_that_is_made_anew_for_ever_ends_the_attempts),
        TEST(a_full_file_system_delays_the_copy_and_no_more),
        TEST(a_copy_of_unknown_size_is_written_again),
        TEST(a_name_that_cannot_be_compared_is_left),
        TEST(a_name_of_another_file_system_is_not_ours),
        TEST(a_name_that_may_not_be_looked_at_is_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
