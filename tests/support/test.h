/*
 * What every test program includes: cmocka with what it needs before it, temporary folders, data
 * files, and a count of open descriptors and mappings for leak checks.
 */
#ifndef AGL_TESTS_SUPPORT_TEST_H
#define AGL_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* Makes a temporary folder and returns its path in ret_path [4096 bytes]; fails the test if it
 * cannot. What the test has not removed, the end of its process does. */
void test_folder(char *ret_path);

/* Removes a folder and everything in it. */
void test_remove_folder(const char *path);

/* Writes a whole file; fails the test if it cannot. */
void test_write_file(const char *folder, const char *name, const void *bytes, size_t size);

/* Reads a whole file into malloc'd memory, with a NUL behind it; fails the test if it cannot. */
char *test_read_file(const char *path, size_t *ret_size);

/* Skips the test, and says why in a line that tools/check.sh finds. */
#define test_skip(why)                               \
    do {                                             \
        fprintf(stderr, "*** SKIPPED: %s\n", (why)); \
        skip();                                      \
    } while (0)

/* The path of a file of the shared test data (folder "shared" beside the checkout, or
 * $AGL_SHARED_DATA), in ret_path [4096 bytes]. 1: it is there; 0: it is not, and a loud line on
 * stderr says what is skipped: return skip() then. */
int test_shared_data(const char *name, char *ret_path);

/* Whether a sanitizer runs with us: they take time and memory, and make system calls, of their own.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SANITIZED = 1 };
#else
enum { IS_SANITIZED = 0 };
#endif

/* The number of open descriptors of this process. */
int test_open_descriptors(void);

#endif
