#include "model/memory.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096 };

/* The number behind `key` in a file of "key number" lines, or the number of a file that is one
 * (key ""). False without one: "max" is none. */
static bool read_number(const char *path, const char *key, uint64_t *ret_number)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    char line[256];
    bool found = false;
    size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) != 0)
            continue;
        char *end;
        errno = 0;
        unsigned long long number = strtoull(line + length, &end, 10);
        found = end != line + length && errno == 0;
        if (found)
            *ret_number = number;
    }
    fclose(file);
    return found;
}

static uint64_t machine_available(const char *root)
{
    char path[PATH_BYTES];
    uint64_t kibibytes;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (!read_number(path, "MemAvailable:", &kibibytes) || kibibytes > UINT64_MAX / 1024)
        return UINT64_MAX;
    return kibibytes * 1024;
}

/* This process's group, "/system.slice/x.service". */
static bool read_group(const char *root, char ret_group[PATH_BYTES])
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    char line[PATH_BYTES];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        found = strncmp(line, "0::/", 4) == 0;
        if (found) {
            line[strcspn(line, "\n")] = 0;
            memcpy(ret_group, line + 3, strlen(line + 3) + 1);
        }
    }
    fclose(file);
    return found;
}

static bool read_group_number(const char *root, const char *group, const char *name,
                              const char *key, uint64_t *ret_number)
{
    char path[3 * PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/%s", root, group, name) >= (int)sizeof path)
        return false;
    return read_number(path, key, ret_number);
}

/* What one group's limit leaves. Cached file pages that were not used lately count as free: the
 * kernel drops them first. */
static uint64_t group_available(const char *root, const char *group)
{
    uint64_t limit, used, cached = 0;
    if (!read_group_number(root, group, "memory.max", "", &limit) ||
        !read_group_number(root, group, "memory.current", "", &used))
        return UINT64_MAX;
    if (read_group_number(root, group, "memory.stat", "inactive_file ", &cached))
        used -= cached < used ? cached : used;
    return used < limit ? limit - used : 0;
}

uint64_t memory_available(const char *root)
{
    uint64_t available = machine_available(root);
    char group[PATH_BYTES];
    if (!read_group(root, group))
        return available;
    /* The limits of the groups above hold, too. */
    for (;;) {
        uint64_t left = group_available(root, group);
        available = left < available ? left : available;
        char *slash = strrchr(group, '/');
        if (!slash)
            return available;
        *slash = 0;
    }
}

int memory_check(uint64_t bytes, const char *for_what, struct failure *failure)
{
    uint64_t available = memory_available("");
    if (bytes <= available)
        return 0;
    return failure_set(failure, -ENOMEM, "%s would take %.2f GB; %.2f GB are free", for_what,
                       (double)bytes / 1e9, (double)available / 1e9);
}
