/*
 * The engine: engine_turn() over and over, with engine_wait() when there was nothing to do.
 * daemon/engine_take.c, engine_wait.c, publish.c.
 *
 * `at` says where in its turn it is, s for which session. Each option below is one step; go_on()
 * then skips what needs no step.
 */

mtype = {
    SWEEP,  /* sweep_hot(): engine_take() */
    COOL,   /* sweep_hot(): cool() after its announcement */
    LOOK,   /* engine_sweep(): look_at_doorbells() without waiting */
    ANSWER, /* answer(): engine_take() */
    EARLY,  /* engine_step(): publish_wake() */
    STEP,   /* engine_step(): forward_run() is over */
    WAKE,   /* engine_turn(): publish_wake() */
    WAIT,   /* engine_wait() */
    COOL_ALL, /* cool_all(): cool() after its announcement */
    ASLEEP  /* epoll_wait() */
};

#if SESSIONS == 1
#define ANY(what) (what(0))
#define ALL(what) (what(0))
#else
#define ANY(what) (what(0) || what(1))
#define ALL(what) (what(0) && what(1))
#endif

/* The full fence, of the one process that owns every daemon half */
#define HAS_ARRIVED(s) IS_EMPTY(DAEMON(s))
#ifdef WEAK_DAEMON_ANNOUNCE
#define DAEMON_ANNOUNCE_FENCE true
#else
#define DAEMON_ANNOUNCE_FENCE ALL(HAS_ARRIVED)
#endif
#ifdef WEAK_DAEMON_PUBLISH
#define DAEMON_PUBLISH_FENCE true
#else
#define DAEMON_PUBLISH_FENCE ALL(HAS_ARRIVED)
#endif

#ifdef WEAK_DAEMON_LOOK
#define DAEMON_LOOK(s) false
#else
#define DAEMON_LOOK(s) IS_READY(CLIENT(s))
#endif

#ifdef WEAK_DAEMON_RETURN
#define DAEMON_RETURN(s) skip
#else
#define DAEMON_RETURN(s) ring_return(CLIENT(s))
#endif

#define EVENT_ROOM(s) ROOM_BY(DAEMON(s), CURSOR_OF(DAEMON(s)))
#define IS_ROOM(s) (EVENT_ROOM(s) >= live[s] + ANSWERS)
#define IS_WAITED_FOR(s) (hot[s] && !stalled[s] && IS_READY(CLIENT(s)))
#define GOT_ROOM(s) (hot[s] && stalled[s] && IS_ROOM(s))
#define HAS_WORK(s) (live[s] > 0)
#define HAS_RUNG(s) is_rung[s]

#ifdef COMPANY
#define COMPANY_HAS_WORK true
#else
#define COMPANY_HAS_WORK false
#endif

/* publish_event(). Of more events than the ring has slots the newest are remembered: each slot is
 * woken once then, while the code wakes some of them before as well. */
inline publish_event()
{
    if
    :: !is_touched[s] -> is_touched[s] = true; touched_from[s] = tail[DAEMON(s)]
    :: is_touched[s] && FORWARD(DAEMON(s), touched_from[s], tail[DAEMON(s)]) == SLOTS(DAEMON(s)) ->
        touched_from[s] = NEXT(DAEMON(s), touched_from[s])
    :: else
    fi;
    ring_push(DAEMON(s))
}

/* The body of engine_take()'s loop, after ring_is_ready() and publish_has_room(). */
inline take_one()
{
    ring_copy(CLIENT(s));
    has_taken = true;
    is_busy = true;
    live[s] = live[s] + ANSWERS - 1;
    publish_event() /* EVENT_ACCEPTED */
}

/* cool() until its fence */
inline announce()
{
    DAEMON_RETURN(s);
    doorbell_announce(DAEMON(s), HOW_FD)
}

inline step()
{
    s = 0;
    do
    :: s < SESSIONS && live[s] > 0 -> is_busy = true; live[s]--; publish_event(); s++ /* EVENT_DONE */
    :: s < SESSIONS && live[s] == 0 -> s++
    :: else -> break
    od
}

/* From a session that is done with to the next one, or to the next part of the turn. */
inline go_on()
{
    do
    :: at == SWEEP && s < SESSIONS && !hot[s] -> s++
    :: at == SWEEP && s == SESSIONS -> at = LOOK; s = 0
    :: at == LOOK && s == SESSIONS && has_slept -> has_slept = false; at = SWEEP; s = 0
    :: at == LOOK && s == SESSIONS && !has_slept ->
        if
        :: ANY(HAS_WORK) || COMPANY_HAS_WORK -> at = EARLY; s = 0 /* a model with arithmetic */
        :: at = STEP                          /* the echo model, or nothing to do */
        fi
    :: at == EARLY && s < SESSIONS && !is_touched[s] -> s++
    :: at == EARLY && s == SESSIONS -> at = STEP
    :: at == STEP -> step(); at = WAKE; s = 0
    :: at == WAKE && s < SESSIONS && !is_touched[s] -> s++
    :: at == WAKE && s == SESSIONS && is_busy -> is_busy = false; at = SWEEP; s = 0
    :: at == WAKE && s == SESSIONS && !is_busy -> at = WAIT; s = 0
    :: at == COOL_ALL && s < SESSIONS && (!hot[s] || stalled[s]) -> s++
    :: at == COOL_ALL && s < SESSIONS && hot[s] && !stalled[s] -> announce(); break
    :: at == COOL_ALL && s == SESSIONS && has_come -> has_come = false; at = SWEEP; s = 0
    :: at == COOL_ALL && s == SESSIONS && !has_come -> at = ASLEEP; s = 0; break
#ifdef COMPANY
    :: at == WAKE && s == SESSIONS -> is_busy = false; at = SWEEP; s = 0
    :: at == COOL_ALL && s == SESSIONS -> has_come = false; at = SWEEP; s = 0
    :: at == COOL_ALL && s == SESSIONS && !has_come -> is_brief = true; at = ASLEEP; s = 0; break
#endif
    :: else -> break
    od
}

inline woken()
{
    how = HOW_NONE;
    touched_from[s] = 0;
    is_touched[s] = false;
    s++
}

proctype engine()
{
    bool hot[SESSIONS] = true; /* place == SESSION_HOT; otherwise SESSION_COLD */
    bool stalled[SESSIONS];    /* submissions wait for room in the event ring */
    byte live[SESSIONS];       /* accepted and not done: their last events have places promised */
    bool is_touched[SESSIONS];
    byte touched_from[SESSIONS];
    byte s, how;
    bool is_busy, has_taken, has_come, has_slept, is_brief;
    mtype at = SWEEP;

turn:
    do
    :: atomic {
        if
        /* sweep_hot(), answer(): engine_take(). ring_is_ready(), publish_has_room() and ring_pop()
         * are one step: what the first two have found stays true. */
        :: (at == SWEEP || at == ANSWER) && IS_READY(CLIENT(s)) && IS_ROOM(s) -> take_one()
        :: (at == SWEEP || at == ANSWER) && IS_READY(CLIENT(s)) && !IS_ROOM(s) ->
            stalled[s] = true;
            has_taken = false;
            at = (at == SWEEP -> SWEEP : LOOK);
            s++
        :: (at == SWEEP || at == ANSWER) && !IS_READY(CLIENT(s)) ->
            stalled[s] = false;
            DAEMON_RETURN(s);
            if
            :: at == SWEEP && !has_taken -> announce(); at = COOL /* silent for ENGINE_HOT_NS */
            :: at == SWEEP -> has_taken = false; s++
            :: at == ANSWER -> has_taken = false; at = LOOK; s++
            fi

        /* cool(), from sweep_hot() or from cool_all() */
        :: (at == COOL || at == COOL_ALL) && DAEMON_ANNOUNCE_FENCE && DAEMON_LOOK(s) ->
            doorbell_awake(DAEMON(s));
            has_come = (at == COOL_ALL);
            at = (at == COOL -> SWEEP : COOL_ALL);
            s++
        :: (at == COOL || at == COOL_ALL) && DAEMON_ANNOUNCE_FENCE && !DAEMON_LOOK(s) ->
            hot[s] = false;
            at = (at == COOL -> SWEEP : COOL_ALL);
            s++

        /* look_at_doorbells(), answer(), warm() */
        :: at == LOOK && is_rung[s] ->
            is_rung[s] = false;
            if
            :: !hot[s] -> hot[s] = true; doorbell_awake(DAEMON(s))
            :: else
            fi;
            at = ANSWER
        :: at == LOOK -> s++ /* it has not rung, or is not asked now */
        :: at == LOOK && has_slept && !hot[s] -> /* wake_all() */
            hot[s] = true;
            doorbell_awake(DAEMON(s));
            s++

        /* wake_client() */
        :: (at == EARLY || at == WAKE) && how == HOW_NONE && DAEMON_PUBLISH_FENCE ->
            doorbell_sleeper(CLIENT(s), how);
#ifdef WEAK_WAKE_LAST
            touched_from[s] = (tail[DAEMON(s)] + LAPS(DAEMON(s)) - 1) % LAPS(DAEMON(s));
#endif
            if
            :: how == HOW_NONE -> woken()
            :: else
            fi
        :: how == HOW_FUTEX -> /* doorbell_wake() */
            if
            :: sleeps_on[s] == 1 + touched_from[s] % SLOTS(DAEMON(s)) -> sleeps_on[s] = 0
            :: else
            fi;
            touched_from[s] = NEXT(DAEMON(s), touched_from[s]);
#ifdef WEAK_WAKE_FIRST
            touched_from[s] = tail[DAEMON(s)];
#endif
            if
            :: touched_from[s] == tail[DAEMON(s)] -> woken()
            :: else
            fi
        :: how == HOW_FD -> is_readable[s] = true; woken() /* send() */

        /* engine_wait(): spin() finds something, or cool_all() */
        :: at == WAIT && (ANY(IS_WAITED_FOR) || ANY(GOT_ROOM)) -> at = SWEEP
        :: at == WAIT -> at = COOL_ALL
#ifdef COMPANY
        :: at == WAIT -> at = SWEEP
#endif
        fi;
        go_on();
        if
        :: at == ASLEEP -> goto end
        :: else
        fi }
    od;

end: /* epoll_wait(): for ever, or for a millisecond while somebody waits for room */
    if
    :: atomic { ANY(HAS_RUNG) -> has_slept = true; at = LOOK }
        goto turn
    :: atomic { ANY(GOT_ROOM) -> at = SWEEP; go_on() }
        goto turn
#ifdef COMPANY
    :: atomic { is_brief -> is_brief = false; has_slept = true; at = LOOK }
        goto turn
#endif
    fi
}
