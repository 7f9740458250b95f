/* What the control thread writes of clients, and how little of it they can cause. */
#include "tests/support/control_stand.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/connection.h"
#include "daemon/log.h"
#include "tests/support/test.h"

static FILE *log_file;
static int true_stderr;
static char text[16384]; /* after end_log() */

static void begin_log(void)
{
    log_file = tmpfile();
    true_stderr = dup(STDERR_FILENO);
    assert_non_null(log_file);
    log_init(LOG_LEVEL_WARNING);
    dup2(fileno(log_file), STDERR_FILENO);
}

static void end_log(void)
{
    dup2(true_stderr, STDERR_FILENO);
    log_init(LOG_LEVEL_ERROR);
    close(true_stderr);
    rewind(log_file);
    text[fread(text, 1, sizeof text - 1, log_file)] = 0;
    fclose(log_file);
}

/* How often the words are in the log. */
static int count_of(const char *words)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, words)); at++)
        count++;
    return count;
}

static void break_contract(void)
{
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    rig_send(fd, "?", 1, NULL, 0);
    rig_until_sessions(&rig, 0);
    close(fd);
}

static void be_refused(void)
{
    int fd = rig_connect(&rig);
    rig_send(fd, "?", 1, NULL, 0);
    rig_expect_error(&rig, fd, -EPROTO, "no message");
    close(fd);
}

static void clients_that_break_the_contract_do_not_fill_the_log(void **state)
{
    control_begin();
    begin_log();
    for (int i = 0; i < 3 * CONNECTION_REFUSALS_LOGGED; i++)
        break_contract();
    end_log();
    assert_int_equal(rig.board.board->sessions_broken, 3 * CONNECTION_REFUSALS_LOGGED);
    /* A new second may begin. */
    assert_in_range(count_of("broke the contract and is ended"), 1, 2 * CONNECTION_REFUSALS_LOGGED);
}

static void what_was_not_logged_is_counted_in_a_later_second(void **state)
{
    enum { CLIENTS = 3 * CONNECTION_REFUSALS_LOGGED };
    static const char more[] = " more clients were refused or broke the contract";
    control_begin();
    begin_log();
    for (int i = 0; i < CLIENTS; i++)
        be_refused();
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 100000000}, NULL);
    be_refused();
    end_log();
    int told = count_of("refused client \"?\"");
    assert_true(count_of(more) >= 1);
    for (char *at = text; (at = strstr(at, more)); at++) {
        char *digits = at;
        while (digits > text && digits[-1] >= '0' && digits[-1] <= '9')
            digits--;
        told += atoi(digits);
    }
    assert_int_equal(told, CLIENTS + 1); /* one by one, or in a sum */
    assert_int_equal(rig.board.board->sessions_refused, CLIENTS + 1);
    control_nothing_left();
}

static void an_end_that_is_no_breach_is_not_called_one(void **state)
{
    control_begin();
    begin_log();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    rig.engine.sessions[0]->broken = -EMFILE; /* and the engine has no words for it */
    fake_engine_report(&rig.engine, ENGINE_BROKEN, rig.engine.sessions[0], 0);
    rig_until_sessions(&rig, 0);
    end_log();
    close(fd);
    assert_int_equal(count_of("broke the contract"), 0);
    assert_int_equal(count_of(") is ended: Too many open files"), 1);
    control_nothing_left();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, control_setup, control_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(clients_that_break_the_contract_do_not_fill_the_log),
        TEST(what_was_not_logged_is_counted_in_a_later_second),
        TEST(an_end_that_is_no_breach_is_not_called_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
