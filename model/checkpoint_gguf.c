/* GGUF files as a checkpoint: their tables in the words of safetensors, and the parts of a split.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/checkpoint_files.h"

/* The messages of the parser go where ours go. */
static_assert(sizeof((struct failure *)0)->text == GGUF_WHY_BYTES, "one line of text");

/* "DIR/NAME-00001-of-00003.gguf" */
enum { SPLIT_SUFFIX_BYTES = sizeof "-00001-of-00001.gguf" - 1, SPLIT_PARTS_MAX = 99999 };

/* What a path says of a split, and the values beside it. */
struct split {
    char folder[4096];
    char name[256];   /* of the first part; without its suffix if there are several */
    uint32_t count;   /* of parts; 1: no split */
    uint32_t tensors; /* of all parts together */
};

static char *why_of(struct failure *failure)
{
    return failure ? failure->text : NULL;
}

static int cut_path(struct split *split, const char *path, struct failure *failure)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    int folder = slash ? (int)(slash - path) : 1;
    if (snprintf(split->folder, sizeof split->folder, "%.*s", folder, slash ? path : ".") >=
            (int)sizeof split->folder ||
        snprintf(split->name, sizeof split->name, "%s", name) >= (int)sizeof split->name)
        return failure_set(failure, -ENAMETOOLONG, "%.256s...: the path is too long", path);
    return 0;
}

/* The table of a file in the words that the binding reads: sizes with the slowest first. The names
 * stay the file's. */
static int translate(struct safetensors *table, const struct gguf *gguf, struct failure *failure)
{
    table->tensors = calloc(gguf->tensor_count ? gguf->tensor_count : 1, sizeof *table->tensors);
    if (!table->tensors)
        return failure_set(failure, -ENOMEM, "%s: no memory for %zu tensors", gguf->file,
                           gguf->tensor_count);
    table->count = gguf->tensor_count;
    for (size_t i = 0; i < table->count; i++) {
        const struct gguf_tensor *source = &gguf->tensors[i];
        table->tensors[i] = (struct safetensors_tensor){
            .name = source->name,
            .type = gguf_type_name((uint32_t)source->type),
            .source_type = source->type,
            .dimensions = source->dimensions,
            .offset = source->offset,
            .bytes = source->bytes,
        };
        for (uint32_t j = 0; j < source->dimensions; j++)
            table->tensors[i].shape[j] = source->sizes[source->dimensions - 1 - j];
    }
    return 0;
}

static int read_part(struct checkpoint *checkpoint, const struct split *split, const char *name,
                     struct failure *failure)
{
    int err = checkpoint_add_file(checkpoint, split->folder, name, failure);
    if (err < 0)
        return err;
    size_t index = checkpoint->file_count - 1;
    const struct checkpoint_file *file = &checkpoint->files[index];
    err = gguf_read(&checkpoint->ggufs[index], file->fd, (uint64_t)file->status.st_size, file->path,
                    why_of(failure));
    return err < 0 ? err
                   : translate(&checkpoint->tables[index], &checkpoint->ggufs[index], failure);
}

static int reserve(struct checkpoint *checkpoint, size_t count, struct failure *failure)
{
    int err = checkpoint_reserve(checkpoint, count, failure);
    if (err < 0)
        return err;
    checkpoint->ggufs = calloc(count, sizeof *checkpoint->ggufs);
    return checkpoint->ggufs ? 0 : failure_set(failure, -ENOMEM, "no memory for %zu files", count);
}

/* split.no and split.count of a part; a file without them is whole. */
static int read_split(const struct gguf *gguf, uint32_t number, struct split *split,
                      struct failure *failure)
{
    uint32_t no = 0, count = 1;
    int err = gguf_u32_or(gguf, "split.count", 0, SPLIT_PARTS_MAX, 1, &count, why_of(failure));
    if (err == 0 && count > 1)
        err = gguf_u32(gguf, "split.no", 0, count - 1, &no, why_of(failure));
    if (err < 0)
        return err == -ENOENT ? -EINVAL : err;
    if (count == 0)
        count = 1;
    if (no != number)
        return failure_set(failure, -EINVAL, "%s: split.no: is %u, must be %u: %s", gguf->file, no,
                           number, number ? "the parts are mixed up" : "name the first part");
    if (number > 0 && count != split->count)
        return failure_set(failure, -EINVAL, "%s: split.count: is %u, of the first part %u",
                           gguf->file, count, split->count);
    split->count = count;
    return 0;
}

/* Takes "-00001-of-0000N.gguf" off the first part's name. */
static int cut_suffix(struct split *split, const char *file, struct failure *failure)
{
    char suffix[64];
    size_t length = strlen(split->name);
    snprintf(suffix, sizeof suffix, "-00001-of-%05u.gguf", split->count);
    if (length <= SPLIT_SUFFIX_BYTES ||
        strcmp(split->name + length - SPLIT_SUFFIX_BYTES, suffix) != 0)
        return failure_set(failure, -EINVAL,
                           "%s: split.count: is %u, but the file's name does not end in %s", file,
                           split->count, suffix);
    split->name[length - SPLIT_SUFFIX_BYTES] = 0;
    return 0;
}

/* Room for the other parts beside the first. */
static int grow(struct checkpoint *checkpoint, size_t count, struct failure *failure)
{
    struct checkpoint_file *files = realloc(checkpoint->files, count * sizeof *files);
    checkpoint->files = files ? files : checkpoint->files;
    struct safetensors *tables = realloc(checkpoint->tables, count * sizeof *tables);
    checkpoint->tables = tables ? tables : checkpoint->tables;
    struct gguf *ggufs = realloc(checkpoint->ggufs, count * sizeof *ggufs);
    checkpoint->ggufs = ggufs ? ggufs : checkpoint->ggufs;
    if (!files || !tables || !ggufs)
        return failure_set(failure, -ENOMEM, "no memory for %zu files", count);
    memset(tables + 1, 0, (count - 1) * sizeof *tables);
    memset(ggufs + 1, 0, (count - 1) * sizeof *ggufs);
    return 0;
}

static int open_others(struct checkpoint *checkpoint, const struct split *split,
                       struct failure *failure)
{
    size_t tensors = checkpoint->ggufs[0].tensor_count;
    int err = grow(checkpoint, split->count, failure);
    for (uint32_t i = 1; i < split->count && err == 0; i++) {
        char name[sizeof split->name + 32];
        snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", split->name, i + 1, split->count);
        struct split part = *split;
        err = read_part(checkpoint, split, name, failure);
        if (err == 0)
            err = read_split(&checkpoint->ggufs[i], i, &part, failure);
        tensors += err == 0 ? checkpoint->ggufs[i].tensor_count : 0;
        if (err == 0 && tensors > split->tensors)
            break;
    }
    if (err == 0 && tensors != split->tensors)
        err = failure_set(failure, -EINVAL, "%s: split.tensors.count: is %u, the parts have %s%zu",
                          checkpoint->files[0].path, split->tensors,
                          tensors > split->tensors ? "at least " : "", tensors);
    return err;
}

static int open_split(struct checkpoint *checkpoint, struct split *split, struct failure *failure)
{
    const char *file = checkpoint->files[0].path;
    if (split->count > CHECKPOINT_FILES_MAX)
        return failure_set(failure, -EFBIG, "%s: split.count: %u, the limit is %d", file,
                           split->count, CHECKPOINT_FILES_MAX);
    int err = gguf_u32(&checkpoint->ggufs[0], "split.tensors.count", 0, GGUF_TENSORS_MAX,
                       &split->tensors, why_of(failure));
    if (err < 0)
        return err == -ENOENT ? -EINVAL : err;
    err = cut_suffix(split, file, failure);
    return err < 0 ? err : open_others(checkpoint, split, failure);
}

int checkpoint_open_gguf(struct checkpoint *checkpoint, const char *path, struct failure *failure)
{
    struct split split = {.count = 1};
    int err = cut_path(&split, path, failure);
    if (err == 0)
        err = reserve(checkpoint, 1, failure);
    if (err == 0)
        err = read_part(checkpoint, &split, split.name, failure);
    if (err == 0)
        err = read_split(&checkpoint->ggufs[0], 0, &split, failure);
    if (err == 0 && split.count > 1)
        err = open_split(checkpoint, &split, failure);
    return err < 0 ? err : checkpoint_merge(checkpoint, failure);
}
