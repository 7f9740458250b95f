#include "tools/bench_stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "tools/bench_stop.h"
#include "tools/cli.h"

enum {
    FDS_PER_SESSION = 5, /* in the client as in the daemon: socket, doorbell, halves, board */
    OTHER_FDS = 256,
    SPARE_SESSIONS = 8, /* the one that asked whether the daemon serves may not have left yet */
    CONNECT_S = 20,     /* on a machine that others keep busy */
    ROOM_TOKENS = 4096, /* of a session's arena at least */
};

void stage_limits(uint32_t *ret_sessions)
{
    struct rlimit limit = {.rlim_cur = 1024};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    uint64_t fds = limit.rlim_cur > OTHER_FDS ? limit.rlim_cur - OTHER_FDS : 0;
    uint64_t sessions = fds / FDS_PER_SESSION;
    *ret_sessions = sessions > UINT32_MAX ? UINT32_MAX : (uint32_t)sessions;
}

static uint32_t longest_prompt(const struct bench_setup *setup)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < setup->prompts.count; i++)
        if (setup->prompts.values[i] > longest)
            longest = setup->prompts.values[i];
    return longest;
}

static int connect_all(struct stage *stage, const char *socket_path)
{
    static const uint32_t wait_modes[BENCH_MODES] = {AGL_WAIT_SPIN, AGL_WAIT_ADAPTIVE,
                                                     AGL_WAIT_SLEEP};
    const struct bench_setup *setup = &stage->setup;
    uint32_t count = setup->sessions + setup->idle;
    uint32_t longest = longest_prompt(setup);
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = socket_path;
    options.timeout_ns = CONNECT_S * UINT64_C(1000000000);
    options.wait_mode = wait_modes[setup->mode];
    options.prompt_tokens = longest > ROOM_TOKENS ? longest : ROOM_TOKENS;
    for (uint32_t i = 0; i < count; i++) {
        if (i == setup->sessions) { /* the rest only has to be there */
            options.max_requests = 1;
            options.prompt_tokens = 1;
        }
        if (bench_stop_signal())
            return bench_stop_status();
        if (cli_connect(&stage->clients[i], &options))
            return cli_fail("%u of %u sessions are connected", i, count);
    }
    return 0;
}

/* Leaves out the prompts that do not fit with a token of answer. */
static void keep_fitting_prompts(struct stage *stage)
{
    struct bench_list *prompts = &stage->setup.prompts;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < prompts->count; i++)
        if (prompts->values[i] < stage->context_tokens)
            prompts->values[kept++] = prompts->values[i];
    stage->left_out = prompts->count - kept;
    prompts->count = kept;
}

/* What the daemon holds may be no echo, if it is somebody else's. */
static int choose_model(struct stage *stage, const char *name)
{
    struct agl_model model;
    struct agl_client *client = stage->clients[0];
    int index = agl_model_find(client, name);
    int err = index < 0 ? index : agl_model(client, (uint32_t)index, &model);
    if (err < 0)
        return cli_error("cannot choose the model", err);
    stage->model = (uint32_t)index;
    stage->context_tokens = model.context_tokens;
    stage->setup.is_real = strcmp(model.architecture, "echo") != 0;
    snprintf(stage->model_name, sizeof stage->model_name, "%s", model.name);
    keep_fitting_prompts(stage);
    return 0;
}

static int start_daemon(struct stage *stage, const struct bench_options *options, const char *model,
                        int processor)
{
    struct bench_daemon_options daemon = {
        .program = options->daemon,
        .wait = bench_mode_name(stage->setup.mode),
        .model = model,
        .sessions = stage->setup.sessions + stage->setup.idle + SPARE_SESSIONS,
        .processor = processor,
    };
    return bench_daemon_start(&stage->daemon, &daemon);
}

int stage_open(struct stage *ret_stage, const struct bench_setup *setup,
               const struct bench_options *options, const char *model, int processor)
{
    *ret_stage = (struct stage){.setup = *setup};
    ret_stage->clients = calloc(setup->sessions + setup->idle, sizeof(struct agl_client *));
    if (!ret_stage->clients)
        return cli_fail("not enough memory for %u sessions", setup->sessions + setup->idle);
    int status = options->socket_path ? 0 : start_daemon(ret_stage, options, model, processor);
    if (!status)
        status = connect_all(ret_stage, options->socket_path ? options->socket_path
                                                             : ret_stage->daemon.socket_path);
    if (!status)
        status = choose_model(ret_stage, options->socket_path ? options->model : NULL);
    return status ? status : bench_daemon_hold(&ret_stage->daemon);
}

void stage_close(struct stage *stage)
{
    bench_daemon_stop(&stage->daemon);
    for (uint32_t i = 0; stage->clients && i < stage->setup.sessions + stage->setup.idle; i++)
        agl_close(stage->clients[i]);
    free(stage->clients);
    stage->clients = NULL;
}

struct agl_client *stage_next(struct stage *stage)
{
    struct agl_client *client = stage->clients[stage->turn];
    stage->turn = stage->turn + 1 < stage->setup.sessions ? stage->turn + 1 : 0;
    return client;
}
