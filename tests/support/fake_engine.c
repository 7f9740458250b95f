#include "tests/support/fake_engine.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/support/test.h"

void fake_engine_init(struct engine *engine)
{
    *engine = (struct engine){.report_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    assert_true(engine->report_fd >= 0);
}

void fake_engine_fini(struct engine *engine)
{
    close(engine->report_fd);
}

void fake_engine_report(struct engine *engine, enum engine_report_kind kind,
                        struct session *session, int error)
{
    uint64_t one = 1;
    assert_true(engine->report_count < FAKE_REPORTS_MAX);
    uint32_t place = (engine->first_report + engine->report_count++) % FAKE_REPORTS_MAX;
    engine->reports[place] =
        (struct engine_report){.kind = (uint32_t)kind, .session = session, .error = error};
    assert_int_equal(write(engine->report_fd, &one, sizeof one), sizeof one);
}

int engine_report_fd(const struct engine *engine)
{
    return engine->report_fd;
}

int engine_next_report(struct engine *engine, struct engine_report *ret_report)
{
    if (engine->report_count == 0)
        return 0;
    *ret_report = engine->reports[engine->first_report];
    engine->first_report = (engine->first_report + 1) % FAKE_REPORTS_MAX;
    engine->report_count--;
    return 1;
}

int engine_attach(struct engine *engine, struct session *session)
{
    if (engine->attach_error)
        return engine->attach_error;
    if (engine->busy_turns) {
        engine->busy_turns--;
        return -EAGAIN;
    }
    assert_true(engine->session_count < FAKE_SESSIONS_MAX);
    engine->sessions[engine->session_count++] = session;
    engine->attached_total++;
    return 0;
}

int engine_detach(struct engine *engine, struct session *session)
{
    uint32_t index = 0;
    if (engine->busy_turns) {
        engine->busy_turns--;
        return -EAGAIN;
    }
    while (index < engine->session_count && engine->sessions[index] != session)
        index++;
    assert_true(index < engine->session_count); /* asked back once, and only what was given */
    engine->sessions[index] = engine->sessions[--engine->session_count];
    engine->detached_total++;
    if (!engine->keeps_sessions)
        fake_engine_report(engine, ENGINE_DETACHED, session, 0);
    return 0;
}

int engine_drain(struct engine *engine, uint64_t deadline_ns)
{
    engine->drain_is_asked = true;
    engine->drain_deadline_ns = deadline_ns;
    if (!engine->never_drains)
        fake_engine_report(engine, ENGINE_DRAINED, NULL, 0);
    return 0;
}
