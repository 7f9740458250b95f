#include "tests/integration/daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/test.h"

enum { FLAGS_MAX = 32, START_TRIES = 2000, TRY_NS = 10000000 };

static void sleep_ns(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

/* With descriptors in hand of what the user could not open himself: program and log. */
static void become(uid_t uid)
{
    if (uid != getuid() && (setgroups(0, NULL) < 0 || setgid(uid) < 0 || setuid(uid) < 0))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed leaves no daemon behind */
}

static void run_daemon(const struct daemon *daemon, const char *const *flags, uid_t uid)
{
    const char *arguments[FLAGS_MAX + 6] = {AGL_DAEMON_PROGRAM, "--socket", daemon->socket_path,
                                            "--instance", daemon->instance};
    for (int i = 0; flags[i] && i < FLAGS_MAX; i++)
        arguments[5 + i] = flags[i];
    int program = open(AGL_DAEMON_PROGRAM, O_PATH | O_CLOEXEC);
    int log = open(daemon->log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, STDERR_FILENO);
    dup2(log, STDOUT_FILENO);
    close(log);
    become(uid);
    fexecve(program, (char *const *)arguments, environ);
    _exit(127);
}

static void fail_with_log(const struct daemon *daemon, const char *what)
{
    char *log = test_read_file(daemon->log_path, NULL);
    fprintf(stderr, "--- log of autoglmd ---\n%s---\n", log);
    free(log);
    fail_msg("autoglmd %s", what);
}

static void launch(struct daemon *daemon, const char *const *flags, uid_t uid)
{
    daemon->pid = fork();
    assert_true(daemon->pid >= 0);
    if (daemon->pid == 0)
        run_daemon(daemon, flags, uid);

    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = daemon->socket_path;
    for (int i = 0; i < START_TRIES; i++) {
        struct agl_client *client = NULL;
        if (agl_connect(&client, &options) == 0) {
            agl_close(client);
            return;
        }
        if (waitpid(daemon->pid, NULL, WNOHANG) == daemon->pid)
            fail_with_log(daemon, "ended before it served");
        sleep_ns(TRY_NS);
    }
    kill(daemon->pid, SIGKILL);
    fail_with_log(daemon, "did not serve in time");
}

void daemon_start(struct daemon *ret_daemon, const char *const *flags)
{
    daemon_start_as(ret_daemon, flags, getuid());
}

void daemon_start_as(struct daemon *ret_daemon, const char *const *flags, uid_t uid)
{
    static int number;
    struct daemon *daemon = ret_daemon;
    test_folder(daemon->folder);
    snprintf(daemon->socket_path, sizeof daemon->socket_path, "%.90s/socket", daemon->folder);
    snprintf(daemon->log_path, sizeof daemon->log_path, "%s/log", daemon->folder);
    snprintf(daemon->instance, sizeof daemon->instance, "test-%d-%d", (int)getpid(), number++);
    if (uid != getuid())
        assert_true(chmod(daemon->folder, 0755) == 0 && chown(daemon->folder, uid, uid) == 0);
    launch(daemon, flags, uid);
}

void daemon_restart(struct daemon *daemon, const char *const *flags)
{
    launch(daemon, flags, getuid());
}

int daemon_stop(struct daemon *daemon)
{
    int status = 0;
    kill(daemon->pid, SIGTERM);
    assert_int_equal(waitpid(daemon->pid, &status, 0), daemon->pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        char *log = test_read_file(daemon->log_path, NULL);
        fprintf(stderr, "--- log of autoglmd ---\n%s---\n", log);
        free(log);
    }
    test_remove_folder(daemon->folder);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

uint64_t daemon_die(struct daemon *daemon)
{
    uint64_t now_ns = agl_now_ns();
    kill(daemon->pid, SIGKILL);
    assert_int_equal(waitpid(daemon->pid, NULL, 0), daemon->pid);
    return now_ns;
}

void daemon_kill(struct daemon *daemon)
{
    char board[64];
    daemon_die(daemon);
    snprintf(board, sizeof board, "/autoglm.%s", daemon->instance);
    shm_unlink(board); /* what only the next daemon of that instance would replace */
    test_remove_folder(daemon->folder);
}

struct agl_client *daemon_connect(const struct daemon *daemon)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = daemon->socket_path;
    options.max_requests = 64;
    int err = agl_connect(&client, &options);
    if (err < 0)
        fail_msg("cannot connect: %s: %s", agl_strerror(err), agl_error_detail());
    return client;
}

int daemon_descriptors_now(const struct daemon *daemon)
{
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon->pid);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

int daemon_descriptors(const struct daemon *daemon)
{
    /* Who has just left still has some for a moment. */
    int least = daemon_descriptors_now(daemon);
    for (int i = 0; i < 30; i++) {
        sleep_ns(TRY_NS);
        int count = daemon_descriptors_now(daemon);
        least = count < least ? count : least;
    }
    return least;
}

/* Number of the line of /proc/PID/FILE that begins with `key`. */
static uint64_t read_proc_number(const struct daemon *daemon, const char *name, const char *key)
{
    char path[64];
    char line[256];
    unsigned long long value = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)daemon->pid, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtoull(line + strlen(key), NULL, 10);
    fclose(file);
    return value;
}

uint64_t daemon_mapped_bytes(const struct daemon *daemon)
{
    return read_proc_number(daemon, "status", "VmSize:") * 1024;
}

uint64_t daemon_shared_bytes(const struct daemon *daemon)
{
    return read_proc_number(daemon, "status", "RssShmem:") * 1024;
}

int daemon_session_mappings(const struct daemon *daemon)
{
    char path[64];
    char line[512];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)daemon->pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        count += strstr(line, "memfd:autoglm-client") || strstr(line, "memfd:autoglm-daemon");
    fclose(file);
    return count;
}

uint64_t daemon_memfd_bytes(const struct daemon *daemon)
{
    char path[64];
    char line[512];
    unsigned long long from = 0, to = 0;
    uint64_t sum = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)daemon->pid);
    FILE *maps = fopen(path, "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "/memfd:") && sscanf(line, "%llx-%llx", &from, &to) == 2)
            sum += to - from;
    fclose(maps);
    return sum;
}

/* What the scheduler says of a thread: its time on a processor, and the time in which it wanted one
 * and got none. Nothing of one that has just ended. */
static void read_schedule(pid_t process, pid_t thread, uint64_t *ret_run_ns, uint64_t *ret_wait_ns)
{
    char path[128];
    unsigned long long run_ns = 0, wait_ns = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", (int)process, (int)thread);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%llu %llu", &run_ns, &wait_ns) != 2)
        run_ns = wait_ns = 0;
    if (file)
        fclose(file);
    *ret_run_ns = run_ns;
    *ret_wait_ns = wait_ns;
}

uint64_t thread_starved_ns(pid_t process, pid_t thread)
{
    uint64_t run_ns, wait_ns;
    read_schedule(process, thread, &run_ns, &wait_ns);
    return wait_ns;
}

/* Calls `visit` for each thread; the kernel's workers for it count as such. */
static void visit_threads(const struct daemon *daemon,
                          void (*visit)(const struct daemon *, pid_t, uint64_t *), uint64_t *sum)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)daemon->pid);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
        if (entry->d_name[0] != '.')
            visit(daemon, (pid_t)strtol(entry->d_name, NULL, 10), sum);
    closedir(folder);
}

static void add_run(const struct daemon *daemon, pid_t thread, uint64_t *sum)
{
    uint64_t run_ns, wait_ns;
    read_schedule(daemon->pid, thread, &run_ns, &wait_ns);
    *sum += run_ns;
}

static bool is_engine(const struct daemon *daemon, pid_t thread)
{
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%d/comm", (int)daemon->pid, (int)thread);
    FILE *file = fopen(path, "r");
    if (file && !fgets(name, sizeof name, file))
        name[0] = 0;
    if (file)
        fclose(file);
    return strcmp(name, "engine\n") == 0;
}

static void add_wait(const struct daemon *daemon, pid_t thread, uint64_t *sum)
{
    if (thread == daemon->pid || is_engine(daemon, thread))
        *sum += thread_starved_ns(daemon->pid, thread);
}

uint64_t daemon_cpu_ns(const struct daemon *daemon)
{
    uint64_t sum = 0;
    visit_threads(daemon, add_run, &sum);
    return sum;
}

uint64_t daemon_starved_ns(const struct daemon *daemon)
{
    uint64_t sum = 0;
    visit_threads(daemon, add_wait, &sum);
    return sum;
}

static int is_quiet(const struct agl_client *client)
{
    struct agl_status status;
    struct agl_model model;
    assert_int_equal(agl_status(client, &status), 0);
    if (status.sessions != 1 || status.requests_queued || status.requests_running)
        return 0;
    for (uint32_t i = 0; i < status.model_count; i++) {
        assert_int_equal(agl_model(client, i, &model), 0);
        if (model.blocks_free != model.blocks)
            return 0;
    }
    return 1;
}

void daemon_wait_quiet(const struct daemon *daemon)
{
    struct agl_client *client = daemon_connect(daemon);
    int quiet = 0;
    for (int i = 0; i < 500 && !quiet; i++) {
        quiet = is_quiet(client);
        if (!quiet)
            sleep_ns(TRY_NS);
    }
    if (!quiet) {
        struct agl_status status;
        struct agl_model model;
        agl_status(client, &status);
        agl_model(client, 0, &model);
        agl_close(client);
        fail_msg("still %u sessions, %u queued, %u running, %u of %u blocks free", status.sessions,
                 status.requests_queued, status.requests_running, model.blocks_free, model.blocks);
    }
    agl_close(client);
}

uint32_t daemon_submit(struct agl_client *client, struct agl_request request, const uint32_t *ids,
                       uint32_t count)
{
    uint32_t *place = NULL;
    uint32_t id = 0;
    int err = agl_prompt(client, count, &place);
    if (err == 0) {
        memcpy(place, ids, count * sizeof *ids);
        request.prompt_tokens = count;
        err = agl_submit(client, &request, &id);
    }
    if (err < 0)
        fail_msg("cannot submit: %s: %s", agl_strerror(err), agl_error_detail());
    return id;
}

struct agl_event daemon_ask(struct agl_client *client, struct agl_request request,
                            const uint32_t *ids, uint32_t count, uint32_t *ret_ids,
                            uint32_t capacity)
{
    struct agl_event event = {0};
    uint32_t got = 0;
    uint32_t id = daemon_submit(client, request, ids, count);
    while (event.kind != AGL_EVENT_DONE) {
        int err = agl_wait(client, &event, 60000000000ull);
        if (err < 0)
            fail_msg("no event: %s: %s", agl_strerror(err), agl_error_detail());
        assert_int_equal(event.request, id);
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++) {
            assert_true(got < capacity);
            assert_int_equal(event.index + i, got);
            ret_ids[got++] = event.tokens[i].id;
        }
    }
    assert_int_equal(event.generated_tokens, got);
    return event;
}
