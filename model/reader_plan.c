#include "model/reader_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    RETRIES_MAX = 1000, /* of a read that the kernel put off; -EIO gets one */
    PROBES = 2,         /* pages of a block that are looked for in the page cache */
};

static uint64_t page_floor(uint64_t value)
{
    return value / READER_PAGE_BYTES * READER_PAGE_BYTES;
}

static uint64_t page_ceil(uint64_t value)
{
    return page_floor(value + READER_PAGE_BYTES - 1);
}

/* The same file, around the page cache; -1 where that cannot be. */
static int open_direct(int fd)
{
    struct statfs filesystem;
    if (fstatfs(fd, &filesystem) == 0 &&
        (filesystem.f_type == TMPFS_MAGIC || filesystem.f_type == RAMFS_MAGIC))
        return -1; /* it is memory */
#ifdef STATX_DIOALIGN
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) &&
        (status.stx_dio_mem_align == 0 || READER_PAGE_BYTES % status.stx_dio_mem_align != 0 ||
         status.stx_dio_offset_align == 0 || READER_PAGE_BYTES % status.stx_dio_offset_align != 0))
        return -1;
#endif
    /* Not by the path: that may be another file by now. */
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

/* One file's way of telling what is in the page cache. */
struct probe {
    int fd;
    bool nowait; /* preadv2(RWF_NOWAIT) tells */
    void *map;   /* else mincore() on this does, if it is not NULL */
    uint64_t file_bytes;
};

/* mincore() tells all to owners and those who may write, and "everything is there" to others. */
static bool may_mincore(int fd)
{
    struct stat status;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return fstat(fd, &status) == 0 && (status.st_uid == geteuid() || access(path, W_OK) == 0);
}

static void probe_init(struct probe *probe, const struct reader_file *file)
{
    *probe = (struct probe){.fd = file->fd, .nowait = true, .file_bytes = file->bytes};
    char byte;
    struct iovec vector = {&byte, 1};
    if (preadv2(file->fd, &vector, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP) {
        /* A page that is missing is not to bring its neighbours in. */
        posix_fadvise(file->fd, 0, 0, POSIX_FADV_RANDOM);
        return;
    }
    probe->nowait = false; /* overlayfs */
    if (!may_mincore(file->fd) || file->bytes == 0)
        return;
    void *map = mmap(NULL, file->bytes, PROT_READ, MAP_SHARED, file->fd, 0);
    probe->map = map == MAP_FAILED ? NULL : map;
}

static void probe_fini(struct probe *probe)
{
    if (probe->nowait)
        posix_fadvise(probe->fd, 0, 0, POSIX_FADV_NORMAL);
    if (probe->map)
        munmap(probe->map, probe->file_bytes);
}

static bool page_is_cached(const struct probe *probe, uint64_t offset)
{
    if (probe->nowait) {
        char bytes[64];
        struct iovec vector = {bytes, sizeof bytes};
        return preadv2(probe->fd, &vector, 1, (off_t)offset, RWF_NOWAIT) > 0;
    }
    unsigned char resident = 0;
    return probe->map &&
           mincore((char *)probe->map + page_floor(offset), READER_PAGE_BYTES, &resident) == 0 &&
           (resident & 1);
}

static bool block_is_cached(const struct probe *probe, const struct reader_block *block)
{
    for (uint64_t i = 0; i < PROBES; i++)
        if (!page_is_cached(probe, block->offset + block->required * (2 * i + 1) / (2 * PROBES)))
            return false;
    return true;
}

static int compare_extents(const void *a, const void *b)
{
    const struct reader_extent *left = a, *right = b;
    if (left->file_index != right->file_index)
        return left->file_index < right->file_index ? -1 : 1;
    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

/* Appends `next` to `extent` if file and memory go on without a break. */
static bool merge(struct reader_extent *extent, const struct reader_extent *next)
{
    if (extent->file_index != next->file_index || extent->whole_pages != next->whole_pages ||
        extent->offset + extent->bytes != next->offset ||
        (char *)extent->destination + extent->bytes != next->destination)
        return false;
    extent->bytes += next->bytes;
    return true;
}

/* The extent as blocks; direct ones begin and end on pages. Returns how many; blocks may be NULL to
 * count them. */
static size_t cut(const struct reader_extent *extent, bool direct, uint32_t block_bytes,
                  struct reader_block *blocks)
{
    uint64_t end = extent->offset + extent->bytes, offset = extent->offset;
    char *destination = extent->destination;
    size_t count = 0;
    if (direct) {
        destination -= offset - page_floor(offset);
        offset = page_floor(offset);
    }
    while (offset < end) {
        uint64_t boundary = offset / block_bytes * block_bytes + block_bytes;
        uint64_t required_end = boundary < end ? boundary : end;
        uint64_t read_end = direct ? page_ceil(required_end) : required_end;
        if (blocks)
            blocks[count] = (struct reader_block){
                .file_index = extent->file_index,
                .direct = direct,
                .offset = offset,
                .bytes = (uint32_t)(read_end - offset),
                .required = (uint32_t)(required_end - offset),
                .destination = destination,
            };
        count++;
        destination += required_end - offset;
        offset = required_end;
    }
    return count;
}

static bool can_be_direct(const struct reader_plan *plan, const struct reader_extent *extent)
{
    return plan->direct_fds[extent->file_index] >= 0 && extent->whole_pages &&
           (uintptr_t)extent->destination % READER_PAGE_BYTES == extent->offset % READER_PAGE_BYTES;
}

static void cut_all(struct reader_plan *plan, const struct reader_extent *extents, size_t count)
{
    for (size_t i = 0; i < count; i++)
        plan->block_count +=
            cut(&extents[i], can_be_direct(plan, &extents[i]), plan->options->block_bytes,
                plan->blocks ? plan->blocks + plan->block_count : NULL);
}

/* Blocks that the page cache has are read from there. */
static void probe_blocks(struct reader_plan *plan)
{
    struct probe probe = {0};
    uint32_t probed = UINT32_MAX; /* the file that the probe is for */
    for (size_t i = 0; i < plan->block_count; i++) {
        struct reader_block *block = &plan->blocks[i];
        if (!block->direct)
            continue;
        if (probed != block->file_index) {
            if (probed != UINT32_MAX)
                probe_fini(&probe);
            probed = block->file_index;
            probe_init(&probe, &plan->files[probed]);
        }
        if (block_is_cached(&probe, block)) {
            block->direct = false;
            block->bytes = block->required;
        }
    }
    if (probed != UINT32_MAX)
        probe_fini(&probe);
}

int reader_plan_init(struct reader_plan *plan, const struct reader_file *files, size_t file_count,
                     struct reader_extent *extents, size_t extent_count,
                     const struct reader_options *options)
{
    *plan = (struct reader_plan){.files = files, .options = options};
    plan->direct_fds = malloc((file_count ? file_count : 1) * sizeof *plan->direct_fds);
    if (!plan->direct_fds)
        return -ENOMEM;
    for (size_t i = 0; i < file_count; i++)
        plan->direct_fds[i] = options->cache == READER_CACHED ? -1 : open_direct(files[i].fd);
    plan->file_count = file_count;

    if (extent_count > 1)
        qsort(extents, extent_count, sizeof *extents, compare_extents);
    size_t merged = 0;
    for (size_t i = 0; i < extent_count; i++)
        if (extents[i].bytes > 0 && (merged == 0 || !merge(&extents[merged - 1], &extents[i])))
            extents[merged++] = extents[i];

    cut_all(plan, extents, merged);
    plan->blocks = malloc((plan->block_count ? plan->block_count : 1) * sizeof *plan->blocks);
    if (!plan->blocks) {
        reader_plan_fini(plan);
        return -ENOMEM;
    }
    plan->block_count = 0;
    cut_all(plan, extents, merged);
    for (size_t i = 0; i < plan->block_count; i++)
        plan->total_bytes += plan->blocks[i].required;
    if (options->cache == READER_PROBE)
        probe_blocks(plan);
    return 0;
}

void reader_plan_fini(struct reader_plan *plan)
{
    for (size_t i = 0; i < plan->file_count; i++)
        if (plan->direct_fds[i] >= 0)
            close(plan->direct_fds[i]);
    free(plan->direct_fds);
    free(plan->blocks);
    *plan = (struct reader_plan){0};
}

int reader_block_fd(const struct reader_plan *plan, const struct reader_block *block)
{
    return block->direct ? plan->direct_fds[block->file_index] : plan->files[block->file_index].fd;
}

static int give_up(const struct reader_block *block, int err, bool shrank,
                   struct reader_fault *ret_fault)
{
    *ret_fault = (struct reader_fault){
        .file_index = block->file_index, .offset = block->offset, .shrank = shrank};
    return err;
}

/* A failed read: again, again through the page cache, or the end. */
static int settle_error(struct reader_block *block, int err, struct reader_fault *ret_fault)
{
    if (block->direct && (err == -EINVAL || err == -EOPNOTSUPP)) {
        /* The file system changed its mind about O_DIRECT. */
        block->direct = false;
        block->bytes = block->required;
        return 0;
    }
    bool put_off = err == -EINTR || err == -EAGAIN;
    if (block->retries++ < (put_off ? RETRIES_MAX : err == -EIO ? 1 : 0))
        return 0;
    return give_up(block, err, false, ret_fault);
}

int reader_settle(struct reader_block *block, int64_t result, struct reader_fault *ret_fault)
{
    if (result < 0)
        return settle_error(block, (int)result, ret_fault);
    if (result == 0)
        return give_up(block, -ESTALE, true, ret_fault);
    if (result >= block->required)
        return 1;
    /* The rest of a short read goes through the page cache, which takes any offset. */
    block->direct = false;
    block->offset += (uint64_t)result;
    block->destination += result;
    block->required -= (uint32_t)result;
    block->bytes = block->required;
    block->retries++;
    return 0;
}

bool reader_cancelled(const struct reader_plan *plan)
{
    /* relaxed: nothing else is read on the strength of it. */
    return plan->options->cancel &&
           atomic_load_explicit(plan->options->cancel, memory_order_relaxed);
}

void reader_progress(const struct reader_plan *plan, uint64_t done_bytes)
{
    if (plan->options->progress)
        plan->options->progress(plan->options->progress_context, done_bytes, plan->total_bytes);
}
