#include "daemon/half_watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "daemon/log.h"

int half_watch_open(struct half_watch *watch)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd < 0)
        return -errno;
    memset(watch, 0, sizeof *watch);
    watch->fd = fd;
    return 0;
}

void half_watch_close(struct half_watch *watch)
{
    if (watch->fd >= 0)
        close(watch->fd);
    watch->fd = -1;
}

static struct half_mark **bucket(struct half_watch *watch, int number)
{
    return &watch->buckets[(uint32_t)number % HALF_WATCH_BUCKETS];
}

int half_watch_add(struct half_watch *watch, struct half_mark *mark, int half_fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", half_fd);
    int number = inotify_add_watch(watch->fd, path, IN_DELETE_SELF);
    if (number < 0)
        return -errno;
    struct half_mark **at = bucket(watch, number);
    mark->number = number;
    mark->next = *at;
    *at = mark;
    return 0;
}

static struct half_mark *take_out(struct half_watch *watch, int number)
{
    struct half_mark **at = bucket(watch, number);
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    struct half_mark *mark = *at;
    if (mark) {
        *at = mark->next;
        mark->number = -1;
    }
    return mark;
}

static bool fill(struct half_watch *watch)
{
    ssize_t got = read(watch->fd, watch->buffer, sizeof watch->buffer);
    watch->used = 0;
    watch->filled = got > 0 ? (uint32_t)got : 0;
    return got > 0;
}

/* Each end comes as two events: the deletion, and that the watch is gone. */
struct half_mark *half_watch_next(struct half_watch *watch)
{
    struct inotify_event event;
    while (watch->used < watch->filled || fill(watch)) {
        memcpy(&event, watch->buffer + watch->used, sizeof event);
        watch->used += (uint32_t)sizeof event + event.len;
        if (event.mask & IN_Q_OVERFLOW)
            log_warning("inotify lost events (fs.inotify.max_queued_events): memory of closed "
                        "sessions may go on counting");
        struct half_mark *mark = event.mask & IN_DELETE_SELF ? take_out(watch, event.wd) : NULL;
        if (mark)
            return mark;
    }
    return NULL;
}
