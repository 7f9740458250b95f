/*
 * Waiting for the other side: spin a little, then sleep; no wake-up is lost.
 *
 * Who waits spins for a time learnt from the gaps between arrivals (struct spinner), then announces
 * in its sleep word how it wants to be woken, looks once more, and sleeps. Who publishes looks at
 * that word afterwards and makes a system call only for a sleeper:
 *
 *   waits                                    publishes
 *     doorbell_announce(word, how)             ring_push()
 *     look again; found: doorbell_awake()      how = doorbell_sleeper(word, &rung)
 *     sleep (futex on the slot, or poll)       FUTEX: doorbell_wake(), each slot just pushed
 *     doorbell_awake(word)                     FD: write to the descriptor
 *
 * Both sides pass one full fence between their store and their load, so at least one of them sees
 * the other's store. The words are in the sleeper's own memory; the other side maps them read-only,
 * which is enough for a futex, both to wait and to wake.
 */
#ifndef AGL_SHM_DOORBELL_H
#define AGL_SHM_DOORBELL_H

#include <stdatomic.h>
#include <stdint.h>

/* As in ring.h: named so that a test can weaken it. */
#ifndef DOORBELL_FENCE
#define DOORBELL_FENCE() atomic_thread_fence(memory_order_seq_cst)
#endif

/* How a sleeper wants to be woken: the low two bits of its word. The others count its sleeps, so
 * that the other side can ring a descriptor once a sleep and no more. */
enum doorbell_how { DOORBELL_NONE = 0, DOORBELL_FUTEX = 1, DOORBELL_FD = 2 };
enum { DOORBELL_HOW_MASK = 3, DOORBELL_COUNT_STEP = 4 };

static inline void doorbell_fence(void)
{
    /* The full fence: a sleeper's store of its word may not pass its second look at the ring, and
     * a publisher's store of a sequence number may not pass its look at the sleeper's word. */
    DOORBELL_FENCE();
}

/* Says in the own word that its owner is about to sleep. Look at the ring again before sleeping. */
static inline void doorbell_announce(_Atomic uint32_t *word, enum doorbell_how how)
{
    /* relaxed: the only writer is the caller, and the fence below orders the store. */
    uint32_t count =
        atomic_load_explicit(word, memory_order_relaxed) & ~(uint32_t)DOORBELL_HOW_MASK;
    atomic_store_explicit(word, (count + DOORBELL_COUNT_STEP) | (uint32_t)how,
                          memory_order_relaxed);
    doorbell_fence();
}

/* Takes the announcement back. */
static inline void doorbell_awake(_Atomic uint32_t *word)
{
    /* relaxed: who sees the old value rings once too often, which does no harm. */
    uint32_t value = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, value & ~(uint32_t)DOORBELL_HOW_MASK, memory_order_relaxed);
}

/* After publishing: how the other side wants to be woken, DOORBELL_NONE if it is awake. value comes
 * from a stranger, so anything unknown counts as awake.
 *
 * *rung is private to the caller and starts at 0. A ring by descriptor stays until it is read, so
 * one a sleep is enough and the next calls in the same sleep give DOORBELL_NONE. A wake-up by futex
 * is gone if nobody sleeps on that slot yet: the sleeper may have read this message already and be
 * on its way to sleep on the next slot, whose message must find the announcement again. */
static inline enum doorbell_how doorbell_sleeper(const _Atomic uint32_t *word, uint32_t *rung)
{
    doorbell_fence();
    /* relaxed: the fence above orders it after the publication. */
    uint32_t value = atomic_load_explicit(word, memory_order_relaxed);
    switch (value & DOORBELL_HOW_MASK) {
    case DOORBELL_FUTEX:
        return DOORBELL_FUTEX;
    case DOORBELL_FD:
        if (value == *rung)
            return DOORBELL_NONE;
        *rung = value;
        return DOORBELL_FD;
    default:
        return DOORBELL_NONE;
    }
}

/* Sleeps while *word == expected, for at most timeout_ns. 0: woken or changed; -ETIMEDOUT; -EINTR.
 * The word may be mapped read-only. */
int doorbell_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);

/* Wakes one thread that sleeps on the word. A side has one waiter and no more: a client is used by
 * one thread at a time. Were all of them woken, a client that lets thousands of threads sleep on
 * its slots would make each event as dear for the engine. */
void doorbell_wake(const _Atomic uint32_t *word);

/* How long a waiter should spin: to the limit as long as arrivals within it are likely. Counting
 * how many came in time, rather than averaging the gaps, lets two sides that both sleep find back
 * to spinning: a round trip of two wake-ups is still within the limit, so each side spins next
 * time, and a few gaps of milliseconds do not drown many short ones. */
struct spinner {
    uint64_t limit_ns; /* 0: never spin; UINT64_MAX: always */
    uint64_t last_ns;  /* of the last arrival, or of spinner_begin(); 0: neither yet */
    uint32_t likely;   /* of SPINNER_CERTAIN: the share of arrivals within the limit, lately */
};
enum { SPINNER_CERTAIN = 1024 };

void spinner_init(struct spinner *spinner, uint64_t limit_ns);
/* Notes that a wait begins: the gap before the next arrival counts from here, not from the last
 * arrival. For who waits only part of the time; who always waits need not call it. */
void spinner_begin(struct spinner *spinner, uint64_t now_ns);
/* Notes an arrival. */
void spinner_arrival(struct spinner *spinner, uint64_t now_ns);
/* How long to spin from now on before sleeping. */
uint64_t spinner_budget_ns(const struct spinner *spinner);

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

#endif
