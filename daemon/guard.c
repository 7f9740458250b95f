#include "daemon/guard.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

struct guard_entry {
    _Atomic uintptr_t base; /* 0: free */
    _Atomic uint64_t bytes;
    _Atomic bool is_hit;
};

/* The only global state of the daemon: a signal handler gets no argument of ours. */
static struct {
    struct guard_entry *entries; /* [capacity] */
    uint32_t capacity;
    _Atomic uint32_t hits;
    struct sigaction before;
} guard;

/* The place that holds the address; NULL: none. */
static struct guard_entry *find(uintptr_t address)
{
    for (uint32_t i = 0; i < guard.capacity; i++) {
        struct guard_entry *entry = &guard.entries[i];
        /* acquire: pairs with the release in guard_add(); `bytes` belongs to this base. */
        uintptr_t base = atomic_load_explicit(&entry->base, memory_order_acquire);
        if (base && address - base < atomic_load_explicit(&entry->bytes, memory_order_relaxed))
            return entry;
    }
    return NULL;
}

/* Runs in the thread that touched the page, in the middle of that access, which is tried again when
 * this returns. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    if (info->si_code <= 0) { /* sent by somebody: no access failed */
        sigaction(number, &guard.before, NULL);
        raise(number);
        return;
    }
    int kept_errno = errno;
    struct guard_entry *entry = find((uintptr_t)info->si_addr);
    void *base = entry ? (void *)atomic_load_explicit(&entry->base, memory_order_relaxed) : NULL;
    if (!base || mmap(base, atomic_load_explicit(&entry->bytes, memory_order_relaxed), PROT_READ,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        sigaction(number, &guard.before, NULL); /* the access fails again, and then for good */
        return;
    }
    /* relaxed: the engine looks once a turn, and nothing else is told by these. */
    atomic_store_explicit(&entry->is_hit, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&guard.hits, 1, memory_order_relaxed);
    errno = kept_errno;
}

int guard_open(uint32_t capacity)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    guard.entries = calloc(capacity, sizeof *guard.entries);
    if (!guard.entries)
        return -ENOMEM;
    guard.capacity = capacity;
    if (sigaction(SIGBUS, &action, &guard.before) < 0) {
        int err = -errno;
        free(guard.entries);
        guard.entries = NULL;
        guard.capacity = 0;
        return err;
    }
    return 0;
}

void guard_close(void)
{
    if (!guard.entries)
        return;
    sigaction(SIGBUS, &guard.before, NULL);
    free(guard.entries);
    guard.entries = NULL;
    guard.capacity = 0;
}

struct guard_entry *guard_add(const void *base, uint64_t bytes)
{
    for (uint32_t i = 0; i < guard.capacity; i++) {
        struct guard_entry *entry = &guard.entries[i];
        if (atomic_load_explicit(&entry->base, memory_order_relaxed)) /* ours alone to change */
            continue;
        atomic_store_explicit(&entry->bytes, bytes, memory_order_relaxed);
        atomic_store_explicit(&entry->is_hit, false, memory_order_relaxed);
        /* release: pairs with the acquire in find(). */
        atomic_store_explicit(&entry->base, (uintptr_t)base, memory_order_release);
        return entry;
    }
    return NULL;
}

void guard_remove(struct guard_entry *entry)
{
    if (entry)
        atomic_store_explicit(&entry->base, 0, memory_order_release);
}

uint32_t guard_hits(void)
{
    return atomic_load_explicit(&guard.hits, memory_order_relaxed);
}

bool guard_was_hit(const struct guard_entry *entry)
{
    return entry && atomic_load_explicit(&entry->is_hit, memory_order_relaxed);
}
