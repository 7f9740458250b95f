#include "daemon/board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/config.h"

enum { BOARD_WORDS = sizeof(struct board) / sizeof(uint64_t), OPEN_ATTEMPTS = 8 };
static_assert(sizeof(struct board) % sizeof(uint64_t) == 0, "mirrored in whole words");

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Whether somebody holds the write lock on a named object: 1, 0 or a negative errno. Asking needs
 * read access only, and readers' locks do not matter to the question. */
static int is_locked(int fd)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    return lock.l_type != F_UNLCK;
}

static int take_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* What the object says of its daemon, for the message alone. */
static unsigned claimed_pid(int fd)
{
    struct board header;
    size_t wanted = offsetof(struct board, instance);
    if (pread(fd, &header, wanted, 0) != (ssize_t)wanted || header.magic != BOARD_MAGIC)
        return 0;
    return header.daemon_pid;
}

/* Removes the object if its daemon is dead. */
static int remove_stale(const char *name, struct failure *failure)
{
    int fd = shm_open(name, O_RDONLY | O_NONBLOCK, 0); /* anybody can put a FIFO there */
    if (fd < 0)
        return errno == ENOENT ? 0
                               : failure_set(failure, -errno, "board /dev/shm%s: exists, and: %s",
                                             name, strerror(errno));
    int err = is_locked(fd);
    if (err < 0)
        failure_set(failure, err, "board /dev/shm%s: %s", name, strerror(-err));
    else if (err > 0)
        err = failure_set(failure, -EADDRINUSE,
                          "instance \"%s\" is already served by process %u: stop it, or choose "
                          "another name with --instance",
                          name + strlen("/autoglm."), claimed_pid(fd));
    else if (shm_unlink(name) < 0 && errno != ENOENT)
        err =
            failure_set(failure, -errno, "board /dev/shm%s: left behind, but cannot be removed: %s",
                        name, strerror(errno));
    close(fd);
    return err;
}

/* A new object, locked, readable for owner and group whatever the umask is. */
static int create_named(const char *name, int *ret_fd)
{
    int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (fd < 0)
        return -errno;
    int err = take_lock(fd);
    if (err == 0 && fchmod(fd, 0640) < 0)
        err = -errno;
    if (err < 0) {
        shm_unlink(name);
        close(fd);
        return err;
    }
    *ret_fd = fd;
    return 0;
}

static int open_named(const char *name, int *ret_fd, struct failure *failure)
{
    for (int attempt = 0; attempt < OPEN_ATTEMPTS; attempt++) {
        int err = create_named(name, ret_fd);
        if (err == 0)
            return 0;
        if (err != -EEXIST)
            return failure_set(failure, err, "board /dev/shm%s: %s", name, strerror(-err));
        err = remove_stale(name, failure);
        if (err < 0)
            return err;
    }
    return failure_set(failure, -EADDRINUSE, "board /dev/shm%s: somebody keeps making it anew",
                       name);
}

static void fill_header(struct board *board, const char *instance)
{
    board->magic = BOARD_MAGIC;
    board->version = BOARD_VERSION;
    board->bytes = sizeof *board;
    board->daemon_pid = (uint32_t)getpid();
    board->start_ns = now_ns();
    snprintf(board->instance, sizeof board->instance, "%s", instance);
    snprintf(board->daemon_version, sizeof board->daemon_version, "%s", config_version());
}

int board_open(struct board_owner *ret_owner, const char *instance, struct failure *failure)
{
    struct board_owner owner = {.region = REGION_EMPTY, .named_fd = -1};
    if (!*instance || strlen(instance) >= sizeof owner.board->instance || strchr(instance, '/'))
        return failure_set(failure, -EINVAL, "instance \"%s\": 1 to %zu characters, no \"/\"",
                           instance, sizeof owner.board->instance - 1);
    snprintf(owner.name, sizeof owner.name, "/autoglm.%s", instance);

    owner.mirrored = calloc(BOARD_WORDS, sizeof *owner.mirrored);
    if (!owner.mirrored)
        return failure_set(failure, -ENOMEM, "board: out of memory");
    int err = region_create(&owner.region, "autoglm-board", layout_pages(sizeof(struct board)));
    if (err < 0) {
        failure_set(failure, err, "board: cannot make its shared memory: %s", strerror(-err));
        goto free_mirrored;
    }
    owner.board = (struct board *)owner.region.base;
    fill_header(owner.board, instance);

    err = open_named(owner.name, &owner.named_fd, failure);
    if (err < 0)
        goto fini_region;
    board_mirror(&owner);
    *ret_owner = owner;
    return 0;

fini_region:
    region_fini(&owner.region);
free_mirrored:
    free(owner.mirrored);
    return err;
}

/* Whether the name still stands for our object: a successor may have taken it, wrongly or not. */
static bool name_is_ours(const struct board_owner *owner)
{
    struct stat ours, named;
    int fd = shm_open(owner->name, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0)
        return errno != ENOENT; /* better no name than one that stays for ever */
    bool same = fstat(owner->named_fd, &ours) == 0 && fstat(fd, &named) == 0 &&
                ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
    close(fd);
    return same;
}

void board_close(struct board_owner *owner)
{
    if (owner->named_fd >= 0) {
        if (name_is_ours(owner))
            shm_unlink(owner->name);
        close(owner->named_fd);
        owner->named_fd = -1;
    }
    region_fini(&owner->region);
    owner->board = NULL;
    free(owner->mirrored);
    owner->mirrored = NULL;
}

int board_add_model(struct board_owner *owner, const struct model *model, uint32_t blocks,
                    uint32_t block_tokens, uint64_t cache_bytes)
{
    struct board *board = owner->board;
    if (board->model_count >= BOARD_MODELS_MAX)
        return -ENOSPC;

    const struct model_config *config = &model->config;
    struct board_model *entry = &board->models[board->model_count];
    snprintf(entry->name, sizeof entry->name, "%s", model->name);
    snprintf(entry->architecture, sizeof entry->architecture, "%s", config->architecture_name);
    snprintf(entry->folder, sizeof entry->folder, "%s", model->folder);
    entry->vocab_size = config->vocab_size;
    entry->context_tokens = config->context_tokens;
    static_assert((int)MODEL_EOS_MAX <= (int)BOARD_EOS_MAX, "all of them are told");
    memcpy(entry->eos_ids, config->eos_ids, sizeof config->eos_ids);
    entry->eos_count = config->eos_count;
    entry->block_tokens = block_tokens;
    entry->blocks = blocks;
    atomic_store_explicit(&entry->blocks_free, blocks, memory_order_relaxed); /* a counter */
    entry->weights_bytes = model->weights_bytes;
    entry->bytes_per_token = model->bytes_per_token;
    entry->cache_bytes = cache_bytes;
    board->model_count++;
    return 0;
}

/* relaxed: the counters stand by themselves, see layout.h. Word by word, since the engine is
 * counting meanwhile. */
static bool copy_changes(uint64_t *copy, const struct board *board)
{
    const _Atomic uint64_t *words = (const _Atomic uint64_t *)(const void *)board;
    bool changed = false;
    for (size_t i = 0; i < BOARD_WORDS; i++) {
        uint64_t word = atomic_load_explicit(&words[i], memory_order_relaxed);
        changed |= word != copy[i];
        copy[i] = word;
    }
    return changed;
}

void board_mirror(struct board_owner *owner)
{
    struct stat status = {0};
    bool changed = copy_changes(owner->mirrored, owner->board);
    bool whole = fstat(owner->named_fd, &status) == 0 && status.st_size == sizeof(struct board);
    if (!changed && whole)
        return;
    /* A full /dev/shm is no reason to stop serving: the next turn tries again, since the size is
     * wrong then or the heartbeat has moved. */
    if (pwrite(owner->named_fd, owner->mirrored, sizeof(struct board), 0) < 0)
        return;
    if (status.st_size > (off_t)sizeof(struct board))
        (void)!ftruncate(owner->named_fd, sizeof(struct board));
}
