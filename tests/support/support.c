#include "tests/support/test.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, MADE_MAX = 64, MADE_BYTES = 256 };

/* The folders that this process has made and not removed: a failed test never comes to it. */
static struct {
    pid_t pid;
    char paths[MADE_MAX][MADE_BYTES]; /* "": none */
} made;

static void remove_made(void)
{
    for (int i = 0; i < MADE_MAX && made.pid == getpid(); i++)
        if (*made.paths[i])
            test_remove_folder(made.paths[i]);
}

/* One that is too long, or too many, are left to whoever removes them rightly. */
static void remember_made(const char *path)
{
    if (made.pid != getpid()) { /* the first time, or in a child */
        memset(&made, 0, sizeof made);
        made.pid = getpid();
        atexit(remove_made);
    }
    for (int i = 0; i < MADE_MAX && strlen(path) < MADE_BYTES; i++)
        if (!*made.paths[i]) {
            strcpy(made.paths[i], path);
            return;
        }
}

static void forget_made(const char *path)
{
    for (int i = 0; i < MADE_MAX; i++)
        if (strcmp(made.paths[i], path) == 0)
            made.paths[i][0] = 0;
}

void test_folder(char *ret_path)
{
    const char *base = getenv("TMPDIR");
    snprintf(ret_path, PATH_BYTES, "%s/autoglm-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(ret_path))
        fail_msg("cannot make a temporary folder %s", ret_path);
    remember_made(ret_path);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)kind;
    (void)where;
    return remove(path);
}

void test_remove_folder(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    forget_made(path);
}

void test_write_file(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        fail_msg("cannot write %s", path);
    size_t written = fwrite(bytes, 1, size, file);
    if (fclose(file) != 0 || written != size)
        fail_msg("cannot write %s", path);
}

char *test_read_file(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot read %s", path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    size_t got = fread(bytes, 1, (size_t)size, file);
    fclose(file);
    if (got != (size_t)size)
        fail_msg("cannot read %s", path);
    bytes[got] = 0;
    if (ret_size)
        *ret_size = got;
    return bytes;
}

int test_shared_data(const char *name, char *ret_path)
{
    const char *folder = getenv("AGL_SHARED_DATA");
    snprintf(ret_path, PATH_BYTES, "%s/%s",
             folder && *folder ? folder : AGL_SOURCE_DIR "/../shared/data", name);
    if (access(ret_path, R_OK) == 0)
        return 1;
    fprintf(stderr,
            "\n*** SKIPPED: shared test data not found: %s\n"
            "*** Put it there or set AGL_SHARED_DATA to run this test.\n\n",
            ret_path);
    return 0;
}

int test_open_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    int count = 0;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count - 3; /* ".", ".." and the folder's own */
}
