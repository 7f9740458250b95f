#include "autoglm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/peer.h"
#include "tests/support/test.h"

static struct peer peer;
static struct agl_client *client;

static int connect_to_peer(void **state)
{
    peer_start(&peer, PEER_HONEST);
    struct agl_options options = AGL_OPTIONS_INIT;
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

static void models_are_as_the_board_says(void **state)
{
    struct agl_model model;
    assert_int_equal(agl_model_count(client), 2);
    assert_int_equal(agl_model(client, 0, &model), 0);
    assert_string_equal(model.name, "echo");
    assert_string_equal(model.architecture, "EchoModel");
    assert_string_equal(model.folder, "/nowhere");
    assert_int_equal(model.vocab_size, PEER_VOCAB_SIZE);
    assert_int_equal(model.context_tokens, PEER_CONTEXT_TOKENS);
    assert_int_equal(model.eos_count, 2);
    assert_int_equal(model.eos_ids[1], 2);
    assert_int_equal(model.weights_bytes, 4096);
    assert_int_equal(model.bytes_per_token, 2048);
    assert_int_equal(model.blocks_free, 63);
    assert_int_equal(model.steps, 12);
    peer.board->models[0].blocks_free = 9;
    assert_int_equal(agl_model(client, 0, &model), 0);
    assert_int_equal(model.blocks_free, 9);
}

static void a_model_that_is_not_there_is_refused(void **state)
{
    struct agl_model model = {.vocab_size = 123};
    assert_int_equal(agl_model(client, 2, &model), -EINVAL);
    assert_int_equal(agl_model(client, UINT32_MAX, &model), -EINVAL);
    assert_int_equal(model.vocab_size, 123);
}

static void a_model_is_found_by_name_and_the_others_are_listed(void **state)
{
    assert_int_equal(agl_model_find(client, "other-model"), 1);
    assert_int_equal(agl_model_find(client, NULL), 0);
    assert_int_equal(agl_model_find(client, "glm-5"), -ENOENT);
    assert_string_equal(agl_error_detail(), "no model glm-5: the daemon holds echo, other-model");
}

static void a_hostile_board_cannot_lead_us_out_of_it(void **state)
{
    struct agl_model model;
    struct agl_status status;
    peer.board->model_count = UINT32_MAX; /* after the handshake: nobody looks there again */
    assert_int_equal(agl_model_count(client), 2);
    assert_int_equal(agl_model(client, 2, &model), -EINVAL);
    memset(peer.board->models[0].name, 'n', sizeof peer.board->models[0].name);
    memset(peer.board->models[0].folder, 'f', sizeof peer.board->models[0].folder);
    peer.board->models[0].eos_count = 4000000000u;
    assert_int_equal(agl_model(client, 0, &model), 0);
    assert_int_equal(strlen(model.name), 63);
    assert_int_equal(strlen(model.folder), 255);
    assert_int_equal(model.eos_count, AGL_EOS_MAX);
    memset(peer.board->instance, 'i', sizeof peer.board->instance);
    assert_int_equal(agl_status(client, &status), 0);
    assert_int_equal(strlen(status.instance), 31);
    assert_int_equal(status.model_count, 2);
}

static void the_state_is_read_from_the_board(void **state)
{
    struct agl_status status;
    peer.board->heartbeat_ns = 99;
    assert_int_equal(agl_status(client, &status), 0);
    assert_string_equal(status.instance, "peer");
    assert_string_equal(status.daemon_version, "0.1.0");
    assert_string_equal(status.backend, "none");
    assert_int_equal(status.state, AGL_STATE_SERVING);
    assert_int_equal(status.daemon_pid, getpid());
    assert_int_equal(status.start_ns, 5);
    assert_int_equal(status.heartbeat_ns, 99);
    assert_int_equal(status.sessions, 1);
    assert_int_equal(status.requests_total, 7);
}

/* ---- without a connection -------------------------------------------------------------------- */

static char instance[32];

static void write_named(const void *bytes, size_t size)
{
    char name[64];
    snprintf(instance, sizeof instance, "test-%d", (int)getpid());
    snprintf(name, sizeof name, "/autoglm.%s", instance);
    int fd = shm_open(name, O_CREAT | O_RDWR | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static void remove_named(void)
{
    char name[64];
    snprintf(name, sizeof name, "/autoglm.%s", instance);
    shm_unlink(name);
}

static void the_named_board_needs_no_connection(void **state)
{
    struct agl_status status;
    struct agl_model models[4] = {{.vocab_size = 1}, {.vocab_size = 1}, {.vocab_size = 1}};
    write_named(peer.board, sizeof *peer.board);
    assert_int_equal(agl_status_of(instance, &status, models, 4), 0);
    assert_int_equal(status.model_count, 2);
    assert_string_equal(models[1].name, "other-model");
    assert_int_equal(models[2].vocab_size, 1);
    models[1].vocab_size = 1;
    assert_int_equal(agl_status_of(instance, &status, models, 1), 0);
    assert_int_equal(models[0].vocab_size, PEER_VOCAB_SIZE);
    assert_int_equal(models[1].vocab_size, 1);
    assert_int_equal(agl_status_of(instance, &status, NULL, 0), 0);
    remove_named();
    assert_int_equal(agl_status_of(instance, &status, models, 4), -ENOENT);
}

static void a_named_object_that_is_no_board_is_refused(void **state)
{
    struct agl_status status;
    struct board board = *peer.board;
    write_named(&board, 100);
    assert_int_equal(agl_status_of(instance, &status, NULL, 0), -EPROTO);
    write_named(&board, sizeof board - 1);
    assert_int_equal(agl_status_of(instance, &status, NULL, 0), -EPROTO);
    board.model_count = BOARD_MODELS_MAX + 1;
    write_named(&board, sizeof board);
    assert_int_equal(agl_status_of(instance, &status, NULL, 0), -EPROTO);
    board.model_count = 1;
    board.magic++;
    write_named(&board, sizeof board);
    assert_int_equal(agl_status_of(instance, &status, NULL, 0), -EPROTO);
    remove_named();
}

static void assert_other_version(uint32_t version, size_t bytes, const char *detail)
{
    struct agl_status status;
    struct board board = *peer.board;
    board.version = version;
    write_named(&board, bytes);
    assert_int_equal(agl_status_of(instance, &status, NULL, 0), -EPROTONOSUPPORT);
    if (!strstr(agl_error_detail(), detail))
        fail_msg("the detail is \"%s\", not \"%s\"", agl_error_detail(), detail);
    remove_named();
}

static void a_board_of_another_version_is_refused_by_version_whatever_its_size(void **state)
{
    const char *newer =
        "the daemon's board has version 3, this library reads 2: update the library";
    const char *older = "the daemon's board has version 1, this library reads 2: update the daemon";
    assert_other_version(3, sizeof(struct board), newer);
    assert_other_version(3, 64, newer);
    assert_other_version(3, 12, newer);
    assert_other_version(1, sizeof(struct board), older);
}

static void a_board_that_has_grown_is_read_as_far_as_it_is_known(void **state)
{
    struct {
        struct board board;
        uint64_t later[100];
    } grown;
    struct agl_status status;
    memset(&grown, 0xff, sizeof grown);
    grown.board = *peer.board;
    grown.board.bytes = sizeof grown;
    write_named(&grown, sizeof grown);
    assert_int_equal(agl_status_of(instance, &status, NULL, 0), 0);
    assert_int_equal(status.model_count, 2);
    assert_int_equal(status.reserved[0], 0);
    remove_named();
}

static void an_instance_is_a_plain_word(void **state)
{
    struct agl_status status;
    assert_int_equal(agl_status_of("", &status, NULL, 0), -EINVAL);
    assert_int_equal(agl_status_of("a/b", &status, NULL, 0), -EINVAL);
    assert_int_equal(agl_status_of("a-word-that-is-too-long-for-an-instance", &status, NULL, 0),
                     -EINVAL);
}

int main(void)
{
#define WITH_PEER(test) cmocka_unit_test_setup_teardown(test, connect_to_peer, leave_peer)
    const struct CMUnitTest tests[] = {
        WITH_PEER(models_are_as_the_board_says),
        WITH_PEER(a_model_that_is_not_there_is_refused),
        WITH_PEER(a_model_is_found_by_name_and_the_others_are_listed),
        WITH_PEER(a_hostile_board_cannot_lead_us_out_of_it),
        WITH_PEER(the_state_is_read_from_the_board),
        WITH_PEER(the_named_board_needs_no_connection),
        WITH_PEER(a_named_object_that_is_no_board_is_refused),
        WITH_PEER(a_board_of_another_version_is_refused_by_version_whatever_its_size),
        WITH_PEER(a_board_that_has_grown_is_read_as_far_as_it_is_known),
        cmocka_unit_test(an_instance_is_a_plain_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
