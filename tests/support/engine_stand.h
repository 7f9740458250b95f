/*
 * A rig with one client: most tests of the engine need no more.
 *
 *   struct stand s;
 *   rig_init(&s.rig);        change s.rig.config now
 *   stand_open(&s);
 *   stand_ask(&s, 1, 3, 10, 0); ... stand_answer(&s, 1, ids); ...
 *   stand_close(&s);
 */
#ifndef AGL_TESTS_SUPPORT_ENGINE_STAND_H
#define AGL_TESTS_SUPPORT_ENGINE_STAND_H

#include "tests/support/engine_rig.h"

enum { STAND_IDS = 1024 };

struct stand {
    struct engine_rig rig;
    struct client_half client;
};

void stand_open(struct stand *stand);
void stand_close(struct stand *stand);

/* Submits a request of client_half_request()'s prompt. */
void stand_ask(struct stand *stand, uint32_t id, uint32_t tokens, uint32_t max_tokens,
               uint16_t flags);

/* Submits an operation that needs only an id. */
void stand_tell(struct stand *stand, uint8_t op, uint32_t id);

/* Skips to the end of the request's answer; the ids go to ret_ids [STAND_IDS]. */
struct event stand_answer(struct stand *stand, uint32_t id, uint32_t *ret_ids);

/* The next event must be that of a refusal with that error. */
void stand_refused(struct stand *stand, uint32_t id, int error);

/* No event comes in the next turns. */
void stand_silent(struct stand *stand);

void assert_done(struct event event, uint32_t id, enum done_reason reason);

#endif
