#include "shm/doorbell.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NS_PER_S = 1000000000 };

int doorbell_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
                               .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0) == 0 || errno == EAGAIN)
        return 0;
    return -errno;
}

void doorbell_wake(const _Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void spinner_init(struct spinner *spinner, uint64_t limit_ns)
{
    *spinner = (struct spinner){.limit_ns = limit_ns};
}

void spinner_begin(struct spinner *spinner, uint64_t now_ns)
{
    spinner->last_ns = now_ns;
}

void spinner_arrival(struct spinner *spinner, uint64_t now_ns)
{
    if (spinner->last_ns && now_ns > spinner->last_ns) {
        uint64_t gap_ns = now_ns - spinner->last_ns;
        /* An eighth of the weight to the newest gap; a gap beyond what anyone would spin for counts
         * as just beyond, so that a stream after a long pause is recognised within a few arrivals.
         */
        if (gap_ns / 4 > spinner->limit_ns)
            gap_ns = 4 * spinner->limit_ns;
        spinner->gap_ns =
            spinner->gap_ns ? spinner->gap_ns - spinner->gap_ns / 8 + gap_ns / 8 : gap_ns;
    }
    spinner->last_ns = now_ns;
}

uint64_t spinner_budget_ns(const struct spinner *spinner)
{
    if (spinner->limit_ns == UINT64_MAX || spinner->gap_ns == 0)
        return spinner->limit_ns;
    /* Twice the usual gap catches most arrivals of a steady stream. If that is beyond the limit,
     * the next arrival is likely to be slept for anyway; a short spin still catches the bursts. */
    if (spinner->gap_ns <= spinner->limit_ns / 2)
        return 2 * spinner->gap_ns;
    return spinner->limit_ns / 16;
}
