/*
 * The parts of a checkpoint that its ways of being opened share: for checkpoint.c and
 * checkpoint_gguf.c.
 */
#ifndef AGL_MODEL_CHECKPOINT_FILES_H
#define AGL_MODEL_CHECKPOINT_FILES_H

#include "model/checkpoint.h"

/* Room for `count` files and their tables. */
int checkpoint_reserve(struct checkpoint *checkpoint, size_t count, struct failure *failure);

/* Opens one more file of the folder; its table stays empty. */
int checkpoint_add_file(struct checkpoint *checkpoint, const char *folder, const char *name,
                        struct failure *failure);

/* Puts the tables of all files together, once they are filled. */
int checkpoint_merge(struct checkpoint *checkpoint, struct failure *failure);

/* Fills an empty checkpoint from a GGUF file, or from all parts of which it is the first. */
int checkpoint_open_gguf(struct checkpoint *checkpoint, const char *path, struct failure *failure);

#endif
