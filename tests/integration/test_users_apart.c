/*
 * Users beside each other at one daemon, as different users of the machine: what belongs to one
 * cannot be read, changed, cancelled or seen by another, who may connect is what socket and
 * configuration say, and what one user may have at once is his own affair.
 *
 * Needs root, to be somebody else.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/integration/actor.h"
#include "tests/integration/daemon.h"
#include "tests/support/stranger.h"
#include "tests/support/test.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static const struct who user_a = {.uid = ACTOR_A};
static const struct who user_b = {.uid = ACTOR_B};

static const uint64_t second_ns = 1000000000;

static const char *const open_flags[] = {
    "--model", "echo=echo:", "--socket-mode", "0666", "--slow-reader-ms", "600000", NULL};

/* Shared with the children: where A is, what it has. */
struct world {
    char socket_path[108];
    pid_t daemon_pid;
    int daemon_fd;         /* one of shared memory */
    uintptr_t daemon_half; /* where a half is mapped */
    pid_t victim;
    int victim_fd;
    uintptr_t victim_half;
    uint32_t running, kept; /* requests */
};

static struct world *world;

static void world_open(const struct daemon *daemon)
{
    world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(world != MAP_FAILED);
    memcpy(world->socket_path, daemon->socket_path, sizeof world->socket_path);
    world->daemon_pid = daemon->pid;
}

static void world_close(struct daemon *daemon)
{
    munmap(world, sizeof *world);
    daemon_wait_quiet(daemon);
    assert_int_equal(daemon_stop(daemon), 0);
}

/* ---- children's parts --------------------------------------------------------------------------
 */

static void come_in(struct stranger *ret_stranger, const char *name)
{
    struct message_hello hello = stranger_hello(name);
    int err = stranger_connect(ret_stranger, world->socket_path);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
    err = stranger_enter(ret_stranger, &hello);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
}

static void push(struct stranger *stranger, const struct submission *submission)
{
    int err = stranger_submit(stranger, submission);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
}

static void next_event(struct stranger *stranger, struct event *ret_event)
{
    int err = stranger_wait(stranger, ret_event, STRANGER_PATIENCE_MS);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
}

/* Reads until the request is done; its tokens are those of an echo of 1, 2, ..., prompt_tokens. */
static void hear_out(struct stranger *stranger, uint32_t id, uint32_t prompt_tokens,
                     struct event *ret_done)
{
    struct event event = {.kind = 0};
    while (event.kind != EVENT_DONE) {
        next_event(stranger, &event);
        ACTOR_CHECK(event.request == id, "request %u", event.request);
        for (uint32_t i = 0; event.kind == EVENT_TOKENS && i < event.count; i++)
            ACTOR_CHECK(event.tokens[i].id == 1 + (event.index + i) % prompt_tokens,
                        "token %u is %u", event.index + i, event.tokens[i].id);
    }
    *ret_done = event;
}

/* ---- looking into each other --------------------------------------------------------------------
 */

/* Ways to the memory of another process; each gives 0 when it leads there. */
static int by_its_descriptor(pid_t pid, int fd, uintptr_t address)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
    int own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0)
        return -errno;
    void *map = mmap(NULL, LAYOUT_PAGE_BYTES, PROT_READ, MAP_SHARED, own, 0);
    close(own);
    return map == MAP_FAILED ? -errno : 0;
}

static int by_its_folder(pid_t pid, int fd, uintptr_t address)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *folder = opendir(path);
    if (!folder)
        return -errno;
    closedir(folder);
    return 0;
}

static int by_its_maps(pid_t pid, int fd, uintptr_t address)
{
    char path[64], byte;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    int own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0)
        return -errno;
    int err = read(own, &byte, 1) == 1 ? 0 : -EACCES;
    close(own);
    return err;
}

static int by_its_memory(pid_t pid, int fd, uintptr_t address)
{
    char path[64], byte;
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0)
        return -errno;
    int err = pread(own, &byte, 1, (off_t)address) == 1 ? 0 : -EACCES;
    close(own);
    return err;
}

static int by_reading_it(pid_t pid, int fd, uintptr_t address)
{
    char byte;
    struct iovec to = {.iov_base = &byte, .iov_len = 1};
    struct iovec from = {.iov_base = (void *)address, .iov_len = 1};
    return process_vm_readv(pid, &to, 1, &from, 1, 0) < 0 ? -errno : 0;
}

static int by_taking_its_descriptor(pid_t pid, int fd, uintptr_t address)
{
    int process = (int)syscall(SYS_pidfd_open, pid, 0);
    if (process < 0)
        return -errno;
    int own = (int)syscall(SYS_pidfd_getfd, process, fd, 0);
    int err = own < 0 ? -errno : 0;
    close(process);
    if (own >= 0)
        close(own);
    return err;
}

static int by_debugging_it(pid_t pid, int fd, uintptr_t address)
{
    int status;
    if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) < 0)
        return -errno;
    waitpid(pid, &status, 0);
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    return 0;
}

static const struct {
    const char *what;
    int (*way)(pid_t pid, int fd, uintptr_t address);
} ways[] = {
    {"/proc/PID/fd/N", by_its_descriptor}, {"/proc/PID/fd", by_its_folder},
    {"/proc/PID/maps", by_its_maps},       {"/proc/PID/mem", by_its_memory},
    {"process_vm_readv", by_reading_it},   {"pidfd_getfd", by_taking_its_descriptor},
    {"ptrace", by_debugging_it},
};
enum { WAYS = sizeof ways / sizeof *ways };

static void be_the_victim(const struct stage *stage, void *context)
{
    struct stranger stranger;
    come_in(&stranger, "victim");
    world->victim = getpid();
    world->victim_fd = stranger.half.fd;
    world->victim_half = (uintptr_t)stranger.half.base;
    stage_tell(stage);
    stage_hear(stage);
    stranger_leave(&stranger);
}

static int count_open_ways(pid_t pid, int fd, uintptr_t address, const char *whose)
{
    int open_ways = 0;
    for (int i = 0; i < WAYS; i++) {
        int err = ways[i].way(pid, fd, address);
        printf("  user %u, to %s by %s: %s\n", getuid(), whose, ways[i].what,
               err < 0 ? strerror(-err) : "open");
        open_ways += err == 0;
    }
    return open_ways;
}

/* The same user: these ways do lead there, save what the machine forbids to all (some allow no
 * debugging of strangers), or this test would try nothing. */
static void try_as_the_victims_user(const struct stage *stage, void *context)
{
    ACTOR_CHECK(
        count_open_ways(world->victim, world->victim_fd, world->victim_half, "his own half") >= 3,
        "the ways are no ways");
}

static void try_as_the_daemons_user(const struct stage *stage, void *context)
{
    ACTOR_CHECK(count_open_ways(world->daemon_pid, world->daemon_fd, world->daemon_half,
                                "his own daemon") >= 3,
                "the ways are no ways");
}

static void try_as_another_user(const struct stage *stage, void *context)
{
    ACTOR_CHECK(
        count_open_ways(world->victim, world->victim_fd, world->victim_half, "another's half") == 0,
        "a way is open");
    ACTOR_CHECK(
        count_open_ways(world->daemon_pid, world->daemon_fd, world->daemon_half, "the daemon") == 0,
        "a way is open");
}

/* Root may look: a descriptor of shared memory, and where the victim's half is. */
static void look_into_daemon(void)
{
    enum { DESCRIPTORS = 64 };
    char path[64], line[512];
    world->daemon_fd = -1;
    for (int fd = 0; fd < DESCRIPTORS && world->daemon_fd < 0; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)world->daemon_pid, fd);
        ssize_t length = readlink(path, line, sizeof line - 1);
        if (length > 0 && strncmp(line, "/memfd:", 7) == 0)
            world->daemon_fd = fd;
    }
    assert_true(world->daemon_fd >= 0);
    snprintf(path, sizeof path, "/proc/%d/maps", (int)world->daemon_pid);
    FILE *maps = fopen(path, "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "/memfd:stranger"))
            world->daemon_half = (uintptr_t)strtoull(line, NULL, 16);
    fclose(maps);
    assert_true(world->daemon_half != 0);
}

static void another_user_finds_no_way_to_a_session(void **state)
{
    const struct who daemon_user = {.uid = ACTOR_DAEMON};
    struct daemon daemon;
    struct actor victim;
    daemon_start_as(&daemon, open_flags, ACTOR_DAEMON);
    world_open(&daemon);
    actor_start(&victim, &user_a, be_the_victim, NULL);
    actor_hear(&victim);
    look_into_daemon();
    actor_run(&user_a, try_as_the_victims_user, NULL);
    actor_run(&daemon_user, try_as_the_daemons_user, NULL);
    actor_run(&user_b, try_as_another_user, NULL);
    actor_say(&victim);
    actor_end(&victim);
    world_close(&daemon);
}

/* ---- requests of another -----------------------------------------------------------------------
 */

enum { RUNNING_TOKENS = 4000, KEPT_PROMPT = 5 };

static void have_requests(const struct stage *stage, void *context)
{
    struct stranger stranger;
    struct event event = {.kind = 0};
    come_in(&stranger, "owner");
    struct submission kept = stranger_request(&stranger, 16, KEPT_PROMPT, 3);
    kept.flags = SUBMISSION_KEEP;
    push(&stranger, &kept);
    hear_out(&stranger, 16, KEPT_PROMPT, &event);
    struct submission running = stranger_request(&stranger, 33, 7, RUNNING_TOKENS);
    push(&stranger, &running);
    while (event.kind != EVENT_TOKENS)
        next_event(&stranger, &event);
    world->kept = kept.request;
    world->running = running.request;
    uint32_t heard = event.count;
    stage_tell(stage);
    stage_hear(stage);

    /* Neither was touched. */
    hear_out(&stranger, 33, 7, &event);
    ACTOR_CHECK(event.reason == DONE_LENGTH, "reason %u", event.reason);
    ACTOR_CHECK(event.done.generated_tokens == RUNNING_TOKENS, "%u tokens, %u heard before",
                event.done.generated_tokens, heard);
    struct submission more = stranger_request(&stranger, 50, 1, 1);
    more.op = SUBMISSION_EXTEND;
    more.parent = 16;
    push(&stranger, &more);
    while (event.request != 50 || event.kind != EVENT_DONE)
        next_event(&stranger, &event);
    ACTOR_CHECK(event.reason == DONE_LENGTH, "reason %u, error %d", event.reason, event.done.error);
    ACTOR_CHECK(event.done.prompt_tokens == KEPT_PROMPT + 3 + 1, "%u tokens of history",
                event.done.prompt_tokens);
    stranger_leave(&stranger);
}

static void attack_requests(const struct stage *stage, void *context)
{
    const uint32_t ids[] = {world->running, world->kept};
    struct stranger stranger;
    struct event event;
    come_in(&stranger, "attacker");
    for (int i = 0; i < 2; i++) {
        struct submission change = {.op = SUBMISSION_SET_PRIORITY, .request = ids[i]};
        push(&stranger, &change);
        change.op = SUBMISSION_CANCEL;
        push(&stranger, &change);
        struct submission extend = stranger_request(&stranger, 7 + (uint32_t)i, 1, 1);
        extend.op = SUBMISSION_EXTEND;
        extend.parent = ids[i];
        push(&stranger, &extend);
        next_event(&stranger, &event);
        ACTOR_CHECK(event.kind == EVENT_DONE && event.reason == DONE_REFUSED, "kind %u, reason %u",
                    event.kind, event.reason);
        ACTOR_CHECK(event.done.error == -ENOENT, "error %d", event.done.error);
        change.op = SUBMISSION_DETACH;
        push(&stranger, &change);
    }
    /* All of it was read, and the session was not ended for it. */
    struct submission last = stranger_request(&stranger, 16, 2, 2);
    push(&stranger, &last);
    hear_out(&stranger, 16, 2, &event);
    stranger_leave(&stranger);
}

static void another_user_cannot_cancel_or_continue_a_request(void **state)
{
    struct daemon daemon;
    struct actor owner;
    daemon_start_as(&daemon, open_flags, ACTOR_DAEMON);
    world_open(&daemon);
    actor_start(&owner, &user_a, have_requests, NULL);
    actor_hear(&owner);
    actor_run(&user_b, attack_requests, NULL);
    actor_say(&owner);
    actor_end(&owner);
    world_close(&daemon);
}

/* ---- the board ---------------------------------------------------------------------------------
 */

static const char secret_name[] = "secret-name";
static const uint32_t secret_prompt[] = {54321, 54322, 54323};

/* What the bytes of a board tell that they should not; NULL: nothing. */
static const char *find_secret(const uint8_t *bytes, size_t count)
{
    const uint32_t numbers[] = {(uint32_t)world->victim, ACTOR_A};
    if (memmem(bytes, count, secret_name, strlen(secret_name)))
        return "the client's name";
    for (size_t i = 0; i < 3; i++)
        if (memmem(bytes, count, &secret_prompt[i], sizeof *secret_prompt))
            return "an id of the prompt";
    for (size_t at = 0; at + 4 <= count; at += 4) {
        if (memcmp(bytes + at, &numbers[0], 4) == 0)
            return "the client's process";
        if (memcmp(bytes + at, &numbers[1], 4) == 0)
            return "the client's user";
    }
    return NULL;
}

static void have_secrets(const struct stage *stage, void *context)
{
    struct stranger stranger;
    struct event event;
    come_in(&stranger, secret_name);
    world->victim = getpid();
    struct submission kept = stranger_request(&stranger, 16, 3, 3);
    memcpy(stranger.arena, secret_prompt, sizeof secret_prompt);
    kept.flags = SUBMISSION_KEEP;
    push(&stranger, &kept);
    do
        next_event(&stranger, &event);
    while (event.kind != EVENT_DONE);
    ACTOR_CHECK(event.reason == DONE_LENGTH, "reason %u", event.reason);
    kept = stranger_request(&stranger, 17, 3, 20000); /* runs, and then waits for a reader */
    memcpy(stranger.arena, secret_prompt, sizeof secret_prompt);
    push(&stranger, &kept);
    next_event(&stranger, &event);
    stage_tell(stage);
    stage_hear(stage);
    stranger_leave(&stranger);
}

static void read_the_board(const struct stage *stage, void *context)
{
    const char *instance = context;
    struct stranger stranger;
    char path[64];
    come_in(&stranger, "reader");
    const uint8_t *board =
        mmap(NULL, stranger.board_bytes, PROT_READ, MAP_SHARED, stranger.board_fd, 0);
    ACTOR_CHECK(board != MAP_FAILED, "%s", strerror(errno));
    const char *secret = find_secret(board, stranger.board_bytes);
    ACTOR_CHECK(!secret, "the board tells %s", secret);
    ACTOR_CHECK(memmem(board, stranger.board_bytes, instance, strlen(instance)), "it is no board");
    const struct board *totals = (const void *)board;
    ACTOR_CHECK(totals->sessions == 2 && totals->requests_running == 1, "%u sessions, %u requests",
                totals->sessions, totals->requests_running);
    snprintf(path, sizeof path, "/dev/shm/autoglm.%s", instance);
    ACTOR_CHECK(open(path, O_RDONLY) < 0 && errno == EACCES, "%s", path);
    stranger_leave(&stranger);
}

static void the_board_tells_totals_only(void **state)
{
    struct daemon daemon;
    struct actor owner;
    char path[64];
    size_t bytes;
    daemon_start_as(&daemon, open_flags, ACTOR_DAEMON);
    world_open(&daemon);
    actor_start(&owner, &user_a, have_secrets, NULL);
    actor_hear(&owner);
    actor_run(&user_b, read_the_board, daemon.instance);
    sleep(2); /* the copy is up to a second old */
    snprintf(path, sizeof path, "/dev/shm/autoglm.%s", daemon.instance);
    char *copy = test_read_file(path, &bytes);
    const char *secret = find_secret((const uint8_t *)copy, bytes);
    if (secret)
        fail_msg("the named board tells %s", secret);
    assert_int_equal(((const struct board *)(const void *)copy)->requests_running, 1);
    free(copy);
    actor_say(&owner);
    actor_end(&owner);
    world_close(&daemon);
}

/* ---- who is let in -----------------------------------------------------------------------------
 */

/* What agl_connect() must say; 0: it lets in and serves. */
struct verdict {
    int error;
    const char *detail;
};

static void try_to_connect(const struct stage *stage, void *context)
{
    const struct verdict *verdict = context;
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = world->socket_path;
    int err = agl_connect(&client, &options);
    ACTOR_CHECK(err == verdict->error, "%s: %s", agl_strerror(err), agl_error_detail());
    if (err < 0)
        ACTOR_CHECK(strstr(agl_error_detail(), verdict->detail), "%s", agl_error_detail());
    agl_close(client);
}

static struct verdict welcome = {.error = 0};
static struct verdict no_permission = {-EACCES, "Permission denied"};
static struct verdict not_listed = {-EACCES, "this user is not let in (allow_users, allow_groups)"};

static void start_for_group(struct daemon *ret_daemon, const char *mode, const char *group)
{
    const char *const flags[] = {"--model", "echo=echo:", "--socket-mode", mode, "--socket-group",
                                 group,     NULL};
    daemon_start(ret_daemon, flags);
    assert_int_equal(chmod(ret_daemon->folder, 0755), 0);
    world_open(ret_daemon);
}

static void the_socket_lets_in_whom_its_permissions_say(void **state)
{
    struct daemon daemon;
    const struct group *group = getgrgid(100); /* "users" on most systems */
    if (!group)
        group = getgrgid(65534);
    if (!group) {
        fprintf(stderr, "\n*** SKIPPED: there is no group 100 or 65534 to give the socket to\n\n");
        skip();
    }
    const struct who member = {.uid = ACTOR_A, .group = group->gr_gid};
    start_for_group(&daemon, "0660", group->gr_name);
    actor_run(&member, try_to_connect, &welcome);
    actor_run(&user_b, try_to_connect, &no_permission);
    world_close(&daemon);
    start_for_group(&daemon, "0600", group->gr_name);
    actor_run(&member, try_to_connect, &no_permission);
    world_close(&daemon);
}

static uint32_t count_in_log(const struct daemon *daemon, const char *text)
{
    uint32_t count = 0;
    char *log = test_read_file(daemon->log_path, NULL);
    for (const char *at = log; (at = strstr(at, text)); at++)
        count++;
    free(log);
    return count;
}

/* What the command line says to a user who is not let in. */
static void ask_by_command_line(const struct stage *stage, void *context)
{
    char output[4096] = "";
    int ends[2];
    if (access(AGL_CLI_PROGRAM, X_OK) < 0) {
        fprintf(stderr, "*** SKIPPED here: other users cannot run %s\n", AGL_CLI_PROGRAM);
        return;
    }
    ACTOR_CHECK(pipe(ends) == 0, "pipe");
    pid_t child = fork();
    ACTOR_CHECK(child >= 0, "fork");
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        execl(AGL_CLI_PROGRAM, AGL_CLI_PROGRAM, "run", "--socket", world->socket_path, "--ids", "1",
              NULL);
        _exit(127);
    }
    close(ends[1]);
    int status = 0;
    size_t used = 0;
    for (ssize_t got; (got = read(ends[0], output + used, sizeof output - 1 - used)) > 0;)
        used += (size_t)got;
    waitpid(child, &status, 0);
    ACTOR_CHECK(WIFEXITED(status) && WEXITSTATUS(status) != 0, "status %d", status);
    ACTOR_CHECK(strstr(output, not_listed.detail), "it says: %s", output);
}

static void only_who_is_listed_is_let_in(void **state)
{
    static const char config[] = "{\"allow_users\": [\"root\", 61001], \"allow_groups\": [61010]}";
    const struct who of_group = {.uid = ACTOR_B, .gid = ACTOR_GROUP};
    const struct who also_of_group = {.uid = ACTOR_B, .group = ACTOR_GROUP};
    struct daemon daemon;
    char folder[4096], path[4200];
    test_folder(folder);
    test_write_file(folder, "config.json", config, strlen(config));
    snprintf(path, sizeof path, "%s/config.json", folder);
    const char *const flags[] = {
        "--config", path, "--model", "echo=echo:", "--socket-mode", "0666", NULL};
    daemon_start(&daemon, flags);
    assert_int_equal(chmod(daemon.folder, 0755), 0);
    world_open(&daemon);
    struct agl_client *root = daemon_connect(&daemon);

    actor_run(&user_a, try_to_connect, &welcome);
    actor_run(&of_group, try_to_connect, &welcome);
    actor_run(&also_of_group, try_to_connect, &welcome);
    assert_int_equal(count_in_log(&daemon, "refused client"), 0);
    actor_run(&user_b, try_to_connect, &not_listed);
    assert_int_equal(count_in_log(&daemon, "refused client"), 1);
    assert_int_equal(count_in_log(&daemon, "user 61002): this user is not let in"), 1);
    actor_run(&user_b, ask_by_command_line, NULL);
    struct agl_status status;
    assert_int_equal(agl_status(root, &status), 0);
    assert_int_equal(status.sessions_refused, count_in_log(&daemon, "refused client"));
    assert_int_equal(status.sessions_broken, 0);
    agl_close(root);
    world_close(&daemon);
    test_remove_folder(folder);
}

/* ---- budgets ----------------------------------------------------------------------------------
 */

static int try_session(struct agl_client **ret_client, uint32_t prompt_tokens)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = world->socket_path;
    options.prompt_tokens = prompt_tokens;
    return agl_connect(ret_client, &options);
}

/* What limits the sessions of one user, and how many it leaves. */
struct session_budget {
    uint32_t sessions;      /* that fit */
    uint32_t prompt_tokens; /* of each */
    int error;              /* of the next */
    const char *key;        /* that it names */
};

enum { SESSIONS_MAX = 8 };

/* What is freed comes back when the daemon has unmapped it. */
static int try_for_a_while(struct agl_client **ret_client, const struct session_budget *budget)
{
    uint64_t until_ns = agl_now_ns() + 20 * second_ns;
    int err;
    do {
        err = try_session(ret_client, budget->prompt_tokens);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } while (err == budget->error && agl_now_ns() < until_ns);
    return err;
}

static void use_up_sessions(const struct stage *stage, void *context)
{
    const struct session_budget *budget = context;
    struct agl_client *clients[SESSIONS_MAX], *surplus = NULL;
    for (uint32_t i = 0; i < budget->sessions; i++) {
        int err = try_session(&clients[i], budget->prompt_tokens);
        ACTOR_CHECK(err == 0, "session %u: %s: %s", i, agl_strerror(err), agl_error_detail());
    }
    int err = try_session(&surplus, budget->prompt_tokens);
    ACTOR_CHECK(err == budget->error, "%s", agl_strerror(err));
    ACTOR_CHECK(strstr(agl_error_detail(), budget->key), "%s", agl_error_detail());
    stage_tell(stage);
    stage_hear(stage);
    agl_close(clients[0]);
    err = try_for_a_while(&clients[0], budget);
    ACTOR_CHECK(err == 0, "what was freed: %s: %s", agl_strerror(err), agl_error_detail());
    err = try_session(&surplus, budget->prompt_tokens);
    ACTOR_CHECK(err == budget->error, "%s", agl_strerror(err));
    for (uint32_t i = 0; i < budget->sessions; i++)
        agl_close(clients[i]);
}

/* Both use up theirs at the same time. */
static void try_session_budget(const char *const *flags, struct session_budget budget)
{
    struct daemon daemon;
    struct actor a, b;
    daemon_start_as(&daemon, flags, ACTOR_DAEMON);
    world_open(&daemon);
    actor_start(&a, &user_a, use_up_sessions, &budget);
    actor_hear(&a);
    actor_start(&b, &user_b, use_up_sessions, &budget);
    actor_hear(&b);
    actor_say(&a);
    actor_say(&b);
    actor_end(&a);
    actor_end(&b);
    world_close(&daemon);
}

static void each_user_has_sessions_of_his_own(void **state)
{
    static const char *const flags[] = {
        "--model", "echo=echo:", "--socket-mode", "0666", "--sessions-per-user", "3", NULL};
    try_session_budget(flags, (struct session_budget){.sessions = 3,
                                                      .prompt_tokens = 1000,
                                                      .error = -EUSERS,
                                                      .key = "sessions_per_user"});
}

static void each_user_has_memory_of_his_own(void **state)
{
    static const char *const flags[] = {
        "--model", "echo=echo:", "--socket-mode", "0666", "--user-memory-mib", "1", NULL};
    /* 400,000 bytes of arena each, and a little: two in a MiB. */
    try_session_budget(flags, (struct session_budget){.sessions = 2,
                                                      .prompt_tokens = 100000,
                                                      .error = -EDQUOT,
                                                      .key = "user_memory_mib"});
}

/* Requests that wait behind one that runs and is not read. */
struct queue_budget {
    uint32_t requests;      /* that may wait */
    uint32_t prompt_tokens; /* of each */
};

static void expect_refused(struct stranger *stranger, const struct submission *submission)
{
    struct event event;
    push(stranger, submission);
    next_event(stranger, &event);
    ACTOR_CHECK(event.kind == EVENT_DONE && event.request == submission->request, "kind %u of %u",
                event.kind, event.request);
    ACTOR_CHECK(event.reason == DONE_REFUSED && event.done.error == -EDQUOT, "reason %u, error %d",
                event.reason, event.done.error);
    ACTOR_CHECK(event.done.retry_after_us > 0, "no hint when to come again");
}

static void expect_accepted(struct stranger *stranger, const struct submission *submission)
{
    struct event event;
    push(stranger, submission);
    next_event(stranger, &event);
    ACTOR_CHECK(event.kind == EVENT_ACCEPTED && event.request == submission->request,
                "kind %u of %u, reason %u, error %d", event.kind, event.request, event.reason,
                event.kind == EVENT_DONE ? event.done.error : 0);
}

static void cancel(struct stranger *stranger, uint32_t id)
{
    struct event event;
    struct submission submission = {.op = SUBMISSION_CANCEL, .request = id};
    push(stranger, &submission);
    next_event(stranger, &event);
    ACTOR_CHECK(event.kind == EVENT_DONE && event.reason == DONE_CANCELLED, "kind %u, reason %u",
                event.kind, event.reason);
}

/* Uses up the budget over two sessions, and is refused in both. */
static void use_up_queue(const struct stage *stage, void *context)
{
    const struct queue_budget *budget = context;
    struct stranger sessions[2];
    struct submission submission;
    for (int i = 0; i < 2; i++)
        come_in(&sessions[i], "queue");
    for (uint32_t i = 0; i < budget->requests; i++) {
        struct stranger *stranger = &sessions[i % 2];
        submission = stranger_request(stranger, 16 + i, budget->prompt_tokens, 2);
        expect_accepted(stranger, &submission);
    }
    submission.request = 104;
    expect_refused(&sessions[0], &submission);
    submission.request = 105;
    expect_refused(&sessions[1], &submission);
    stage_tell(stage);
    stage_hear(stage);

    cancel(&sessions[0], 16); /* what is free in one may be used in the other */
    submission = stranger_request(&sessions[1], 106, budget->prompt_tokens, 2);
    expect_accepted(&sessions[1], &submission);
    submission.request = 107;
    expect_refused(&sessions[1], &submission);
    stage_tell(stage);
    stage_hear(stage);
    for (int i = 0; i < 2; i++)
        stranger_leave(&sessions[i]);
}

/* One request that runs for as long as nobody reads it. */
static void hold_the_model(const struct stage *stage, void *context)
{
    struct stranger stranger;
    struct event event = {.kind = 0};
    come_in(&stranger, "holder");
    struct submission submission = stranger_request(&stranger, 16, 1, 30000);
    push(&stranger, &submission);
    while (event.kind != EVENT_TOKENS)
        next_event(&stranger, &event);
    stage_tell(stage);
    stage_hear(stage);
    stranger_leave(&stranger);
}

static void try_queue_budget(const char *const *flags, struct queue_budget budget)
{
    const struct who third = {.uid = ACTOR_B + 1};
    struct daemon daemon;
    struct actor holder, a, b;
    daemon_start_as(&daemon, flags, ACTOR_DAEMON);
    world_open(&daemon);
    actor_start(&holder, &third, hold_the_model, NULL);
    actor_hear(&holder);
    actor_start(&a, &user_a, use_up_queue, &budget);
    actor_hear(&a);
    actor_start(&b, &user_b, use_up_queue, &budget);
    actor_hear(&b);
    for (int step = 0; step < 2; step++) {
        actor_say(&a);
        actor_say(&b);
        if (step == 0) {
            actor_hear(&a);
            actor_hear(&b);
        }
    }
    actor_end(&a);
    actor_end(&b);
    actor_say(&holder);
    actor_end(&holder);
    world_close(&daemon);
}

static void each_user_has_requests_waiting_of_his_own(void **state)
{
    static const char *const flags[] = {"--model",
                                        "echo=echo:",
                                        "--socket-mode",
                                        "0666",
                                        "--slow-reader-ms",
                                        "600000",
                                        "--running-max",
                                        "1",
                                        "--user-queued-requests",
                                        "5",
                                        NULL};
    try_queue_budget(flags, (struct queue_budget){.requests = 5, .prompt_tokens = 3});
}

static void each_user_has_tokens_waiting_of_his_own(void **state)
{
    static const char *const flags[] = {"--model",
                                        "echo=echo:",
                                        "--socket-mode",
                                        "0666",
                                        "--slow-reader-ms",
                                        "600000",
                                        "--running-max",
                                        "1",
                                        "--user-queued-tokens",
                                        "1000",
                                        NULL};
    try_queue_budget(flags, (struct queue_budget){.requests = 4, .prompt_tokens = 250});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_user_finds_no_way_to_a_session),
        cmocka_unit_test(another_user_cannot_cancel_or_continue_a_request),
        cmocka_unit_test(the_board_tells_totals_only),
        cmocka_unit_test(the_socket_lets_in_whom_its_permissions_say),
        cmocka_unit_test(only_who_is_listed_is_let_in),
        cmocka_unit_test(each_user_has_sessions_of_his_own),
        cmocka_unit_test(each_user_has_memory_of_his_own),
        cmocka_unit_test(each_user_has_requests_waiting_of_his_own),
        cmocka_unit_test(each_user_has_tokens_waiting_of_his_own),
    };
    if (getuid() != 0) {
        fprintf(stderr,
                "\n*** SKIPPED: users beside each other need root, to be somebody else: run "
                "test_users_apart as root.\n\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
