/* Configuration files: FILE, then FILE.d/NAME.json in the order of their names. */
#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_keys.h"
#include "model/json.h"

enum { FILE_BYTES_MAX = 1 << 20, WHERE_BYTES = PATH_MAX + 128 };

static const char session_prefix[] = "session.";

/* A name that a file may use at one level, with "prefix" taken away; NULL if it belongs elsewhere.
 */
static const char *name_at_level(const struct config_key *key, const char *prefix)
{
    size_t length = strlen(prefix);
    if (length)
        return strncmp(key->name, prefix, length) == 0 ? key->name + length : NULL;
    return strchr(key->name, '.') ? NULL : key->name;
}

static const char *nearest_name(const char *wrong, const char *prefix)
{
    static const char *const objects[] = {"models", "session"};
    const char *nearest = NULL;
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < config_key_count + 2; i++) {
        const char *name = i < config_key_count ? name_at_level(&config_keys[i], prefix)
                           : *prefix            ? NULL
                                                : objects[i - config_key_count];
        size_t distance = name ? config_distance(wrong, name) : SIZE_MAX;
        if (distance < best) {
            best = distance;
            nearest = name;
        }
    }
    return nearest;
}

/* An array becomes the text that a flag would give. */
static int set_list(struct config *config, const struct config_key *key, const cJSON *list,
                    const char *where, struct failure *failure)
{
    char text[2048] = "";
    size_t used = 0;
    for (const cJSON *item = list->child; item; item = item->next) {
        char number_text[32];
        uint64_t number;
        const char *name = item->valuestring;
        if (json_number_u64(item, &number) == 0) {
            snprintf(number_text, sizeof number_text, "%llu", (unsigned long long)number);
            name = number_text;
        } else if (!cJSON_IsString(item)) {
            return failure_set(failure, -EINVAL,
                               "%s: has %s in it, must be a list of names and "
                               "numbers",
                               where, json_type_name(item));
        }
        if (!*name || strchr(name, ','))
            return failure_set(failure, -EINVAL, "%s: has %s in it, which is no name", where,
                               json_quote(name).text);
        int more = snprintf(text + used, sizeof text - used, "%s%s", used ? "," : "", name);
        used += (size_t)more;
        if (used >= sizeof text)
            break; /* too long in any case, and config_set_text() says how long it may be */
    }
    return config_set_text(config, key, text, where, failure);
}

static int set_value(struct config *config, const struct config_key *key, const cJSON *value,
                     const char *where, struct failure *failure)
{
    char allowed[128];
    if (key->kind == CONFIG_LIST && cJSON_IsArray(value))
        return set_list(config, key, value, where, failure);
    if (key->kind != CONFIG_NUMBER && key->kind != CONFIG_LIST && cJSON_IsString(value))
        return config_set_text(config, key, value->valuestring, where, failure);
    uint64_t number;
    if (key->kind == CONFIG_NUMBER && json_number_u64(value, &number) == 0)
        return config_set_number(config, key, number, where, failure);

    config_key_describe(key, allowed, sizeof allowed);
    if (key->kind == CONFIG_NUMBER && cJSON_IsNumber(value))
        return failure_set(failure, -EINVAL, "%s: is %g, must be %s", where, value->valuedouble,
                           allowed);
    return failure_set(failure, -EINVAL, "%s: is %s, must be %s", where, json_type_name(value),
                       allowed);
}

static int read_models(struct config *config, const cJSON *models, const char *path,
                       struct failure *failure)
{
    char base[PATH_MAX], where[WHERE_BYTES];
    if (!cJSON_IsObject(models))
        return failure_set(failure, -EINVAL, "%s: models: is %s, must be an object {NAME: FOLDER}",
                           path, json_type_name(models));
    const char *slash = strrchr(path, '/');
    snprintf(base, sizeof base, "%.*s", slash ? (int)(slash - path + 1) : 0, path);
    for (const cJSON *model = models->child; model; model = model->next) {
        snprintf(where, sizeof where, "%s: models", path);
        if (!cJSON_IsString(model))
            return failure_set(failure, -EINVAL, "%s: %s: is %s, must be a folder or \"echo:\"",
                               where, json_quote(model->string).text, json_type_name(model));
        int err = config_set_model(config, model->string, model->valuestring, base, where, failure);
        if (err < 0)
            return err;
    }
    return 0;
}

static int read_object(struct config *config, const cJSON *object, const char *prefix,
                       const char *path, struct failure *failure);

static int read_item(struct config *config, const cJSON *item, const char *prefix, const char *path,
                     struct failure *failure)
{
    char name[128], where[WHERE_BYTES];
    if (!*prefix && strcmp(item->string, "models") == 0)
        return read_models(config, item, path, failure);
    if (!*prefix && strcmp(item->string, "session") == 0) {
        if (!cJSON_IsObject(item))
            return failure_set(failure, -EINVAL, "%s: session: is %s, must be an object", path,
                               json_type_name(item));
        return read_object(config, item, session_prefix, path, failure);
    }

    snprintf(name, sizeof name, "%s%s", prefix, item->string);
    const struct config_key *key = config_key_find(name);
    if (!key || !name_at_level(key, prefix))
        return failure_set(
            failure, -EINVAL, "%s: unknown key %s; the nearest known one is \"%s%s\"", path,
            json_quote(item->string).text, prefix, nearest_name(item->string, prefix));
    snprintf(where, sizeof where, "%s: %s", path, name);
    return set_value(config, key, item, where, failure);
}

static int read_object(struct config *config, const cJSON *object, const char *prefix,
                       const char *path, struct failure *failure)
{
    for (const cJSON *item = object->child; item; item = item->next) {
        int err = read_item(config, item, prefix, path, failure);
        if (err < 0)
            return err;
    }
    return 0;
}

int config_parse(struct config *config, const char *text, size_t bytes, const char *path,
                 struct failure *failure)
{
    cJSON *root;
    int err = json_parse(&root, text, bytes, path, JSON_COMMENTS, failure);
    if (err < 0)
        return err;
    if (cJSON_IsObject(root))
        err = read_object(config, root, "", path, failure);
    else
        err = failure_set(failure, -EINVAL, "%s: is %s, must be an object", path,
                          json_type_name(root));
    cJSON_Delete(root);
    return err;
}

static int read_file(struct config *config, const char *path, struct failure *failure)
{
    char *text;
    size_t bytes;
    int err = json_read_text(&text, &bytes, path, FILE_BYTES_MAX, failure);
    if (err < 0)
        return err;
    err = config_parse(config, text, bytes, path, failure);
    free(text);
    return err;
}

static int is_drop_in(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return entry->d_name[0] != '.' && length > 5 &&
           strcmp(entry->d_name + length - 5, ".json") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* not alphasort(): the locale has no say */
}

static int read_drop_ins(struct config *config, const char *path, struct failure *failure)
{
    char folder[PATH_MAX], drop_in[PATH_MAX];
    if (snprintf(folder, sizeof folder, "%s.d", path) >= (int)sizeof folder)
        return failure_set(failure, -ENAMETOOLONG, "%s: too long", json_quote(path).text);
    struct dirent **entries;
    int count = scandir(folder, &entries, is_drop_in, by_name);
    if (count < 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? 0
                   : failure_set(failure, -errno, "%s: %s", folder, strerror(errno));

    int err = 0;
    for (int i = 0; i < count; i++) {
        int length = snprintf(drop_in, sizeof drop_in, "%s/%s", folder, entries[i]->d_name);
        if (err == 0 && length >= (int)sizeof drop_in)
            err = failure_set(failure, -ENAMETOOLONG, "%s: too long", json_quote(folder).text);
        if (err == 0)
            err = read_file(config, drop_in, failure);
        free(entries[i]);
    }
    free(entries);
    return err;
}

int config_read_files(struct config *config, const char *path, bool is_required,
                      struct failure *failure)
{
    int err = read_file(config, path, failure);
    if (err < 0 && (is_required || err != -ENOENT))
        return err;
    return read_drop_ins(config, path, failure);
}
