/* The engine on the echo model, turned by hand under a clock of the test's own. */
#include <errno.h>
#include <string.h>

#include "tests/support/engine_rig.h"
#include "tests/support/test.h"

static void echo_answers_with_the_prompt(void **state)
{
    (void)state;
    struct engine_rig rig;
    struct client_half client;
    rig_init(&rig);
    rig_open(&rig);
    client_half_open(&client, &CLIENT_HALF_GEOMETRY);
    rig_attach(&rig, &client);

    struct submission submission = client_half_request(&client, 17, 3, 5);
    client_half_submit(&client, &submission);
    struct event event = rig_expect(&rig, &client, EVENT_ACCEPTED, 17);
    assert_int_equal(event.accepted.prompt_tokens, 3);
    uint32_t ids[16], count;
    struct event done = rig_answer(&rig, &client, 17, ids, &count);
    assert_int_equal(count, 5);
    assert_memory_equal(ids, ((uint32_t[]){1, 2, 3, 1, 2}), 5 * sizeof *ids);
    assert_int_equal(done.reason, DONE_LENGTH);
    assert_int_equal(done.done.prompt_tokens, 3);

    rig_detach(&rig, &client);
    rig_close(&rig);
    client_half_close(&client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echo_answers_with_the_prompt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
