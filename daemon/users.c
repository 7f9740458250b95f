#include "daemon/users.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct user *users_enter(struct users *users, uid_t uid)
{
    struct user *user = users->first;
    while (user && user->uid != uid)
        user = user->next;
    if (!user) {
        user = aligned_alloc(LAYOUT_PAIR_BYTES, sizeof *user);
        if (!user)
            return NULL;
        memset(user, 0, sizeof *user);
        user->uid = uid;
        user->next = users->first;
        users->first = user;
    }
    user->connections++;
    return user;
}

void users_leave(struct users *users, struct user *user)
{
    if (!user || --user->connections)
        return;
    assert(user->half_open == 0 && user->burying == 0 && user->sessions == 0 &&
           user->memory_bytes == 0);
    struct user **at = &users->first;
    while (*at != user)
        at = &(*at)->next;
    *at = user->next;
    free(user);
}
