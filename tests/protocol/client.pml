/* A client: submits, waits for the events that answer it, and may leave when nothing is owed to it.
 * client/generate.c, client/events.c. */

/* How the client of session s may sleep: 1 by futex, 2 by descriptor, 3 now so, now so. */
#if SESSIONS == 1
#define WAYS_1 0
#endif
#define WAYS(s) ((s) == 0 -> WAYS_0 : WAYS_1)
#define MAY_FUTEX(s) (WAYS(s) & 1)
#define MAY_FD(s) (WAYS(s) & 2)

/* The full fences in doorbell_announce() and in doorbell_sleeper() */
#ifdef WEAK_CLIENT_ANNOUNCE
#define CLIENT_ANNOUNCE_FENCE(s) IS_ROOMY(CLIENT(s))
#else
#define CLIENT_ANNOUNCE_FENCE(s) IS_EMPTY(CLIENT(s))
#endif
#ifdef WEAK_CLIENT_PUBLISH
#define CLIENT_PUBLISH_FENCE(s) IS_ROOMY(CLIENT(s))
#else
#define CLIENT_PUBLISH_FENCE(s) IS_EMPTY(CLIENT(s))
#endif

/* The second look, and the one of the kernel, which compares the number with the one seen then. */
#ifdef WEAK_CLIENT_FUTEX_LOOK
#define FUTEX_LOOK(s) false
#else
#define FUTEX_LOOK(s) IS_READY(DAEMON(s))
#endif
#ifdef WEAK_CLIENT_FD_LOOK
#define FD_LOOK(s) false
#else
#define FD_LOOK(s) IS_READY(DAEMON(s))
#endif
#ifdef WEAK_COMPARE
#define IS_CHANGED(s) false
#else
#define IS_CHANGED(s) (IS_READY(DAEMON(s)) != seen)
#endif
#define SLEEP(s) sleeps_on[s] = 1 + head[DAEMON(s)] % SLOTS(DAEMON(s))

/* A submission leaves the announcement before it as it is. */
#ifdef WEAK_CLIENT_BEHIND
#define TAKE_BACK(s) doorbell_awake(CLIENT(s))
#else
#define TAKE_BACK(s) skip
#endif

#ifdef WEAK_CLIENT_RETURN
#define CLIENT_RETURN(s) skip
#else
#define CLIENT_RETURN(s) ring_return(DAEMON(s))
#endif

/* How many submissions a client makes in its life: without end, or so many. */
#ifdef LIVES_0
#define MAY_SUBMIT(s) (submissions < ((s) == 0 -> LIVES_0 : LIVES_1))
#define COUNT_SUBMISSION submissions++
#else
#define MAY_SUBMIT(s) true
#define COUNT_SUBMISSION skip
#endif

#define CAN_SUBMIT(s) \
    (MAY_SUBMIT(s) && owed < ANSWERS * IN_FLIGHT && ROOM_BY(CLIENT(s), CURSOR_OF(CLIENT(s))) > 0)

inline submit(s)
{
    ring_push(CLIENT(s));
    COUNT_SUBMISSION;
    owed = owed + ANSWERS
}

proctype client(byte s)
{
    byte owed; /* events still to come */
    byte how;
    bool seen; /* the number of the next slot was the expected one */
    bool is_announced; /* is_fd_announced, while more is submitted behind it */
#ifdef LIVES_0
    byte submissions;
#endif

idle: /* Decided beforehand, so that who does not leave has to find room. */
    if
    :: MAY_SUBMIT(s) -> goto awake
    :: goto leave
    fi;

awake:
    if
    /* agl_submit(): push(). When it gives -EAGAIN, the caller waits for an event, or tries again. */
    :: atomic { CAN_SUBMIT(s) -> submit(s) }
        goto submitted
    /* agl_wait(), agl_poll(): take(), spin() */
    :: atomic { owed > 0 && IS_READY(DAEMON(s)) ->
        ring_copy(DAEMON(s));
        owed--;
        if
        :: owed == 0 -> goto idle
        :: owed > 0 -> goto awake
        fi }
    :: atomic { owed > 0 && !IS_READY(DAEMON(s)) && MAY_FUTEX(s) ->
        CLIENT_RETURN(s);
        doorbell_announce(CLIENT(s), HOW_FUTEX) }
        goto announced_futex
    :: atomic { (owed > 0 || MAY_SUBMIT(s)) && !IS_READY(DAEMON(s)) && MAY_FD(s) ->
        CLIENT_RETURN(s);
        doorbell_announce(CLIENT(s), HOW_FD) }
        goto announced_fd
    fi;

submitted: /* push(): doorbell_sleeper() */
    atomic {
        CLIENT_PUBLISH_FENCE(s) ->
        doorbell_sleeper(DAEMON(s), how);
        if
        :: how == HOW_NONE && !is_announced -> goto awake
        :: how == HOW_NONE && is_announced -> is_announced = false; goto asleep_fd
        :: how == HOW_FD -> how = HOW_NONE
        fi
    };
    if /* write() to the eventfd */
    :: atomic { !is_announced -> is_rung[s] = true }
        goto awake
    :: atomic { is_announced -> is_announced = false; is_rung[s] = true }
        goto asleep_fd
    fi;

announced_futex: /* sleep_on_slot() */
    if
    :: atomic { CLIENT_ANNOUNCE_FENCE(s) && FUTEX_LOOK(s) -> doorbell_awake(CLIENT(s)) }
        goto awake
    :: atomic { CLIENT_ANNOUNCE_FENCE(s) && !FUTEX_LOOK(s) -> seen = IS_READY(DAEMON(s)) }
    fi;
    /* doorbell_wait(). Who ends it by himself (a signal, the end of a slice) has decided so
     * beforehand, so that the others may sleep for ever. */
    if
    :: atomic { IS_CHANGED(s) -> seen = false; doorbell_awake(CLIENT(s)) }
    :: atomic { !IS_CHANGED(s) -> seen = false; SLEEP(s) }
        atomic { sleeps_on[s] == 0 -> doorbell_awake(CLIENT(s)) }
#ifndef SOUND_SLEEP
    :: atomic { !IS_CHANGED(s) -> seen = false; SLEEP(s) }
        atomic { sleeps_on[s] = 0; doorbell_awake(CLIENT(s)) }
#endif
    fi;
    goto awake;

announced_fd: /* agl_poll() after its announcement */
    if
    :: atomic { CLIENT_ANNOUNCE_FENCE(s) && FD_LOOK(s) -> doorbell_awake(CLIENT(s)) }
        goto awake
    /* agl_submit() behind the announcement, then the sleep: nobody looks a third time. (It may come
     * as late as it likes, since its stores wait in the buffer.) */
    :: atomic { CLIENT_ANNOUNCE_FENCE(s) && !FD_LOOK(s) && CAN_SUBMIT(s) ->
        submit(s);
        TAKE_BACK(s);
        is_announced = true }
        goto submitted
    :: owed > 0 && CLIENT_ANNOUNCE_FENCE(s) && !FD_LOOK(s) ->
#ifdef WEAK_SOCKET
        is_readable[s] = false; /* empties the socket before the sleep instead of after it */
#endif
asleep_fd:
        /* poll(), then agl_poll(): take_back_announcement(), look_at_socket() */
        atomic { is_readable[s] -> doorbell_awake(CLIENT(s)) };
        is_readable[s] = false
#ifndef SOUND_SLEEP
    :: atomic { owed > 0 && CLIENT_ANNOUNCE_FENCE(s) && !FD_LOOK(s) -> doorbell_awake(CLIENT(s)) }
        if
        :: is_readable[s] = false /* the caller comes back by himself */
        :: MAY_FUTEX(s)           /* and by agl_wait(), which leaves the socket alone */
        fi
#endif
    fi;
    goto awake;

leave:
    skip
}
