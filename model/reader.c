#include "model/reader.h"

#include <errno.h>
#include <time.h>

#include "model/reader_plan.h"

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int read_blocks(struct reader_plan *plan, struct reader_stats *stats,
                       struct reader_fault *fault)
{
    enum reader_path path = plan->options->path;
    if (path == READER_AUTO || path == READER_RING) {
        stats->path = "io_uring";
        int err = reader_ring(plan, stats, fault);
        /* Containers and old kernels forbid rings; threads read as fast for more CPU time. */
        if (err != -ENOSYS || path == READER_RING)
            return err;
    }
    stats->path = path == READER_SERIAL ? "serial" : "threads";
    return reader_threads(plan, path == READER_SERIAL ? 0 : plan->options->depth / 2, stats, fault);
}

int reader_read(const struct reader_file *files, size_t file_count, struct reader_extent *extents,
                size_t extent_count, const struct reader_options *options,
                struct reader_stats *ret_stats, struct reader_fault *ret_fault)
{
    struct reader_options filled = *options;
    if (filled.block_bytes == 0)
        filled.block_bytes = READER_BLOCK_BYTES;
    filled.block_bytes =
        (filled.block_bytes + READER_PAGE_BYTES - 1) / READER_PAGE_BYTES * READER_PAGE_BYTES;
    if (filled.depth == 0)
        filled.depth = READER_DEPTH;

    double begin = now_seconds();
    struct reader_stats stats = {.path = "none"};
    struct reader_fault fault = {0};
    struct reader_plan plan;
    int err = reader_plan_init(&plan, files, file_count, extents, extent_count, &filled);
    if (err == 0) {
        if (plan.block_count > 0)
            err = read_blocks(&plan, &stats, &fault);
        reader_plan_fini(&plan);
    }
    stats.seconds = now_seconds() - begin;
    *ret_stats = stats;
    if (err < 0)
        *ret_fault = fault;
    return err;
}
