/* The board, read: models and the daemon's state. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/error.h"
#include "client/private.h"

/* Counters stand by themselves: none orders the reading of another (layout.h). */
static uint32_t counter32(const _Atomic uint32_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static uint64_t counter64(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* A string on the board, which may lack its NUL. */
static void copy_text(char *ret_text, const char *text, size_t bytes)
{
    memcpy(ret_text, text, bytes - 1);
    ret_text[bytes - 1] = 0;
}

static void read_model(struct agl_model *ret_model, const struct board_model *entry)
{
    *ret_model = (struct agl_model){
        .vocab_size = entry->vocab_size,
        .context_tokens = entry->context_tokens,
        .eos_count = entry->eos_count,
        .weights_bytes = entry->weights_bytes,
        .bytes_per_token = entry->bytes_per_token,
        .block_tokens = entry->block_tokens,
        .blocks = entry->blocks,
        .blocks_free = counter32(&entry->blocks_free),
        .prompt_tokens = counter64(&entry->prompt_tokens),
        .generated_tokens = counter64(&entry->generated_tokens),
        .steps = counter64(&entry->steps),
        .busy_ns = counter64(&entry->busy_ns),
    };
    copy_text(ret_model->name, entry->name, sizeof ret_model->name);
    copy_text(ret_model->architecture, entry->architecture, sizeof ret_model->architecture);
    copy_text(ret_model->folder, entry->folder, sizeof ret_model->folder);
    if (ret_model->eos_count > AGL_EOS_MAX)
        ret_model->eos_count = AGL_EOS_MAX;
    memcpy(ret_model->eos_ids, entry->eos_ids, sizeof ret_model->eos_ids);
}

static void read_status(struct agl_status *ret_status, const struct board *board,
                        uint32_t model_count)
{
    *ret_status = (struct agl_status){
        .daemon_pid = board->daemon_pid,
        .state = counter32(&board->state),
        .start_ns = board->start_ns,
        .heartbeat_ns = counter64(&board->heartbeat_ns),
        .steps = counter64(&board->steps),
        .model_count = model_count,
        .sessions = counter32(&board->sessions),
        .requests_queued = counter32(&board->requests_queued),
        .requests_running = counter32(&board->requests_running),
        .sessions_total = counter64(&board->sessions_total),
        .sessions_broken = counter64(&board->sessions_broken),
        .requests_total = counter64(&board->requests_total),
        .requests_refused = counter64(&board->requests_refused),
        .requests_done = counter64(&board->requests_done),
        .sessions_refused = counter64(&board->sessions_refused),
    };
    copy_text(ret_status->instance, board->instance, sizeof ret_status->instance);
    copy_text(ret_status->daemon_version, board->daemon_version, sizeof ret_status->daemon_version);
    copy_text(ret_status->backend, board->backend, sizeof ret_status->backend);
}

static const struct board *board_of(const struct agl_client *client)
{
    return (const void *)client->board.base;
}

/* Of a board of which nothing is known but that it holds HEADER_BYTES: all versions begin so. */
enum { HEADER_BYTES = offsetof(struct board, daemon_pid) };
static int check_version(const struct board *board)
{
    uint32_t magic = board->magic;
    uint32_t version = board->version;
    if (magic != BOARD_MAGIC)
        return error_set(-EPROTO, "the daemon's board has magic %#x, must be %#x", magic,
                         BOARD_MAGIC);
    if (version != BOARD_VERSION)
        return error_set(-EPROTONOSUPPORT,
                         "the daemon's board has version %u, this library reads %d: update the %s",
                         version, BOARD_VERSION, version < BOARD_VERSION ? "daemon" : "library");
    return 0;
}

int board_check(const struct board *board, uint32_t *ret_model_count)
{
    uint32_t bytes = board->bytes;
    uint32_t model_count = board->model_count;
    int err = check_version(board);
    if (err < 0)
        return err;
    if (bytes < BOARD_BYTES_FIRST || model_count > BOARD_MODELS_MAX)
        return error_set(-EPROTO, "the daemon's board says %u bytes and %u models", bytes,
                         model_count);
    *ret_model_count = model_count;
    return 0;
}

uint64_t board_heartbeat_ns(const struct agl_client *client)
{
    return counter64(&board_of(client)->heartbeat_ns);
}

/* ---- with a connection ----------------------------------------------------------------------- */

int agl_model_count(const struct agl_client *client)
{
    return (int)client->model_count;
}

int agl_model(const struct agl_client *client, uint32_t index, struct agl_model *ret_model)
{
    if (index >= client->model_count)
        return error_set(-EINVAL, "no model %u: the daemon holds %u", index, client->model_count);
    read_model(ret_model, &board_of(client)->models[index]);
    return 0;
}

/* -ENOENT, with a detail that lists what there is. */
static int no_such_model(const struct agl_client *client, const char *name)
{
    char list[BOARD_MODELS_MAX * (sizeof((struct agl_model *)0)->name + 2) + 1];
    size_t length = 0;
    list[0] = 0;
    for (uint32_t i = 0; i < client->model_count; i++) {
        struct agl_model model;
        read_model(&model, &board_of(client)->models[i]);
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%s", i ? ", " : "",
                                   model.name);
    }
    return error_set(-ENOENT, "no model %s: the daemon holds %s", name ? name : "at all",
                     *list ? list : "none");
}

int agl_model_find(const struct agl_client *client, const char *name)
{
    for (uint32_t i = 0; i < client->model_count; i++) {
        struct agl_model model;
        read_model(&model, &board_of(client)->models[i]);
        if (!name || strcmp(model.name, name) == 0)
            return (int)i;
    }
    return no_such_model(client, name);
}

int agl_status(const struct agl_client *client, struct agl_status *ret_status)
{
    read_status(ret_status, board_of(client), client->model_count);
    return 0;
}

/* ---- without a connection -------------------------------------------------------------------- */

/* The named object is read, not mapped: a mapping would fault if its owner cut it short. */
static int read_named_board(struct board *ret_board, const char *name)
{
    int fd = shm_open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0)
        return error_set(-errno, "cannot open the board %s: %s", name, strerror(errno));
    struct board board;
    memset(&board, 0, sizeof board); /* for what an older daemon's lacks */
    ssize_t got = pread(fd, &board, sizeof board, 0);
    int err = got < 0 ? -errno : 0;
    close(fd);
    if (err < 0)
        return error_set(err, "cannot read the board %s: %s", name, strerror(-err));
    /* The version before the size: another version may well have another size. */
    err = got >= HEADER_BYTES ? check_version(&board) : 0;
    if (err < 0)
        return err;
    if (got < BOARD_BYTES_FIRST)
        return error_set(-EPROTO, "the board %s has %zd bytes, must be at least %d", name, got,
                         BOARD_BYTES_FIRST);
    memcpy(ret_board, &board, sizeof board);
    return 0;
}

int agl_status_of(const char *instance, struct agl_status *ret_status, struct agl_model *ret_models,
                  uint32_t capacity)
{
    struct board board;
    uint32_t model_count = 0;
    char name[64];
    memset(&board, 0, sizeof board);
    if (!instance)
        instance = "default";
    if (!*instance || strchr(instance, '/') || strlen(instance) >= sizeof board.instance)
        return error_set(-EINVAL, "instance \"%s\": must be a word of at most %zu bytes without /",
                         instance, sizeof board.instance - 1);
    snprintf(name, sizeof name, "/autoglm.%s", instance);
    int err = read_named_board(&board, name);
    if (err < 0)
        return err;
    err = board_check(&board, &model_count);
    if (err < 0)
        return err;
    read_status(ret_status, &board, model_count);
    for (uint32_t i = 0; i < model_count && i < capacity; i++)
        read_model(&ret_models[i], &board.models[i]);
    return 0;
}
