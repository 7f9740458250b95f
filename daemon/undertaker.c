#include "daemon/undertaker.h"

#include <errno.h>
#include <limits.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

struct burial {
    sem_t has_copies;
    sem_t may_end;
    int error;
};

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0) /* a signal */
        ;
}

/* The range is empty, so nothing is closed, but the table is this thread's own from then on. */
static void *hold_copies(void *argument)
{
    struct burial *burial = argument;
    if (close_range(UINT_MAX, UINT_MAX, CLOSE_RANGE_UNSHARE) < 0)
        burial->error = -errno;
    sem_post(&burial->has_copies);
    wait_for(&burial->may_end);
    return NULL;
}

int undertaker_close(const int *fds, uint32_t count)
{
    struct burial burial = {.error = 0};
    pthread_t thread;
    sem_init(&burial.has_copies, 0, 0);
    sem_init(&burial.may_end, 0, 0);
    int err = -pthread_create(&thread, NULL, hold_copies, &burial);
    if (err < 0)
        return err;
    wait_for(&burial.has_copies);
    for (uint32_t i = 0; i < count && burial.error == 0; i++)
        close(fds[i]);
    sem_post(&burial.may_end);
    /* It is joined when it leaves our memory, which is before it closes anything. */
    pthread_join(thread, NULL);
    return burial.error;
}

void undertaker_close_one(int fd)
{
    if (undertaker_close(&fd, 1) < 0)
        close(fd);
}

int undertaker_check(void)
{
    return close_range(UINT_MAX, UINT_MAX, 0) < 0 ? -errno : 0;
}
