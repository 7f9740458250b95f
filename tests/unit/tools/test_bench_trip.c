/* What a trip makes of the daemon's answer. A stand-in for the daemon tells times that differ. */
#include <pthread.h>
#include <sched.h>

#include "tests/support/peer.h"
#include "tests/support/test.h"
#include "tools/bench_trip.h"

enum { QUEUED_US = 5000, PROMPT_US = 300 };

static struct peer peer;
static struct agl_client *client;
static const struct trip_request one_token = {.prompt_tokens = 1};

static int connect_to_peer(void **state)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    peer_start(&peer, PEER_HONEST);
    options.socket_path = peer.path;
    assert_int_equal(agl_connect(&client, &options), 0);
    peer_join(&peer);
    return 0;
}

static int leave_peer(void **state)
{
    agl_close(client);
    peer_stop(&peer);
    return 0;
}

static uint32_t take_request(void)
{
    struct submission submission;
    while (peer_take(&peer, &submission) != 0)
        sched_yield();
    return submission.request;
}

static void send_done(uint32_t request)
{
    peer_send(&peer, &(struct event){.kind = EVENT_DONE,
                                     .reason = DONE_LENGTH,
                                     .request = request,
                                     .index = 1,
                                     .done = {.prompt_tokens = 1,
                                              .generated_tokens = 1,
                                              .queued_us = QUEUED_US,
                                              .prompt_us = PROMPT_US}});
}

static void *answer_after_a_queue(void *argument)
{
    uint32_t request = take_request();
    peer_accept(&peer, request, 1);
    peer_token(&peer, request, 0, 7);
    send_done(request);
    return NULL;
}

static void *answer_with_times(void *argument)
{
    uint32_t request = take_request();
    uint64_t taken_ns = agl_now_ns();
    peer_send(&peer, &(struct event){.kind = EVENT_ACCEPTED,
                                     .request = request,
                                     .accepted = {.taken_ns = taken_ns,
                                                  .prompt_tokens = 1,
                                                  .published_ns = taken_ns + 1234}});
    peer_token(&peer, request, 0, 7);
    send_done(request);
    return NULL;
}

static void the_step_is_without_the_time_in_the_queue(void **state)
{
    struct trip trip = {0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer_after_a_queue, NULL), 0);
    uint64_t start_ns = agl_now_ns();
    assert_int_equal(trip_make(client, &one_token, &trip), 0);
    int64_t took_ns = (int64_t)(agl_now_ns() - start_ns);
    pthread_join(thread, NULL);
    assert_int_equal(trip.step_ns, PROMPT_US * 1000);
    assert_true(trip.rest_ns >= -PROMPT_US * 1000 && trip.rest_ns <= took_ns - PROMPT_US * 1000);
    assert_true(trip.first_event > 0 && trip.first_event <= trip.first_token);
}

static void the_parts_are_those_that_the_daemon_tells(void **state)
{
    struct trip_parts parts = {0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer_with_times, NULL), 0);
    assert_int_equal(trip_make_parts(client, &one_token, &parts), 0);
    pthread_join(thread, NULL);
    assert_int_equal(parts.published, 1234);
    assert_true(parts.taken > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_step_is_without_the_time_in_the_queue, connect_to_peer,
                                        leave_peer),
        cmocka_unit_test_setup_teardown(the_parts_are_those_that_the_daemon_tells, connect_to_peer,
                                        leave_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
