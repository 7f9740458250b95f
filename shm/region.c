#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { ST_BLOCK_BYTES = 512 };       /* whatever st_blksize says */
enum { HUGE_PAGE_BYTES = 32 << 20 }; /* the last page may be one, and end behind the size */
static const char not_whole[] = "not all there: its maker has to allocate every page";
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL };

/* Kernels before 5.14 do not know MADV_POPULATE_READ: the first touch then finds the pages. */
static int populate(void *base, uint64_t bytes)
{
    if (madvise(base, bytes, MADV_POPULATE_READ) == 0 || errno == EINVAL)
        return 0;
    return errno == EFAULT ? -ENOMEM : -errno;
}

/* Makes every page: a lack of memory is an error here and no signal later. */
static int allocate(int fd, void *base, uint64_t bytes)
{
    if (madvise(base, bytes, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno == EINVAL && fallocate(fd, 0, 0, (off_t)bytes) == 0)
        return 0; /* kernels before 5.14: the pages are there, if not yet in our table */
    return errno == EFAULT ? -ENOMEM : -errno;
}

int region_create(struct region *ret_region, const char *name, uint64_t bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;

    int err = 0;
    void *base = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) < 0) {
        err = -errno;
        goto close_fd;
    }
    base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        err = -errno;
        goto close_fd;
    }
    err = allocate(fd, base, bytes);
    if (err < 0)
        goto unmap;
    if (fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        err = -errno;
        goto unmap;
    }
    *ret_region = (struct region){.base = base, .bytes = bytes, .fd = fd};
    return 0;

unmap:
    munmap(base, bytes);
close_fd:
    close(fd);
    return err;
}

/* More than before: pages behind the end had stood for holes, which our touch has filled. */
static int check_blocks(int fd, blkcnt_t blocks, const char **ret_why)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return -errno;
    if (status.st_blocks <= blocks)
        return 0;
    *ret_why = not_whole;
    return -EPROTO;
}

int region_map_peer(struct region *ret_region, int fd, uint64_t bytes, const char **ret_why)
{
    struct statfs file_system;
    struct stat status;
    *ret_why = NULL;

    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) {
        *ret_why = "not a memfd";
        return -EPROTO;
    }
    if ((seals & SEALS) != SEALS) {
        *ret_why = "not sealed against shrinking, growing, writing and further seals";
        return -EPROTO;
    }
    if (fstatfs(fd, &file_system) < 0)
        return -errno;
    if (file_system.f_type != TMPFS_MAGIC) {
        *ret_why = "not on tmpfs";
        return -EPROTO;
    }
    if (fstat(fd, &status) < 0)
        return -errno;
    if ((uint64_t)status.st_size != bytes) {
        *ret_why = "not of the agreed size";
        return -EPROTO;
    }
    /* A hole would be filled by our own first touch, at our expense. None can be made after this
     * look, nor pages behind the end: the seals forbid it. */
    if ((uint64_t)status.st_blocks * ST_BLOCK_BYTES < bytes) {
        *ret_why = not_whole;
        return -EPROTO;
    }
    if ((uint64_t)status.st_blocks * ST_BLOCK_BYTES > bytes + HUGE_PAGE_BYTES) {
        *ret_why = "larger than its size: its maker has pages behind the end";
        return -EPROTO;
    }

    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    int err = populate(base, bytes);
    if (err == 0)
        err = check_blocks(fd, status.st_blocks, ret_why);
    if (err < 0) {
        munmap(base, bytes);
        return err;
    }
    *ret_region = (struct region){.base = base, .bytes = bytes, .fd = fd};
    return 0;
}

void region_close_fd(struct region *region)
{
    if (region->fd >= 0)
        close(region->fd);
    region->fd = -1;
}

void region_fini(struct region *region)
{
    if (region->base)
        munmap(region->base, region->bytes);
    region_close_fd(region);
    *region = REGION_EMPTY;
}
