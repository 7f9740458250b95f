#include "tests/support/engine_stand.h"

#include "tests/support/test.h"

void stand_open(struct stand *stand)
{
    rig_open(&stand->rig);
    client_half_open(&stand->client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&stand->rig, &stand->client);
}

void stand_close(struct stand *stand)
{
    rig_detach(&stand->rig, &stand->client);
    rig_close(&stand->rig);
    client_half_close(&stand->client);
}

void stand_ask(struct stand *stand, uint32_t id, uint32_t tokens, uint32_t max_tokens,
               uint16_t flags)
{
    struct submission submission = client_half_request(&stand->client, id, tokens, max_tokens);
    submission.flags = flags;
    client_half_submit(&stand->client, &submission);
}

void stand_tell(struct stand *stand, uint8_t op, uint32_t id)
{
    struct submission submission = {.op = op, .request = id};
    client_half_submit(&stand->client, &submission);
}

struct event stand_answer(struct stand *stand, uint32_t id, uint32_t *ret_ids)
{
    uint32_t count;
    return rig_answer(&stand->rig, &stand->client, id, ret_ids, &count);
}

void stand_refused(struct stand *stand, uint32_t id, int error)
{
    struct event event = rig_event(&stand->rig, &stand->client);
    assert_done(event, id, DONE_REFUSED);
    assert_int_equal(event.done.error, error);
}

void stand_silent(struct stand *stand)
{
    struct event event;
    rig_turn(&stand->rig, 3);
    assert_int_equal(client_half_poll(&stand->client, &event), 0);
}

void assert_done(struct event event, uint32_t id, enum done_reason reason)
{
    assert_int_equal(event.kind, EVENT_DONE);
    assert_int_equal(event.request, id);
    assert_int_equal(event.reason, reason);
}
