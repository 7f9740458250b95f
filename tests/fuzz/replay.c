/*
 * Replays a corpus as an ordinary test: each file of AGL_CORPUS goes through the harness once, and
 * once more for each byte less at its end (files up to 4 KiB).
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/support/test.h"

enum { CUT_BYTES = 4096 };

/* The harness gets its own copy of exactly that size, so that a sanitizer sees a step beyond it. */
static void feed(const char *bytes, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void every_file_of_the_corpus_is_survived(void **state)
{
    DIR *folder = opendir(AGL_CORPUS);
    int files = 0;
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        char path[8192];
        size_t size = 0;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", AGL_CORPUS, entry->d_name);
        char *bytes = test_read_file(path, &size);
        feed(bytes, size);
        for (size_t cut = 0; cut < size && size <= CUT_BYTES; cut++)
            feed(bytes, cut);
        free(bytes);
        files++;
    }
    closedir(folder);
    assert_true(files > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_of_the_corpus_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
