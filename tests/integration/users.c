#include "tests/integration/users.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/support/test.h"

const struct who user_a = {.uid = ACTOR_A};
const struct who user_b = {.uid = ACTOR_B};

struct world *world;

void world_open(const struct daemon *daemon)
{
    assert_int_equal(chmod(daemon->folder, 0755), 0);
    world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(world != MAP_FAILED);
    memcpy(world->socket_path, daemon->socket_path, sizeof world->socket_path);
    world->daemon_pid = daemon->pid;
}

void world_start(struct daemon *ret_daemon, const char *const *flags)
{
    daemon_start_as(ret_daemon, flags, ACTOR_DAEMON);
    world_open(ret_daemon);
}

void world_close(struct daemon *daemon)
{
    munmap(world, sizeof *world);
    world = NULL;
    daemon_wait_quiet(daemon);
    assert_int_equal(daemon_stop(daemon), 0);
}

bool users_without_root(void)
{
    if (getuid() == 0)
        return false;
    fprintf(stderr, "\n*** SKIPPED: users beside each other need root, to be somebody else: run "
                    "this test as root.\n\n");
    return true;
}

/* ---- children's parts --------------------------------------------------------------------------
 */

void come_in(struct stranger *ret_stranger, const char *name)
{
    struct message_hello hello = stranger_hello(name);
    int err = stranger_connect(ret_stranger, world->socket_path);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
    err = stranger_enter(ret_stranger, &hello);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
}

void push(struct stranger *stranger, const struct submission *submission)
{
    int err = stranger_submit(stranger, submission);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
}

void next_event(struct stranger *stranger, struct event *ret_event)
{
    int err = stranger_wait(stranger, ret_event, STRANGER_PATIENCE_MS);
    ACTOR_CHECK(err == 0, "%s", strerror(-err));
}

void hear_out(struct stranger *stranger, uint32_t id, uint32_t prompt_tokens,
              struct event *ret_done)
{
    struct event event = {.kind = 0};
    while (event.kind != EVENT_DONE) {
        next_event(stranger, &event);
        ACTOR_CHECK(event.request == id, "request %u", event.request);
        for (uint32_t i = 0; event.kind == EVENT_TOKENS && i < event.count; i++)
            ACTOR_CHECK(event.tokens[i].id == 1 + (event.index + i) % prompt_tokens,
                        "token %u is %u", event.index + i, event.tokens[i].id);
    }
    *ret_done = event;
}
