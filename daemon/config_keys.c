#include "daemon/config_keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "model/json.h"

#define TEXT(field) .kind = CONFIG_TEXT, FIELD_AT(field)
#define FIELD_AT(field) \
    .offset = offsetof(struct config, field), .bytes = sizeof(((struct config *)0)->field)
#define NUMBER(field, min_, max_, scale_) \
    .kind = CONFIG_NUMBER, FIELD_AT(field), .min = (min_), .max = (max_), .scale = (scale_)
#define GEOMETRY(field, min_, max_, shape_) \
    NUMBER(geometry_max.field, min_, max_, 1), .shape = (shape_)
#define WIDE(field)                                                      \
    .kind = CONFIG_CHOICE, FIELD_AT(field), .words = {MODEL_WIDE_WORDS}, \
    .values = {MODEL_WIDE_VALUES}

enum { US = 1000, MS = 1000000, MIB = 1 << 20, DAY_MS = 86400000 };

const struct config_key config_keys[] = {
    {"socket", "PATH", "the socket that clients connect to", "/run/autoglm/autoglm.sock",
     TEXT(socket_path)},
    {"instance", "NAME", "the board is the named object /autoglm.NAME", "default", TEXT(instance)},
    {"socket_group", "GROUP", "group of the socket; empty: the daemon's own", "",
     TEXT(socket_group)},
    {"socket_mode", "MODE", "permissions of the socket, octal", "0660", .kind = CONFIG_OCTAL,
     FIELD_AT(socket_mode), .max = 0777},

    {"allow_users", "LIST", "users let in, names or numbers; with both lists empty: all", "",
     .kind = CONFIG_LIST, FIELD_AT(allow_users)},
    {"allow_groups", "LIST", "groups whose members are let in", "", .kind = CONFIG_LIST,
     FIELD_AT(allow_groups)},

    {"device", "NAME", "what computes", "cpu", TEXT(device)},
    {"cpu_variant", "NAME", "instructions to use: auto, plain, avx2, avx512, avx512vnni, amx",
     "auto", .kind = CONFIG_WORD, FIELD_AT(cpu_variant), .words = {"auto", BACKEND_CPU_VARIANTS}},
    {"threads", "N", "threads that compute; 0: as many as processors are allowed", "0",
     NUMBER(threads, 0, 1024, 1)},
    {"cpus", "LIST", "processors for the engine and its threads, 0-3,8; empty: any", "",
     TEXT(cpus)},
    {"wait", "MODE", "how an idle engine waits: adaptive, spin, sleep", "adaptive",
     .kind = CONFIG_CHOICE, FIELD_AT(wait), .words = {"adaptive", "spin", "sleep"},
     .values = {ENGINE_WAIT_ADAPTIVE, ENGINE_WAIT_SPIN, ENGINE_WAIT_SLEEP}},
    {"spin_us", "N", "adaptive: microseconds to spin at the most", "50",
     NUMBER(spin_ns, 0, 1000000, US)},

    {"context_tokens", "N", "prompt and answer together; 0: the model's own", "0",
     NUMBER(context_tokens, 0, 1 << 24, 1)},
    {"block_tokens", "N", "tokens of a cache block, a power of two", "16",
     NUMBER(block_tokens, 1, 256, 1), .shape = CONFIG_POWER_OF_TWO},
    {"cache_mib", "N", "key-value caches of all models, MiB", "1024",
     NUMBER(cache_bytes, 1, 1 << 24, MIB)},
    {"cache_type", "TYPE", "f16 or f32", "f16", .kind = CONFIG_CHOICE, FIELD_AT(cache_type),
     .words = {"f16", "f32"}, .values = {TENSOR_F16, TENSOR_F32}},
    {"memory_mib", "N", "weights at the most, MiB; 0: what is free", "0",
     NUMBER(memory_bytes, 0, 1 << 30, MIB)},
    {"quant", "TYPE", "quantise f32, f16, bf16 matrices: none, q8, q8_min, q4, q4_min", "none",
     .kind = CONFIG_CHOICE, FIELD_AT(quant), .words = {MODEL_QUANT_WORDS},
     .values = {MODEL_QUANT_TYPES}},
    {"quant_head", "TYPE", "the output head then: q8, keep (as it is), quant (as the rest)", "q8",
     WIDE(quant_head)},
    {"quant_embedding", "TYPE", "the embedding table then: q8, keep, quant", "q8",
     WIDE(quant_embedding)},

    {"step_tokens", "N", "tokens of one step at the most", "256", NUMBER(step_tokens, 1, 65536, 1)},
    {"chunk_tokens", "N", "prompt tokens of one sequence in a step", "64",
     NUMBER(chunk_tokens, 1, 65536, 1)},
    {"running_max", "N", "sequences in one step", "64", NUMBER(running_max, 1, 4096, 1)},
    {"kept_max", "N", "ended sequences kept to be continued", "256", NUMBER(kept_max, 0, 65536, 1)},
    {"queue_requests", "N", "requests waiting at the most", "4096",
     NUMBER(queue_requests, 1, 1 << 20, 1)},
    {"queue_tokens", "N", "prompt tokens waiting at the most", "4194304",
     NUMBER(queue_tokens, 1, 1 << 30, 1)},

    {"sessions_max", "N", "clients connected at the most", "1024",
     NUMBER(sessions_max, 1, 65536, 1)},
    {"sessions_per_user", "N", "clients of one user at the most", "256",
     NUMBER(sessions_per_user, 1, 65536, 1)},
    {"user_queued_requests", "N", "requests of one user waiting; 0: no limit", "1024",
     NUMBER(user_queued_requests, 0, 1 << 20, 1)},
    {"user_queued_tokens", "N", "prompt tokens of one user waiting; 0: no limit", "1048576",
     NUMBER(user_queued_tokens, 0, 1 << 30, 1)},
    {"user_memory_mib", "N", "memory of one user's sessions, MiB; 0: no limit", "1024",
     NUMBER(user_memory_bytes, 0, 1 << 24, MIB)},
    {"slow_reader_ms", "N", "end a request whose client reads nothing for so long", "5000",
     NUMBER(slow_reader_ns, 1, DAY_MS, MS)},
    {"handshake_ms", "N", "time for a client to introduce itself", "2000",
     NUMBER(handshake_ns, 1, DAY_MS, MS)},
    {"drain_ms", "N", "time for running requests after SIGTERM", "10000",
     NUMBER(drain_ns, 0, DAY_MS, MS)},

    {"session.submission_slots", "N", "of a session at the most, a power of two", "1024",
     GEOMETRY(submission_slots, GEOMETRY_SLOTS_MIN, GEOMETRY_SLOTS_MAX, CONFIG_POWER_OF_TWO)},
    {"session.event_slots", "N", "likewise; at least 2 * max_requests + 2", "4096",
     GEOMETRY(event_slots, GEOMETRY_SLOTS_MIN, GEOMETRY_SLOTS_MAX, CONFIG_POWER_OF_TWO)},
    {"session.max_requests", "N", "in flight or kept, a power of two", "1024",
     GEOMETRY(max_requests, 2, GEOMETRY_REQUESTS_MAX, CONFIG_POWER_OF_TWO)},
    {"session.arena_bytes", "N", "room for prompts, a multiple of 4096", "16777216",
     GEOMETRY(arena_bytes, GEOMETRY_ARENA_BYTES_MIN, GEOMETRY_ARENA_BYTES_MAX, CONFIG_PAGES)},
    {"session.output_bytes", "N", "room for logits, a multiple of 4096", "4194304",
     GEOMETRY(output_bytes, 0, GEOMETRY_OUTPUT_BYTES_MAX, CONFIG_PAGES)},

    {"log_level", "LEVEL", "error, warning, info, debug", "info", .kind = CONFIG_CHOICE,
     FIELD_AT(log_level), .words = {"error", "warning", "info", "debug"},
     .values = {LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG}},
};

const size_t config_key_count = sizeof config_keys / sizeof *config_keys;

const struct config_key *config_key_find(const char *name)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
}

size_t config_distance(const char *a, const char *b)
{
    enum { LONGEST = 64 };
    size_t row[LONGEST + 1];
    size_t length = strnlen(b, LONGEST);
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 0; a[i] && i < LONGEST; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < length; j++) {
            size_t best = diagonal + (a[i] != b[j]);
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j + 1] + 1 < best ? row[j + 1] + 1 : best;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[length];
}

void config_flag_name(const struct config_key *key, char *ret_text, size_t bytes)
{
    snprintf(ret_text, bytes, "--%s", key->name);
    for (char *at = ret_text; *at; at++)
        if (*at == '_' || *at == '.')
            *at = '-';
}

static void describe_words(const struct config_key *key, char *ret_text, size_t bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < CONFIG_WORDS_MAX && key->words[i] && used < bytes; i++)
        used += (size_t)snprintf(ret_text + used, bytes - used, "%s\"%s\"", i ? ", " : "one of ",
                                 key->words[i]);
}

void config_key_describe(const struct config_key *key, char *ret_text, size_t bytes)
{
    static const char *const shapes[] = {"a number", "a power of two", "a multiple of 4096"};
    switch (key->kind) {
    case CONFIG_TEXT:
        snprintf(ret_text, bytes, "a string of at most %zu bytes", key->bytes - 1);
        break;
    case CONFIG_LIST:
        snprintf(ret_text, bytes, "a list of names and numbers, %zu bytes in all", key->bytes - 1);
        break;
    case CONFIG_WORD:
    case CONFIG_CHOICE:
        describe_words(key, ret_text, bytes);
        break;
    case CONFIG_NUMBER:
        snprintf(ret_text, bytes, "%s from %llu to %llu", shapes[key->shape],
                 (unsigned long long)key->min, (unsigned long long)key->max);
        break;
    case CONFIG_OCTAL:
        snprintf(ret_text, bytes, "a string of octal digits up to \"0%o\"", (unsigned)key->max);
        break;
    }
}

static int refuse(const struct config_key *key, const char *text, const char *where,
                  struct failure *failure)
{
    char allowed[128];
    config_key_describe(key, allowed, sizeof allowed);
    return failure_set(failure, -EINVAL, "%s: is %s, must be %s", where, json_quote(text).text,
                       allowed);
}

static void store(struct config *config, const struct config_key *key, uint64_t value)
{
    char *field = (char *)config + key->offset;
    uint32_t narrow = (uint32_t)value;
    if (key->bytes == sizeof value)
        memcpy(field, &value, sizeof value);
    else
        memcpy(field, &narrow, sizeof narrow);
}

static uint64_t load(const struct config *config, const struct config_key *key)
{
    const char *field = (const char *)config + key->offset;
    uint64_t value = 0;
    uint32_t narrow = 0;
    if (key->bytes == sizeof value) {
        memcpy(&value, field, sizeof value);
        return value;
    }
    memcpy(&narrow, field, sizeof narrow);
    return narrow;
}

static bool has_shape(const struct config_key *key, uint64_t number)
{
    if (key->shape == CONFIG_POWER_OF_TWO)
        return number && (number & (number - 1)) == 0;
    return key->shape != CONFIG_PAGES || number % LAYOUT_PAGE_BYTES == 0;
}

int config_set_number(struct config *config, const struct config_key *key, uint64_t number,
                      const char *where, struct failure *failure)
{
    if (key->kind != CONFIG_NUMBER || number < key->min || number > key->max ||
        !has_shape(key, number)) {
        char text[32], allowed[128];
        snprintf(text, sizeof text, "%llu", (unsigned long long)number);
        config_key_describe(key, allowed, sizeof allowed);
        return failure_set(failure, -EINVAL, "%s: is %s, must be %s", where, text, allowed);
    }
    store(config, key, number * key->scale);
    return 0;
}

static int set_word(struct config *config, const struct config_key *key, const char *text,
                    const char *where, struct failure *failure)
{
    for (size_t i = 0; i < CONFIG_WORDS_MAX && key->words[i]; i++) {
        if (strcmp(text, key->words[i]) != 0)
            continue;
        if (key->kind == CONFIG_CHOICE)
            store(config, key, key->values[i]);
        else
            snprintf((char *)config + key->offset, key->bytes, "%s", text);
        return 0;
    }
    return refuse(key, text, where, failure);
}

/* Digits of the base and nothing else: strtoull() would take signs and spaces too. */
static int parse_digits(const char *text, unsigned base, uint64_t *ret_number)
{
    uint64_t number = 0;
    if (!*text)
        return -EINVAL;
    for (; *text; text++) {
        unsigned digit = (unsigned)(unsigned char)*text - '0';
        if (digit >= base || __builtin_mul_overflow(number, base, &number) ||
            __builtin_add_overflow(number, digit, &number))
            return -EINVAL;
    }
    *ret_number = number;
    return 0;
}

int config_set_text(struct config *config, const struct config_key *key, const char *text,
                    const char *where, struct failure *failure)
{
    uint64_t number;
    switch (key->kind) {
    case CONFIG_TEXT:
    case CONFIG_LIST:
        if (strlen(text) >= key->bytes)
            return refuse(key, text, where, failure);
        snprintf((char *)config + key->offset, key->bytes, "%s", text);
        return 0;
    case CONFIG_WORD:
    case CONFIG_CHOICE:
        return set_word(config, key, text, where, failure);
    case CONFIG_NUMBER:
        if (parse_digits(text, 10, &number) < 0)
            return refuse(key, text, where, failure);
        return config_set_number(config, key, number, where, failure);
    case CONFIG_OCTAL:
        if (parse_digits(text, 8, &number) < 0 || number > key->max)
            return refuse(key, text, where, failure);
        store(config, key, number);
        return 0;
    }
    return refuse(key, text, where, failure);
}

static void print_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\')
            fprintf(out, "\\%c", byte);
        else if (byte < 0x20 || byte == 0x7f)
            fprintf(out, "\\u%04x", byte);
        else
            fputc(byte, out);
    }
    fputc('"', out);
}

static void print_list(FILE *out, const char *text)
{
    char name[128];
    fputc('[', out);
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        if (at > text)
            fputs(", ", out);
        print_string(out, name);
        at += length + (at[length] == ',');
    }
    fputc(']', out);
}

void config_key_print(FILE *out, const struct config *config, const struct config_key *key)
{
    const char *field = (const char *)config + key->offset;
    switch (key->kind) {
    case CONFIG_TEXT:
    case CONFIG_WORD:
        print_string(out, field);
        break;
    case CONFIG_LIST:
        print_list(out, field);
        break;
    case CONFIG_CHOICE:
        for (size_t i = 0; i < CONFIG_WORDS_MAX && key->words[i]; i++)
            if (key->values[i] == load(config, key))
                print_string(out, key->words[i]);
        break;
    case CONFIG_NUMBER:
        fprintf(out, "%llu", (unsigned long long)(load(config, key) / key->scale));
        break;
    case CONFIG_OCTAL:
        fprintf(out, "\"0%o\"", (unsigned)load(config, key));
        break;
    }
}
