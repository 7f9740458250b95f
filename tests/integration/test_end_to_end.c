/* The real daemon, the real library, and the memory between them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/private.h"
#include "tests/integration/daemon.h"
#include "tests/support/test.h"

static const char *const echo_flags[] = {"--model", "echo=echo:", NULL};

static const uint64_t second_ns = 1000000000;

static struct agl_request echo_request(uint32_t max_tokens)
{
    struct agl_request request = AGL_REQUEST_INIT;
    request.max_tokens = max_tokens;
    return request;
}

static void an_answer_comes_back(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {5, 6, 7};
    uint32_t answer[8];
    daemon_start(&daemon, echo_flags);
    struct agl_client *client = daemon_connect(&daemon);
    assert_int_equal(agl_model_count(client), 1);
    assert_int_equal(agl_model_find(client, "echo"), 0);
    assert_int_equal(agl_model_find(client, "other"), -ENOENT);

    struct agl_event done = daemon_ask(client, echo_request(5), prompt, 3, answer, 8);
    assert_int_equal(done.reason, AGL_DONE_LENGTH);
    assert_int_equal(done.prompt_tokens, 3);
    const uint32_t expected[] = {5, 6, 7, 5, 6};
    assert_memory_equal(answer, expected, sizeof expected);
    agl_close(client);
    daemon_wait_quiet(&daemon);
    assert_int_equal(daemon_stop(&daemon), 0);
}

static void a_conversation_goes_on_where_it_ended(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {1, 2};
    uint32_t answer[8];
    daemon_start(&daemon, echo_flags);
    struct agl_client *client = daemon_connect(&daemon);
    struct agl_request request = echo_request(2);
    request.flags = AGL_KEEP;
    uint32_t id = 0;
    for (int turn = 0; turn < 5; turn++) {
        request.continues = id;
        struct agl_event done = daemon_ask(client, request, prompt, 2, answer, 8);
        assert_int_equal(done.reason, AGL_DONE_LENGTH);
        assert_int_equal(done.prompt_tokens, 4 * turn + 2);
        id = done.request;
    }
    assert_int_equal(agl_forget(client, id), 0);
    assert_int_equal(agl_forget(client, id), -ENOENT);
    request.continues = id;
    uint32_t *place = NULL;
    assert_int_equal(agl_prompt(client, 1, &place), 0);
    request.prompt_tokens = 1;
    assert_int_equal(agl_submit(client, &request, &id), -ENOENT);
    agl_close(client);
    daemon_wait_quiet(&daemon);
    assert_int_equal(daemon_stop(&daemon), 0);
}

static void many_requests_are_in_flight_at_once(void **state)
{
    enum { CLIENTS = 8, REQUESTS = 32 };
    struct daemon daemon;
    struct agl_client *clients[CLIENTS];
    daemon_start(&daemon, echo_flags);
    for (int c = 0; c < CLIENTS; c++) {
        clients[c] = daemon_connect(&daemon);
        for (uint32_t r = 0; r < REQUESTS; r++) {
            uint32_t prompt[] = {(uint32_t)c, r};
            daemon_submit(clients[c], echo_request(4 + r % 5), prompt, 2);
        }
    }
    for (int c = 0; c < CLIENTS; c++) {
        int done = 0;
        uint32_t tokens = 0;
        while (done < REQUESTS) {
            struct agl_event event;
            assert_int_equal(agl_wait(clients[c], &event, 20 * second_ns), 1);
            for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++) {
                if ((event.index + i) % 2 == 0)
                    assert_int_equal(event.tokens[i].id, c);
                tokens++;
            }
            if (event.kind == AGL_EVENT_DONE) {
                assert_int_equal(event.reason, AGL_DONE_LENGTH);
                done++;
            }
        }
        uint32_t expected = 0;
        for (uint32_t r = 0; r < REQUESTS; r++)
            expected += 4 + r % 5;
        assert_int_equal(tokens, expected);
        agl_close(clients[c]);
    }
    daemon_wait_quiet(&daemon);
    assert_int_equal(daemon_stop(&daemon), 0);
}

static void a_cancelled_request_says_so(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {9};
    struct agl_event event = {0};
    daemon_start(&daemon, echo_flags);
    struct agl_client *client = daemon_connect(&daemon);
    uint32_t id = daemon_submit(client, echo_request(30000), prompt, 1);
    while (event.kind != AGL_EVENT_TOKENS)
        assert_int_equal(agl_wait(client, &event, 5 * second_ns), 1);
    assert_int_equal(agl_cancel(client, id), 0);
    while (event.kind != AGL_EVENT_DONE)
        assert_int_equal(agl_wait(client, &event, 5 * second_ns), 1);
    assert_int_equal(event.reason, AGL_DONE_CANCELLED);
    assert_int_equal(agl_cancel(client, id), -ENOENT);
    agl_close(client);
    daemon_wait_quiet(&daemon);
    assert_int_equal(daemon_stop(&daemon), 0);
}

static void a_deadline_ends_an_answer(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {9};
    static uint32_t answer[32000];
    daemon_start(&daemon, echo_flags);
    struct agl_client *client = daemon_connect(&daemon);
    struct agl_request request = echo_request(30000);
    request.deadline_ns = agl_now_ns() + 3000000;
    struct agl_event done = daemon_ask(client, request, prompt, 1, answer, 32000);
    assert_int_equal(done.reason, AGL_DONE_DEADLINE);
    request.deadline_ns = agl_now_ns() - 1;
    done = daemon_ask(client, request, prompt, 1, answer, 32000);
    assert_int_equal(done.reason, AGL_DONE_DEADLINE);
    assert_int_equal(done.generated_tokens, 0);
    agl_close(client);
    assert_int_equal(daemon_stop(&daemon), 0);
}

static void a_descriptor_tells_of_events(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {3, 4};
    struct agl_event event = {0};
    daemon_start(&daemon, echo_flags);
    struct agl_client *client = daemon_connect(&daemon);
    struct pollfd waiting = {.fd = agl_fd(client), .events = POLLIN};
    assert_true(waiting.fd >= 0);
    for (int round = 0; round < 200; round++) {
        daemon_submit(client, echo_request(3), prompt, 2);
        uint32_t tokens = 0;
        do {
            int got = agl_poll(client, &event);
            assert_true(got >= 0);
            if (got == 0)
                assert_int_equal(poll(&waiting, 1, 5000), 1);
            else if (event.kind == AGL_EVENT_TOKENS)
                tokens += event.token_count;
        } while (event.kind != AGL_EVENT_DONE);
        assert_int_equal(tokens, 3);
        event.kind = 0;
    }
    agl_close(client);
    assert_int_equal(daemon_stop(&daemon), 0);
}

static void every_way_of_waiting_works(void **state)
{
    static const char *const modes[] = {"spin", "adaptive", "sleep"};
    const uint32_t prompt[] = {3};
    uint32_t answer[4];
    for (uint32_t theirs = 0; theirs < 3; theirs++) {
        struct daemon daemon;
        const char *const flags[] = {"--model", "echo=echo:", "--wait", modes[theirs], NULL};
        daemon_start(&daemon, flags);
        for (uint32_t ours = 0; ours < 3; ours++) {
            struct agl_options options = AGL_OPTIONS_INIT;
            struct agl_client *client = NULL;
            options.socket_path = daemon.socket_path;
            options.wait_mode = ours;
            assert_int_equal(agl_connect(&client, &options), 0);
            for (int i = 0; i < 300; i++)
                daemon_ask(client, echo_request(2), prompt, 1, answer, 4);
            agl_close(client);
        }
        assert_int_equal(daemon_stop(&daemon), 0);
    }
}

static void nonsense_ends_its_own_session_only(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {8};
    uint32_t answer[4];
    daemon_start(&daemon, echo_flags);
    struct agl_client *good = daemon_connect(&daemon);
    unsigned seed = 3;
    for (int round = 0; round < 50; round++) {
        struct agl_client *bad = daemon_connect(&daemon);
        struct agl_event event = {0};
        uint32_t slot[SUBMISSION_SLOT_BYTES / 4];
        for (size_t i = 0; i < sizeof slot / sizeof slot[0]; i++)
            slot[i] = (uint32_t)rand_r(&seed) * 2654435761u;
        ((uint8_t *)slot)[4] = 77; /* no such operation */
        assert_int_equal(ring_push(&bad->submissions, slot), 0);
        daemon_submit(bad, echo_request(1), prompt, 1); /* rings the bell if it has to */
        while (event.kind != AGL_EVENT_SHUTDOWN)
            assert_int_equal(agl_wait(bad, &event, 5 * second_ns), 1);
        assert_int_equal(event.error, -EPROTO);
        struct agl_event done = daemon_ask(good, echo_request(2), prompt, 1, answer, 4);
        assert_int_equal(done.reason, AGL_DONE_LENGTH);
        agl_close(bad);
    }
    struct agl_status status = {0};
    for (int i = 0; i < 500 && status.sessions_broken < 50; i++) { /* the control thread counts */
        assert_int_equal(agl_status(good, &status), 0);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    assert_int_equal(status.sessions_broken, 50);
    agl_close(good);
    daemon_wait_quiet(&daemon);
    assert_int_equal(daemon_stop(&daemon), 0);
}

static void a_stopping_daemon_tells_everybody(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {8};
    const char *const flags[] = {"--model", "echo=echo:", "--drain-ms", "50", NULL};
    struct agl_event event = {0};
    daemon_start(&daemon, flags);
    struct agl_client *client = daemon_connect(&daemon);
    /* Not read until the ring is full: so it is still running when the signal comes. */
    daemon_submit(client, echo_request(30000), prompt, 1);
    assert_int_equal(agl_wait(client, &event, 5 * second_ns), 1);
    kill(daemon.pid, SIGTERM);
    int status = 0;
    bool was_told = false;
    bool was_ended = false;
    for (;;) {
        int got = agl_wait(client, &event, 10 * second_ns);
        if (got < 0) {
            assert_int_equal(got, -EPIPE);
            break;
        }
        if (event.kind == AGL_EVENT_DONE)
            was_ended = true;
        if (event.kind == AGL_EVENT_SHUTDOWN) {
            assert_int_equal(event.error, -ESHUTDOWN);
            was_told = true;
        }
    }
    assert_true(was_ended);
    assert_true(was_told);
    agl_close(client);
    assert_int_equal(waitpid(daemon.pid, &status, 0), daemon.pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(access(daemon.socket_path, F_OK), -1);
    test_remove_folder(daemon.folder);
}

static void a_dead_daemon_is_noticed(void **state)
{
    struct daemon daemon;
    const uint32_t prompt[] = {8};
    struct agl_event event = {0};
    daemon_start(&daemon, echo_flags);
    struct agl_client *client = daemon_connect(&daemon);
    daemon_submit(client, echo_request(30000), prompt, 1);
    daemon_kill(&daemon);
    uint64_t start_ns = agl_now_ns();
    int got = 1;
    while (got > 0)
        got = agl_wait(client, &event, UINT64_MAX);
    assert_int_equal(got, -EPIPE);
    assert_true(agl_now_ns() - start_ns < second_ns);
    struct agl_request request = echo_request(1);
    uint32_t *place = NULL;
    uint32_t id = 0;
    if (agl_prompt(client, 1, &place) == 0) {
        request.prompt_tokens = 1;
        assert_int_equal(agl_submit(client, &request, &id), -EPIPE);
    }
    agl_close(client);
}

static void the_named_board_tells_the_state(void **state)
{
    struct daemon daemon;
    struct agl_status status;
    struct agl_model models[4];
    daemon_start(&daemon, echo_flags);
    assert_int_equal(agl_status_of(daemon.instance, &status, models, 4), 0);
    assert_int_equal(status.daemon_pid, daemon.pid);
    assert_int_equal(status.model_count, 1);
    assert_string_equal(models[0].name, "echo");
    assert_int_equal(daemon_stop(&daemon), 0);
    assert_int_equal(agl_status_of(daemon.instance, &status, models, 4), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_comes_back),
        cmocka_unit_test(a_conversation_goes_on_where_it_ended),
        cmocka_unit_test(many_requests_are_in_flight_at_once),
        cmocka_unit_test(a_cancelled_request_says_so),
        cmocka_unit_test(a_deadline_ends_an_answer),
        cmocka_unit_test(a_descriptor_tells_of_events),
        cmocka_unit_test(every_way_of_waiting_works),
        cmocka_unit_test(nonsense_ends_its_own_session_only),
        cmocka_unit_test(a_stopping_daemon_tells_everybody),
        cmocka_unit_test(a_dead_daemon_is_noticed),
        cmocka_unit_test(the_named_board_tells_the_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
