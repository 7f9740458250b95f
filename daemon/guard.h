/*
 * The second line behind the seals of a client's half. Its maker cannot take pages away, but the
 * machine can: a page that cannot be read back from swap, or whose memory has failed, is a SIGBUS
 * for who touches it. The guard then puts zeroes in the place of the whole half, so that the thread
 * goes on, and notes it, so that the engine ends that session and no other.
 *
 * A SIGBUS anywhere else ends the process as before.
 */
#ifndef AGL_DAEMON_GUARD_H
#define AGL_DAEMON_GUARD_H

#include <stdbool.h>
#include <stdint.h>

struct guard_entry;

/* Installs the signal's handler for the whole process, with room for `capacity` places. Once,
 * before any thread is started. -ENOMEM. */
int guard_open(uint32_t capacity);

/* Gives the signal back. Nothing may be guarded any more. */
void guard_close(void);

/* Guards a mapping until guard_remove(). NULL: no room, or the guard is not open. One thread. */
struct guard_entry *guard_add(const void *base, uint64_t bytes);
/* Before the mapping is taken away. NULL does nothing. */
void guard_remove(struct guard_entry *entry);

/* How many mappings have been replaced so far; any thread. */
uint32_t guard_hits(void);
/* Whether this one was. NULL: no. */
bool guard_was_hit(const struct guard_entry *entry);

#endif
