/*
 * Stores on their way to memory.
 *
 * A half has one writer. Its stores wait in a buffer and arrive one by one, at any time, in an order
 * weaker than that of the processors the program runs on: stores to the same place keep theirs
 * (coherence), a release store arrives after everything stored before it, and a plain store may
 * overtake every other one. x86, where buffers are first in, first out, is a special case. A load
 * reads what has arrived; nobody loads what he stores himself. A full fence waits until the buffers
 * of its process are empty. System calls order nothing.
 *
 * A step of a process has at its beginning one load, fence and load, or system call; then private
 * work and stores into its own buffer, which nobody sees before they arrive. So whatever can come
 * between the parts of a step can come before or after it as well.
 */

/* A waiting store is a place and a value, four bits each. */
#define NUMBER_AT(slot) (slot)
#define MESSAGE_AT(slot) (SLOTS_MAX + (slot))
#define CURSOR_AT 8
#define WORD_AT 9
#define PLACE(store) ((store) >> 4)
#define VALUE(store) ((store) & 15)
#define IS_NUMBER(store) (PLACE(store) < MESSAGE_AT(0))
#define IS_MESSAGE(store) (PLACE(store) >= MESSAGE_AT(0) && PLACE(store) < CURSOR_AT)
#ifdef WEAK_PUBLISH
#define IS_RELEASE(store) (PLACE(store) == CURSOR_AT)
#else
#define IS_RELEASE(store) (PLACE(store) == CURSOR_AT || IS_NUMBER(store))
#endif

/* More stores than ever wait, which is checked: a full buffer would hold its owner up. */
#define DEPTH 8
byte waiting[HALVES];
byte buffer[HALVES * DEPTH];
#define WAITING(h, i) buffer[(h) * DEPTH + (i)]
#define IS_EMPTY(h) (waiting[h] == 0)
#define IS_ROOMY(h) (waiting[h] < DEPTH / 2) /* instead of a fence, where one is left out */

inline put(h, place, value)
{
    CHECK(is_full, waiting[h] < DEPTH);
    WAITING(h, waiting[h]) = (place) * 16 + (value);
    waiting[h]++
}

inline put_message(h, position)
{
#ifdef MESSAGES_WAIT
    put(h, MESSAGE_AT((position) % SLOTS(h)), position)
#else
    /* Arrives at once, which is the worst for one that has not been read yet. */
    CHECK(is_overwritten, IS_FREE(h, position));
    MESSAGE(h, position) = position
#endif
}

#ifdef WEAK_COUNT
#define FORGET(h) skip
#else
#define FORGET(h) rung[h] = 0
#endif

/* Whether a sleep word has arrived last, or waits. */
#define WAITS(h, i, word) (waiting[h] > i && WAITING(h, i) == WORD_AT * 16 + (word))
#define EXISTS(h, word) \
    (sleep_word[h] == (word) || WAITS(h, 0, word) || WAITS(h, 1, word) || WAITS(h, 2, word) || \
     WAITS(h, 3, word) || WAITS(h, 4, word) || WAITS(h, 5, word) || WAITS(h, 6, word) || \
     WAITS(h, 7, word))

/* The i-th of the waiting stores arrives. A message may only replace one that has been read. What
 * was rung last is forgotten when no word can equal it any more (doorbell.pml). */
inline arrive(i)
{
    store = WAITING(h, i);
    if
    :: IS_NUMBER(store) -> number[h * SLOTS_MAX + PLACE(store)] = VALUE(store)
    :: IS_MESSAGE(store) ->
        CHECK(is_overwritten, IS_FREE(h, VALUE(store)));
        MESSAGE(h, VALUE(store)) = VALUE(store)
    :: PLACE(store) == CURSOR_AT -> cursor[h] = VALUE(store)
    :: PLACE(store) == WORD_AT -> sleep_word[h] = VALUE(store)
    fi;
    waiting[h]--;
    at = i;
    do
    :: at < waiting[h] -> WAITING(h, at) = WAITING(h, at + 1); at++
    :: else -> break
    od;
    WAITING(h, at) = 0;
    at = 0;
    store = 0;
    if
    :: !EXISTS(h, rung[h]) -> FORGET(h)
    :: else
    fi
}

/* The i-th is plain, and none of the first 1, 2, 3 ... goes to the same place. */
#define IS_PLAIN(i) (waiting[h] > (i) && !IS_RELEASE(WAITING(h, i)))
#define IS_UNLIKE(i, j) (PLACE(WAITING(h, i)) != PLACE(WAITING(h, j)))
#define PASSES_1(i) (IS_PLAIN(i) && IS_UNLIKE(i, 0))
#define PASSES_2(i) (PASSES_1(i) && IS_UNLIKE(i, 1))
#define PASSES_3(i) (PASSES_2(i) && IS_UNLIKE(i, 2))
#define PASSES_4(i) (PASSES_3(i) && IS_UNLIKE(i, 3))
#define PASSES_5(i) (PASSES_4(i) && IS_UNLIKE(i, 4))
#define PASSES_6(i) (PASSES_5(i) && IS_UNLIKE(i, 5))
#define PASSES_7(i) (PASSES_6(i) && IS_UNLIKE(i, 6))

proctype memory(byte h)
{
    byte store, at;
end:
    do
    :: d_step { !IS_EMPTY(h) -> arrive(0) }
    :: d_step { PASSES_1(1) -> arrive(1) }
    :: d_step { PASSES_2(2) -> arrive(2) }
    :: d_step { PASSES_3(3) -> arrive(3) }
    :: d_step { PASSES_4(4) -> arrive(4) }
    :: d_step { PASSES_5(5) -> arrive(5) }
    :: d_step { PASSES_6(6) -> arrive(6) }
    :: d_step { PASSES_7(7) -> arrive(7) }
    od
}
