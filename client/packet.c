#include "client/packet.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "autoglm.h"
#include "client/deadline.h"
#include "client/error.h"

static int timed_out(const char *doing)
{
    return error_set(-ETIMEDOUT, "the daemon did not answer in time while %s", doing);
}

/* Waits until the socket is ready for `events`, or closed. */
static int wait_socket(int socket_fd, short events, uint64_t deadline_ns, const char *doing)
{
    for (;;) {
        struct timespec left = deadline_timespec(deadline_left_ns(deadline_ns));
        struct pollfd entry = {.fd = socket_fd, .events = events};
        int ready = ppoll(&entry, 1, &left, NULL);
        if (ready > 0)
            return 0;
        if (ready == 0)
            return timed_out(doing);
        if (errno != EINTR)
            return error_set(-errno, "cannot wait for the daemon while %s: %s", doing,
                             strerror(errno));
    }
}

int packet_send(int socket_fd, const void *packet, size_t bytes, int fd, uint64_t deadline_ns)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct iovec part = {.iov_base = (void *)(uintptr_t)packet, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        /* unreached: the macro asks whether there is room for a header */
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    for (;;) {
        int err = wait_socket(socket_fd, POLLOUT, deadline_ns, "sending");
        if (err < 0)
            return err;
        if (sendmsg(socket_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return 0;
        if (errno == EPIPE || errno == ECONNRESET)
            return 0; /* the answer, or the end of the stream, says why */
        if (errno != EAGAIN && errno != EINTR)
            return error_set(-errno, "cannot send to the daemon: %s", strerror(errno));
    }
}

void packet_close_fds(struct packet *packet)
{
    for (uint32_t i = 0; i < packet->fd_count; i++)
        if (packet->fds[i] >= 0)
            close(packet->fds[i]);
    packet->fd_count = 0;
}

static void collect_fds(struct packet *packet, struct msghdr *message)
{
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (packet->fd_count < PACKET_FDS_MAX)
                packet->fds[packet->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

/* Fewer descriptors than there was room for: the rest could not be opened in this process. */
static bool is_short_of_descriptors(const struct packet *packet, const struct msghdr *message)
{
    return (message->msg_flags & MSG_CTRUNC) && packet->fd_count < PACKET_FDS_MAX;
}

/* Receives one packet of any kind. On failure nothing is left open. */
static int receive_any(int socket_fd, struct packet *ret_packet, uint64_t deadline_ns,
                       const char *doing)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(PACKET_FDS_MAX * sizeof(int))];
    } control;
    *ret_packet = (struct packet){.fd_count = 0};
    struct iovec part = {.iov_base = &ret_packet->message, .iov_len = sizeof ret_packet->message};
    struct msghdr message;
    ssize_t got;
    do {
        int err = wait_socket(socket_fd, POLLIN, deadline_ns, doing);
        if (err < 0)
            return err;
        message = (struct msghdr){.msg_iov = &part,
                                  .msg_iovlen = 1,
                                  .msg_control = control.room,
                                  .msg_controllen = sizeof control.room};
        got = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && (errno == EAGAIN || errno == EINTR));
    if (got < 0 && errno != ECONNRESET)
        return error_set(-errno, "cannot receive from the daemon while %s: %s", doing,
                         strerror(errno));
    if (got <= 0)
        return error_set(-EPIPE, "the daemon closed the connection while %s", doing);

    collect_fds(ret_packet, &message);
    if (is_short_of_descriptors(ret_packet, &message)) {
        packet_close_fds(ret_packet);
        return error_set(-EMFILE, "while %s: too many descriptors are open in this process", doing);
    }
    const struct message_header *header = &ret_packet->message.header;
    const char *why = NULL;
    if (message.msg_flags & MSG_CTRUNC)
        why = "too many descriptors came with the packet";
    else if ((message.msg_flags & MSG_TRUNC) || (size_t)got < sizeof *header)
        why = "the packet has a size that no message has";
    else if (header->magic != MESSAGE_MAGIC)
        why = "the packet does not begin with the right magic number";
    else if (header->bytes != (size_t)got)
        why = "the packet's size is not the one in its header";
    if (!why)
        return 0;
    packet_close_fds(ret_packet);
    return error_set(-EPROTO, "while %s: %s", doing, why);
}

/* The daemon refused: its error with its own words. */
static int refused(const struct message_error *message)
{
    char text[sizeof message->text];
    memcpy(text, message->text, sizeof text);
    text[sizeof text - 1] = 0;
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = '?';
    int err = message->error;
    if (err >= 0 || err < -4095)
        err = -EPROTO;
    return error_set(err, "the daemon refused: %s", *text ? text : agl_strerror(err));
}

int packet_receive(int socket_fd, struct packet *ret_packet, enum message_kind kind, size_t bytes,
                   uint32_t fd_count, uint64_t deadline_ns, const char *doing)
{
    struct packet packet;
    int err = receive_any(socket_fd, &packet, deadline_ns, doing);
    if (err < 0)
        return err;

    const struct message_header *header = &packet.message.header;
    if (header->kind == MESSAGE_ERROR && header->bytes == sizeof(struct message_error))
        err = refused(&packet.message.error);
    else if (header->kind != kind)
        err = error_set(-EPROTO, "while %s: message %u came instead of %u", doing, header->kind,
                        kind);
    else if (header->bytes != bytes)
        err = error_set(-EPROTO, "while %s: message of %u bytes, must be %zu", doing, header->bytes,
                        bytes);
    else if (packet.fd_count != fd_count)
        err = error_set(-EPROTO, "while %s: %u descriptors came, must be %u", doing,
                        packet.fd_count, fd_count);
    if (err < 0) {
        packet_close_fds(&packet);
        return err;
    }
    *ret_packet = packet;
    return 0;
}
