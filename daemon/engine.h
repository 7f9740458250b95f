/*
 * The data-plane thread: take, schedule, forward, sample, publish, repeat.
 *
 * Once started it neither allocates, locks nor logs, and makes a system call only to wake a
 * sleeping client or to sleep itself. The control thread talks to it through a pair of rings
 * (ring.h) and two eventfds; all functions here are called by the control thread.
 */
#ifndef AGL_DAEMON_ENGINE_H
#define AGL_DAEMON_ENGINE_H

#include "daemon/config.h"
#include "daemon/session.h"
#include "kernels/backend.h"
#include "model/failure.h"
#include "model/model.h"

struct engine;

/* What the engine tells the control thread. */
enum engine_report_kind {
    ENGINE_DETACHED = 1, /* `session` is yours again: close it */
    ENGINE_BROKEN = 2,   /* `session` was ended and told (session->broken, broken_why): -EPROTO, its
                            client broke the contract; -EFAULT, a page of the client's memory has
                            failed; or an error of ours. Call engine_detach() */
    ENGINE_DRAINED = 3,  /* nothing runs any more, every client was told */
    ENGINE_FAILED = 4,   /* the backend is lost (`error`): every request was ended, stop */
};

struct engine_report {
    uint32_t seq; /* ring.h */
    uint32_t kind;
    struct session *session;
    int error;
    uint32_t reserved;
};

/* Allocates everything for serving `models` within the limits of `config`; fills the board's model
 * entries and block counts. config, models, backend and board must outlive the engine. */
int engine_open(struct engine **ret_engine, const struct config *config,
                struct model *const *models, uint32_t model_count, struct backend *backend,
                struct board *board, struct failure *failure);

/* Starts the thread. */
int engine_start(struct engine *engine);

/* A descriptor that is readable when engine_next_report() has something: read 8 bytes from it, then
 * take reports until there are none. */
int engine_report_fd(const struct engine *engine);

/* 1: *ret_report is filled; 0: nothing. */
int engine_next_report(struct engine *engine, struct engine_report *ret_report);

/* Hands over a session, or asks for it back (its requests are cancelled first; ENGINE_DETACHED
 * follows). -EAGAIN: the command ring is full, try again after the next report or turn. */
int engine_attach(struct engine *engine, struct session *session);
int engine_detach(struct engine *engine, struct session *session);

/* No new requests from now on (they are refused with -ESHUTDOWN); what runs may finish until
 * deadline_ns and is then ended; every session gets EVENT_SHUTDOWN. ENGINE_DRAINED follows. */
int engine_drain(struct engine *engine, uint64_t deadline_ns);

/* Ends the thread at once and joins it. Sessions still attached stay the caller's to close. */
void engine_stop(struct engine *engine);

/* After engine_stop() or without a start. NULL does nothing. */
void engine_close(struct engine *engine);

#endif
