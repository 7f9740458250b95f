#include "daemon/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/test.h"

static char folder[4096];
static struct config config;
static struct listener listener;
static struct failure failure;

static int setup(void **state)
{
    test_folder(folder);
    config_defaults(&config);
    snprintf(config.socket_path, sizeof config.socket_path, "%.90s/socket", folder);
    listener = LISTENER_EMPTY;
    failure.text[0] = 0;
    return 0;
}

static int teardown(void **state)
{
    listener_close(&listener);
    test_remove_folder(folder);
    return 0;
}

static int connect_now(int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, config.socket_path, sizeof config.socket_path);
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
    int err = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
    close(fd);
    return err;
}

static void expect_refused(int error, const char *text)
{
    int descriptors = test_open_descriptors();
    struct listener other = {.fd = -42};
    assert_int_equal(listener_open(&other, &config, &failure), error);
    if (!strstr(failure.text, text) || !strstr(failure.text, config.socket_path))
        fail_msg("it says \"%s\", not \"%s\"", failure.text, text);
    assert_int_equal(other.fd, -42);
    assert_int_equal(test_open_descriptors(), descriptors);
}

static void clients_can_connect_and_the_file_goes_with_the_listener(void **state)
{
    struct stat status;
    mode_t mask = umask(0077);
    assert_int_equal(listener_open(&listener, &config, &failure), 0);
    umask(mask);
    assert_int_equal(connect_now(SOCK_SEQPACKET), 0);
    assert_int_equal(connect_now(SOCK_STREAM), -EPROTOTYPE);
    assert_int_equal(stat(config.socket_path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0660);
    assert_int_equal(fcntl(listener.fd, F_GETFD), FD_CLOEXEC);
    listener_close(&listener);
    assert_int_equal(connect_now(SOCK_SEQPACKET), -ENOENT);
    listener_close(&listener);
}

static void mode_and_group_are_those_of_the_configuration(void **state)
{
    struct stat status;
    const struct group *group = getgrgid(getgid());
    assert_non_null(group);
    snprintf(config.socket_group, sizeof config.socket_group, "%.60s", group->gr_name);
    config.socket_mode = 0606;
    assert_int_equal(listener_open(&listener, &config, &failure), 0);
    assert_int_equal(stat(config.socket_path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0606);
    assert_int_equal(status.st_gid, getgid());
}

static void an_unknown_group_is_named(void **state)
{
    struct listener other;
    snprintf(config.socket_group, sizeof config.socket_group, "no-such-group");
    assert_int_equal(listener_open(&other, &config, &failure), -ENOENT);
    assert_non_null(strstr(failure.text, "no group \"no-such-group\""));
    assert_int_equal(access(config.socket_path, F_OK), -1); /* nothing is left */
}

static void a_socket_of_a_dead_daemon_is_replaced(void **state)
{
    struct listener dead;
    assert_int_equal(listener_open(&dead, &config, &failure), 0);
    close(dead.fd); /* without removing the file, as a killed daemon does */
    assert_int_equal(connect_now(SOCK_SEQPACKET), -ECONNREFUSED);
    assert_int_equal(listener_open(&listener, &config, &failure), 0);
    assert_int_equal(connect_now(SOCK_SEQPACKET), 0);
}

static void a_socket_of_a_living_daemon_is_left_alone(void **state)
{
    assert_int_equal(listener_open(&listener, &config, &failure), 0);
    expect_refused(-EADDRINUSE, "another daemon listens there");
    assert_int_equal(connect_now(SOCK_SEQPACKET), 0);
}

static void a_living_socket_of_another_kind_is_left_alone(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, config.socket_path, sizeof config.socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    expect_refused(-EADDRINUSE, "listens there");
    assert_int_equal(connect_now(SOCK_STREAM), 0);
    close(fd);
}

static void what_is_no_socket_is_never_removed(void **state)
{
    char target[4200];
    test_write_file(folder, "socket", "precious", 8);
    expect_refused(-EADDRINUSE, "something else than a socket");
    assert_int_equal(access(config.socket_path, F_OK), 0);
    unlink(config.socket_path);

    snprintf(target, sizeof target, "%s/nowhere", folder);
    assert_int_equal(symlink(target, config.socket_path), 0);
    expect_refused(-EADDRINUSE, "something else than a socket");
    assert_int_equal(unlink(config.socket_path), 0);
}

static void a_missing_folder_is_an_error(void **state)
{
    snprintf(config.socket_path, sizeof config.socket_path, "%.80s/no/socket", folder);
    expect_refused(-ENOENT, "No such file or directory");
}

static void a_file_that_is_ours_no_more_is_left(void **state)
{
    assert_int_equal(listener_open(&listener, &config, &failure), 0);
    unlink(config.socket_path);
    test_write_file(folder, "socket", "other", 5);
    listener_close(&listener);
    assert_int_equal(access(config.socket_path, F_OK), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(clients_can_connect_and_the_file_goes_with_the_listener),
        TEST(mode_and_group_are_those_of_the_configuration),
        TEST(an_unknown_group_is_named),
        TEST(a_socket_of_a_dead_daemon_is_replaced),
        TEST(a_socket_of_a_living_daemon_is_left_alone),
        TEST(a_living_socket_of_another_kind_is_left_alone),
        TEST(what_is_no_socket_is_never_removed),
        TEST(a_missing_folder_is_an_error),
        TEST(a_file_that_is_ours_no_more_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
