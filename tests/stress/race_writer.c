/*
 * A racing writer: hostile clients keep changing indices, descriptors, prompts and cursors while
 * the daemon works, and are ended and come again; witnesses beside them get the answers of a quiet
 * daemon. Afterwards nothing is left of anybody, and no sanitizer has said anything.
 *
 *   race_writer [SECONDS]      5 by default; 1800 under the presets asan and tsan before a release
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/stress/race.h"
#include "tests/stress/stress.h"
#include "tests/support/test.h"

enum { WITNESSES = 2, CHILDREN = RACE_HABITS + WITNESSES };

enum { LONGER = 12 }; /* times the wanted time at the most, until every habit has shown itself */

static const uint64_t second_ns = 1000000000;
static uint32_t seconds = 5;

static const char *const flags[] = {"--model",
                                    "echo=echo:",
                                    "--model",
                                    "story=" AGL_SOURCE_DIR "/models/story-glm",
                                    "--threads",
                                    "1",
                                    "--cache-mib",
                                    "64",
                                    "--running-max",
                                    "16",
                                    "--queue-requests",
                                    "64",
                                    "--kept-max",
                                    "8",
                                    "--slow-reader-ms",
                                    "300",
                                    "--handshake-ms",
                                    "5000",
                                    NULL};

/* ---- what may not grow ------------------------------------------------------------------------
 */

struct holdings {
    int descriptors;
    uint64_t mapped_bytes;   /* of halves and board */
    uint64_t resident_bytes; /* of shared memory */
};

static struct holdings look(const struct daemon *daemon)
{
    daemon_wait_quiet(daemon);
    struct holdings now = {.descriptors = daemon_descriptors(daemon)};
    now.mapped_bytes = daemon_memfd_bytes(daemon);
    now.resident_bytes = daemon_shared_bytes(daemon);
    return now;
}

/* ---- processes --------------------------------------------------------------------------------
 */

static pid_t children[CHILDREN];

static const char *child_name(uint32_t index)
{
    return index < RACE_HABITS ? race_habit_name(index) : "witness";
}

static void start_children(const struct race *race)
{
    fflush(NULL);
    for (uint32_t i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i])
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (i < RACE_HABITS)
            race_gang(race, i, 1000 + i);
        race_witness(race, 2000 + i);
    }
}

static void stop_children(void)
{
    for (uint32_t i = 0; i < CHILDREN; i++) {
        if (children[i] > 0) {
            kill(children[i], SIGKILL);
            waitpid(children[i], NULL, 0);
        }
        children[i] = 0;
    }
}

static void print_log(const struct daemon *daemon)
{
    enum { TAIL = 20000 };
    size_t size;
    char *log = test_read_file(daemon->log_path, &size);
    fprintf(stderr, "--- end of autoglmd's log ---\n%s---\n",
            log + (size > TAIL ? size - TAIL : 0));
    free(log);
}

static void fail_stopped(const struct daemon *daemon, const char *what, int status)
{
    stop_children();
    print_log(daemon);
    fail_msg("%s ended: %s %d", what, WIFEXITED(status) ? "status" : "signal",
             WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

/* Nobody may end by himself; hostile processes are stopped at any moment, and go on. */
static void watch(const struct daemon *daemon, uint64_t until_ns)
{
    uint32_t random = 77;
    int status;
    while (stress_now_ns() < until_ns) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid)
            fail_stopped(daemon, "the daemon", status);
        for (uint32_t i = 0; i < CHILDREN; i++) {
            if (waitpid(children[i], &status, WNOHANG) == children[i]) {
                children[i] = 0;
                fail_stopped(daemon, child_name(i), status);
            }
            if (i < RACE_HABITS)
                kill(children[i], stress_random(&random) % 16 ? SIGCONT : SIGSTOP);
        }
    }
}

/* ---- the verdict ------------------------------------------------------------------------------
 */

static void expect_clean_log(const struct daemon *daemon)
{
    static const char *const bad[] = {"Sanitizer", "runtime error", "Assertion", "error "};
    char *log = test_read_file(daemon->log_path, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (strstr(log, bad[i])) {
            print_log(daemon);
            fail_msg("the daemon's log has \"%s\"", bad[i]);
        }
    }
    free(log);
}

/* Why sessions were ended, by the log, which may have left out some. How many different reasons. */
static uint32_t print_reasons(const struct daemon *daemon)
{
    enum { REASONS_MAX = 64 };
    static const char mark[] = "broke the contract and is ended: ";
    struct {
        char text[96];
        uint32_t count;
    } reasons[REASONS_MAX] = {0};
    uint32_t kinds = 0;
    char *log = test_read_file(daemon->log_path, NULL);
    for (char *at = log; (at = strstr(at, mark));) {
        char text[sizeof reasons[0].text] = "";
        at += strlen(mark);
        memcpy(text, at, strcspn(at, "\n") < sizeof text ? strcspn(at, "\n") : sizeof text - 1);
        uint32_t i = 0;
        while (i < kinds && strcmp(reasons[i].text, text) != 0)
            i++;
        if (i == kinds && kinds < REASONS_MAX)
            memcpy(reasons[kinds++].text, text, sizeof text);
        if (i < kinds)
            reasons[i].count++;
    }
    free(log);
    for (uint32_t i = 0; i < kinds; i++)
        printf("  ended in the log %u times: %s\n", reasons[i].count, reasons[i].text);
    return kinds;
}

static unsigned long long sum(const _Atomic uint64_t *counter)
{
    return (unsigned long long)atomic_load_explicit(counter, memory_order_relaxed);
}

/* What a habit has not shown yet; NULL: it has spoken, and struck in each of its ways, and if it
 * says what is wrong, it was ended for that. */
static const char *lacks(const struct race_tally *tally, uint32_t habit)
{
    const struct race_habit_tally *shown = &tally->habits[habit];
    if (sum(&shown->sessions) == 0)
        return "session";
    if (sum(&shown->submissions) == 0)
        return "submission";
    for (uint32_t stroke = 0; stroke < RACE_STROKES; stroke++)
        if (race_has_stroke(habit, stroke) && sum(&shown->strokes[stroke]) == 0)
            return race_stroke_name(stroke);
    if (race_is_wrong(habit) && sum(&shown->ended) == 0)
        return "session ended by the daemon";
    return NULL;
}

static bool is_complete(const struct race_tally *tally)
{
    for (uint32_t i = 0; i < RACE_HABITS; i++)
        if (lacks(tally, i))
            return false;
    return sum(&tally->tokens) > 0 && sum(&tally->halts) > 0 && sum(&tally->answers) > 0;
}

/* And each session that was ended for it is counted by the daemon as broken. */
static void expect_every_habit(const struct race_tally *tally, const struct agl_status *status)
{
    uint64_t ended = 0;
    for (uint32_t i = 0; i < RACE_HABITS; i++) {
        const char *what = lacks(tally, i);
        if (what)
            fail_msg("the %s has shown no %s", race_habit_name(i), what);
        ended += sum(&tally->habits[i].ended);
    }
    assert_true(sum(&tally->halts) > 0);
    assert_true(ended > 0 && ended <= status->sessions_broken);
}

static uint64_t strokes_of(const struct race_habit_tally *tally)
{
    uint64_t strokes = 0;
    for (uint32_t i = 0; i < RACE_STROKES; i++)
        strokes += sum(&tally->strokes[i]);
    return strokes;
}

static void print_habits(const struct race_tally *tally)
{
    for (uint32_t i = 0; i < RACE_HABITS; i++) {
        const struct race_habit_tally *habit = &tally->habits[i];
        printf("  %s: %llu submissions pushed, %llu strokes, %llu sessions, %llu of them ended by "
               "the daemon\n",
               race_habit_name(i), sum(&habit->submissions), (unsigned long long)strokes_of(habit),
               sum(&habit->sessions), sum(&habit->ended));
    }
}

static void print_summary(const struct race_tally *tally, const struct agl_status *status)
{
    unsigned long long submissions = 0, strokes = 0, sessions = 0, ended = 0;
    for (uint32_t i = 0; i < RACE_HABITS; i++) {
        submissions += sum(&tally->habits[i].submissions);
        strokes += strokes_of(&tally->habits[i]);
        sessions += sum(&tally->habits[i].sessions);
        ended += sum(&tally->habits[i].ended);
    }
    printf(
        "race_writer: %u s, %llu submissions pushed, %llu strokes, %llu sessions, %llu broken, "
        "%llu reconnects, %llu turned away, %llu tokens for the hostile, %llu halts; %llu witness "
        "answers compared, %llu asked again, the slowest took %.2f s\n",
        seconds, submissions, strokes, sessions, (unsigned long long)status->sessions_broken, ended,
        sum(&tally->turned_away), sum(&tally->tokens), sum(&tally->halts), sum(&tally->answers),
        sum(&tally->asked_again), (double)sum(&tally->slowest_ns) * 1e-9);
}

static void ask_status(const struct daemon *daemon, struct agl_status *ret_status)
{
    struct agl_client *client = daemon_connect(daemon);
    assert_int_equal(agl_status(client, ret_status), 0);
    agl_close(client);
}

static void racing_writers_harm_nobody_else(void **state)
{
    static struct race race;
    struct daemon daemon;
    struct agl_status status;
    race.tally =
        mmap(NULL, sizeof *race.tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(race.tally != MAP_FAILED);
    race.daemon = &daemon;
    daemon_start(&daemon, flags);
    race_prepare(&race);
    struct holdings before = look(&daemon);

    start_children(&race);
    uint64_t start_ns = stress_now_ns();
    watch(&daemon, start_ns + seconds * second_ns);
    while (!is_complete(race.tally) && stress_now_ns() < start_ns + seconds * LONGER * second_ns)
        watch(&daemon, stress_now_ns() + second_ns); /* the machine has more to do */
    stop_children();

    struct holdings after = look(&daemon);
    ask_status(&daemon, &status);
    print_summary(race.tally, &status);
    print_habits(race.tally);
    assert_true(print_reasons(&daemon) > 1);
    expect_clean_log(&daemon);
    assert_int_equal(after.descriptors, before.descriptors);
    assert_int_equal(after.mapped_bytes, before.mapped_bytes);
    assert_int_equal(after.resident_bytes, before.resident_bytes);
    assert_true(sum(&race.tally->answers) > 0);
    expect_every_habit(race.tally, &status);
    assert_true(sum(&race.tally->tokens) > 0); /* some of it got as far as the model */
    assert_int_equal(daemon_stop(&daemon), 0);
    munmap(race.tally, sizeof *race.tally);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(racing_writers_harm_nobody_else),
    };
    if (argc > 2 || (argc == 2 && (seconds = (uint32_t)atoi(argv[1])) == 0)) {
        fprintf(stderr, "usage: race_writer [SECONDS]\n");
        return 2;
    }
    stress_need_two_processors("race_writer");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
