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
    /* as by default: who means well must get in meanwhile, however busy the machine is */
    static const char *const flags[] = {"--model", "echo=echo:", "--handshake-ms", "2000", NULL};
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

enum { HALF_OPEN_MAX = 64, BEYOND = 8 };

/* As many silent ones as a user may have, and some beyond, who are sent away. false: the machine
 * was so busy that the first were out of time before, so that nothing is shown. */
static bool fill_the_hall(struct scene *scene, struct stranger *silent, uint64_t handshake_ns)
{
    struct stranger late;
    struct stranger_answer answer;
    uint64_t start_ns = agl_now_ns();
    for (int i = 0; i < HALF_OPEN_MAX; i++)
        scene_connect(scene, &silent[i]);
    for (int i = 0; i < BEYOND; i++) {
        scene_connect(scene, &late);
        int err = stranger_receive(late.socket_fd, &answer, STRANGER_PATIENCE_MS);
        stranger_leave(&late);
        if (agl_now_ns() - start_ns > handshake_ns / 2)
            return false;
        assert_int_equal(err, 0);
        assert_int_equal(answer.message.error.error, -EUSERS);
        assert_string_equal(answer.message.error.text, "too many handshakes of this user at once");
        scene_expect_served(scene);
    }
    return true;
}

static bool try_half_open(const char *handshake_ms)
{
    const char *const flags[] = {"--model", "echo=echo:", "--handshake-ms", handshake_ms, NULL};
    struct scene scene;
    struct stranger silent[HALF_OPEN_MAX];
    struct stranger_answer answer;
    scene_open(&scene, flags);
    bool is_in_time = fill_the_hall(&scene, silent, strtoull(handshake_ms, NULL, 10) * 1000000);
    for (int i = 0; i < HALF_OPEN_MAX; i++) {
        assert_int_equal(stranger_receive(silent[i].socket_fd, &answer, 2 * STRANGER_PATIENCE_MS),
                         0);
        assert_int_equal(answer.message.error.error, -ETIMEDOUT);
        stranger_leave(&silent[i]);
    }
    if (is_in_time)
        scene_expect_counted(&scene, HALF_OPEN_MAX + BEYOND, 0);
    scene_close(&scene);
    return is_in_time;
}

static void half_open_handshakes_are_bounded_and_end(void **state)
{
    static const char *const times_ms[] = {"4000", "10000", "40000"};
    bool is_in_time = false;
    for (size_t i = 0; i < sizeof times_ms / sizeof *times_ms && !is_in_time; i++)
        is_in_time = try_half_open(times_ms[i]);
    assert_true(is_in_time);
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

enum { FLOODERS = 4, FLOOD_RATE_MIN = IS_SANITIZED ? 200 : 1000, FLOOD_TRIES = 10 };
static const uint64_t second_ns = 1000000000;

enum flood_kind {
    FLOOD_WHOLE, /* the whole way, and away */
    FLOOD_WRONG, /* HELLO with a mistake, and away after the answer */
    FLOOD_GONE,  /* there and away */
    FLOOD_EARLY, /* HELLO, and away before the answer */
};

/* What became of them, as they were told. */
struct flood {
    _Atomic bool is_over;
    _Atomic uint64_t whole;
    _Atomic uint64_t wrong;       /* refused for their mistake */
    _Atomic uint64_t turned_away; /* too many at once */
    _Atomic uint64_t unheard;     /* not told, so refused or not */
};

static uint64_t flood_sum(const struct flood *flood)
{
    return flood->whole + flood->wrong + flood->turned_away + flood->unheard;
}

/* The answer to a HELLO with a mistake: an error, or 0 if the end came first. */
static int be_wrong(const struct stranger *stranger, struct message_hello hello)
{
    struct stranger_answer answer;
    hello.geometry.stagger = 1;
    stranger_send(stranger->socket_fd, &hello, sizeof hello, NULL, 0);
    int err = stranger_receive(stranger->socket_fd, &answer, STRANGER_PATIENCE_MS);
    return err < 0 || answer.bytes == 0 ? 0 : answer.message.error.error;
}

static bool flood_once(const struct scene *scene, struct flood *flood, enum flood_kind kind)
{
    struct stranger stranger;
    struct message_hello hello = stranger_hello("flood");
    _Atomic uint64_t *count = &flood->unheard;
    if (stranger_connect(&stranger, scene->daemon.socket_path) < 0)
        return false;
    int err = 0;
    if (kind == FLOOD_WHOLE && (err = stranger_enter(&stranger, &hello)) == 0)
        count = &flood->whole;
    else if (kind == FLOOD_WRONG && (err = be_wrong(&stranger, hello)) == -EPROTO)
        count = &flood->wrong;
    else if (kind == FLOOD_EARLY)
        stranger_send(stranger.socket_fd, &hello, sizeof hello, NULL, 0);
    if (err == -EUSERS)
        count = &flood->turned_away;
    atomic_fetch_add(count, 1);
    stranger_leave(&stranger);
    return err == 0 || err == -EPROTO;
}

static pid_t start_flooder(const struct scene *scene, struct flood *flood,
                           const enum flood_kind *kinds, uint32_t kind_count, uint32_t number)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint32_t turn = number; !atomic_load(&flood->is_over); turn++)
        if (!flood_once(scene, flood, kinds[turn % kind_count]))
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

/* Floods the daemon for a second in these kinds, one after the other; the sums in *flood go on.
 * Returns how many there were a second. */
static double flood_for_a_second(struct scene *scene, struct flood *flood,
                                 const enum flood_kind *kinds, uint32_t kind_count)
{
    uint64_t answers, before = flood_sum(flood), start_ns = agl_now_ns();
    pid_t flooders[FLOODERS];
    int status;
    atomic_store(&flood->is_over, false);
    for (uint32_t i = 0; i < FLOODERS; i++)
        flooders[i] = start_flooder(scene, flood, kinds, kind_count, i * 3);
    uint64_t longest_ns = serve_meanwhile(scene, start_ns + second_ns, &answers);
    atomic_store(&flood->is_over, true);
    for (int i = 0; i < FLOODERS; i++) {
        assert_int_equal(waitpid(flooders[i], &status, 0), flooders[i]);
        assert_int_equal(status, 0);
    }
    double rate = (double)(flood_sum(flood) - before) * 1e9 / (double)(agl_now_ns() - start_ns);
    printf("flood: %.0f handshakes a second; so far %llu whole, %llu wrong, %llu turned away, %llu "
           "not told; %llu answers for the good client meanwhile, the slowest after %.1f ms\n",
           rate, (unsigned long long)flood->whole, (unsigned long long)flood->wrong,
           (unsigned long long)flood->turned_away, (unsigned long long)flood->unheard,
           (unsigned long long)answers, (double)longest_ns * 1e-6);
    assert_true(answers > 0);
    assert_true(longest_ns < 10 * second_ns);
    return rate;
}

static struct flood *flood_open(void)
{
    struct flood *flood =
        mmap(NULL, sizeof *flood, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(flood != MAP_FAILED);
    return flood;
}

/* All wait for their answer, so that there are never more at once than a user may have. */
static void each_refusal_in_a_flood_is_counted(void **state)
{
    static const enum flood_kind kinds[] = {FLOOD_WRONG, FLOOD_WHOLE, FLOOD_WRONG, FLOOD_WRONG};
    struct scene scene;
    struct flood *flood = flood_open();
    scene_open(&scene, echo_flags);
    flood_for_a_second(&scene, flood, kinds, sizeof kinds / sizeof *kinds);
    assert_true(flood->whole > 0 && flood->wrong > 0);
    assert_int_equal(flood->turned_away + flood->unheard, 0);
    scene_expect_counted(&scene, flood->wrong, flood->wrong);
    scene_close(&scene);
    munmap(flood, sizeof *flood);
}

/* The counters have moved by what was told, and by no more than what was not. */
static void expect_flood_counted(struct scene *scene, const struct flood *flood)
{
    struct agl_status now;
    uint64_t refused = flood->wrong + flood->turned_away;
    scene_wait_refused(scene, refused);
    assert_int_equal(agl_status(scene->good, &now), 0);
    assert_int_equal(now.sessions_broken - scene->seen.sessions_broken, flood->wrong);
    assert_in_range(now.sessions_refused - scene->seen.sessions_refused, refused,
                    refused + flood->unheard);
}

static void a_flood_of_handshakes_does_not_stop_the_good_client(void **state)
{
    static const enum flood_kind kinds[] = {FLOOD_GONE,  FLOOD_EARLY, FLOOD_WRONG, FLOOD_WHOLE,
                                            FLOOD_WHOLE, FLOOD_WHOLE, FLOOD_WHOLE, FLOOD_WHOLE};
    struct scene scene;
    struct flood *flood = flood_open();
    double rate = 0;
    int tries = 0;
    scene_open(&scene, echo_flags);
    while (rate < FLOOD_RATE_MIN && tries++ < FLOOD_TRIES) /* the machine may have more to do */
        rate = flood_for_a_second(&scene, flood, kinds, sizeof kinds / sizeof *kinds);
    assert_true(rate >= FLOOD_RATE_MIN);
    assert_true(flood->whole > 0 && flood->wrong > 0 && flood->unheard > 0);
    assert_true(scene_log_lines(&scene, "refused client \"flood\"") <= (FLOOD_TRIES + 60) * 10);
    expect_flood_counted(&scene, flood);
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
        cmocka_unit_test(each_refusal_in_a_flood_is_counted),
        cmocka_unit_test(a_flood_of_handshakes_does_not_stop_the_good_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
