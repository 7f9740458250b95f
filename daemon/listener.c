#include "daemon/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/access.h"
#include "daemon/systemd.h"
#include "daemon/undertaker.h"

enum { BACKLOG = 512 };

static const char runtime_folder[] = "/run/autoglm";

static socklen_t set_address(struct sockaddr_un *ret_address, const char *path)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t length = strlen(path);
    assert(length < sizeof ret_address->sun_path); /* config.h gives it no more room */
    memcpy(ret_address->sun_path, path, length + 1);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
}

/* A killed daemon's socket takes connections until the kernel has taken its io_uring apart, which
 * may be long after its process is gone. Who listens is known by the process that began to; 0: it
 * is of another namespace. */
static bool is_of_the_dead(int fd)
{
    struct ucred peer = {.pid = 0};
    socklen_t bytes = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 && peer.pid > 0 &&
           kill(peer.pid, 0) < 0 && errno == ESRCH;
}

/* 1: somebody accepts connections at the path; 0: nobody, the socket is a dead daemon's. */
static int is_alive(const char *path)
{
    struct sockaddr_un address;
    socklen_t bytes = set_address(&address, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int err = connect(fd, (struct sockaddr *)&address, bytes) == 0 ? !is_of_the_dead(fd) : -errno;
    close(fd);
    switch (err) {
    case 0:
    case -ECONNREFUSED:
    case -ENOENT:
        return 0;
    case -EAGAIN: /* its queue is full: alive, and busy */
    case -EPROTOTYPE:
        return 1;
    default:
        return err;
    }
}

static int remove_stale(const char *path, struct failure *failure)
{
    struct stat status;
    if (lstat(path, &status) < 0)
        return errno == ENOENT
                   ? 0
                   : failure_set(failure, -errno, "socket %s: %s", path, strerror(errno));
    if (!S_ISSOCK(status.st_mode))
        return failure_set(failure, -EADDRINUSE,
                           "socket %s: something else than a socket is in its place", path);
    int alive = is_alive(path);
    if (alive > 0)
        return failure_set(failure, -EADDRINUSE,
                           "socket %s: another daemon listens there already; choose another path "
                           "with --socket",
                           path);
    if (alive < 0)
        return failure_set(failure, alive, "socket %s: is in use by somebody: %s", path,
                           strerror(-alive));
    if (unlink(path) < 0 && errno != ENOENT)
        return failure_set(failure, -errno, "socket %s: left behind, but cannot be removed: %s",
                           path, strerror(errno));
    return 0;
}

/* Permissions of the file, before anybody can connect: listen() comes later. */
static int set_permissions(const struct config *config, struct failure *failure)
{
    const char *path = config->socket_path;
    if (*config->socket_group) {
        uint32_t group = 0;
        int err = access_find_group(config->socket_group, &group);
        if (err == -ENOENT)
            return failure_set(failure, err, "socket_group: there is no group \"%s\"",
                               config->socket_group);
        if (err < 0)
            return failure_set(failure, err, "socket_group: cannot look up \"%s\": %s",
                               config->socket_group, strerror(-err));
        if (chown(path, (uid_t)-1, group) < 0)
            return failure_set(failure, -errno, "socket %s: cannot give it to group \"%s\": %s",
                               path, config->socket_group, strerror(errno));
    }
    if (chmod(path, config->socket_mode) < 0)
        return failure_set(failure, -errno, "socket %s: mode 0%o: %s", path, config->socket_mode,
                           strerror(errno));
    return 0;
}

/* The folder of the default path belongs to us; any other one is its owner's to make. */
static int make_runtime_folder(const char *path, struct failure *failure)
{
    size_t length = strlen(runtime_folder);
    if (strncmp(path, runtime_folder, length) != 0 || path[length] != '/')
        return 0;
    if (mkdir(runtime_folder, 0755) < 0 && errno != EEXIST)
        return failure_set(failure, -errno, "folder %s: %s; choose another path with --socket",
                           runtime_folder, strerror(errno));
    return 0;
}

static int bind_and_listen(struct listener *listener, const struct config *config,
                           struct failure *failure)
{
    struct sockaddr_un address;
    socklen_t bytes = set_address(&address, listener->path);
    struct stat status;
    if (bind(listener->fd, (struct sockaddr *)&address, bytes) < 0)
        return failure_set(failure, -errno, "socket %s: %s", listener->path, strerror(errno));
    listener->is_ours = true;
    if (lstat(listener->path, &status) < 0)
        return failure_set(failure, -errno, "socket %s: %s", listener->path, strerror(errno));
    listener->device = status.st_dev;
    listener->inode = status.st_ino;

    int err = set_permissions(config, failure);
    if (err < 0)
        return err;
    if (listen(listener->fd, BACKLOG) < 0)
        return failure_set(failure, -errno, "socket %s: %s", listener->path, strerror(errno));
    return 0;
}

/* Where a socket that systemd made lies; for the log. */
static void find_path(struct listener *listener)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t bytes = sizeof address - 1; /* so that the path has an end */
    if (getsockname(listener->fd, (struct sockaddr *)&address, &bytes) == 0 && address.sun_path[0])
        memcpy(listener->path, address.sun_path, sizeof listener->path);
}

int listener_open(struct listener *ret_listener, const struct config *config,
                  struct failure *failure)
{
    struct listener listener = LISTENER_EMPTY;
    memcpy(listener.path, config->socket_path, sizeof listener.path);

    int err = systemd_listen_fd(&listener.fd, failure);
    if (err == 0) {
        err = make_runtime_folder(listener.path, failure);
        if (err == 0)
            err = remove_stale(listener.path, failure);
        if (err < 0)
            return err;
        listener.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (listener.fd < 0)
            return failure_set(failure, -errno, "socket %s: %s", listener.path, strerror(errno));
        err = bind_and_listen(&listener, config, failure);
    } else if (err > 0) {
        find_path(&listener);
    }
    if (err < 0) {
        listener_close(&listener);
        return err;
    }
    *ret_listener = listener;
    return 0;
}

void listener_close(struct listener *listener)
{
    struct stat status;
    if (listener->fd >= 0) /* who waits to be accepted may have sent anything */
        undertaker_close_one(listener->fd);
    if (listener->is_ours && lstat(listener->path, &status) == 0 && S_ISSOCK(status.st_mode) &&
        (!listener->inode ||
         (status.st_dev == listener->device && status.st_ino == listener->inode)))
        unlink(listener->path);
    *listener = LISTENER_EMPTY;
}
