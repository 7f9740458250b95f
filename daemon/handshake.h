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

#include "model/failure.h"
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

/* One message of the peer, with the one descriptor that it may bring. */
struct handshake_packet {
    union message message;
    size_t bytes;
    int fd;    /* a copy; -1: none */
    int flags; /* MSG_TRUNC; MSG_CTRUNC: it brings more than the descriptor that was asked for */
};

/* Looks at the next packet and leaves it where it is: what it brings is not ours, and a stranger's
 * descriptor is closed with as much delay as he likes. with_fd: takes a copy of its descriptor, if
 * it brings one, which is the caller's to close. 1; 0: the peer is gone, or the packet has no bytes
 * (it may have a descriptor); -EAGAIN: nothing has come; -EMFILE: no room for the copy. */
int handshake_look(struct handshake_packet *ret_packet, int socket_fd, bool with_fd);

/* Throws away the packet that was looked at, which brings at most memory. */
void handshake_discard(int socket_fd);

/* Whether the descriptor is memory, of no more than `bytes` and a little: it can be closed without
 * waiting for anybody, nor for the freeing of more than that. */
bool handshake_closes_at_once(int fd, uint64_t bytes);

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
