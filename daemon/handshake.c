#include "daemon/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

static int open_process(int socket_fd, pid_t pid, int *ret_fd)
{
    int fd = -1;
    socklen_t bytes = sizeof fd;
    if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes) == 0) {
        *ret_fd = fd;
        return 0;
    }
    if (errno != ENOPROTOOPT && errno != EINVAL)
        return errno == ENODATA ? -ESRCH : -errno;
    /* Before Linux 6.5: by number. If it was given to another process since connect(), that one's
     * end is watched instead; the socket's end is still the client's own. */
    fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

int handshake_peer(struct peer *ret_peer, int socket_fd)
{
    struct ucred credentials;
    socklen_t bytes = sizeof credentials;
    if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) < 0)
        return -errno;

    struct peer peer = PEER_EMPTY;
    peer.uid = credentials.uid;
    peer.pid = credentials.pid;
    snprintf(peer.name, sizeof peer.name, "?");
    if (peer.pid > 0) { /* 0: it lives in a process namespace that we cannot see */
        int err = open_process(socket_fd, peer.pid, &peer.process);
        if (err < 0)
            return err;
    }
    *ret_peer = peer;
    return 0;
}

void handshake_peer_fini(struct peer *peer)
{
    if (peer->process >= 0)
        close(peer->process);
    peer->process = -1;
}

/* Nothing else comes as a control message: this socket did not ask for it. */
static int copied_fd(struct msghdr *header)
{
    int fd = -1;
    struct cmsghdr *rights = CMSG_FIRSTHDR(header);
    if (rights)
        memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    return fd;
}

int handshake_look(struct handshake_packet *ret_packet, int socket_fd, bool with_fd)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    memset(ret_packet, 0, sizeof *ret_packet);
    ret_packet->fd = -1;
    struct iovec part = {.iov_base = &ret_packet->message, .iov_len = sizeof ret_packet->message};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (with_fd) {
        header.msg_control = control;
        header.msg_controllen = CMSG_LEN(sizeof(int)); /* CMSG_SPACE() has room for two */
    }
    ssize_t got = recvmsg(socket_fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return -errno;
    ret_packet->bytes = (size_t)got;
    ret_packet->flags = header.msg_flags;
    if (with_fd)
        ret_packet->fd = copied_fd(&header);
    if (with_fd && ret_packet->fd < 0 && header.msg_flags & MSG_CTRUNC)
        return -EMFILE;
    return got > 0;
}

void handshake_discard(int socket_fd)
{
    char byte; /* a reset is told once, before what came earlier */
    if (recv(socket_fd, &byte, sizeof byte, MSG_DONTWAIT) < 0)
        (void)!recv(socket_fd, &byte, sizeof byte, MSG_DONTWAIT);
}

bool handshake_closes_at_once(int fd, uint64_t bytes)
{
    enum { BLOCK_BYTES = 512, SURPLUS_BYTES = 4 << 20 };
    struct stat status;
    /* unreached: what has seals has a status */
    return fcntl(fd, F_GET_SEALS) >= 0 && fstat(fd, &status) == 0 &&
           (uint64_t)status.st_blocks * BLOCK_BYTES <= bytes + SURPLUS_BYTES;
}

/* Throws away one packet that brings no descriptors. 1: go on; 0: there is none; -EBUSY: it brings
 * some.
 *
 * A packet of no bytes looks like the end, and one with descriptors like any other; but where
 * credentials are asked for each packet has them, and descriptors beside them have no room. */
static int discard_packet(int socket_fd)
{
    char byte;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec part = {.iov_base = &byte, .iov_len = sizeof byte};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control,
                            .msg_controllen = sizeof control};
    if (recvmsg(socket_fd, &header, MSG_PEEK | MSG_DONTWAIT) < 0)
        return errno != EAGAIN; /* a reset is told once, before what came earlier */
    if (header.msg_flags & MSG_CTRUNC)
        return -EBUSY;
    if (header.msg_controllen == 0)
        return 0;
    (void)!recv(socket_fd, &byte, sizeof byte, MSG_DONTWAIT);
    return 1;
}

bool handshake_hush(int socket_fd)
{
    enum { PACKETS_MAX = 4096 }; /* far beyond what fits a socket's queue */
    int discarded = 1;
    shutdown(socket_fd, SHUT_RD);
    setsockopt(socket_fd, SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int));
    for (int i = 0; i < PACKETS_MAX && discarded == 1; i++)
        discarded = discard_packet(socket_fd);
    return discarded == 0;
}

static bool is_zero(const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    unsigned char any = 0;
    for (size_t i = 0; i < count; i++)
        any |= at[i];
    return any == 0;
}

/* What holds for every packet. */
static int check_packet(const struct handshake_packet *packet, enum message_kind kind,
                        const char *name, struct failure *failure)
{
    const struct message_header *header = &packet->message.header;
    if (packet->bytes < sizeof *header)
        return failure_set(failure, -EPROTO, "%s: %zu bytes are no message", name, packet->bytes);
    if (header->magic != MESSAGE_MAGIC)
        return failure_set(failure, -EPROTO, "%s: magic number is 0x%08x, must be 0x%08x", name,
                           header->magic, (unsigned)MESSAGE_MAGIC);
    if (header->kind != kind)
        return failure_set(failure, -EPROTO, "%s: message kind is %u, must be %u", name,
                           header->kind, (unsigned)kind);
    return 0;
}

static int check_size(const struct handshake_packet *packet, size_t bytes, const char *name,
                      struct failure *failure)
{
    if (packet->flags & MSG_TRUNC || packet->bytes != bytes ||
        packet->message.header.bytes != bytes)
        return failure_set(failure, -EPROTO, "%s: %zu bytes%s, its header says %u, must be %zu",
                           name, packet->bytes, packet->flags & MSG_TRUNC ? " and more" : "",
                           packet->message.header.bytes, bytes);
    return 0;
}

static int refuse_version(const struct message_hello *hello, struct failure *failure)
{
    return failure_set(failure, -EPROTONOSUPPORT,
                       "the client speaks version %u.%u, the daemon %d.%d: update the %s",
                       hello->major, hello->minor, LAYOUT_MAJOR, LAYOUT_MINOR,
                       hello->major < LAYOUT_MAJOR ? "client's library" : "daemon");
}

int handshake_check_hello(const struct handshake_packet *packet, struct failure *failure)
{
    static const char name[] = "hello";
    const struct message_hello *hello = &packet->message.hello;
    int err = check_packet(packet, MESSAGE_HELLO, name, failure);
    if (err < 0)
        return err;
    /* The version before the size: another version may well have another size. */
    if (packet->bytes >= offsetof(struct message_hello, features) && hello->major != LAYOUT_MAJOR)
        return refuse_version(hello, failure);
    err = check_size(packet, sizeof *hello, name, failure);
    if (err < 0)
        return err;
    if (packet->flags & MSG_CTRUNC)
        return failure_set(failure, -EPROTO, "hello: descriptors came with it, none may");
    if (hello->features)
        return failure_set(failure, -EPROTONOSUPPORT,
                           "features 0x%x are asked for, the daemon knows none: update the daemon",
                           hello->features);
    if (hello->geometry.stagger)
        return failure_set(failure, -EPROTO, "hello: stagger is %u, must be 0",
                           hello->geometry.stagger);
    if (!is_zero(hello->reserved, sizeof hello->reserved))
        return failure_set(failure, -EPROTO, "hello: a reserved field is not 0");
    return 0;
}

int handshake_check_attach(const struct handshake_packet *packet, struct failure *failure)
{
    static const char name[] = "attach";
    int err = check_packet(packet, MESSAGE_ATTACH, name, failure);
    if (err == 0)
        err = check_size(packet, sizeof packet->message.attach, name, failure);
    if (err < 0)
        return err;
    if (packet->flags & MSG_CTRUNC)
        return failure_set(failure, -EPROTO, "attach: more than 1 descriptor came with it");
    if (packet->fd < 0)
        return failure_set(failure, -EPROTO, "attach: no descriptor came with it, must be 1");
    if (!is_zero(packet->message.attach.reserved, sizeof packet->message.attach.reserved))
        return failure_set(failure, -EPROTO, "attach: a reserved field is not 0");
    return 0;
}

/* min(wish, limit), but at least `least`, rounded down to a power of two. All three below 2^31. */
static uint32_t grant_slots(uint32_t wish, uint32_t limit, uint32_t least)
{
    uint32_t granted = wish < limit ? wish : limit;
    if (granted <= least)
        return least;
    return 1u << (31 - __builtin_clz(granted));
}

static uint32_t grant_bytes(uint32_t wish, uint32_t limit, uint32_t least)
{
    uint32_t granted = (wish < limit ? wish : limit) / LAYOUT_PAGE_BYTES * LAYOUT_PAGE_BYTES;
    return granted > least ? granted : least;
}

void handshake_grant(struct geometry *ret_granted, const struct geometry *wish,
                     const struct geometry *limit, uint32_t session_number)
{
    struct geometry granted = {
        .submission_slots =
            grant_slots(wish->submission_slots, limit->submission_slots, GEOMETRY_SLOTS_MIN),
        .event_slots = grant_slots(wish->event_slots, limit->event_slots, GEOMETRY_SLOTS_MIN),
        .max_requests = grant_slots(wish->max_requests, limit->max_requests, 1),
        .arena_bytes = grant_bytes(wish->arena_bytes, limit->arena_bytes, GEOMETRY_ARENA_BYTES_MIN),
        .output_bytes = grant_bytes(wish->output_bytes, limit->output_bytes, 0),
        .stagger = session_number % LAYOUT_STAGGERS,
    };
    while (granted.event_slots < 2 * granted.max_requests + 2)
        granted.max_requests /= 2;
    assert(geometry_is_valid(&granted));
    *ret_granted = granted;
}

void handshake_clean_name(char ret_name[32], const char name[32])
{
    enum { NAME_BYTES = 32 };
    char clean[NAME_BYTES] = "";
    for (size_t i = 0; i < NAME_BYTES - 1 && name[i]; i++)
        clean[i] = name[i] > 0x20 && name[i] < 0x7f && name[i] != '"' ? name[i] : '_';
    memcpy(ret_name, *clean ? clean : "?", *clean ? NAME_BYTES : 2);
}

int handshake_send(int socket_fd, const void *message, size_t bytes, const int *fds,
                   uint32_t fd_count)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(MESSAGE_WELCOME_FDS * sizeof(int))] = {0};
    struct iovec part = {.iov_base = (void *)message, .iov_len = bytes};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    assert(fd_count <= MESSAGE_WELCOME_FDS);
    if (fd_count) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        /* unreached: the macro asks whether there is room for a header */
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, fd_count * sizeof(int));
    }
    ssize_t sent = sendmsg(socket_fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : 0;
}

void handshake_send_error(int socket_fd, int error, const char *text)
{
    struct message_error message = {
        .header = MESSAGE_INIT(MESSAGE_ERROR, struct message_error),
        .error = error,
        .major = LAYOUT_MAJOR,
        .minor = LAYOUT_MINOR,
    };
    snprintf(message.text, sizeof message.text, "%s", text);
    handshake_send(socket_fd, &message, sizeof message, NULL, 0);
}
