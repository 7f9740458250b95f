/*
 * Packets of the handshake, with the descriptors that ride on them, each within a deadline.
 */
#ifndef AGL_CLIENT_PACKET_H
#define AGL_CLIENT_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "shm/message.h"

enum { PACKET_FDS_MAX = 8 }; /* more than any honest daemon sends; surplus ones are refused */

/* What arrived in one packet. */
struct packet {
    union message message;
    int fds[PACKET_FDS_MAX]; /* the receiver's to close; -1: taken */
    uint32_t fd_count;
};

/* Sends one packet, with descriptor `fd` unless it is -1. A peer that has closed is no error here:
 * the next packet_receive() tells, or says why. -ETIMEDOUT, or the system's error. */
int packet_send(int socket_fd, const void *packet, size_t bytes, int fd, uint64_t deadline_ns);

/* Receives the packet of that kind, size and number of descriptors; `doing` is for the detail. On
 * failure no descriptor is left open. -EPIPE: the peer closed; -EPROTO: something else came;
 * -EMFILE: this process can have no descriptor more; -ETIMEDOUT; the daemon's own error if it
 * refused. */
int packet_receive(int socket_fd, struct packet *ret_packet, enum message_kind kind, size_t bytes,
                   uint32_t fd_count, uint64_t deadline_ns, const char *doing);

/* Closes the descriptors that nobody has taken. */
void packet_close_fds(struct packet *packet);

#endif
