/*
 * Who may connect, where the system's lists and the kernel have something else to say than yes: no
 * memory, no room, no answer. Whoever cannot be known is not let in.
 */
#include "daemon/access.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/test.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

enum { SOMEBODY = 61000, MANY = 100, TOO_MANY = 70000 };

static struct config config;
static struct access_list list;
static struct failure failure;

/* What the system does; 0: what it does by itself. */
static struct {
    size_t entry_bytes; /* an entry of its lists needs so much room */
    int lookup_error;
    int mallocs_left; /* until one fails; -1: none does */
    int credentials_error;
    int groups_error;
    size_t groups; /* SOMEBODY, SOMEBODY + 1, ... */
} system_;

void *__real_malloc(size_t bytes);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);

void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes)
{
    if (system_.mallocs_left == 0) {
        system_.mallocs_left = -1;
        return NULL;
    }
    system_.mallocs_left -= system_.mallocs_left > 0;
    return __real_malloc(bytes);
}

/* Somebody and his group are all that there is. */
static int look_up(const char *name, size_t bytes)
{
    if (system_.lookup_error)
        return system_.lookup_error;
    if (strcmp(name, "somebody") != 0)
        return 0;
    return bytes < system_.entry_bytes ? ERANGE : -1;
}

int __wrap_getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t bytes,
                      struct passwd **ret_found);
int __wrap_getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t bytes,
                      struct passwd **ret_found)
{
    int err = look_up(name, bytes);
    *entry = (struct passwd){.pw_uid = SOMEBODY};
    *ret_found = err < 0 ? entry : NULL;
    return err < 0 ? 0 : err;
}

int __wrap_getgrnam_r(const char *name, struct group *entry, char *buffer, size_t bytes,
                      struct group **ret_found);
int __wrap_getgrnam_r(const char *name, struct group *entry, char *buffer, size_t bytes,
                      struct group **ret_found)
{
    int err = look_up(name, bytes);
    *entry = (struct group){.gr_gid = SOMEBODY};
    *ret_found = err < 0 ? entry : NULL;
    return err < 0 ? 0 : err;
}

static int fail_with(int error)
{
    errno = error;
    return -1;
}

static int tell_groups(gid_t *groups, socklen_t *bytes)
{
    socklen_t needed = (socklen_t)(system_.groups * sizeof *groups);
    if (system_.groups_error)
        return fail_with(system_.groups_error);
    bool has_room = needed <= *bytes;
    *bytes = needed;
    if (!has_room)
        return fail_with(ERANGE);
    for (size_t i = 0; i < system_.groups; i++)
        groups[i] = SOMEBODY + (gid_t)i;
    return 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes)
{
    if (name == SO_PEERCRED && system_.credentials_error)
        return fail_with(system_.credentials_error);
    if (name == SO_PEERGROUPS)
        return tell_groups(value, bytes);
    return __real_getsockopt(fd, level, name, value, bytes);
}

static int restore(void **state)
{
    memset(&system_, 0, sizeof system_);
    system_.mallocs_left = -1;
    return 0;
}

static int open_lists(const char *users, const char *groups)
{
    snprintf(config.allow_users, sizeof config.allow_users, "%s", users);
    snprintf(config.allow_groups, sizeof config.allow_groups, "%s", groups);
    memset(&failure, 0, sizeof failure);
    return access_open(&list, &config, &failure);
}

static bool am_i_let_in(void)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
    bool is_allowed = access_is_allowed(&list, sockets[0]);
    close(sockets[0]);
    close(sockets[1]);
    return is_allowed;
}

static void an_entry_of_any_length_is_read(void **state)
{
    static const size_t lengths[] = {0, 1025, 5 << 20, 16 << 20};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        system_.entry_bytes = lengths[i];
        assert_int_equal(open_lists("somebody", "somebody"), 0);
        assert_int_equal(list.users[0], SOMEBODY);
        assert_int_equal(list.groups[0], SOMEBODY);
    }
    system_.entry_bytes = (16 << 20) + 1;
    assert_int_equal(open_lists("somebody", ""), -ERANGE);
    assert_int_equal(open_lists("", "somebody"), -ERANGE);
}

static void a_list_that_cannot_be_asked_is_an_error(void **state)
{
    system_.lookup_error = EIO;
    assert_int_equal(open_lists("somebody", ""), -EIO);
    assert_string_equal(failure.text, "allow_users: \"somebody\": Input/output error");
    assert_int_equal(open_lists("", "somebody"), -EIO);
    assert_string_equal(failure.text, "allow_groups: \"somebody\": Input/output error");
    restore(state);
    system_.mallocs_left = 0;
    assert_int_equal(open_lists("somebody", ""), -ENOMEM);
    assert_int_equal(open_lists("nobody", ""), -ENOENT);
    assert_int_equal(open_lists("", "somebody,-1"), -ENOENT);
}

static void whose_credentials_are_not_told_is_not_let_in(void **state)
{
    char me[32];
    snprintf(me, sizeof me, "%u", (unsigned)getuid());
    assert_int_equal(open_lists(me, ""), 0);
    assert_true(am_i_let_in());
    system_.credentials_error = EBADF;
    assert_false(am_i_let_in());
    assert_int_equal(open_lists("", ""), 0); /* then nobody asks */
    assert_true(am_i_let_in());
}

static void a_group_is_found_among_few_and_many(void **state)
{
    assert_int_equal(open_lists("", "61000"), 0);
    assert_false(am_i_let_in()); /* no other group at all */
    system_.groups = 3;
    assert_true(am_i_let_in());
    assert_int_equal(open_lists("", "61099"), 0);
    assert_false(am_i_let_in());
    system_.groups = MANY;
    assert_true(am_i_let_in());
    assert_int_equal(open_lists("", "61100"), 0);
    assert_false(am_i_let_in());
}

static void whose_groups_are_not_told_is_not_let_in(void **state)
{
    assert_int_equal(open_lists("", "61000"), 0);
    system_.groups = TOO_MANY; /* more than the kernel allows */
    assert_false(am_i_let_in());
    system_.groups = MANY;
    system_.mallocs_left = 0;
    assert_false(am_i_let_in());
    assert_true(am_i_let_in());
    system_.groups_error = ENOPROTOOPT; /* an old kernel */
    assert_false(am_i_let_in());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(an_entry_of_any_length_is_read, restore),
        cmocka_unit_test_setup(a_list_that_cannot_be_asked_is_an_error, restore),
        cmocka_unit_test_setup(whose_credentials_are_not_told_is_not_let_in, restore),
        cmocka_unit_test_setup(a_group_is_found_among_few_and_many, restore),
        cmocka_unit_test_setup(whose_groups_are_not_told_is_not_let_in, restore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
