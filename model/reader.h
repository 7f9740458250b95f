/*
 * Bulk reads: many extents of a few files, each to its own place in memory, with many reads in
 * flight from one thread. io_uring where it may be used, threads with pread where not. Bytes that
 * are in the page cache come from there, others go around it if direct_io allows.
 */
#ifndef AGL_MODEL_READER_H
#define AGL_MODEL_READER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    READER_PAGE_BYTES = 4096, /* O_DIRECT's alignment of memory, offset and length */
    READER_BLOCK_BYTES = 4 << 20,
    READER_DEPTH = 32,
};

enum reader_path {
    READER_AUTO,    /* the ring, or else threads */
    READER_RING,    /* io_uring or an error */
    READER_THREADS, /* pread from several threads */
    READER_SERIAL,  /* pread from the calling thread alone */
};

enum reader_cache {
    READER_PROBE,  /* block by block: from the page cache if it is there, around it if not */
    READER_CACHED, /* always through the page cache */
    READER_DIRECT, /* always around it, where the file system can */
};

struct reader_file {
    int fd;         /* open for reading through the page cache; stays the caller's */
    uint64_t bytes; /* no extent reaches beyond */
};

struct reader_extent {
    uint32_t file_index;
    uint64_t offset;
    uint64_t bytes;
    void *destination;
    /* The caller gives up all of the pages (READER_PAGE_BYTES) that the destination touches: what
     * the file has around the extent lands there. Without it, or with a destination that is not
     * congruent to the offset within a page, the extent goes through the page cache. */
    bool whole_pages;
};

struct reader_options {
    enum reader_path path;
    enum reader_cache cache;
    uint32_t block_bytes; /* 0: READER_BLOCK_BYTES; rounded up to pages */
    uint32_t depth;       /* reads in flight; 0: READER_DEPTH */
    /* Called now and then on the calling thread. */
    void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_context;
    const atomic_bool *cancel; /* true ends the reading with -ECANCELED; NULL: never */
};

struct reader_stats {
    const char *path; /* "io_uring", "threads" or "serial" */
    uint64_t bytes;
    uint64_t direct_bytes; /* of these, around the page cache */
    uint64_t requests;
    uint64_t retries;
    double seconds;
};

/* Where reading failed. */
struct reader_fault {
    uint32_t file_index;
    uint64_t offset;
    bool shrank; /* the file ends before the extent does */
};

/* Reads all extents; returns when nothing is in flight any more, whatever happened. extents is
 * sorted on return. 0; or -ESTALE the file is shorter than it was, -ECANCELED, -ENOMEM, or the
 * errno of a read: then *ret_fault says where (offset 0 of file 0 if it was no read). ret_stats is
 * filled in every case. */
int reader_read(const struct reader_file *files, size_t file_count, struct reader_extent *extents,
                size_t extent_count, const struct reader_options *options,
                struct reader_stats *ret_stats, struct reader_fault *ret_fault);

#endif
