#include "tests/support/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "model/vocabulary.h"

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

static void write_text(void **state, const char *name, const char *text)
{
    test_write_file(((struct folder *)*state)->path, name, text, strlen(text));
}

static uint32_t size_of(void **state)
{
    uint32_t size = 77;
    struct failure failure = {""};
    if (vocabulary_size(((struct folder *)*state)->path, &size, &failure) < 0)
        fail_msg("%s", failure.text);
    return size;
}

static void refuses(void **state, const char *file, const char *text, const char *words)
{
    uint32_t size = 77;
    struct failure failure = {""};
    write_text(state, file, text);
    int err = vocabulary_size(((struct folder *)*state)->path, &size, &failure);
    if (err != -EINVAL || !strstr(failure.text, words) || !strstr(failure.text, file))
        fail_msg("%s: %d \"%s\", wanted \"%s\"", text, err, failure.text, words);
    assert_int_equal(size, 77);
}

static void a_folder_without_tokenizer_tells_nothing(void **state)
{
    assert_int_equal(size_of(state), 0);
}

static void the_highest_id_of_vocabulary_and_added_tokens_counts(void **state)
{
    write_text(state, "tokenizer.json", "{\"model\":{\"vocab\":{\"a\":5,\"b\":2}}}");
    assert_int_equal(size_of(state), 6);
    write_text(state, "tokenizer.json",
               "{\"added_tokens\":[{\"id\":9,\"content\":\"<|x|>\"},{\"id\":7}],"
               "\"model\":{\"vocab\":{\"a\":5}}}");
    assert_int_equal(size_of(state), 10);
    write_text(state, "tokenizer.json",
               "{\"added_tokens\":null,\"model\":{\"vocab\":[[\"a\",-1.5],[\"b\",-2]]}}");
    assert_int_equal(size_of(state), 2);
}

static void tokenizer_json_goes_before_tokenizer_model(void **state)
{
    write_text(state, "tokenizer.json", "{\"model\":{\"vocab\":{\"a\":5}}}");
    write_text(state, "tokenizer.model", "YQ== 0\n");
    assert_int_equal(size_of(state), 6);
}

static void ranks_and_added_tokens_of_the_other_layout_count(void **state)
{
    write_text(state, "tokenizer.model", "YQ== 0\nYg== 7\r\nYw== 3");
    assert_int_equal(size_of(state), 8);
    write_text(state, "tokenizer_config.json", "{\"added_tokens_decoder\":{\"20\":{},\"11\":{}}}");
    assert_int_equal(size_of(state), 21);
    write_text(state, "tokenizer_config.json", "{}");
    assert_int_equal(size_of(state), 8);
}

static void a_tokenizer_of_another_kind_tells_nothing(void **state)
{
    write_text(state, "tokenizer.model", "\x0a\x0e\x0a\x05<unk>\x15");
    assert_int_equal(size_of(state), 0);
    write_text(state, "tokenizer.model", "");
    assert_int_equal(size_of(state), 0);
}

static void lies_are_refused_by_file_and_field(void **state)
{
    refuses(state, "tokenizer.json", "{", "not valid JSON");
    refuses(state, "tokenizer.json", "[]", "must be an object");
    refuses(state, "tokenizer.json", "{}", "model: missing");
    refuses(state, "tokenizer.json", "{\"model\":{}}",
            "model.vocab: must be an object, is nothing");
    refuses(state, "tokenizer.json", "{\"model\":{\"vocab\":{\"a\":-1}}}", "model.vocab: \"a\"");
    refuses(state, "tokenizer.json", "{\"model\":{\"vocab\":{\"a\":1.5}}}", "model.vocab");
    refuses(state, "tokenizer.json", "{\"model\":{\"vocab\":{\"a\":16777216}}}", "model.vocab");
    refuses(state, "tokenizer.json", "{\"model\":{\"vocab\":{\"a\":\"1\"}}}", "model.vocab");
    refuses(state, "tokenizer.json", "{\"model\":{\"vocab\":{}},\"added_tokens\":[{}]}",
            "added_tokens");
    refuses(state, "tokenizer.json", "{\"model\":{\"vocab\":{}},\"added_tokens\":{}}",
            "added_tokens: must be an array");
    refuses(state, "tokenizer.json", "{\"model\":{\"vocab\":{}},\"added_tokens\":[{\"id\":1e300}]}",
            "added_tokens");
    char path[4200];
    snprintf(path, sizeof path, "%s/tokenizer.json", ((struct folder *)*state)->path);
    assert_int_equal(unlink(path), 0);
    refuses(state, "tokenizer.model", "YQ== 0\nYg==\n", "line 2");
    refuses(state, "tokenizer.model", "YQ== 0\nYg== 99999999999\n", "line 2");
    write_text(state, "tokenizer.model", "YQ== 0\n");
    refuses(state, "tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{}}}",
            "added_tokens_decoder: \"x\"");
    refuses(state, "tokenizer_config.json", "{\"added_tokens_decoder\":{\"-1\":{}}}",
            "added_tokens_decoder");
    refuses(state, "tokenizer_config.json", "{\"added_tokens_decoder\":[]}",
            "added_tokens_decoder: must be an object");
}

static void the_real_glm_4_vocabulary_has_151343_ids(void **state)
{
    char path[4096];
    uint32_t size = 0;
    struct failure failure = {""};
    (void)state;
    if (!test_shared_data("glm-4-9b-chat", path))
        skip();
    if (vocabulary_size(path, &size, &failure) < 0)
        fail_msg("%s", failure.text);
    assert_int_equal(size, 151343);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_folder_without_tokenizer_tells_nothing),
        IN_FOLDER(the_highest_id_of_vocabulary_and_added_tokens_counts),
        IN_FOLDER(tokenizer_json_goes_before_tokenizer_model),
        IN_FOLDER(ranks_and_added_tokens_of_the_other_layout_count),
        IN_FOLDER(a_tokenizer_of_another_kind_tells_nothing),
        IN_FOLDER(lies_are_refused_by_file_and_field),
        cmocka_unit_test(the_real_glm_4_vocabulary_has_151343_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
