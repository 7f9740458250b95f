/*
 * A ring alone, between two that never sleep: no message is overwritten before it is read or read
 * before it is written; all are read, once and in order; the writer never takes the reader for a
 * broken one. -DSUBMISSION_SLOTS=2 or 4.
 */
#define SESSIONS 1
#define EVENT_SLOTS SUBMISSION_SLOTS
#define MESSAGES_WAIT
#include "halves.pml"
#include "memory.pml"
#include "ring.pml"

#define RING CLIENT(0)

proctype writer()
{
    byte known; /* ring_writer.head: messages known to be read */
    bool is_written;

    do
#ifdef WEAK_REUSE
    /* Without acquire the copy may be made before the look at the cursor. */
    :: atomic {
        !is_written && ROOM_BY(RING, known) == 0 ->
        put_message(RING, tail[RING]);
        is_written = true }
#endif
    :: atomic { ROOM_BY(RING, known) > 0 -> /* ring_push() */
        if
        :: !is_written -> put_message(RING, tail[RING])
        :: else -> is_written = false
        fi;
        tail[RING] = NEXT(RING, tail[RING]);
        put(RING, NUMBER_AT((tail[RING] + LAPS(RING) - 1) % SLOTS(RING)), tail[RING]) }
#ifdef WEAK_ROOM
    :: atomic { waiting[RING] < 4 && known != tail[RING] -> known = tail[RING] } /* does not ask */
#else
    :: atomic { known != CURSOR_OF(RING) -> /* ring_room(), with any number wanted */
        CHECK(is_mistrusted, ROOM_BY(RING, CURSOR_OF(RING)) >= ROOM_BY(RING, known)); /* -EPROTO */
        known = CURSOR_OF(RING) }
#endif
    od
}

/* ring_pop() and ring_return(). That the code returns after each quarter of the ring is not needed:
 * here it may after any message, and does when nothing is there. */
proctype reader()
{
#ifdef WEAK_RETURN
    byte position;
#endif
#ifdef WEAK_TAKE
    byte copy;
#endif

    do
#ifdef WEAK_TAKE
    /* Without acquire the copy may be made before the look at the number. */
    :: copy = MESSAGE(RING, head[RING]);
        if
        :: atomic { IS_READY(RING) ->
            CHECK(is_wrong, copy == head[RING]);
            head[RING] = NEXT(RING, head[RING]) }
        :: !IS_READY(RING)
        fi
#else
    :: IS_READY(RING) ->
#ifdef WEAK_RETURN
        /* Without release the copy may be made after the slot was given back. */
        atomic {
            position = head[RING];
            head[RING] = NEXT(RING, head[RING]);
            ring_return(RING)
        }
        atomic { CHECK(is_wrong, MESSAGE(RING, position) == position) }
#else
        atomic {
            CHECK(is_wrong, MESSAGE(RING, head[RING]) == head[RING]);
            head[RING] = NEXT(RING, head[RING])
        }
#endif
#endif
#ifndef WEAK_ROOM
    :: atomic { published[RING] != head[RING] -> ring_return(RING) }
#endif
    od
}

init {
    atomic {
        run memory(CLIENT(0));
        run memory(DAEMON(0));
        run writer();
        run reader()
    }
}
