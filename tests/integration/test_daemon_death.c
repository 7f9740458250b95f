/*
 * Death of the daemon: it is killed and started again while fifty clients do what clients do. Each
 * must be told within a second, be able to say what has become of its requests, and go on with the
 * next daemon.
 *
 * test_daemon_death [ROUNDS [SEED]]
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/integration/daemon.h"
#include "tests/integration/survivor.h"
#include "tests/support/test.h"

enum { MS = 1000000, SURVIVORS = 50, LIVE_NS_MAX = 20 * MS };

/* The promise is a second, for each client. It cannot be kept before the kernel has closed the dead
 * daemon's sockets, which it does in workers of its own (they take its io_uring apart) and, on a
 * machine that is busy with other things, after seconds. So a bare poll() on a bare connection
 * tells when that was; nobody may need a second more, but for the time in which its own thread
 * wanted a processor and got none. All of it together has a bound far above what such a machine
 * adds. */
static const uint64_t promised_ns = 1000ull * MS * AGL_SLOWNESS,
                      bound_ns = 20000ull * MS * AGL_SLOWNESS, patience_ns = 60000ull * MS;

static const char *const flags[] = {
    "--model",   "echo=echo:", "--model",       "story=" AGL_SOURCE_DIR "/models/story-glm",
    "--threads", "1",          "--running-max", "8",
    NULL};

static uint32_t rounds = AGL_DAEMON_DEATHS;
static unsigned seed, dice;

/* How many survivors live in which way. */
static const uint32_t crowd[SURVIVOR_WAYS] = {
    [SURVIVOR_WAIT_ADAPTIVE] = 6, [SURVIVOR_WAIT_SPIN] = 2, [SURVIVOR_WAIT_SLEEP] = 6,
    [SURVIVOR_WAIT_TIMED] = 6,    [SURVIVOR_POLL] = 5,      [SURVIVOR_DESCRIPTOR] = 6,
    [SURVIVOR_CONNECT] = 4,       [SURVIVOR_SUBMIT] = 5,    [SURVIVOR_QUEUE] = 5,
    [SURVIVOR_KEEP] = 5};

/* A bare connection, to see when the kernel closes it. */
struct canary {
    pthread_t thread;
    int fd;
    uint64_t told_ns;
};

struct stage {
    struct daemon daemon;
    struct survivor_world world;
    struct survivor survivors[SURVIVORS];
    struct canary canary;
    uint64_t *answers_ns; /* [rounds * SURVIVORS]: kill() until the client was told */
    uint32_t answer_count;
    uint32_t late;     /* more than the promise after kill() */
    uint32_t own_late; /* ... and by the client's own part */
    uint64_t own_ns_max;
    uint64_t starved_ns[SURVIVORS]; /* thread_starved_ns() at kill() */
    uint64_t canary_ns_max;         /* kill() until then */
    uint64_t way_ns_max[SURVIVOR_WAYS];
    uint64_t back_ns_max; /* kill() until the last survivor has its answers from the next daemon */
};

static void sleep_ns(uint64_t ns)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)},
        NULL);
}

/* ---- the crowd ------------------------------------------------------------------------------- */

static uint32_t progress_of(const struct survivor *survivor)
{
    /* acquire: pairs with the release in enter_next_stage(). */
    return atomic_load_explicit(&survivor->progress, memory_order_acquire);
}

/* The names of those who have not got there, for whoever has to find out why. */
static void fail_hung(const struct stage *stage, uint32_t goal, const char *where)
{
    for (uint32_t i = 0; i < SURVIVORS; i++)
        if (progress_of(&stage->survivors[i]) < goal)
            fprintf(stderr, "survivor %u hangs: %s\n", i,
                    survivor_way_names[stage->survivors[i].way]);
    fail_msg("somebody hangs %s", where);
}

static void check_failures(const struct stage *stage)
{
    for (uint32_t i = 0; i < SURVIVORS; i++)
        if (atomic_load(&stage->survivors[i].has_failed))
            fail_msg("survivor %u (%s): %s", i, survivor_way_names[stage->survivors[i].way],
                     stage->survivors[i].failure);
}

static bool have_all_come(const struct stage *stage, uint32_t goal)
{
    for (uint32_t i = 0; i < SURVIVORS; i++)
        if (progress_of(&stage->survivors[i]) < goal)
            return false;
    return true;
}

static void await_all(const struct stage *stage, uint32_t round, enum survivor_stage goal,
                      const char *where)
{
    uint32_t progress = round * SURVIVOR_STAGES + (uint32_t)goal;
    uint64_t end_ns = agl_now_ns() + patience_ns;
    while (!have_all_come(stage, progress)) {
        check_failures(stage);
        if (agl_now_ns() > end_ns)
            fail_hung(stage, progress, where);
        sleep_ns(MS);
    }
}

static void learn_answers(struct stage *stage)
{
    const uint32_t prompt[] = {1, 403, 407};
    struct agl_client *client = daemon_connect(&stage->daemon);
    for (uint32_t model = 0; model < 2; model++) {
        struct agl_request request = AGL_REQUEST_INIT;
        request.model = model;
        request.max_tokens = SURVIVOR_TOKENS;
        request.flags = AGL_IGNORE_EOS;
        struct agl_event done =
            daemon_ask(client, request, prompt, 3, stage->world.expected[model], SURVIVOR_TOKENS);
        assert_int_equal(done.generated_tokens, SURVIVOR_TOKENS);
    }
    agl_close(client);
}

static void start_crowd(struct stage *stage)
{
    uint32_t number = 0;
    stage->world.socket_path = stage->daemon.socket_path;
    for (uint32_t way = 0; way < SURVIVOR_WAYS; way++)
        for (uint32_t i = 0; i < crowd[way]; i++, number++)
            survivor_start(&stage->survivors[number], &stage->world, way, number);
    assert_int_equal(number, SURVIVORS);
    await_all(stage, 0, SURVIVOR_DONE, "before the first round");
}

static void end_crowd(struct stage *stage)
{
    atomic_store(&stage->world.round, SURVIVOR_END);
    for (uint32_t i = 0; i < SURVIVORS; i++)
        survivor_join(&stage->survivors[i]);
}

static void *wait_bare(void *argument)
{
    struct canary *canary = argument;
    struct pollfd waiting = {.fd = canary->fd, .events = POLLIN | POLLRDHUP};
    while (poll(&waiting, 1, -1) < 0)
        ;
    canary->told_ns = agl_now_ns();
    return NULL;
}

static void canary_start(struct canary *canary, const struct daemon *daemon)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, daemon->socket_path, sizeof daemon->socket_path);
    canary->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(canary->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(pthread_create(&canary->thread, NULL, wait_bare, canary), 0);
}

static void canary_end(struct canary *canary)
{
    pthread_join(canary->thread, NULL);
    close(canary->fd);
}

/* ---- what a daemon leaves -------------------------------------------------------------------- */

static uint32_t count_entries(const char *folder, const char *prefix)
{
    uint32_t count = 0;
    DIR *listing = opendir(folder);
    assert_non_null(listing);
    for (struct dirent *entry = readdir(listing); entry; entry = readdir(listing))
        count += entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(listing);
    return count;
}

static uint32_t count_boards(const struct daemon *daemon)
{
    char prefix[64];
    snprintf(prefix, sizeof prefix, "autoglm.%s", daemon->instance);
    return count_entries("/dev/shm", prefix);
}

/* The dead one's socket and board are there until the next one has put its own in their place. */
static void check_leftovers(const struct daemon *daemon, uint32_t pid)
{
    struct agl_status status;
    struct stat file;
    assert_int_equal(count_entries(daemon->folder, ""), 2); /* socket and log */
    assert_int_equal(lstat(daemon->socket_path, &file), 0);
    assert_true(S_ISSOCK(file.st_mode));
    assert_int_equal(count_boards(daemon), 1);
    assert_int_equal(agl_status_of(daemon->instance, &status, NULL, 0), 0);
    assert_int_equal(status.daemon_pid, pid);
}

/* ---- one death ------------------------------------------------------------------------------- */

static void note_answers(struct stage *stage, uint64_t kill_ns)
{
    uint64_t canary_ns = stage->canary.told_ns - kill_ns;
    if (canary_ns > stage->canary_ns_max)
        stage->canary_ns_max = canary_ns;
    for (uint32_t i = 0; i < SURVIVORS; i++) {
        const struct survivor *survivor = &stage->survivors[i];
        assert_true(survivor->answer_ns >= kill_ns);
        uint64_t took_ns = survivor->answer_ns - kill_ns;
        stage->answers_ns[stage->answer_count++] = took_ns;
        uint64_t excused_ns = canary_ns + survivor->starved_ns - stage->starved_ns[i];
        uint64_t own_ns = took_ns > excused_ns ? took_ns - excused_ns : 0;
        stage->late += took_ns > promised_ns;
        stage->own_late += own_ns > promised_ns;
        if (own_ns > stage->own_ns_max)
            stage->own_ns_max = own_ns;
        if (took_ns > stage->way_ns_max[survivor->way])
            stage->way_ns_max[survivor->way] = took_ns;
    }
    uint64_t back_ns = agl_now_ns() - kill_ns;
    if (back_ns > stage->back_ns_max)
        stage->back_ns_max = back_ns;
}

static void run_round(struct stage *stage, uint32_t round)
{
    struct daemon *daemon = &stage->daemon;
    atomic_store(&stage->world.kill_ns, 0);
    atomic_store(&stage->world.round, round);
    await_all(stage, round, SURVIVOR_WAITS, "before the daemon's death");
    canary_start(&stage->canary, daemon);
    sleep_ns((uint64_t)rand_r(&dice) % LIVE_NS_MAX);

    uint32_t old_pid = (uint32_t)daemon->pid;
    for (uint32_t i = 0; i < SURVIVORS; i++)
        stage->starved_ns[i] = thread_starved_ns(getpid(), stage->survivors[i].thread_id);
    uint64_t kill_ns = agl_now_ns();
    atomic_store_explicit(&stage->world.kill_ns, kill_ns, memory_order_release);
    daemon_die(daemon);
    check_leftovers(daemon, old_pid);
    daemon_restart(daemon, flags);
    check_leftovers(daemon, (uint32_t)daemon->pid);
    await_all(stage, round, SURVIVOR_KNOWS, "after the daemon's death");
    await_all(stage, round, SURVIVOR_DONE, "on its way to the next daemon");
    canary_end(&stage->canary);
    note_answers(stage, kill_ns);
}

/* ---- figures --------------------------------------------------------------------------------- */

static int by_value(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* Sorts the answers. */
static void print_figures(struct stage *stage)
{
    uint32_t states[4] = {0}, refusals = 0;
    uint64_t *answers_ns = stage->answers_ns;
    uint32_t count = stage->answer_count;
    for (uint32_t i = 0; i < SURVIVORS; i++) {
        for (int state = 0; state < 4; state++)
            states[state] += stage->survivors[i].states[state];
        refusals += stage->survivors[i].refusals;
    }
    qsort(answers_ns, count, sizeof *answers_ns, by_value);
    printf("daemon death: %u kills with %d clients; told after p50 %.1f, p99 %.1f, max %.1f ms "
           "(a bare poll at the latest after %.1f), %u over 1 s, %u of them by more than the "
           "client's own part (%.1f ms at the most); requests lost: %u not accepted, %u running, "
           "%u kept, as the events had "
           "said; "
           "%u of %u calls of agl_connect refused; everybody answered by the next daemon after "
           "%.0f ms at the most; seed %u\n",
           rounds, SURVIVORS, (double)answers_ns[count / 2] * 1e-6,
           (double)answers_ns[(uint64_t)count * 99 / 100] * 1e-6,
           (double)answers_ns[count - 1] * 1e-6, (double)stage->canary_ns_max * 1e-6, stage->late,
           stage->own_late, (double)stage->own_ns_max * 1e-6, states[AGL_REQUEST_SUBMITTED],
           states[AGL_REQUEST_RUNNING], states[AGL_REQUEST_KEPT], refusals,
           rounds * crowd[SURVIVOR_CONNECT], (double)stage->back_ns_max * 1e-6, seed);
    printf("daemon death: told at the latest, in ms:");
    for (int way = 0; way < SURVIVOR_WAYS; way++)
        printf("%s %s %.1f", way ? "," : "", survivor_way_names[way],
               (double)stage->way_ns_max[way] * 1e-6);
    printf("\n");
}

/* The deaths were anywhere: each way of waiting was surprised, with requests in each state. */
static void check_figures(const struct stage *stage)
{
    uint32_t states[4] = {0};
    assert_int_equal(stage->answer_count, rounds * SURVIVORS);
    assert_int_equal(stage->own_late, 0);
    assert_true(stage->answers_ns[stage->answer_count - 1] <= bound_ns);
    for (int way = 0; way < SURVIVOR_WAYS; way++)
        assert_true(stage->way_ns_max[way] > 0);
    for (uint32_t i = 0; i < SURVIVORS; i++)
        for (int state = 0; state < 4; state++)
            states[state] += stage->survivors[i].states[state];
    assert_true(states[AGL_REQUEST_SUBMITTED] > 0);
    assert_true(states[AGL_REQUEST_RUNNING] > 0);
    assert_true(states[AGL_REQUEST_KEPT] > 0);
}

/* ---- the tests ------------------------------------------------------------------------------- */

static int own_session_mappings(void)
{
    const struct daemon ourselves = {.pid = getpid()};
    return daemon_session_mappings(&ourselves);
}

/* A process of many threads waits for all processors whenever its table of descriptors grows: that
 * would be counted as ours. */
static void grow_descriptor_table(void)
{
    enum { ENOUGH = 1000 };
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, ENOUGH);
    if (fd >= 0)
        close(fd);
}

static void clients_survive_their_daemon(void **state)
{
    static struct stage stage;
    grow_descriptor_table();
    int descriptors = test_open_descriptors();
    assert_int_equal(own_session_mappings(), 0);
    stage.answers_ns = calloc((size_t)rounds * SURVIVORS, sizeof *stage.answers_ns);
    assert_non_null(stage.answers_ns);
    daemon_start(&stage.daemon, flags);
    learn_answers(&stage);
    start_crowd(&stage);
    for (uint32_t round = 1; round <= rounds; round++)
        run_round(&stage, round);
    end_crowd(&stage);
    print_figures(&stage);
    check_figures(&stage);
    assert_int_equal(test_open_descriptors(), descriptors);
    assert_int_equal(own_session_mappings(), 0);
    daemon_wait_quiet(&stage.daemon);
    assert_int_equal(daemon_stop(&stage.daemon), 0);
    assert_int_equal(count_boards(&stage.daemon), 0);
    free(stage.answers_ns);
}

/* Alone, since whoever spins for ever takes a processor from the others, and from the workers of
 * the kernel on which the news depends. */
static void a_client_that_spins_for_ever_is_told_too(void **state)
{
    static struct stage stage;
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    struct agl_event event;
    daemon_start(&stage.daemon, flags);
    options.socket_path = stage.daemon.socket_path;
    options.wait_mode = AGL_WAIT_SPIN;
    assert_int_equal(agl_connect(&client, &options), 0);
    canary_start(&stage.canary, &stage.daemon);
    uint64_t kill_ns = agl_now_ns();
    daemon_kill(&stage.daemon);
    assert_int_equal(agl_wait(client, &event, UINT64_MAX), -EPIPE);
    uint64_t told_ns = agl_now_ns();
    canary_end(&stage.canary);
    printf("daemon death: one that spins told after %.1f ms, a bare poll after %.1f\n",
           (double)(told_ns - kill_ns) * 1e-6, (double)(stage.canary.told_ns - kill_ns) * 1e-6);
    assert_true(told_ns < stage.canary.told_ns + 5 * promised_ns);
    agl_close(client);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clients_survive_their_daemon),
        cmocka_unit_test(a_client_that_spins_for_ever_is_told_too),
    };
    if (argc > 1)
        rounds = (uint32_t)strtoul(argv[1], NULL, 10);
    seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : (unsigned)agl_now_ns();
    dice = seed;
    if (rounds == 0 || argc > 3) {
        fprintf(stderr, "Usage: test_daemon_death [ROUNDS [SEED]]\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
