/*
 * autoglmd: the order of start and stop. Exit status: 0 stopped as asked, 1 something failed, 2 the
 * command line or the configuration is wrong.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/access.h"
#include "daemon/board.h"
#include "daemon/config.h"
#include "daemon/control.h"
#include "daemon/engine.h"
#include "daemon/guard.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "daemon/systemd.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "model/weights.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_CONFIG = 2 };

/* Everything that is opened, in this order; closed in the other one. */
struct service {
    struct config config;
    struct access_list access;
    uint64_t start_ns;
    int signal_fd;
    atomic_bool is_told_to_stop; /* while models are read */
    struct backend *backend;
    struct model *models[CONFIG_MODELS_MAX];
    uint32_t model_count;
    struct board_owner board;
    struct engine *engine;
    bool engine_runs;
    struct control *control;
};

static double seconds_since(uint64_t start_ns)
{
    return (double)(loop_now_ns() - start_ns) * 1e-9;
}

/* The signals come through a descriptor; the engine's threads inherit that they are blocked. */
static int open_signals(int *ret_fd)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

/* The kernel's table of descriptors doubles as they come, and in a process with threads that waits
 * each time for all processors (RCU): tens of milliseconds, seconds on a busy machine, in which
 * nobody is let in or out, and not even SIGKILL ends us. So it grows now, before the threads. */
static void grow_descriptor_table(int some_fd, uint64_t descriptors)
{
    int fd = fcntl(some_fd, F_DUPFD_CLOEXEC, (int)descriptors - 1);
    if (fd >= 0)
        close(fd);
}

/* A session takes three: socket, process, doorbell; and two more while it is being made. */
static void raise_descriptor_limit(const struct service *service)
{
    const struct config *config = &service->config;
    enum { PER_SESSION = 3, OTHERS = 256 };
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    uint64_t wanted = (uint64_t)config->sessions_max * PER_SESSION + OTHERS;
    if (limit.rlim_cur < wanted)
        log_warning("RLIMIT_NOFILE is %llu: enough for about %llu sessions, sessions_max is %u",
                    (unsigned long long)limit.rlim_cur,
                    limit.rlim_cur > OTHERS
                        ? (unsigned long long)(limit.rlim_cur - OTHERS) / PER_SESSION
                        : 0,
                    config->sessions_max);
    grow_descriptor_table(service->signal_fd, wanted < limit.rlim_cur ? wanted : limit.rlim_cur);
}

static int start_backend(struct service *service, struct failure *failure)
{
    const struct config *config = &service->config;
    const char *why = NULL;
    struct backend_options options = {
        .device = config->device,
        .threads = config->threads,
        .processors = config->cpus,
        .variant = strcmp(config->cpu_variant, "auto") == 0 ? NULL : config->cpu_variant,
    };
    int err = backend_open(&service->backend, &options, &why);
    if (err < 0)
        return failure_set(failure, err, "device \"%s\": %s", config->device,
                           why ? why : strerror(-err));
    assert(service->backend);
    log_info("device: %s", service->backend->ops->describe(service->backend));
    return 0;
}

/* Weights take minutes to read: SIGTERM ends that, too. It stays pending. */
static void look_for_the_end(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    struct service *service = context;
    sigset_t pending;
    if (sigpending(&pending) == 0 &&
        (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1))
        /* relaxed: the flag stands for itself. */
        atomic_store_explicit(&service->is_told_to_stop, true, memory_order_relaxed);
}

static int start_model(struct service *service, const struct config_model *wanted,
                       uint64_t *memory_left, struct failure *failure)
{
    struct model_options options = {.memory_bytes = *memory_left,
                                    .quant = service->config.quant,
                                    .quant_head = service->config.quant_head,
                                    .quant_embedding = service->config.quant_embedding,
                                    .context_tokens = service->config.context_tokens,
                                    .direct_io = true,
                                    .progress = look_for_the_end,
                                    .progress_context = service,
                                    .cancel = &service->is_told_to_stop};
    uint64_t start_ns = loop_now_ns();
    struct model *model;
    log_info("model %s: reading %s", wanted->name, wanted->folder);
    systemd_notify("STATUS=Reading model %s", wanted->name);
    int err = model_open(&model, wanted->name, wanted->folder, service->backend, &options, failure);
    if (err < 0)
        return err;
    service->models[service->model_count++] = model;

    char how[512];
    log_info("model %s: %s, ready after %.3f s; %s", model->name, model->config.architecture_name,
             seconds_since(start_ns), weights_describe(model->weights, how, sizeof how));
    uint64_t allocated_bytes = model->weights ? model->weights->report.memory_bytes : 0;
    if (*memory_left) /* 0 stands for no limit, so what is left never becomes 0 */
        *memory_left = *memory_left > allocated_bytes ? *memory_left - allocated_bytes : 1;
    return 0;
}

static int start_models(struct service *service, struct failure *failure)
{
    const struct config *config = &service->config;
    uint64_t memory_left = config->memory_bytes;
    for (uint32_t i = 0; i < config->model_count; i++) {
        int err = start_model(service, &config->models[i], &memory_left, failure);
        if (err < 0)
            return err;
    }
    return 0;
}

static int start_board(struct service *service, struct failure *failure)
{
    assert(service->backend);
    int err = board_open(&service->board, service->config.instance, failure);
    if (err < 0)
        return err;
    snprintf(service->board.board->backend, sizeof service->board.board->backend, "%s",
             service->backend->ops->describe(service->backend));
    for (uint32_t i = 0; i < service->model_count; i++) {
        err = board_add_model(&service->board, service->models[i], 0, 0, 0);
        if (err < 0)
            return failure_set(failure, err, "board: no room for model %s",
                               service->models[i]->name);
    }
    return 0;
}

static int start_engine(struct service *service, struct failure *failure)
{
    int err = engine_open(&service->engine, &service->config, service->models, service->model_count,
                          service->backend, service->board.board, failure);
    if (err < 0)
        return err;
    err = engine_start(service->engine);
    if (err < 0)
        return failure_set(failure, err, "cannot start the engine's thread: %s", strerror(-err));
    service->engine_runs = true;
    return 0;
}

static int start_control(struct service *service, struct failure *failure)
{
    struct control_options options = {.config = &service->config,
                                      .access = &service->access,
                                      .engine = service->engine,
                                      .board = &service->board,
                                      .signal_fd = service->signal_fd};
    return control_open(&service->control, &options, failure);
}

static int start(struct service *service, struct failure *failure)
{
    static int (*const steps[])(struct service *, struct failure *) = {
        start_backend, start_models, start_board, start_engine, start_control};
    int err = open_signals(&service->signal_fd);
    if (err < 0)
        return failure_set(failure, err, "signals: %s", strerror(-err));
    raise_descriptor_limit(service);
    err = guard_open(service->config.sessions_max);
    if (err < 0)
        return failure_set(failure, err, "guard: %s", strerror(-err));
    for (size_t i = 0; i < sizeof steps / sizeof *steps && err == 0; i++)
        err = steps[i](service, failure);
    return err;
}

/* Stops and closes what start() has got to. */
static void stop(struct service *service)
{
    systemd_notify("STOPPING=1");
    if (service->engine_runs)
        engine_stop(service->engine);
    control_close(service->control);
    engine_close(service->engine);
    board_close(&service->board);
    for (uint32_t i = service->model_count; i-- > 0;)
        model_close(service->models[i], service->backend);
    backend_close(service->backend);
    guard_close();
    if (service->signal_fd >= 0)
        close(service->signal_fd);
}

static void say_ready(const struct service *service)
{
    char names[512] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < service->model_count && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 service->models[i]->name);
    systemd_notify("READY=1\nSTATUS=Serving %s", names);
    log_info("ready: %s, socket %s, in %.2f s", names, control_socket_path(service->control),
             seconds_since(service->start_ns));
}

static int serve(struct service *service)
{
    struct failure failure = {""};
    int err = start(service, &failure);
    if (err == -ECANCELED && service->is_told_to_stop) {
        log_info("%s", failure.text);
        err = 0;
    } else if (err < 0) {
        log_error("%s", *failure.text ? failure.text : strerror(-err));
    } else {
        say_ready(service);
        err = control_run(service->control);
    }
    stop(service);
    if (err == 0)
        log_info("stopped");
    return err < 0 ? EXIT_FAILED : EXIT_OK;
}

int main(int argc, char **argv)
{
    static struct service service = {.signal_fd = -1,
                                     .board = {.region = {.fd = -1}, .named_fd = -1}};
    struct failure failure = {""};
    service.start_ns = loop_now_ns();
    log_init(LOG_LEVEL_INFO);

    int action = config_read(&service.config, argc, argv, &failure);
    if (action < 0) {
        log_error("%s", failure.text);
        return EXIT_CONFIG;
    }
    if (action == CONFIG_HELP) {
        config_usage(stdout);
    } else if (action == CONFIG_VERSION) {
        printf("autoglmd %s\n", config_version());
    } else if (access_open(&service.access, &service.config, &failure) < 0) {
        log_error("%s", failure.text);
        return EXIT_CONFIG;
    } else if (service.config.check_only) {
        printf("configuration ok\n");
        config_write(stdout, &service.config);
    } else {
        log_init(service.config.log_level);
        return serve(&service);
    }
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}
