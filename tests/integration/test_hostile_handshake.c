/*
 * Attacks on the handshake of the real daemon: each is refused, counted, and named in the log once,
 * while a good client goes on being served and nothing is left of the bad one.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/integration/bad_half.h"
#include "tests/integration/scene.h"
#include "tests/support/test.h"

static const char *const echo_flags[] = {"--model", "echo=echo:", NULL};

enum { HELLO_BYTES = sizeof(struct message_hello), ATTACH_BYTES = sizeof(struct message_attach) };

/* Connects and says HELLO as `name`, so that ATTACH is next. */
static void enter_hall(const struct scene *scene, struct stranger *ret_stranger, const char *name)
{
    struct message_hello hello = stranger_hello(name);
    struct message_error refusal = {.error = 0};
    scene_connect(scene, ret_stranger);
    int err = stranger_enter_hall(ret_stranger, &hello, &refusal);
    if (err < 0)
        fail_msg("\"%s\" is not let in: %s: %s", name, strerror(-err), refusal.text);
}

static void send_packet(const struct stranger *stranger, const void *packet, size_t bytes,
                        const int *fds, uint32_t fd_count)
{
    ssize_t sent = stranger_send(stranger->socket_fd, packet, bytes, fds, fd_count);
    assert_int_equal(sent, bytes);
}

static void send_attach(const struct stranger *stranger, const int *fds, uint32_t fd_count)
{
    struct message_attach attach = stranger_attach();
    send_packet(stranger, &attach, sizeof attach, fds, fd_count);
}

static uint64_t half_bytes(const struct stranger *stranger)
{
    return client_half_bytes(&stranger->geometry);
}

/* ---- what comes instead of a half --------------------------------------------------------------
 */

static void whatever_is_no_right_half_is_refused_by_name(void **state)
{
    struct scene scene;
    scene_open(&scene, echo_flags);
    for (uint32_t i = 0; i < bad_half_count; i++) {
        const struct bad_half *bad = &bad_halves[i];
        struct stranger stranger;
        char name[32];
        snprintf(name, sizeof name, "half-%u", i);
        enter_hall(&scene, &stranger, name);
        int fd = bad->make(&stranger, half_bytes(&stranger));
        if (fd >= 0) {
            send_attach(&stranger, &fd, 1);
            close(fd);
            scene_expect_refused(&scene, stranger.socket_fd, name, bad->error, bad->text);
        } else {
            fprintf(stderr, "*** SKIPPED here: a half that is %s: %s\n", bad->what, strerror(-fd));
        }
        stranger_leave(&stranger);
        scene_expect_served(&scene);
    }
    scene_close(&scene);
}

static void a_wrong_number_of_descriptors_is_refused(void **state)
{
    static const struct {
        uint32_t count;
        bool are_sockets;
        const char *text;
    } cases[] = {
        {0, false, "attach: no descriptor came with it, must be 1"},
        {2, false, "attach: more than 1 descriptor came with it"},
        {2, true, "attach: more than 1 descriptor came with it"},
        {STRANGER_FDS_MAX, false, "attach: more than 1 descriptor came with it"},
        {STRANGER_FDS_MAX, true, "attach: more than 1 descriptor came with it"},
    };
    struct scene scene;
    scene_open(&scene, echo_flags);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stranger stranger;
        int fds[STRANGER_FDS_MAX];
        enter_hall(&scene, &stranger, "counts");
        int fd = cases[i].are_sockets ? socket(AF_INET, SOCK_STREAM, 0)
                                      : half_make(half_bytes(&stranger));
        assert_true(fd >= 0);
        for (uint32_t k = 0; k < cases[i].count; k++)
            fds[k] = fd;
        send_attach(&stranger, fds, cases[i].count);
        close(fd);
        scene_expect_refused(&scene, stranger.socket_fd, "counts", -EPROTO, cases[i].text);
        stranger_leave(&stranger);
    }
    scene_close(&scene);
}

static void descriptors_with_hello_are_refused(void **state)
{
    struct scene scene;
    struct stranger stranger;
    struct message_hello hello = stranger_hello("early");
    int fds[STRANGER_FDS_MAX];
    scene_open(&scene, echo_flags);
    for (int i = 0; i < STRANGER_FDS_MAX; i++)
        fds[i] = STDERR_FILENO;
    scene_connect(&scene, &stranger);
    send_packet(&stranger, &hello, sizeof hello, fds, 1);
    scene_expect_refused(&scene, stranger.socket_fd, "early", -EPROTO,
                         "hello: descriptors came with it, none may");
    stranger_leave(&stranger);
    scene_connect(&scene, &stranger);
    send_packet(&stranger, &hello, sizeof hello, fds, STRANGER_FDS_MAX);
    scene_expect_refused(&scene, stranger.socket_fd, "early", -EPROTO,
                         "hello: descriptors came with it, none may");
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* ---- packets ----------------------------------------------------------------------------------
 */

static void what_is_no_message_is_refused(void **state)
{
    static char huge[180000];
    struct message_hello hello = stranger_hello("packets");
    struct message_attach attach = stranger_attach();
    struct message_welcome welcome = {.header =
                                          MESSAGE_INIT(MESSAGE_WELCOME, struct message_welcome)};
    memcpy(huge, &hello, sizeof hello);
    const struct {
        const void *packet;
        size_t bytes;
        const char *name;
        const char *text;
    } cases[] = {
        {&hello, 1, "?", "hello: 1 bytes are no message"},
        {&hello, HELLO_BYTES - 1, "?", "hello: 87 bytes, its header says 88, must be 88"},
        {huge, sizeof huge, "packets", "bytes and more, its header says 88, must be 88"},
        {&attach, sizeof attach, "?", "hello: message kind is 3, must be 1"},
        {&welcome, sizeof welcome, "?", "hello: message kind is 2, must be 1"},
        {"GET / HTTP/1.1\r\n\r\n", 18, "?", "hello: magic number is 0x20544547"},
    };
    struct scene scene;
    scene_open(&scene, echo_flags);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stranger stranger;
        scene_connect(&scene, &stranger);
        send_packet(&stranger, cases[i].packet, cases[i].bytes, NULL, 0);
        scene_expect_refused(&scene, stranger.socket_fd, cases[i].name, -EPROTO, cases[i].text);
        stranger_leave(&stranger);
    }
    scene_close(&scene);
}

static void a_hello_in_packets_of_a_byte_is_refused_once(void **state)
{
    struct scene scene;
    struct stranger stranger;
    struct message_hello hello = stranger_hello("bytes");
    scene_open(&scene, echo_flags);
    scene_connect(&scene, &stranger);
    for (size_t i = 0; i < sizeof hello; i++)
        if (stranger_send(stranger.socket_fd, (const char *)&hello + i, 1, NULL, 0) < 0)
            break; /* it is closed by now */
    scene_expect_refused(&scene, stranger.socket_fd, "?", -EPROTO, "hello: 1 bytes are no message");
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* A packet of no bytes cannot be told from the end. */
static void an_empty_packet_is_the_end(void **state)
{
    struct scene scene;
    struct stranger stranger;
    struct stranger_answer answer;
    scene_open(&scene, echo_flags);
    for (int with_half = 0; with_half < 2; with_half++) {
        int fd = -1;
        if (with_half) {
            enter_hall(&scene, &stranger, "empty");
            fd = half_make(half_bytes(&stranger));
            assert_true(fd >= 0);
        } else {
            scene_connect(&scene, &stranger);
        }
        send_packet(&stranger, "", 0, &fd, with_half);
        if (fd >= 0)
            close(fd);
        assert_int_equal(stranger_receive(stranger.socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
        assert_int_equal(answer.bytes, 0);
        stranger_leave(&stranger);
    }
    scene_expect_counted(&scene, 0, 0);
    scene_close(&scene);
}

/* ---- closing at every byte ---------------------------------------------------------------------
 */

/* So many bytes of HELLO or, after a whole one, of ATTACH with a right half; and the end. */
static void close_after(const struct scene *scene, bool is_attach, size_t bytes, bool waits)
{
    struct stranger stranger;
    struct stranger_answer answer;
    struct message_hello hello = stranger_hello("closer");
    struct message_attach attach = stranger_attach();
    int half = -1;
    if (is_attach) {
        enter_hall(scene, &stranger, "closer");
        half = half_make(half_bytes(&stranger));
        assert_true(half >= 0);
    } else {
        scene_connect(scene, &stranger);
    }
    send_packet(&stranger, is_attach ? (void *)&attach : &hello, bytes, &half, is_attach);
    if (waits)
        assert_int_equal(stranger_receive(stranger.socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
    for (uint32_t i = 0; waits && i < answer.fd_count; i++)
        close(answer.fds[i]);
    if (half >= 0)
        close(half);
    stranger_leave(&stranger);
}

/* One packet cut at each of its bytes; *refused goes on counting. All are refused but the empty
 * packet, which is an end, and the whole one, which is right. The daemon may not be left behind by
 * more than the handshakes that a user may have open. */
static void close_at_every_byte(struct scene *scene, bool is_attach, bool waits, uint64_t *refused)
{
    enum { AHEAD = 16 };
    size_t all = is_attach ? ATTACH_BYTES : HELLO_BYTES;
    for (size_t bytes = 0; bytes <= all; bytes++) {
        /* Who is gone before a whole one is answered may be refused or just be gone. */
        close_after(scene, is_attach, bytes, waits || bytes == all);
        *refused += bytes > 0 && bytes < all;
        if (bytes % AHEAD == 0)
            scene_wait_refused(scene, *refused);
    }
}

static void closing_at_every_byte_is_counted_and_leaves_nothing(void **state)
{
    struct scene scene;
    scene_open(&scene, echo_flags);
    for (int waits = 0; waits < 2; waits++) {
        uint64_t refused = 0;
        close_at_every_byte(&scene, false, waits, &refused);
        close_at_every_byte(&scene, true, waits, &refused);
        scene_expect_counted(&scene, refused, refused);
        scene_expect_served(&scene);
    }
    scene_close(&scene);
}

/* ---- silence ----------------------------------------------------------------------------------
 */

static void silence_is_refused_when_the_time_is_up(void **state)
{
    static const char *const flags[] = {"--model", "echo=echo:", "--handshake-ms", "300", NULL};
    static const char text[] = "the handshake took too long (handshake_ms)";
    struct scene scene;
    struct stranger stranger;
    scene_open(&scene, flags);
    scene_connect(&scene, &stranger);
    scene_expect_refused(&scene, stranger.socket_fd, "?", -ETIMEDOUT, text);
    stranger_leave(&stranger);
    enter_hall(&scene, &stranger, "half-way");
    scene_expect_refused(&scene, stranger.socket_fd, "half-way", -ETIMEDOUT, text);
    stranger_leave(&stranger);
    scene_close(&scene);
}

static void half_open_handshakes_are_bounded_and_end(void **state)
{
    enum { LIMIT = 64, BEYOND = 8 };
    static const char *const flags[] = {"--model", "echo=echo:", "--handshake-ms", "6000", NULL};
    struct scene scene;
    struct stranger open[LIMIT], late;
    struct stranger_answer answer;
    scene_open(&scene, flags);
    for (int i = 0; i < LIMIT; i++)
        scene_connect(&scene, &open[i]);
    for (int i = 0; i < BEYOND; i++) {
        scene_connect(&scene, &late);
        assert_int_equal(stranger_receive(late.socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
        assert_int_equal(answer.message.error.error, -EUSERS);
        assert_string_equal(answer.message.error.text, "too many handshakes of this user at once");
        stranger_leave(&late);
        scene_expect_served(&scene);
    }
    for (int i = 0; i < LIMIT; i++) {
        assert_int_equal(stranger_receive(open[i].socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
        assert_int_equal(answer.message.error.error, -ETIMEDOUT);
        stranger_leave(&open[i]);
    }
    scene_expect_counted(&scene, LIMIT + BEYOND, 0);
    scene_close(&scene);
}

/* ---- after the handshake -----------------------------------------------------------------------
 */

static void a_packet_after_the_handshake_ends_the_session(void **state)
{
    struct scene scene;
    struct stranger stranger;
    struct stranger_answer answer;
    struct message_hello hello = stranger_hello("talker");
    scene_open(&scene, echo_flags);
    scene_connect(&scene, &stranger);
    assert_int_equal(stranger_enter(&stranger, &hello), 0);
    int fd = half_make(half_bytes(&stranger));
    assert_true(fd >= 0);
    send_attach(&stranger, &fd, 1);
    close(fd);
    assert_int_equal(stranger_receive(stranger.socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
    /* The packet's descriptor stays unread in the socket, whose closing may reset the connection
     * before a slow peer has read why. */
    if (answer.bytes)
        assert_int_equal(answer.message.error.error, -EPROTO);
    struct agl_status now;
    assert_int_equal(agl_status(scene.good, &now), 0);
    assert_int_equal(now.sessions_broken, scene.seen.sessions_broken + 1);
    assert_int_equal(now.sessions_refused, scene.seen.sessions_refused);
    assert_int_equal(scene_log_lines(&scene, "of \"talker\" (process "), 1);
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* ---- a flood ----------------------------------------------------------------------------------
 */

enum { FLOODERS = 4, FLOOD_SECONDS = 3 };

struct flood {
    _Atomic bool is_over;
    _Atomic uint64_t whole, half, wrong, failed;
};

static bool flood_once(const struct scene *scene, struct flood *flood, uint32_t kind)
{
    struct stranger stranger;
    struct message_hello hello = stranger_hello("flood");
    if (stranger_connect(&stranger, scene->daemon.socket_path) < 0)
        return false;
    bool is_done = true;
    switch (kind) {
    case 0: /* there and away */
        atomic_fetch_add(&flood->half, 1);
        break;
    case 1: /* HELLO, and away before the answer */
        stranger_send(stranger.socket_fd, &hello, sizeof hello, NULL, 0);
        atomic_fetch_add(&flood->half, 1);
        break;
    case 2:
        hello.geometry.stagger = 1;
        stranger_send(stranger.socket_fd, &hello, sizeof hello, NULL, 0);
        atomic_fetch_add(&flood->wrong, 1);
        break;
    default: /* the whole way, and away */
        is_done = stranger_enter(&stranger, &hello) == 0;
        atomic_fetch_add(is_done ? &flood->whole : &flood->failed, 1);
    }
    stranger_leave(&stranger);
    return is_done;
}

static pid_t start_flooder(const struct scene *scene, struct flood *flood, uint32_t number)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint32_t turn = number; !atomic_load(&flood->is_over); turn++)
        if (!flood_once(scene, flood, turn % 8)) /* half of them go the whole way */
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    _exit(0);
}

/* The good client's answers meanwhile; returns the longest time of one. */
static uint64_t serve_meanwhile(struct scene *scene, uint64_t until_ns, uint64_t *ret_answers)
{
    uint64_t longest_ns = 0;
    for (*ret_answers = 0; agl_now_ns() < until_ns; ++*ret_answers) {
        uint64_t start_ns = agl_now_ns();
        scene_expect_served(scene);
        uint64_t took_ns = agl_now_ns() - start_ns;
        longest_ns = took_ns > longest_ns ? took_ns : longest_ns;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return longest_ns;
}

static void a_flood_of_handshakes_does_not_stop_the_good_client(void **state)
{
    const uint64_t second_ns = 1000000000;
    struct scene scene;
    uint64_t answers;
    int status;
    pid_t flooders[FLOODERS];
    struct flood *flood =
        mmap(NULL, sizeof *flood, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(flood != MAP_FAILED);
    scene_open(&scene, echo_flags);
    for (uint32_t i = 0; i < FLOODERS; i++)
        flooders[i] = start_flooder(&scene, flood, i * 3);
    uint64_t longest_ns =
        serve_meanwhile(&scene, agl_now_ns() + FLOOD_SECONDS * second_ns, &answers);
    atomic_store(&flood->is_over, true);
    for (int i = 0; i < FLOODERS; i++) {
        assert_int_equal(waitpid(flooders[i], &status, 0), flooders[i]);
        assert_int_equal(status, 0);
    }
    uint64_t all = flood->whole + flood->half + flood->wrong + flood->failed;
    printf("flood: %.0f handshakes a second (%.0f of them whole, %llu in all turned away); "
           "%llu answers for the good client meanwhile, the slowest after %.1f ms\n",
           (double)all / FLOOD_SECONDS, (double)flood->whole / FLOOD_SECONDS,
           (unsigned long long)flood->failed, (unsigned long long)answers,
           (double)longest_ns * 1e-6);
    assert_true(flood->whole > 0 && flood->half > 0 && answers > 0);
    assert_true(longest_ns < 10 * second_ns);
    assert_true(scene_log_lines(&scene, "refused client \"flood\"") <=
                (FLOOD_SECONDS + 60) * 10); /* a machine may be slow to stop */
    scene_close(&scene);
    munmap(flood, sizeof *flood);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_is_no_right_half_is_refused_by_name),
        cmocka_unit_test(a_wrong_number_of_descriptors_is_refused),
        cmocka_unit_test(descriptors_with_hello_are_refused),
        cmocka_unit_test(what_is_no_message_is_refused),
        cmocka_unit_test(a_hello_in_packets_of_a_byte_is_refused_once),
        cmocka_unit_test(an_empty_packet_is_the_end),
        cmocka_unit_test(closing_at_every_byte_is_counted_and_leaves_nothing),
        cmocka_unit_test(silence_is_refused_when_the_time_is_up),
        cmocka_unit_test(half_open_handshakes_are_bounded_and_end),
        cmocka_unit_test(a_packet_after_the_handshake_ends_the_session),
        cmocka_unit_test(a_flood_of_handshakes_does_not_stop_the_good_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
