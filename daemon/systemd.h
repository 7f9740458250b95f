/*
 * What systemd and the daemon say to each other: readiness and watchdog (sd_notify(3)), and a
 * listening socket made by a .socket unit (sd_listen_fds(3)). The few lines of protocol stand here
 * so that libsystemd is not needed. Without systemd every call does nothing.
 */
#ifndef AGL_DAEMON_SYSTEMD_H
#define AGL_DAEMON_SYSTEMD_H

#include <stdint.h>

#include "model/failure.h"

/* Sends assignments ("READY=1\nSTATUS=...", printf) to $NOTIFY_SOCKET, a path or an abstract name.
 * 1: sent; 0: there is no such socket; else a negative errno. */
__attribute__((format(printf, 1, 2))) int systemd_notify(const char *format, ...);

/* The watchdog's period, 0 if this process has none. Tell it "WATCHDOG=1" at least twice in it. */
uint64_t systemd_watchdog_ns(void);

/* Takes over the listening socket that systemd made. 1: *ret_fd is it, the caller's; 0: none;
 * -EINVAL: something else than one listening Unix socket of type SOCK_SEQPACKET was passed. */
int systemd_listen_fd(int *ret_fd, struct failure *failure);

#endif
