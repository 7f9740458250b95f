#include "tests/support/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/checkpoint.h"
#include "tests/support/model_files.h"

static const struct test_tensor FIRST[] = {{"a", "F32", 1, {3}}, {"c", "F16", 2, {2, 5}}};
static const struct test_tensor SECOND[] = {{"b", "BF16", 1, {7}}};

static const char GOOD_INDEX[] = "{\"metadata\":{\"total_size\":999},\"weight_map\":{"
                                 "\"b\":\"two.safetensors\",\"c\":\"one.safetensors\","
                                 "\"a\":\"one.safetensors\"}}";

struct folder {
    char path[4096];
};

static int make_folder(void **state)
{
    static struct folder folder;
    test_folder(folder.path);
    *state = &folder;
    return 0;
}

static int remove_folder(void **state)
{
    test_remove_folder(((struct folder *)*state)->path);
    return 0;
}

static void write_shards(const char *folder, const char *index)
{
    test_write_safetensors(folder, "one.safetensors", FIRST, 2, 0);
    test_write_safetensors(folder, "two.safetensors", SECOND, 1, 0);
    test_write_file(folder, "model.safetensors.index.json", index, strlen(index));
}

static void refuses(const char *folder, int wanted, const char *file, const char *words)
{
    struct checkpoint *checkpoint = NULL;
    struct failure failure = {""};
    int descriptors = test_open_descriptors();
    int err = checkpoint_open(&checkpoint, folder, &failure);
    if (err != wanted || !strstr(failure.text, file) || !strstr(failure.text, words))
        fail_msg("%d \"%s\", wanted %d with \"%s\" and \"%s\"", err, failure.text, wanted, file,
                 words);
    assert_null(checkpoint);
    assert_int_equal(test_open_descriptors(), descriptors);
}

static void refuses_index(const char *folder, const char *index, const char *words)
{
    write_shards(folder, index);
    refuses(folder, -EINVAL, "model.safetensors.index.json", words);
}

static void opens_one_file(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    test_write_safetensors(folder, "model.safetensors", FIRST, 2, 0);
    struct checkpoint *checkpoint;
    struct failure failure;
    assert_int_equal(checkpoint_open(&checkpoint, folder, &failure), 0);
    assert_int_equal(checkpoint->tensor_count, 2);
    assert_non_null(checkpoint_find(checkpoint, "c"));
    assert_null(checkpoint_find(checkpoint, "b"));
    checkpoint_close(checkpoint);
}

static void opens_shards_and_finds_each_tensor_in_its_file(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    write_shards(folder, GOOD_INDEX);
    struct checkpoint *checkpoint;
    struct failure failure;
    assert_int_equal(checkpoint_open(&checkpoint, folder, &failure), 0);
    assert_int_equal(checkpoint->file_count, 2);
    assert_int_equal(checkpoint->unlisted_count, 0);
    const struct safetensors_tensor *tensor = checkpoint_find(checkpoint, "b");
    assert_non_null(tensor);
    assert_non_null(strstr(checkpoint->files[tensor->file_index].path, "two.safetensors"));
    tensor = checkpoint_find(checkpoint, "c");
    assert_non_null(strstr(checkpoint->files[tensor->file_index].path, "one.safetensors"));
    checkpoint_close(checkpoint);
}

static void tensors_that_the_index_does_not_name_are_counted(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    write_shards(folder, "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
    struct checkpoint *checkpoint;
    struct failure failure;
    assert_int_equal(checkpoint_open(&checkpoint, folder, &failure), 0);
    assert_int_equal(checkpoint->unlisted_count, 1);
    assert_null(checkpoint_find(checkpoint, "c"));
    checkpoint_close(checkpoint);
}

static void follows_symbolic_links_as_caches_make_them(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    char link[4200];
    test_write_safetensors(folder, "blob", FIRST, 2, 0);
    snprintf(link, sizeof link, "%s/model.safetensors", folder);
    assert_int_equal(symlink("blob", link), 0);
    struct checkpoint *checkpoint;
    struct failure failure;
    assert_int_equal(checkpoint_open(&checkpoint, folder, &failure), 0);
    checkpoint_close(checkpoint);
}

static void refuses_folders_without_weights_and_files_that_are_none(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    refuses(folder, -ENOENT, folder, "neither model.safetensors nor");
    char path[4200];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    refuses(folder, -EINVAL, path, "not a regular file");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuses(folder, -EINVAL, path, "not a regular file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("nowhere", path), 0);
    refuses(folder, -ENOENT, path, "No such file");
    assert_int_equal(unlink(path), 0);
    test_write_file(folder, "model.safetensors", "", 0);
    refuses(folder, -EINVAL, path, "header: the file has 0 bytes");
}

static void refuses_shard_names_that_lead_elsewhere(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    static const char *const names[] = {"../one.safetensors",
                                        "/etc/passwd",
                                        "a/b",
                                        "..",
                                        ".",
                                        "",
                                        "a\\\\b",
                                        "a\\nb",
                                        "x..y",
                                        ".hidden"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char index[256];
        snprintf(index, sizeof index, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        refuses_index(folder, index, "is not a plain file name");
    }
    refuses_index(folder, "{\"weight_map\":{\"a\":\"one\\u0000.safetensors\"}}", "NUL");
}

static void refuses_indices_that_lie(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    refuses_index(folder, "{}", "weight_map: missing");
    refuses_index(folder, "[]", "must be an object");
    refuses_index(folder, "{\"weight_map\":[]}", "weight_map: must be an object");
    refuses_index(folder, "{\"weight_map\":{}}", "weight_map: 0 files");
    refuses_index(folder, "{\"weight_map\":{\"a\":1}}", "\"a\" must be a string");
    refuses_index(folder, "{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}",
                  "stands twice");
    refuses_index(folder, "{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}",
                  "tensor \"a\" is in one.safetensors, not in two.safetensors");
    refuses_index(folder, "{\"weight_map\":{\"a\":\"one.safetensors\",\"z\":\"two.safetensors\"}}",
                  "tensor \"z\" is not in two.safetensors");
    refuses_index(folder, "{\"weight_map\":{\"a\":\"one.safetensors\",\"aa\":\"one.safetensors\"}}",
                  "tensor \"aa\" is not in one.safetensors");
    refuses_index(folder, "{\"weight_map\"", "not valid JSON");
}

static void refuses_a_missing_shard_and_a_tensor_in_two(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    write_shards(folder, "{\"weight_map\":{\"a\":\"three.safetensors\"}}");
    refuses(folder, -ENOENT, "three.safetensors", "No such file");
    write_shards(folder, GOOD_INDEX);
    static const struct test_tensor again[] = {{"b", "BF16", 1, {7}}, {"c", "F16", 1, {2}}};
    test_write_safetensors(folder, "two.safetensors", again, 2, 0);
    refuses(folder, -EINVAL, ".safetensors", "tensor \"c\": stands in");
}

static void the_tensors_of_all_shards_together_are_bounded(void **state)
{
    enum { ITEM_BYTES = 61, COUNT = SAFETENSORS_TENSORS_MAX / 2 + 1 };
    const char *folder = ((struct folder *)*state)->path;
    char *header = malloc((size_t)COUNT * ITEM_BYTES + 2), *next = header;
    assert_non_null(header);
    for (int i = 0; i < COUNT; i++)
        next += sprintf(next, "%c\"%06d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                        i ? ',' : '{', i);
    memcpy(next, "}", 2);
    test_write_raw_safetensors(folder, "one.safetensors", header, 0);
    free(header);
    char path[4200];
    snprintf(path, sizeof path, "%s/two.safetensors", folder);
    assert_true(unlink(path) == 0 || errno == ENOENT);
    assert_int_equal(symlink("one.safetensors", path), 0);
    static const char index[] =
        "{\"weight_map\":{\"0\":\"one.safetensors\",\"1\":\"two.safetensors\"}}";
    test_write_file(folder, "model.safetensors.index.json", index, strlen(index));
    refuses(folder, -EFBIG, "index.json", "its files hold more than 262144 tensors");
}

static void notices_files_that_change_under_its_hands(void **state)
{
    const char *folder = ((struct folder *)*state)->path;
    write_shards(folder, GOOD_INDEX);
    struct checkpoint *checkpoint;
    struct failure failure;
    assert_int_equal(checkpoint_open(&checkpoint, folder, &failure), 0);
    assert_int_equal(checkpoint_verify(checkpoint, &failure), 0);
    char path[4200];
    snprintf(path, sizeof path, "%s/two.safetensors", folder);
    assert_int_equal(truncate(path, 30), 0);
    assert_int_equal(checkpoint_verify(checkpoint, &failure), -ESTALE);
    assert_non_null(strstr(failure.text, "two.safetensors: was changed while it was read"));
    checkpoint_close(checkpoint);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(opens_one_file),
        IN_FOLDER(opens_shards_and_finds_each_tensor_in_its_file),
        IN_FOLDER(tensors_that_the_index_does_not_name_are_counted),
        IN_FOLDER(follows_symbolic_links_as_caches_make_them),
        IN_FOLDER(refuses_folders_without_weights_and_files_that_are_none),
        IN_FOLDER(refuses_shard_names_that_lead_elsewhere),
        IN_FOLDER(refuses_indices_that_lie),
        IN_FOLDER(refuses_a_missing_shard_and_a_tensor_in_two),
        IN_FOLDER(the_tensors_of_all_shards_together_are_bounded),
        IN_FOLDER(notices_files_that_change_under_its_hands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
