/*
 * shm/doorbell.h. The sleep word in half h is its owner's; the publisher owns the other half.
 *
 * A word counts its owner's sleeps. The count matters only where the publisher compares a sleep by
 * descriptor with the one it rang last, and then only whether they are equal. So such a sleep takes
 * the least number here that no word carries any more, other words carry none, and what was rung
 * last is forgotten when no word can equal it any more. (That 2^30 sleeps without a ring bring a
 * number back is not modelled.)
 */

#define HOW_NONE 0
#define HOW_FUTEX 1
#define HOW_FD 2
#define HOW(word) ((word) & 3)

byte sleeps_on[SESSIONS]; /* one plus the event slot that the client sleeps on by futex */
bool is_readable[SESSIONS]; /* a MESSAGE_WAKE lies in the client's socket */
bool is_rung[SESSIONS]; /* the session's eventfd is in the ready list of the engine's epoll set */

#ifdef WEAK_FUTEX_ONCE
#define IS_ONCE(how) ((how) != HOW_NONE)
#else
#define IS_ONCE(how) ((how) == HOW_FD)
#endif

/* doorbell_announce(), but for its fence, which begins the next step */
inline doorbell_announce(h, how)
{
#ifdef WEAK_COUNT
    put(h, WORD_AT, how)
#else
    if
    :: !IS_ONCE(how) || !EXISTS(h, how) -> put(h, WORD_AT, how)
    :: else ->
        if
        :: !EXISTS(h, 4 + how) -> put(h, WORD_AT, 4 + how)
        :: else -> CHECK(is_full, !EXISTS(h, 8 + how)); put(h, WORD_AT, 8 + how)
        fi
    fi
#endif
}

/* doorbell_awake() */
inline doorbell_awake(h)
{
    put(h, WORD_AT, HOW_NONE)
}

/* doorbell_sleeper(), but for its fence, which precedes it in the same step */
inline doorbell_sleeper(h, ret_how)
{
    ret_how = HOW(sleep_word[h]);
    if
    :: IS_ONCE(ret_how) && sleep_word[h] == rung[h] -> ret_how = HOW_NONE
    :: IS_ONCE(ret_how) && sleep_word[h] != rung[h] -> rung[h] = sleep_word[h]
    :: else
    fi
}
