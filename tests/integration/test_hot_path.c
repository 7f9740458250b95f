/* The client's hot path against a daemon that is awake: no system call, seen with strace; no
 * allocation and no lock, counted. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/daemon.h"
#include "tests/support/test.h"

enum { WARM_UP = 500, TRIPS = 10000, TOKENS = 3, PROMPT = 4 };

/* Where the daemon stands still for 100 ms, the client looks whether it lives. That is the
 * machine's doing, and on one that is not overloaded some trips of a few seconds see it a few times
 * at most. */
enum { LOOKS_MAX = 10, TRIES = 5 };

static const char *const spin_flags[] = {"--model", "echo=echo:", "--wait", "spin", NULL};
static bool is_counting;
static uint32_t calls;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
int __real_pthread_mutex_lock(pthread_mutex_t *mutex);

void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes)
{
    calls += is_counting;
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
    calls += is_counting;
    return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes)
{
    calls += is_counting;
    return __real_realloc(memory, bytes);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    calls += is_counting;
    return __real_pthread_mutex_lock(mutex);
}

static struct agl_client *connect_spinning(const char *socket_path)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = socket_path;
    options.wait_mode = AGL_WAIT_SPIN;
    return agl_connect(&client, &options) < 0 ? NULL : client;
}

/* One request with all of its events, half of them polled for and half waited for. Asserts nothing,
 * since assertions may call whom they like. */
static bool make_trip(struct agl_client *client, uint32_t number)
{
    struct agl_request request = AGL_REQUEST_INIT;
    struct agl_event event = {.kind = 0};
    uint32_t *place, id, tokens = 0;
    request.prompt_tokens = PROMPT;
    request.max_tokens = TOKENS;
    if (agl_prompt(client, PROMPT, &place) < 0)
        return false;
    for (uint32_t i = 0; i < PROMPT; i++)
        place[i] = number % 100 + i;
    if (agl_submit(client, &request, &id) < 0)
        return false;
    while (event.kind != AGL_EVENT_DONE) {
        int got = number % 2 ? agl_poll(client, &event) : agl_wait(client, &event, UINT64_MAX);
        if (got < 0)
            return false;
        if (got == 1 && event.kind == AGL_EVENT_TOKENS)
            tokens += event.token_count;
    }
    return event.reason == AGL_DONE_LENGTH && tokens == TOKENS;
}

static bool make_trips(struct agl_client *client, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!make_trip(client, i))
            return false;
    return true;
}

/* What strace watches: trips between two calls that stand for nothing else. */
static int run_traced(const char *socket_path)
{
    struct agl_client *client = connect_spinning(socket_path);
    if (!client || !make_trips(client, WARM_UP))
        return 1;
    getppid();
    bool is_right = make_trips(client, TRIPS);
    getppid();
    agl_close(client);
    return is_right ? 0 : 1;
}

static void neither_memory_nor_locks_are_asked_for(void **state)
{
    struct daemon daemon;
    if (IS_SANITIZED)
        test_skip("sanitizers wrap the same functions");
    daemon_start(&daemon, spin_flags);
    struct agl_client *client = connect_spinning(daemon.socket_path);
    assert_non_null(client);
    assert_true(make_trips(client, WARM_UP));
    calls = 0;
    is_counting = true;
    bool is_right = make_trips(client, TRIPS);
    is_counting = false;
    assert_true(is_right);
    assert_int_equal(calls, 0);
    agl_close(client);
    assert_int_equal(daemon_stop(&daemon), 0);
}

enum { NO_STRACE = 127 };

static pid_t start_strace(const char *socket_path, const char *output)
{
    char self[4096];
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(bytes > 0);
    self[bytes] = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execlp("strace", "strace", "-f", "-o", output, self, "--traced", socket_path, (char *)NULL);
        _exit(errno == ENOENT ? NO_STRACE : 1);
    }
    return child;
}

/* Lines of strace's output between the two marks; each is a system call. */
static uint32_t count_between_marks(const char *text)
{
    const char *begin = strstr(text, "getppid(");
    assert_non_null(begin);
    const char *end = strstr(begin + 1, "getppid(");
    assert_non_null(end);
    uint32_t lines = 0;
    for (const char *at = begin; at < end; at++)
        lines += *at == '\n';
    return lines - 1;
}

/* The system calls of all trips; -1: there is no strace. One that is there must do its work. */
static int64_t count_calls(const struct daemon *daemon)
{
    char output[4300];
    int status;
    snprintf(output, sizeof output, "%s/strace", daemon->folder);
    pid_t child = start_strace(daemon->socket_path, output);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_STRACE)
        return -1;
    if (status != 0)
        fail_msg("strace, or what it watched, ended with status %#x", status);
    char *text = test_read_file(output, NULL);
    uint32_t seen = count_between_marks(text);
    free(text);
    unlink(output);
    printf("strace: %u system calls in %d requests of %d events\n", seen, TRIPS, TOKENS + 2);
    return seen;
}

static void strace_sees_no_system_call(void **state)
{
    struct daemon daemon;
    if (IS_SANITIZED)
        test_skip("sanitizers make system calls of their own");
    daemon_start(&daemon, spin_flags);
    int64_t least = count_calls(&daemon);
    for (int i = 1; i < TRIES && least > LOOKS_MAX; i++) {
        int64_t seen = count_calls(&daemon);
        least = seen < least ? seen : least;
    }
    assert_int_equal(daemon_stop(&daemon), 0);
    if (least < 0)
        test_skip("there is no strace here");
    assert_true(least <= LOOKS_MAX);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neither_memory_nor_locks_are_asked_for),
        cmocka_unit_test(strace_sees_no_system_call),
    };
    if (argc == 3 && strcmp(argv[1], "--traced") == 0)
        return run_traced(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
