/*
 * An io_uring loop of one's own: the program of epoll.c, with a multishot poll on agl_fd() and a
 * timeout in one ring.
 *
 *   cc uring.c $(pkg-config --cflags --libs autoglm liburing) -o uring
 *   ./uring
 */
#define _GNU_SOURCE /* for liburing.h */
#include <autoglm.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>

enum { REQUESTS = 5, TOKENS = 6, DAEMON = 1, TIMER = 2 };

static uint32_t ticks, answers;

static int fail(const char *doing, int error)
{
    fprintf(stderr, "%s: %s: %s\n", doing, agl_strerror(error), agl_error_detail());
    return 1;
}

static int submit(struct agl_client *client)
{
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *place, id;
    int err = agl_prompt(client, 2, &place);
    if (err < 0)
        return err;
    place[0] = ++ticks, place[1] = 403;
    request.prompt_tokens = 2;
    request.max_tokens = TOKENS;
    err = agl_submit(client, &request, &id);
    if (err == 0)
        printf("tick %u: request %u\n", ticks, id);
    return err;
}

/* Reads events until there are none: only then may the loop sleep on agl_fd() again. */
static int read_events(struct agl_client *client)
{
    struct agl_event event;
    int got;
    while ((got = agl_poll(client, &event)) == 1) {
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++)
            printf("request %u: token %u is %u\n", event.request, event.index + i,
                   event.tokens[i].id);
        if (event.kind == AGL_EVENT_DONE && event.error < 0)
            printf("request %u: %s\n", event.request, agl_strerror(event.error));
        answers += event.kind == AGL_EVENT_DONE;
    }
    return got;
}

/* The ring is large enough for both, so there is always a free entry. */
static void arm(struct io_uring *ring, int what, int fd)
{
    static struct __kernel_timespec interval = {.tv_nsec = 20 * 1000 * 1000};
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (what == DAEMON)
        io_uring_prep_poll_multishot(sqe, fd, POLLIN);
    else
        io_uring_prep_timeout(sqe, &interval, 0, 0);
    io_uring_sqe_set_data64(sqe, (uint64_t)what);
}

int main(void)
{
    struct agl_client *client;
    struct io_uring ring;
    struct io_uring_cqe *cqe;
    int err, woken = 0;

    if ((err = agl_connect(&client, NULL)) < 0)
        return fail("cannot connect", err);
    if ((err = io_uring_queue_init(8, &ring, 0)) < 0)
        return fail("io_uring_queue_init", err);
    int fd = agl_fd(client);
    arm(&ring, DAEMON, fd);
    arm(&ring, TIMER, -1);

    while (answers < REQUESTS) {
        if ((err = read_events(client)) < 0)
            return fail("the connection is lost", err);
        if (answers == REQUESTS)
            break;
        if ((err = io_uring_submit_and_wait(&ring, 1)) < 0 && err != -EINTR)
            return fail("io_uring_submit_and_wait", err);
        while (io_uring_peek_cqe(&ring, &cqe) == 0) {
            int what = (int)io_uring_cqe_get_data64(cqe), result = cqe->res;
            int is_over = !(cqe->flags & IORING_CQE_F_MORE); /* a multishot poll may end */
            io_uring_cqe_seen(&ring, cqe);
            woken++;
            if (result < 0 && result != -ETIME)
                return fail(what == DAEMON ? "poll" : "timeout", result);
            if (what == TIMER && (err = submit(client)) < 0)
                return fail("cannot submit", err);
            if (is_over && (what == DAEMON || ticks < REQUESTS))
                arm(&ring, what, fd);
        }
    }
    printf("%u answers, woken %d times\n", answers, woken);
    io_uring_queue_exit(&ring);
    agl_close(client);
    return 0;
}
