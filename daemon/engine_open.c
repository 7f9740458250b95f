/* What the engine allocates before it starts: caches sized to their share of the memory, the pool
 * of requests, the arrays of a step, the rings and descriptors. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/engine_state.h"
#include "model/memory.h"

enum { MIB = 1 << 20 };

static uint32_t blocks_for(uint32_t tokens, uint32_t block_tokens)
{
    return tokens / block_tokens + (tokens % block_tokens != 0);
}

/* The options of the model's cache with one block. */
static struct kv_cache_options cache_options(const struct config *config, const struct model *model)
{
    return (struct kv_cache_options){.type = config->cache_type,
                                     .layers = model->config.layers,
                                     .kv_heads = model->config.kv_heads,
                                     .head_dim = model->config.head_dim,
                                     .blocks = 1,
                                     .block_tokens = config->block_tokens};
}

/* How many blocks the model gets: as many as can be of use, within its share of the memory. A
 * context that was asked for must fit; the model's own is cut to what fits. */
static int size_cache(const struct engine *engine, struct engine_model *model, uint64_t share_bytes,
                      uint32_t *ret_blocks, struct failure *failure)
{
    const struct config *config = engine->config;
    uint32_t block_tokens = config->block_tokens;
    bool is_asked_for =
        config->context_tokens && config->context_tokens <= model->model->config.context_tokens;
    uint32_t context_tokens =
        is_asked_for ? config->context_tokens : model->model->config.context_tokens;
    uint64_t blocks = (uint64_t)blocks_for(context_tokens, block_tokens) *
                      ((uint64_t)engine->running_max + config->kept_max);
    if (model->model->config.architecture != MODEL_ECHO) {
        struct kv_cache_options options = cache_options(config, model->model);
        uint64_t block_bytes = kv_cache_bytes(&options);
        uint64_t fitting_blocks = share_bytes / block_bytes;
        if (fitting_blocks < blocks)
            blocks = fitting_blocks;
        if (blocks < (is_asked_for ? blocks_for(context_tokens, block_tokens) : 1))
            return failure_set(failure, -ENOMEM,
                               "cache_mib: model %s needs %.1f MiB of cache for a context of %u "
                               "tokens, its share is %.1f MiB (%.1f MiB for all models)",
                               model->model->name,
                               (double)block_bytes * blocks_for(context_tokens, block_tokens) / MIB,
                               context_tokens, (double)share_bytes / MIB,
                               (double)config->cache_bytes / MIB);
    }
    if (blocks > INT32_MAX)
        blocks = INT32_MAX;
    if (blocks < blocks_for(context_tokens, block_tokens))
        context_tokens = (uint32_t)blocks * block_tokens;
    model->context_tokens = context_tokens;
    *ret_blocks = (uint32_t)blocks;
    return 0;
}

/* Opens the model's activations and cache. *left_bytes is the memory not yet promised to anyone:
 * pages come with their first touch, so an allocation alone would refuse nothing. */
static int open_forward(struct engine *engine, struct engine_model *model, uint32_t blocks,
                        uint64_t *left_bytes, struct failure *failure)
{
    const struct config *config = engine->config;
    struct forward_options options = {.rows_max = engine->limits.step_tokens,
                                      .logits_max = engine->running_max,
                                      .cache_type = config->cache_type,
                                      .cache_blocks = blocks,
                                      .block_tokens = config->block_tokens};
    uint64_t bytes = forward_bytes(&model->model->config, &options);
    if (engine->backend->ops->host_memory && bytes > *left_bytes)
        return failure_set(failure, -ENOMEM,
                           "model %s needs %.1f MiB for activations and cache, %.1f MiB of memory "
                           "are available: lower cache_mib (%.0f) or context_tokens",
                           model->model->name, (double)bytes / MIB, (double)*left_bytes / MIB,
                           (double)config->cache_bytes / MIB);
    int err = forward_open(&model->forward, model->model, engine->backend, &options);
    if (err < 0)
        return failure_set(failure, err,
                           "model %s: cannot allocate %.1f MiB for activations and cache",
                           model->model->name, (double)bytes / MIB);
    *left_bytes -= bytes < *left_bytes ? bytes : *left_bytes;
    return 0;
}

static int open_model(struct engine *engine, struct engine_model *model, uint64_t share_bytes,
                      uint64_t *left_bytes, struct failure *failure)
{
    const struct config *config = engine->config;
    uint32_t blocks = 0;
    request_queue_init(&model->queue);
    model->running.link = REQUEST_BY_STATE;
    int err = size_cache(engine, model, share_bytes, &blocks, failure);
    if (err < 0)
        return err;
    err = kvcache_init(&model->cache, blocks, config->block_tokens);
    if (err < 0)
        return failure_set(failure, err, "model %s: no memory for the list of %u blocks",
                           model->model->name, blocks);
    uint64_t cache_bytes = 0;
    if (model->model->config.architecture != MODEL_ECHO) {
        err = open_forward(engine, model, blocks, left_bytes, failure);
        if (err < 0)
            return err;
        struct kv_cache_options whole = cache_options(config, model->model);
        whole.blocks = blocks;
        cache_bytes = kv_cache_bytes(&whole);
    }
    model->board->context_tokens = model->context_tokens;
    model->board->block_tokens = config->block_tokens;
    model->board->blocks = blocks;
    model->board->cache_bytes = cache_bytes;
    atomic_store_explicit(&model->board->blocks_free, blocks, memory_order_relaxed);
    return 0;
}

static int open_models(struct engine *engine, struct model *const *models, struct failure *failure)
{
    uint32_t with_cache = 0;
    for (uint32_t i = 0; i < engine->model_count; i++) {
        engine->models[i].model = models[i];
        engine->models[i].board = &engine->board->models[i];
        with_cache += models[i]->config.architecture != MODEL_ECHO;
    }
    uint64_t share_bytes = with_cache ? engine->config->cache_bytes / with_cache : 0;
    uint64_t left_bytes = memory_available("");
    for (uint32_t i = 0; i < engine->model_count; i++) {
        int err = open_model(engine, &engine->models[i], share_bytes, &left_bytes, failure);
        if (err < 0)
            return err;
    }
    return 0;
}

static void *array(uint64_t count, size_t bytes, bool *has_failed)
{
    void *memory = calloc(count, bytes);
    *has_failed |= memory == NULL;
    return memory;
}

/* Everything that the models' sizes ask for. */
static int allocate(struct engine *engine)
{
    const struct config *config = engine->config;
    uint32_t context_tokens = 1, vocab_size = 1, table_blocks = 1;
    for (uint32_t i = 0; i < engine->model_count; i++) {
        const struct engine_model *model = &engine->models[i];
        uint32_t blocks = blocks_for(model->context_tokens, config->block_tokens);
        if (model->context_tokens > context_tokens)
            context_tokens = model->context_tokens;
        if (blocks > table_blocks)
            table_blocks = blocks;
        if (model->forward && model->model->config.vocab_size > vocab_size)
            vocab_size = model->model->config.vocab_size;
    }
    uint32_t requests =
        config->queue_requests + engine->model_count * engine->running_max + config->kept_max;
    int err = request_pool_init(&engine->pool, requests, context_tokens, table_blocks);
    if (err < 0)
        return err;
    err = sampler_init(&engine->sampler, vocab_size);
    if (err < 0)
        return err;

    bool has_failed = false;
    uint32_t running_max = engine->running_max;
    uint32_t step_tokens = engine->limits.step_tokens;
    engine->table_stride = table_blocks;
    engine->sequences = array(running_max, sizeof *engine->sequences, &has_failed);
    engine->candidates = array(running_max, sizeof(struct request *), &has_failed);
    engine->picks = array(running_max, sizeof *engine->picks, &has_failed);
    engine->parts = array(running_max, sizeof *engine->parts, &has_failed);
    engine->ids = array(step_tokens, sizeof *engine->ids, &has_failed);
    engine->positions = array(step_tokens, sizeof *engine->positions, &has_failed);
    engine->owners = array(step_tokens, sizeof *engine->owners, &has_failed);
    engine->logit_rows = array(running_max, sizeof *engine->logit_rows, &has_failed);
    engine->block_tables =
        array((uint64_t)running_max * table_blocks, sizeof(uint32_t), &has_failed);
    return has_failed ? -ENOMEM : 0;
}

static int open_rings(struct engine *engine)
{
    bool has_failed = false;
    engine->report_count = 16;
    while (engine->report_count < 2 * engine->config->sessions_max + 16)
        engine->report_count *= 2;
    engine->command_slots = array(ENGINE_COMMANDS, sizeof(struct engine_command), &has_failed);
    engine->report_slots = array(engine->report_count, sizeof(struct engine_report), &has_failed);
    if (has_failed)
        return -ENOMEM;
    ring_writer_init(&engine->command_writer, engine->command_slots, ENGINE_COMMANDS,
                     sizeof(struct engine_command), &engine->command_cursor);
    ring_reader_init(&engine->commands, engine->command_slots, ENGINE_COMMANDS,
                     sizeof(struct engine_command), &engine->command_cursor);
    ring_writer_init(&engine->reports, engine->report_slots, engine->report_count,
                     sizeof(struct engine_report), &engine->report_cursor);
    ring_reader_init(&engine->report_reader, engine->report_slots, engine->report_count,
                     sizeof(struct engine_report), &engine->report_cursor);
    return 0;
}

static int open_descriptors(struct engine *engine)
{
    engine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (engine->epoll_fd < 0)
        return -errno;
    engine->command_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->command_fd < 0)
        return -errno;
    engine->report_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->report_fd < 0)
        return -errno;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.ptr = NULL}};
    if (epoll_ctl(engine->epoll_fd, EPOLL_CTL_ADD, engine->command_fd, &event) < 0)
        return -errno;
    return 0;
}

/* On a machine with one processor whoever spins keeps the other side from running. What counts is
 * the machine, not our affinity: the clients of a pinned daemon run on the other processors. */
static uint64_t spin_limit_ns(const struct config *config)
{
    if (config->wait == ENGINE_WAIT_SPIN)
        return UINT64_MAX;
    if (config->wait == ENGINE_WAIT_SLEEP)
        return 0;
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        return 0;
    return config->spin_ns;
}

static int check_config(const struct config *config, uint32_t model_count, struct failure *failure)
{
    if (model_count == 0 || model_count > BOARD_MODELS_MAX)
        return failure_set(failure, -EINVAL, "models: there are %u, must be 1 to %d", model_count,
                           BOARD_MODELS_MAX);
    if (!config->step_tokens || !config->chunk_tokens || !config->running_max ||
        !config->block_tokens || !config->queue_requests)
        return failure_set(failure, -EINVAL,
                           "step_tokens, chunk_tokens, running_max, block_tokens and "
                           "queue_requests must not be 0");
    return 0;
}

int engine_open(struct engine **ret_engine, const struct config *config,
                struct model *const *models, uint32_t model_count, struct backend *backend,
                struct board *board, struct failure *failure)
{
    int err = check_config(config, model_count, failure);
    if (err < 0)
        return err;
    struct engine *engine = aligned_alloc(LAYOUT_PAIR_BYTES, sizeof *engine);
    if (!engine)
        return failure_set(failure, -ENOMEM, "engine: no memory");

    /* With no more sequences than rows, each one gets at least a row in every step. */
    uint32_t running_max =
        config->running_max < config->step_tokens ? config->running_max : config->step_tokens;
    *engine = (struct engine){
        .config = config,
        .backend = backend,
        .board = board,
        .clock_ns = engine_now_ns,
        .running_max = running_max,
        .limits = {.step_tokens = config->step_tokens, .chunk_tokens = config->chunk_tokens},
        .model_count = model_count,
        .timer_ns = UINT64_MAX,
        .epoll_fd = -1,
        .command_fd = -1,
        .report_fd = -1,
    };
    spinner_init(&engine->spinner, spin_limit_ns(config));
    engine->models = calloc(model_count, sizeof *engine->models);
    if (!engine->models) {
        err = failure_set(failure, -ENOMEM, "engine: no memory");
        goto close;
    }
    err = open_models(engine, models, failure);
    if (err < 0)
        goto close;
    if ((err = allocate(engine)) < 0 || (err = open_rings(engine)) < 0 ||
        (err = open_descriptors(engine)) < 0) {
        failure_set(failure, err, "engine: no memory or descriptors for %u requests",
                    config->queue_requests);
        goto close;
    }
    *ret_engine = engine;
    return 0;

close:
    engine_close(engine);
    return err;
}

static void close_descriptor(int fd)
{
    if (fd >= 0)
        close(fd);
}

void engine_close(struct engine *engine)
{
    if (!engine)
        return;
    assert(!engine->is_started);
    for (uint32_t i = 0; engine->models && i < engine->model_count; i++) {
        forward_close(engine->models[i].forward);
        kvcache_fini(&engine->models[i].cache);
    }
    free(engine->models);
    request_pool_fini(&engine->pool);
    sampler_fini(&engine->sampler);
    free(engine->sequences);
    free(engine->candidates);
    free(engine->picks);
    free(engine->parts);
    free(engine->ids);
    free(engine->positions);
    free(engine->owners);
    free(engine->logit_rows);
    free(engine->block_tables);
    free(engine->command_slots);
    free(engine->report_slots);
    close_descriptor(engine->epoll_fd);
    close_descriptor(engine->command_fd);
    close_descriptor(engine->report_fd);
    free(engine);
}
