#include "tests/integration/actor.h"

#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/test.h"

/* A process that has just changed its user is not to be looked into by others of that user; one
 * that the user started himself is, and that is what is to be tried. */
static void become(const struct who *who)
{
    gid_t gid = who->gid ? who->gid : (gid_t)who->uid;
    ACTOR_CHECK(setgroups(who->group != 0, &who->group) == 0, "groups");
    ACTOR_CHECK(setgid(gid) == 0 && setuid(who->uid) == 0, "ids");
    ACTOR_CHECK(prctl(PR_SET_DUMPABLE, 1) == 0, "dumpable");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

void actor_start(struct actor *ret_actor, const struct who *who,
                 void (*act)(const struct stage *stage, void *context), void *context)
{
    int there[2], back[2];
    assert_true(pipe(there) == 0 && pipe(back) == 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct stage stage = {.hears = there[0], .tells = back[1]};
        close(there[1]);
        close(back[0]);
        become(who);
        act(&stage, context);
        fflush(NULL);
        _exit(0);
    }
    close(there[0]);
    close(back[1]);
    *ret_actor = (struct actor){.pid = pid, .stage = {.hears = back[0], .tells = there[1]}};
}

void stage_tell(const struct stage *stage)
{
    ACTOR_CHECK(write(stage->tells, "x", 1) == 1, "the test is gone");
}

void stage_hear(const struct stage *stage)
{
    char byte;
    ACTOR_CHECK(read(stage->hears, &byte, 1) == 1, "the test is gone");
}

void actor_hear(struct actor *actor)
{
    char byte;
    if (read(actor->stage.hears, &byte, 1) != 1)
        fail_msg("the child has ended before its time");
}

void actor_say(struct actor *actor)
{
    assert_int_equal(write(actor->stage.tells, "x", 1), 1);
}

void actor_end(struct actor *actor)
{
    int status = 0;
    assert_int_equal(waitpid(actor->pid, &status, 0), actor->pid);
    close(actor->stage.hears);
    close(actor->stage.tells);
    assert_int_equal(status, 0);
}

void actor_run(const struct who *who, void (*act)(const struct stage *stage, void *context),
               void *context)
{
    struct actor actor;
    actor_start(&actor, who, act, context);
    actor_end(&actor);
}
