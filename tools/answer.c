#include "tools/answer.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli.h"

enum { LOOK_NS = 200 * 1000 * 1000 };

static volatile sig_atomic_t interrupted; /* how often */

static void note_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = interrupted + 1;
}

void answer_catch_interrupt(void)
{
    /* Without SA_RESTART: agl_wait() returns -EINTR, and a read from the terminal ends. */
    struct sigaction action = {.sa_handler = note_interrupt};
    struct sigaction before;
    interrupted = 0;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(SIGINT, &action, NULL);
}

static int wait_event(struct answer *answer, struct agl_event *ret_event)
{
    for (;;) {
        if (interrupted > 1)
            return cli_fail("interrupted");
        if (interrupted && !answer->interrupted)
            agl_cancel(answer->client, answer->request);
        answer->interrupted = interrupted;
        /* A signal between the look above and the sleep is seen at the next look. */
        int got = agl_wait(answer->client, ret_event, LOOK_NS);
        if (got != -EINTR && got != -ETIMEDOUT)
            return got < 0 ? cli_error("the connection was lost", got) : 0;
    }
}

static int submit(struct answer *answer, struct agl_request *request, const uint32_t *ids,
                  uint32_t count)
{
    uint32_t *place = NULL;
    int err = agl_prompt(answer->client, count, &place);
    if (err < 0)
        return cli_error("cannot place the prompt", err);
    memcpy(place, ids, count * sizeof *ids);
    request->prompt_tokens = answer->prompt_tokens = count;
    answer->model = request->model;
    answer->submit_ns = agl_now_ns();
    err = agl_submit(answer->client, request, &answer->request);
    return err < 0 ? cli_error("cannot submit the request", err) : 0;
}

static int keep_id(struct answer *answer, uint32_t id)
{
    if (answer->id_count == answer->id_capacity) {
        uint32_t capacity = answer->id_capacity ? answer->id_capacity * 2 : 256;
        uint32_t *ids = realloc(answer->ids, capacity * sizeof *ids);
        if (!ids)
            return cli_fail("not enough memory for the answer");
        answer->ids = ids;
        answer->id_capacity = capacity;
    }
    answer->ids[answer->id_count++] = id;
    return 0;
}

/* At once, so that an answer that nobody can read is not computed further. */
static int flush_answer(void)
{
    if (fflush(stdout) == 0)
        return 0;
    int error = errno;
    return cli_fail("cannot write the answer: %s", strerror(error));
}

static int print_text(struct answer *answer, const char *text, size_t bytes)
{
    if (answer->strip_newline && bytes) {
        answer->strip_newline = false;
        if (*text == '\n') {
            text++;
            bytes--;
        }
    }
    fwrite(text, 1, bytes, stdout);
    return flush_answer();
}

static int print_token(struct answer *answer, struct agl_detokenizer *detokenizer, uint32_t id)
{
    if (keep_id(answer, id))
        return CLI_FAILED;
    if (answer->output == ANSWER_IDS) {
        printf(answer->id_count > 1 ? ",%u" : "%u", id);
        return flush_answer();
    }
    if (answer->output == ANSWER_TEXT) {
        const char *text = NULL;
        size_t bytes = 0;
        int err = agl_detokenizer_push(detokenizer, id, &text, &bytes);
        if (err < 0)
            return cli_error("cannot turn a token into text", err);
        return print_text(answer, text, bytes);
    }
    return 0;
}

static int take_tokens(struct answer *answer, struct agl_detokenizer *detokenizer,
                       const struct agl_event *event)
{
    answer->last_token_ns = agl_now_ns();
    if (!answer->first_token_ns)
        answer->first_token_ns = answer->last_token_ns;
    for (uint32_t i = 0; i < event->token_count; i++)
        if (print_token(answer, detokenizer, event->tokens[i].id))
            return CLI_FAILED;
    return 0;
}

/* Names the figures where the request was too much for the model. */
static int explain_refusal(const struct answer *answer)
{
    const struct agl_event *done = &answer->done;
    struct agl_model model;
    if (agl_model(answer->client, answer->model, &model) == 0 && done->error == -EMSGSIZE)
        return cli_fail("the daemon refused the request: %s: %u tokens of prompt, model %s holds "
                        "%u tokens of prompt and answer together",
                        agl_strerror(done->error), answer->prompt_tokens, model.name,
                        model.context_tokens);
    if (agl_model(answer->client, answer->model, &model) == 0 && done->error == -EINVAL)
        return cli_fail("the daemon refused the request: %s: model %s knows the ids below %u",
                        agl_strerror(done->error), model.name, model.vocab_size);
    return cli_fail("the daemon refused the request: %s", agl_strerror(done->error));
}

/* Says why an answer ended when it did not end as asked for. */
static int judge_end(const struct answer *answer)
{
    const struct agl_event *done = &answer->done;
    if (done->reason == AGL_DONE_REFUSED && done->retry_after_ns)
        return cli_fail("the daemon refused the request: %s; try again in %.1f ms",
                        agl_strerror(done->error), (double)done->retry_after_ns / 1e6);
    if (done->reason == AGL_DONE_REFUSED)
        return explain_refusal(answer);
    if (done->reason == AGL_DONE_FAILED)
        return cli_fail("the request failed: %s", agl_strerror(done->error));
    if (done->reason == AGL_DONE_DEADLINE || done->reason == AGL_DONE_OVERFLOW)
        return cli_fail("the answer ended early: %s", agl_reason_name(done->reason));
    return 0;
}

static int stream_events(struct answer *answer, struct agl_detokenizer *detokenizer)
{
    for (;;) {
        struct agl_event event = {0};
        if (wait_event(answer, &event))
            return CLI_FAILED;
        if (!answer->first_event_ns)
            answer->first_event_ns = agl_now_ns();
        if (event.kind == AGL_EVENT_SHUTDOWN)
            return cli_fail("the daemon ended the session: %s", agl_strerror(event.error));
        if (event.request != answer->request)
            continue;
        if (event.kind == AGL_EVENT_TOKENS && take_tokens(answer, detokenizer, &event))
            return CLI_FAILED;
        if (event.kind == AGL_EVENT_DONE) {
            answer->done = event;
            return 0;
        }
    }
}

static void print_json(const struct answer *answer)
{
    printf("{\"ids\":[");
    for (uint32_t i = 0; i < answer->id_count; i++)
        printf(i ? ",%u" : "%u", answer->ids[i]);
    printf("],\"reason\":\"%s\",\"prompt_tokens\":%u,\"cached_tokens\":%u,"
           "\"generated_tokens\":%u,\"first_token_ns\":%llu,\"total_ns\":%llu}\n",
           agl_reason_name(answer->done.reason), answer->done.prompt_tokens,
           answer->done.cached_tokens, answer->done.generated_tokens,
           answer->first_token_ns ? (unsigned long long)(answer->first_token_ns - answer->submit_ns)
                                  : 0ULL,
           answer->last_token_ns ? (unsigned long long)(answer->last_token_ns - answer->submit_ns)
                                 : 0ULL);
}

static int finish_output(struct answer *answer, struct agl_detokenizer *detokenizer)
{
    const char *text = NULL;
    size_t bytes = 0;
    if (answer->output == ANSWER_JSON)
        print_json(answer);
    else if (detokenizer && agl_detokenizer_finish(detokenizer, &text, &bytes) == 0 &&
             print_text(answer, text, bytes))
        return CLI_FAILED;
    if (answer->output != ANSWER_JSON)
        putchar('\n');
    return flush_answer();
}

int answer_stream(struct answer *answer, struct agl_request *request, const uint32_t *ids,
                  uint32_t count)
{
    struct agl_detokenizer *detokenizer = NULL;
    if (answer->output == ANSWER_TEXT) {
        int err = agl_detokenizer_open(&detokenizer, answer->tokenizer);
        if (err < 0)
            return cli_error("cannot start the detokenizer", err);
    }
    int status = submit(answer, request, ids, count);
    if (!status)
        status = stream_events(answer, detokenizer);
    if (!status && answer->done.reason != AGL_DONE_REFUSED)
        status = finish_output(answer, detokenizer);
    if (!status)
        status = judge_end(answer);
    agl_detokenizer_close(detokenizer);
    return status;
}

void answer_print_stats(const struct answer *answer, const struct agl_model *model,
                        double read_bytes_per_s)
{
    const struct agl_event *done = &answer->done;
    double first_s =
        answer->first_token_ns ? (double)(answer->first_token_ns - answer->submit_ns) / 1e9 : 0;
    double rest_s = (double)(answer->last_token_ns - answer->first_token_ns) / 1e9;
    double rate = answer->id_count > 1 && rest_s > 0 ? (answer->id_count - 1) / rest_s : 0;

    fprintf(stderr, "\n  %-30s %12u\n", "prompt tokens", done->prompt_tokens);
    if (done->cached_tokens)
        fprintf(stderr, "  %-30s %12u\n", "of these from the cache", done->cached_tokens);
    fprintf(stderr, "  %-30s %12u  (%s)\n", "generated tokens", done->generated_tokens,
            agl_reason_name(done->reason));
    fprintf(stderr, "  %-30s %12.3f ms\n", "time to first token", first_s * 1e3);
    fprintf(stderr, "  %-30s %12.1f tokens/s\n", "then", rate);
    if (read_bytes_per_s > 0) {
        double bytes_per_s = rate * (double)model->bytes_per_token;
        fprintf(stderr, "  %-30s %12.1f %%  (%.2f of %.2f GB/s, read bandwidth measured now)\n",
                "share of memory bandwidth", 100 * bytes_per_s / read_bytes_per_s,
                bytes_per_s / 1e9, read_bytes_per_s / 1e9);
    }
}

void answer_free(struct answer *answer)
{
    free(answer->ids);
    answer->ids = NULL;
    answer->id_count = answer->id_capacity = 0;
}
