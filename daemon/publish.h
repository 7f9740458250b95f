/*
 * Events to clients: never blocking, never without a place in the ring, and with one wake-up.
 *
 * Places in a session's event ring are promised before they are needed. The last event of each
 * unfinished request (EVENT_DONE) and of the session (EVENT_SHUTDOWN) always have theirs; what a
 * step may publish is claimed before the step runs, and a request that gets no claim stands still.
 * So a reader that is slow, or has stopped, delays itself alone, and publish_event() cannot fail.
 */
#ifndef AGL_DAEMON_PUBLISH_H
#define AGL_DAEMON_PUBLISH_H

#include "daemon/session.h"

/* The sessions that have got something since the last publish_wake(). */
struct publisher {
    struct session *touched;
};

/* Whether so many more events have room now. 1; 0; -EPROTO: the client's cursor makes no sense. */
int publish_has_room(struct session *session, uint32_t events);

/* The same, and reserves it until publish_unclaim(). */
int publish_claim(struct session *session, uint32_t events);
void publish_unclaim(struct session *session, uint32_t events);

/* Appends an event. The caller has made sure that there is a place: it has just given back a claim
 * or a promise, or asked publish_has_room(). */
void publish_event(struct publisher *publisher, struct session *session, const struct event *event);

/* Wakes those who sleep among the touched sessions. */
void publish_wake(struct publisher *publisher);

#endif
