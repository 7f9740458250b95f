#include "daemon/systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/test.h"

static char folder[4096];
static struct failure failure;

static int setup(void **state)
{
    test_folder(folder);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    failure.text[0] = 0;
    return 0;
}

static int teardown(void **state)
{
    test_remove_folder(folder);
    return 0;
}

/* Plays the service manager at a path, or at an abstract name that begins with "@". */
static int listen_at(const char *where)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(where);
    memcpy(address.sun_path, where, length);
    if (*where == '@')
        address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
                     0);
    setenv("NOTIFY_SOCKET", where, 1);
    return fd;
}

static void expect_notified(int fd, const char *wanted)
{
    char text[2048];
    ssize_t got = recv(fd, text, sizeof text - 1, 0);
    assert_true(got >= 0);
    text[got] = 0;
    assert_string_equal(text, wanted);
}

static void readiness_reaches_a_path(void **state)
{
    char path[108];
    snprintf(path, sizeof path, "%.90s/notify", folder);
    int fd = listen_at(path);
    int descriptors = test_open_descriptors();
    assert_int_equal(systemd_notify("READY=1\nSTATUS=%s", "Serving"), 1);
    expect_notified(fd, "READY=1\nSTATUS=Serving");
    assert_int_equal(test_open_descriptors(), descriptors);
    close(fd);
}

static void readiness_reaches_an_abstract_name(void **state)
{
    char where[64];
    snprintf(where, sizeof where, "@autoglm-test-%d", (int)getpid());
    int fd = listen_at(where);
    assert_int_equal(systemd_notify("STOPPING=1"), 1);
    expect_notified(fd, "STOPPING=1");
    close(fd);
}

static void without_a_socket_nothing_is_sent(void **state)
{
    assert_int_equal(systemd_notify("READY=1"), 0);
    setenv("NOTIFY_SOCKET", "", 1);
    assert_int_equal(systemd_notify("READY=1"), 0);
}

static void a_socket_that_cannot_be_reached_is_an_error(void **state)
{
    char path[300];
    memset(path, 'x', sizeof path);
    path[0] = '/';
    path[sizeof path - 1] = 0;
    setenv("NOTIFY_SOCKET", path, 1);
    assert_int_equal(systemd_notify("READY=1"), -ENAMETOOLONG);
    setenv("NOTIFY_SOCKET", "vsock:2:1234", 1);
    assert_int_equal(systemd_notify("READY=1"), -EAFNOSUPPORT);
    setenv("NOTIFY_SOCKET", "/no/such/socket", 1);
    assert_int_equal(systemd_notify("READY=1"), -ENOENT);
}

static void a_text_that_does_not_fit_is_not_cut(void **state)
{
    char path[108];
    snprintf(path, sizeof path, "%.90s/notify", folder);
    int fd = listen_at(path);
    assert_int_equal(systemd_notify("STATUS=%2000d", 1), -EMSGSIZE);
    close(fd);
}

static void the_watchdog_is_ours_only_if_it_says_so(void **state)
{
    char pid[32];
    assert_int_equal(systemd_watchdog_ns(), 0);
    setenv("WATCHDOG_USEC", "2000000", 1);
    assert_int_equal(systemd_watchdog_ns(), 2000000000);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(systemd_watchdog_ns(), 0);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    assert_int_equal(systemd_watchdog_ns(), 2000000000);
    static const char *const wrong[] = {"", "-1", "x", "1x", "99999999999999999999", " 1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("WATCHDOG_USEC", wrong[i], 1);
        assert_int_equal(systemd_watchdog_ns(), 0);
    }
}

/* Puts a socket where systemd would, returns what was there. */
static int pass_socket(int type, bool listens, const char *count)
{
    char pid[32], path[108];
    snprintf(path, sizeof path, "%.90s/listen", folder);
    unlink(path);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, sizeof path);
    int saved = fcntl(3, F_DUPFD, 100);
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    if (listens)
        assert_int_equal(listen(fd, 5), 0);
    if (fd != 3) {
        assert_int_equal(dup2(fd, 3), 3);
        close(fd);
    }
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", count, 1);
    return saved;
}

static void put_back(int saved)
{
    if (saved >= 0) {
        dup2(saved, 3);
        close(saved);
    } else {
        close(3);
    }
}

static void a_passed_socket_is_taken_over(void **state)
{
    int fd = -1;
    int saved = pass_socket(SOCK_SEQPACKET, true, "1");
    assert_int_equal(systemd_listen_fd(&fd, &failure), 1);
    assert_int_equal(fd, 3);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    assert_null(getenv("LISTEN_FDS")); /* not for our children */
    assert_int_equal(systemd_listen_fd(&fd, &failure), 0);
    put_back(saved);
}

static void other_sockets_are_refused(void **state)
{
    int fd = -7;
    int saved = pass_socket(SOCK_STREAM, true, "1");
    assert_int_equal(systemd_listen_fd(&fd, &failure), -EINVAL);
    assert_non_null(strstr(failure.text, "SOCK_SEQPACKET"));
    put_back(saved);
    saved = pass_socket(SOCK_SEQPACKET, false, "1");
    assert_int_equal(systemd_listen_fd(&fd, &failure), -EINVAL);
    put_back(saved);
    saved = pass_socket(SOCK_SEQPACKET, true, "2");
    assert_int_equal(systemd_listen_fd(&fd, &failure), -EINVAL);
    assert_non_null(strstr(failure.text, "LISTEN_FDS=2"));
    put_back(saved);
    assert_int_equal(fd, -7);
}

static void sockets_for_another_process_are_not_ours(void **state)
{
    int fd = -7;
    setenv("LISTEN_PID", "1", 1);
    setenv("LISTEN_FDS", "1", 1);
    assert_int_equal(systemd_listen_fd(&fd, &failure), 0);
    assert_int_equal(fd, -7);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(readiness_reaches_a_path),
        TEST(readiness_reaches_an_abstract_name),
        TEST(without_a_socket_nothing_is_sent),
        TEST(a_socket_that_cannot_be_reached_is_an_error),
        TEST(a_text_that_does_not_fit_is_not_cut),
        TEST(the_watchdog_is_ours_only_if_it_says_so),
        TEST(a_passed_socket_is_taken_over),
        TEST(other_sockets_are_refused),
        TEST(sockets_for_another_process_are_not_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
