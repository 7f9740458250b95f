/*
 * The whole protocol: one daemon, one or two clients (-DSESSIONS=), rings, doorbells and sleep. Nobody
 * sleeps for ever while there is something for him, no message is overwritten, all are read, once
 * and in order. What a lost wake-up leaves behind is a state from which nothing moves any more; the
 * timeouts that would end it in the program (slices of 100 ms, the slow round) are left out.
 *
 * Messages arrive at once here and are copied in the step that finds their number: that the numbers
 * guard them is shown by ring_alone.pml.
 */
#include "halves.pml"
#include "memory.pml"
#include "ring.pml"

/* ring_pop() after it has found the number. That the code calls ring_return() after each quarter of
 * the ring is left out: the less often, the harder to find room. */
inline ring_copy(h)
{
    CHECK(is_wrong, MESSAGE(h, head[h]) == head[h]);
    head[h] = NEXT(h, head[h])
}

#include "doorbell.pml"
#include "client.pml"
#include "daemon.pml"

init {
    atomic {
        byte i;
        for (i : 0 .. HALVES - 1) { run memory(i) }
        for (i : 0 .. SESSIONS - 1) { run client(i) }
        run engine()
    }
}
