#include "autoglm.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/peer.h"
#include "tests/support/test.h"

enum { ARENA_TOKENS = 1024 }; /* one page */

static struct peer peer;
static struct agl_client *client;

static int connect_with(uint32_t output_bytes)
{
    peer_start(&peer, PEER_HONEST);
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = peer.path;
    options.max_requests = 4;
    options.prompt_tokens = ARENA_TOKENS;
    options.output_bytes = output_bytes;
    assert_int_equal(agl_connect(&client, &options), 0);
    peer_join(&peer);
    return 0;
}

static int connect_to_peer(void **state)
{
    return connect_with(0);
}

static int connect_with_output(void **state)
{
    return connect_with(PEER_VOCAB_SIZE * 4);
}

static int leave_peer(void **state)
{
    agl_close(client);
    peer_stop(&peer);
    return 0;
}

static void assert_detail(const char *part)
{
    if (!strstr(agl_error_detail(), part))
        fail_msg("the detail \"%s\" does not say \"%s\"", agl_error_detail(), part);
}

static struct agl_event next_event(void)
{
    struct agl_event event;
    assert_int_equal(agl_poll(client, &event), 1);
    return event;
}

/* Submits a prompt of `tokens` times the id `fill`. */
static int submit(uint32_t tokens, uint32_t fill, uint32_t flags, uint32_t continues,
                  uint32_t *ret_request)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.prompt_tokens = tokens;
    request.flags = flags;
    request.continues = continues;
    if (tokens) {
        uint32_t *ids;
        int err = agl_prompt(client, tokens, &ids);
        if (err < 0)
            return err;
        for (uint32_t i = 0; i < tokens; i++)
            ids[i] = fill;
    }
    return agl_submit(client, &request, ret_request);
}

static uint32_t submit_one(uint32_t flags)
{
    uint32_t id;
    assert_int_equal(submit(1, 5, flags, 0, &id), 0);
    struct submission submission;
    assert_int_equal(peer_take(&peer, &submission), 0);
    return id;
}

static void finish(uint32_t id, uint8_t reason)
{
    peer_accept(&peer, id, 1);
    assert_int_equal(next_event().kind, AGL_EVENT_ACCEPTED);
    peer_done(&peer, id, reason, 0);
    assert_int_equal(next_event().kind, AGL_EVENT_DONE);
}

/* ---- what is sent ---------------------------------------------------------------------------- */

static void every_field_of_a_request_reaches_the_daemon(void **state)
{
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *ids;
    assert_int_equal(agl_prompt(client, 5, &ids), 0);
    for (uint32_t i = 0; i < 5; i++)
        ids[i] = 100 + i;
    request.model = 1;
    request.prompt_tokens = 4;
    request.max_tokens = 17;
    request.flags = AGL_KEEP | AGL_IGNORE_EOS;
    request.priority = AGL_PRIORITY_HIGH;
    request.temperature = 0.5f;
    request.top_p = 0.9f;
    request.min_p = 0.1f;
    request.top_k = 40;
    request.seed = 1234567890123;
    request.first_token_deadline_ns = 11;
    request.deadline_ns = 12;
    request.stop_ids[0] = 7;
    request.stop_ids[1] = 8;
    request.stop_ids[2] = 9; /* not counted, not sent */
    request.stop_count = 2;
    uint32_t id;
    assert_int_equal(agl_submit(client, &request, &id), 0);

    struct submission got;
    assert_int_equal(peer_take(&peer, &got), 0);
    struct submission expected = {.seq = 1,
                                  .op = SUBMISSION_GENERATE,
                                  .priority = PRIORITY_HIGH,
                                  .flags =
                                      SUBMISSION_KEEP | SUBMISSION_IGNORE_EOS | SUBMISSION_WIDE,
                                  .request = id,
                                  .model = 1,
                                  .prompt_offset = 0,
                                  .prompt_tokens = 4,
                                  .max_tokens = 17,
                                  .temperature = 0.5f,
                                  .top_p = 0.9f,
                                  .min_p = 0.1f,
                                  .top_k = 40,
                                  .seed = 1234567890123,
                                  .first_token_deadline_ns = 11,
                                  .deadline_ns = 12,
                                  .stop_ids = {7, 8},
                                  .stop_count = 2};
    assert_memory_equal(&got, &expected, sizeof got);
    const uint32_t *sent = (const uint32_t *)(const void *)(peer.arena + got.prompt_offset);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(sent[i], 100 + i);
}

static void short_operations_send_their_id_and_nothing_else(void **state)
{
    uint32_t id = submit_one(AGL_KEEP);
    struct submission got;
    assert_int_equal(agl_cancel(client, id), 0);
    assert_int_equal(peer_take(&peer, &got), 0);
    struct submission expected = {.seq = 2, .op = SUBMISSION_CANCEL, .request = id};
    assert_memory_equal(&got, &expected, sizeof got);

    assert_int_equal(agl_set_priority(client, id, AGL_PRIORITY_REALTIME), 0);
    assert_int_equal(peer_take(&peer, &got), 0);
    expected = (struct submission){
        .seq = 3, .op = SUBMISSION_SET_PRIORITY, .priority = PRIORITY_REALTIME, .request = id};
    assert_memory_equal(&got, &expected, sizeof got);

    finish(id, DONE_STOP);
    assert_int_equal(agl_forget(client, id), 0);
    assert_int_equal(peer_take(&peer, &got), 0);
    expected = (struct submission){.seq = 4, .op = SUBMISSION_DETACH, .request = id};
    assert_memory_equal(&got, &expected, sizeof got);
}

static void only_a_sleeping_daemon_is_rung_and_once(void **state)
{
    uint32_t id = submit_one(0);
    assert_false(peer_was_rung(&peer));
    doorbell_announce(&peer.words->sleep, DOORBELL_FD);
    assert_int_equal(agl_cancel(client, id), 0);
    assert_int_equal(agl_cancel(client, id), 0);
    uint64_t rings = 0;
    assert_int_equal(read(peer.doorbell_fd, &rings, sizeof rings), sizeof rings);
    assert_int_equal(rings, 1);
    doorbell_awake(&peer.words->sleep);
    assert_int_equal(agl_cancel(client, id), 0);
    assert_false(peer_was_rung(&peer));
    doorbell_announce(&peer.words->sleep, DOORBELL_FD);
    assert_int_equal(agl_cancel(client, id), 0);
    assert_true(peer_was_rung(&peer));
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void assert_refused(struct agl_request request, const char *detail)
{
    uint32_t id = 42;
    assert_int_equal(agl_submit(client, &request, &id), -EINVAL);
    assert_int_equal(id, 42);
    assert_detail(detail);
    struct submission got;
    assert_int_equal(peer_take(&peer, &got), -EAGAIN);
}

#define REFUSED(assignment, detail)                    \
    do {                                               \
        struct agl_request request = AGL_REQUEST_INIT; \
        request.prompt_tokens = 1;                     \
        request.assignment;                            \
        assert_refused(request, detail);               \
    } while (0)

static void a_field_that_makes_no_sense_is_named_with_its_value(void **state)
{
    uint32_t *ids;
    REFUSED(max_tokens = 1, "agl_prompt() gave no place");
    assert_int_equal(agl_prompt(client, 2, &ids), 0);
    REFUSED(prompt_tokens = 0, "prompt_tokens is 0");
    REFUSED(prompt_tokens = 3, "gave room for 2");
    REFUSED(size_bytes = 7, "size_bytes is 7");
    REFUSED(size_bytes = 95, "size_bytes is 95, must be at least 96");
    REFUSED(reserved = 1, "reserved is 1, must be 0");
    REFUSED(model = 2, "model is 2, the daemon holds 2");
    REFUSED(max_tokens = 0, "max_tokens is 0");
    REFUSED(flags = 16, "flags is 0x10");
    REFUSED(flags = 0x8000, "flags is 0x8000");
    REFUSED(flags = AGL_LOGITS, "needs options.output_bytes of at least 4000");
    REFUSED(priority = 4, "priority is 4");
    REFUSED(temperature = -0.5f, "temperature is -0.5");
    REFUSED(temperature = NAN, "temperature is nan");
    REFUSED(temperature = INFINITY, "temperature is inf");
    REFUSED(top_p = 0.0f, "top_p is 0");
    REFUSED(top_p = 1.5f, "top_p is 1.5");
    REFUSED(top_p = NAN, "top_p is nan");
    REFUSED(min_p = -1.0f, "min_p is -1");
    REFUSED(min_p = 1.0f, "min_p is 1");
    REFUSED(stop_count = 5, "stop_count is 5");

    struct agl_request request = AGL_REQUEST_INIT;
    request.prompt_tokens = 2;
    uint32_t id;
    assert_int_equal(agl_submit(client, &request, &id), 0); /* the place was still there */
}

static void a_request_of_a_later_release_must_not_say_more_than_we_know(void **state)
{
    struct {
        struct agl_request request;
        uint64_t later[2];
    } grown = {.request = AGL_REQUEST_INIT, .later = {0, 1}};
    struct submission got;
    uint32_t *ids, id;
    assert_int_equal(agl_prompt(client, 1, &ids), 0);
    grown.request.size_bytes = sizeof grown;
    grown.request.prompt_tokens = 1;
    grown.request.seed = 77;
    assert_int_equal(agl_submit(client, &grown.request, &id), -EINVAL);
    assert_detail("request has a field set that version 0.1.0 does not know");
    assert_int_equal(peer_take(&peer, &got), -EAGAIN);
    grown.later[1] = 0;
    assert_int_equal(agl_submit(client, &grown.request, &id), 0);
    assert_int_equal(peer_take(&peer, &got), 0);
    assert_int_equal(got.seed, 77);
    grown.request.max_tokens = 0; /* it is checked as any other */
    assert_int_equal(agl_submit(client, &grown.request, &id), -EINVAL);
    assert_detail("max_tokens is 0");
}

static void a_place_is_used_once(void **state)
{
    submit_one(0);
    REFUSED(max_tokens = 1, "agl_prompt() gave no place");
}

static void logits_are_asked_for_only_with_room_for_a_row(void **state)
{
    uint32_t id;
    assert_int_equal(submit(1, 5, AGL_LOGITS, 0, &id), 0);
}

static void requests_not_in_flight_are_not_found(void **state)
{
    uint32_t id = submit_one(AGL_KEEP);
    assert_int_equal(agl_cancel(client, 0), -ENOENT);
    assert_int_equal(agl_cancel(client, id + 1), -ENOENT);
    assert_int_equal(agl_cancel(client, id + 4), -ENOENT); /* same entry, another generation */
    assert_int_equal(agl_set_priority(client, id + 4, 1), -ENOENT);
    assert_int_equal(agl_set_priority(client, id, 4), -EINVAL);
    assert_int_equal(agl_forget(client, id), -ENOENT);
    finish(id, DONE_STOP);
    assert_int_equal(agl_cancel(client, id), -ENOENT);
    assert_int_equal(agl_forget(client, id), 0);
    assert_int_equal(agl_forget(client, id), -ENOENT);
}

static void assert_state(uint32_t id, int state, uint32_t tokens)
{
    uint32_t told = UINT32_MAX;
    assert_int_equal(agl_request_state(client, id, &told), state);
    assert_int_equal(told, tokens);
}

static void the_state_of_a_request_is_known_beyond_the_daemons_death(void **state)
{
    uint32_t told = 42;
    assert_int_equal(agl_request_state(client, 0, &told), -ENOENT);
    assert_int_equal(agl_request_state(client, 77, &told), -ENOENT);
    assert_int_equal(told, 42);
    uint32_t done = submit_one(0);
    uint32_t kept = submit_one(AGL_KEEP);
    uint32_t running = submit_one(0);
    finish(done, DONE_STOP);
    finish(kept, DONE_LENGTH);
    peer_accept(&peer, running, 1);
    assert_int_equal(next_event().kind, AGL_EVENT_ACCEPTED);
    peer_token(&peer, running, 0, 3);
    assert_int_equal(next_event().kind, AGL_EVENT_TOKENS);
    uint32_t submitted = submit_one(0);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(agl_request_state(client, done, NULL), -ENOENT);
        assert_state(kept, AGL_REQUEST_KEPT, 0);
        assert_state(running, AGL_REQUEST_RUNNING, 1);
        assert_state(submitted, AGL_REQUEST_SUBMITTED, 0);
        struct agl_event event;
        peer_die(&peer);
        assert_int_equal(agl_wait(client, &event, UINT64_MAX), -EPIPE);
    }
}

static void what_is_being_continued_counts_as_kept(void **state)
{
    uint32_t kept = submit_one(AGL_KEEP);
    finish(kept, DONE_LENGTH);
    uint32_t id;
    assert_int_equal(submit(1, 5, 0, kept, &id), 0);
    assert_state(kept, AGL_REQUEST_KEPT, 0);
    assert_state(id, AGL_REQUEST_SUBMITTED, 0);
}

static void a_plain_request_leaves_the_second_line_alone(void **state)
{
    struct agl_request request = AGL_REQUEST_INIT;
    struct submission got;
    uint32_t *ids;
    uint32_t id;
    request.prompt_tokens = 1;
    request.temperature = 0.5f;
    request.seed = 9;
    request.deadline_ns = 1;
    assert_int_equal(agl_prompt(client, 1, &ids), 0);
    assert_int_equal(agl_submit(client, &request, &id), 0);
    assert_int_equal(peer_take(&peer, &got), 0);
    assert_int_equal(got.flags & SUBMISSION_WIDE, 0);
    request.flags = AGL_TIMES;
    request.min_p = 0.5f;
    assert_int_equal(agl_prompt(client, 1, &ids), 0);
    assert_int_equal(agl_submit(client, &request, &id), 0);
    assert_int_equal(peer_take(&peer, &got), 0);
    assert_int_equal(got.flags, SUBMISSION_WIDE | SUBMISSION_TIMES);
    assert_true(got.min_p == 0.5f);
}

static void max_requests_bounds_what_is_in_flight_or_kept(void **state)
{
    uint32_t ids[4];
    uint32_t id = 42;
    for (int i = 0; i < 4; i++)
        ids[i] = submit_one(AGL_KEEP);
    peer_accept(&peer, ids[0], 1);
    assert_int_equal(next_event().kind, AGL_EVENT_ACCEPTED);
    assert_int_equal(submit(1, 5, 0, 0, &id), -EAGAIN);
    assert_detail("4 requests are in flight or kept");
    finish(ids[2], DONE_LENGTH);
    assert_int_equal(submit(1, 5, 0, 0, &id), -EAGAIN);
    assert_int_equal(agl_forget(client, ids[2]), 0);
    assert_int_equal(submit(1, 5, 0, 0, &id), 0);
    assert_int_not_equal(id, ids[2]);
}

static void ids_are_never_zero_and_do_not_come_back_soon(void **state)
{
    uint32_t seen[64];
    for (uint32_t i = 0; i < 64; i++) {
        seen[i] = submit_one(0);
        assert_int_not_equal(seen[i], 0);
        for (uint32_t k = 0; k < i; k++)
            assert_int_not_equal(seen[i], seen[k]);
        finish(seen[i], DONE_STOP);
    }
}

static void a_full_ring_says_try_again(void **state)
{
    uint32_t id = submit_one(0);
    int sent = 0;
    while (agl_cancel(client, id) == 0)
        sent++;
    assert_int_equal(sent, 16);
    assert_int_equal(agl_cancel(client, id), -EAGAIN);
    assert_detail("ring is full");
    struct submission got;
    assert_int_equal(peer_take(&peer, &got), 0);
    assert_int_equal(agl_cancel(client, id), 0);
}

static void a_submission_cursor_out_of_bounds_ends_the_session(void **state)
{
    uint32_t id = submit_one(0);
    atomic_store(&peer.words->submission_cursor, 100);
    for (int i = 0; i < 15; i++)
        assert_int_equal(agl_cancel(client, id), 0);
    assert_int_equal(agl_cancel(client, id), -EPROTO);
    assert_detail("cursor");
    struct agl_event event;
    uint32_t *ids;
    struct agl_request request = AGL_REQUEST_INIT;
    assert_int_equal(agl_poll(client, &event), -EPROTO);
    assert_int_equal(agl_prompt(client, 1, &ids), -EPROTO);
    assert_int_equal(agl_submit(client, &request, &id), -EPROTO);
    assert_int_equal(agl_forget(client, id), -EPROTO);
}

/* ---- continuing ------------------------------------------------------------------------------ */

static void a_kept_request_is_continued_by_one_that_takes_it_over(void **state)
{
    uint32_t first = submit_one(AGL_KEEP);
    finish(first, DONE_STOP);
    uint32_t second;
    assert_int_equal(submit(3, 6, AGL_KEEP, first, &second), 0);
    struct submission got;
    assert_int_equal(peer_take(&peer, &got), 0);
    assert_int_equal(got.op, SUBMISSION_EXTEND);
    assert_int_equal(got.parent, first);
    assert_int_equal(got.request, second);
    assert_int_not_equal(first & 3, second & 3); /* an entry of its own until it is accepted */

    uint32_t third = 42;
    assert_int_equal(submit(3, 6, 0, first, &third), -ENOENT); /* not twice */
    assert_int_equal(agl_forget(client, first), -ENOENT);
    finish(second, DONE_STOP);
    assert_int_equal(submit(0, 0, 0, second, &third), 0); /* without more tokens */
    assert_int_equal(peer_take(&peer, &got), 0);
    assert_int_equal(got.prompt_tokens, 0);
    assert_int_equal(got.prompt_offset, 0);
    finish(third, DONE_STOP);
    for (int i = 0; i < 4; i++)
        submit_one(0); /* all four entries are free again */
}

static void a_refused_continuation_leaves_the_kept_request(void **state)
{
    uint32_t first = submit_one(AGL_KEEP);
    finish(first, DONE_STOP);
    uint32_t second;
    assert_int_equal(submit(3, 6, AGL_KEEP, first, &second), 0);
    peer_done(&peer, second, DONE_REFUSED, -EAGAIN);
    assert_int_equal(next_event().error, -EAGAIN);
    assert_int_equal(agl_cancel(client, second), -ENOENT);
    assert_int_equal(submit(3, 6, AGL_KEEP, first, &second), 0);
}

static void a_request_is_kept_unless_it_was_refused_or_failed(void **state)
{
    static const uint8_t reasons[] = {DONE_STOP, DONE_LENGTH, DONE_DEADLINE, DONE_CANCELLED,
                                      DONE_OVERFLOW};
    for (size_t i = 0; i < sizeof reasons; i++) {
        uint32_t id = submit_one(AGL_KEEP);
        finish(id, reasons[i]);
        assert_int_equal(agl_forget(client, id), 0);
    }
    uint32_t id = submit_one(AGL_KEEP);
    finish(id, DONE_FAILED);
    assert_int_equal(agl_forget(client, id), -ENOENT);
    id = submit_one(0);
    finish(id, DONE_STOP);
    assert_int_equal(agl_forget(client, id), -ENOENT);
    uint32_t next = 42;
    assert_int_equal(submit(1, 5, 0, id, &next), -ENOENT);
    assert_detail("continues is");
}

static void a_continuation_stays_with_its_model(void **state)
{
    uint32_t first = submit_one(AGL_KEEP);
    finish(first, DONE_STOP);
    uint32_t *ids;
    assert_int_equal(agl_prompt(client, 1, &ids), 0);
    struct agl_request request = AGL_REQUEST_INIT;
    request.prompt_tokens = 1;
    request.continues = first;
    request.model = 1;
    uint32_t id;
    assert_int_equal(agl_submit(client, &request, &id), -EINVAL);
    assert_detail("request.model is 1");
}

/* ---- the arena ------------------------------------------------------------------------------- */

static void a_prompt_is_bounded_by_the_options(void **state)
{
    uint32_t *ids = NULL;
    assert_int_equal(agl_prompt(client, ARENA_TOKENS + 1, &ids), -EMSGSIZE);
    assert_int_equal(agl_prompt(client, UINT32_MAX, &ids), -EMSGSIZE);
    assert_int_equal(agl_prompt(client, 0, &ids), -EINVAL);
    assert_null(ids);
    assert_int_equal(agl_prompt(client, ARENA_TOKENS, &ids), 0);
    assert_non_null(ids);
}

static void the_arena_is_full_until_the_daemon_has_taken_a_prompt(void **state)
{
    uint32_t first, second, third;
    assert_int_equal(submit(ARENA_TOKENS / 2, 1, 0, 0, &first), 0);
    assert_int_equal(submit(ARENA_TOKENS / 2, 2, 0, 0, &second), 0);
    assert_int_equal(submit(1, 3, 0, 0, &third), -EAGAIN);
    assert_detail("no room for a prompt of 1 tokens");
    peer_accept(&peer, second, 1); /* out of turn: its place waits for the first's */
    assert_int_equal(next_event().kind, AGL_EVENT_ACCEPTED);
    assert_int_equal(submit(1, 3, 0, 0, &third), -EAGAIN);
    peer_done(&peer, first, DONE_REFUSED, -EAGAIN); /* refused counts as taken */
    assert_int_equal(next_event().kind, AGL_EVENT_DONE);
    assert_int_equal(submit(ARENA_TOKENS, 3, 0, 0, &third), 0);
}

static void what_a_prompt_did_not_use_is_free_again(void **state)
{
    uint32_t *first_ids, *second_ids;
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t id;
    assert_int_equal(agl_prompt(client, ARENA_TOKENS, &first_ids), 0);
    request.prompt_tokens = 10;
    assert_int_equal(agl_submit(client, &request, &id), 0);
    assert_int_equal(agl_prompt(client, ARENA_TOKENS - 16, &second_ids), 0);
    assert_ptr_equal(second_ids, first_ids + 16);
}

static void asking_again_moves_the_place(void **state)
{
    uint32_t *first_ids, *second_ids;
    assert_int_equal(agl_prompt(client, 600, &first_ids), 0);
    assert_int_equal(agl_prompt(client, 700, &second_ids), 0);
    assert_ptr_equal(first_ids, second_ids);
}

/* Random sizes, random order of acceptance, against a map of what each live prompt must hold. */
static void prompts_in_flight_never_overlap(void **state)
{
    struct {
        uint32_t id, offset, tokens;
        bool is_live;
    } live[4] = {{.id = 0}};
    srandom(7);
    int accepted = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        int pick = (int)(random() % 4);
        if (!live[pick].is_live) {
            uint32_t tokens = 1 + (uint32_t)(random() % 500);
            uint32_t id;
            int err = submit(tokens, round, 0, 0, &id);
            if (err == -EAGAIN)
                continue;
            assert_int_equal(err, 0);
            struct submission got;
            assert_int_equal(peer_take(&peer, &got), 0);
            assert_true(got.prompt_offset + got.prompt_tokens * 4 <= ARENA_TOKENS * 4);
            for (int k = 0; k < 4; k++)
                assert_true(!live[k].is_live ||
                            got.prompt_offset + got.prompt_tokens * 4 <= live[k].offset ||
                            live[k].offset + live[k].tokens * 4 <= got.prompt_offset);
            live[pick].id = id;
            live[pick].offset = got.prompt_offset;
            live[pick].tokens = got.prompt_tokens;
            live[pick].is_live = true;
        } else {
            finish(live[pick].id, DONE_STOP);
            live[pick].is_live = false;
            accepted++;
        }
    }
    assert_true(accepted > 5000);
}

static void a_small_grant_bounds_the_prompt(void **state)
{
    struct peer small;
    peer_start_small(&small, 1);
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = small.path;
    struct agl_client *other;
    assert_int_equal(agl_connect(&other, &options), 0);
    peer_join(&small);
    uint32_t *ids;
    uint32_t id;
    struct agl_request request = AGL_REQUEST_INIT;
    request.prompt_tokens = 1;
    assert_int_equal(agl_prompt(other, 1, &ids), 0);
    assert_int_equal(agl_submit(other, &request, &id), 0);
    assert_int_not_equal(id, 0);
    assert_int_equal(agl_prompt(other, 1, &ids), -EAGAIN);
    agl_close(other);
    peer_stop(&small);
}

/* ---- the hot path ---------------------------------------------------------------------------- */

/* From now on any system call but the end of the process kills it. */
static int forbid_system_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0;
}

static int serve_one(uint32_t number)
{
    static const uint8_t kinds[] = {AGL_EVENT_ACCEPTED, AGL_EVENT_TOKENS, AGL_EVENT_DONE};
    struct submission submission;
    struct agl_event event;
    uint32_t id;
    peer_live(&peer);
    if (agl_poll(client, &event) != 0 || submit(7, number, 0, 0, &id) != 0 ||
        peer_take(&peer, &submission) != 0)
        return -1;
    peer_accept(&peer, id, 7);
    peer_token(&peer, id, 0, 3);
    peer_done(&peer, id, DONE_STOP, 0);
    for (size_t i = 0; i < sizeof kinds; i++)
        if (agl_poll(client, &event) != 1 || event.kind != kinds[i])
            return -1;
    return 0;
}

static void with_both_sides_awake_no_system_call_is_made(void **state)
{
    if (IS_SANITIZED)
        test_skip("sanitizers make system calls of their own");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (forbid_system_calls())
            _exit(2);
        for (uint32_t i = 0; i < 1000; i++)
            if (serve_one(i) < 0)
                _exit(3);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        test_skip("seccomp is not to be had here");
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define WITH_PEER(test) cmocka_unit_test_setup_teardown(test, connect_to_peer, leave_peer)
    const struct CMUnitTest tests[] = {
        WITH_PEER(every_field_of_a_request_reaches_the_daemon),
        WITH_PEER(short_operations_send_their_id_and_nothing_else),
        WITH_PEER(only_a_sleeping_daemon_is_rung_and_once),
        WITH_PEER(a_field_that_makes_no_sense_is_named_with_its_value),
        WITH_PEER(a_request_of_a_later_release_must_not_say_more_than_we_know),
        WITH_PEER(a_place_is_used_once),
        cmocka_unit_test_setup_teardown(logits_are_asked_for_only_with_room_for_a_row,
                                        connect_with_output, leave_peer),
        WITH_PEER(requests_not_in_flight_are_not_found),
        WITH_PEER(the_state_of_a_request_is_known_beyond_the_daemons_death),
        WITH_PEER(what_is_being_continued_counts_as_kept),
        WITH_PEER(a_plain_request_leaves_the_second_line_alone),
        WITH_PEER(max_requests_bounds_what_is_in_flight_or_kept),
        WITH_PEER(ids_are_never_zero_and_do_not_come_back_soon),
        WITH_PEER(a_full_ring_says_try_again),
        WITH_PEER(a_submission_cursor_out_of_bounds_ends_the_session),
        WITH_PEER(a_kept_request_is_continued_by_one_that_takes_it_over),
        WITH_PEER(a_refused_continuation_leaves_the_kept_request),
        WITH_PEER(a_request_is_kept_unless_it_was_refused_or_failed),
        WITH_PEER(a_continuation_stays_with_its_model),
        WITH_PEER(a_prompt_is_bounded_by_the_options),
        WITH_PEER(the_arena_is_full_until_the_daemon_has_taken_a_prompt),
        WITH_PEER(what_a_prompt_did_not_use_is_free_again),
        WITH_PEER(asking_again_moves_the_place),
        WITH_PEER(prompts_in_flight_never_overlap),
        cmocka_unit_test(a_small_grant_bounds_the_prompt),
        WITH_PEER(with_both_sides_awake_no_system_call_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
