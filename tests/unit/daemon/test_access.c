#include "daemon/access.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/test.h"

static struct config config;
static struct access_list list;
static struct failure failure;

static int open_lists(const char *users, const char *groups)
{
    snprintf(config.allow_users, sizeof config.allow_users, "%s", users);
    snprintf(config.allow_groups, sizeof config.allow_groups, "%s", groups);
    return access_open(&list, &config, &failure);
}

/* Whether this process, as the peer of a socket, is let in. */
static bool am_i_let_in(const char *users, const char *groups)
{
    int sockets[2];
    assert_int_equal(open_lists(users, groups), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
    bool is_allowed = access_is_allowed(&list, sockets[0]);
    close(sockets[0]);
    close(sockets[1]);
    return is_allowed;
}

static void empty_lists_let_everybody_in(void **state)
{
    assert_true(am_i_let_in("", ""));
}

static void names_and_numbers_stand_for_users_and_groups(void **state)
{
    struct passwd *user = getpwuid(getuid());
    struct group *group = getgrgid(getgid());
    char number[32], other[32], both[64];
    snprintf(number, sizeof number, "%u", (unsigned)getuid());
    snprintf(other, sizeof other, "%u", (unsigned)getuid() + 1);
    snprintf(both, sizeof both, "%s,%s", other, number);
    assert_true(am_i_let_in(number, ""));
    assert_true(am_i_let_in(both, ""));
    assert_false(am_i_let_in(other, ""));
    assert_false(am_i_let_in("4294967294", "4294967294"));
    snprintf(number, sizeof number, "%u", (unsigned)getgid());
    assert_true(am_i_let_in("", number));
    assert_true(am_i_let_in(other, number));
    if (user)
        assert_true(am_i_let_in(user->pw_name, ""));
    if (group)
        assert_true(am_i_let_in("", group->gr_name));
}

/* In a child, which can get groups only as root. */
static int try_with_groups(size_t count, gid_t first, const char *groups)
{
    static gid_t ids[100];
    for (size_t i = 0; i < count; i++)
        ids[i] = first + (gid_t)i;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int sockets[2];
        if (setgroups(count, ids) < 0 || setgid(60999) < 0 || setuid(60999) < 0 ||
            socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) < 0 || open_lists("", groups) < 0)
            _exit(3);
        _exit(access_is_allowed(&list, sockets[0]));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void every_group_of_a_client_counts(void **state)
{
    if (getuid() != 0)
        test_skip("only root can choose its groups");
    assert_int_equal(try_with_groups(3, 61000, "61002"), 1);
    assert_int_equal(try_with_groups(3, 61000, "61003"), 0);
    assert_int_equal(try_with_groups(3, 61000, "60999"), 1); /* the first one */
    assert_int_equal(try_with_groups(0, 0, "61000"), 0);
    assert_int_equal(try_with_groups(100, 61000, "61099"), 1); /* more than a small array holds */
    assert_int_equal(try_with_groups(100, 61000, "61100"), 0);
}

static void assert_named(const char *users, const char *groups, int error, const char *text)
{
    assert_int_equal(open_lists(users, groups), error);
    if (!strstr(failure.text, text))
        fail_msg("\"%s\" does not say \"%s\"", failure.text, text);
}

static void what_is_wrong_in_a_list_is_named(void **state)
{
    char many[1024] = "0", long_name[100];
    assert_named("no-such-user-here", "", -ENOENT, "allow_users: \"no-such-user-here\"");
    assert_named("", "0,no-such-group", -ENOENT, "allow_groups: \"no-such-group\"");
    assert_named("0,,1", "", -EINVAL, "allow_users");
    assert_named("4294967295", "", -ENOENT, "4294967295"); /* means "none" to the kernel */
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    assert_named(long_name, "", -EINVAL, "1 to 63 letters");
    for (int i = 1; i <= ACCESS_ENTRIES_MAX; i++)
        strcat(many, ",0");
    assert_named(many, "", -E2BIG, "more than 128 entries");
    many[strlen(many) - 2] = 0;
    assert_int_equal(open_lists(many, ""), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_lists_let_everybody_in),
        cmocka_unit_test(names_and_numbers_stand_for_users_and_groups),
        cmocka_unit_test(every_group_of_a_client_counts),
        cmocka_unit_test(what_is_wrong_in_a_list_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
