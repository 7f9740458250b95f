/*
 * Who may connect to a daemon is what the permissions of its socket say, and then the lists of its
 * configuration; as different users of the machine.
 *
 * Needs root, to be somebody else.
 */
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/integration/users.h"
#include "tests/support/test.h"

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
    world_open(ret_daemon);
}

static void the_socket_lets_in_whom_its_permissions_say(void **state)
{
    struct daemon daemon;
    const struct group *group = getgrgid(100); /* "users" on most systems */
    if (!group)
        group = getgrgid(65534);
    if (!group) {
        test_skip("there is no group 100 or 65534 to give the socket to");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_socket_lets_in_whom_its_permissions_say),
        cmocka_unit_test(only_who_is_listed_is_let_in),
    };
    return users_without_root() ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}
