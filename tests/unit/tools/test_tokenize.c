/* autoglm tokenize, with files as standard input and output. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/test.h"
#include "tools/cli.h"

#define GLM4 AGL_SOURCE_DIR "/tests/data/tokenizer/glm4.tokenizer.json"
#define GPT2 AGL_SOURCE_DIR "/tests/data/tokenizer/gpt2.tokenizer.json"

static char folder[4096];

static int make_folder(void **state)
{
    test_folder(folder);
    return 0;
}

static int remove_folder(void **state)
{
    test_remove_folder(folder);
    return 0;
}

static void redirect(int fd, const char *name, int flags)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int file = open(path, flags | O_CLOEXEC, 0600);
    if (file < 0 || dup2(file, fd) < 0)
        _exit(99);
}

/* Runs the command with this input; returns its exit status, its output in *ret_output (to be
 * freed) and what it said on stderr in the file "err". */
static int run(const char *input, size_t bytes, char **argv, char **ret_output)
{
    char path[8192];
    int status = 0;
    int argc = 0;
    while (argv[argc])
        argc++;
    test_write_file(folder, "in", input, bytes);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        redirect(0, "in", O_RDONLY);
        redirect(1, "out", O_WRONLY | O_CREAT | O_TRUNC);
        redirect(2, "err", O_WRONLY | O_CREAT | O_TRUNC);
        int exit_status = tokenize_main(argc, argv);
        fflush(NULL);
        _exit(exit_status);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    snprintf(path, sizeof path, "%s/out", folder);
    *ret_output = test_read_file(path, NULL);
    return WEXITSTATUS(status);
}

#define RUN(input, bytes, output, ...) \
    run(input, bytes, (char *[]){"tokenize", __VA_ARGS__, NULL}, output)

static void text_goes_to_ids_and_back(void **state)
{
    static const char text[] = "Hello <|user|> \xE4\xBD\xA0\n\n 123";
    char *ids = NULL;
    char *back = NULL;
    assert_int_equal(RUN(text, sizeof text - 1, &ids, "--tokenizer", GLM4), 0);
    assert_int_equal(ids[0], '[');
    assert_string_equal(ids + strlen(ids) - 2, "]\n");
    assert_int_equal(RUN(ids, strlen(ids), &back, "--tokenizer", GLM4, "--decode"), 0);
    assert_string_equal(back, text);
    free(ids);
    free(back);
}

static void no_text_gives_an_empty_array(void **state)
{
    char *output = NULL;
    assert_int_equal(RUN("", 0, &output, "--tokenizer", GLM4), 0);
    assert_string_equal(output, "[]\n");
    free(output);
    assert_int_equal(RUN("[]", 2, &output, "--tokenizer", GLM4, "--decode"), 0);
    assert_string_equal(output, "");
    free(output);
}

static void messages_become_a_prompt(void **state)
{
    static const char messages[] = "[{\"role\":\"user\",\"content\":\"<sop>\"}]\n";
    char *ids = NULL;
    char *text = NULL;
    assert_int_equal(RUN(messages, sizeof messages - 1, &ids, "--tokenizer", GLM4, "--chat"), 0);
    assert_int_equal(RUN(ids, strlen(ids), &text, "--decode", "--tokenizer", GLM4), 0);
    assert_string_equal(text, "[gMASK]<sop><|user|>\n<sop><|assistant|>");
    free(ids);
    free(text);
    assert_int_equal(RUN(messages, sizeof messages - 1, &ids, "--tokenizer", GLM4, "--chat",
                         "--format", "glm-z1"),
                     0);
    assert_int_equal(RUN(ids, strlen(ids), &text, "--decode", "--tokenizer", GLM4), 0);
    assert_string_equal(text, "[gMASK]<sop><|user|>\n<sop><|assistant|>\n<think>");
    free(ids);
    free(text);
}

static void a_large_text_works(void **state)
{
    const size_t bytes = 3u << 20;
    char *text = malloc(bytes);
    char *ids = NULL;
    char *back = NULL;
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++)
        text[i] = "The quick brown fox 123\n"[i % 24];
    assert_int_equal(RUN(text, bytes, &ids, "--tokenizer", GLM4), 0);
    assert_int_equal(RUN(ids, strlen(ids), &back, "--tokenizer", GLM4, "--decode"), 0);
    assert_int_equal(strlen(back), bytes);
    assert_memory_equal(back, text, bytes);
    free(back);
    free(ids);
    free(text);
}

static void assert_fails(int expected, const char *named, int status, char *output)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/err", folder);
    char *message = test_read_file(path, NULL);
    assert_int_equal(status, expected);
    assert_string_equal(output, "");
    if (strncmp(message, "autoglm: ", 9) != 0 || !strstr(message, named))
        fail_msg("\"%s\" does not name %s", message, named);
    free(message);
    free(output);
}

static void mistakes_are_named_and_give_their_exit_codes(void **state)
{
    static const struct {
        const char *input;
        const char *mode;
        const char *named;
    } bad[] = {
        {"[1,2", "--decode", "not JSON"},
        {"{}", "--decode", "array"},
        {"[1] x", "--decode", "not JSON"},
        {"[1,\"2\"]", "--decode", "element 1"},
        {"[-1]", "--decode", "element 0"},
        {"[4294967296]", "--decode", "element 0"},
        {"[1.5]", "--decode", "element 0"},
        {"[99999]", "--decode", "99999"},
        {"[{\"role\":\"user\"}]", "--chat", "message 0"},
        {"[{\"role\":\"bob\",\"content\":\"\"}]", "--chat", "bob"},
        {"[{\"role\":\"user\",\"content\":\"\\u0000\"}]", "--chat", "NUL"},
        {"[7]", "--chat", "message 0"},
    };
    char *output = NULL;
    int status = 0;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        status = RUN(bad[i].input, strlen(bad[i].input), &output, "--tokenizer", GLM4,
                     (char *)bad[i].mode);
        assert_fails(1, bad[i].named, status, output);
    }
    status = RUN("x", 1, &output, "--tokenizer", "/nonexistent");
    assert_fails(1, "/nonexistent", status, output);
    status = RUN("[]", 2, &output, "--tokenizer", GPT2, "--chat");
    assert_fails(1, "chat format", status, output);
    status = RUN("[]", 2, &output, "--tokenizer", GLM4, "--chat", "--format", "alpaca");
    assert_fails(1, "alpaca", status, output);
    status = RUN("", 0, &output, "--chat");
    assert_fails(2, "--tokenizer", status, output);
    status = RUN("", 0, &output, "--tokenizer");
    assert_fails(2, "--tokenizer", status, output);
    status = RUN("", 0, &output, "--tokenizer", GLM4, "--chat", "--decode");
    assert_fails(2, "--decode", status, output);
    status = RUN("", 0, &output, "--tokenizer", GLM4, "--bogus");
    assert_fails(2, "--bogus", status, output);
    status = RUN("", 0, &output, "--tokenizer", GLM4, "text");
    assert_fails(2, "text", status, output);
    status = RUN("", 0, &output, "--tokenizer", GLM4, "--format", "glm4");
    assert_fails(2, "--format", status, output);
}

static void help_goes_to_standard_output(void **state)
{
    char *output = NULL;
    assert_int_equal(RUN("", 0, &output, "--help"), 0);
    assert_non_null(strstr(output, "--tokenizer PATH"));
    free(output);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(text_goes_to_ids_and_back),
        IN_FOLDER(no_text_gives_an_empty_array),
        IN_FOLDER(messages_become_a_prompt),
        IN_FOLDER(a_large_text_works),
        IN_FOLDER(mistakes_are_named_and_give_their_exit_codes),
        IN_FOLDER(help_goes_to_standard_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
