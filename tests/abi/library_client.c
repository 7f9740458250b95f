/*
 * library_client SOCKET [INSTANCE]: reads the board of that instance, then asks the daemon, whose
 * first model is the echo, for all that autoglm.h offers, by the library that it is linked with;
 * prints "waiting" and ends with the daemon's AGL_EVENT_SHUTDOWN. Exit status: 0 all answers were
 * right; 1 one was not; 3 no session. What the library says of a refusal is on stdout.
 */
#include <autoglm.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_REFUSED = 3, PATIENCE_MS = 20000, PROMPT = 5, IDS_MAX = 128 };
static const uint64_t PATIENCE_NS = PATIENCE_MS * 1000000ull;
static const uint32_t prompt[PROMPT] = {11, 22, 33, 44, 55};

/* How the next answer is waited for: by agl_wait(), or by the caller's own poll(). */
enum waiting { WAIT_BY_LIBRARY, WAIT_BY_DESCRIPTOR, WAITINGS };
static enum waiting waiting;
static struct agl_client *client;
static uint32_t vocab_size;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "; the library's last words: %s\n", agl_error_detail());
    va_end(arguments);
    exit(1);
}

static void expect(const char *what, int64_t is, int64_t must_be)
{
    if (is != must_be)
        fail("%s: is %lld, must be %lld", what, (long long)is, (long long)must_be);
}

static void read_board(const char *instance)
{
    struct agl_status status;
    struct agl_model model;
    int err = agl_status_of(instance, &status, &model, 1);
    if (err < 0) {
        printf("board refused with %d: %s\n", err, agl_error_detail());
        return;
    }
    expect("models on the board", status.model_count, 1);
    expect("name of the first", strcmp(model.name, "echo"), 0);
    printf("board read\n");
}

static void connect_to(const char *path, uint32_t wait_mode)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_model model;
    options.socket_path = path;
    options.name = "library-client";
    options.output_bytes = 1 << 20;
    options.wait_mode = wait_mode;
    int err = agl_connect(&client, &options);
    if (err < 0) {
        printf("refused with %d: %s\n", err, agl_error_detail());
        exit(EXIT_REFUSED);
    }
    expect("index of the echo", agl_model_find(client, "echo"), 0);
    expect("agl_model", agl_model(client, 0, &model), 0);
    vocab_size = model.vocab_size;
}

static int wait_by_descriptor(struct agl_event *ret_event)
{
    struct pollfd entry = {.fd = agl_fd(client), .events = POLLIN};
    int got = agl_poll(client, ret_event);
    while (got == 0) {
        if (poll(&entry, 1, PATIENCE_MS) != 1)
            fail("no wake-up by descriptor");
        got = agl_poll(client, ret_event);
    }
    return got;
}

static struct agl_event next_event(void)
{
    struct agl_event event;
    int got = waiting == WAIT_BY_DESCRIPTOR ? wait_by_descriptor(&event)
                                            : agl_wait(client, &event, PATIENCE_NS);
    expect("the next event", got, 1);
    return event;
}

/* An answer as it comes. */
struct answer {
    uint32_t ids[IDS_MAX];
    uint32_t count, logits;
    struct agl_event accepted, done;
};

static uint32_t ask(struct agl_request request, const uint32_t *ids, uint32_t count)
{
    uint32_t *place, id;
    expect("agl_prompt", agl_prompt(client, count, &place), 0);
    memcpy(place, ids, count * sizeof *ids);
    request.prompt_tokens = count;
    expect("agl_submit", agl_submit(client, &request, &id), 0);
    return id;
}

static void take_tokens(struct answer *answer, const struct agl_event *event)
{
    expect("number of the first token", event->index, answer->count);
    for (uint32_t i = 0; i < event->token_count && answer->count < IDS_MAX; i++)
        answer->ids[answer->count++] = event->tokens[i].id;
}

/* The row of an echo: all certainty on the token that follows. */
static void take_logits(struct answer *answer, const struct agl_event *event)
{
    uint32_t id = prompt[answer->count % PROMPT];
    expect("number of logits", event->logit_count, vocab_size);
    for (uint32_t i = 0; i < event->logit_count; i++)
        if (i == id ? event->logits[i] != 0 : !isinf(event->logits[i]))
            fail("logit %u before token %u is %g", i, answer->count, (double)event->logits[i]);
    answer->logits++;
}

static struct answer read_answer(uint32_t id)
{
    struct answer answer = {.count = 0};
    while (answer.done.kind != AGL_EVENT_DONE) {
        struct agl_event event = next_event();
        expect("request of the event", event.request, id);
        if (event.kind == AGL_EVENT_ACCEPTED)
            answer.accepted = event;
        else if (event.kind == AGL_EVENT_TOKENS)
            take_tokens(&answer, &event);
        else if (event.kind == AGL_EVENT_LOGITS)
            take_logits(&answer, &event);
        else if (event.kind == AGL_EVENT_DONE)
            answer.done = event;
        else
            expect("kind of the event", event.kind, AGL_EVENT_OVERFLOW);
    }
    return answer;
}

static struct answer echo(struct agl_request request)
{
    return read_answer(ask(request, prompt, PROMPT));
}

static void check_echo(const struct answer *answer, uint32_t count, uint32_t reason)
{
    expect("kind of the first event", answer->accepted.kind, AGL_EVENT_ACCEPTED);
    expect("reason", answer->done.reason, reason);
    expect("error", answer->done.error, 0);
    expect("tokens", answer->count, count);
    expect("tokens as counted", answer->done.generated_tokens, count);
    for (uint32_t i = 0; i < count; i++)
        expect("token of the echo", answer->ids[i], prompt[i % PROMPT]);
}

/* ---- what is asked for ----------------------------------------------------------------------- */

static void short_requests_are_answered(void)
{
    for (uint32_t max_tokens = 1; max_tokens <= 40; max_tokens++) {
        struct agl_request request = AGL_REQUEST_INIT;
        request.max_tokens = max_tokens;
        struct answer answer = echo(request);
        check_echo(&answer, max_tokens, AGL_DONE_LENGTH);
        expect("prompt", answer.done.prompt_tokens, PROMPT);
        expect("time of storing", (int64_t)answer.accepted.published_ns, 0);
    }
}

static void rare_parameters_are_heeded(void)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.temperature = 0.5f;
    request.top_p = 0.75f;
    request.min_p = 0.25f;
    request.top_k = 3;
    request.seed = 1ull << 63;
    request.priority = AGL_PRIORITY_REALTIME;
    request.flags = AGL_IGNORE_EOS;
    request.stop_ids[0] = 44;
    request.stop_count = 1;
    struct answer answer = echo(request);
    check_echo(&answer, 3, AGL_DONE_STOP);
}

static void exact_times_come_on_request(void)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.flags = AGL_TIMES;
    request.max_tokens = 2;
    uint64_t before_ns = agl_now_ns();
    struct answer answer = echo(request);
    check_echo(&answer, 2, AGL_DONE_LENGTH);
    if (before_ns > answer.accepted.taken_ns ||
        answer.accepted.taken_ns > answer.accepted.published_ns ||
        answer.accepted.published_ns > agl_now_ns())
        fail("the times do not follow each other");
}

static void logits_come_before_their_tokens(void)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.flags = AGL_LOGITS;
    request.max_tokens = 9;
    struct answer answer = echo(request);
    check_echo(&answer, 9, AGL_DONE_LENGTH);
    expect("rows of logits", answer.logits, 9);
}

static void a_kept_sequence_goes_on_until_it_is_given_up(void)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.flags = AGL_KEEP;
    request.max_tokens = 4;
    struct answer answer = echo(request);
    check_echo(&answer, 4, AGL_DONE_LENGTH);
    request.continues = answer.done.request;
    answer = echo(request);
    check_echo(&answer, 4, AGL_DONE_LENGTH);
    expect("prompt with its history", answer.done.prompt_tokens, PROMPT + 4 + PROMPT);
    expect("whether history needed no computing", answer.done.cached_tokens > 0, 1);
    expect("agl_forget", agl_forget(client, answer.done.request), 0);
}

/* It cannot end before: the ring has no room for so many tokens, and none are read. */
static void a_cancelled_request_ends_early(void)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.max_tokens = 5000;
    uint32_t id = ask(request, prompt, PROMPT);
    expect("kind of the first event", next_event().kind, AGL_EVENT_ACCEPTED);
    expect("agl_set_priority", agl_set_priority(client, id, AGL_PRIORITY_HIGH), 0);
    expect("agl_cancel", agl_cancel(client, id), 0);
    struct agl_event event;
    do {
        event = next_event();
        expect("request of the event", event.request, id);
    } while (event.kind != AGL_EVENT_DONE);
    expect("reason of a cancelled one", event.reason, AGL_DONE_CANCELLED);
}

static void what_cannot_be_is_refused_and_nothing_else_suffers(void)
{
    struct agl_request request = AGL_REQUEST_INIT;
    struct answer answer = read_answer(ask(request, &vocab_size, 1));
    expect("reason of an unknown id", answer.done.reason, AGL_DONE_REFUSED);
    expect("error of an unknown id", answer.done.error, -EINVAL);
    request.deadline_ns = 1;
    answer = echo(request);
    expect("reason of a late one", answer.done.reason, AGL_DONE_DEADLINE);
}

static void the_daemon_says_when_it_stops(void)
{
    printf("all right; waiting\n");
    fflush(stdout);
    struct agl_event event = next_event();
    expect("kind of the last event", event.kind, AGL_EVENT_SHUTDOWN);
    expect("error of the last event", event.error, -ESHUTDOWN);
    expect("what follows it", agl_poll(client, &event), -EPIPE);
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3)
        fail("Usage: library_client SOCKET [INSTANCE]");
    if (argc == 3)
        read_board(argv[2]);
    connect_to(argv[1], AGL_WAIT_SLEEP);
    for (waiting = 0; waiting < WAITINGS; waiting++) {
        short_requests_are_answered();
        rare_parameters_are_heeded();
        exact_times_come_on_request();
        logits_come_before_their_tokens();
        a_kept_sequence_goes_on_until_it_is_given_up();
        a_cancelled_request_ends_early();
        what_cannot_be_is_refused_and_nothing_else_suffers();
    }
    the_daemon_says_when_it_stops();
    agl_close(client);
    return 0;
}
