#include "tests/support/control_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/connection.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "shm/region.h"
#include "tests/support/test.h"

static struct rig rig;
static int descriptors, mappings; /* after rig_open() */
static struct rlimit descriptor_limit;

static void begin(void)
{
    rig_open(&rig);
    rig_turn(&rig);
    descriptors = test_open_descriptors();
    mappings = rig_mappings();
}

static int setup(void **state)
{
    rig_init(&rig);
    return getrlimit(RLIMIT_NOFILE, &descriptor_limit);
}

static int teardown(void **state)
{
    setrlimit(RLIMIT_NOFILE, &descriptor_limit);
    rig_fini(&rig);
    return 0;
}

/* Nobody is there any more, and nothing is left of anybody. */
static void expect_nothing_left(void)
{
    rig_until_descriptors(&rig, descriptors);
    assert_int_equal(rig_mappings(), mappings);
    assert_int_equal(rig.engine.session_count, 0);
    assert_int_equal(rig.board.board->sessions, 0);
}

/* ---- the right way --------------------------------------------------------------------------- */

static void a_client_gets_two_halves_a_board_and_a_doorbell(void **state)
{
    begin();
    struct answer answer;
    struct message_hello hello = rig_hello();
    int fd = rig_connect(&rig);
    rig_send(fd, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, fd, &answer);

    const struct message_welcome *welcome = &answer.message.welcome;
    const struct geometry *granted = &welcome->geometry;
    assert_int_equal(answer.bytes, sizeof *welcome);
    assert_int_equal(welcome->header.kind, MESSAGE_WELCOME);
    assert_int_equal(welcome->major, LAYOUT_MAJOR);
    assert_int_equal(granted->submission_slots, 16);
    assert_int_equal(granted->event_slots, 64);
    assert_int_equal(granted->max_requests, 16);
    assert_int_equal(granted->arena_bytes, 8192);
    assert_int_equal(granted->output_bytes, 0);
    assert_int_equal(granted->stagger, welcome->session % LAYOUT_STAGGERS);

    const char *why = NULL;
    struct region daemon_half, board;
    assert_int_equal(answer.fd_count, 3);
    assert_int_equal(region_map_peer(&daemon_half, answer.fds[0], daemon_half_bytes(granted), &why),
                     0);
    assert_int_equal(region_map_peer(&board, answer.fds[1], welcome->board_bytes, &why), 0);
    assert_string_equal(((const struct board *)board.base)->instance, rig.config.instance);
    assert_true(fcntl(answer.fds[2], F_GETFL) & O_NONBLOCK);
    region_fini(&daemon_half);
    region_fini(&board);
    close(answer.fds[2]);
    close(fd);
    expect_nothing_left();
}

static void a_session_lives_until_its_socket_is_closed(void **state)
{
    begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    assert_int_equal(rig.engine.session_count, 1);
    assert_int_equal(rig.engine.sessions[0]->options.uid, getuid());
    assert_int_equal(rig.board.board->sessions, 1);
    assert_int_equal(rig.board.board->sessions_total, 1);
    close(fd);
    rig_until_sessions(&rig, 0);
    expect_nothing_left();
    assert_int_equal(rig.board.board->sessions_total, 1);
    assert_int_equal(rig.board.board->sessions_broken, 0);
    assert_int_equal(rig.board.board->sessions_refused, 0);
}

static void a_session_ends_with_its_process_though_a_child_keeps_the_socket(void **state)
{
    begin();
    int release[2];
    assert_int_equal(pipe(release), 0);
    pid_t client = fork();
    if (client == 0) {
        /* The blocking client; its child inherits the socket and outlives it. */
        struct message_hello hello = rig_hello();
        struct message_attach attach = rig_attach();
        struct message_welcome welcome;
        struct message_ready ready;
        struct region half;
        char byte;
        int fd = rig_connect(&rig);
        rig_send(fd, &hello, sizeof hello, NULL, 0);
        if (recv(fd, &welcome, sizeof welcome, 0) != sizeof welcome ||
            region_create(&half, "test-client", client_half_bytes(&welcome.geometry)) < 0)
            _exit(1);
        rig_send(fd, &attach, sizeof attach, &half.fd, 1);
        if (recv(fd, &ready, sizeof ready, 0) != sizeof ready)
            _exit(1);
        if (fork() == 0) {
            close(release[1]);
            (void)!read(release[0], &byte, 1);
        }
        _exit(0);
    }
    close(release[0]);
    rig_until_sessions(&rig, 1);
    rig_until_sessions(&rig, 0);
    close(release[1]);
    waitpid(client, NULL, 0);
    expect_nothing_left();
}

/* ---- wrong packets --------------------------------------------------------------------------- */

struct wrong_hello {
    void (*spoil)(struct message_hello *hello);
    size_t bytes;
    uint32_t fds;
    int error;
    const char *text;
};

static void leave_right(struct message_hello *hello)
{
}
static void spoil_magic(struct message_hello *hello)
{
    hello->header.magic++;
}
static void spoil_kind(struct message_hello *hello)
{
    hello->header.kind = MESSAGE_ATTACH;
}
static void spoil_size(struct message_hello *hello)
{
    hello->header.bytes++;
}
static void spoil_major(struct message_hello *hello)
{
    hello->major = LAYOUT_MAJOR + 7;
}
static void spoil_major_to_an_older(struct message_hello *hello)
{
    hello->major = LAYOUT_MAJOR - 1;
    hello->minor = 9;
}
static void spoil_features(struct message_hello *hello)
{
    hello->features = 4;
}
static void spoil_stagger(struct message_hello *hello)
{
    hello->geometry.stagger = 1;
}
static void spoil_reserved(struct message_hello *hello)
{
    hello->reserved[3] = 1;
}

static void every_wrong_hello_is_refused_by_name(void **state)
{
    enum { ALL = sizeof(struct message_hello) };
    static const struct wrong_hello cases[] = {
        {leave_right, 1, 0, -EPROTO, "hello: 1 bytes are no message"},
        {leave_right, 7, 0, -EPROTO, "hello: 7 bytes"},
        {leave_right, 8, 0, -EPROTO, "hello: 8 bytes, its header says 88, must be 88"},
        {leave_right, ALL / 2, 0, -EPROTO, "hello: 44 bytes"},
        {leave_right, ALL - 1, 0, -EPROTO, "hello: 87 bytes"},
        {leave_right, ALL + 1, 0, -EPROTO, "hello: 89 bytes"},
        {leave_right, 200, 0, -EPROTO, "and more"},
        {leave_right, ALL, 1, -EPROTO, "hello: 1 descriptors came with it, must be 0"},
        {leave_right, ALL, RIG_FDS_MAX, -EPROTO, "hello: 8 descriptors"},
        {spoil_magic, ALL, 0, -EPROTO, "hello: magic number is 0x4d4c4742"},
        {spoil_kind, ALL, 0, -EPROTO, "hello: message kind is 3, must be 1"},
        {spoil_size, ALL, 0, -EPROTO, "its header says 89"},
        {spoil_major, ALL, 0, -EPROTONOSUPPORT,
         "the client speaks version 8.0, the daemon 1.0: update the daemon"},
        {spoil_major_to_an_older, ALL, 0, -EPROTONOSUPPORT,
         "the client speaks version 0.9, the daemon 1.0: update the client's library"},
        {spoil_major, 12, 0, -EPROTONOSUPPORT, "the client speaks version 8.0"},
        {spoil_major, 120, 0, -EPROTONOSUPPORT, "the client speaks version 8.0"},
        {spoil_features, ALL, 0, -EPROTONOSUPPORT,
         "features 0x4 are asked for, the daemon knows none: update the daemon"},
        {spoil_stagger, ALL, 0, -EPROTO, "stagger is 1"},
        {spoil_reserved, ALL, 0, -EPROTO, "hello: a reserved field is not 0"},
    };
    begin();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char packet[256] = {0};
        struct message_hello hello = rig_hello();
        int fds[RIG_FDS_MAX];
        cases[i].spoil(&hello);
        memcpy(packet, &hello, sizeof hello);
        int fd = rig_connect(&rig);
        for (int j = 0; j < RIG_FDS_MAX; j++)
            fds[j] = STDERR_FILENO;
        assert_true(rig_send(fd, packet, cases[i].bytes, fds, cases[i].fds) > 0);
        rig_expect_error(&rig, fd, cases[i].error, cases[i].text);
        close(fd);
    }
    expect_nothing_left();
    assert_int_equal(rig.board.board->sessions_total, 0);
    assert_int_equal(rig.board.board->sessions_refused, sizeof cases / sizeof *cases);
}

/* What comes instead of a client half. */
enum half_kind {
    HALF_RIGHT,
    HALF_UNSEALED,
    HALF_HALF_SEALED,
    HALF_TOO_SMALL,
    HALF_TOO_LARGE,
    HALF_FILE,
    HALF_PIPE,
    HALF_SOCKET
};

static int make_half(enum half_kind kind, uint64_t bytes)
{
    int fd = -1, pair[2];
    struct region region;
    char path[4200];
    switch (kind) {
    case HALF_RIGHT:
    case HALF_TOO_SMALL:
    case HALF_TOO_LARGE:
        bytes += kind == HALF_TOO_SMALL ? -4096ul : kind == HALF_TOO_LARGE ? 4096 : 0;
        assert_int_equal(region_create(&region, "test-client", bytes), 0);
        fd = dup(region.fd);
        region_fini(&region);
        break;
    case HALF_UNSEALED:
    case HALF_HALF_SEALED:
        fd = memfd_create("test-client", MFD_ALLOW_SEALING);
        assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
        if (kind == HALF_HALF_SEALED)
            assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        break;
    case HALF_FILE:
        snprintf(path, sizeof path, "%s/half", rig.folder);
        fd = open(path, O_RDWR | O_CREAT, 0600);
        assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
        break;
    case HALF_PIPE:
        assert_int_equal(pipe(pair), 0);
        close(pair[1]);
        fd = pair[0];
        break;
    case HALF_SOCKET:
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        break;
    }
    return fd;
}

struct wrong_attach {
    enum half_kind half;
    uint32_t fds;
    size_t bytes;
    uint16_t kind;
    uint32_t reserved;
    const char *text;
};

static void every_wrong_attach_is_refused_by_name(void **state)
{
    enum { ALL = sizeof(struct message_attach) };
    static const struct wrong_attach cases[] = {
        {HALF_RIGHT, 0, ALL, MESSAGE_ATTACH, 0, "attach: 0 descriptors came with it, must be 1"},
        {HALF_RIGHT, 2, ALL, MESSAGE_ATTACH, 0, "attach: 2 descriptors came with it, must be 1"},
        {HALF_RIGHT, 4, ALL, MESSAGE_ATTACH, 0, "attach: 4 descriptors"},
        {HALF_RIGHT, 6, ALL, MESSAGE_ATTACH, 0, "attach: 6 descriptors"},
        {HALF_RIGHT, 1, 4, MESSAGE_ATTACH, 0, "attach: 4 bytes are no message"},
        {HALF_RIGHT, 1, ALL - 1, MESSAGE_ATTACH, 0, "attach: 15 bytes"},
        {HALF_RIGHT, 1, ALL + 8, MESSAGE_ATTACH, 0, "attach: 24 bytes"},
        {HALF_RIGHT, 1, ALL, MESSAGE_HELLO, 0, "attach: message kind is 1, must be 3"},
        {HALF_RIGHT, 1, ALL, MESSAGE_ATTACH, 9, "attach: a reserved field is not 0"},
        {HALF_UNSEALED, 1, ALL, MESSAGE_ATTACH, 0, "client half: not sealed"},
        {HALF_HALF_SEALED, 1, ALL, MESSAGE_ATTACH, 0, "client half: not sealed"},
        {HALF_TOO_SMALL, 1, ALL, MESSAGE_ATTACH, 0, "client half: not of the agreed size"},
        {HALF_TOO_LARGE, 1, ALL, MESSAGE_ATTACH, 0, "client half: not of the agreed size"},
        {HALF_FILE, 1, ALL, MESSAGE_ATTACH, 0, "client half: not a"},
        {HALF_PIPE, 1, ALL, MESSAGE_ATTACH, 0, "client half: not a memfd"},
        {HALF_SOCKET, 1, ALL, MESSAGE_ATTACH, 0, "client half: not a memfd"},
    };
    enum { COUNT = sizeof cases / sizeof *cases };
    begin();
    for (size_t i = 0; i < COUNT; i++) {
        char packet[64] = {0};
        int fd = rig_connect(&rig), fds[RIG_FDS_MAX];
        struct geometry geometry = rig_enter_hall(&rig, fd);
        struct message_attach attach = rig_attach();
        attach.header.kind = cases[i].kind;
        attach.reserved[1] = cases[i].reserved;
        memcpy(packet, &attach, sizeof attach);
        int half = make_half(cases[i].half, client_half_bytes(&geometry));
        for (int j = 0; j < RIG_FDS_MAX; j++)
            fds[j] = half;
        assert_true(rig_send(fd, packet, cases[i].bytes, fds, cases[i].fds) > 0);
        close(half);
        rig_expect_error(&rig, fd, -EPROTO, cases[i].text);
        close(fd);
    }
    expect_nothing_left();
    assert_int_equal(rig.board.board->sessions_total, 0);
    assert_int_equal(rig.board.board->sessions_broken, COUNT);
}

static void a_packet_after_the_handshake_ends_the_session(void **state)
{
    begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    assert_int_equal(rig_send(fd, "x", 1, NULL, 0), 1);
    rig_expect_error(&rig, fd, -EPROTO, "a packet came after the handshake");
    assert_int_equal(rig.board.board->sessions_broken, 1);
    close(fd);
    expect_nothing_left();
}

/* ---- clients that go, or do nothing ---------------------------------------------------------- */

static void closing_at_each_step_leaves_nothing(void **state)
{
    begin();
    for (int step = 0; step < 5; step++) {
        struct message_hello hello = rig_hello();
        struct message_attach attach = rig_attach();
        int fd = rig_connect(&rig);
        if (step == 1)
            rig_send(fd, &hello, sizeof hello, NULL, 0);
        if (step == 2 || step == 3) {
            struct geometry geometry = rig_enter_hall(&rig, fd);
            int half = make_half(HALF_RIGHT, client_half_bytes(&geometry));
            if (step == 3) /* and does not wait for the answer */
                rig_send(fd, &attach, sizeof attach, &half, 1);
            close(half);
        }
        if (step == 4)
            rig_enter(&rig, fd);
        close(fd);
        for (int turn = 0; turn < 3; turn++)
            rig_turn(&rig);
        expect_nothing_left();
    }
}

static void who_hangs_up_before_the_welcome_is_not_refused(void **state)
{
    struct message_hello hello = rig_hello();
    begin();
    int fd = rig_connect(&rig);
    assert_true(rig_send(fd, &hello, sizeof hello, NULL, 0) > 0);
    close(fd);
    for (int i = 0; i < 10; i++)
        assert_int_equal(rig_turn(&rig), 1);
    expect_nothing_left();
    assert_int_equal(rig.board.board->sessions_refused, 0);
    assert_int_equal(rig.board.board->sessions_broken, 0);
}

static void silence_ends_at_the_deadline(void **state)
{
    rig.config.handshake_ns = 30000000;
    begin();
    int mute = rig_connect(&rig);
    rig_expect_error(&rig, mute, -ETIMEDOUT, "handshake_ms");
    int lazy = rig_connect(&rig);
    rig_enter_hall(&rig, lazy);
    rig_expect_error(&rig, lazy, -ETIMEDOUT, "handshake_ms");
    int right = rig_connect(&rig);
    rig_enter(&rig, right);
    for (int turn = 0; turn < 60; turn++) /* the deadline is the handshake's, not the session's */
        rig_turn(&rig);
    assert_int_equal(rig.engine.session_count, 1);
    close(mute);
    close(lazy);
    close(right);
    expect_nothing_left();
}

static void a_thousand_quick_connects_leave_nothing(void **state)
{
    begin();
    struct message_hello hello = rig_hello();
    for (int i = 0; i < 1000; i++) {
        int fd = rig_connect(&rig);
        if (i % 2)
            rig_send(fd, &hello, sizeof hello, NULL, 0);
        if (i % 3 == 0)
            rig_turn(&rig);
        close(fd);
    }
    expect_nothing_left();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    close(fd);
    expect_nothing_left();
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void a_user_gets_no_more_sessions_than_allowed(void **state)
{
    rig.config.sessions_per_user = 2;
    begin();
    int first = rig_connect(&rig), second = rig_connect(&rig), third = rig_connect(&rig);
    struct message_hello hello = rig_hello();
    rig_enter(&rig, first);
    rig_enter_hall(&rig, second); /* promised counts as given */
    rig_send(third, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, third, -EUSERS, "sessions_per_user");
    close(third);

    close(first);
    rig_until_sessions(&rig, 0);
    third = rig_connect(&rig);
    rig_enter(&rig, third);
    close(second);
    close(third);
    expect_nothing_left();
}

static void a_user_gets_no_more_memory_than_allowed(void **state)
{
    struct message_hello hello = rig_hello();
    hello.geometry.arena_bytes = 600 << 10;
    rig.config.user_memory_bytes = 1 << 20;
    begin();
    int first = rig_connect(&rig), second = rig_connect(&rig), third = rig_connect(&rig);
    struct answer answer;
    rig_send(first, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, first, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    rig_close_fds(&answer);
    rig_send(second, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, second, -EDQUOT, "user_memory_mib");
    hello.geometry.arena_bytes = 4096; /* a small one still fits */
    rig_send(third, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, third, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    rig_close_fds(&answer);
    close(first);
    close(second);
    close(third);
    expect_nothing_left();

    hello.geometry.arena_bytes = 600 << 10; /* what was given back can be had again */
    first = rig_connect(&rig);
    rig_send(first, &hello, sizeof hello, NULL, 0);
    rig_receive(&rig, first, &answer);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    rig_close_fds(&answer);
    close(first);
    expect_nothing_left();
}

static void who_is_not_on_the_list_is_sent_away(void **state)
{
    snprintf(rig.config.allow_users, sizeof rig.config.allow_users, "%u", (unsigned)getuid() + 1);
    begin();
    int fd = rig_connect(&rig);
    rig_expect_error(&rig, fd, -EACCES, "allow_users");
    close(fd);
    expect_nothing_left();
    assert_int_equal(rig.board.board->sessions_refused, 1);
}

static void a_list_with_a_wrong_name_stops_the_start(void **state)
{
    struct failure failure = {""};
    struct control_options options = {.config = &rig.config,
                                      .engine = &rig.engine,
                                      .board = &rig.board,
                                      .signal_fd = rig.signal_pipe[0]};
    snprintf(rig.config.allow_groups, sizeof rig.config.allow_groups, "no-such-group");
    assert_int_equal(control_open(&rig.control, &options, &failure), -ENOENT);
    assert_non_null(strstr(failure.text, "allow_groups: \"no-such-group\""));
    rig.control = NULL;
}

static void all_users_together_get_no_more_sessions_than_allowed(void **state)
{
    rig.config.sessions_max = 1;
    begin();
    int first = rig_connect(&rig), second = rig_connect(&rig);
    struct message_hello hello = rig_hello();
    rig_enter(&rig, first);
    rig_send(second, &hello, sizeof hello, NULL, 0);
    rig_expect_error(&rig, second, -EUSERS, "sessions_max");
    close(first);
    close(second);
    expect_nothing_left();
}

static void a_user_has_a_bounded_number_of_open_handshakes(void **state)
{
    begin();
    int fds[CONNECTION_HALF_OPEN_PER_USER];
    for (int i = 0; i < CONNECTION_HALF_OPEN_PER_USER; i++)
        fds[i] = rig_connect(&rig);
    int surplus = rig_connect(&rig);
    rig_expect_error(&rig, surplus, -EUSERS, "too many handshakes");
    close(surplus);
    rig_enter(&rig, fds[0]); /* leaves a place */
    surplus = rig_connect(&rig);
    rig_enter(&rig, surplus);
    close(surplus);
    for (int i = 0; i < CONNECTION_HALF_OPEN_PER_USER; i++)
        close(fds[i]);
    expect_nothing_left();
}

static void without_descriptors_accepting_pauses_and_goes_on(void **state)
{
    enum { LIMIT = 64 };
    int filling[LIMIT], fillings = 0, turns = 0;
    struct rlimit few = descriptor_limit;
    few.rlim_cur = LIMIT;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    begin();
    int fd = rig_connect(&rig);
    while ((filling[fillings] = dup(fd)) >= 0)
        fillings++;

    for (uint64_t end_ns = loop_now_ns() + 250000000; loop_now_ns() < end_ns; turns++)
        assert_int_equal(control_turn(rig.control, 50000000), 1);
    assert_true(turns < 50); /* it does not spin */

    while (fillings)
        close(filling[--fillings]);
    rig_enter(&rig, fd);
    close(fd);
    expect_nothing_left();
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void what_the_engine_has_no_room_for_is_tried_again(void **state)
{
    begin();
    int fd = rig_connect(&rig);
    rig.engine.busy_turns = 5;
    rig_enter(&rig, fd);
    rig.engine.busy_turns = 5;
    close(fd);
    rig_until_sessions(&rig, 0);
    assert_int_equal(rig.engine.busy_turns, 0);
    expect_nothing_left();
}

static void a_client_that_goes_before_the_engine_has_room_leaves_nothing(void **state)
{
    rig.config.handshake_ns = 30000000;
    begin();
    struct message_attach attach = rig_attach();
    int fd = rig_connect(&rig);
    struct geometry geometry = rig_enter_hall(&rig, fd);
    int half = make_half(HALF_RIGHT, client_half_bytes(&geometry));
    rig.engine.busy_turns = UINT32_MAX;
    rig_send(fd, &attach, sizeof attach, &half, 1);
    close(half);
    close(fd);
    expect_nothing_left();
}

static void an_engine_that_takes_no_session_is_an_answer(void **state)
{
    begin();
    struct message_attach attach = rig_attach();
    int fd = rig_connect(&rig);
    struct geometry geometry = rig_enter_hall(&rig, fd);
    int half = make_half(HALF_RIGHT, client_half_bytes(&geometry));
    rig.engine.attach_error = -ESHUTDOWN;
    rig_send(fd, &attach, sizeof attach, &half, 1);
    close(half);
    rig_expect_error(&rig, fd, -ESHUTDOWN, "the engine takes no session");
    close(fd);
    expect_nothing_left();
}

static void a_session_that_broke_the_contract_is_ended_and_counted_once(void **state)
{
    begin();
    struct answer answer;
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    struct session *session = rig.engine.sessions[0];
    session->broken = -EPROTO;
    session->broken_why = "a test says so";
    fake_engine_report(&rig.engine, ENGINE_BROKEN, session, 0);
    fake_engine_report(&rig.engine, ENGINE_BROKEN, session, 0);
    rig_receive(&rig, fd, &answer);
    assert_int_equal(answer.bytes, 0);
    assert_int_equal(rig.board.board->sessions_broken, 1);
    assert_int_equal(rig.engine.detached_total, 1);
    close(fd);
    expect_nothing_left();
}

/* The engine's report and the hang-up race each other; the breach counts either way. */
static void a_breach_counts_though_its_client_hung_up_first(void **state)
{
    begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    struct session *session = rig.engine.sessions[0];
    rig.engine.keeps_sessions = true;
    close(fd);
    rig_until_sessions(&rig, 0);
    session->broken = -EPROTO;
    session->broken_why = "a test says so";
    fake_engine_report(&rig.engine, ENGINE_BROKEN, session, 0);
    fake_engine_report(&rig.engine, ENGINE_DETACHED, session, 0);
    while (rig.board.board->sessions_broken == 0 && rig_turn(&rig) == 1)
        ;
    assert_int_equal(rig.board.board->sessions_broken, 1);
    expect_nothing_left();
}

static void nothing_is_closed_while_the_engine_has_it(void **state)
{
    begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    struct session *session = rig.engine.sessions[0];
    rig.engine.keeps_sessions = true;
    close(fd);
    rig_until_sessions(&rig, 0);
    for (int turn = 0; turn < 20; turn++)
        rig_turn(&rig);
    assert_true(fcntl(session->options.doorbell_fd, F_GETFD) >= 0);
    assert_true(fcntl(session->options.socket_fd, F_GETFD) >= 0);
    fake_engine_report(&rig.engine, ENGINE_DETACHED, session, 0);
    expect_nothing_left();
}

static void a_failed_engine_ends_the_daemon_with_its_error(void **state)
{
    begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    fake_engine_report(&rig.engine, ENGINE_FAILED, NULL, -EIO);
    int err;
    while ((err = rig_turn(&rig)) == 1)
        ;
    assert_int_equal(err, -EIO);
    close(fd);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static int turn_until_stopped(void)
{
    int err;
    for (int turn = 0; turn < 5000; turn++)
        if ((err = rig_turn(&rig)) != 1)
            return err;
    fail_msg("it does not stop");
    return 1;
}

static void sigterm_drains_the_engine_and_removes_the_socket(void **state)
{
    begin();
    struct answer answer;
    int fd = rig_connect(&rig), half_way = rig_connect(&rig);
    rig_enter(&rig, fd);
    rig_enter_hall(&rig, half_way);
    rig_signal(&rig, SIGTERM);
    assert_int_equal(turn_until_stopped(), 0);
    assert_true(rig.engine.drain_is_asked);
    assert_int_equal(rig.board.board->state, BOARD_DRAINING);
    control_close(rig.control);
    rig.control = NULL;

    assert_int_equal(recv(half_way, &answer.message, sizeof answer.message, MSG_DONTWAIT),
                     sizeof answer.message.error);
    assert_int_equal(answer.message.error.error, -ESHUTDOWN);
    assert_int_equal(recv(fd, &answer.message, 1, MSG_DONTWAIT), 0);
    assert_int_not_equal(access(rig.config.socket_path, F_OK), 0);
    close(fd);
    close(half_way);
}

static void a_stopping_daemon_listens_no_more(void **state)
{
    begin();
    rig.engine.never_drains = true;
    rig.config.drain_ns = 1000000000;
    rig_signal(&rig, SIGTERM);
    while (rig.board.board->state != BOARD_DRAINING)
        rig_turn(&rig);
    rig_turn(&rig);
    rig_turn(&rig);
    assert_int_not_equal(access(rig.config.socket_path, F_OK), 0);
}

static void a_second_sigterm_stops_at_once(void **state)
{
    begin();
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    rig.engine.never_drains = true;
    rig.config.drain_ns = 3600000000000;
    rig_signal(&rig, SIGTERM);
    for (int turn = 0; turn < 20; turn++)
        assert_int_equal(rig_turn(&rig), 1);
    rig_signal(&rig, SIGINT);
    assert_int_equal(turn_until_stopped(), 0);
    close(fd);
}

static void an_engine_that_never_drains_does_not_keep_the_daemon(void **state)
{
    begin();
    rig.engine.never_drains = true;
    rig.config.drain_ns = 1000000;
    rig_signal(&rig, SIGTERM);
    assert_int_equal(turn_until_stopped(), 0);
}

static void sighup_changes_nothing(void **state)
{
    begin();
    rig_signal(&rig, SIGHUP);
    for (int turn = 0; turn < 20; turn++)
        assert_int_equal(rig_turn(&rig), 1);
    int fd = rig_connect(&rig);
    rig_enter(&rig, fd);
    close(fd);
    expect_nothing_left();
}

static void the_watchdog_is_fed_by_the_engine_alone(void **state)
{
    char path[4200], text[64];
    snprintf(path, sizeof path, "%.80s/notify", rig.folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
    int notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(notify, (struct sockaddr *)&address, sizeof address), 0);
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "30000", 1);
    begin();
    for (int turn = 0; turn < 150; turn++)
        rig_turn(&rig);
    assert_int_equal(recv(notify, text, sizeof text, 0), -1); /* nothing moves */
    atomic_store(&rig.board.board->heartbeat_ns, 1);
    for (int turn = 0; turn < 150; turn++)
        rig_turn(&rig);
    ssize_t got = recv(notify, text, sizeof text - 1, 0);
    assert_int_equal(got, strlen("WATCHDOG=1"));
    text[got] = 0;
    assert_string_equal(text, "WATCHDOG=1");
    assert_int_equal(recv(notify, text, sizeof text, 0), -1); /* once */
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    close(notify);
}

static void clients_that_break_the_contract_do_not_fill_the_log(void **state)
{
    char text[16384] = "";
    begin();
    FILE *log = tmpfile();
    int before = dup(STDERR_FILENO);
    assert_non_null(log);
    log_init(LOG_LEVEL_WARNING);
    dup2(fileno(log), STDERR_FILENO);
    for (int i = 0; i < 3 * CONNECTION_REFUSALS_LOGGED; i++) {
        int fd = rig_connect(&rig);
        rig_enter(&rig, fd);
        rig_send(fd, "?", 1, NULL, 0);
        rig_until_sessions(&rig, 0);
        close(fd);
    }
    dup2(before, STDERR_FILENO);
    log_init(LOG_LEVEL_ERROR);
    close(before);
    rewind(log);
    (void)!fread(text, 1, sizeof text - 1, log);
    fclose(log);
    int lines = 0;
    for (const char *at = text; (at = strstr(at, "broke the contract and is ended")); at++)
        lines++;
    assert_int_equal(rig.board.board->sessions_broken, 3 * CONNECTION_REFUSALS_LOGGED);
    assert_in_range(lines, 1, 2 * CONNECTION_REFUSALS_LOGGED); /* a new second may begin */
}

/* ---- descriptors whose closing takes long -----------------------------------------------------
 */

enum { LINGER_S = 20 };

/* A TCP socket with unsent data, whose last close() waits for LINGER_S or for the end of
 * *ret_peer. */
static int lingering_socket(int *ret_peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct linger linger = {.l_onoff = 1, .l_linger = LINGER_S};
    socklen_t bytes = sizeof address;
    static const char data[4096];
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, bytes), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, bytes), 0);
    *ret_peer = accept(listener, NULL, NULL);
    close(listener);
    while (send(fd, data, sizeof data, MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    return fd;
}

/* What the client does with the packet that brings the descriptors. */
enum linger_case { AS_HALF, SURPLUS, BEHIND_WRONG, EMPTY_BEHIND, BEFORE_RESET, AFTER_READY, CASES };

static void send_lingering(int fd, enum linger_case which, const int *lingering)
{
    struct message_attach attach = rig_attach();
    struct message_attach wrong = rig_attach();
    wrong.reserved[0] = 1;
    struct message_hello hello = rig_hello();
    if (which == AFTER_READY)
        rig_enter(&rig, fd);
    else if (which == BEFORE_RESET) /* the welcome stays unread: closing resets the connection */
        rig_send(fd, &hello, sizeof hello, NULL, 0);
    else
        rig_enter_hall(&rig, fd);
    for (int i = 0; i < 10; i++)
        rig_turn(&rig);
    if (which != AS_HALF && which != SURPLUS)
        rig_send(fd, &wrong, sizeof wrong, NULL, 0);
    if (which == EMPTY_BEHIND)
        rig_send(fd, &wrong, 0, NULL, 0);
    rig_send(fd, &attach, which == EMPTY_BEHIND ? 0 : sizeof attach, lingering,
             which == SURPLUS ? 6 : 1);
}

static void a_descriptor_whose_closing_takes_long_holds_up_nobody(void **state)
{
    begin();
    int before = test_open_descriptors();
    for (enum linger_case which = 0; which < CASES; which++) {
        int lingering[6], peers[6];
        for (int i = 0; i < 6; i++)
            lingering[i] = lingering_socket(&peers[i]);
        int fd = rig_connect(&rig);
        uint64_t begin_ns = loop_now_ns();
        send_lingering(fd, which, lingering);
        int sent = which == SURPLUS ? 6 : 1;
        for (int i = 0; i < sent; i++)
            close(lingering[i]);
        if (which == BEFORE_RESET)
            close(fd);
        for (int i = 0; i < 100; i++)
            rig_turn(&rig);

        int other = rig_connect(&rig);
        rig_enter(&rig, other);
        close(other);
        if (which != BEFORE_RESET)
            close(fd);
        rig_until_sessions(&rig, 0);
        assert_true(loop_now_ns() - begin_ns < LINGER_S * UINT64_C(500000000));
        for (int i = 0; i < 6; i++) {
            close(peers[i]); /* a reset: nothing lingers any more */
            if (i >= sent)
                close(lingering[i]);
        }
    }
    rig_until_descriptors(&rig, before);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_client_gets_two_halves_a_board_and_a_doorbell),
        TEST(a_session_lives_until_its_socket_is_closed),
        TEST(a_session_ends_with_its_process_though_a_child_keeps_the_socket),
        TEST(every_wrong_hello_is_refused_by_name),
        TEST(every_wrong_attach_is_refused_by_name),
        TEST(a_packet_after_the_handshake_ends_the_session),
        TEST(closing_at_each_step_leaves_nothing),
        TEST(who_hangs_up_before_the_welcome_is_not_refused),
        TEST(silence_ends_at_the_deadline),
        TEST(a_thousand_quick_connects_leave_nothing),
        TEST(a_user_gets_no_more_sessions_than_allowed),
        TEST(a_user_gets_no_more_memory_than_allowed),
        TEST(who_is_not_on_the_list_is_sent_away),
        TEST(a_list_with_a_wrong_name_stops_the_start),
        TEST(all_users_together_get_no_more_sessions_than_allowed),
        TEST(a_user_has_a_bounded_number_of_open_handshakes),
        TEST(without_descriptors_accepting_pauses_and_goes_on),
        TEST(what_the_engine_has_no_room_for_is_tried_again),
        TEST(a_client_that_goes_before_the_engine_has_room_leaves_nothing),
        TEST(an_engine_that_takes_no_session_is_an_answer),
        TEST(a_session_that_broke_the_contract_is_ended_and_counted_once),
        TEST(a_breach_counts_though_its_client_hung_up_first),
        TEST(nothing_is_closed_while_the_engine_has_it),
        TEST(a_failed_engine_ends_the_daemon_with_its_error),
        TEST(sigterm_drains_the_engine_and_removes_the_socket),
        TEST(a_stopping_daemon_listens_no_more),
        TEST(a_second_sigterm_stops_at_once),
        TEST(an_engine_that_never_drains_does_not_keep_the_daemon),
        TEST(sighup_changes_nothing),
        TEST(a_descriptor_whose_closing_takes_long_holds_up_nobody),
        TEST(clients_that_break_the_contract_do_not_fill_the_log),
        TEST(the_watchdog_is_fed_by_the_engine_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
