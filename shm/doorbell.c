#include "shm/doorbell.h"

#include <errno.h>
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
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void spinner_init(struct spinner *spinner, uint64_t limit_ns)
{
    *spinner = (struct spinner){.limit_ns = limit_ns, .likely = SPINNER_CERTAIN};
}

void spinner_begin(struct spinner *spinner, uint64_t now_ns)
{
    spinner->last_ns = now_ns;
}

void spinner_arrival(struct spinner *spinner, uint64_t now_ns)
{
    if (spinner->last_ns && now_ns > spinner->last_ns) {
        /* The newest arrival weighs an eighth: a dozen change the mind either way. */
        if (now_ns - spinner->last_ns <= spinner->limit_ns)
            spinner->likely += (SPINNER_CERTAIN - spinner->likely + 7) / 8;
        else
            spinner->likely -= spinner->likely / 8;
    }
    spinner->last_ns = now_ns;
}

uint64_t spinner_budget_ns(const struct spinner *spinner)
{
    if (spinner->limit_ns == UINT64_MAX)
        return UINT64_MAX;
    /* A spin that finds nothing costs its whole length, one that does saves a sleep and two
     * wake-ups, of about the limit's length: even odds of one in four are worth it, since the
     * arrivals within the limit mostly come at its beginning. Otherwise a short spin still catches
     * bursts. */
    return spinner->likely >= SPINNER_CERTAIN / 4 ? spinner->limit_ns : spinner->limit_ns / 16;
}
