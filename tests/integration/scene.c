#include "tests/integration/scene.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/test.h"

static const uint64_t ms_ns = 1000000;

static void sleep_ms(uint64_t ms)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * ms_ns)},
        NULL);
}

/* ---- the daemon and the good client ------------------------------------------------------------
 */

static void read_counters(struct scene *scene)
{
    assert_int_equal(agl_status(scene->good, &scene->seen), 0);
}

/* What was written to the log since the last time; the caller frees it. */
static char *new_log(struct scene *scene)
{
    size_t size;
    char *log = test_read_file(scene->daemon.log_path, &size);
    memmove(log, log + scene->log_seen, size - scene->log_seen + 1);
    scene->log_seen = size;
    return log;
}

void scene_open(struct scene *ret_scene, const char *const *flags)
{
    struct scene *scene = ret_scene;
    *scene = (struct scene){.good = NULL};
    daemon_start(&scene->daemon, flags);
    daemon_wait_quiet(&scene->daemon);
    scene->good = daemon_connect(&scene->daemon);
    scene_expect_served(scene);
    scene->descriptors = daemon_descriptors(&scene->daemon);
    scene->memfd_bytes = daemon_memfd_bytes(&scene->daemon);
    scene->shared_bytes = daemon_shared_bytes(&scene->daemon);
    free(new_log(scene));
    read_counters(scene);
}

static void wait_alone(struct scene *scene)
{
    for (int i = 0; i < 1000; i++) {
        read_counters(scene);
        if (scene->seen.sessions == 1)
            return;
        sleep_ms(10);
    }
    fail_msg("%u sessions are left", scene->seen.sessions);
}

void scene_close(struct scene *scene)
{
    scene_expect_served(scene);
    wait_alone(scene);
    for (int i = 0; i < 100 && daemon_descriptors(&scene->daemon) > scene->descriptors; i++)
        sleep_ms(50);
    assert_int_equal(daemon_descriptors(&scene->daemon), scene->descriptors);
    assert_int_equal(daemon_memfd_bytes(&scene->daemon), scene->memfd_bytes);
    assert_int_equal(daemon_shared_bytes(&scene->daemon), scene->shared_bytes);
    agl_close(scene->good);
    daemon_wait_quiet(&scene->daemon);
    assert_int_equal(daemon_stop(&scene->daemon), 0);
}

void scene_expect_served(struct scene *scene)
{
    const uint32_t prompt[] = {11, 22, 33};
    const uint32_t expected[] = {11, 22, 33, 11};
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t answer[4];
    request.max_tokens = 4;
    struct agl_event done = daemon_ask(scene->good, request, prompt, 3, answer, 4);
    assert_int_equal(done.reason, AGL_DONE_LENGTH);
    assert_memory_equal(answer, expected, sizeof expected);
}

void scene_connect(const struct scene *scene, struct stranger *ret_stranger)
{
    int err = stranger_connect(ret_stranger, scene->daemon.socket_path);
    if (err < 0)
        fail_msg("cannot connect: %s", strerror(-err));
}

/* ---- the log ----------------------------------------------------------------------------------
 */

static uint32_t count_lines(const char *log, const char *text)
{
    uint32_t count = 0;
    for (const char *at = log; (at = strstr(at, text)); at += strcspn(at, "\n"))
        count++;
    return count;
}

uint32_t scene_log_lines(struct scene *scene, const char *text)
{
    char *log = new_log(scene);
    uint32_t count = count_lines(log, text);
    free(log);
    return count;
}

/* Refusals that the log tells of. */
static uint64_t count_refusals(const char *log)
{
    static const char more[] = " more clients were refused";
    uint64_t count =
        count_lines(log, "refused client \"") + count_lines(log, "broke the contract and is ended");
    for (const char *at = log; (at = strstr(at, more)); at++) {
        const char *number = at;
        while (number > log && number[-1] >= '0' && number[-1] <= '9')
            number--;
        count += strtoull(number, NULL, 10);
    }
    return count;
}

static void expect_one_line(struct scene *scene, const char *name, const char *text)
{
    char client[64];
    char *log = new_log(scene);
    snprintf(client, sizeof client, "refused client \"%s\" (process %d, user %u): ", name,
             (int)getpid(), (unsigned)getuid());
    const char *line = strstr(log, client);
    if (count_refusals(log) != 1 || !line || !strstr(line, text))
        fail_msg("the log must have one line with \"%s\" and \"%s\", it has:\n%s", client, text,
                 log);
    free(log);
}

/* ---- refusals ---------------------------------------------------------------------------------
 */

static void expect_counters(struct scene *scene, uint64_t refused, uint64_t broken)
{
    struct agl_status before = scene->seen;
    read_counters(scene);
    if (scene->seen.sessions_refused != before.sessions_refused + refused ||
        scene->seen.sessions_broken != before.sessions_broken + broken)
        fail_msg("%llu refused and %llu broken were counted, not %llu and %llu",
                 (unsigned long long)(scene->seen.sessions_refused - before.sessions_refused),
                 (unsigned long long)(scene->seen.sessions_broken - before.sessions_broken),
                 (unsigned long long)refused, (unsigned long long)broken);
}

/* No more than ten refusals begin within a second. */
static void keep_the_pace(struct scene *scene)
{
    const uint64_t pace_ns = 125 * ms_ns;
    uint64_t passed_ns = agl_now_ns() - scene->refused_ns;
    if (passed_ns < pace_ns)
        sleep_ms((pace_ns - passed_ns) / ms_ns + 1);
    scene->refused_ns = agl_now_ns();
}

void scene_expect_refused(struct scene *scene, int socket_fd, const char *name, int error,
                          const char *text)
{
    struct stranger_answer answer;
    if (stranger_receive(socket_fd, &answer, STRANGER_PATIENCE_MS) < 0)
        fail_msg("no answer came; expected \"%s\"", text);
    const struct message_error *refusal = &answer.message.error;
    if (answer.bytes != sizeof *refusal || refusal->header.kind != MESSAGE_ERROR)
        fail_msg("expected \"%s\", got %zu bytes of kind %u", text, answer.bytes,
                 refusal->header.kind);
    if (!strstr(refusal->text, text))
        fail_msg("the refusal says \"%s\", not \"%s\"", refusal->text, text);
    assert_int_equal(refusal->error, error);
    assert_int_equal(stranger_receive(socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
    assert_int_equal(answer.bytes, 0);
    expect_counters(scene, 1, error == -EPROTO);
    expect_one_line(scene, name, text);
    keep_the_pace(scene);
}

/* One refusal in a new second: it makes the log tell how many were left out before. */
static void provoke(struct scene *scene)
{
    struct stranger stranger;
    struct stranger_answer answer;
    sleep_ms(1100);
    scene_connect(scene, &stranger);
    assert_int_equal(stranger_send(stranger.socket_fd, "?", 1, NULL, 0), 1);
    assert_int_equal(stranger_receive(stranger.socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
    assert_int_equal(answer.message.error.error, -EPROTO);
    stranger_leave(&stranger);
    sleep_ms(1100);
}

void scene_wait_refused(struct scene *scene, uint64_t refused)
{
    struct agl_status now;
    for (int i = 0; i < 20000; i++) {
        assert_int_equal(agl_status(scene->good, &now), 0);
        if (now.sessions_refused - scene->seen.sessions_refused >= refused)
            return;
        sleep_ms(1);
    }
    fail_msg("%llu refused were counted, not %llu",
             (unsigned long long)(now.sessions_refused - scene->seen.sessions_refused),
             (unsigned long long)refused);
}

void scene_expect_counted(struct scene *scene, uint64_t refused, uint64_t broken)
{
    scene_wait_refused(scene, refused);
    provoke(scene);
    expect_counters(scene, refused + 1, broken + 1);
    char *log = new_log(scene);
    uint64_t logged = count_refusals(log);
    free(log);
    assert_int_equal(logged, refused + 1);
}
