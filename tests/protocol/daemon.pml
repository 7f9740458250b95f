/*
 * The engine: engine_turn() over and over, with engine_wait() when there was nothing to do.
 * daemon/engine_take.c, engine_wait.c, publish.c.
 *
 * `at` says how far it has come in its turn, s in which session; go_on() passes over what needs no
 * step. With -DCOMPANY there are other sessions too, of which nothing is known: they have work or
 * not, ring or not, keep the engine awake or leave it asleep for ever.
 */

mtype = {
    SWEEP,    /* sweep_hot(): engine_take() */
    COOL,     /* sweep_hot(): cool(), after its announcement */
    LOOK,     /* look_at_doorbells(), in a turn or after the sleep */
    ANSWER,   /* answer(): engine_take() */
    EARLY,    /* engine_step(): publish_wake() */
    STEP,     /* engine_step(): forward_run() is over */
    WAKE,     /* engine_turn(): publish_wake() */
    WAIT,     /* engine_wait() */
    COOL_ALL, /* cool_all(): cool(), after its announcement */
    ASLEEP,   /* epoll_wait() */
    RISE      /* wake_all() */
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
#define DAEMON_ANNOUNCE_FENCE IS_ROOMY(DAEMON(s))
#else
#define DAEMON_ANNOUNCE_FENCE ALL(HAS_ARRIVED)
#endif
#ifdef WEAK_DAEMON_PUBLISH
#define DAEMON_PUBLISH_FENCE IS_ROOMY(DAEMON(s))
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

/* publish_has_room() for what one submission may bring */
#define IS_ROOM(s) (ROOM_BY(DAEMON(s), CURSOR_OF(DAEMON(s))) >= live[s] + ANSWERS)

#define HAS_RUNG(s) is_rung[s]
#define HAS_WORK(s) (live[s] > 0)
#define HAS_COME(s) (hot[s] && !stalled[s] && IS_READY(CLIENT(s)))
#define HAS_ROOM(s) (hot[s] && stalled[s] && IS_ROOM(s))

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

/* engine_take()'s loop, after ring_is_ready() and publish_has_room(). The first answer is
 * EVENT_ACCEPTED; or, with -DANSWERS=1, a refusal. */
inline take_one()
{
    ring_copy(CLIENT(s));
    has_taken = true;
    is_busy = true;
    live[s] = live[s] + ANSWERS - 1;
    publish_event()
}

/* The end of engine_take() */
inline took(is_stalled)
{
    stalled[s] = is_stalled;
    has_taken = false;
    at = (at == ANSWER -> LOOK : SWEEP);
    s++
}

/* cool() until its fence */
inline announce()
{
    DAEMON_RETURN(s);
    doorbell_announce(DAEMON(s), HOW_FD)
}

/* warm(), make_hot() */
inline make_hot()
{
    hot[s] = true;
    doorbell_awake(DAEMON(s))
}

/* engine_step(): EVENT_DONE for one request of each session */
inline step()
{
    do
    :: s < SESSIONS && live[s] > 0 -> is_busy = true; live[s]--; publish_event(); s++
    :: s < SESSIONS && live[s] == 0 -> s++
    :: else -> break
    od
}

/* The end of wake_client() */
inline woke()
{
    how = HOW_NONE;
    touched_from[s] = 0;
    is_touched[s] = false;
    s++
}

inline turn_to(next)
{
    at = next;
    s = 0
}

#define IS_DONE (s == SESSIONS)

inline go_on()
{
    do
    :: at == SWEEP && !IS_DONE && !hot[s] -> s++
    :: at == SWEEP && IS_DONE -> turn_to(LOOK)

    :: at == LOOK && IS_DONE && has_slept -> has_slept = false; turn_to(RISE)
    :: at == LOOK && IS_DONE && !has_slept -> turn_to(STEP) /* the echo model, or nothing to do */
#ifdef COMPANY
    :: at == LOOK && IS_DONE && !has_slept -> turn_to(EARLY)
#else
    :: at == LOOK && IS_DONE && !has_slept && ANY(HAS_WORK) -> turn_to(EARLY) /* with arithmetic */
#endif
    :: at == EARLY && !IS_DONE && !is_touched[s] -> s++
    :: at == EARLY && IS_DONE -> turn_to(STEP)
    :: at == STEP -> step(); turn_to(WAKE)

    :: at == WAKE && !IS_DONE && !is_touched[s] -> s++
    :: at == WAKE && IS_DONE && is_busy -> is_busy = false; turn_to(SWEEP)
    :: at == WAKE && IS_DONE && !is_busy -> turn_to(WAIT)

    :: at == COOL_ALL && !IS_DONE && (!hot[s] || stalled[s]) -> s++
    :: at == COOL_ALL && !IS_DONE && hot[s] && !stalled[s] -> announce(); break
    :: at == COOL_ALL && IS_DONE && has_come -> has_come = false; turn_to(RISE)
    :: at == COOL_ALL && IS_DONE && !has_come -> turn_to(ASLEEP); break

    :: at == RISE && !IS_DONE && !hot[s] -> make_hot(); s++ /* must_stay_hot() */
    :: at == RISE && !IS_DONE -> s++
    :: at == RISE && IS_DONE -> turn_to(SWEEP)
#ifdef COMPANY
    :: at == WAKE && IS_DONE -> is_busy = false; turn_to(SWEEP)
    :: at == COOL_ALL && IS_DONE -> has_come = false; turn_to(RISE)
    :: at == COOL_ALL && IS_DONE && !has_come -> will_be_rung = true; turn_to(ASLEEP); break
#endif
    :: else -> break
    od
}

proctype engine()
{
    bool hot[SESSIONS] = true; /* place == SESSION_HOT; otherwise SESSION_COLD */
    bool stalled[SESSIONS];    /* submissions wait for room in the event ring */
    byte live[SESSIONS];       /* accepted and not done: their last events have places promised */
    bool is_touched[SESSIONS];
    byte touched_from[SESSIONS];
    byte s, how;
    bool is_busy, has_taken, has_come, has_slept;
#ifdef COMPANY
    bool will_be_rung;
#endif
    mtype at = SWEEP;

turn:
    do
    :: atomic {
        if
        /* engine_take(). ring_is_ready(), publish_has_room() and ring_pop() are one step: what the
         * first two find stays true. */
        :: (at == SWEEP || at == ANSWER) && IS_READY(CLIENT(s)) && IS_ROOM(s) -> take_one()
        :: (at == SWEEP || at == ANSWER) && IS_READY(CLIENT(s)) && !IS_ROOM(s) -> took(true)
        :: (at == SWEEP || at == ANSWER) && !IS_READY(CLIENT(s)) -> DAEMON_RETURN(s); took(false)
        :: at == SWEEP && !has_taken && !IS_READY(CLIENT(s)) -> /* silent for ENGINE_HOT_NS */
            stalled[s] = false;
            announce();
            at = COOL

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

        /* look_at_doorbells(), answer() */
        :: at == LOOK && is_rung[s] ->
            is_rung[s] = false;
            if
            :: !hot[s] -> make_hot()
            :: else
            fi;
            at = ANSWER
        :: at == LOOK -> s++ /* it has not rung, or is not asked now */

        /* wake_client() */
        :: (at == EARLY || at == WAKE) && how == HOW_NONE && DAEMON_PUBLISH_FENCE ->
            doorbell_sleeper(CLIENT(s), how);
#ifdef WEAK_WAKE_LAST
            touched_from[s] = (tail[DAEMON(s)] + LAPS(DAEMON(s)) - 1) % LAPS(DAEMON(s));
#endif
            if
            :: how == HOW_NONE -> woke()
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
            :: touched_from[s] == tail[DAEMON(s)] -> woke()
            :: else
            fi
        :: how == HOW_FD -> is_readable[s] = true; woke() /* send() */

        /* engine_wait(): spin() finds something, or cool_all() */
        :: at == WAIT && (ANY(HAS_COME) || ANY(HAS_ROOM)) -> at = SWEEP
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

end: /* epoll_wait(): for ever, or for a millisecond at a time while somebody waits for room */
    if
    :: atomic { ANY(HAS_RUNG) -> has_slept = true; at = LOOK }
    :: atomic { ANY(HAS_ROOM) -> at = WAIT }
#ifdef COMPANY
    :: atomic { will_be_rung -> will_be_rung = false; has_slept = true; at = LOOK }
#endif
    fi;
    goto turn
}
