/*
 * Users beside each other at one daemon, as different users of the machine: what belongs to one
 * cannot be read, changed, cancelled or seen by another.
 *
 * Needs root, to be somebody else.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "tests/integration/users.h"
#include "tests/support/test.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static const char *const open_flags[] = {
    "--model", "echo=echo:", "--socket-mode", "0666", "--slow-reader-ms", "600000", NULL};

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
    world_start(&daemon, open_flags);
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
    world_start(&daemon, open_flags);
    actor_start(&owner, &user_a, have_requests, NULL);
    actor_hear(&owner);
    actor_run(&user_b, attack_requests, NULL);
    actor_say(&owner);
    actor_end(&owner);
    world_close(&daemon);
}

/* ---- the board ---------------------------------------------------------------------------------
 */

static const char secret_name[] = "secret-name", reader_name[] = "other-name";
static const uint32_t secret_prompt[] = {54321, 54322, 54323};

/* What the bytes of a board tell that they should not, of either user; NULL: nothing. */
static const char *find_secret(const uint8_t *bytes, size_t count)
{
    const uint32_t numbers[] = {(uint32_t)world->victim, (uint32_t)world->reader, ACTOR_A, ACTOR_B};
    if (memmem(bytes, count, secret_name, strlen(secret_name)) ||
        memmem(bytes, count, reader_name, strlen(reader_name)))
        return "a client's name";
    for (size_t i = 0; i < 3; i++)
        if (memmem(bytes, count, &secret_prompt[i], sizeof *secret_prompt))
            return "an id of a prompt";
    for (size_t at = 0; at + 4 <= count; at += 4)
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            if (memcmp(bytes + at, &numbers[i], 4) == 0)
                return i < 2 ? "a client's process" : "a client's user";
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
    world->reader = getpid();
    come_in(&stranger, reader_name);
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
    world_start(&daemon, open_flags);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_user_finds_no_way_to_a_session),
        cmocka_unit_test(another_user_cannot_cancel_or_continue_a_request),
        cmocka_unit_test(the_board_tells_totals_only),
    };
    return users_without_root() ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}
