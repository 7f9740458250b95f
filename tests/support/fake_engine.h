/*
 * An engine without a thread, for tests of the control side: it does what it is told and remembers
 * what it was asked. It takes the place of daemon/engine.c when both are linked.
 */
#ifndef AGL_TESTS_SUPPORT_FAKE_ENGINE_H
#define AGL_TESTS_SUPPORT_FAKE_ENGINE_H

#include <stdbool.h>

#include "daemon/engine.h"

enum { FAKE_SESSIONS_MAX = 512, FAKE_REPORTS_MAX = 1024 };

struct engine {
    int report_fd;
    struct engine_report reports[FAKE_REPORTS_MAX];
    uint32_t first_report, report_count;

    struct session *sessions[FAKE_SESSIONS_MAX]; /* attached */
    uint32_t session_count;
    uint32_t attached_total, detached_total;

    uint32_t busy_turns; /* so many attaches and detaches answer -EAGAIN */
    int attach_error;    /* every attach fails with it; 0: none */
    bool keeps_sessions; /* detach is taken but not done */
    bool drain_is_asked; /* engine_drain() was called */
    bool never_drains;   /* and is not answered */
    uint64_t drain_deadline_ns;
};

void fake_engine_init(struct engine *engine);
void fake_engine_fini(struct engine *engine);

/* Tells the control thread something. */
void fake_engine_report(struct engine *engine, enum engine_report_kind kind,
                        struct session *session, int error);

#endif
