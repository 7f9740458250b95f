#include "daemon/guard.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/engine_rig.h"
#include "tests/support/engine_stand.h"
#include "tests/support/test.h"

enum { BYTES = 4 * 4096 };

/* Memory whose pages are not there: what a failed page looks like to who touches it. */
static volatile uint8_t *map_nothing(void *place, uint64_t bytes)
{
    int fd = memfd_create("nothing", MFD_CLOEXEC);
    assert_true(fd >= 0);
    void *base = mmap(place, bytes, PROT_READ, MAP_SHARED | (place ? MAP_FIXED : 0), fd, 0);
    assert_ptr_not_equal(base, MAP_FAILED);
    close(fd);
    return base;
}

static void a_page_that_fails_becomes_zeroes_and_is_noted(void **state)
{
    assert_int_equal(guard_open(3), 0);
    volatile uint8_t *other = map_nothing(NULL, BYTES);
    volatile uint8_t *base = map_nothing(NULL, BYTES);
    struct guard_entry *other_entry = guard_add((const void *)other, BYTES);
    struct guard_entry *entry = guard_add((const void *)base, BYTES);
    uint32_t hits = guard_hits();
    errno = 77;
    assert_int_equal(base[BYTES - 1], 0);
    assert_int_equal(errno, 77);
    assert_int_equal(guard_hits(), hits + 1);
    assert_true(guard_was_hit(entry));
    assert_false(guard_was_hit(other_entry));
    assert_int_equal(base[0], 0); /* the whole of it is there now */
    assert_int_equal(guard_hits(), hits + 1);
    guard_remove(entry);
    guard_remove(other_entry);
    munmap((void *)base, BYTES);
    munmap((void *)other, BYTES);
    guard_close();
}

static void places_are_bounded_and_used_again(void **state)
{
    static uint8_t memory[3];
    assert_null(guard_add(memory, 1)); /* not open */
    assert_int_equal(guard_open(2), 0);
    struct guard_entry *first = guard_add(memory, 1);
    assert_non_null(first);
    assert_non_null(guard_add(memory + 1, 1));
    assert_null(guard_add(memory + 2, 1));
    guard_remove(first);
    assert_ptr_equal(guard_add(memory + 2, 1), first);
    guard_remove(NULL);
    assert_false(guard_was_hit(NULL));
    guard_close();
    guard_close();
}

/* What a child that touches this dies of. */
static int death_of(volatile const uint8_t *address)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        _exit(*address);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* A signal comes with no failed access: it has nothing to replace, and may not be swallowed. */
static void a_bus_error_that_is_sent_ends_the_process(void **state)
{
    if (IS_SANITIZED)
        test_skip("the sanitizer has a handler of its own");
    signal(SIGBUS, SIG_DFL);
    assert_int_equal(guard_open(1), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        kill(getpid(), SIGBUS);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    guard_close();
}

static void any_other_bus_error_still_ends_the_process(void **state)
{
    if (IS_SANITIZED)
        test_skip("the sanitizer has a handler of its own, and so the last word");
    signal(SIGBUS, SIG_DFL); /* cmocka has one, too */
    assert_int_equal(guard_open(1), 0);
    volatile uint8_t *guarded = map_nothing(NULL, BYTES);
    volatile uint8_t *base = map_nothing(NULL, BYTES);
    struct guard_entry *entry = guard_add((const void *)guarded, BYTES);
    assert_int_equal(death_of(guarded), 0);
    assert_int_equal(death_of(base), SIGBUS);
    guard_remove(entry);
    assert_int_equal(death_of(guarded), SIGBUS);
    guard_close();
    munmap((void *)guarded, BYTES);
    munmap((void *)base, BYTES);
}

/* Under the engine's own thread, which has all other signals blocked. */
static void a_session_whose_memory_fails_is_ended_and_no_other(void **state)
{
    struct engine_rig rig;
    struct client_half good, bad;
    assert_int_equal(guard_open(8), 0);
    rig_init(&rig);
    rig_start(&rig);
    client_half_open(&good, &CLIENT_HALF_GEOMETRY);
    client_half_open(&bad, &CLIENT_HALF_GEOMETRY);
    const struct region *half = &bad.session->options.client_half;
    map_nothing(half->base, half->bytes);
    rig_attach(&rig, &good);
    rig_attach(&rig, &bad);

    struct engine_report report = rig_report(&rig);
    assert_int_equal(report.kind, ENGINE_BROKEN);
    assert_ptr_equal(report.session, bad.session);
    assert_int_equal(bad.session->broken, -EFAULT);
    assert_non_null(strstr(bad.session->broken_why, "memory"));
    struct submission submission = client_half_request(&good, 1, 3, 5);
    client_half_submit(&good, &submission);
    struct event event;
    do
        event = client_half_wait(&good);
    while (event.kind != EVENT_DONE);
    assert_int_equal(event.reason, DONE_LENGTH);

    rig_detach(&rig, &bad);
    rig_detach(&rig, &good);
    rig_close(&rig);
    client_half_close(&bad);
    client_half_close(&good);
    guard_close();
}

/* Zeroes in the place of its cursor are no cursor, but not the client's doing. */
static void what_the_guard_put_there_is_not_held_against_the_client(void **state)
{
    struct stand s;
    struct event event;
    assert_int_equal(guard_open(8), 0);
    rig_init(&s.rig);
    stand_open(&s);
    struct session *session = s.client.session;
    stand_ask(&s, 1, 3, 400, 0);
    for (int i = 0; i < 100; i++)
        event = rig_event(&s.rig, &s.client); /* read, and the cursor is asked for */
    assert_int_equal(event.kind, EVENT_TOKENS);
    assert_true(session->events.head > 0); /* so 0 is none any more */
    rig_now_ns += 2 * (uint64_t)ENGINE_HOT_NS;
    rig_turn(&s.rig, 1);
    assert_int_equal(session->place, SESSION_COLD); /* so that the step is the first to touch it */
    const struct ring_writer *events = &session->events;
    while (events->slot_count - (events->tail - events->head) > session->promised)
        rig_turn(&s.rig, 1);
    const struct region *half = &session->options.client_half;
    map_nothing(half->base, half->bytes);
    rig_turn(&s.rig, 1); /* the next token asks for the cursor */
    assert_int_equal(session->broken, -EFAULT);
    assert_non_null(strstr(session->broken_why, "memory"));
    struct event last = {0};
    while (client_half_poll(&s.client, &event))
        last = event;
    assert_int_equal(last.kind, EVENT_SHUTDOWN);
    assert_int_equal(last.shutdown.error, -EFAULT);
    stand_close(&s);
    guard_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_that_fails_becomes_zeroes_and_is_noted),
        cmocka_unit_test(places_are_bounded_and_used_again),
        cmocka_unit_test(any_other_bus_error_still_ends_the_process),
        cmocka_unit_test(a_bus_error_that_is_sent_ends_the_process),
        cmocka_unit_test(a_session_whose_memory_fails_is_ended_and_no_other),
        cmocka_unit_test(what_the_guard_put_there_is_not_held_against_the_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
