/* The models of a configuration: names and folders. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config_keys.h"
#include "model/json.h"
#include "model/path.h"

/* What can stand in a log line, a flag and a metric's label without quotes. */
static bool is_name(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length >= MODEL_NAME_BYTES)
        return false;
    for (; *name; name++) {
        bool is_letter = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z');
        if (!is_letter && !(*name >= '0' && *name <= '9') && !strchr("._-+:/@", *name))
            return false;
    }
    return true;
}

/* base/folder, resolved (path.h) where it exists; else as it stands, so that the
 * message about it names what was asked for. */
static int absolute(char *ret_path, const char *folder, const char *base, const char *where,
                    struct failure *failure)
{
    char joined[PATH_MAX], current[PATH_MAX] = "";
    bool is_relative = *folder != '/';
    if (is_relative && *base != '/' && !getcwd(current, sizeof current))
        return failure_set(failure, -errno, "%s: the current folder: %s", where, strerror(errno));

    int length = snprintf(joined, sizeof joined, "%s%s%s%s%s", current, *current ? "/" : "",
                          is_relative ? base : "", is_relative && *base ? "/" : "", folder);
    if (length >= (int)sizeof joined)
        return failure_set(failure, -ENAMETOOLONG, "%s: folder %s: too long", where,
                           json_quote(folder).text);
    char *resolved = path_resolve(joined);
    const char *path = resolved ? resolved : joined;
    int err = 0;
    if (strlen(path) >= CONFIG_PATH_BYTES)
        err = failure_set(failure, -ENAMETOOLONG, "%s: folder %s: more than %d bytes", where,
                          json_quote(path).text, CONFIG_PATH_BYTES - 1);
    else
        memcpy(ret_path, path, strlen(path) + 1);
    free(resolved);
    return err;
}

int config_set_model(struct config *config, const char *name, const char *folder, const char *base,
                     const char *where, struct failure *failure)
{
    if (!is_name(name))
        return failure_set(failure, -EINVAL,
                           "%s: model name %s: must be 1 to %d letters, digits or ._-+:/@", where,
                           json_quote(name).text, MODEL_NAME_BYTES - 1);
    if (!*folder)
        return failure_set(failure, -EINVAL, "%s: model %s: the folder is empty", where, name);

    struct config_model model = {.folder = "echo:"};
    memcpy(model.name, name, strlen(name) + 1);
    if (strcmp(folder, "echo:") != 0) {
        int err = absolute(model.folder, folder, base, where, failure);
        if (err < 0)
            return err;
    }

    uint32_t index = 0;
    while (index < config->model_count && strcmp(config->models[index].name, name) != 0)
        index++;
    if (index == CONFIG_MODELS_MAX)
        return failure_set(failure, -EINVAL, "%s: model %s: %d models are the most", where, name,
                           CONFIG_MODELS_MAX);
    config->models[index] = model;
    if (index == config->model_count)
        config->model_count++;
    return 0;
}
