#include "daemon/config.h"

#include <errno.h>
#include <string.h>

#include "daemon/config_keys.h"
#include "model/json.h"

static const char default_file[] = "/etc/autoglm/autoglm.json";

/* The flags that are no keys. */
static const char *const other_flags[] = {"--config", "--model", "--check-config", "--help",
                                          "--version"};
enum { OTHER_FLAGS = sizeof other_flags / sizeof *other_flags, FLAG_BYTES = 64 };

/* One flag of the command line. */
struct flag {
    char name[FLAG_BYTES]; /* "--cache-mib" */
    const char *value;     /* NULL: none yet */
};

const char *config_version(void)
{
    return AUTOGLM_VERSION;
}

void config_defaults(struct config *ret_config)
{
    *ret_config = (struct config){0};
    for (size_t i = 0; i < config_key_count; i++) {
        int err = config_set_text(ret_config, &config_keys[i], config_keys[i].fallback, "", NULL);
        assert(err == 0); /* the table's defaults obey the table */
    }
}

static const struct config_key *key_of_flag(const char *name)
{
    char flag[FLAG_BYTES];
    for (size_t i = 0; i < config_key_count; i++) {
        config_flag_name(&config_keys[i], flag, sizeof flag);
        if (strcmp(flag, name) == 0)
            return &config_keys[i];
    }
    return NULL;
}

static int refuse_unknown(const char *name, struct failure *failure)
{
    char flag[FLAG_BYTES], nearest[FLAG_BYTES] = "";
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < config_key_count + OTHER_FLAGS; i++) {
        if (i < config_key_count)
            config_flag_name(&config_keys[i], flag, sizeof flag);
        else
            snprintf(flag, sizeof flag, "%s", other_flags[i - config_key_count]);
        size_t distance = config_distance(name, flag);
        if (distance < best) {
            best = distance;
            memcpy(nearest, flag, sizeof nearest);
        }
    }
    return failure_set(failure, -EINVAL, "unknown flag %s; the nearest known one is %s",
                       json_quote(name).text, nearest);
}

static bool is_one_of(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Reads the flag at argv[*index], "--flag value" or "--flag=value", and moves *index past it. */
static int next_flag(int argc, char **argv, int *index, struct flag *ret_flag,
                     struct failure *failure)
{
    static const char *const without_value[] = {"--check-config", "--help", "--version"};
    const char *text = strcmp(argv[*index], "-h") == 0 ? "--help" : argv[*index];
    if (strncmp(text, "--", 2) != 0)
        return failure_set(failure, -EINVAL, "unexpected argument %s; see --help",
                           json_quote(text).text);

    const char *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) : strlen(text);
    struct flag flag = {.value = equals ? equals + 1 : NULL};
    snprintf(flag.name, sizeof flag.name, "%.*s", (int)length, text);
    if (!key_of_flag(flag.name) && !is_one_of(flag.name, other_flags, OTHER_FLAGS))
        return refuse_unknown(flag.name, failure);

    (*index)++;
    if (is_one_of(flag.name, without_value, 3)) {
        if (flag.value)
            return failure_set(failure, -EINVAL, "%s takes no value", flag.name);
    } else if (!flag.value) {
        if (*index >= argc)
            return failure_set(failure, -EINVAL, "%s needs a value", flag.name);
        flag.value = argv[(*index)++];
    }
    *ret_flag = flag;
    return 0;
}

/* --model NAME=PATH. The first one takes the place of all that the files named. */
static int apply_model(struct config *config, const char *value, bool *models_from_flags,
                       struct failure *failure)
{
    char name[MODEL_NAME_BYTES + 1];
    const char *equals = strchr(value, '=');
    if (!equals)
        return failure_set(failure, -EINVAL, "--model: is %s, must be NAME=PATH",
                           json_quote(value).text);
    snprintf(name, sizeof name, "%.*s", (int)(equals - value), value);
    if (!*models_from_flags) {
        *models_from_flags = true;
        memset(config->models, 0, sizeof config->models);
        config->model_count = 0;
    }
    uint32_t count = config->model_count;
    int err = config_set_model(config, name, equals + 1, "", "--model", failure);
    if (err == 0 && config->model_count == count)
        err = failure_set(failure, -EINVAL, "--model: the name %s is given twice", name);
    return err;
}

static int apply_flags(struct config *config, int argc, char **argv, struct failure *failure)
{
    bool models_from_flags = false;
    for (int index = 1; index < argc;) {
        struct flag flag = {"", ""};
        int err = next_flag(argc, argv, &index, &flag, failure);
        if (err < 0)
            return err;
        const struct config_key *key = key_of_flag(flag.name);
        if (key)
            err = config_set_text(config, key, flag.value, flag.name, failure);
        else if (strcmp(flag.name, "--model") == 0)
            err = apply_model(config, flag.value, &models_from_flags, failure);
        else if (strcmp(flag.name, "--check-config") == 0)
            config->check_only = true;
        if (err < 0)
            return err;
    }
    return 0;
}

/* What is to be known before any file is read. */
static int scan_flags(int argc, char **argv, const char **ret_file, struct failure *failure)
{
    *ret_file = NULL;
    for (int index = 1; index < argc;) {
        struct flag flag = {"", ""};
        int err = next_flag(argc, argv, &index, &flag, failure);
        if (err < 0)
            return err;
        if (strcmp(flag.name, "--help") == 0)
            return CONFIG_HELP;
        if (strcmp(flag.name, "--version") == 0)
            return CONFIG_VERSION;
        if (strcmp(flag.name, "--config") == 0)
            *ret_file = flag.value;
    }
    return CONFIG_RUN;
}

/* What only the whole can show to be wrong. */
static int check_whole(struct config *config, const char *file, struct failure *failure)
{
    if (config->model_count == 0)
        return failure_set(failure, -EINVAL,
                           "no model to serve: give --model NAME=PATH, or \"models\" in %s", file);
    if (!*config->socket_path)
        return failure_set(failure, -EINVAL, "socket: is empty, must be a path");
    if (!*config->instance || strchr(config->instance, '/'))
        return failure_set(failure, -EINVAL, "instance: is %s, must be a name without \"/\"",
                           json_quote(config->instance).text);
    if (!geometry_is_valid(&config->geometry_max))
        return failure_set(failure, -EINVAL,
                           "session.event_slots: is %u, must be at least 2 * session.max_requests "
                           "+ 2 = %u",
                           config->geometry_max.event_slots,
                           2 * config->geometry_max.max_requests + 2);
    /* A step cannot hold more of either than it holds rows. */
    if (config->chunk_tokens > config->step_tokens)
        config->chunk_tokens = config->step_tokens;
    if (config->running_max > config->step_tokens)
        config->running_max = config->step_tokens;
    return 0;
}

int config_read(struct config *ret_config, int argc, char **argv, struct failure *failure)
{
    const char *file;
    int action = scan_flags(argc, argv, &file, failure);
    if (action != CONFIG_RUN)
        return action;

    struct config config;
    config_defaults(&config);
    int err = config_read_files(&config, file ? file : default_file, file != NULL, failure);
    if (err == 0)
        err = apply_flags(&config, argc, argv, failure);
    if (err == 0)
        err = check_whole(&config, file ? file : default_file, failure);
    if (err < 0)
        return err;
    *ret_config = config;
    return CONFIG_RUN;
}

static void print_flag(FILE *out, const char *flag, const char *argument, const char *help,
                       const char *fallback)
{
    char left[2 * FLAG_BYTES];
    snprintf(left, sizeof left, "%s %s", flag, argument);
    fprintf(out, "  %-34s %s", left, help);
    if (*fallback)
        fprintf(out, " [%s]", fallback);
    fputc('\n', out);
}

void config_usage(FILE *out)
{
    char flag[FLAG_BYTES];
    fprintf(out, "Usage: autoglmd [--config FILE] [--model NAME=PATH]... [FLAGS]\n"
                 "Serves GLM models to the processes of this host through shared memory.\n\n");
    print_flag(out, "--config", "FILE", "JSON; FILE.d/*.json is read after it", default_file);
    print_flag(out, "--model", "NAME=PATH",
               "a model folder or GGUF file, or \"echo:\"; may be repeated", "");
    print_flag(out, "--check-config", "", "say whether the configuration is right, and stop", "");
    print_flag(out, "--help", "", "this text", "");
    print_flag(out, "--version", "", "the version", "");
    fprintf(out, "\nAlso keys of the configuration file, with _ for - (autoglm.conf(5)):\n");
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        config_flag_name(key, flag, sizeof flag);
        print_flag(out, flag, key->argument, key->help, key->fallback);
    }
}

static void write_models(FILE *out, const struct config *config)
{
    static const struct config_key name = {.kind = CONFIG_TEXT};
    fprintf(out, "  \"models\": {");
    for (uint32_t i = 0; i < config->model_count; i++) {
        struct config_key key = name;
        key.offset = (size_t)(config->models[i].name - (const char *)config);
        fprintf(out, "%s\n    ", i ? "," : "");
        config_key_print(out, config, &key);
        key.offset = (size_t)(config->models[i].folder - (const char *)config);
        fprintf(out, ": ");
        config_key_print(out, config, &key);
    }
    fprintf(out, "\n  },\n");
}

void config_write(FILE *out, const struct config *config)
{
    bool in_session = false, is_first = true;
    fprintf(out, "{\n");
    write_models(out, config);
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        const char *dot = strchr(key->name, '.');
        fprintf(out, "%s", is_first ? "" : in_session && !dot ? "\n  },\n" : ",\n");
        if (dot && !in_session)
            fprintf(out, "  \"session\": {\n");
        in_session = dot != NULL;
        is_first = false;
        fprintf(out, "%s\"%s\": ", dot ? "    " : "  ", dot ? dot + 1 : key->name);
        config_key_print(out, config, key);
    }
    fprintf(out, "%s\n}\n", in_session ? "\n  }" : "");
}
