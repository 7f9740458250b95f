/*
 * The weights files of a model as one table of tensors: model.safetensors of its folder, or the
 * shards that model.safetensors.index.json names; or a GGUF file, or the first of several that
 * gguf-split made.
 *
 * Errors as in safetensors.h and gguf.h; -ENOENT if the folder has no weights.
 */
#ifndef AGL_MODEL_CHECKPOINT_H
#define AGL_MODEL_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "formats/gguf.h"
#include "model/failure.h"
#include "model/safetensors.h"

enum { CHECKPOINT_FILES_MAX = 1000 };

struct checkpoint_file {
    char *path;
    int fd;             /* open for reading through the page cache */
    struct stat status; /* when it was opened */
};

/* Owns everything in it. */
struct checkpoint {
    struct checkpoint_file *files;
    size_t file_count;
    struct safetensors_tensor *tensors; /* sorted by name; file_index says where they are */
    size_t tensor_count;
    size_t unlisted_count; /* tensors in shards that the index does not name: not in the table */
    struct safetensors *tables; /* [file_count], for the names */
    struct gguf *ggufs;         /* [file_count]; NULL: the files are safetensors */
};

/* path: a folder with safetensors, or a GGUF file. */
int checkpoint_open(struct checkpoint **ret_checkpoint, const char *path, struct failure *failure);

/* Whether a model's path names a file, which is then a GGUF file, and no folder. */
bool checkpoint_is_file(const char *path);

/* NULL does nothing. */
void checkpoint_close(struct checkpoint *checkpoint);

/* NULL if there is none of the name. */
const struct safetensors_tensor *checkpoint_find(const struct checkpoint *checkpoint,
                                                 const char *name);

/* -ESTALE if a file is no longer what it was when it was opened. */
int checkpoint_verify(const struct checkpoint *checkpoint, struct failure *failure);

#endif
