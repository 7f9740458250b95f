/*
 * Four ends of an answer: a first token that would come too late, an answer cut at its deadline,
 * one that somebody cancels from outside, and one that is complete. Ctrl-C cancels what runs.
 *
 *   cc deadline.c $(pkg-config --cflags --libs autoglm) -o deadline
 *   ./deadline
 */
#define _XOPEN_SOURCE 700
#include <autoglm.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>

enum { MS = 1000 * 1000, LOOK_NS = 100 * MS };

static volatile sig_atomic_t is_interrupted;

static void interrupt(int signal_number)
{
    (void)signal_number;
    is_interrupted = 1;
}

static int fail(const char *doing, int error)
{
    fprintf(stderr, "%s: %s: %s\n", doing, agl_strerror(error), agl_error_detail());
    return 1;
}

/* Submits and waits for the end, which it prints. */
static int run(struct agl_client *client, const char *what, struct agl_request *request)
{
    struct agl_event event = {0};
    uint32_t *place, id;
    int is_cancelled = 0, err = agl_prompt(client, request->prompt_tokens, &place);
    if (err < 0)
        return err;
    for (uint32_t i = 0; i < request->prompt_tokens; i++)
        place[i] = 400 + i % 100;
    if ((err = agl_submit(client, request, &id)) < 0)
        return err;
    while (event.kind != AGL_EVENT_DONE) {
        /* A signal ends a sleep with -EINTR; one that comes just before it is seen at the next
         * look. */
        err = agl_wait(client, &event, LOOK_NS);
        if (err < 0 && err != -EINTR && err != -ETIMEDOUT)
            return err;
        if (is_interrupted && !is_cancelled && agl_cancel(client, id) == 0)
            is_cancelled = 1; /* tokens under way still come, then AGL_EVENT_DONE */
    }
    is_interrupted = 0;
    printf("%s: %s, %u tokens; queued %.1f ms, prompt %.1f ms, answer %.1f ms\n", what,
           agl_reason_name(event.reason), event.generated_tokens, (double)event.queued_ns / MS,
           (double)event.prompt_ns / MS, (double)event.generate_ns / MS);
    if (event.error < 0)
        printf("  %s\n", agl_strerror(event.error));
    return 0;
}

int main(void)
{
    const struct itimerval in_20_ms = {{0, 0}, {0, 20 * 1000}};
    struct sigaction action = {.sa_handler = interrupt}; /* without SA_RESTART */
    struct agl_request request = AGL_REQUEST_INIT;
    struct agl_client *client;
    int err;

    if ((err = agl_connect(&client, NULL)) < 0)
        return fail("cannot connect", err);
    if (sigaction(SIGINT, &action, NULL) < 0 || sigaction(SIGALRM, &action, NULL) < 0)
        return perror("sigaction"), 1;
    request.flags = AGL_IGNORE_EOS;

    /* A long prompt, which nobody reads in a millisecond. */
    request.prompt_tokens = 900;
    request.first_token_deadline_ns = agl_now_ns() + 1 * MS;
    if ((err = run(client, "first token within 1 ms", &request)) < 0)
        return fail("first token within 1 ms", err);

    request.prompt_tokens = 3;
    request.max_tokens = 1000;
    request.first_token_deadline_ns = 0;
    request.deadline_ns = agl_now_ns() + 30 * MS;
    if ((err = run(client, "everything within 30 ms", &request)) < 0)
        return fail("everything within 30 ms", err);

    request.deadline_ns = 0;
    if (setitimer(ITIMER_REAL, &in_20_ms, NULL) < 0)
        return perror("setitimer"), 1;
    if ((err = run(client, "interrupted after 20 ms", &request)) < 0)
        return fail("interrupted after 20 ms", err);

    request.max_tokens = 20;
    request.deadline_ns = agl_now_ns() + 60000ULL * MS;
    if ((err = run(client, "everything within a minute", &request)) < 0)
        return fail("everything within a minute", err);
    agl_close(client);
    return 0;
}
