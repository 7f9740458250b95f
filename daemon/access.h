/*
 * Who may connect, beside what the socket's permissions say: the lists allow_users and allow_groups
 * of the configuration. Both empty: everybody. Otherwise a client's uid must be in the first, or
 * one of its groups in the second, by the kernel's word at its connect(); nobody else is let in,
 * root included.
 */
#ifndef AGL_DAEMON_ACCESS_H
#define AGL_DAEMON_ACCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/config.h"
#include "model/failure.h"

enum { ACCESS_ENTRIES_MAX = 128 };

struct access_list {
    uint32_t users[ACCESS_ENTRIES_MAX], groups[ACCESS_ENTRIES_MAX];
    uint32_t user_count, group_count;
};

/* The number of a group by its name. -ENOENT: there is none. */
int access_find_group(const char *name, uint32_t *ret_id);

/* Looks the names up. -ENOENT: there is no such user or group; -E2BIG: too many; -EINVAL. The
 * failure names key and entry. */
int access_open(struct access_list *ret_list, const struct config *config, struct failure *failure);

/* Whether the peer of a connected socket may stay. */
bool access_is_allowed(const struct access_list *list, int socket_fd);

#endif
