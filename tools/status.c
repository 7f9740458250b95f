/*
 * autoglm status: what the daemon holds and does, once.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "tools/cli.h"

static const char usage[] =
    "Usage: autoglm status [OPTIONS]\n"
    "Prints what the daemon holds and does now.\n"
    "\n"
    "  --socket PATH      the daemon's socket ($AUTOGLM_SOCKET, /run/autoglm/autoglm.sock)\n"
    "  --instance NAME    read the board /autoglm.NAME instead of connecting\n"
    "  --json             as JSON\n"
    "  --help             this text\n";

enum { OPTION_SOCKET = 256, OPTION_INSTANCE, OPTION_JSON, OPTION_HELP };
enum { MODELS_MAX = 64 };

/* A daemon that lives and makes progress shows it within a second or two. */
static const uint64_t SILENCE_NS = 5000000000;

static const struct option long_options[] = {
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"instance", required_argument, NULL, OPTION_INSTANCE},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

static const char *state_name(uint32_t state)
{
    static const char *const names[] = {"starting", "serving", "draining"};
    return state < 3 ? names[state] : "unknown";
}

static void print_model(const struct agl_model *model)
{
    double busy_s = (double)model->busy_ns / 1e9;
    printf("\nmodel %s (%s)\n", model->name, model->architecture);
    if (model->folder[0])
        printf("  %-20s %s\n", "folder", model->folder);
    printf("  %-20s %.1f MB\n", "weights", (double)model->weights_bytes / 1e6);
    printf("  %-20s %u ids, context of %u tokens\n", "vocabulary", model->vocab_size,
           model->context_tokens);
    printf("  %-20s %u of %u free, %u tokens each\n", "cache blocks", model->blocks_free,
           model->blocks, model->block_tokens);
    printf("  %-20s %llu prompt, %llu generated\n", "tokens since start",
           (unsigned long long)model->prompt_tokens, (unsigned long long)model->generated_tokens);
    printf("  %-20s %llu, %.2f s busy\n", "steps", (unsigned long long)model->steps, busy_s);
}

/* Nanoseconds since then; 0 if it is yet to come, as seen from another processor. */
static uint64_t age_ns(uint64_t then_ns)
{
    uint64_t now_ns = agl_now_ns();
    return now_ns > then_ns ? now_ns - then_ns : 0;
}

static void print_text(const struct agl_status *status, const struct agl_model *models,
                       uint32_t count)
{
    printf("autoglmd %s, instance %s, process %u, %s\n", status->daemon_version, status->instance,
           status->daemon_pid, state_name(status->state));
    printf("  %-20s %s\n", "backend", status->backend);
    printf("  %-20s %.1f s, last sign of life %.2f s ago%s\n", "up",
           (double)age_ns(status->start_ns) / 1e9, (double)age_ns(status->heartbeat_ns) / 1e9,
           age_ns(status->heartbeat_ns) > SILENCE_NS ? ": dead, or stuck" : "");
    printf("  %-20s %u now, %llu in all, %llu refused, %llu ended for breaking the contract\n",
           "sessions", status->sessions, (unsigned long long)status->sessions_total,
           (unsigned long long)status->sessions_refused,
           (unsigned long long)status->sessions_broken);
    printf("  %-20s %u running, %u queued; %llu done, %llu refused\n", "requests",
           status->requests_running, status->requests_queued,
           (unsigned long long)status->requests_done, (unsigned long long)status->requests_refused);
    for (uint32_t i = 0; i < count; i++)
        print_model(&models[i]);
}

static void add_number(cJSON *object, const char *name, uint64_t value)
{
    cJSON_AddNumberToObject(object, name, (double)value);
}

static void add_model(cJSON *list, const struct agl_model *model)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", model->name);
    cJSON_AddStringToObject(object, "architecture", model->architecture);
    cJSON_AddStringToObject(object, "folder", model->folder);
    add_number(object, "vocab_size", model->vocab_size);
    add_number(object, "context_tokens", model->context_tokens);
    add_number(object, "weights_bytes", model->weights_bytes);
    add_number(object, "bytes_per_token", model->bytes_per_token);
    add_number(object, "block_tokens", model->block_tokens);
    add_number(object, "blocks", model->blocks);
    add_number(object, "blocks_free", model->blocks_free);
    add_number(object, "prompt_tokens", model->prompt_tokens);
    add_number(object, "generated_tokens", model->generated_tokens);
    add_number(object, "steps", model->steps);
    add_number(object, "busy_ns", model->busy_ns);
    cJSON_AddItemToArray(list, object);
}

static int print_json(const struct agl_status *status, const struct agl_model *models,
                      uint32_t count)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "instance", status->instance);
    cJSON_AddStringToObject(root, "version", status->daemon_version);
    cJSON_AddStringToObject(root, "backend", status->backend);
    cJSON_AddStringToObject(root, "state", state_name(status->state));
    add_number(root, "pid", status->daemon_pid);
    add_number(root, "up_ns", age_ns(status->start_ns));
    add_number(root, "heartbeat_age_ns", age_ns(status->heartbeat_ns));
    add_number(root, "steps", status->steps);
    add_number(root, "sessions", status->sessions);
    add_number(root, "sessions_total", status->sessions_total);
    add_number(root, "sessions_refused", status->sessions_refused);
    add_number(root, "sessions_broken", status->sessions_broken);
    add_number(root, "requests_running", status->requests_running);
    add_number(root, "requests_queued", status->requests_queued);
    add_number(root, "requests_total", status->requests_total);
    add_number(root, "requests_done", status->requests_done);
    add_number(root, "requests_refused", status->requests_refused);
    cJSON *list = cJSON_AddArrayToObject(root, "models");
    for (uint32_t i = 0; list && i < count; i++)
        add_model(list, &models[i]);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return cli_fail("not enough memory for the status");
    puts(text);
    cJSON_free(text);
    return 0;
}

static int read_by_session(const char *socket_path, struct agl_status *ret_status,
                           struct agl_model *ret_models)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = socket_path;
    options.max_requests = 1;
    options.prompt_tokens = 1024;
    struct agl_client *client = NULL;
    if (cli_connect(&client, &options))
        return CLI_FAILED;
    int err = agl_status(client, ret_status);
    for (uint32_t i = 0; err >= 0 && i < ret_status->model_count && i < MODELS_MAX; i++)
        err = agl_model(client, i, &ret_models[i]);
    agl_close(client);
    return err < 0 ? cli_error("cannot read the status", err) : 0;
}

int status_main(int argc, char **argv)
{
    const char *socket_path = NULL;
    const char *instance = NULL;
    bool json = false;
    int option;
    optind = 1;
    while ((option = cli_option("status", argc, argv, ":", long_options)) != -1) {
        switch (option) {
        case OPTION_SOCKET:
            socket_path = optarg;
            break;
        case OPTION_INSTANCE:
            instance = optarg;
            break;
        case OPTION_JSON:
            json = true;
            break;
        case OPTION_HELP:
            fputs(usage, stdout);
            return 0;
        default:
            return CLI_USAGE;
        }
    }
    if (optind < argc)
        return cli_usage("status: \"%s\" is one argument too many", argv[optind]);
    if (instance && socket_path)
        return cli_usage("status: --instance takes the place of --socket");

    struct agl_status status;
    static struct agl_model models[MODELS_MAX];
    int err = 0;
    if (instance) {
        err = agl_status_of(instance, &status, models, MODELS_MAX);
        if (err < 0)
            return cli_error("cannot read the board", err);
    } else {
        err = read_by_session(socket_path, &status, models);
        if (err)
            return err;
    }
    uint32_t count = status.model_count < MODELS_MAX ? status.model_count : MODELS_MAX;
    if (json)
        return print_json(&status, models, count);
    print_text(&status, models, count);
    return 0;
}
