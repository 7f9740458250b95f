#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/stress/race.h"
#include "tests/stress/stress.h"
#include "tests/support/test.h"

/* Generous: with a sanitizer, on a busy machine, behind the requests of everybody else. */
static const uint64_t patience_ns = 60000000000;
enum { RECONNECT_AFTER = 40 /* answers */ };

/* One answer of a job that was accepted; 1: refused for the moment, 0: done. */
static int hear(struct agl_client *client, uint32_t id, uint64_t deadline_ns,
                struct race_job *ret_job, uint64_t *ret_retry_ns)
{
    struct agl_event event = {0};
    ret_job->answer_tokens = 0;
    while (event.kind != AGL_EVENT_DONE) {
        uint64_t now_ns = agl_now_ns();
        int err = agl_wait(client, &event, deadline_ns > now_ns ? deadline_ns - now_ns : 0);
        if (err < 0)
            return err;
        if (event.request != id && event.kind != AGL_EVENT_SHUTDOWN)
            return -EBADMSG;
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++) {
            if (ret_job->answer_tokens == RACE_ANSWER_MAX)
                return -EOVERFLOW;
            ret_job->answer[ret_job->answer_tokens++] = event.tokens[i].id;
        }
    }
    *ret_retry_ns = event.retry_after_ns;
    if (event.reason == AGL_DONE_REFUSED && (event.error == -EAGAIN || event.error == -EDQUOT))
        return 1;
    return event.reason == AGL_DONE_LENGTH ? 0 : event.error ? event.error : -EBADMSG;
}

static int submit(struct agl_client *client, const struct race_job *job, uint32_t *ret_id)
{
    uint32_t *place = NULL;
    int err = agl_prompt(client, job->request.prompt_tokens, &place);
    if (err < 0)
        return err;
    memcpy(place, job->prompt, job->request.prompt_tokens * sizeof *place);
    return agl_submit(client, &job->request, ret_id);
}

/* Asks until there is room for the request; the answer is in *ret_job. */
static int ask(const struct race *race, struct agl_client *client, const struct race_job *job,
               struct race_job *ret_job)
{
    uint64_t deadline_ns = agl_now_ns() + patience_ns;
    uint64_t retry_ns = 0;
    uint32_t id = 0;
    for (;;) {
        int err = submit(client, job, &id);
        if (err == 0)
            err = hear(client, id, deadline_ns, ret_job, &retry_ns);
        if (err <= 0)
            return err;
        if (agl_now_ns() > deadline_ns)
            return -ETIMEDOUT;
        race_count(&race->tally->asked_again, 1);
        nanosleep(&(struct timespec){.tv_nsec = (long)(retry_ns % 50000000)}, NULL);
    }
}

static void make_job(struct race_job *job, uint32_t number, const uint32_t *vocab_size)
{
    uint32_t random = number + 1;
    uint32_t model = number % 4 ? RACE_ECHO : RACE_STORY;
    uint32_t share = model == RACE_ECHO ? 1 : 4; /* the other computes, under sanitizers slowly */
    job->request = (struct agl_request)AGL_REQUEST_INIT;
    job->request.model = model;
    job->request.flags = AGL_IGNORE_EOS;
    job->request.priority = AGL_PRIORITY_REALTIME;
    job->request.prompt_tokens = 1 + stress_random(&random) % (RACE_PROMPT_MAX / share);
    job->request.max_tokens = 1 + stress_random(&random) % (RACE_ANSWER_MAX / share);
    if (number % 8 == 3 || number % 8 == 4) { /* the others are greedy */
        job->request.temperature = 0.9f;
        job->request.top_k = 40;
        job->request.seed = number;
    }
    for (uint32_t i = 0; i < job->request.prompt_tokens; i++)
        job->prompt[i] = stress_random(&random) % vocab_size[model];
}

void race_prepare(struct race *race)
{
    struct agl_client *client = daemon_connect(race->daemon);
    for (uint32_t i = 0; i < RACE_MODELS; i++) {
        struct agl_model model;
        assert_int_equal(agl_model(client, i, &model), 0);
        race->vocab_size[i] = model.vocab_size;
    }
    for (uint32_t i = 0; i < RACE_JOBS; i++) {
        make_job(&race->jobs[i], i, race->vocab_size);
        int err = ask(race, client, &race->jobs[i], &race->jobs[i]);
        if (err < 0)
            fail_msg("job %u, alone: %s", i, agl_strerror(err));
    }
    agl_close(client);
}

static void compare(uint32_t number, const struct race_job *job, const struct race_job *now)
{
    if (now->answer_tokens != job->answer_tokens)
        STRESS_FAIL("witness: job %u has %u tokens, alone it had %u", number, now->answer_tokens,
                    job->answer_tokens);
    for (uint32_t i = 0; i < job->answer_tokens; i++)
        if (now->answer[i] != job->answer[i])
            STRESS_FAIL("witness: job %u, token %u is %u, alone it was %u", number, i,
                        now->answer[i], job->answer[i]);
}

static void note_time(struct race_tally *tally, uint64_t took_ns)
{
    uint64_t slowest_ns = atomic_load_explicit(&tally->slowest_ns, memory_order_relaxed);
    while (took_ns > slowest_ns &&
           !atomic_compare_exchange_weak_explicit(&tally->slowest_ns, &slowest_ns, took_ns,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

static struct agl_client *enter(const struct race *race)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = race->daemon->socket_path;
    options.timeout_ns = patience_ns;
    int err = agl_connect(&client, &options);
    if (err < 0)
        STRESS_FAIL("witness: cannot connect: %s: %s", agl_strerror(err), agl_error_detail());
    return client;
}

_Noreturn void race_witness(const struct race *race, uint32_t seed)
{
    struct agl_client *client = enter(race);
    for (uint32_t asked = 1;; asked++) {
        uint32_t number = stress_random(&seed) % RACE_JOBS;
        struct race_job now = {.answer_tokens = 0};
        uint64_t start_ns = agl_now_ns();
        int err = ask(race, client, &race->jobs[number], &now);
        if (err < 0)
            STRESS_FAIL("witness: job %u: %s: %s", number, agl_strerror(err), agl_error_detail());
        note_time(race->tally, agl_now_ns() - start_ns);
        compare(number, &race->jobs[number], &now);
        race_count(&race->tally->answers, 1);
        if (asked % RECONNECT_AFTER == 0) {
            agl_close(client);
            client = enter(race);
        }
    }
}
