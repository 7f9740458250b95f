#include "autoglm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/private.h"
#include "tests/support/peer.h"
#include "tests/support/test.h"

enum { MS = 1000000 };

static struct agl_options options_for(const struct peer *peer)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = peer->path;
    return options;
}

static void assert_detail(const char *part)
{
    if (!strstr(agl_error_detail(), part))
        fail_msg("the detail \"%s\" does not say \"%s\"", agl_error_detail(), part);
}

/* ---- what a daemon may do wrong -------------------------------------------------------------- */

struct fault_case {
    enum peer_fault fault;
    int error;
    const char *detail;
};

static const struct fault_case fault_cases[] = {
    {PEER_SILENT, -ETIMEDOUT, "waiting for the welcome"},
    {PEER_SILENT_AFTER_ATTACH, -ETIMEDOUT, "waiting for the session"},
    {PEER_CLOSES_AT_ONCE, -EPIPE, "closed the connection"},
    {PEER_CLOSES_AFTER_HELLO, -EPIPE, "waiting for the welcome"},
    {PEER_CLOSES_AFTER_ATTACH, -EPIPE, "waiting for the session"},
    {PEER_REFUSES, -EUSERS, "the daemon refused: no session left"},
    {PEER_REFUSES_ATTACH, -EPROTO, "the daemon refused: not sealed"},
    {PEER_REFUSES_WITHOUT_NUL, -EUSERS, "xxxx"},
    {PEER_REFUSES_WITH_SUCCESS, -EPROTO, "all ?[31mfine?"},
    {PEER_REFUSES_WITH_NONSENSE, -EPROTO, "the daemon refused: The daemon broke"},
    {PEER_REFUSES_BRIEFLY, -EPROTO, "message 5 came instead of 2"},
    {PEER_WRONG_MAGIC, -EPROTO, "magic"},
    {PEER_WRONG_KIND, -EPROTO, "message 4 came instead of 2"},
    {PEER_LYING_LENGTH, -EPROTO, "not the one in its header"},
    {PEER_SHORT_PACKET, -EPROTO, "message of 40 bytes, must be 64"},
    {PEER_TINY_PACKET, -EPROTO, "a size that no message has"},
    {PEER_LONG_PACKET, -EPROTO, "a size that no message has"},
    {PEER_NEWER_MAJOR, -EPROTONOSUPPORT,
     "the daemon speaks version 2.0, this library 1.0: update the library"},
    {PEER_OLDER_MAJOR, -EPROTONOSUPPORT,
     "the daemon speaks version 0.0, this library 1.0: update the daemon"},
    {PEER_NEWER_MINOR, -EPROTO, "the daemon chose version 1.1, this library offered 1.0"},
    {PEER_FEATURES, -EPROTO, "features 0x4"},
    {PEER_NO_FDS, -EPROTO, "0 descriptors came"},
    {PEER_TWO_FDS, -EPROTO, "2 descriptors came"},
    {PEER_SURPLUS_FDS, -EPROTO, "4 descriptors came"},
    {PEER_FLOOD_OF_FDS, -EPROTO, "too many descriptors"},
    {PEER_UNSEALED_HALF, -EPROTO, "the daemon's half: not sealed"},
    {PEER_WRONG_SIZE_HALF, -EPROTO, "the daemon's half: not of the agreed size"},
    {PEER_FILE_AS_HALF, -EPROTO, "the daemon's half: not a memfd"},
    {PEER_UNSEALED_BOARD, -EPROTO, "the daemon's board: not sealed"},
    {PEER_SMALL_BOARD, -EPROTO, "board has 4096 bytes"},
    {PEER_LARGE_BOARD, -EPROTO, "board has 2097152 bytes"},
    {PEER_BOARD_MAGIC, -EPROTO, "magic 0x1"},
    {PEER_BOARD_BYTES, -EPROTO, "board says 16 bytes"},
    {PEER_BOARD_MODELS, -EPROTO, "17 models"},
    {PEER_SOCKET_AS_DOORBELL, -EPROTO, "not an eventfd"},
    {PEER_BLOCKING_DOORBELL, -EPROTO, "may block"},
    {PEER_INVALID_GEOMETRY, -EPROTO, "sizes that no session can have"},
    {PEER_HUGE_GEOMETRY, -EPROTO, "wished for"},
    {PEER_HUGE_ARENA, -EPROTO, "wished for"},
    {PEER_FDS_WITH_READY, -EPROTO, "1 descriptors came"},
    {PEER_WRONG_READY, -EPROTO, "message 6 came instead of 4"},
};

static void check_fault(const struct fault_case *expected)
{
    struct peer peer;
    int open_before = test_open_descriptors();
    int mapped_before = peer_shared_mappings();
    peer_start(&peer, expected->fault);
    struct agl_options options = options_for(&peer);
    options.timeout_ns = expected->error == -ETIMEDOUT ? 50ULL * MS : 5000ULL * MS;

    struct agl_client *client = (void *)&peer;
    uint64_t start_ns = agl_now_ns();
    int err = agl_connect(&client, &options);
    if (expected->error == -ETIMEDOUT) /* at that time, whatever it was waiting for */
        assert_in_range(agl_now_ns() - start_ns, 45ULL * MS, 3000ULL * MS);
    if (err != expected->error || client != (void *)&peer)
        fail_msg("fault %d: %d (%s), expected %d", expected->fault, err, agl_error_detail(),
                 expected->error);
    assert_detail(expected->detail);
    peer_stop(&peer);
    assert_int_equal(test_open_descriptors(), open_before);
    assert_int_equal(peer_shared_mappings(), mapped_before);
}

static void every_fault_of_a_daemon_is_named_and_leaves_nothing_open(void **state)
{
    bool is_covered[PEER_FAULTS] = {[PEER_HONEST] = true};
    for (size_t i = 0; i < sizeof fault_cases / sizeof fault_cases[0]; i++) {
        is_covered[fault_cases[i].fault] = true;
        check_fault(&fault_cases[i]);
    }
    for (int fault = 0; fault < PEER_FAULTS; fault++)
        assert_true(is_covered[fault]);
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* What the daemon sees on its end within that time: 0: nothing; POLLIN | ...: the end. */
static int peer_sees(const struct peer *peer, int timeout_ms)
{
    struct pollfd entry = {.fd = peer->socket_fd, .events = POLLIN};
    return poll(&entry, 1, timeout_ms);
}

static void a_session_ends_with_its_owners_close_whoever_has_the_socket_still(void **state)
{
    struct peer peer;
    peer_start(&peer, PEER_HONEST);
    struct agl_options options = options_for(&peer);
    struct agl_client *client;
    assert_int_equal(agl_connect(&client, &options), 0);
    peer_join(&peer);
    pid_t closes = fork();
    if (closes == 0) {
        agl_close(client);
        _exit(0);
    }
    assert_int_equal(waitpid(closes, NULL, 0), closes);
    assert_int_equal(peer_sees(&peer, 50), 0);
    pid_t keeps = fork();
    if (keeps == 0) {
        pause();
        _exit(0);
    }
    agl_close(client);
    int seen = peer_sees(&peer, 10000);
    kill(keeps, SIGKILL);
    waitpid(keeps, NULL, 0);
    assert_int_equal(seen, 1);
    peer_stop(&peer);
}

static void an_honest_daemon_gives_a_session_that_closes_without_a_trace(void **state)
{
    int open_before = test_open_descriptors();
    int mapped_before = peer_shared_mappings();
    struct peer peer;
    peer_start(&peer, PEER_HONEST);
    struct agl_options options = options_for(&peer);
    options.name = "a name that is longer than the 31 bytes of the message";
    options.max_requests = 20;
    options.prompt_tokens = 5000;
    options.output_bytes = 10;
    struct agl_client *client;
    assert_int_equal(agl_connect(&client, &options), 0);
    peer_join(&peer);
    assert_true(peer.is_ready);

    assert_int_equal(peer.hello.geometry.max_requests, 32);
    assert_int_equal(peer.hello.geometry.event_slots, 128);
    assert_int_equal(peer.hello.geometry.submission_slots, 64);
    assert_int_equal(peer.hello.geometry.arena_bytes, 5 * 4096);
    assert_int_equal(peer.hello.geometry.output_bytes, 4096);
    assert_int_equal(peer.hello.geometry.stagger, 0);
    assert_int_equal(peer.hello.major, LAYOUT_MAJOR);
    assert_string_equal(peer.hello.name, "a name that is longer than the ");

    agl_close(client);
    peer_stop(&peer);
    assert_int_equal(test_open_descriptors(), open_before);
    assert_int_equal(peer_shared_mappings(), mapped_before);
}

static void without_options_the_environment_names_the_socket(void **state)
{
    struct peer peer;
    peer_start(&peer, PEER_HONEST);
    setenv("AUTOGLM_SOCKET", peer.path, 1);
    struct agl_client *client;
    assert_int_equal(agl_connect(&client, NULL), 0);
    unsetenv("AUTOGLM_SOCKET");
    peer_join(&peer);
    assert_int_equal(peer.hello.geometry.max_requests, 16);
    assert_int_equal(peer.hello.geometry.arena_bytes, 32768 * 4);
    assert_int_equal(peer.hello.geometry.output_bytes, 0);
    agl_close(client);
    peer_stop(&peer);
}

static void the_largest_options_make_a_valid_geometry(void **state)
{
    struct peer peer;
    peer_start(&peer, PEER_HONEST);
    struct agl_options options = options_for(&peer);
    options.max_requests = 1024;
    options.prompt_tokens = 1; /* memory is not the matter here */
    struct agl_client *client;
    assert_int_equal(agl_connect(&client, &options), 0);
    peer_join(&peer);
    peer.hello.geometry.arena_bytes = GEOMETRY_ARENA_BYTES_MAX;
    assert_true(geometry_is_valid(&peer.hello.geometry));
    assert_int_equal(client->geometry.event_slots, 4096);
    agl_close(client);
    peer_stop(&peer);
}

static void nobody_there_is_told_apart(void **state)
{
    struct agl_client *client;
    char folder[4096];
    char path[4200];
    test_folder(folder);
    snprintf(path, sizeof path, "%s/socket", folder);
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = path;
    assert_int_equal(agl_connect(&client, &options), -ENOENT);
    assert_detail(path);

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(agl_connect(&client, &options), -ECONNREFUSED);
    close(fd);
    test_remove_folder(folder);
}

static void a_daemon_that_never_accepts_costs_no_more_than_the_timeout(void **state)
{
    struct agl_client *client;
    char folder[4096];
    char path[4200];
    test_folder(folder);
    snprintf(path, sizeof path, "%s/socket", folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 0), 0);
    int waiting = socket(AF_UNIX, SOCK_SEQPACKET, 0); /* fills the backlog */
    assert_int_equal(connect(waiting, (struct sockaddr *)&address, sizeof address), 0);

    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = path;
    options.timeout_ns = 60ULL * MS;
    uint64_t start_ns = agl_now_ns();
    assert_int_equal(agl_connect(&client, &options), -ETIMEDOUT);
    uint64_t took_ns = agl_now_ns() - start_ns;
    assert_in_range(took_ns, 55ULL * MS, 2000ULL * MS);
    close(waiting);
    close(fd);
    test_remove_folder(folder);
}

static void options_that_make_no_sense_are_named(void **state)
{
    struct agl_client *client;
    struct agl_options options = AGL_OPTIONS_INIT;
    options.size_bytes = 8;
    assert_int_equal(agl_connect(&client, &options), -EINVAL);
    assert_detail("size_bytes is 8");

    options = (struct agl_options)AGL_OPTIONS_INIT;
    options.max_requests = 1025;
    assert_int_equal(agl_connect(&client, &options), -EINVAL);
    assert_detail("max_requests is 1025, must be at most 1024");

    options = (struct agl_options)AGL_OPTIONS_INIT;
    options.prompt_tokens = (16 << 20) + 1;
    assert_int_equal(agl_connect(&client, &options), -EINVAL);
    assert_detail("prompt_tokens");

    options = (struct agl_options)AGL_OPTIONS_INIT;
    options.output_bytes = (64 << 20) + 1;
    assert_int_equal(agl_connect(&client, &options), -EINVAL);
    assert_detail("output_bytes");

    options = (struct agl_options)AGL_OPTIONS_INIT;
    options.wait_mode = 3;
    assert_int_equal(agl_connect(&client, &options), -EINVAL);
    assert_detail("wait_mode is 3");

    char path[200];
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = 0;
    options = (struct agl_options)AGL_OPTIONS_INIT;
    options.socket_path = path;
    assert_int_equal(agl_connect(&client, &options), -EINVAL);
    assert_detail("longer than 107 bytes");
}

static void options_of_a_later_release_must_not_say_more_than_we_know(void **state)
{
    struct {
        struct agl_options options;
        uint64_t later;
    } grown = {.options = AGL_OPTIONS_INIT, .later = 0};
    struct peer peer;
    peer_start(&peer, PEER_HONEST);
    grown.options = options_for(&peer);
    grown.options.size_bytes = sizeof grown;
    grown.later = 1;
    struct agl_client *client;
    assert_int_equal(agl_connect(&client, &grown.options), -EINVAL);
    assert_detail("does not know");
    grown.later = 0;
    assert_int_equal(agl_connect(&client, &grown.options), 0);
    agl_close(client);
    peer_stop(&peer);
}

static void options_of_an_earlier_release_are_enough(void **state)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client;
    options.size_bytes = 55; /* 0.1 had 56 */
    assert_int_equal(agl_connect(&client, &options), -EINVAL);
    assert_detail("options.size_bytes is 55, must be at least 56");
    assert_int_equal(sizeof options, 56); /* from now on, more is allowed, and 56 still is enough */
}

/* struct agl_options as a later release may have it; `later` has a default other than 0. */
struct later_options {
    struct agl_options first;
    uint32_t later, latest;
};
enum { FIRST_BYTES = sizeof(struct agl_options), LATER_DEFAULT = 7 };
static const size_t later_bytes = offsetof(struct later_options, latest);

static int read_later(struct later_options *ret_known, const struct later_options *given)
{
    *ret_known = (struct later_options){.later = LATER_DEFAULT, .latest = LATER_DEFAULT};
    return client_read_sized(ret_known, sizeof *ret_known, FIRST_BYTES, given, "options");
}

static void a_struct_that_has_grown_gets_defaults_for_what_its_caller_did_not_know(void **state)
{
    struct later_options known;
    struct later_options given = {.first = {.size_bytes = FIRST_BYTES, .max_requests = 3},
                                  .later = 123,
                                  .latest = 456}; /* not the caller's: whatever lies there */
    assert_int_equal(read_later(&known, &given), 0);
    assert_int_equal(known.first.max_requests, 3);
    assert_int_equal(known.later, LATER_DEFAULT);
    assert_int_equal(known.latest, LATER_DEFAULT);

    given.first.size_bytes = later_bytes;
    assert_int_equal(read_later(&known, &given), 0);
    assert_int_equal(known.later, 123);
    assert_int_equal(known.latest, LATER_DEFAULT);

    given.first.size_bytes = sizeof given;
    assert_int_equal(read_later(&known, &given), 0);
    assert_int_equal(known.latest, 456);

    known.latest = 1;
    given.first.size_bytes = FIRST_BYTES - 1;
    assert_int_equal(client_read_sized(&known, sizeof known, FIRST_BYTES, &given, "options"),
                     -EINVAL);
    assert_detail("options.size_bytes is 55, must be at least 56");
    assert_int_equal(known.latest, 1);
}

static void closing_nothing_does_nothing(void **state)
{
    agl_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_of_a_daemon_is_named_and_leaves_nothing_open),
        cmocka_unit_test(a_session_ends_with_its_owners_close_whoever_has_the_socket_still),
        cmocka_unit_test(an_honest_daemon_gives_a_session_that_closes_without_a_trace),
        cmocka_unit_test(without_options_the_environment_names_the_socket),
        cmocka_unit_test(the_largest_options_make_a_valid_geometry),
        cmocka_unit_test(nobody_there_is_told_apart),
        cmocka_unit_test(a_daemon_that_never_accepts_costs_no_more_than_the_timeout),
        cmocka_unit_test(options_that_make_no_sense_are_named),
        cmocka_unit_test(options_of_a_later_release_must_not_say_more_than_we_know),
        cmocka_unit_test(options_of_an_earlier_release_are_enough),
        cmocka_unit_test(a_struct_that_has_grown_gets_defaults_for_what_its_caller_did_not_know),
        cmocka_unit_test(closing_nothing_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
