/* What it costs to be connected and silent: the daemon's processor time and memory with thousands
 * of sessions, and a waiting client's. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/private.h"
#include "tests/integration/daemon.h"
#include "tests/support/test.h"

enum { SESSIONS = 5000, DAEMON_FDS = 3, CLIENT_FDS = 2, OTHER_FDS = 256, SECONDS = 4, TRIES = 3 };
static const uint64_t second_ns = 1000000000;
static const double idle_percent_max = 0.5;

/* As many sessions as the descriptors of one process allow. */
static uint32_t allowed_sessions(void)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < DAEMON_FDS * SESSIONS + OTHER_FDS)
        limit.rlim_max = DAEMON_FDS * SESSIONS + OTHER_FDS; /* as root */
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    uint64_t allowed = (limit.rlim_max - OTHER_FDS) / DAEMON_FDS;
    if (allowed >= SESSIONS)
        return SESSIONS;
    printf("RLIMIT_NOFILE is %llu: %llu sessions instead of %d\n",
           (unsigned long long)limit.rlim_max, (unsigned long long)allowed, SESSIONS);
    return (uint32_t)allowed;
}

static struct agl_client *connect_small(const struct daemon *daemon)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = daemon->socket_path;
    options.prompt_tokens = 1024;
    if (agl_connect(&client, &options) < 0)
        fail_msg("%s", agl_error_detail());
    return client;
}

/* Kilobytes of one line of /proc/PID/status. */
static uint64_t status_kib(const struct daemon *daemon, const char *key)
{
    char path[64], line[256];
    uint64_t kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)daemon->pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtoull(line + strlen(key) + 1, NULL, 10);
    fclose(file);
    return kib;
}

static double percent_of_a_core(const struct daemon *daemon)
{
    uint64_t before_ns = daemon_cpu_ns(daemon), start_ns = agl_now_ns();
    sleep(SECONDS);
    return (double)(daemon_cpu_ns(daemon) - before_ns) / (double)(agl_now_ns() - start_ns) * 100;
}

/* The least of some tries: others on the machine make everything dearer. */
static double idle_percent(const struct daemon *daemon)
{
    double least = percent_of_a_core(daemon);
    for (int i = 1; i < TRIES && least >= idle_percent_max; i++) {
        double percent = percent_of_a_core(daemon);
        least = percent < least ? percent : least;
    }
    return least;
}

static void an_idle_daemon_uses_little_for_thousands_of_sessions(void **state)
{
    struct daemon daemon;
    const char *const flags[] = {"--model",
                                 "echo=echo:",
                                 "--sessions-max",
                                 "6000",
                                 "--sessions-per-user",
                                 "6000",
                                 "--user-memory-mib",
                                 "0",
                                 "--handshake-ms",
                                 "30000", /* thousands on a busy machine */
                                 NULL};
    uint32_t count = allowed_sessions();
    struct agl_client **clients = calloc(count, sizeof(struct agl_client *));
    assert_non_null(clients);
    daemon_start(&daemon, flags);
    clients[0] = connect_small(&daemon);
    uint64_t heap_kib = status_kib(&daemon, "RssAnon:");
    for (uint32_t i = 1; i < count; i++)
        clients[i] = connect_small(&daemon);
    const uint32_t prompt[] = {8};
    uint32_t answer[4];
    struct agl_request request = AGL_REQUEST_INIT;
    request.max_tokens = 2;
    for (uint32_t i = 0; i < count; i += 100) /* all of them are alive */
        daemon_ask(clients[i], request, prompt, 1, answer, 4);

    heap_kib = status_kib(&daemon, "RssAnon:") - heap_kib;
    double heap = (double)heap_kib / (count - 1);
    double half = (double)daemon_half_bytes(&clients[0]->geometry) / 1024;
    sleep(2);
    double percent = idle_percent(&daemon);
    printf("idle with %u sessions: %.3f %% of a core; of the daemon's memory %.1f KiB a session "
           "(%.0f its half, %.1f its records)\n",
           count, percent, heap + half, half, heap);
    if (!IS_SANITIZED) {
        assert_true(percent < idle_percent_max);
        assert_true(heap + half < 16);
    }
    for (uint32_t i = 0; i < count; i++)
        agl_close(clients[i]);
    free(clients);
    assert_int_equal(daemon_stop(&daemon), 0);
}

/* A child that waits for an event that never comes; its parent looks how often it ran. */
static void wait_for_ever(const struct daemon *daemon)
{
    struct agl_client *client = connect_small(daemon);
    struct agl_event event;
    agl_wait(client, &event, UINT64_MAX);
    _exit(0);
}

static void read_usage(pid_t pid, uint64_t *ret_switches, uint64_t *ret_run_ns)
{
    struct daemon as_daemon = {.pid = pid};
    *ret_switches = status_kib(&as_daemon, "voluntary_ctxt_switches:");
    *ret_run_ns = daemon_cpu_ns(&as_daemon);
}

/* Until it is connected and the first, short sleep is over: it has not run for half a second. */
static void await_sleep(pid_t pid)
{
    enum { LOOKS_MAX = 60, HALF_A_SECOND_US = 500000 };
    uint64_t before = 0, now = 0, run_ns;
    for (int i = 0; i < LOOKS_MAX && (now == 0 || now != before); i++) {
        before = now;
        usleep(HALF_A_SECOND_US);
        read_usage(pid, &now, &run_ns);
    }
    assert_int_equal(now, before);
}

static void an_idle_client_does_not_run_at_all(void **state)
{
    struct daemon daemon;
    const char *const flags[] = {"--model", "echo=echo:", "--handshake-ms", "30000", NULL};
    daemon_start(&daemon, flags);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        wait_for_ever(&daemon);
    await_sleep(child);
    uint64_t switches[2], run_ns[2];
    read_usage(child, &switches[0], &run_ns[0]);
    sleep(2);
    read_usage(child, &switches[1], &run_ns[1]);
    printf("idle client: ran %llu times in 2 s, %.6f %% of a core\n",
           (unsigned long long)(switches[1] - switches[0]),
           (double)(run_ns[1] - run_ns[0]) / (2.0 * (double)second_ns) * 100);
    assert_int_equal(switches[1] - switches[0], 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(daemon_stop(&daemon), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_daemon_uses_little_for_thousands_of_sessions),
        cmocka_unit_test(an_idle_client_does_not_run_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
