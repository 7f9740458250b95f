/*
 * The engine from the inside: what its files share. Nobody else includes this, save its tests,
 * which run it turn by turn with a clock of their own.
 *
 *   engine.c           the thread; commands from and reports to the control thread
 *   engine_open.c      what is allocated before it starts, and freed after it has stopped
 *   engine_take.c      submissions become requests
 *   engine_requests.c  from the queue to the running, and how requests end
 *   engine_kept.c      what is held without running, and who has to give of it
 *   engine_step.c      plan, compute, sample, tell
 *   engine_wait.c      where to look for submissions, and how to wait for them
 */
#ifndef AGL_DAEMON_ENGINE_STATE_H
#define AGL_DAEMON_ENGINE_STATE_H

#include <pthread.h>

#include "daemon/board.h"
#include "daemon/engine.h"
#include "daemon/kvcache.h"
#include "daemon/publish.h"
#include "daemon/request.h"
#include "daemon/sampler.h"
#include "daemon/sched.h"
#include "model/forward.h"
#include "shm/doorbell.h"
#include "shm/ring.h"

enum {
    ENGINE_SWEEP_SUBMISSIONS = 8,  /* taken from one session in a turn */
    ENGINE_SWEEP_TOKENS = 1 << 15, /* prompt tokens copied for one session in a turn, about */
    ENGINE_COMMANDS = 256,
    ENGINE_HOT_NS = 20 * 1000 * 1000,         /* a session silent for longer has to ring */
    ENGINE_LOOK_NS = 1000 * 1000,             /* how often doorbells are asked while working */
    ENGINE_SPIN_LOOK_NS = 20 * 1000,          /* likewise, while there is nothing else to do */
    ENGINE_HEARTBEAT_NS = 1000 * 1000 * 1000, /* how often an idle engine wakes */
    ENGINE_EMPTY_WAKES = 256,  /* doorbells in a row without a submission until it is muted */
    ENGINE_COLD_SESSIONS = 64, /* looked at in one turn by the slow round */
    /* ENGINE_WAIT_SPIN: so few sessions never have to ring. Of more, each silent one would cost the
     * others 3 ns in every look. */
    ENGINE_SPIN_SESSIONS = 8
};

struct engine_model {
    const struct model *model;
    struct board_model *board;
    struct forward *forward; /* NULL: the echo model */
    struct kvcache cache;
    struct request_queue queue;
    struct request_list running; /* in the order in which they were started */
    uint32_t idle_blocks;        /* held by sequences that do not run */
    uint32_t context_tokens;
    uint32_t rotation; /* sched_plan()'s `first` */
};

/* One sequence's part in the step that runs now. */
struct engine_part {
    struct request *request;
    uint32_t tokens;
    uint32_t claimed; /* events; 0: no token follows */
};

enum engine_command_kind { ENGINE_ATTACH = 1, ENGINE_DETACH, ENGINE_DRAIN };

struct engine_command {
    uint32_t seq; /* ring.h */
    uint32_t kind;
    struct session *session;
    uint64_t deadline_ns;
};

struct engine {
    const struct config *config;
    struct backend *backend;
    struct board *board;
    uint64_t (*clock_ns)(void); /* CLOCK_MONOTONIC, or a test's own */
    uint32_t running_max;       /* sequences of one model */
    struct sched_limits limits;

    struct engine_model *models; /* [model_count] */
    uint32_t model_count;
    uint32_t next_model; /* whose turn it is */

    struct request_pool pool;
    struct {
        struct user_queue *first, *last;
    } holders;              /* users who hold anything without running; who last added to it last */
    uint32_t idle_requests; /* hold blocks without running */
    uint32_t queued_requests;
    uint64_t queued_tokens;
    uint32_t running_requests;
    uint32_t parked_requests;
    uint64_t service_ns; /* moving average: how long a request runs */
    uint64_t timer_ns;   /* no request has to be ended before this */

    struct publisher publisher;
    struct session_list hot, cold;
    uint32_t stalled_sessions;
    uint32_t guard_hits;    /* guard_hits() when it was looked at */
    struct session *broken; /* to be ended at the end of the phase */
    int epoll_fd;
    struct spinner spinner;
    uint64_t idle_since_ns;       /* 0: busy */
    uint64_t looked_ns;           /* at the doorbells */
    uint64_t heartbeat_ns;        /* the last slow round's begin */
    uint32_t cold_left;           /* sessions that this round has still to look at */
    uint32_t found_by_slow_round; /* sessions with submissions that nobody rang for */

    bool draining, drained;
    uint64_t drain_deadline_ns;
    int failed; /* the device is lost: negative errno */

    /* Scratch of a step, [step_tokens] or [running_max]. */
    struct sampler sampler;
    struct sched_sequence *sequences;
    struct request **candidates;
    struct sched_pick *picks;
    struct engine_part *parts;
    uint32_t *ids, *positions, *owners, *logit_rows;
    uint32_t *block_tables; /* [running_max, table_stride] */
    uint32_t table_stride;

    /* Between the threads. */
    pthread_t thread;
    bool is_started;
    _Atomic bool stop;
    int command_fd, report_fd;
    uint8_t *command_slots, *report_slots;
    uint32_t report_count;
    struct ring_reader commands;       /* engine thread */
    struct ring_writer reports;        /* engine thread */
    struct ring_writer command_writer; /* control thread */
    struct ring_reader report_reader;  /* control thread */
    uint32_t attached;                 /* control thread */
    _Atomic uint32_t command_cursor __attribute__((aligned(LAYOUT_PAIR_BYTES)));
    _Atomic uint32_t report_cursor __attribute__((aligned(LAYOUT_PAIR_BYTES)));
};

/* ---- engine.c -------------------------------------------------------------------------------- */

/* One turn: everything that is to be done now. Whether there was anything. */
bool engine_turn(struct engine *engine, uint64_t now_ns);

/* CLOCK_MONOTONIC. */
uint64_t engine_now_ns(void);

void engine_report(struct engine *engine, enum engine_report_kind kind, struct session *session,
                   int error);

/* Ends the sessions that were marked since the last time. */
void engine_settle_broken(struct engine *engine, uint64_t now_ns);

/* Marks a session as broken, and to be ended by engine_settle_broken(): -EPROTO, its client broke
 * the contract; or another error, for which it is not to blame. Of one whose memory was replaced by
 * the guard it is -EFAULT, whatever is said here. */
void engine_break(struct engine *engine, struct session *session, int error, const char *why);

/* ---- engine_take.c --------------------------------------------------------------------------- */

/* Takes submissions of one session. Whether there were any. */
bool engine_take(struct engine *engine, struct session *session, uint64_t now_ns);

/* ---- engine_kept.c --------------------------------------------------------------------------- */

/* The request joins, or leaves, those whose sequences are kept. */
void engine_add_kept(struct engine *engine, struct request *request);
void engine_remove_kept(struct engine *engine, struct request *request);

/* The kept request to be forgotten next; NULL: none is kept. */
struct request *engine_next_forgotten(const struct engine *engine);

/* The request joins those that hold blocks without running, if it has any; or leaves them, if it is
 * among them. Its blocks may not change in between. */
void engine_add_idle(struct engine *engine, struct request *request);
void engine_remove_idle(struct engine *engine, struct request *request);

/* Takes all blocks of a request that does not run. The sequence stays, but will be computed again
 * from its tokens. */
void engine_take_blocks(struct engine *engine, struct request *request);

/* Takes the blocks of one idle request of the model, of which there must be one. */
void engine_take_idle_blocks(struct engine *engine, const struct engine_model *model);

/* Takes blocks until no more requests hold idle ones than kept_max says. */
void engine_trim_idle(struct engine *engine);

/* ---- engine_requests.c ----------------------------------------------------------------------- */

/* A request with an empty sequence; gives up a kept sequence if there is no other. NULL: all are in
 * use. */
struct request *engine_new_request(struct engine *engine);

/* Puts a request at the end of its class; what of its sequence is to be computed weighs in the
 * budgets. */
void engine_enqueue(struct engine *engine, struct request *request);

/* So many more tokens of a waiting request are to be computed. */
void engine_charge(struct engine *engine, struct request *request, uint32_t tokens);

/* Moves a waiting request to another class, at its end. */
void engine_requeue(struct engine *engine, struct request *request, uint8_t priority);

/* Starts waiting requests of the model as long as there is room. */
void engine_admit(struct engine *engine, struct engine_model *model, uint64_t now_ns);

/* Ends an unfinished request: tells the client, then keeps or releases the sequence. */
void engine_end(struct engine *engine, struct request *request, enum done_reason reason, int error,
                uint64_t now_ns);

/* Releases a request without a word, whatever its state. */
void engine_release(struct engine *engine, struct request *request);

/* Takes a kept request out of the kept, to be extended. */
void engine_revive(struct engine *engine, struct request *request);

/* Ends all unfinished requests of the session; releases the kept ones. */
void engine_end_session(struct engine *engine, struct session *session, enum done_reason reason,
                        int error, uint64_t now_ns);

/* Ends all unfinished requests. */
void engine_end_all(struct engine *engine, enum done_reason reason, int error, uint64_t now_ns);

/* Ends all waiting requests. */
void engine_end_queued(struct engine *engine, enum done_reason reason, int error, uint64_t now_ns);

/* Ends what is past its deadline or was parked for too long. */
void engine_expire(struct engine *engine, uint64_t now_ns);

/* Makes sure that engine_expire() looks at the request in time. */
void engine_arm(struct engine *engine, const struct request *request);

/* ---- engine_step.c --------------------------------------------------------------------------- */

/* One step of one model, if any has something to compute. Whether there was one. */
bool engine_step(struct engine *engine, uint64_t now_ns);

/* ---- engine_wait.c --------------------------------------------------------------------------- */

/* Starts or stops looking for submissions of a session. */
int engine_watch(struct engine *engine, struct session *session, uint64_t now_ns);
void engine_unwatch(struct engine *engine, struct session *session);

/* Looks wherever submissions may be and takes them. Whether there were any. */
bool engine_sweep(struct engine *engine, uint64_t now_ns);

/* Nothing is to be done: spins for a while, or sleeps until a doorbell or a timer. */
void engine_wait(struct engine *engine, uint64_t now_ns);

#endif
