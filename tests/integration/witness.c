#include "tests/integration/witness.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/test.h"

enum { PROMPT_TOKENS = 12, PATIENCE_MS = 60000, PAUSE_NS = 1000000 };
static const uint64_t patience_ns = (uint64_t)PATIENCE_MS * 1000000;

struct witness {
    uint32_t number;
    struct agl_client *client;
    char failure[256];
};

/* Two witnesses ask the bundled model and one the echo; each waits in its own way. */
static const struct {
    const char *model;
    uint32_t wait_mode;
    int by_descriptor;
} kinds[WITNESSES] = {
    {"story", AGL_WAIT_ADAPTIVE, 0}, {"story", AGL_WAIT_SLEEP, 1}, {"echo", AGL_WAIT_SLEEP, 0}};

static int complain(struct witness *witness, const char *what, int err)
{
    snprintf(witness->failure, sizeof witness->failure, "witness %u: %s: %s: %.120s",
             witness->number, what, agl_strerror(err), agl_error_detail());
    return -1;
}

static int next_event(struct witness *witness, struct agl_event *ret_event)
{
    if (!kinds[witness->number].by_descriptor)
        return agl_wait(witness->client, ret_event, patience_ns);
    struct pollfd waiting = {.fd = agl_fd(witness->client), .events = POLLIN};
    int got = agl_poll(witness->client, ret_event);
    while (got == 0) {
        if (poll(&waiting, 1, PATIENCE_MS) != 1)
            return -ETIMEDOUT;
        got = agl_poll(witness->client, ret_event);
    }
    return got;
}

static int submit(struct witness *witness, uint32_t job, uint32_t turn, uint32_t continues,
                  uint32_t *ret_id)
{
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *place = NULL;
    int model = agl_model_find(witness->client, kinds[witness->number].model);
    int err = model < 0 ? model : agl_prompt(witness->client, PROMPT_TOKENS, &place);
    if (err < 0)
        return complain(witness, "agl_prompt", err);
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        place[i] = 100 + (witness->number * 331 + job * 97 + turn * 53 + i * 17) % 1700;
    request.model = (uint32_t)model;
    request.prompt_tokens = PROMPT_TOKENS;
    request.max_tokens = WITNESS_TOKENS;
    request.flags = AGL_KEEP | AGL_IGNORE_EOS;
    request.continues = continues;
    err = agl_submit(witness->client, &request, ret_id);
    return err < 0 ? complain(witness, "agl_submit", err) : 0;
}

static int collect(struct witness *witness, uint32_t id, uint32_t *ret_tokens, uint32_t *ret_count)
{
    struct agl_event event = {0};
    uint32_t count = 0;
    while (event.kind != AGL_EVENT_DONE) {
        int got = next_event(witness, &event);
        if (got < 0)
            return complain(witness, "no event", got);
        if (event.request != id)
            return complain(witness, "an event of somebody else", -EPROTO);
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++) {
            if (count == WITNESS_TOKENS)
                return complain(witness, "too many tokens", -EPROTO);
            ret_tokens[count++] = event.tokens[i].id;
        }
    }
    if (event.reason != AGL_DONE_LENGTH || event.generated_tokens != count)
        return complain(witness, agl_reason_name(event.reason), event.error);
    *ret_count = count;
    return 0;
}

/* A conversation: every turn but the first continues what the one before has left. */
static int converse(struct witness *witness, uint32_t job, struct witness_answers *ret_answers)
{
    uint32_t id = 0;
    for (uint32_t turn = 0; turn < WITNESS_TURNS; turn++)
        if (submit(witness, job, turn, id, &id) < 0 ||
            collect(witness, id, ret_answers->tokens[job][turn], &ret_answers->counts[job][turn]) <
                0)
            return -1;
    int err = agl_forget(witness->client, id);
    return err < 0 ? complain(witness, "agl_forget", err) : 0;
}

static int compare(struct witness *witness, uint32_t job, const struct witness_answers *heard,
                   const struct witness_answers *expected)
{
    for (uint32_t turn = 0; turn < WITNESS_TURNS; turn++) {
        uint32_t count = expected->counts[job][turn];
        if (heard->counts[job][turn] != count)
            return complain(witness, "an answer of another length than alone", -EPROTO);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t token = heard->tokens[job][turn][i];
            if (token == expected->tokens[job][turn][i])
                continue;
            snprintf(witness->failure, sizeof witness->failure,
                     "witness %u, job %u, turn %u: token %u is %u, was %u when nobody was killed",
                     witness->number, job, turn, i, token, expected->tokens[job][turn][i]);
            return -1;
        }
    }
    return 0;
}

static int enter(struct witness *witness, const struct daemon *daemon)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = daemon->socket_path;
    options.name = "witness";
    options.wait_mode = kinds[witness->number].wait_mode;
    int err = agl_connect(&witness->client, &options);
    return err < 0 ? complain(witness, "agl_connect", err) : 0;
}

void witness_listen(const struct daemon *daemon, uint32_t number,
                    struct witness_answers *ret_answers)
{
    struct witness witness = {.number = number};
    int err = enter(&witness, daemon);
    for (uint32_t job = 0; job < WITNESS_JOBS && err == 0; job++)
        err = converse(&witness, job, ret_answers);
    if (err < 0)
        fail_msg("%s", witness.failure);
    agl_close(witness.client);
}

static int testify(struct witness *witness, const struct daemon *daemon,
                   struct witness_state *state, const struct witness_answers *expected)
{
    static struct witness_answers heard;
    if (enter(witness, daemon) < 0)
        return -1;
    /* relaxed throughout: each word stands by itself. */
    atomic_store_explicit(&state->is_ready, 1, memory_order_relaxed);
    while (!atomic_load_explicit(&state->must_stop, memory_order_relaxed)) {
        for (uint32_t job = 0; job < WITNESS_JOBS; job++) {
            memset(&heard, 0, sizeof heard);
            if (converse(witness, job, &heard) < 0 || compare(witness, job, &heard, expected) < 0)
                return -1;
            atomic_fetch_add_explicit(&state->answers, WITNESS_TURNS, memory_order_relaxed);
            for (uint32_t turn = 0; turn < WITNESS_TURNS; turn++)
                atomic_fetch_add_explicit(&state->tokens, heard.counts[job][turn],
                                          memory_order_relaxed);
            nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        }
    }
    agl_close(witness->client);
    return 0;
}

pid_t witness_fork(const struct daemon *daemon, uint32_t number, struct witness_state *state,
                   const struct witness_answers *expected)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct witness witness = {.number = number};
    int err = testify(&witness, daemon, state, expected);
    memcpy(state->failure, witness.failure, sizeof state->failure);
    _exit(err < 0);
}
