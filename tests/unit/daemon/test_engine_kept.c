/* Sequences that outlive their request: continued, recomputed, forgotten. */
#include <errno.h>
#include <string.h>

#include "tests/support/engine_stand.h"
#include "tests/support/test.h"

static void extend(struct stand *stand, uint32_t id, uint32_t parent, uint32_t tokens,
                   uint32_t max_tokens, uint16_t flags)
{
    struct submission submission = client_half_request(&stand->client, id, tokens, max_tokens);
    submission.op = SUBMISSION_EXTEND;
    submission.parent = parent;
    submission.flags = flags;
    client_half_submit(&stand->client, &submission);
}

static struct request *find(struct stand *stand, uint32_t id)
{
    return session_find(stand->client.session, id);
}

static void a_kept_sequence_is_continued(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 5, 4, SUBMISSION_KEEP);
    stand_answer(&s, 1, ids);
    extend(&s, 2, 1, 3, 6, SUBMISSION_KEEP);
    struct event event = rig_expect(&s.rig, &s.client, EVENT_ACCEPTED, 2);
    assert_int_equal(event.accepted.prompt_tokens, 3);
    struct event done = stand_answer(&s, 2, ids);
    assert_memory_equal(ids, ((uint32_t[]){1, 2, 3, 1, 2, 3}), 6 * sizeof *ids);
    assert_int_equal(done.done.prompt_tokens, 5 + 4 + 3);
    /* Of these, the last token of the first answer was told but never computed. */
    assert_int_equal(done.done.cached_tokens, 5 + 3);
    assert_int_equal(done.done.generated_tokens, 6);

    static const uint32_t history[] = {1, 2, 3, 4, 5, 1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 1, 2, 3};
    struct request *request = find(&s, 2);
    assert_non_null(request);
    assert_int_equal(request->known_tokens, 18);
    assert_memory_equal(request->tokens, history, sizeof history);
    assert_null(find(&s, 1)); /* the sequence has moved on */
    stand_close(&s);
}

static void the_stop_token_is_not_part_of_the_history(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.model.config.eos_ids[0] = 4;
    s.rig.model.config.eos_count = 1;
    stand_open(&s);
    stand_ask(&s, 1, 5, 100, SUBMISSION_KEEP);
    struct event done = stand_answer(&s, 1, ids);
    assert_done(done, 1, DONE_STOP);
    assert_int_equal(done.done.generated_tokens, 3);
    assert_int_equal(find(&s, 1)->known_tokens, 5 + 3);

    /* All of it was computed: the last token told gave the stop token. */
    extend(&s, 2, 1, 2, 4, SUBMISSION_KEEP);
    done = stand_answer(&s, 2, ids);
    assert_int_equal(done.done.cached_tokens, 8);
    assert_int_equal(done.done.prompt_tokens, 10);
    stand_close(&s);
}

static void a_sequence_goes_on_without_a_new_prompt(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.model.config.eos_ids[0] = 4;
    s.rig.model.config.eos_count = 1;
    stand_open(&s);
    stand_ask(&s, 1, 5, 100, SUBMISSION_KEEP);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_STOP);
    extend(&s, 2, 1, 0, 4, SUBMISSION_IGNORE_EOS);
    struct event done = stand_answer(&s, 2, ids);
    assert_done(done, 2, DONE_LENGTH);
    assert_int_equal(done.done.prompt_tokens, 8);
    assert_int_equal(done.done.cached_tokens, 7); /* the last one's logits are wanted again */
    assert_memory_equal(ids, ((uint32_t[]){1, 2, 3, 4}), 4 * sizeof *ids);
    stand_close(&s);
}

static void the_new_request_may_take_its_parents_entry(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 5, 4, SUBMISSION_KEEP);
    stand_answer(&s, 1, ids);
    extend(&s, 17, 1, 1, 1, 0);
    assert_done(stand_answer(&s, 17, ids), 17, DONE_LENGTH);
    assert_int_equal(s.client.session->live_requests, 0);
    stand_close(&s);
}

static void a_refused_extension_leaves_the_sequence_as_it_was(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 5, 4, SUBMISSION_KEEP);
    stand_answer(&s, 1, ids);
    extend(&s, 2, 1, RIG_CONTEXT - 9, 1, 0);
    stand_refused(&s, 2, -EMSGSIZE);
    struct submission submission = client_half_request(&s.client, 3, 3, 1);
    submission.op = SUBMISSION_EXTEND;
    submission.parent = 1;
    s.client.arena[1] = UINT32_MAX;
    client_half_submit(&s.client, &submission);
    stand_refused(&s, 3, -EINVAL);
    assert_int_equal(find(&s, 1)->known_tokens, 9);
    extend(&s, 4, 1, RIG_CONTEXT - 10, 1, 0);
    assert_int_equal(stand_answer(&s, 4, ids).done.cached_tokens, 8);
    stand_close(&s);
}

static void only_what_has_ended_is_extended(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 5, 30, SUBMISSION_KEEP);
    rig_turn(&s.rig, 1);
    extend(&s, 2, 1, 3, 1, 0);
    struct event done = stand_answer(&s, 2, ids);
    assert_done(done, 2, DONE_REFUSED);
    assert_int_equal(done.done.error, -EBUSY);
    stand_close(&s);
}

static void a_cancelled_answer_can_be_continued(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    stand_ask(&s, 1, 5, 100, SUBMISSION_KEEP);
    rig_turn(&s.rig, 7);
    stand_tell(&s, SUBMISSION_CANCEL, 1);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_CANCELLED);
    stand_tell(&s, SUBMISSION_CANCEL, 1); /* once more: nothing happens */
    extend(&s, 2, 1, 3, 1, 0);
    struct event done = stand_answer(&s, 2, ids);
    assert_int_equal(done.done.prompt_tokens, 5 + 7 + 3);
    assert_int_equal(done.done.cached_tokens, 5 + 6);
    stand_close(&s);
}

static void a_sequence_cancelled_before_it_ran_can_be_continued(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    stand_open(&s);
    stand_ask(&s, 1, 5, 20, 0);
    stand_ask(&s, 2, 4, 20, SUBMISSION_KEEP);
    stand_tell(&s, SUBMISSION_CANCEL, 2);
    stand_answer(&s, 2, ids);
    extend(&s, 3, 2, 3, 1, 0);
    struct event done = stand_answer(&s, 3, ids);
    assert_int_equal(done.done.prompt_tokens, 7);
    assert_int_equal(done.done.cached_tokens, 0);
    stand_close(&s);
}

static void a_forgotten_sequence_frees_everything(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    stand_open(&s);
    struct kvcache *cache = &s.rig.engine->models[0].cache;
    stand_ask(&s, 1, 50, 4, SUBMISSION_KEEP);
    stand_answer(&s, 1, ids);
    assert_int_equal(cache->free_blocks, cache->blocks - 4); /* 53 computed tokens */
    stand_tell(&s, SUBMISSION_DETACH, 1);
    rig_turn(&s.rig, 1);
    assert_int_equal(cache->free_blocks, cache->blocks);
    assert_int_equal(s.client.session->live_requests, 0);

    stand_ask(&s, 3, 50, 400, SUBMISSION_KEEP); /* what it had set aside comes back at its end */
    rig_turn(&s.rig, 4);
    assert_int_equal(cache->free_blocks, cache->blocks - 29);
    stand_tell(&s, SUBMISSION_CANCEL, 3);
    assert_done(stand_answer(&s, 3, ids), 3, DONE_CANCELLED);
    assert_int_equal(cache->free_blocks, cache->blocks - 4);
    stand_tell(&s, SUBMISSION_DETACH, 3);

    stand_ask(&s, 2, 50, 40, SUBMISSION_KEEP); /* forgotten while it runs: not kept then */
    rig_turn(&s.rig, 3);
    stand_tell(&s, SUBMISSION_DETACH, 2);
    assert_done(stand_answer(&s, 2, ids), 2, DONE_LENGTH);
    assert_int_equal(cache->free_blocks, cache->blocks);
    stand_close(&s);
}

static void beyond_kept_max_the_oldest_is_computed_again(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.kept_max = 3;
    stand_open(&s);
    for (uint32_t id = 1; id <= 5; id++) {
        stand_ask(&s, id, 30, 4, SUBMISSION_KEEP);
        stand_answer(&s, id, ids);
    }
    assert_int_equal(s.rig.engine->idle_requests, 3);
    for (uint32_t id = 1; id <= 5; id++) {
        extend(&s, id + 5, id, 3, 4, 0);
        struct event done = stand_answer(&s, id + 5, ids);
        assert_int_equal(done.done.prompt_tokens, 37);
        assert_int_equal(done.done.cached_tokens, id <= 2 ? 0 : 33);
        assert_int_equal(ids[3], 1); /* the answer is the same */
    }
    stand_close(&s);
}

static void what_waits_takes_the_blocks_of_what_is_kept(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1; /* 5 contexts of 32 blocks */
    stand_open(&s);
    struct engine_model *model = &s.rig.engine->models[0];
    assert_int_equal(model->cache.blocks, 160);
    for (uint32_t id = 1; id <= 4; id++) { /* 27 blocks each are kept */
        stand_ask(&s, id, 430, 1, SUBMISSION_KEEP);
        stand_answer(&s, id, ids);
    }
    assert_int_equal(model->cache.free_blocks, 160 - 108);
    assert_int_equal(model->idle_blocks, 108);
    /* Make blocks scarce: what is left is not enough for another context. */
    uint32_t memory[40];
    struct kvcache_table hog = {.blocks = memory, .capacity = 40};
    assert_int_equal(kvcache_grow(&model->cache, &hog, 40 * 16), 0);
    stand_ask(&s, 5, 10, 500, 0); /* 32 of the 12 that are free: one sequence has to give */
    assert_done(stand_answer(&s, 5, ids), 5, DONE_LENGTH);
    assert_int_equal(model->idle_blocks, 81);
    extend(&s, 6, 1, 1, 1, 0); /* the oldest gave */
    assert_int_equal(stand_answer(&s, 6, ids).done.cached_tokens, 0);
    extend(&s, 7, 2, 1, 1, 0);
    assert_int_equal(stand_answer(&s, 7, ids).done.cached_tokens, 430);
    kvcache_shrink(&model->cache, &hog, 0);
    stand_close(&s);
}

/* Waiting extensions hold blocks too. If nobody could take these, two of them and a large request
 * in front of them would wait for each other for ever. */
static void waiting_extensions_give_their_blocks_to_who_is_before_them(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.kept_max = 4;
    stand_open(&s);
    struct engine_model *model = &s.rig.engine->models[0];
    for (uint32_t id = 1; id <= 4; id++) {
        stand_ask(&s, id, 430, 1, SUBMISSION_KEEP);
        stand_answer(&s, id, ids);
    }
    uint32_t memory[52];
    struct kvcache_table hog = {.blocks = memory, .capacity = 52};
    assert_int_equal(kvcache_grow(&model->cache, &hog, 52 * 16), 0);
    assert_int_equal(model->cache.free_blocks, 0);
    stand_ask(&s, 5, 10, 500, 0);
    for (uint32_t id = 1; id <= 4; id++)
        extend(&s, id + 5, id, 10, 5, 0);
    uint32_t done = 0;
    while (done < 5) {
        struct event event = rig_event(&s.rig, &s.client);
        if (event.kind == EVENT_DONE) {
            assert_int_equal(event.reason, DONE_LENGTH);
            done++;
        }
    }
    kvcache_shrink(&model->cache, &hog, 0);
    stand_close(&s);
}

static void with_no_request_left_the_oldest_history_is_forgotten(void **state)
{
    (void)state;
    struct stand s;
    uint32_t ids[STAND_IDS];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.kept_max = 2;
    s.rig.config.queue_requests = 3; /* six requests in all */
    stand_open(&s);
    for (uint32_t id = 1; id <= 8; id++) {
        stand_ask(&s, id, 30, 4, SUBMISSION_KEEP);
        assert_done(stand_answer(&s, id, ids), id, DONE_LENGTH);
    }
    extend(&s, 9, 1, 3, 4, 0);
    stand_refused(&s, 9, -ENOENT);
    extend(&s, 9, 2, 3, 4, 0);
    stand_refused(&s, 9, -ENOENT);
    extend(&s, 9, 3, 3, 4, 0);
    assert_int_equal(stand_answer(&s, 9, ids).done.prompt_tokens, 37);
    stand_tell(&s, SUBMISSION_DETACH, 1); /* the client may still say so */
    stand_ask(&s, 1, 3, 1, 0);
    assert_done(stand_answer(&s, 1, ids), 1, DONE_LENGTH);
    stand_close(&s);
}

/* ---- several users --------------------------------------------------------------------------- */

/* A session of another user, or, with `twin`, of that one's. */
static void other_open(struct stand *stand, struct client_half *other,
                       const struct client_half *twin)
{
    client_half_open(other, &CLIENT_HALF_GEOMETRY);
    if (twin)
        other->session->queue = twin->session->queue;
    rig_attach(&stand->rig, other);
}

static void other_close(struct stand *stand, struct client_half *other)
{
    rig_detach(&stand->rig, other);
    client_half_close(other);
}

/* Ends, kept. */
static void other_keep(struct stand *stand, struct client_half *other, uint32_t id, uint32_t tokens)
{
    uint32_t ids[STAND_IDS], count;
    struct submission submission = client_half_request(other, id, tokens, 4);
    submission.flags = SUBMISSION_KEEP;
    client_half_submit(other, &submission);
    assert_done(rig_answer(&stand->rig, other, id, ids, &count), id, DONE_LENGTH);
}

static void keep(struct stand *stand, uint32_t id, uint32_t tokens)
{
    other_keep(stand, &stand->client, id, tokens);
}

/* How much of the kept request is still in the cache; -1: it is forgotten. */
static int64_t cached(struct stand *stand, struct client_half *client, uint32_t parent)
{
    uint32_t ids[STAND_IDS], count;
    uint32_t id = parent + 1000;
    struct submission submission = client_half_request(client, id, 1, 1);
    submission.op = SUBMISSION_EXTEND;
    submission.parent = parent;
    client_half_submit(client, &submission);
    struct event done = rig_answer(&stand->rig, client, id, ids, &count);
    if (done.reason == DONE_REFUSED && done.done.error == -ENOENT)
        return -1;
    assert_done(done, id, DONE_LENGTH);
    return done.done.cached_tokens;
}

static void another_users_flood_pushes_out_nothing(void **state)
{
    (void)state;
    struct stand s;
    struct client_half flood[2];
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.kept_max = 4;
    s.rig.config.queue_requests = 3; /* eight requests in all */
    stand_open(&s);
    other_open(&s, &flood[0], NULL);
    other_open(&s, &flood[1], &flood[0]);
    keep(&s, 1, 30);
    keep(&s, 2, 30); /* half of kept_max, of two users */
    for (uint32_t id = 1; id <= 80; id++)
        other_keep(&s, &flood[id % 2], id, 30);
    assert_int_equal(s.rig.engine->idle_requests, 4);
    assert_int_equal(s.rig.engine->pool.free_requests, 0);
    assert_int_equal(cached(&s, &s.client, 1), 33);
    assert_int_equal(cached(&s, &s.client, 2), 33);
    assert_int_equal(cached(&s, &flood[1], 1), -1);
    assert_int_equal(cached(&s, &flood[0], 80), 33);
    other_close(&s, &flood[1]);
    other_close(&s, &flood[0]);
    stand_close(&s);
}

/* What ends before it runs is kept too, and costs its user nothing. */
static void a_flood_of_cancelled_requests_pushes_out_nothing(void **state)
{
    (void)state;
    struct stand s;
    struct client_half flood;
    uint32_t ids[STAND_IDS], count;
    rig_init(&s.rig);
    s.rig.config.running_max = 1;
    s.rig.config.kept_max = 2;
    s.rig.config.queue_requests = 3;
    stand_open(&s);
    other_open(&s, &flood, NULL);
    keep(&s, 1, 30);
    for (uint32_t id = 1; id <= 40; id++) {
        struct submission submission = client_half_request(&flood, id, 3, 4);
        submission.flags = SUBMISSION_KEEP;
        client_half_submit(&flood, &submission);
        submission = (struct submission){.op = SUBMISSION_CANCEL, .request = id};
        client_half_submit(&flood, &submission);
        assert_done(rig_answer(&s.rig, &flood, id, ids, &count), id, DONE_CANCELLED);
    }
    assert_int_equal(cached(&s, &s.client, 1), 33);
    other_close(&s, &flood);
    stand_close(&s);
}

/* kept_max counts over all models, and so does what a user holds. */
static void a_flood_on_another_model_pushes_out_nothing(void **state)
{
    (void)state;
    struct stand s;
    struct client_half flood;
    uint32_t ids[STAND_IDS], count;
    rig_init(&s.rig);
    s.rig.config.kept_max = 4;
    s.rig.model_count = 2;
    stand_open(&s);
    other_open(&s, &flood, NULL);
    keep(&s, 1, 30);
    keep(&s, 2, 30);
    other_keep(&s, &flood, 1, 30);
    for (uint32_t id = 2; id <= 6; id++) {
        struct submission submission = client_half_request(&flood, id, 30, 4);
        submission.flags = SUBMISSION_KEEP;
        submission.model = 1;
        client_half_submit(&flood, &submission);
        assert_done(rig_answer(&s.rig, &flood, id, ids, &count), id, DONE_LENGTH);
    }
    assert_int_equal(s.rig.engine->idle_requests, 4);
    assert_int_equal(cached(&s, &s.client, 1), 33);
    assert_int_equal(cached(&s, &s.client, 2), 33);
    assert_int_equal(cached(&s, &flood, 6), 33);
    other_close(&s, &flood);
    stand_close(&s);
}

static void who_has_kept_everything_makes_room_for_a_second_user(void **state)
{
    (void)state;
    struct stand s;
    struct client_half other;
    rig_init(&s.rig);
    s.rig.config.kept_max = 4;
    stand_open(&s);
    other_open(&s, &other, NULL);
    for (uint32_t id = 1; id <= 4; id++)
        keep(&s, id, 30);
    for (uint32_t id = 1; id <= 3; id++)
        other_keep(&s, &other, id, 30);
    for (uint32_t id = 1; id <= 4; id++)
        assert_int_equal(cached(&s, &s.client, id), id <= 2 ? 0 : 33);
    for (uint32_t id = 1; id <= 3; id++)
        assert_int_equal(cached(&s, &other, id), id <= 1 ? 0 : 33);
    other_close(&s, &other);
    stand_close(&s);
}

/* Of users who hold the same, who has not added to it for the longest time. */
static void among_equals_the_least_recent_gives(void **state)
{
    (void)state;
    struct stand s;
    struct client_half early, late;
    rig_init(&s.rig);
    s.rig.config.kept_max = 4;
    stand_open(&s);
    other_open(&s, &early, NULL);
    other_open(&s, &late, NULL);
    other_keep(&s, &late, 1, 30);
    other_keep(&s, &early, 1, 30);
    other_keep(&s, &early, 2, 30);
    other_keep(&s, &late, 2, 30);
    keep(&s, 1, 30);
    assert_int_equal(cached(&s, &early, 1), 0);
    assert_int_equal(cached(&s, &early, 2), 33);
    assert_int_equal(cached(&s, &late, 1), 33);
    assert_int_equal(cached(&s, &late, 2), 33);
    assert_int_equal(cached(&s, &s.client, 1), 33);
    assert_null(s.rig.engine->holders.first); /* who holds nothing may be freed */
    other_close(&s, &early);
    other_close(&s, &late);
    stand_close(&s);
}

static void what_waits_takes_blocks_of_who_holds_most(void **state)
{
    (void)state;
    struct stand s;
    struct client_half other;
    uint32_t ids[STAND_IDS], count;
    rig_init(&s.rig);
    s.rig.config.running_max = 1; /* 5 contexts of 32 blocks */
    stand_open(&s);
    other_open(&s, &other, NULL);
    struct engine_model *model = &s.rig.engine->models[0];
    keep(&s, 1, 430); /* 28 blocks, the oldest */
    for (uint32_t id = 1; id <= 3; id++)
        other_keep(&s, &other, id, 430);
    assert_int_equal(model->idle_blocks, 4 * 28);
    uint32_t memory[40];
    struct kvcache_table hog = {.blocks = memory, .capacity = 40};
    assert_int_equal(kvcache_grow(&model->cache, &hog, 40 * 16), 0);
    struct submission submission = client_half_request(&other, 4, 10, 500);
    client_half_submit(&other, &submission); /* 32 blocks of the 8 that are free */
    assert_done(rig_answer(&s.rig, &other, 4, ids, &count), 4, DONE_LENGTH);
    assert_int_equal(model->idle_blocks, 3 * 28);
    assert_int_equal(cached(&s, &s.client, 1), 433);
    assert_int_equal(cached(&s, &other, 1), 0);
    assert_int_equal(cached(&s, &other, 2), 433);
    kvcache_shrink(&model->cache, &hog, 0);
    other_close(&s, &other);
    stand_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kept_sequence_is_continued),
        cmocka_unit_test(the_stop_token_is_not_part_of_the_history),
        cmocka_unit_test(a_sequence_goes_on_without_a_new_prompt),
        cmocka_unit_test(the_new_request_may_take_its_parents_entry),
        cmocka_unit_test(a_refused_extension_leaves_the_sequence_as_it_was),
        cmocka_unit_test(only_what_has_ended_is_extended),
        cmocka_unit_test(a_cancelled_answer_can_be_continued),
        cmocka_unit_test(a_sequence_cancelled_before_it_ran_can_be_continued),
        cmocka_unit_test(a_forgotten_sequence_frees_everything),
        cmocka_unit_test(beyond_kept_max_the_oldest_is_computed_again),
        cmocka_unit_test(what_waits_takes_the_blocks_of_what_is_kept),
        cmocka_unit_test(waiting_extensions_give_their_blocks_to_who_is_before_them),
        cmocka_unit_test(with_no_request_left_the_oldest_history_is_forgotten),
        cmocka_unit_test(another_users_flood_pushes_out_nothing),
        cmocka_unit_test(a_flood_of_cancelled_requests_pushes_out_nothing),
        cmocka_unit_test(a_flood_on_another_model_pushes_out_nothing),
        cmocka_unit_test(who_has_kept_everything_makes_room_for_a_second_user),
        cmocka_unit_test(among_equals_the_least_recent_gives),
        cmocka_unit_test(what_waits_takes_blocks_of_who_holds_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
