#include "daemon/access.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "model/json.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

enum { LOOKUP_BYTES = 1024, LOOKUP_BYTES_MAX = 16 << 20, NAME_BYTES = 64, GROUPS_MAX = 65536 };

/* A number stands for itself, whether anybody has it or not. */
static bool is_number(const char *name, uint32_t *ret_id)
{
    uint64_t id = 0;
    for (const char *at = name; *at; at++) {
        if (*at < '0' || *at > '9' || (id = id * 10 + (uint64_t)(*at - '0')) >= UINT32_MAX)
            return false; /* the highest one means "none" to the kernel */
    }
    *ret_id = (uint32_t)id;
    return *name != 0;
}

/* One question to the system's lists; -ERANGE: the entry needs more room. */
typedef int ask_function(const char *name, char *buffer, size_t bytes, uint32_t *ret_id);

static int ask_user(const char *name, char *buffer, size_t bytes, uint32_t *ret_id)
{
    struct passwd entry, *found = NULL;
    int err = getpwnam_r(name, &entry, buffer, bytes, &found);
    if (!found)
        return err ? -err : -ENOENT;
    *ret_id = found->pw_uid;
    return 0;
}

static int ask_group(const char *name, char *buffer, size_t bytes, uint32_t *ret_id)
{
    struct group entry, *found = NULL;
    int err = getgrnam_r(name, &entry, buffer, bytes, &found);
    if (!found)
        return err ? -err : -ENOENT;
    *ret_id = found->gr_gid;
    return 0;
}

/* A group comes with the names of all its members, however many they are. */
static int look_up(ask_function *ask, const char *name, uint32_t *ret_id)
{
    int err = -ERANGE;
    for (size_t bytes = LOOKUP_BYTES; err == -ERANGE && bytes <= LOOKUP_BYTES_MAX; bytes *= 2) {
        char *buffer = malloc(bytes);
        if (!buffer)
            return -ENOMEM;
        err = ask(name, buffer, bytes, ret_id);
        free(buffer);
    }
    return err;
}

static int find_user(const char *name, uint32_t *ret_id)
{
    return look_up(ask_user, name, ret_id);
}

int access_find_group(const char *name, uint32_t *ret_id)
{
    return look_up(ask_group, name, ret_id);
}

/* Reads "NAME,NUMBER,..." into ids [ACCESS_ENTRIES_MAX]. */
static int read_list(const char *key, const char *text, int (*find)(const char *, uint32_t *),
                     uint32_t *ret_ids, uint32_t *ret_count, struct failure *failure)
{
    uint32_t count = 0;
    while (*text) {
        char name[NAME_BYTES];
        size_t length = strcspn(text, ",");
        if (length == 0 || length >= sizeof name)
            return failure_set(failure, -EINVAL, "%s: %s: every name must have 1 to %d letters",
                               key, json_quote(text).text, NAME_BYTES - 1);
        memcpy(name, text, length);
        name[length] = 0;
        text += length + (text[length] == ',');
        if (count == ACCESS_ENTRIES_MAX)
            return failure_set(failure, -E2BIG, "%s: more than %d entries", key,
                               ACCESS_ENTRIES_MAX);
        int err = is_number(name, &ret_ids[count]) ? 0 : find(name, &ret_ids[count]);
        if (err < 0)
            return failure_set(failure, err, "%s: %s: %s", key, json_quote(name).text,
                               err == -ENOENT ? "there is none of that name" : strerror(-err));
        count++;
    }
    *ret_count = count;
    return 0;
}

int access_open(struct access_list *ret_list, const struct config *config, struct failure *failure)
{
    struct access_list list = {.user_count = 0};
    int err = read_list("allow_users", config->allow_users, find_user, list.users, &list.user_count,
                        failure);
    if (err == 0)
        err = read_list("allow_groups", config->allow_groups, access_find_group, list.groups,
                        &list.group_count, failure);
    if (err == 0)
        *ret_list = list;
    return err;
}

static bool contains(const uint32_t *ids, uint32_t count, uint32_t id)
{
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* The groups beside the first; the kernel says how many if there is too little room. */
static bool has_other_group(const struct access_list *list, int socket_fd)
{
    gid_t few[32];
    gid_t *groups = few;
    socklen_t bytes = sizeof few;
    bool found = false;
    int err = getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, few, &bytes);
    if (err < 0 && errno == ERANGE && bytes <= GROUPS_MAX * sizeof(gid_t)) {
        groups = malloc(bytes);
        err = groups ? getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, groups, &bytes) : -1;
    }
    for (size_t i = 0; err == 0 && !found && i < bytes / sizeof *groups; i++)
        found = contains(list->groups, list->group_count, groups[i]);
    if (groups != few)
        free(groups);
    return found;
}

bool access_is_allowed(const struct access_list *list, int socket_fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (list->user_count == 0 && list->group_count == 0)
        return true;
    if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
        return false;
    return contains(list->users, list->user_count, peer.uid) ||
           contains(list->groups, list->group_count, peer.gid) ||
           (list->group_count && has_other_group(list, socket_fd));
}
