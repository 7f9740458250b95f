#include "daemon/systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LISTEN_FDS_START = 3, NOTIFY_BYTES = 1024 };

/* A path, or "@name" for the abstract socket of that name. */
static int notify_address(struct sockaddr_un *ret_address, socklen_t *ret_length)
{
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || !*path)
        return 0;
    size_t length = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length < 2)
        return -EAFNOSUPPORT;
    if (length >= sizeof ret_address->sun_path)
        return -ENAMETOOLONG;

    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret_address->sun_path, path, length);
    *ret_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (path[0] == '@')
        ret_address->sun_path[0] = 0;
    else
        *ret_length += 1;
    return 1;
}

int systemd_notify(const char *format, ...)
{
    struct sockaddr_un address;
    socklen_t address_bytes;
    int err = notify_address(&address, &address_bytes);
    if (err <= 0)
        return err;

    char text[NOTIFY_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof text)
        return -EMSGSIZE;

    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    ssize_t sent = sendto(fd, text, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL,
                          (struct sockaddr *)&address, address_bytes);
    err = sent < 0 ? -errno : 1;
    close(fd);
    return err;
}

/* The number in an environment variable; 0 if it is not there or is none. */
static uint64_t environment_number(const char *name)
{
    const char *text = getenv(name);
    if (!text || *text < '0' || *text > '9')
        return 0;
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    return errno || *end ? 0 : number;
}

uint64_t systemd_watchdog_ns(void)
{
    uint64_t pid = environment_number("WATCHDOG_PID");
    if (pid && pid != (uint64_t)getpid())
        return 0;
    uint64_t period_us = environment_number("WATCHDOG_USEC");
    return period_us > UINT64_MAX / 1000 ? 0 : period_us * 1000;
}

static int socket_option(int fd, int option)
{
    int value = -1;
    socklen_t bytes = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &bytes) < 0 ? -1 : value;
}

int systemd_listen_fd(int *ret_fd, struct failure *failure)
{
    uint64_t pid = environment_number("LISTEN_PID");
    uint64_t count = environment_number("LISTEN_FDS");
    if (pid != (uint64_t)getpid() || count == 0)
        return 0;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");

    if (count != 1)
        return failure_set(failure, -EINVAL,
                           "socket activation: LISTEN_FDS=%llu: one socket is expected",
                           (unsigned long long)count);
    int fd = LISTEN_FDS_START;
    if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_SEQPACKET ||
        socket_option(fd, SO_ACCEPTCONN) != 1)
        return failure_set(failure, -EINVAL,
                           "socket activation: descriptor %d is not a listening Unix socket of "
                           "type SOCK_SEQPACKET (ListenSequentialPacket=)",
                           fd);
    /* io_uring completes at once with -EAGAIN on a non-blocking socket instead of waiting. */
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return failure_set(failure, -errno, "socket activation: descriptor %d: %s", fd,
                           strerror(errno));
    *ret_fd = fd;
    return 1;
}
