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
    struct guard_entry *next_free;
};

/* What an entry guards, as it was at one moment. */
struct place {
    uintptr_t base; /* 0: nothing */
    uint64_t bytes;
};

/* The only global state of the daemon: a signal handler gets no argument of ours. */
static struct {
    struct guard_entry *entries; /* [capacity] */
    struct guard_entry *free;    /* of the thread that adds and removes */
    uint32_t capacity;
    _Atomic uint32_t hits;
    struct sigaction before;
} guard;

/* The entry may be used for another mapping meanwhile, which is not the one that failed: that one's
 * session is in our hands, and so is not removed. But then the old base may not be paired with the
 * new size, or the two would reach over what lies behind. */
static struct place read_place(const struct guard_entry *entry)
{
    /* acquire: pairs with the release of the base in guard_add(); the size is this one's or newer.
     */
    uintptr_t base = atomic_load_explicit(&entry->base, memory_order_acquire);
    /* acquire: pairs with the release of the size in guard_add(); a newer size comes with the end
     * of the base before it, which the next load then sees. */
    uint64_t bytes = atomic_load_explicit(&entry->bytes, memory_order_acquire);
    /* unreached: the other thread would have to come between two loads */
    if (atomic_load_explicit(&entry->base, memory_order_relaxed) != base)
        return (struct place){0}; /* unreached: as above */
    return (struct place){.base = base, .bytes = bytes};
}

/* The entry that guards the address, and its place; NULL: none. */
static struct guard_entry *find(uintptr_t address, struct place *ret_place)
{
    for (uint32_t i = 0; i < guard.capacity; i++) {
        struct place place = read_place(&guard.entries[i]);
        if (place.base && address - place.base < place.bytes) {
            *ret_place = place;
            return &guard.entries[i];
        }
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
    struct place place = {0};
    struct guard_entry *entry = find((uintptr_t)info->si_addr, &place);
    if (!entry || mmap((void *)place.base, place.bytes, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        sigaction(number, &guard.before, NULL); /* the access fails again, and then for good */
        return;
    }
    /* relaxed: the engine looks once a turn, and nothing else is told by these. */
    atomic_store_explicit(&entry->is_hit, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&guard.hits, 1, memory_order_relaxed);
    errno = kept_errno;
}

static void give(struct guard_entry *entry)
{
    entry->next_free = guard.free;
    guard.free = entry;
}

static void drop_entries(void)
{
    free(guard.entries);
    guard.entries = guard.free = NULL;
    guard.capacity = 0;
}

int guard_open(uint32_t capacity)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    guard.entries = calloc(capacity, sizeof *guard.entries);
    if (!guard.entries)
        return -ENOMEM;
    guard.capacity = capacity;
    guard.free = NULL;
    for (uint32_t i = capacity; i-- > 0;)
        give(&guard.entries[i]);
    if (sigaction(SIGBUS, &action, &guard.before) < 0) {
        int err = -errno;
        drop_entries();
        return err;
    }
    return 0;
}

void guard_close(void)
{
    if (!guard.entries)
        return;
    sigaction(SIGBUS, &guard.before, NULL);
    drop_entries();
}

struct guard_entry *guard_add(const void *base, uint64_t bytes)
{
    struct guard_entry *entry = guard.free;
    if (!entry)
        return NULL;
    guard.free = entry->next_free;
    /* release: pairs with the acquire in read_place(); who sees this size sees that the entry was
     * free before. */
    atomic_store_explicit(&entry->bytes, bytes, memory_order_release);
    atomic_store_explicit(&entry->is_hit, false, memory_order_relaxed);
    /* release: likewise; who sees this base sees its size. */
    atomic_store_explicit(&entry->base, (uintptr_t)base, memory_order_release);
    return entry;
}

void guard_remove(struct guard_entry *entry)
{
    if (!entry)
        return;
    /* relaxed: nothing was written before that somebody has to see; the size comes after it. */
    atomic_store_explicit(&entry->base, 0, memory_order_relaxed);
    give(entry);
}

uint32_t guard_hits(void)
{
    return atomic_load_explicit(&guard.hits, memory_order_relaxed);
}

bool guard_was_hit(const struct guard_entry *entry)
{
    return entry && atomic_load_explicit(&entry->is_hit, memory_order_relaxed);
}
