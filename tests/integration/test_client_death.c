/*
 * Death at any point: clients are killed with SIGKILL wherever they happen to be, and the daemon
 * must not care. Nothing of them stays, nobody else notices, and it takes no time.
 *
 * test_client_death [ROUNDS [SEED]]
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/integration/daemon.h"
#include "tests/integration/killer.h"
#include "tests/integration/witness.h"
#include "tests/support/test.h"

enum { MS = 1000000, WARM_ROUNDS = 20 };

/* The promise is 100 ms, for each kill. What a busy machine adds is not the daemon's part: the time
 * until the kernel has ended the victim, and the time in which the daemon's control thread, its
 * engine or we who look wanted a processor and got none. All of it together has a bound far above
 * what such a machine adds. Under a sanitizer all takes AGL_SLOWNESS times as long. */
static const uint64_t promised_ns = 100ull * MS * AGL_SLOWNESS,
                      bound_ns = 3000ull * MS * AGL_SLOWNESS, patience_ns = 20000ull * MS;

static uint32_t rounds = AGL_CLIENT_DEATHS;
static unsigned seed;

/* The daemon and everybody in it. */
struct stage {
    struct daemon daemon;
    struct agl_client *observer; /* looks at the board, asks nothing */
    struct witness_answers expected[WITNESSES];
    struct witness_state *states; /* [WITNESSES] */
    pid_t witnesses[WITNESSES];
    struct killer killer;
    uint32_t sessions; /* with nobody there but observer and witnesses */
    int descriptors;
};

/* What the rounds have shown. */
struct figures {
    uint32_t by_way[KILLER_WAYS];
    uint32_t by_phase[VICTIM_PHASES];
    uint32_t in_library, in_session, with_live, with_kept;
    uint64_t steps;
    uint64_t *places; /* [rounds] */
    uint32_t place_count;
    uint64_t
        *gone_ns; /* [rounds] of those with a session: kill() until the board has forgotten it */
    uint64_t *reclaimed_ns; /* [rounds] ... until the last of its descriptors is closed */
    uint32_t time_count;
    uint32_t late;     /* not reclaimed within the promise, whoever is to blame */
    uint32_t own_late; /* ... and by the daemon's own part */
    uint64_t own_ns_max, ns_max;
};

/* ---- the others ------------------------------------------------------------------------------ */

static void check_witnesses(const struct stage *stage)
{
    for (uint32_t i = 0; i < WITNESSES; i++) {
        int status = 0;
        pid_t got = waitpid(stage->witnesses[i], &status, WNOHANG);
        if (got != 0)
            fail_msg("witness %u ended (status %#x): %s", i, status, stage->states[i].failure);
    }
}

static void start_witnesses(struct stage *stage)
{
    stage->states = mmap(NULL, WITNESSES * sizeof *stage->states, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(stage->states != MAP_FAILED);
    for (uint32_t i = 0; i < WITNESSES; i++) {
        stage->witnesses[i] =
            witness_fork(&stage->daemon, i, &stage->states[i], &stage->expected[i]);
        assert_true(stage->witnesses[i] > 0);
    }
    for (uint32_t i = 0; i < WITNESSES; i++)
        while (!atomic_load_explicit(&stage->states[i].is_ready, memory_order_relaxed)) {
            check_witnesses(stage);
            nanosleep(&(struct timespec){.tv_nsec = MS}, NULL);
        }
}

static void stop_witnesses(struct stage *stage, uint64_t *ret_answers, uint64_t *ret_tokens)
{
    *ret_answers = *ret_tokens = 0;
    for (uint32_t i = 0; i < WITNESSES; i++)
        atomic_store_explicit(&stage->states[i].must_stop, 1, memory_order_relaxed);
    for (uint32_t i = 0; i < WITNESSES; i++) {
        int status = 0;
        assert_int_equal(waitpid(stage->witnesses[i], &status, 0), stage->witnesses[i]);
        if (status != 0)
            fail_msg("witness %u failed (status %#x): %s", i, status, stage->states[i].failure);
        uint64_t answers = atomic_load_explicit(&stage->states[i].answers, memory_order_relaxed);
        assert_true(answers > 0);
        *ret_answers += answers;
        *ret_tokens += atomic_load_explicit(&stage->states[i].tokens, memory_order_relaxed);
    }
    munmap(stage->states, WITNESSES * sizeof *stage->states);
}

/* ---- one kill -------------------------------------------------------------------------------- */

static uint32_t sessions_now(const struct stage *stage)
{
    struct agl_status status;
    assert_int_equal(agl_status(stage->observer, &status), 0);
    return status.sessions;
}

/* Waits until the daemon has forgotten the dead client: its session is off the board, and then all
 * that it held is given back. The descriptors are what is closed last, after the engine has ended
 * the requests and freed their blocks, and with the mappings of both halves. */
static void await_reclaim(const struct stage *stage, uint64_t kill_ns, uint64_t *ret_gone_ns,
                          uint64_t *ret_reclaimed_ns)
{
    uint64_t gone_ns = 0;
    for (;;) {
        uint32_t sessions = sessions_now(stage);
        uint64_t since_ns = agl_now_ns() - kill_ns;
        if (!gone_ns && sessions <= stage->sessions)
            gone_ns = since_ns;
        int descriptors = gone_ns ? daemon_descriptors_now(&stage->daemon) : 0;
        if (gone_ns && descriptors <= stage->descriptors) {
            *ret_gone_ns = gone_ns;
            *ret_reclaimed_ns = agl_now_ns() - kill_ns;
            return;
        }
        if (since_ns > patience_ns)
            fail_msg("%.1f s after a kill: %u sessions instead of %u, %d descriptors instead of %d",
                     (double)since_ns * 1e-9, sessions, stage->sessions, descriptors,
                     stage->descriptors);
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
}

static void note(struct figures *figures, const struct kill *kill_)
{
    figures->by_way[kill_->way]++;
    figures->by_phase[kill_->phase]++;
    figures->steps += kill_->steps;
    figures->in_library += kill_->is_in_library;
    figures->in_session += kill_->has_session;
    figures->with_live += kill_->has_session && kill_->live_requests;
    figures->with_kept += kill_->has_session && kill_->kept_requests;
    if (kill_->place)
        figures->places[figures->place_count++] = kill_->place;
}

static void note_time(struct figures *figures, uint64_t reclaimed_ns, uint64_t excused_ns)
{
    uint64_t own_ns = reclaimed_ns > excused_ns ? reclaimed_ns - excused_ns : 0;
    figures->late += reclaimed_ns > promised_ns;
    figures->own_late += own_ns > promised_ns;
    if (own_ns > figures->own_ns_max)
        figures->own_ns_max = own_ns;
    if (reclaimed_ns > figures->ns_max)
        figures->ns_max = reclaimed_ns;
}

static uint64_t all_starved_ns(const struct stage *stage)
{
    return daemon_starved_ns(&stage->daemon) + thread_starved_ns(getpid(), getpid());
}

/* A victim without a session at its death may not even have been accepted yet, so there is nothing
 * to measure; but nothing of it may stay. */
static void kill_one(struct stage *stage, struct figures *figures, uint32_t round)
{
    static const enum killer_way ways[] = {KILLER_DELAY, KILLER_MARK, KILLER_DELAY,
                                           KILLER_INTERRUPT};
    struct kill kill_;
    uint64_t gone_ns, reclaimed_ns;
    pid_t pid = killer_aim(&stage->killer, ways[round % 4], &kill_);
    uint64_t starved_ns = all_starved_ns(stage);
    killer_strike(&stage->killer, pid, &kill_);
    await_reclaim(stage, kill_.kill_ns, &gone_ns, &reclaimed_ns);
    starved_ns = all_starved_ns(stage) - starved_ns;
    note(figures, &kill_);
    note_time(figures, reclaimed_ns, kill_.dead_ns - kill_.kill_ns + starved_ns);
    if (kill_.has_session) {
        figures->gone_ns[figures->time_count] = gone_ns;
        figures->reclaimed_ns[figures->time_count++] = reclaimed_ns;
    }
}

/* ---- figures --------------------------------------------------------------------------------- */

static void figures_init(struct figures *figures)
{
    size_t room = rounds > WARM_ROUNDS ? rounds : WARM_ROUNDS;
    *figures = (struct figures){.places = calloc(room, sizeof *figures->places),
                                .gone_ns = calloc(room, sizeof *figures->gone_ns),
                                .reclaimed_ns = calloc(room, sizeof *figures->reclaimed_ns)};
    assert_true(figures->places && figures->gone_ns && figures->reclaimed_ns);
}

static void figures_fini(struct figures *figures)
{
    free(figures->places);
    free(figures->gone_ns);
    free(figures->reclaimed_ns);
}

static int by_value(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static uint32_t count_distinct_places(const struct figures *figures)
{
    uint32_t distinct = 0;
    qsort(figures->places, figures->place_count, sizeof *figures->places, by_value);
    for (uint32_t i = 0; i < figures->place_count; i++)
        distinct += i == 0 || figures->places[i] != figures->places[i - 1];
    return distinct;
}

static void print_times(const char *what, uint64_t *times_ns, uint32_t count)
{
    qsort(times_ns, count, sizeof *times_ns, by_value);
    if (count)
        printf("%s p50 %.2f, p99 %.2f, max %.2f ms; ", what, (double)times_ns[count / 2] * 1e-6,
               (double)times_ns[(uint64_t)count * 99 / 100] * 1e-6,
               (double)times_ns[count - 1] * 1e-6);
}

static void print_figures(const struct stage *stage, struct figures *figures, uint64_t answers,
                          uint64_t tokens)
{
    printf("client death: %u kills (%u after a delay within a life of %.1f ms, %u from a phase, %u "
           "from an interrupt; %llu instructions stepped; %u distinct places, %u in the library); "
           "%u with a session, %u with requests, %u with kept ones; ",
           rounds, figures->by_way[KILLER_DELAY], (double)stage->killer.life_ns * 1e-6,
           figures->by_way[KILLER_MARK], figures->by_way[KILLER_INTERRUPT],
           (unsigned long long)figures->steps, count_distinct_places(figures), figures->in_library,
           figures->in_session, figures->with_live, figures->with_kept);
    print_times("off the board", figures->gone_ns, figures->time_count);
    print_times("all reclaimed", figures->reclaimed_ns, figures->time_count);
    printf("%u over %llu ms, %u of them by the daemon's own doing (at the most %.2f ms); %llu "
           "tokens in %llu answers of %d witnesses as in the quiet run; "
           "seed %u\n",
           figures->late, (unsigned long long)(promised_ns / MS), figures->own_late,
           (double)figures->own_ns_max * 1e-6, (unsigned long long)tokens,
           (unsigned long long)answers, WITNESSES, seed);
    printf("client death: killed in");
    for (int phase = 0; phase < VICTIM_PHASES; phase++)
        printf("%s %s %u of %u", phase ? "," : "", victim_phase_names[phase],
               figures->by_phase[phase], stage->killer.phase_steps[phase]);
    printf(" instructions\n");
}

/* ---- what they must be ------------------------------------------------------------------------
 */

static void expect_share(const char *what, uint64_t count, uint64_t all, uint32_t least_percent)
{
    if (count == 0 || count * 100 < all * least_percent)
        fail_msg("%s: %llu of %llu, must be at least 1 and %u %%", what, (unsigned long long)count,
                 (unsigned long long)all, least_percent);
}

/* The kills were anywhere: with everything that a client may hold and, where they were chosen by
 * the instruction, in every phase of a life, in the library and outside it, hardly two at the same
 * place. The shares are a third or less of what they usually are. */
static void check_places(const struct stage *stage, const struct figures *figures)
{
    enum { ENOUGH = 100 };
    if (rounds < ENOUGH)
        return;
    expect_share("killed after a delay", figures->by_way[KILLER_DELAY], rounds, 40);
    expect_share("killed with a session", figures->in_session, rounds, 30);
    expect_share("killed with live requests", figures->with_live, rounds, 20);
    expect_share("killed with kept requests", figures->with_kept, rounds, 2);
    if (!stage->killer.may_trace)
        return;
    uint32_t chosen = figures->by_way[KILLER_MARK] + figures->by_way[KILLER_INTERRUPT];
    expect_share("killed from a phase", figures->by_way[KILLER_MARK], rounds, 10);
    expect_share("killed from an interrupt", figures->by_way[KILLER_INTERRUPT], rounds, 20);
    for (int phase = VICTIM_CONNECT; phase < VICTIM_PHASES; phase++)
        expect_share(victim_phase_names[phase], figures->by_phase[phase], rounds, 0);
    expect_share("killed at a known place", figures->place_count, chosen, 100);
    expect_share("killed at distinct places", count_distinct_places(figures), chosen, 30);
    if (!IS_SANITIZED) /* with one most instructions are the sanitizer's */
        expect_share("killed in the library", figures->in_library, chosen, 10);
    expect_share("killed outside the library", chosen - figures->in_library, chosen, 10);
    expect_share("instructions stepped", figures->steps, chosen, 1000);
}

static void check_times(const struct figures *figures)
{
    assert_true(figures->time_count > 0);
    assert_int_equal(figures->own_late, 0);
    assert_true(figures->ns_max <= bound_ns);
}

/* ---- the test -------------------------------------------------------------------------------- */

static void set_stage(struct stage *stage)
{
    static const char *const flags[] = {
        "--model",   "echo=echo:", "--model", "story=" AGL_SOURCE_DIR "/models/story-glm",
        "--threads", "1",          NULL};
    daemon_start(&stage->daemon, flags);
    for (uint32_t i = 0; i < WITNESSES; i++)
        witness_listen(&stage->daemon, i, &stage->expected[i]);
    daemon_wait_quiet(&stage->daemon);
}

/* What a daemon without clients holds. */
struct holdings {
    int descriptors, session_mappings;
    uint64_t mapped_bytes, shared_bytes;
};

static struct holdings holdings_of(const struct daemon *daemon)
{
    daemon_wait_quiet(daemon);
    return (struct holdings){.descriptors = daemon_descriptors(daemon),
                             .session_mappings = daemon_session_mappings(daemon),
                             .mapped_bytes = daemon_mapped_bytes(daemon),
                             .shared_bytes = daemon_shared_bytes(daemon)};
}

static void run_rounds(struct stage *stage, struct figures *figures, uint32_t count)
{
    stage->observer = daemon_connect(&stage->daemon);
    start_witnesses(stage);
    stage->sessions = WITNESSES + 1;
    assert_int_equal(sessions_now(stage), stage->sessions);
    stage->descriptors = daemon_descriptors(&stage->daemon);
    killer_init(&stage->killer, stage->daemon.socket_path, seed);
    for (uint32_t round = 0; round < count; round++) {
        kill_one(stage, figures, round);
        check_witnesses(stage);
    }
}

static void end_rounds(struct stage *stage, uint64_t *ret_answers, uint64_t *ret_tokens)
{
    struct agl_status status;
    stop_witnesses(stage, ret_answers, ret_tokens);
    assert_int_equal(agl_status(stage->observer, &status), 0);
    assert_int_equal(status.sessions_broken, 0); /* to die is no breach of the contract */
    agl_close(stage->observer);
}

static void clients_die_anywhere_and_leave_nothing_behind(void **state)
{
    static struct stage stage;
    struct figures figures;
    uint64_t answers, tokens;
    set_stage(&stage);

    /* What an allocator keeps for the next time is there after a few rounds. */
    figures_init(&figures);
    run_rounds(&stage, &figures, WARM_ROUNDS);
    end_rounds(&stage, &answers, &tokens);
    killer_fini(&stage.killer);
    figures_fini(&figures);
    struct holdings before = holdings_of(&stage.daemon);

    figures_init(&figures);
    run_rounds(&stage, &figures, rounds);
    end_rounds(&stage, &answers, &tokens);
    struct holdings after = holdings_of(&stage.daemon);
    print_figures(&stage, &figures, answers, tokens);
    printf("client death: held before and after: %d and %d descriptors, %.1f and %.1f KiB shared, "
           "%.1f and %.1f MiB mapped\n",
           before.descriptors, after.descriptors, (double)before.shared_bytes / 1024,
           (double)after.shared_bytes / 1024, (double)before.mapped_bytes / (1 << 20),
           (double)after.mapped_bytes / (1 << 20));

    assert_int_equal(after.descriptors, before.descriptors);
    assert_int_equal(after.session_mappings, 0);
    assert_int_equal(after.shared_bytes, before.shared_bytes);
    assert_true(after.mapped_bytes <= before.mapped_bytes + (1 << 20));
    check_times(&figures);
    check_places(&stage, &figures);
    assert_true(answers >= WITNESSES && tokens >= answers);
    struct witness_answers again = {0};
    witness_listen(&stage.daemon, 0, &again);
    assert_memory_equal(&again, &stage.expected[0], sizeof again);
    killer_fini(&stage.killer);
    figures_fini(&figures);
    assert_int_equal(daemon_stop(&stage.daemon), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clients_die_anywhere_and_leave_nothing_behind),
    };
    if (argc > 1)
        rounds = (uint32_t)strtoul(argv[1], NULL, 10);
    seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : (unsigned)agl_now_ns();
    if (rounds == 0 || argc > 3) {
        fprintf(stderr, "Usage: test_client_death [ROUNDS [SEED]]\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
