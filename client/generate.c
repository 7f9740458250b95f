/* Prompts, submissions, and the table of requests. Nothing here allocates or locks, and the only
 * system call is the ring of the doorbell of a daemon that sleeps. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "client/error.h"
#include "client/private.h"

/* The size of struct agl_request in 0.1, its first release. Later fields come behind. */
enum { REQUEST_BYTES_FIRST = offsetof(struct agl_request, reserved) + sizeof(uint32_t) };

enum { REQUEST_FLAGS = AGL_KEEP | AGL_IGNORE_EOS | AGL_LOGITS | AGL_TIMES };
static_assert((int)AGL_KEEP == SUBMISSION_KEEP && (int)AGL_IGNORE_EOS == SUBMISSION_IGNORE_EOS &&
                  (int)AGL_LOGITS == SUBMISSION_LOGITS && (int)AGL_TIMES == SUBMISSION_TIMES,
              "passed on as they are");

int client_ended(const struct agl_client *client)
{
    return error_set(client->end, "%s", client->end_detail);
}

/* ---- the table ------------------------------------------------------------------------------- */

static struct client_request *find_request(const struct agl_client *client, uint32_t id)
{
    struct client_request *request = &client->requests[id & (client->geometry.max_requests - 1)];
    return request->state != REQUEST_FREE && request->id == id ? request : NULL;
}

struct client_request *client_find_live(struct agl_client *client, uint32_t id)
{
    struct client_request *request = find_request(client, id);
    return request && (request->state == REQUEST_SUBMITTED || request->state == REQUEST_RUNNING)
               ? request
               : NULL;
}

static struct client_request *find_kept(struct agl_client *client, uint32_t id)
{
    struct client_request *request = find_request(client, id);
    return request && request->state == REQUEST_KEPT ? request : NULL;
}

int agl_request_state(const struct agl_client *client, uint32_t request, uint32_t *ret_tokens)
{
    static const int states[] = {
        [REQUEST_SUBMITTED] = AGL_REQUEST_SUBMITTED,
        [REQUEST_RUNNING] = AGL_REQUEST_RUNNING,
        [REQUEST_KEPT] = AGL_REQUEST_KEPT,
        [REQUEST_PASSED] = AGL_REQUEST_KEPT, /* and it stays so if what continues it is refused */
    };
    const struct client_request *entry = find_request(client, request);
    if (!entry)
        return error_set(-ENOENT, "no request %u is in flight or kept", request);
    if (ret_tokens)
        *ret_tokens = entry->tokens;
    return states[entry->state];
}

/* An id has the index in its low bits and counts its uses above them, so that it comes again only
 * after all other counts; never 0. */
static uint32_t next_id(const struct agl_client *client, uint32_t index)
{
    uint32_t count = client->geometry.max_requests;
    uint32_t last = client->requests[index].id;
    uint32_t id = (last ? last : index) + count;
    return id < count ? id + count : id;
}

static void free_request(struct agl_client *client, struct client_request *request)
{
    request->state = REQUEST_FREE;
    request->next_free = client->first_free;
    client->first_free = (uint32_t)(request - client->requests);
}

void client_request_accepted(struct agl_client *client, struct client_request *request)
{
    request->state = REQUEST_RUNNING;
    client_prompt_taken(client, request->prompt);
    if (request->has_parent)
        free_request(client, &client->requests[request->parent]);
}

void client_request_done(struct agl_client *client, struct client_request *request, uint32_t reason)
{
    if (request->state == REQUEST_SUBMITTED) {
        /* Refused: nothing was taken, what it was to continue is kept as before. */
        client_prompt_taken(client, request->prompt);
        if (request->has_parent)
            client->requests[request->parent].state = REQUEST_KEPT;
        free_request(client, request);
    } else if (request->is_kept && reason != DONE_REFUSED && reason != DONE_FAILED) {
        request->state = REQUEST_KEPT;
    } else {
        free_request(client, request);
    }
}

/* ---- the arena ------------------------------------------------------------------------------- */

/* The place in the circle for `bytes` bytes in one piece, NO_PLACE if there is none. In use is what
 * lies from arena_start up to arena_end, going round; if both are equal, everything. */
enum { NO_PLACE = UINT32_MAX };
static uint32_t find_place(const struct agl_client *client, uint32_t bytes)
{
    uint32_t start = client->arena_start;
    uint32_t end = client->arena_end;
    if (client->prompts_head == client->prompts_tail)
        return 0;
    if (client->prompts_tail - client->prompts_head == client->geometry.max_requests)
        return NO_PLACE;
    if (end <= start)
        return bytes <= start - end ? end : NO_PLACE;
    if (bytes <= client->geometry.arena_bytes - end)
        return end;
    return bytes <= start ? 0 : NO_PLACE;
}

static uint32_t place_bytes(uint32_t tokens)
{
    uint32_t bytes = tokens * (uint32_t)sizeof(uint32_t);
    return (bytes + LAYOUT_LINE_BYTES - 1) / LAYOUT_LINE_BYTES * LAYOUT_LINE_BYTES;
}

int agl_prompt(struct agl_client *client, uint32_t tokens, uint32_t **ret_tokens)
{
    if (client->end)
        return client_ended(client);
    if (tokens == 0)
        return error_set(-EINVAL, "a prompt of 0 tokens needs no place");
    if (tokens > client->prompt_tokens)
        return error_set(-EMSGSIZE, "a prompt of %u tokens, this connection has room for %u",
                         tokens, client->prompt_tokens);
    uint32_t offset = find_place(client, place_bytes(tokens));
    if (offset == NO_PLACE)
        return error_set(-EAGAIN,
                         "no room for a prompt of %u tokens until the daemon has taken "
                         "earlier ones",
                         tokens);
    client->is_prompt_open = true;
    client->open_offset = offset;
    client->open_tokens = tokens;
    *ret_tokens = (uint32_t *)(void *)(client->arena + offset);
    return 0;
}

/* The first `tokens` of the open place become a submitted prompt; the rest of it is free again. */
static void close_prompt(struct agl_client *client, struct client_request *request, uint32_t tokens)
{
    client->is_prompt_open = false;
    request->prompt = NO_PROMPT;
    if (tokens == 0)
        return;
    if (client->prompts_head == client->prompts_tail)
        client->arena_start = client->open_offset;
    client->arena_end = client->open_offset + place_bytes(tokens);
    request->prompt = client->prompts_tail & (client->geometry.max_requests - 1);
    client->prompts[request->prompt] = (struct client_prompt){.end_bytes = client->arena_end};
    client->prompts_tail++;
}

void client_prompt_taken(struct agl_client *client, uint32_t prompt)
{
    if (prompt == NO_PROMPT)
        return;
    client->prompts[prompt].is_taken = true;
    while (client->prompts_head != client->prompts_tail) {
        const struct client_prompt *oldest =
            &client->prompts[client->prompts_head & (client->geometry.max_requests - 1)];
        if (!oldest->is_taken)
            break;
        client->arena_start = oldest->end_bytes;
        client->prompts_head++;
    }
}

/* ---- submissions ----------------------------------------------------------------------------- */

static int push(struct agl_client *client, const struct submission *submission)
{
    uint32_t bytes = submission->flags & SUBMISSION_WIDE ? sizeof *submission : LAYOUT_LINE_BYTES;
    int err = ring_push_part(&client->submissions, submission, bytes);
    if (err == -EAGAIN)
        return error_set(-EAGAIN, "the submission ring is full");
    if (err < 0) {
        client_end(client, -EPROTO, "the daemon's submission cursor makes no sense");
        return client_ended(client);
    }
    if (doorbell_sleeper(&client->daemon_words->sleep, &client->rung) == DOORBELL_FD) {
        static const uint64_t one = 1;
        /* Fails only if the counter is at its end, and then the daemon is awake. */
        ssize_t written = write(client->doorbell_fd, &one, sizeof one);
        (void)written;
    }
    return 0;
}

static int check_number(const char *field, double value, double least, double most)
{
    if (value >= least && value <= most)
        return 0;
    return error_set(-EINVAL, "request.%s is %g, must be %g to %g", field, value, least, most);
}

static int check_sampling(const struct agl_request *request)
{
    /* top_p = 0 would keep nothing. */
    if (!(request->top_p > 0.0f))
        return error_set(-EINVAL, "request.top_p is %g, must be more than 0 and at most 1",
                         (double)request->top_p);
    int err = check_number("top_p", (double)request->top_p, 0.0, 1.0);
    if (err == 0)
        err = check_number("temperature", (double)request->temperature, 0.0, 100.0);
    if (err == 0 && !(request->min_p >= 0.0f && request->min_p < 1.0f))
        err = error_set(-EINVAL, "request.min_p is %g, must be at least 0 and less than 1",
                        (double)request->min_p);
    if (err == 0)
        err = check_number("stop_count", request->stop_count, 0, AGL_STOP_IDS_MAX);
    return err;
}

static int check_model(const struct agl_client *client, const struct agl_request *request)
{
    if (request->model >= client->model_count)
        return error_set(-EINVAL, "request.model is %u, the daemon holds %u", request->model,
                         client->model_count);
    uint64_t logits_bytes = (uint64_t)client->vocab_sizes[request->model] * sizeof(float);
    if ((request->flags & AGL_LOGITS) && logits_bytes > client->geometry.output_bytes)
        return error_set(-EINVAL,
                         "request.flags has AGL_LOGITS, which needs options.output_bytes of at "
                         "least %llu, not %u",
                         (unsigned long long)logits_bytes, client->geometry.output_bytes);
    return 0;
}

static int check_prompt(const struct agl_client *client, const struct agl_request *request)
{
    if (request->prompt_tokens == 0 && !request->continues)
        return error_set(-EINVAL, "request.prompt_tokens is 0");
    if (request->prompt_tokens > 0 && !client->is_prompt_open)
        return error_set(-EINVAL, "request.prompt_tokens is %u, but agl_prompt() gave no place",
                         request->prompt_tokens);
    if (client->is_prompt_open && request->prompt_tokens > client->open_tokens)
        return error_set(-EINVAL, "request.prompt_tokens is %u, agl_prompt() gave room for %u",
                         request->prompt_tokens, client->open_tokens);
    return 0;
}

static int check_request(const struct agl_client *client, const struct agl_request *request)
{
    if (request->flags & ~(uint32_t)REQUEST_FLAGS)
        return error_set(-EINVAL, "request.flags is %#x, known are %#x", request->flags,
                         REQUEST_FLAGS);
    if (request->reserved)
        return error_set(-EINVAL, "request.reserved is %u, must be 0", request->reserved);
    if (request->max_tokens == 0)
        return error_set(-EINVAL, "request.max_tokens is 0");
    if (request->priority > AGL_PRIORITY_REALTIME)
        return error_set(-EINVAL, "request.priority is %u, must be at most %d", request->priority,
                         AGL_PRIORITY_REALTIME);
    int err = check_sampling(request);
    if (err == 0)
        err = check_model(client, request);
    return err == 0 ? check_prompt(client, request) : err;
}

static void fill_submission(struct submission *ret_submission, const struct agl_client *client,
                            const struct agl_request *request, uint32_t id)
{
    *ret_submission = (struct submission){
        .op = request->continues ? SUBMISSION_EXTEND : SUBMISSION_GENERATE,
        .priority = (uint8_t)request->priority,
        .flags = (uint16_t)request->flags,
        .request = id,
        .parent = request->continues,
        .model = request->model,
        .prompt_offset = request->prompt_tokens ? client->open_offset : 0,
        .prompt_tokens = request->prompt_tokens,
        .max_tokens = request->max_tokens,
        .temperature = request->temperature,
        .top_p = request->top_p,
        .seed = request->seed,
        .first_token_deadline_ns = request->first_token_deadline_ns,
        .deadline_ns = request->deadline_ns,
    };
}

/* The parameters of the slot's second line. */
static void fill_second_line(struct submission *ret_submission, const struct agl_request *request)
{
    if (!request->top_k && request->min_p == 0.0f && !request->stop_count)
        return;
    ret_submission->flags |= SUBMISSION_WIDE;
    ret_submission->top_k = request->top_k;
    ret_submission->min_p = request->min_p;
    ret_submission->stop_count = request->stop_count;
    memcpy(ret_submission->stop_ids, request->stop_ids,
           request->stop_count * sizeof request->stop_ids[0]);
}

/* What `continues` names. 0 with *ret_parent NULL: nothing to continue. */
static int find_parent(struct agl_client *client, const struct agl_request *request,
                       struct client_request **ret_parent)
{
    struct client_request *parent = NULL;
    if (request->continues) {
        parent = find_kept(client, request->continues);
        if (!parent)
            return error_set(-ENOENT,
                             "request.continues is %u: no ended request of that id is "
                             "kept",
                             request->continues);
        if (parent->model != request->model)
            return error_set(-EINVAL, "request.model is %u, the request to continue has %u",
                             request->model, parent->model);
    }
    *ret_parent = parent;
    return 0;
}

/* Of a program that was built against another header: what this library knows of the request, in
 * *room. Most are of the same release, and need no copy. */
static int read_request(struct agl_request *room, const struct agl_request **request)
{
    if ((*request)->size_bytes == sizeof *room)
        return 0;
    *room = (struct agl_request)AGL_REQUEST_INIT;
    int err = client_read_sized(room, sizeof *room, REQUEST_BYTES_FIRST, *request, "request");
    if (err == 0)
        *request = room;
    return err;
}

int agl_submit(struct agl_client *client, const struct agl_request *request, uint32_t *ret_request)
{
    struct agl_request room;
    if (client->end)
        return client_ended(client);
    int err = read_request(&room, &request);
    if (err == 0)
        err = check_request(client, request);
    if (err < 0)
        return err;
    struct client_request *parent = NULL;
    err = find_parent(client, request, &parent);
    if (err < 0)
        return err;
    uint32_t index = client->first_free;
    if (index == NO_REQUEST)
        return error_set(-EAGAIN, "%u requests are in flight or kept",
                         client->geometry.max_requests);

    uint32_t id = next_id(client, index);
    struct submission submission;
    fill_submission(&submission, client, request, id);
    fill_second_line(&submission, request);
    err = push(client, &submission);
    if (err < 0)
        return err;

    struct client_request *entry = &client->requests[index];
    client->first_free = entry->next_free;
    *entry = (struct client_request){
        .id = id,
        .state = REQUEST_SUBMITTED,
        .model = request->model,
        .vocab_size = client->vocab_sizes[request->model],
        .max_tokens = request->max_tokens,
        .is_kept = request->flags & AGL_KEEP,
    };
    if (parent) {
        entry->has_parent = true;
        entry->parent = (uint32_t)(parent - client->requests);
        parent->state = REQUEST_PASSED;
    }
    close_prompt(client, entry, request->prompt_tokens);
    *ret_request = id;
    return 0;
}

/* ---- about a request ------------------------------------------------------------------------- */

static int not_in_flight(uint32_t request)
{
    return error_set(-ENOENT, "no request %u is in flight", request);
}

int agl_cancel(struct agl_client *client, uint32_t request)
{
    if (client->end)
        return client_ended(client);
    if (!client_find_live(client, request))
        return not_in_flight(request);
    const struct submission submission = {.op = SUBMISSION_CANCEL, .request = request};
    return push(client, &submission);
}

int agl_set_priority(struct agl_client *client, uint32_t request, uint32_t priority)
{
    if (client->end)
        return client_ended(client);
    if (priority > AGL_PRIORITY_REALTIME)
        return error_set(-EINVAL, "priority is %u, must be at most %d", priority,
                         AGL_PRIORITY_REALTIME);
    if (!client_find_live(client, request))
        return not_in_flight(request);
    const struct submission submission = {
        .op = SUBMISSION_SET_PRIORITY, .priority = (uint8_t)priority, .request = request};
    return push(client, &submission);
}

int agl_forget(struct agl_client *client, uint32_t request)
{
    if (client->end)
        return client_ended(client);
    struct client_request *kept = find_kept(client, request);
    if (!kept)
        return error_set(-ENOENT, "no ended request %u is kept", request);
    const struct submission submission = {.op = SUBMISSION_DETACH, .request = request};
    int err = push(client, &submission);
    if (err == 0)
        free_request(client, kept);
    return err;
}
