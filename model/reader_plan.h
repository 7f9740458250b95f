/*
 * What the reader's ways of reading share: the work cut into blocks, and what the result of one
 * read means for its block.
 */
#ifndef AGL_MODEL_READER_PLAN_H
#define AGL_MODEL_READER_PLAN_H

#include "model/reader.h"

struct reader_block {
    uint32_t file_index;
    bool direct;
    uint64_t offset;   /* of the next byte to read */
    uint32_t bytes;    /* asked for from there on */
    uint32_t required; /* of these: the file may end behind them */
    char *destination;
    uint32_t retries;
};

struct reader_plan {
    const struct reader_file *files;
    const struct reader_options *options;
    int *direct_fds; /* [file_count], -1: none */
    size_t file_count;
    struct reader_block *blocks;
    size_t block_count;
    uint64_t total_bytes; /* with what stands before an extent in its first page */
};

/* Opens the files around the page cache, sorts, merges and cuts the extents, and decides for each
 * block how to read it. -ENOMEM. */
int reader_plan_init(struct reader_plan *plan, const struct reader_file *files, size_t file_count,
                     struct reader_extent *extents, size_t extent_count,
                     const struct reader_options *options);

void reader_plan_fini(struct reader_plan *plan);

/* The descriptor for the block's next read. */
int reader_block_fd(const struct reader_plan *plan, const struct reader_block *block);

/* Takes the result of the block's read, a count or a negative errno, and moves the block on: 1 it
 * is done, 0 it must be read again from where it now stands, else a negative errno; *ret_fault then
 * says where. */
int reader_settle(struct reader_block *block, int64_t result, struct reader_fault *ret_fault);

bool reader_cancelled(const struct reader_plan *plan);
void reader_progress(const struct reader_plan *plan, uint64_t done_bytes);

/* The ways. Each reads all blocks and returns with nothing in flight. reader_ring() gives -ENOSYS
 * if it could not begin; then nothing was read. */
int reader_ring(struct reader_plan *plan, struct reader_stats *stats, struct reader_fault *fault);
int reader_threads(struct reader_plan *plan, uint32_t threads, struct reader_stats *stats,
                   struct reader_fault *fault);

#endif
