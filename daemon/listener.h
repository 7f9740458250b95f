/*
 * The listening socket: made at its path, or taken from systemd; and removed at the end.
 */
#ifndef AGL_DAEMON_LISTENER_H
#define AGL_DAEMON_LISTENER_H

#include <stdbool.h>
#include <sys/types.h>

#include "daemon/config.h"
#include "model/failure.h"

struct listener {
    int fd;       /* -1: none */
    bool is_ours; /* we made the file, so we remove it */
    char path[sizeof((struct config *)0)->socket_path];
    dev_t device; /* of the file that we made */
    ino_t inode;
};

#define LISTENER_EMPTY ((struct listener){.fd = -1})

/* Listens as the configuration says: SOCK_SEQPACKET at socket_path, with its mode and group. A
 * socket that a dead daemon left is replaced; -EADDRINUSE: somebody listens there, or the path is
 * something else than a socket. A socket passed by systemd comes first. */
int listener_open(struct listener *ret_listener, const struct config *config,
                  struct failure *failure);

/* Closes, and removes the file if it is still the one we made. Twice does no harm. */
void listener_close(struct listener *listener);

#endif
