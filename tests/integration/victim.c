#include "tests/integration/victim.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <autoglm.h>

enum {
    REQUESTS = 8,
    PROMPT_MAX = 400,
    SHORT_PROMPT = 16,
    ANSWER_MAX = 300,
    SHORT_ANSWER = 8,
    OUTPUT_BYTES = 64 << 10,
    ACTS_MAX = 20,
    LOGITS_STRIDE = 37,
};
enum { MS = 1000000 };
enum { ECHO, STORY }; /* the daemon's models */

const char *const victim_phase_names[VICTIM_PHASES] = {
    "born",       "connect", "prompt", "submit", "continue", "poll",   "wait adaptive", "wait spin",
    "wait sleep", "fd",      "logits", "cancel", "priority", "forget", "close"};

struct victim {
    struct victim_state *state;
    const struct victim_plan *plan;
    unsigned seed;
    uint32_t stops_left;

    struct agl_client *client;
    struct agl_options options;
    uint32_t live[REQUESTS];
    uint32_t live_count;
    bool is_keeping[REQUESTS]; /* AGL_KEEP was given for live[i] */
    uint32_t kept[REQUESTS];
    uint32_t kept_model[REQUESTS];
    uint32_t kept_count;
    uint32_t live_model[REQUESTS];
};

static uint32_t below(struct victim *victim, uint32_t limit)
{
    return (uint32_t)rand_r(&victim->seed) % limit;
}

/* relaxed throughout: the killer reads them while we run, and once more when we are dead. */
static void tell(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static void mark(struct victim *victim, enum victim_phase phase)
{
    tell(&victim->state->phase, phase);
    atomic_fetch_add_explicit(&victim->state->marks, 1, memory_order_relaxed);
    if (phase == victim->plan->stop_phase && victim->stops_left && --victim->stops_left == 0)
        raise(SIGSTOP);
}

static void give_up(struct victim *victim, const char *doing, int err)
{
    snprintf(victim->state->failure, sizeof victim->state->failure, "%s: %s: %.160s", doing,
             agl_strerror(err), agl_error_detail());
    _exit(1);
}

static void tell_holdings(struct victim *victim)
{
    tell(&victim->state->live_requests, victim->live_count);
    tell(&victim->state->kept_requests, victim->kept_count);
}

/* A victim that is to be stopped in a phase leads a life in which it comes. */
static bool wants(const struct victim *victim, enum victim_phase phase)
{
    return victim->plan->stop_phase == phase;
}

/* ---- requests -------------------------------------------------------------------------------- */

static void fill_prompt(struct victim *victim, uint32_t *place, uint32_t count, uint32_t model)
{
    struct agl_model about;
    agl_model(victim->client, model, &about);
    uint32_t id = below(victim, about.vocab_size);
    for (uint32_t i = 0; i < count; i++) {
        place[i] = id;
        id = id + 1 < about.vocab_size ? id + 1 : 0;
    }
}

/* A full table, ring or arena is no failure. */
static bool is_full(int err)
{
    return err == -EAGAIN;
}

static uint32_t choose_model(struct victim *victim)
{
    return wants(victim, VICTIM_LOGITS) || below(victim, 3) == 0 ? STORY : ECHO;
}

static uint32_t choose_flags(struct victim *victim, uint32_t model)
{
    bool keeps = wants(victim, VICTIM_CONTINUE) || wants(victim, VICTIM_FORGET);
    uint32_t flags = keeps || below(victim, 2) ? AGL_KEEP : 0;
    if (model == STORY && victim->options.output_bytes)
        flags |= AGL_LOGITS;
    return flags | (below(victim, 2) ? AGL_IGNORE_EOS : 0);
}

static void submit(struct victim *victim, uint32_t continued)
{
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *place = NULL;
    uint32_t id = 0;
    if (victim->live_count == REQUESTS)
        return;
    request.prompt_tokens = 1 + below(victim, below(victim, 4) ? SHORT_PROMPT : PROMPT_MAX);
    request.model = continued < REQUESTS ? victim->kept_model[continued] : choose_model(victim);
    request.max_tokens = 1 + below(victim, below(victim, 4) ? SHORT_ANSWER : ANSWER_MAX);
    request.flags = choose_flags(victim, request.model);
    request.continues = continued < REQUESTS ? victim->kept[continued] : 0;

    mark(victim, VICTIM_PROMPT);
    int err = agl_prompt(victim->client, request.prompt_tokens, &place);
    if (err == 0) {
        fill_prompt(victim, place, request.prompt_tokens, request.model);
        mark(victim, request.continues ? VICTIM_CONTINUE : VICTIM_SUBMIT);
        err = agl_submit(victim->client, &request, &id);
    }
    if (err < 0 && !is_full(err))
        give_up(victim, "agl_submit", err);
    if (err < 0)
        return;
    victim->is_keeping[victim->live_count] = request.flags & AGL_KEEP;
    victim->live_model[victim->live_count] = request.model;
    victim->live[victim->live_count++] = id;
    if (continued < REQUESTS) {
        victim->kept_count--;
        victim->kept[continued] = victim->kept[victim->kept_count];
        victim->kept_model[continued] = victim->kept_model[victim->kept_count];
    }
    tell_holdings(victim);
}

static void take_done(struct victim *victim, const struct agl_event *event)
{
    uint32_t i = 0;
    while (i < victim->live_count && victim->live[i] != event->request)
        i++;
    if (i == victim->live_count)
        give_up(victim, "an end of nothing", -EPROTO);
    bool is_kept = victim->is_keeping[i] && event->reason != AGL_DONE_REFUSED &&
                   event->reason != AGL_DONE_FAILED;
    if (is_kept && victim->kept_count < REQUESTS) {
        victim->kept_model[victim->kept_count] = victim->live_model[i];
        victim->kept[victim->kept_count++] = event->request;
    } else if (is_kept) {
        agl_forget(victim->client, event->request);
    }
    victim->live_count--;
    victim->live[i] = victim->live[victim->live_count];
    victim->live_model[i] = victim->live_model[victim->live_count];
    victim->is_keeping[i] = victim->is_keeping[victim->live_count];
    tell_holdings(victim);
}

static void read_logits(struct victim *victim, const struct agl_event *event)
{
    volatile float sum = 0;
    mark(victim, VICTIM_LOGITS);
    for (uint32_t i = 0; i < event->logit_count; i += LOGITS_STRIDE)
        sum = sum + event->logits[i];
}

/* ---- waiting --------------------------------------------------------------------------------- */

static int poll_by_descriptor(struct victim *victim, struct agl_event *ret_event)
{
    struct pollfd waiting = {.fd = agl_fd(victim->client), .events = POLLIN};
    int got = agl_poll(victim->client, ret_event);
    if (got != 0)
        return got;
    poll(&waiting, 1, (int)below(victim, 2));
    return agl_poll(victim->client, ret_event);
}

/* For an answer of the story model, which takes its time under a sanitizer. */
static uint32_t patience_ns(const struct victim *victim)
{
    bool waits_for_answers = wants(victim, VICTIM_LOGITS) || wants(victim, VICTIM_CONTINUE) ||
                             wants(victim, VICTIM_FORGET);
    return (waits_for_answers ? 100 : 2) * MS;
}

static const enum victim_phase waits[] = {[AGL_WAIT_ADAPTIVE] = VICTIM_WAIT_ADAPTIVE,
                                          [AGL_WAIT_SPIN] = VICTIM_WAIT_SPIN,
                                          [AGL_WAIT_SLEEP] = VICTIM_WAIT_SLEEP};

static int next_event(struct victim *victim, struct agl_event *ret_event)
{
    switch (below(victim, 6)) {
    case 0:
        mark(victim, VICTIM_POLL);
        return agl_poll(victim->client, ret_event);
    case 1:
        mark(victim, VICTIM_FD);
        return poll_by_descriptor(victim, ret_event);
    default:
        mark(victim, waits[victim->options.wait_mode]);
        return agl_wait(victim->client, ret_event, below(victim, patience_ns(victim)));
    }
}

/* Takes what comes until something has ended, or nothing comes. */
static void take_events(struct victim *victim)
{
    struct agl_event event = {0};
    for (uint32_t i = below(victim, 100); i > 0 && event.kind != AGL_EVENT_DONE; i--) {
        int got = next_event(victim, &event);
        if (got == -ETIMEDOUT || got == -EINTR)
            return;
        if (got < 0)
            give_up(victim, "no event", got);
        if (got == 1 && event.kind == AGL_EVENT_LOGITS)
            read_logits(victim, &event);
        else if (got == 1 && event.kind == AGL_EVENT_DONE)
            take_done(victim, &event);
        else if (got == 1 && event.kind == AGL_EVENT_SHUTDOWN)
            give_up(victim, "the daemon ended the session", event.error);
    }
}

/* ---- the life -------------------------------------------------------------------------------- */

static void check(struct victim *victim, const char *doing, int err)
{
    if (err < 0 && !is_full(err))
        give_up(victim, doing, err);
}

static void forget(struct victim *victim, uint32_t i)
{
    mark(victim, VICTIM_FORGET);
    int err = agl_forget(victim->client, victim->kept[i]);
    check(victim, "agl_forget", err);
    if (err < 0)
        return;
    victim->kept_count--;
    victim->kept[i] = victim->kept[victim->kept_count];
    victim->kept_model[i] = victim->kept_model[victim->kept_count];
    tell_holdings(victim);
}

static void act_on_kept(struct victim *victim)
{
    if (below(victim, 2))
        submit(victim, below(victim, victim->kept_count));
    else
        forget(victim, below(victim, victim->kept_count));
}

static void act_on_live(struct victim *victim)
{
    uint32_t id = victim->live[below(victim, victim->live_count)];
    if (below(victim, 2)) {
        mark(victim, VICTIM_CANCEL);
        check(victim, "agl_cancel", agl_cancel(victim->client, id));
    } else {
        mark(victim, VICTIM_PRIORITY);
        uint32_t priority = below(victim, AGL_PRIORITY_REALTIME + 1);
        check(victim, "agl_set_priority", agl_set_priority(victim->client, id, priority));
    }
}

static void act(struct victim *victim)
{
    switch (below(victim, 6)) {
    case 0:
        submit(victim, REQUESTS);
        break;
    case 1:
        if (victim->live_count)
            act_on_live(victim);
        break;
    case 2:
        if (victim->kept_count)
            act_on_kept(victim);
        break;
    default:
        take_events(victim);
    }
}

/* The way of waiting is the session's; a victim that is to be stopped in one has that one. */
static uint32_t choose_wait_mode(struct victim *victim)
{
    for (uint32_t mode = 0; mode < sizeof waits / sizeof *waits; mode++)
        if (wants(victim, waits[mode]))
            return mode;
    return below(victim, sizeof waits / sizeof *waits);
}

static void live(struct victim *victim)
{
    victim->options = (struct agl_options)AGL_OPTIONS_INIT;
    victim->options.socket_path = victim->plan->socket_path;
    victim->options.name = "victim";
    victim->options.wait_mode = choose_wait_mode(victim);
    victim->options.max_requests = 2u << below(victim, 3);
    victim->options.prompt_tokens = PROMPT_MAX * (1 + below(victim, 4));
    victim->options.output_bytes =
        wants(victim, VICTIM_LOGITS) || below(victim, 2) ? OUTPUT_BYTES : 0;
    victim->live_count = victim->kept_count = 0;
    tell_holdings(victim);

    mark(victim, VICTIM_CONNECT);
    int err = agl_connect(&victim->client, &victim->options);
    if (err < 0)
        give_up(victim, "agl_connect", err);
    tell(&victim->state->has_session, 1);
    submit(victim, REQUESTS);
    for (uint32_t acts = 1 + below(victim, ACTS_MAX); acts > 0; acts--)
        act(victim);
    tell(&victim->state->has_session, 0);
    mark(victim, VICTIM_CLOSE);
    agl_close(victim->client);
    atomic_fetch_add_explicit(&victim->state->lives, 1, memory_order_relaxed);
}

pid_t victim_fork(struct victim_state *state, const struct victim_plan *plan)
{
    memset(state, 0, sizeof *state);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct victim victim = {
        .state = state, .plan = plan, .seed = plan->seed, .stops_left = plan->stop_count};
    for (;;)
        live(&victim);
}
