#include "model/checkpoint.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/checkpoint_files.h"
#include "model/json.h"

enum { INDEX_BYTES_MAX = 64 << 20 };

static const char SINGLE_NAME[] = "model.safetensors";
static const char INDEX_NAME[] = "model.safetensors.index.json";

static int open_file(struct checkpoint_file *file, struct failure *failure)
{
    /* O_NONBLOCK: a pipe in the file's place must not hang us. */
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (file->fd < 0)
        return failure_set(failure, -errno, "%s: %s", file->path, strerror(errno));
    if (fstat(file->fd, &file->status) < 0)
        return failure_set(failure, -errno, "%s: %s", file->path, strerror(errno));
    if (!S_ISREG(file->status.st_mode))
        return failure_set(failure, -EINVAL, "%s: not a regular file", file->path);
    return 0;
}

int checkpoint_reserve(struct checkpoint *checkpoint, size_t count, struct failure *failure)
{
    checkpoint->files = calloc(count, sizeof *checkpoint->files);
    checkpoint->tables = calloc(count, sizeof *checkpoint->tables);
    if (!checkpoint->files || !checkpoint->tables)
        return failure_set(failure, -ENOMEM, "no memory for %zu files", count);
    return 0;
}

int checkpoint_add_file(struct checkpoint *checkpoint, const char *folder, const char *name,
                        struct failure *failure)
{
    struct checkpoint_file *file = &checkpoint->files[checkpoint->file_count];
    *file = (struct checkpoint_file){.fd = -1};
    if (asprintf(&file->path, "%s/%s", folder, name) < 0) {
        file->path = NULL;
        return failure_set(failure, -ENOMEM, "%s: no memory for a path", folder);
    }
    checkpoint->file_count++;
    return open_file(file, failure);
}

/* Opens one more file of the folder and reads its table. */
static int add_file(struct checkpoint *checkpoint, const char *folder, const char *name,
                    struct failure *failure)
{
    int err = checkpoint_add_file(checkpoint, folder, name, failure);
    if (err < 0)
        return err;
    const struct checkpoint_file *file = &checkpoint->files[checkpoint->file_count - 1];
    return safetensors_read(&checkpoint->tables[checkpoint->file_count - 1], file->fd,
                            (uint64_t)file->status.st_size, file->path, failure);
}

static int compare_names(const void *a, const void *b)
{
    const struct safetensors_tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

int checkpoint_merge(struct checkpoint *checkpoint, struct failure *failure)
{
    size_t count = 0;
    for (size_t i = 0; i < checkpoint->file_count; i++)
        count += checkpoint->tables[i].count;
    checkpoint->tensors = calloc(count ? count : 1, sizeof *checkpoint->tensors);
    if (!checkpoint->tensors)
        return failure_set(failure, -ENOMEM, "no memory for %zu tensors", count);
    for (size_t i = 0; i < checkpoint->file_count; i++)
        for (size_t j = 0; j < checkpoint->tables[i].count; j++) {
            struct safetensors_tensor *tensor = &checkpoint->tensors[checkpoint->tensor_count++];
            *tensor = checkpoint->tables[i].tensors[j];
            tensor->file_index = (uint32_t)i;
        }
    if (count > 1)
        qsort(checkpoint->tensors, count, sizeof *checkpoint->tensors, compare_names);
    for (size_t i = 1; i < count; i++) {
        const struct safetensors_tensor *left = &checkpoint->tensors[i - 1], *right = left + 1;
        if (strcmp(left->name, right->name) == 0)
            return failure_set(failure, -EINVAL, "%s: tensor %s: stands in %s, too",
                               checkpoint->files[right->file_index].path,
                               json_quote(right->name).text,
                               strrchr(checkpoint->files[left->file_index].path, '/') + 1);
    }
    return 0;
}

/* One name of the index: the tensor, and the file that shall hold it. */
struct listing {
    const char *tensor;
    const char *file;
};

static int compare_listings(const void *a, const void *b)
{
    return strcmp(((const struct listing *)a)->tensor, ((const struct listing *)b)->tensor);
}

static int compare_listed_files(const void *a, const void *b)
{
    return strcmp(((const struct listing *)a)->file, ((const struct listing *)b)->file);
}

/* A shard's name is a plain one: it cannot lead out of the folder. */
static int check_shard_name(const char *name, const char *index_path, struct failure *failure)
{
    size_t length = strlen(name);
    bool plain = length > 0 && length <= 255 && name[0] != '.' && !strstr(name, "..");
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        if (*c == '/' || *c == '\\' || *c < 0x20 || *c == 0x7F)
            plain = false;
    if (!plain)
        return failure_set(failure, -EINVAL, "%s: weight_map: %s is not a plain file name",
                           index_path, json_quote(name).text);
    return 0;
}

/* Turns weight_map into an array, sorted by file. */
static int list_index(const cJSON *map, const char *index_path, struct listing **ret_listings,
                      size_t *ret_count, struct failure *failure)
{
    size_t count = (size_t)cJSON_GetArraySize(map);
    struct listing *listings = calloc(count ? count : 1, sizeof *listings);
    if (!listings)
        return failure_set(failure, -ENOMEM, "%s: no memory for %zu names", index_path, count);
    size_t filled = 0;
    for (const cJSON *item = map->child; item; item = item->next) {
        int err =
            cJSON_IsString(item)
                ? check_shard_name(item->valuestring, index_path, failure)
                : failure_set(failure, -EINVAL, "%s: weight_map: %s must be a string, is %s",
                              index_path, json_quote(item->string).text, json_type_name(item));
        if (err < 0) {
            free(listings);
            return err;
        }
        listings[filled++] = (struct listing){.tensor = item->string, .file = item->valuestring};
    }
    if (count > 1)
        qsort(listings, count, sizeof *listings, compare_listed_files);
    *ret_listings = listings;
    *ret_count = count;
    return 0;
}

/* Opens each file that the listings, sorted by file, name. */
static int add_listed_files(struct checkpoint *checkpoint, const struct listing *listings,
                            size_t count, const char *folder, const char *index_path,
                            struct failure *failure)
{
    size_t file_count = 0;
    for (size_t i = 0; i < count; i++)
        file_count += i == 0 || strcmp(listings[i].file, listings[i - 1].file) != 0;
    if (file_count == 0 || file_count > CHECKPOINT_FILES_MAX)
        return failure_set(failure, -EINVAL, "%s: weight_map: %zu files, must be 1 ... %d",
                           index_path, file_count, CHECKPOINT_FILES_MAX);
    int err = checkpoint_reserve(checkpoint, file_count, failure);
    size_t tensor_count = 0;
    for (size_t i = 0; i < count && err == 0; i++) {
        if (i > 0 && strcmp(listings[i].file, listings[i - 1].file) == 0)
            continue;
        err = add_file(checkpoint, folder, listings[i].file, failure);
        if (err < 0)
            break;
        /* A thousand links to one long table would take hours and all memory. */
        tensor_count += checkpoint->tables[checkpoint->file_count - 1].count;
        if (tensor_count > SAFETENSORS_TENSORS_MAX)
            err =
                failure_set(failure, -EFBIG, "%s: weight_map: its files hold more than %d tensors",
                            index_path, SAFETENSORS_TENSORS_MAX);
    }
    return err;
}

/* Holds the merged table against the listings, sorted by tensor: each listed tensor must be in its
 * file, and tensors that are not listed leave the table. */
static int match_listings(struct checkpoint *checkpoint, const struct listing *listings,
                          size_t count, const char *index_path, struct failure *failure)
{
    size_t kept = 0, at = 0;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        struct safetensors_tensor *tensor = &checkpoint->tensors[i];
        const char *file = strrchr(checkpoint->files[tensor->file_index].path, '/') + 1;
        int order = at < count ? strcmp(listings[at].tensor, tensor->name) : 1;
        if (order < 0)
            break; /* listed, but in no file */
        if (order > 0)
            continue;
        if (strcmp(listings[at].file, file) != 0)
            return failure_set(failure, -EINVAL, "%s: weight_map: tensor %s is in %s, not in %s",
                               index_path, json_quote(tensor->name).text, file, listings[at].file);
        checkpoint->tensors[kept++] = *tensor;
        at++;
    }
    if (at < count)
        return failure_set(failure, -EINVAL, "%s: weight_map: tensor %s is not in %s", index_path,
                           json_quote(listings[at].tensor).text, listings[at].file);
    checkpoint->unlisted_count = checkpoint->tensor_count - kept;
    checkpoint->tensor_count = kept;
    return 0;
}

static int open_listed(struct checkpoint *checkpoint, const cJSON *root, const char *folder,
                       const char *index_path, struct failure *failure)
{
    struct json_object index, map;
    int err = json_root(&index, root, index_path, failure);
    if (err < 0)
        return err;
    err = json_enter(&index, "weight_map", &map, failure);
    if (err == -ENOENT)
        return json_refuse(&index, "weight_map", -EINVAL, failure, "missing");
    if (err < 0)
        return err;
    struct listing *listings = NULL;
    size_t count = 0;
    err = list_index(map.object, index_path, &listings, &count, failure);
    if (err < 0)
        return err;
    err = add_listed_files(checkpoint, listings, count, folder, index_path, failure);
    if (err == 0)
        err = checkpoint_merge(checkpoint, failure);
    if (err == 0) {
        if (count > 1)
            qsort(listings, count, sizeof *listings, compare_listings);
        err = match_listings(checkpoint, listings, count, index_path, failure);
    }
    free(listings);
    return err;
}

static int open_sharded(struct checkpoint *checkpoint, const char *folder, const char *index_path,
                        struct failure *failure)
{
    cJSON *root;
    int err = json_read_file(&root, index_path, INDEX_BYTES_MAX, JSON_STRICT, failure);
    if (err < 0)
        return err;
    err = open_listed(checkpoint, root, folder, index_path, failure);
    cJSON_Delete(root);
    return err;
}

static int open_single(struct checkpoint *checkpoint, const char *folder, struct failure *failure)
{
    int err = checkpoint_reserve(checkpoint, 1, failure);
    if (err == 0)
        err = add_file(checkpoint, folder, SINGLE_NAME, failure);
    if (err == 0)
        err = checkpoint_merge(checkpoint, failure);
    return err;
}

/* A link that leads nowhere, or a folder that may not be searched, is named when it is opened. */
static bool is_there(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0 || errno != ENOENT;
}

bool checkpoint_is_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && !S_ISDIR(status.st_mode);
}

static int open_any(struct checkpoint *checkpoint, const char *folder, struct failure *failure)
{
    char path[4096];
    if (checkpoint_is_file(folder))
        return checkpoint_open_gguf(checkpoint, folder, failure);
    if (snprintf(path, sizeof path, "%s/%s", folder, SINGLE_NAME) >= (int)sizeof path)
        return failure_set(failure, -ENAMETOOLONG, "%.256s...: the path is too long", folder);
    if (is_there(path))
        return open_single(checkpoint, folder, failure);
    if (snprintf(path, sizeof path, "%s/%s", folder, INDEX_NAME) >= (int)sizeof path)
        return failure_set(failure, -ENAMETOOLONG, "%.256s...: the path is too long", folder);
    if (is_there(path))
        return open_sharded(checkpoint, folder, path, failure);
    return failure_set(failure, -ENOENT, "%s: there is neither %s nor %s", folder, SINGLE_NAME,
                       INDEX_NAME);
}

int checkpoint_open(struct checkpoint **ret_checkpoint, const char *path, struct failure *failure)
{
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (!checkpoint)
        return failure_set(failure, -ENOMEM, "%s: no memory", path);
    int err = open_any(checkpoint, path, failure);
    if (err < 0) {
        checkpoint_close(checkpoint);
        return err;
    }
    *ret_checkpoint = checkpoint;
    return 0;
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    for (size_t i = 0; i < checkpoint->file_count; i++) {
        if (checkpoint->files[i].fd >= 0)
            close(checkpoint->files[i].fd);
        free(checkpoint->files[i].path);
        safetensors_fini(&checkpoint->tables[i]);
        if (checkpoint->ggufs)
            gguf_fini(&checkpoint->ggufs[i]);
    }
    free(checkpoint->files);
    free(checkpoint->tables);
    free(checkpoint->ggufs);
    free(checkpoint->tensors);
    free(checkpoint);
}

const struct safetensors_tensor *checkpoint_find(const struct checkpoint *checkpoint,
                                                 const char *name)
{
    struct safetensors_tensor key = {.name = name};
    if (checkpoint->tensor_count == 0)
        return NULL;
    return bsearch(&key, checkpoint->tensors, checkpoint->tensor_count, sizeof key, compare_names);
}

int checkpoint_verify(const struct checkpoint *checkpoint, struct failure *failure)
{
    for (size_t i = 0; i < checkpoint->file_count; i++) {
        const struct checkpoint_file *file = &checkpoint->files[i];
        struct stat now;
        if (fstat(file->fd, &now) < 0)
            return failure_set(failure, -errno, "%s: %s", file->path, strerror(errno));
        if (now.st_size != file->status.st_size ||
            now.st_mtim.tv_sec != file->status.st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != file->status.st_mtim.tv_nsec)
            return failure_set(failure, -ESTALE, "%s: was changed while it was read", file->path);
    }
    return 0;
}
