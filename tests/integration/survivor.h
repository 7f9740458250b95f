/*
 * A client that outlives its daemon: a thread that waits in one of several ways until it is told
 * that the daemon is gone, says what has become of its requests, and goes on with the next one.
 */
#ifndef AGL_TESTS_INTEGRATION_SURVIVOR_H
#define AGL_TESTS_INTEGRATION_SURVIVOR_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <autoglm.h>

/* What a client is doing when the daemon dies. */
enum survivor_way {
    SURVIVOR_WAIT_ADAPTIVE, /* agl_wait() for ever */
    SURVIVOR_WAIT_SPIN, /* agl_wait() with a timeout, spinning, and pauses: a crowd has to live */
    SURVIVOR_WAIT_SLEEP,
    SURVIVOR_WAIT_TIMED, /* agl_wait() with a timeout, over and over */
    SURVIVOR_POLL,       /* agl_poll() over and over */
    SURVIVOR_DESCRIPTOR, /* poll() on agl_fd() */
    SURVIVOR_CONNECT,    /* agl_connect() and agl_close() over and over */
    SURVIVOR_SUBMIT,     /* agl_submit() as fast as it goes */
    SURVIVOR_QUEUE,      /* waits for more requests than the daemon runs at once */
    SURVIVOR_KEEP,       /* waits beside kept requests, some of them being continued */
    SURVIVOR_WAYS
};

extern const char *const survivor_way_names[SURVIVOR_WAYS];

enum { SURVIVOR_REQUESTS = 16, SURVIVOR_TOKENS = 12 };

/* What all survivors share with the test. */
struct survivor_world {
    const char *socket_path;
    uint32_t expected[2][SURVIVOR_TOKENS]; /* the answers of echo and story */
    _Atomic uint32_t round;                /* that may begin; SURVIVOR_END: no more */
    _Atomic uint64_t kill_ns;              /* when the daemon was killed; 0: not yet */
};
enum { SURVIVOR_END = UINT32_MAX };

/* How far a survivor has come in a round. Before the first one it is in round 0. */
enum survivor_stage {
    SURVIVOR_PREPARES,
    SURVIVOR_WAITS, /* for the daemon's death, though it does not know that */
    SURVIVOR_KNOWS,
    SURVIVOR_DONE, /* has its answers from the next daemon */
    SURVIVOR_STAGES
};

/* A request as the survivor remembers it, to be compared with what the library says. */
struct survivor_request {
    uint32_t id; /* 0: none */
    uint32_t tokens;
    uint32_t parent; /* the request that it continues */
    bool is_accepted, is_done, is_keeping;
};

struct survivor {
    struct survivor_world *world;
    enum survivor_way way;
    uint32_t number;
    unsigned seed;
    pthread_t thread;
    struct agl_client *client;
    struct survivor_request requests[SURVIVOR_REQUESTS];

    /* For the test to read: what is not atomic once the survivor has come to SURVIVOR_DONE. */
    _Atomic uint32_t progress; /* round * SURVIVOR_STAGES + enum survivor_stage */
    _Atomic uint32_t has_failed;
    _Atomic pid_t thread_id;
    uint64_t answer_ns;  /* when this round's definite answer came */
    uint64_t starved_ns; /* thread_starved_ns() then */
    uint32_t states[4];  /* of its requests in all rounds, by enum agl_request_state */
    uint32_t refusals;   /* SURVIVOR_CONNECT: how often the answer was an error */
    char failure[256];
};

/* Starts the survivor's thread: it takes part in every round that the world begins. */
void survivor_start(struct survivor *survivor, struct survivor_world *world, enum survivor_way way,
                    uint32_t number);

/* Waits for its end, after SURVIVOR_END. */
void survivor_join(struct survivor *survivor);

#endif
