/*
 * What may come between any two steps of a client's wait: an event just after the last look at the
 * ring, a signal together with an event, a socket that cannot be polled or read.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "autoglm.h"
#include "client/private.h"
#include "tests/support/peer.h"
#include "tests/support/test.h"

enum { MS = 1000000 };

static struct peer peer;
static struct agl_client *client;
static uint32_t request;
static uint32_t sent; /* tokens */

static void send_token(void)
{
    peer_token(&peer, request, sent, sent);
    sent++;
}

/* ---- the moments ----------------------------------------------------------------------------- */

/* A call that comes back at once; is_armed: the next one. */
struct moment {
    bool is_armed;
    bool brings_event; /* which comes while the call is under way */
    int error;         /* positive */
    int calls;
};

static struct moment futex, poll_call, recv_call;
static int clock_calls_left; /* until the one during which an event comes; 0: none */

static bool has_come(struct moment *moment)
{
    moment->calls++;
    if (!moment->is_armed)
        return false;
    moment->is_armed = false;
    if (moment->brings_event)
        send_token();
    errno = moment->error;
    return true;
}

uint64_t __real_agl_now_ns(void);
uint64_t __wrap_agl_now_ns(void);
uint64_t __wrap_agl_now_ns(void)
{
    if (clock_calls_left && --clock_calls_left == 0)
        send_token();
    return __real_agl_now_ns();
}

int __real_doorbell_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
int __wrap_doorbell_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
int __wrap_doorbell_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    return has_come(&futex) ? -errno : __real_doorbell_wait(word, expected, timeout_ns);
}

int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask)
{
    return has_come(&poll_call) ? -1 : __real_ppoll(fds, count, timeout, mask);
}

ssize_t __real_recv(int fd, void *bytes, size_t count, int flags);
ssize_t __wrap_recv(int fd, void *bytes, size_t count, int flags);
ssize_t __wrap_recv(int fd, void *bytes, size_t count, int flags)
{
    return has_come(&recv_call) ? -1 : __real_recv(fd, bytes, count, flags);
}

/* ---- with a running request ------------------------------------------------------------------ */

static void submit(void)
{
    struct agl_request wanted = AGL_REQUEST_INIT;
    struct agl_event event;
    uint32_t *ids;
    wanted.prompt_tokens = 1;
    assert_int_equal(agl_prompt(client, 1, &ids), 0);
    assert_int_equal(agl_submit(client, &wanted, &request), 0);
    peer_accept(&peer, request, 1);
    assert_int_equal(agl_poll(client, &event), 1);
    assert_int_equal(agl_poll(client, &event), 0);
}

static void connect_in_mode(uint32_t mode, uint64_t spin_ns)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    peer_start(&peer, PEER_HONEST);
    options.socket_path = peer.path;
    options.wait_mode = mode;
    options.spin_ns = spin_ns;
    assert_int_equal(agl_connect(&client, &options), 0);
    peer_join(&peer);
    sent = 0;
    submit();
    futex = poll_call = recv_call = (struct moment){0};
    clock_calls_left = 0;
}

static int connect_sleeping(void **state)
{
    connect_in_mode(AGL_WAIT_SLEEP, 0);
    return 0;
}

static int leave(void **state)
{
    agl_close(client);
    peer_stop(&peer);
    return 0;
}

static void assert_token_comes(void)
{
    struct agl_event event;
    assert_int_equal(agl_wait(client, &event, 20000ULL * MS), 1);
    assert_int_equal(event.kind, AGL_EVENT_TOKENS);
    assert_int_equal(event.index, sent - 1);
    assert_int_equal(peer.client_words->sleep & DOORBELL_HOW_MASK, DOORBELL_NONE);
}

/* The first sleep is on the slot; this one ends without anything, so that one on the socket
 * follows.
 */
static void pass_first_sleep(void)
{
    futex = (struct moment){.is_armed = true, .error = ETIMEDOUT};
}

/* ---- events at the last moment --------------------------------------------------------------- */

static void an_event_before_the_announcement_is_not_slept_over(void **state)
{
    clock_calls_left = 2; /* the wait's beginning, and the time that is left for a sleep */
    assert_token_comes();
    assert_int_equal(futex.calls + poll_call.calls, 0);
}

static void nor_is_one_before_the_announcement_of_the_long_sleep(void **state)
{
    pass_first_sleep();
    clock_calls_left = 3;
    assert_token_comes();
    assert_int_equal(futex.calls, 1);
    assert_int_equal(poll_call.calls, 0);
}

/* What the client stores next into its half is the announcement: the page is made read-only, so
 * that a handler runs exactly before that store. */
static void send_before_the_announcement(int signal_number)
{
    mprotect(client->client_half.base, client->client_half.bytes, PROT_READ | PROT_WRITE);
    send_token();
}

static void nor_is_one_before_the_caller_sleeps_on_the_descriptor(void **state)
{
    struct agl_event event;
    struct sigaction action = {.sa_handler = send_before_the_announcement}, before;
    assert_true(agl_fd(client) >= 0);
    assert_int_equal(sigaction(SIGSEGV, &action, &before), 0);
    assert_int_equal(mprotect(client->client_half.base, client->client_half.bytes, PROT_READ), 0);
    int got = agl_poll(client, &event);
    sigaction(SIGSEGV, &before, NULL);
    assert_int_equal(sent, 1);
    assert_int_equal(got, 1);
    assert_int_equal(event.kind, AGL_EVENT_TOKENS);
    assert_int_equal(peer.client_words->sleep & DOORBELL_HOW_MASK, DOORBELL_NONE);
    assert_int_equal(agl_poll(client, &event), 0); /* now it is announced */
    assert_int_equal(peer.client_words->sleep & DOORBELL_HOW_MASK, DOORBELL_FD);
}

static void who_has_no_time_to_spin_sleeps_at_once(void **state)
{
    connect_in_mode(AGL_WAIT_ADAPTIVE, 1);
    client->spinner.likely = 0; /* as after a dozen late events */
    assert_int_equal(spinner_budget_ns(&client->spinner), 0);
    futex = (struct moment){.is_armed = true, .brings_event = true};
    assert_token_comes();
    assert_int_equal(futex.calls, 1);
    leave(NULL);
}

/* ---- signals --------------------------------------------------------------------------------- */

static void a_signal_that_comes_with_an_event_is_no_error(void **state)
{
    futex = (struct moment){.is_armed = true, .error = EINTR, .brings_event = true};
    assert_token_comes();
    pass_first_sleep();
    poll_call = (struct moment){.is_armed = true, .error = EINTR, .brings_event = true};
    assert_token_comes();
    assert_int_equal(poll_call.calls, 1);
}

static void a_signal_ends_either_sleep(void **state)
{
    struct agl_event event;
    futex = (struct moment){.is_armed = true, .error = EINTR};
    assert_int_equal(agl_wait(client, &event, 20000ULL * MS), -EINTR);
    pass_first_sleep();
    poll_call = (struct moment){.is_armed = true, .error = EINTR};
    assert_int_equal(agl_wait(client, &event, 20000ULL * MS), -EINTR);
    assert_int_equal(poll_call.calls, 1);
    assert_int_equal(peer.client_words->sleep & DOORBELL_HOW_MASK, DOORBELL_NONE);
}

/* ---- the socket ------------------------------------------------------------------------------ */

static void a_socket_that_cannot_be_polled_is_slept_beside(void **state)
{
    pass_first_sleep();
    poll_call = (struct moment){.is_armed = true, .error = ENOMEM};
    clock_calls_left = 3 + 1; /* after that sleep on the slot too */
    assert_token_comes();
    assert_int_equal(futex.calls, 2);
}

static void a_sleep_on_the_socket_ends_in_time(void **state)
{
    struct agl_event event;
    pass_first_sleep();
    uint64_t start_ns = agl_now_ns();
    assert_int_equal(agl_wait(client, &event, 15ULL * MS), -ETIMEDOUT);
    assert_true(agl_now_ns() - start_ns >= 15ULL * MS);
    assert_true(poll_call.calls >= 1);
}

static void a_socket_that_cannot_be_read_now_is_no_death(void **state)
{
    struct agl_event event;
    recv_call = (struct moment){.is_armed = true, .error = EINTR};
    assert_int_equal(agl_wait(client, &event, 0), -ETIMEDOUT);
    assert_int_equal(recv_call.calls, 1);
    send_token();
    assert_token_comes();
    recv_call = (struct moment){.is_armed = true, .error = ECONNRESET};
    assert_int_equal(agl_wait(client, &event, 0), -EPIPE);
}

static void a_flood_of_packets_does_not_keep_us(void **state)
{
    enum { FLOOD = 20, AT_ONCE = 16 };
    struct message_wake wake = {.header = MESSAGE_INIT(MESSAGE_WAKE, struct message_wake)};
    struct agl_event event;
    for (int i = 0; i < FLOOD; i++)
        assert_int_equal(send(peer.socket_fd, &wake, sizeof wake, MSG_DONTWAIT), sizeof wake);
    assert_int_equal(agl_wait(client, &event, 0), -ETIMEDOUT);
    assert_int_equal(recv_call.calls, AT_ONCE);
    assert_int_equal(agl_wait(client, &event, 0), -ETIMEDOUT);
    assert_int_equal(recv_call.calls, FLOOD + 1);
}

int main(void)
{
#define SLEEPING(test) cmocka_unit_test_setup_teardown(test, connect_sleeping, leave)
    const struct CMUnitTest tests[] = {
        SLEEPING(an_event_before_the_announcement_is_not_slept_over),
        SLEEPING(nor_is_one_before_the_announcement_of_the_long_sleep),
        SLEEPING(nor_is_one_before_the_caller_sleeps_on_the_descriptor),
        cmocka_unit_test(who_has_no_time_to_spin_sleeps_at_once),
        SLEEPING(a_signal_that_comes_with_an_event_is_no_error),
        SLEEPING(a_signal_ends_either_sleep),
        SLEEPING(a_socket_that_cannot_be_polled_is_slept_beside),
        SLEEPING(a_sleep_on_the_socket_ends_in_time),
        SLEEPING(a_socket_that_cannot_be_read_now_is_no_death),
        SLEEPING(a_flood_of_packets_does_not_keep_us),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
