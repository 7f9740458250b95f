/*
 * The same requests alone, together, in another order, with whole and with chunked prompts: the ids
 * of an answer depend on its request and on nothing else. On the bundled model, through the daemon.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/integration/daemon.h"
#include "tests/support/test.h"

enum { REQUESTS = 32, PROMPT_MAX = 90, ANSWER_TOKENS = 24 };

struct job {
    uint32_t prompt[PROMPT_MAX];
    uint32_t prompt_tokens;
    struct agl_request request;
    uint32_t answer[ANSWER_TOKENS];
    uint32_t answer_tokens;
};

static void make_jobs(struct job *jobs, uint32_t vocab_size)
{
    unsigned seed = 11;
    for (int i = 0; i < REQUESTS; i++) {
        struct job *job = &jobs[i];
        job->prompt_tokens = 1 + (uint32_t)rand_r(&seed) % PROMPT_MAX;
        for (uint32_t k = 0; k < job->prompt_tokens; k++)
            job->prompt[k] = (uint32_t)rand_r(&seed) % vocab_size;
        job->request = (struct agl_request)AGL_REQUEST_INIT;
        job->request.max_tokens = 1 + (uint32_t)rand_r(&seed) % ANSWER_TOKENS;
        job->request.flags = AGL_IGNORE_EOS;
        job->request.temperature = i % 3 ? 0.9f : 0;
        job->request.top_p = i % 3 == 1 ? 0.9f : 1;
        job->request.top_k = i % 3 == 2 ? 40 : 0;
        job->request.seed = (uint64_t)i * 77;
        job->answer_tokens = 0;
    }
}

static uint32_t vocab_size(struct agl_client *client)
{
    struct agl_model model;
    assert_int_equal(agl_model(client, 0, &model), 0);
    return model.vocab_size;
}

static void run_alone(const struct daemon *daemon, struct job *jobs)
{
    struct agl_client *client = daemon_connect(daemon);
    make_jobs(jobs, vocab_size(client));
    for (int i = 0; i < REQUESTS; i++) {
        struct agl_event done = daemon_ask(client, jobs[i].request, jobs[i].prompt,
                                           jobs[i].prompt_tokens, jobs[i].answer, ANSWER_TOKENS);
        assert_int_equal(done.reason, AGL_DONE_LENGTH);
        jobs[i].answer_tokens = done.generated_tokens;
    }
    agl_close(client);
}

/* All at once over three clients; first, then by `stride` (coprime to the number of requests). */
static void run_together(const struct daemon *daemon, struct job *jobs, int first, int stride)
{
    enum { CLIENTS = 3 };
    struct agl_client *clients[CLIENTS];
    uint32_t ids[REQUESTS];
    int left[CLIENTS] = {0};
    for (int c = 0; c < CLIENTS; c++)
        clients[c] = daemon_connect(daemon);
    make_jobs(jobs, vocab_size(clients[0]));
    for (int n = 0; n < REQUESTS; n++) {
        int i = (first + n * stride) % REQUESTS;
        ids[i] = daemon_submit(clients[i % CLIENTS], jobs[i].request, jobs[i].prompt,
                               jobs[i].prompt_tokens);
        left[i % CLIENTS]++;
    }
    for (int c = 0; c < CLIENTS; c++) {
        while (left[c]) {
            struct agl_event event;
            assert_int_equal(agl_wait(clients[c], &event, 60000000000ull), 1);
            int i = c;
            while (i < REQUESTS && ids[i] != event.request)
                i += CLIENTS;
            assert_true(i < REQUESTS);
            for (uint32_t k = 0; event.kind == AGL_EVENT_TOKENS && k < event.token_count; k++)
                jobs[i].answer[jobs[i].answer_tokens++] = event.tokens[k].id;
            if (event.kind == AGL_EVENT_DONE) {
                assert_int_equal(event.reason, AGL_DONE_LENGTH);
                left[c]--;
            }
        }
        agl_close(clients[c]);
    }
}

static void assert_same_answers(const struct job *left, const struct job *right)
{
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(left[i].answer_tokens, right[i].answer_tokens);
        assert_memory_equal(left[i].answer, right[i].answer,
                            left[i].answer_tokens * sizeof *left[i].answer);
    }
}

static void answers_do_not_depend_on_company(void **state)
{
    static struct job alone[REQUESTS];
    static struct job others[REQUESTS];
    static const char *const model = "story=" AGL_SOURCE_DIR "/models/story-glm";
    static const char *const whole[] = {
        "--model", model, "--chunk-tokens", "256", "--step-tokens", "512", "--threads", "2", NULL};
    static const char *const chunked[] = {
        "--model", model, "--chunk-tokens", "7", "--step-tokens", "40", "--threads", "1", NULL};
    struct daemon daemon;
    daemon_start(&daemon, whole);
    run_alone(&daemon, alone);
    run_together(&daemon, others, 0, 1);
    assert_same_answers(alone, others);
    run_together(&daemon, others, 17, 11);
    assert_same_answers(alone, others);
    assert_int_equal(daemon_stop(&daemon), 0);

    daemon_start(&daemon, chunked);
    run_together(&daemon, others, 5, 3);
    assert_same_answers(alone, others);
    run_alone(&daemon, others);
    assert_same_answers(alone, others);
    daemon_wait_quiet(&daemon);
    assert_int_equal(daemon_stop(&daemon), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_do_not_depend_on_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
