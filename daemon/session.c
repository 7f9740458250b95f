#include "daemon/session.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/guard.h"
#include "daemon/request.h"

static void place_halves(struct session *session)
{
    const struct geometry *geometry = &session->geometry;
    const uint8_t *theirs = session->options.client_half.base;
    uint8_t *ours = session->options.daemon_half.base;

    session->client_words =
        (const struct client_words *)(const void *)(theirs + client_half_words(geometry));
    session->daemon_words = (struct daemon_words *)(void *)(ours + daemon_half_words(geometry));
    session->arena = theirs + client_half_arena(geometry);
    session->output = ours + daemon_half_arena(geometry);
    ring_reader_init(&session->submissions, theirs + client_half_ring(geometry),
                     geometry->submission_slots, SUBMISSION_SLOT_BYTES,
                     &session->daemon_words->submission_cursor);
    ring_writer_init(&session->events, ours + daemon_half_ring(geometry), geometry->event_slots,
                     EVENT_SLOT_BYTES, &session->client_words->event_cursor);
}

int session_open(struct session **ret_session, const struct session_options *options)
{
    if (!geometry_is_valid(&options->geometry) ||
        options->client_half.bytes != client_half_bytes(&options->geometry) ||
        options->daemon_half.bytes != daemon_half_bytes(&options->geometry))
        return -EINVAL;

    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return -ENOMEM;
    session->requests = calloc(options->geometry.max_requests, sizeof(struct request *));
    if (!session->requests) {
        free(session);
        return -ENOMEM;
    }
    session->options = *options;
    session->geometry = options->geometry;
    session->queue = options->queue ? options->queue : &session->own_queue;
    session->promised = 1; /* EVENT_SHUTDOWN */
    session->guard = guard_add(options->client_half.base, options->client_half.bytes);
    place_halves(session);
    *ret_session = session;
    return 0;
}

void session_close(struct session *session)
{
    if (!session)
        return;
    guard_remove(session->guard);
    region_fini(&session->options.client_half);
    region_fini(&session->options.daemon_half);
    if (session->options.socket_fd >= 0)
        close(session->options.socket_fd);
    if (session->options.doorbell_fd >= 0)
        close(session->options.doorbell_fd);
    free(session->requests);
    free(session);
}

struct request *session_find(const struct session *session, uint32_t id)
{
    struct request *request = *session_entry(session, id);
    return request && request->id == id ? request : NULL;
}

void session_break(struct session *session, int error, const char *why)
{
    if (session->broken)
        return;
    session->broken = error;
    session->broken_why = why;
}

uint64_t session_output_row(uint64_t bytes)
{
    return (bytes + LAYOUT_LINE_BYTES - 1) / LAYOUT_LINE_BYTES * LAYOUT_LINE_BYTES;
}

/* Where a row ends that is put at `tail`: at the arena's front if it does not fit behind it. A row
 * never wraps. Monotone in tail, so a step that takes less than it planned stays within its plan.
 */
static uint64_t row_end(const struct session *session, uint64_t tail, uint64_t row_bytes)
{
    uint64_t size = session->geometry.output_bytes;
    uint64_t left = size - (tail + session->output_shift) % size;
    return left >= row_bytes ? tail + row_bytes : tail + left + row_bytes;
}

static int refresh_output_cursor(struct session *session)
{
    /* acquire: pairs with the client's release store of the cursor; it has read the rows before
     * it, so they may be written again. */
    uint64_t cursor =
        atomic_load_explicit(&session->client_words->output_cursor, memory_order_acquire);
    if (cursor - session->output_cursor > session->output_tail - session->output_cursor)
        return -EPROTO;
    session->output_cursor = cursor;
    return 0;
}

int session_output_plan(struct session *session, uint64_t bytes)
{
    uint64_t row_bytes = session_output_row(bytes);
    uint64_t size = session->geometry.output_bytes;
    if (row_bytes > size)
        return 0;

    uint64_t end = row_end(session, session->output_planned, row_bytes);
    if (end - session->output_cursor > size) {
        if (refresh_output_cursor(session) < 0)
            return -EPROTO;
        if (session->output_cursor == session->output_planned) {
            /* Everything is given back: begin at the front, so that any row fits that is no larger
             * than the arena. */
            session->output_shift = size - session->output_planned % size;
            end = session->output_planned + row_bytes;
        }
        if (end - session->output_cursor > size)
            return 0;
    }
    session->output_planned = end;
    return 1;
}

uint32_t session_output_take(struct session *session, uint64_t bytes, uint64_t *ret_release)
{
    uint64_t row_bytes = session_output_row(bytes);
    session->output_tail = row_end(session, session->output_tail, row_bytes);
    *ret_release = session->output_tail;
    return (uint32_t)((session->output_tail - row_bytes + session->output_shift) %
                      session->geometry.output_bytes);
}

void session_list_add(struct session_list *list, struct session *session)
{
    session->next = NULL;
    session->previous = list->last;
    if (list->last)
        list->last->next = session;
    else
        list->first = session;
    list->last = session;
    list->count++;
}

void session_list_remove(struct session_list *list, struct session *session)
{
    if (session->previous)
        session->previous->next = session->next;
    else
        list->first = session->next;
    if (session->next)
        session->next->previous = session->previous;
    else
        list->last = session->previous;
    session->next = session->previous = NULL;
    list->count--;
}

void session_list_rotate(struct session_list *list)
{
    struct session *session = list->first;
    if (!session || !session->next)
        return;
    session_list_remove(list, session);
    session_list_add(list, session);
}
