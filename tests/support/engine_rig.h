/*
 * An engine on a test stand: one model, the echo model unless the test says otherwise, and either
 * its own thread or the test's hand, which then turns it step by step under a clock that only the
 * test moves.
 *
 *   struct engine_rig rig;
 *   rig_init(&rig);             change rig.config or rig.model now
 *   rig_open(&rig);             rig_start(&rig) for the engine's own thread
 *   rig_attach(&rig, &client); ... rig_detach(&rig, &client);
 *   rig_close(&rig);
 */
#ifndef AGL_TESTS_SUPPORT_ENGINE_RIG_H
#define AGL_TESTS_SUPPORT_ENGINE_RIG_H

#include "daemon/engine_state.h"
#include "tests/support/client_half.h"

enum { RIG_VOCAB = 1000, RIG_CONTEXT = 512, RIG_RUNNING = 8 };

struct engine_rig {
    struct config config;
    struct model model;
    uint32_t model_count; /* 1; or 2, the same one twice */
    struct board *board;
    struct engine *engine;
    bool has_thread;
};

/* The clock of rigs without a thread. */
extern uint64_t rig_now_ns;
enum { RIG_MS = 1000000 };

void rig_init(struct engine_rig *ret_rig);
void rig_open(struct engine_rig *rig);
void rig_start(struct engine_rig *rig);

/* Stops the engine and checks that every block and request has come back. */
void rig_close(struct engine_rig *rig);

/* Without a thread: so many turns. */
void rig_turn(struct engine_rig *rig, uint32_t turns);

/* Hands the session over. */
void rig_attach(struct engine_rig *rig, struct client_half *client);

/* Asks for it back, and waits until it is there; reports of other kinds are skipped. */
void rig_detach(struct engine_rig *rig, struct client_half *client);

/* The next report, waiting for it; fails the test if none comes. */
struct engine_report rig_report(struct engine_rig *rig);

/* Without a thread: turns until the next event of the client; fails the test if none comes. */
struct event rig_event(struct engine_rig *rig, struct client_half *client);

/* The same, and it must be of that kind and request. */
struct event rig_expect(struct engine_rig *rig, struct client_half *client, enum event_kind kind,
                        uint32_t request);

/* Takes events up to EVENT_DONE of the request, which it returns, and the tokens before it. Other
 * requests' events are skipped. */
struct event rig_answer(struct engine_rig *rig, struct client_half *client, uint32_t request,
                        uint32_t *ret_ids, uint32_t *ret_count);

#endif
