#include "daemon/publish.h"

#include <assert.h>
#include <sys/socket.h>

#include "shm/message.h"

int publish_has_room(struct session *session, uint32_t events)
{
    uint32_t wanted = session->promised + session->claimed + events;
    int32_t room = ring_room(&session->events, wanted);
    if (room < 0)
        return room;
    return (uint32_t)room >= wanted;
}

int publish_claim(struct session *session, uint32_t events)
{
    int has_room = publish_has_room(session, events);
    if (has_room > 0)
        session->claimed += events;
    return has_room;
}

void publish_unclaim(struct session *session, uint32_t events)
{
    assert(session->claimed >= events);
    session->claimed -= events;
}

void publish_event(struct publisher *publisher, struct session *session, const struct event *event)
{
    if (!session->is_touched) {
        session->is_touched = true;
        session->touched_from = session->events.tail;
        session->next_touched = publisher->touched;
        publisher->touched = session;
    }
    /* Room is known without a look at the client's cursor, so it cannot spoil this. */
    int err = ring_push(&session->events, event);
    assert(err == 0);
    (void)err;
}

static const _Atomic uint32_t *slot_word(const struct ring_writer *writer, uint32_t position)
{
    return (const _Atomic uint32_t *)(const void *)(writer->slots +
                                                    (size_t)(position & (writer->slot_count - 1)) *
                                                        writer->slot_bytes);
}

/*
 * A client that sleeps on a futex sleeps on the sequence number of its next slot, h. It stored its
 * announcement, passed its fence and looked at h again; we stored the events [from, tail), pass
 * our fence in doorbell_sleeper() and look at its word. Three cases when we see the announcement:
 *
 *   h < from           An earlier publish_wake() came after h was published. Either it saw the
 *                      announcement and woke h, or the client's second look saw h (the fences).
 *   from <= h < tail   The client may have slept on h before we stored it: h must be woken. Which
 *                      one it is we cannot know, since its cursor is published lazily: wake all.
 *                      If it calls FUTEX_WAIT after our wake, the kernel sees the changed number.
 *   h == tail          It has read everything and sleeps for what comes next. Nothing to do: the
 *                      next event finds the announcement again (doorbell.h does not mark a futex
 *                      as rung).
 *
 * When we do not see the announcement, the client's second look sees everything up to tail.
 */
static void wake_client(struct session *session)
{
    switch (doorbell_sleeper(&session->client_words->sleep, &session->rung)) {
    case DOORBELL_NONE:
        break;
    case DOORBELL_FUTEX:
        for (uint32_t at = session->touched_from; at != session->events.tail; at++)
            doorbell_wake(slot_word(&session->events, at));
        break;
    default: { /* DOORBELL_FD */
        static const struct message_wake wake = {
            .header = MESSAGE_INIT(MESSAGE_WAKE, struct message_wake)};
        /* When it fails the socket is full, so readable, or closed, which the control thread
         * learns by itself. */
        (void)!send(session->options.socket_fd, &wake, sizeof wake, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    }
    }
}

void publish_wake(struct publisher *publisher)
{
    while (publisher->touched) {
        struct session *session = publisher->touched;
        publisher->touched = session->next_touched;
        session->next_touched = NULL;
        session->is_touched = false;
        wake_client(session);
    }
}
