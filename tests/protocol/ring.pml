/* shm/ring.h, but for ring_room() and ring_pop(): each model has those in steps of its own. */

/* ring_is_ready(), and the load in ring_pop() */
#define IS_READY(h) (NUMBER(h, head[h]) == NEXT(h, head[h]))

/* ring_room(): what a value of the cursor leaves. */
#define ROOM_BY(h, value) (SLOTS(h) - FORWARD(h, value, tail[h]))

/* The two stores of ring_push() */
inline ring_push(h)
{
    put_message(h, tail[h]);
    tail[h] = NEXT(h, tail[h]);
    put(h, NUMBER_AT((tail[h] + LAPS(h) - 1) % SLOTS(h)), tail[h])
}

/* ring_return() */
inline ring_return(h)
{
    if
    :: published[h] != head[h] -> published[h] = head[h]; put(OTHER(h), CURSOR_AT, head[h])
    :: else
    fi
}
