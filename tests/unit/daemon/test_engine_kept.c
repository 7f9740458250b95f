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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
