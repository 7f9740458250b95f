/*
 * The handshake's words: who a peer is, what it may say, what it is answered. No state and no
 * waiting here; connection.h has both. Everything that comes from the peer is checked here.
 */
#ifndef AGL_DAEMON_HANDSHAKE_H
#define AGL_DAEMON_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "daemon/failure.h"
#include "shm/message.h"

struct peer {
    uid_t uid;
    pid_t pid;     /* 0: not visible from here */
    int process;   /* pidfd; -1: none */
    char name[32]; /* what it calls itself, made printable */
};

#define PEER_EMPTY ((struct peer){.uid = (uid_t)-1, .process = -1})

/* Who connected to the socket, by the kernel's word. -ESRCH: it is gone already. */
int handshake_peer(struct peer *ret_peer, int socket_fd);
void handshake_peer_fini(struct peer *peer);

/* As many as a packet can bring (SCM_MAX_FD): the kernel would close what has no room here, in our
 * thread, and that may take as long as the sender likes. */
enum { HANDSHAKE_FDS_MAX = 253 };

/* Room for one message of the peer, with descriptors. */
struct handshake_packet {
    union message message;
    size_t bytes;
    int fds[HANDSHAKE_FDS_MAX];
    uint32_t fd_count;
    int flags; /* MSG_TRUNC, MSG_CTRUNC */

    struct msghdr header; /* for recvmsg() */
    struct iovec part;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(HANDSHAKE_FDS_MAX * sizeof(int))];
};

/* Makes the packet ready for recvmsg(&packet->header). */
void handshake_packet_init(struct handshake_packet *packet);

/* After recvmsg() gave `bytes`: takes the descriptors out. They are the packet's. */
void handshake_packet_take(struct handshake_packet *packet, size_t bytes);

/* Closes the descriptors that are still the packet's and cannot make us wait; the others stay. */
void handshake_packet_fini(struct handshake_packet *packet);

/* Ends what the peer may still say: nothing comes any more, and what has come is thrown away, up to
 * the first packet that has descriptors. Whether the socket can be closed without closing any of
 * those, too. */
bool handshake_hush(int socket_fd);

/* Checks a first packet. -EPROTONOSUPPORT: another version; -EPROTO: it breaks the rules. */
int handshake_check_hello(const struct handshake_packet *packet, struct failure *failure);

/* Checks the packet that brings the client half. -EPROTO. */
int handshake_check_attach(const struct handshake_packet *packet, struct failure *failure);

/* What a wish is granted: no more than wished, no more than `limit`, no less than the minimum, and
 * valid in itself. */
void handshake_grant(struct geometry *ret_granted, const struct geometry *wish,
                     const struct geometry *limit, uint32_t session_number);

/* The name of a client as it can be printed: letters, digits and a few signs; "?" for nothing. */
void handshake_clean_name(char ret_name[32], const char name[32]);

/* Sends one message with its descriptors, without waiting. 0 or a negative errno; -EAGAIN: the peer
 * reads nothing. */
int handshake_send(int socket_fd, const void *message, size_t bytes, const int *fds,
                   uint32_t fd_count);

/* Tells the peer why it is sent away; whether it hears it is its own affair. */
void handshake_send_error(int socket_fd, int error, const char *text);

#endif
