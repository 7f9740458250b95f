#include "model/path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The path of `name` in a folder, which is freed. */
static char *join(char *folder, const char *name)
{
    char *path = NULL;
    if (folder && asprintf(&path, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, name) < 0) {
        path = NULL;
        errno = ENOMEM;
    }
    int err = errno;
    free(folder);
    errno = err;
    return path;
}

char *path_resolve(const char *path)
{
    struct stat status;
    if (stat(path, &status) < 0 || S_ISDIR(status.st_mode))
        return realpath(path, NULL);
    const char *slash = strrchr(path, '/');
    if (!slash)
        return join(realpath(".", NULL), path);
    char *folder = NULL;
    if (asprintf(&folder, "%.*s", slash == path ? 1 : (int)(slash - path), path) < 0) {
        errno = ENOMEM;
        return NULL;
    }
    char *resolved = realpath(folder, NULL);
    int err = errno;
    free(folder);
    errno = err;
    return join(resolved, slash + 1);
}
