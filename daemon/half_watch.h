/*
 * Tells when the memory of a daemon's half is gone: when nobody has it open, mapped or in flight
 * any more, the daemon included. A client may keep it for ever, in whatever way, so what it counts
 * for is given back only then.
 *
 * An inotify watch does that: the inode of a memfd has no name, so the last reference to it is its
 * deletion (IN_DELETE_SELF). The watch itself keeps nothing alive.
 */
#ifndef AGL_DAEMON_HALF_WATCH_H
#define AGL_DAEMON_HALF_WATCH_H

#include <stdbool.h>
#include <stdint.h>

enum { HALF_WATCH_BUCKETS = 1024, HALF_WATCH_BUFFER_BYTES = 4096 };

/* In the owner's memory, which must stay there until the mark is taken out. */
struct half_mark {
    struct half_mark *next;
    void *owner;
    int number; /* -1: nothing is watched, or it is gone */
};

/* Control thread. */
struct half_watch {
    int fd; /* readable when something is gone; -1: closed */
    struct half_mark *buckets[HALF_WATCH_BUCKETS];
    _Alignas(8) char buffer[HALF_WATCH_BUFFER_BYTES];
    uint32_t used, filled;
};

/* -EMFILE, ...: no inotify. */
int half_watch_open(struct half_watch *watch);

/* Marks may still be in it; they are forgotten. */
void half_watch_close(struct half_watch *watch);

/* Begins to watch the memory behind the descriptor. -ENOENT: there is no /proc; -ENOSPC: more than
 * fs.inotify.max_user_watches. */
int half_watch_add(struct half_watch *watch, struct half_mark *mark, int half_fd);

/* The next one that is gone, and taken out; NULL: none just now. */
struct half_mark *half_watch_next(struct half_watch *watch);

#endif
