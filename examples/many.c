/*
 * Many requests on one connection: as many in flight as it allows, answers in whatever order they
 * end. Shows both ways to hear "not now": -EAGAIN from a call (read events, then try again), and a
 * request that the daemon refuses since its queue is full (try again after retry_after_ns).
 *
 *   cc many.c $(pkg-config --cflags --libs autoglm) -o many
 *   ./many 100
 */
#include <autoglm.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { JOBS_MAX = 1000, IN_FLIGHT = 8, LOOK_NS = 10 * 1000 * 1000 };

static struct job {
    uint32_t request; /* 0: to be submitted */
    uint32_t first;   /* token of its answer */
    int is_done;
    uint64_t not_before_ns;
} jobs[JOBS_MAX];

static int submit(struct agl_client *client, uint32_t number)
{
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *place;
    int err = agl_prompt(client, 3, &place);
    if (err < 0)
        return err;
    place[0] = number + 1, place[1] = 403, place[2] = 407;
    request.prompt_tokens = 3;
    request.max_tokens = number % 2 ? 5 : 150; /* so that later ones overtake */
    request.flags = AGL_IGNORE_EOS;
    return agl_submit(client, &request, &jobs[number].request);
}

static struct job *find(uint32_t request)
{
    for (int i = 0; i < JOBS_MAX; i++)
        if (jobs[i].request == request && !jobs[i].is_done)
            return &jobs[i];
    return NULL;
}

static int fail(const char *doing, int error)
{
    fprintf(stderr, "%s: %s: %s\n", doing, agl_strerror(error), agl_error_detail());
    return 1;
}

int main(int argc, char **argv)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client;
    struct agl_event event;
    int count = argc > 1 ? atoi(argv[1]) : 20, left, full = 0, refused = 0, err;

    if (count < 1 || count > JOBS_MAX)
        return fprintf(stderr, "Usage: many [1 to %d]\n", JOBS_MAX), 2;
    options.max_requests = IN_FLIGHT;
    if ((err = agl_connect(&client, &options)) < 0)
        return fail("cannot connect", err);

    for (left = count; left > 0;) {
        uint64_t now_ns = agl_now_ns();
        for (int i = 0; i < count; i++) {
            if (jobs[i].request || jobs[i].is_done || jobs[i].not_before_ns > now_ns)
                continue;
            if ((err = submit(client, (uint32_t)i)) == -EAGAIN) {
                full++;
                break; /* an event will make room */
            }
            if (err < 0)
                return fail("cannot submit", err);
        }

        if ((err = agl_wait(client, &event, LOOK_NS)) == -ETIMEDOUT || err == -EINTR)
            continue;
        if (err < 0)
            return fail("the connection is lost", err);
        struct job *job = find(event.request);
        if (event.kind == AGL_EVENT_TOKENS && event.index == 0)
            job->first = event.tokens[0].id;
        if (event.kind != AGL_EVENT_DONE)
            continue;
        if (event.reason == AGL_DONE_REFUSED && event.retry_after_ns) {
            refused++;
            job->request = 0;
            job->not_before_ns = agl_now_ns() + event.retry_after_ns;
            continue;
        }
        if (event.error < 0)
            return fprintf(stderr, "no answer: %s\n", agl_strerror(event.error)), 1;
        printf("job %d: %u tokens, the first is %u (%s)\n", (int)(job - jobs),
               event.generated_tokens, job->first, agl_reason_name(event.reason));
        job->is_done = 1;
        left--;
    }
    printf("%d answers; %d times no room, %d times refused\n", count, full, refused);
    agl_close(client);
    return 0;
}
