/*
 * Tensors from a checkpoint's files to their place in the backend's memory: planned first, refused
 * with the figures if the memory is not there, then read in few large reads. Tensors of plain types
 * are read into place; packed ones are packed from what is read, on all of the backend's threads.
 */
#ifndef AGL_MODEL_WEIGHTS_H
#define AGL_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/failure.h"
#include "model/reader.h"

enum { WEIGHTS_TYPES = TENSOR_Q4_SUPER + 1 };

/* One tensor that is needed, and where its description goes. */
struct weights_want {
    const struct safetensors_tensor *source; /* F32, F16, BF16, or a type that gguf_pack.h has */
    struct tensor *ret_tensor;
    enum tensor_type type; /* the source's; or a packed one, to which it is packed or quantised */
    uint32_t first_row;    /* of the source; 0 if the type is plain, which takes all rows */
    uint32_t rows;
    uint32_t cols;
};

struct weights_options {
    uint64_t memory_bytes; /* refuse what needs more while reading; 0: what the machine has free */
    enum reader_path path;
    enum reader_cache cache;
    uint32_t block_bytes;                                /* of the reader; 0: its own choice */
    void (*progress)(void *context, uint64_t done_bytes, /* as the reader's */
                     uint64_t total_bytes);
    void *progress_context;
    const atomic_bool *cancel;
};

/* For the log. */
struct weights_report {
    struct reader_stats reading;
    uint64_t memory_bytes;  /* taken from the backend */
    uint64_t weights_bytes; /* of the tensors alone */
    uint32_t tensors_of_type[WEIGHTS_TYPES];
    double packing_seconds; /* with the reading that goes on meanwhile; 0: nothing was packed */
    size_t ignored_tensors; /* in the files, but no part of the model: counted by model.c */
};

struct weights {
    void *memory; /* of the backend */
    uint64_t memory_bytes;
    struct weights_report report;
};

/* Reads all wants from the checkpoint, whose folder is for the messages, and fills their tensors.
 * wants is sorted on return. -ENOMEM with the figures; -ESTALE the files changed; -ECANCELED; the
 * errno of a read, with file, tensor and offset. */
int weights_open(struct weights **ret_weights, const struct checkpoint *checkpoint,
                 const char *folder, struct weights_want *wants, size_t count,
                 struct backend *backend, const struct weights_options *options,
                 struct failure *failure);

/* One line for the log: the types, how much was read, how fast and on which way. NULL: there was
 * nothing to read. Returns text. */
const char *weights_describe(const struct weights *weights, char *text, size_t bytes);

/* NULL does nothing. */
void weights_close(struct weights *weights, struct backend *backend);

#endif
