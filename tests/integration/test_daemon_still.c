/*
 * A daemon that only stands still (SIGSTOP) is not dead: nobody is told so, and nobody waits who
 * has not asked for it, whatever the call.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/integration/daemon.h"
#include "tests/support/test.h"

enum { MS = 1000000 };
static const uint64_t patience_ns = 60000ull * MS;

static void sleep_ns(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

/* A call that returns at once, on a machine that is busy with other things. */
static const uint64_t at_once_ns = 200ull * MS;

static void assert_took(uint64_t start_ns, uint64_t least_ns, const char *what)
{
    uint64_t took_ns = agl_now_ns() - start_ns;
    if (took_ns < least_ns || took_ns > least_ns + 10 * at_once_ns)
        fail_msg("%s took %.1f ms, should be %.1f", what, (double)took_ns * 1e-6,
                 (double)least_ns * 1e-6);
}

static struct agl_client *connect_waiting(const struct daemon *daemon, uint32_t wait_mode)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = daemon->socket_path;
    options.wait_mode = wait_mode;
    options.max_requests = 1024; /* more than the ring has slots */
    options.prompt_tokens = 65536;
    assert_int_equal(agl_connect(&client, &options), 0);
    return client;
}

static int submit_one(struct agl_client *client, uint32_t *ret_id)
{
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t *place;
    int err = agl_prompt(client, 1, &place);
    if (err < 0)
        return err;
    place[0] = 1;
    request.prompt_tokens = 1;
    request.max_tokens = 1;
    return agl_submit(client, &request, ret_id);
}

/* The slowest of the calls that fill the ring of a daemon that takes nothing. */
static uint32_t fill_ring(struct agl_client *client, uint32_t *ret_id)
{
    uint32_t count = 0;
    int err;
    do {
        uint64_t start_ns = agl_now_ns();
        err = submit_one(client, ret_id);
        assert_took(start_ns, 0, "agl_submit()");
        count += err == 0;
    } while (err == 0);
    assert_int_equal(err, -EAGAIN);
    return count;
}

static void check_waits(const struct daemon *daemon, struct agl_client *client)
{
    struct agl_event event;
    static const uint64_t timeouts_ns[] = {0, 1 * MS, 50 * MS, 250 * MS};
    for (size_t i = 0; i < sizeof timeouts_ns / sizeof *timeouts_ns; i++) {
        uint64_t start_ns = agl_now_ns();
        assert_int_equal(agl_wait(client, &event, timeouts_ns[i]), -ETIMEDOUT);
        assert_took(start_ns, timeouts_ns[i], "agl_wait()");
    }
    for (int i = 0; i < 50; i++) { /* for longer than the heartbeat is believed */
        uint64_t start_ns = agl_now_ns();
        assert_int_equal(agl_poll(client, &event), 0);
        assert_took(start_ns, 0, "agl_poll()");
        sleep_ns(5 * MS);
    }
}

static void check_connect(const struct daemon *daemon)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = daemon->socket_path;
    options.timeout_ns = 100 * MS;
    uint64_t start_ns = agl_now_ns();
    assert_int_equal(agl_connect(&client, &options), -ETIMEDOUT);
    assert_took(start_ns, options.timeout_ns, "agl_connect()");
}

static void stand_still(const struct daemon *daemon)
{
    int status = 0;
    kill(daemon->pid, SIGSTOP);
    assert_int_equal(waitpid(daemon->pid, &status, WUNTRACED), daemon->pid);
    assert_true(WIFSTOPPED(status));
}

static void a_daemon_that_stands_still_keeps_nobody_waiting(void **state)
{
    struct daemon daemon;
    struct agl_status status;
    struct agl_client *clients[3];
    uint32_t ids[3], filled[3];
    static const char *const flags[] = {"--model", "echo=echo:", NULL};
    daemon_start(&daemon, flags);
    for (uint32_t mode = 0; mode < 3; mode++)
        clients[mode] = connect_waiting(&daemon, mode);
    stand_still(&daemon);
    for (uint32_t mode = 0; mode < 3; mode++) {
        filled[mode] = fill_ring(clients[mode], &ids[mode]);
        check_waits(&daemon, clients[mode]);
        uint64_t start_ns = agl_now_ns();
        assert_int_equal(agl_cancel(clients[mode], ids[mode]), -EAGAIN);
        assert_int_equal(agl_set_priority(clients[mode], ids[mode], 0), -EAGAIN);
        assert_int_equal(agl_request_state(clients[mode], ids[mode], NULL), AGL_REQUEST_SUBMITTED);
        assert_int_equal(agl_status(clients[mode], &status), 0);
        assert_took(start_ns, 0, "what asks for nothing");
        check_connect(&daemon);
    }
    uint64_t start_ns = agl_now_ns();
    agl_close(clients[0]);
    assert_took(start_ns, 0, "agl_close()");

    /* It was no death: what was submitted meanwhile is answered. */
    kill(daemon.pid, SIGCONT);
    for (uint32_t mode = 1; mode < 3; mode++) {
        struct agl_event event;
        uint32_t done = 0;
        while (done < filled[mode]) {
            assert_int_equal(agl_wait(clients[mode], &event, patience_ns), 1);
            done += event.kind == AGL_EVENT_DONE;
        }
        agl_close(clients[mode]);
    }
    printf("%u submissions filled the ring of a daemon that stood still\n", filled[0]);
    daemon_wait_quiet(&daemon);
    assert_int_equal(daemon_stop(&daemon), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_daemon_that_stands_still_keeps_nobody_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
