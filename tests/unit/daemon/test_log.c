#include "daemon/log.h"

#include <fcntl.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/test.h"

static int pipe_fds[2], saved_stderr;
static char line[8192];

static int setup(void **state)
{
    unsetenv("JOURNAL_STREAM");
    saved_stderr = dup(STDERR_FILENO);
    if (pipe(pipe_fds) < 0)
        return -1;
    fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
    dup2(pipe_fds[1], STDERR_FILENO);
    return 0;
}

static int teardown(void **state)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return 0;
}

/* What was written since the last time, without the last line end; NULL: nothing. */
static const char *written(void)
{
    ssize_t got = read(pipe_fds[0], line, sizeof line - 1);
    if (got <= 0)
        return NULL;
    assert_int_equal(line[got - 1], '\n');
    line[got - 1] = 0;
    return line;
}

static void expect_match(const char *text, const char *pattern)
{
    regex_t regex;
    assert_non_null(text);
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&regex, text, 0, NULL, 0) != 0)
        fail_msg("\"%s\" does not match \"%s\"", text, pattern);
    regfree(&regex);
}

#define TIME "^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:]{8}\\.[0-9]{3}Z "

static void a_line_has_time_level_and_text(void **state)
{
    log_init(LOG_LEVEL_DEBUG);
    log_info("hello %d", 7);
    expect_match(written(), TIME "info  hello 7$");
    log_error("bad");
    expect_match(written(), TIME "error bad$");
    log_warning("hm");
    expect_match(written(), TIME "warn  hm$");
    log_debug("why");
    expect_match(written(), TIME "debug why$");
}

static void the_level_leaves_lines_out(void **state)
{
    log_init(LOG_LEVEL_WARNING);
    log_info("not this");
    log_debug("nor this");
    assert_null(written());
    log_warning("this");
    assert_non_null(written());
}

static void the_journal_gets_priorities_instead(void **state)
{
    struct stat status;
    char stream[64];
    assert_int_equal(fstat(STDERR_FILENO, &status), 0);
    snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)status.st_dev,
             (unsigned long long)status.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init(LOG_LEVEL_INFO);
    log_info("hello");
    assert_string_equal(written(), "<6>hello");
    log_error("bad");
    assert_string_equal(written(), "<3>bad");
}

static void a_stream_that_is_not_stderr_is_not_the_journal(void **state)
{
    static const char *const wrong[] = {"1:2", "", "x", "1:", "1:2:3", ":"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("JOURNAL_STREAM", wrong[i], 1);
        log_init(LOG_LEVEL_INFO);
        log_info("hello");
        expect_match(written(), TIME "info  hello$");
    }
}

static void foreign_text_cannot_begin_a_line_or_colour_it(void **state)
{
    log_init(LOG_LEVEL_INFO);
    log_info("%s", "a\nb\r\x1b[31mc\x7f \xc3\xa9");
    expect_match(written(), TIME "info  a\\\\x0ab\\\\x0d\\\\x1b\\[31mc\\\\x7f \xc3\xa9$");
}

static void a_long_text_is_cut_not_split(void **state)
{
    char text[5000];
    memset(text, '\n', sizeof text);
    text[sizeof text - 1] = 0;
    log_init(LOG_LEVEL_INFO);
    log_info("%s", text);
    const char *got = written();
    assert_non_null(got);
    assert_null(strchr(got, '\n'));
    assert_true(strlen(got) < 2048);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_line_has_time_level_and_text),
        TEST(the_level_leaves_lines_out),
        TEST(the_journal_gets_priorities_instead),
        TEST(a_stream_that_is_not_stderr_is_not_the_journal),
        TEST(foreign_text_cannot_begin_a_line_or_colour_it),
        TEST(a_long_text_is_cut_not_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
