/*
 * Closes sockets in whose queues strangers' descriptors may lie unread.
 *
 * Such a descriptor is closed with the socket, and that may take as long as its maker likes: a TCP
 * socket with SO_LINGER waits for its peer. But the kernel lets nothing linger for a thread that
 * ends (PF_EXITING). So a thread takes a table of descriptors of its own (a copy of the process's),
 * the caller closes its numbers, which are not the last ones now, and the thread ends. Until it has
 * ended, a moment after the return, there is a second holder of every descriptor of the process.
 */
#ifndef AGL_DAEMON_UNDERTAKER_H
#define AGL_DAEMON_UNDERTAKER_H

#include <stdint.h>

/* Closes them all without waiting for anybody else. On failure (no thread, no memory) none is
 * closed: try again later. Waits only until the new thread has run, once. */
int undertaker_close(const int *fds, uint32_t count);

/* The same for one; if no thread can be had it is closed as any other, whatever that takes. */
void undertaker_close_one(int fd);

/* Whether the kernel lets us. -ENOSYS, -EPERM. */
int undertaker_check(void);

#endif
