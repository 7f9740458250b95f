/*
 * An epoll loop of one's own: events of the daemon beside a timer, in one thread that never blocks
 * anywhere else. Each tick of the timer submits a request; answers are printed as they end.
 *
 *   cc epoll.c $(pkg-config --cflags --libs autoglm) -o epoll
 *   ./epoll
 */
#define _POSIX_C_SOURCE 200809L
#include <autoglm.h>
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { REQUESTS = 5, TOKENS = 6 };

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

static int watch(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int main(void)
{
    const struct itimerspec in_20_ms = {{0, 0}, {0, 20 * 1000 * 1000}};
    struct agl_client *client;
    uint64_t expired;
    int err, woken = 0;

    if ((err = agl_connect(&client, NULL)) < 0)
        return fail("cannot connect", err);
    int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (timer_fd < 0 || epoll_fd < 0 || timerfd_settime(timer_fd, 0, &in_20_ms, NULL) < 0)
        return perror("timer or epoll"), 1;
    int fd = agl_fd(client);
    if ((err = watch(epoll_fd, fd)) < 0 || (err = watch(epoll_fd, timer_fd)) < 0)
        return fail("epoll_ctl", err);

    while (answers < REQUESTS) {
        struct epoll_event ready;
        if ((err = read_events(client)) < 0)
            return fail("the connection is lost", err);
        if (answers == REQUESTS)
            break;
        int count = epoll_wait(epoll_fd, &ready, 1, -1);
        if (count < 0 && errno != EINTR)
            return perror("epoll_wait"), 1;
        woken++;
        if (count < 1 || ready.data.fd != timer_fd ||
            read(timer_fd, &expired, sizeof expired) < (ssize_t)sizeof expired)
            continue;
        if ((err = submit(client)) < 0)
            return fail("cannot submit", err);
        if (ticks < REQUESTS && timerfd_settime(timer_fd, 0, &in_20_ms, NULL) < 0)
            return perror("timerfd_settime"), 1;
    }
    printf("%u answers, woken %d times\n", answers, woken);
    close(epoll_fd);
    close(timer_fd);
    agl_close(client);
    return 0;
}
