/*
 * What the steps of reading weights share: the plan, and the state of one reading. For the
 * weights*.c files only.
 */
#ifndef AGL_MODEL_WEIGHTS_PLAN_H
#define AGL_MODEL_WEIGHTS_PLAN_H

#include "model/weights.h"

enum { WEIGHTS_GAP_BYTES = 64 << 10 }; /* reading across costs less than one more read */

/* A piece of a file that is read as a whole: neighbouring tensors, or one loose tensor. */
struct weights_piece {
    uint32_t file_index;
    bool loose; /* stands in memory where its type wants it, not as in the file */
    uint64_t offset;
    uint64_t bytes;
    uint64_t memory_offset; /* of the piece's first byte */
};

enum { WEIGHTS_WINDOWS = 2 };

struct weights_plan {
    struct weights_piece *pieces; /* read into place */
    size_t piece_count;
    uint64_t *places; /* [count of wants] offset in memory of each */
    size_t packed_count;
    uint64_t memory_bytes;
    uint64_t weights_bytes;
    uint64_t read_bytes;   /* of all pieces, with the gaps between neighbours, and of the packed */
    uint64_t window_bytes; /* of packed tensors' bytes, in the file's form; 0: none are packed */
};

/* What the steps of reading share. */
struct weights_loading {
    const struct checkpoint *checkpoint;
    const char *folder;
    const struct weights_want *wants; /* sorted by file and offset */
    size_t count;
    struct reader_file *files;
    struct backend *backend;
    const struct weights_options *options;
    struct weights_plan plan;
    uint64_t done_bytes; /* by the calls of the reader before */
    struct reader_stats stats;
    double packing_seconds;
};

/* Of a row of the tensor in the file, and where the wanted rows begin there. */
uint64_t weights_row_bytes(const struct weights_want *want);
uint64_t weights_offset(const struct weights_want *want);

/* -ENOMEM; what was allocated then is in the plan all the same. */
int weights_plan_init(struct weights_plan *plan, const struct weights_want *wants, size_t count);
void weights_plan_fini(struct weights_plan *plan);

/* Of the windows: one is filled while the other is packed. */
uint64_t weights_staging_bytes(const struct weights_plan *plan);

/* Reads, counts what was read, and puts a failure into words. */
int weights_read(struct weights_loading *loading, struct reader_extent *extents, size_t count,
                 struct failure *failure);

/* Reads and packs all tensors that are to be packed. */
int weights_pack(struct weights_loading *loading, char *memory, struct failure *failure);

#endif
