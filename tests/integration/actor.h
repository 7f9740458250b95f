/*
 * Children of a test that act as users of their own, step by step as the test says. Only root can
 * have them.
 *
 *   test                                  child, as that user
 *     actor_start(&actor, &who, act, x)     act(stage, x)
 *     actor_hear(&actor)             <-       stage_tell(stage)
 *     actor_say(&actor)              ->       stage_hear(stage)
 *     actor_end(&actor)                       returns
 *
 * In the child a failed ACTOR_CHECK says what and ends it; the test hears of it at its next step.
 */
#ifndef AGL_TESTS_INTEGRATION_ACTOR_H
#define AGL_TESTS_INTEGRATION_ACTOR_H

#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

/* Unused on any usual machine; no names in any file. */
enum { ACTOR_DAEMON = 61000, ACTOR_A = 61001, ACTOR_B = 61002, ACTOR_GROUP = 61010 };

struct who {
    uid_t uid;
    gid_t gid;   /* 0: the number of the uid */
    gid_t group; /* one more; 0: none */
};

struct stage {
    int hears, tells;
};

struct actor {
    pid_t pid;
    struct stage stage; /* the test's ends */
};

void actor_start(struct actor *ret_actor, const struct who *who,
                 void (*act)(const struct stage *stage, void *context), void *context);
void actor_hear(struct actor *actor); /* waits for the child; fails the test if it has ended */
void actor_say(struct actor *actor);
void actor_end(struct actor *actor); /* waits for its end, and fails the test if it was a bad one */

/* A whole act without steps between. */
void actor_run(const struct who *who, void (*act)(const struct stage *stage, void *context),
               void *context);

void stage_tell(const struct stage *stage);
void stage_hear(const struct stage *stage);

#define ACTOR_CHECK(condition, ...)                                 \
    do {                                                            \
        if (!(condition)) {                                         \
            fprintf(stderr, "user %u: %s: ", getuid(), #condition); \
            fprintf(stderr, __VA_ARGS__);                           \
            fputc('\n', stderr);                                    \
            _exit(1);                                               \
        }                                                           \
    } while (0)

#endif
