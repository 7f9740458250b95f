#include "model/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/json_scan.h"

/* Doubles count integers one by one below this. */
static const double EXACT_LIMIT = 9007199254740992.0;

struct json_quoted json_quote(const char *text)
{
    enum { TAIL = 5 /* ..." and NUL */ };
    struct json_quoted quoted;
    size_t used = 0;
    quoted.text[used++] = '"';
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        bool plain = c >= 0x20 && c != 0x7F && c != '"' && c != '\\';
        if (used + (plain ? 1 : 4) + TAIL > sizeof quoted.text) {
            while (used > 1 && (text[0] & 0xC0) == 0x80) { /* not within a character */
                used--;
                text--;
            }
            memcpy(quoted.text + used, "...", 3);
            used += 3;
            break;
        }
        if (plain)
            quoted.text[used++] = (char)c;
        else
            used += (size_t)snprintf(quoted.text + used, 5, "\\x%02x", c);
    }
    quoted.text[used++] = '"';
    quoted.text[used] = 0;
    return quoted;
}

const char *json_type_name(const struct cJSON *value)
{
    if (!value)
        return "nothing";
    switch (value->type & 0xFF) {
    case cJSON_NULL:
        return "null";
    case cJSON_False:
    case cJSON_True:
        return "a boolean";
    case cJSON_Number:
        return "a number";
    case cJSON_String:
        return "a string";
    case cJSON_Array:
        return "an array";
    case cJSON_Object:
        return "an object";
    default:
        return "nothing";
    }
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

/* By sorting: a comparison of each key with each other would take hours on a hostile file. */
static int check_keys(const cJSON *object, const char *file, struct failure *failure)
{
    size_t count = 0;
    for (const cJSON *child = object->child; child; child = child->next)
        count++;
    if (count < 2)
        return 0;
    const cJSON **sorted = malloc(count * sizeof(const cJSON *));
    if (!sorted)
        return failure_set(failure, -ENOMEM, "%s: no memory for %zu keys", file, count);
    size_t filled = 0;
    for (const cJSON *child = object->child; child; child = child->next)
        sorted[filled++] = child;
    qsort(sorted, count, sizeof(const cJSON *), compare_keys);
    int err = 0;
    for (size_t i = 1; i < count && err == 0; i++)
        if (strcmp(sorted[i - 1]->string, sorted[i]->string) == 0)
            err = failure_set(failure, -EINVAL, "%s: the key %s stands twice in one object", file,
                              json_quote(sorted[i]->string).text);
    free(sorted);
    return err;
}

/* Recursion is bounded by JSON_DEPTH_MAX. */
static int check_tree(const cJSON *value, const char *file, struct failure *failure)
{
    if (cJSON_IsObject(value)) {
        int err = check_keys(value, file, failure);
        if (err < 0)
            return err;
    }
    for (const cJSON *child = value->child; child; child = child->next) {
        int err = check_tree(child, file, failure);
        if (err < 0)
            return err;
    }
    return 0;
}

/* Where the comment at text[at] ends; `at` itself if there is none. */
static size_t comment_end(const char *text, size_t bytes, size_t at)
{
    if (at + 1 >= bytes || text[at] != '/')
        return at;
    if (text[at + 1] == '/') {
        const char *end = memchr(text + at, '\n', bytes - at);
        return end ? (size_t)(end - text) : bytes;
    }
    if (text[at + 1] != '*')
        return at;
    const char *end = memmem(text + at + 2, bytes - at - 2, "*/", 2);
    return end ? (size_t)(end - text) + 2 : at;
}

/* Where the string that begins at text[at] ends. */
static size_t string_end(const char *text, size_t bytes, size_t at)
{
    for (at++; at < bytes && text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at + 1;
}

/* Comments become spaces, line ends stay, so that positions in messages are right. At a comment
 * without an end it stops: the grammar refuses the slash, and to look for an end behind each of
 * many would take hours. */
static void blank_comments(char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        size_t end = comment_end(text, bytes, at);
        if (text[at] == '/' && end == at)
            return;
        if (text[at] == '"')
            at = string_end(text, bytes, at);
        else if (end == at)
            at++;
        for (; at < end; at++)
            if (text[at] != '\n')
                text[at] = ' ';
    }
}

static int parse_blanked(cJSON **ret_root, const char *text, size_t bytes, const char *file,
                         unsigned flags, struct failure *failure)
{
    size_t offset = 0;
    const char *why = "";
    int err = json_scan(text, bytes, flags, &offset, &why);
    if (err < 0) {
        size_t line = 1, column = 1;
        for (size_t i = 0; i < offset && i < bytes; i++) {
            column = text[i] == '\n' ? 1 : column + 1;
            line += text[i] == '\n';
        }
        return failure_set(failure, err, "%s:%zu:%zu: not valid JSON: %s", file, line, column, why);
    }
    /* What the scan lets through, cJSON takes: it can only run out of memory. */
    cJSON *root = cJSON_ParseWithLength(text, bytes);
    if (!root)
        return failure_set(failure, -ENOMEM, "%s: no memory for %zu bytes of JSON", file, bytes);
    err = check_tree(root, file, failure);
    if (err < 0) {
        cJSON_Delete(root);
        return err;
    }
    *ret_root = root;
    return 0;
}

int json_parse(cJSON **ret_root, const char *text, size_t bytes, const char *file, unsigned flags,
               struct failure *failure)
{
    if (!(flags & JSON_COMMENTS))
        return parse_blanked(ret_root, text, bytes, file, flags, failure);
    char *copy = malloc(bytes + 1);
    if (!copy)
        return failure_set(failure, -ENOMEM, "%s: no memory for %zu bytes", file, bytes);
    memcpy(copy, text, bytes);
    blank_comments(copy, bytes);
    int err = parse_blanked(ret_root, copy, bytes, file, flags, failure);
    free(copy);
    return err;
}

/* Reads to the end of the file, at most capacity bytes; the count, or a negative errno. */
static ssize_t read_all(int fd, char *buffer, size_t capacity)
{
    size_t done = 0;
    while (done < capacity) {
        ssize_t got = read(fd, buffer + done, capacity - done);
        if (got == 0)
            break;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

static int read_text(int fd, char **ret_text, size_t *ret_bytes, const char *path, size_t limit,
                     struct failure *failure)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return failure_set(failure, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return failure_set(failure, -EINVAL, "%s: not a regular file", path);
    if ((uint64_t)status.st_size > limit)
        return failure_set(failure, -EFBIG, "%s: %lld bytes, the limit is %zu", path,
                           (long long)status.st_size, limit);
    size_t capacity = (size_t)status.st_size + 1; /* one more, to see growth */
    char *text = malloc(capacity + 1);
    if (!text)
        return failure_set(failure, -ENOMEM, "%s: no memory for %zu bytes", path, capacity);
    ssize_t got = read_all(fd, text, capacity);
    int err = 0;
    if (got < 0)
        err = failure_set(failure, (int)got, "%s: %s", path, strerror((int)-got));
    else if (got != status.st_size)
        err = failure_set(failure, -EINVAL, "%s: changed while it was read", path);
    if (err < 0) {
        free(text);
        return err;
    }
    text[got] = 0;
    *ret_text = text;
    *ret_bytes = (size_t)got;
    return 0;
}

int json_read_text(char **ret_text, size_t *ret_bytes, const char *path, size_t limit,
                   struct failure *failure)
{
    /* O_NONBLOCK: a pipe in the file's place must not hang us. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return failure_set(failure, -errno, "%s: %s", path, strerror(errno));
    int err = read_text(fd, ret_text, ret_bytes, path, limit, failure);
    close(fd);
    return err;
}

int json_read_file(cJSON **ret_root, const char *path, size_t limit, unsigned flags,
                   struct failure *failure)
{
    char *text = NULL;
    size_t bytes = 0;
    int err = json_read_text(&text, &bytes, path, limit, failure);
    if (!text)
        return err;
    if (flags & JSON_COMMENTS)
        blank_comments(text, bytes);
    err = parse_blanked(ret_root, text, bytes, path, flags, failure);
    free(text);
    return err;
}

int json_root(struct json_object *ret_object, const cJSON *root, const char *file,
              struct failure *failure)
{
    if (!cJSON_IsObject(root))
        return failure_set(failure, -EINVAL, "%s: must be an object, is %s", file,
                           json_type_name(root));
    *ret_object = (struct json_object){.object = root, .file = file};
    return 0;
}

const cJSON *json_field(const struct json_object *object, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object->object, key);
    return cJSON_IsNull(value) ? NULL : value;
}

int json_refuse(const struct json_object *object, const char *key, int err, struct failure *failure,
                const char *format, ...)
{
    char rest[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rest, sizeof rest, format, arguments);
    va_end(arguments);
    return failure_set(failure, err, "%s: %s%s: %s", object->file, object->path, key, rest);
}

int json_enter(const struct json_object *object, const char *key, struct json_object *ret_object,
               struct failure *failure)
{
    const cJSON *value = json_field(object, key);
    if (!value)
        return -ENOENT;
    if (!cJSON_IsObject(value))
        return json_refuse(object, key, -EINVAL, failure, "must be an object, is %s",
                           json_type_name(value));
    struct json_object inner = {.object = value, .file = object->file};
    if (snprintf(inner.path, sizeof inner.path, "%s%s.", object->path, key) >=
        (int)sizeof inner.path)
        return json_refuse(object, key, -EINVAL, failure, "stands too deep");
    *ret_object = inner;
    return 0;
}

int json_number_u64(const cJSON *value, uint64_t *ret_value)
{
    if (!cJSON_IsNumber(value))
        return -EINVAL;
    double number = value->valuedouble;
    if (!(number >= 0 && number < EXACT_LIMIT) || number != floor(number))
        return -EINVAL;
    *ret_value = (uint64_t)number;
    return 0;
}

int json_u64(const struct json_object *object, const char *key, uint64_t min, uint64_t max,
             uint64_t *ret_value, struct failure *failure)
{
    const cJSON *field = json_field(object, key);
    if (!field)
        return json_refuse(object, key, -ENOENT, failure, "missing");
    if (!cJSON_IsNumber(field))
        return json_refuse(object, key, -EINVAL, failure, "must be an integer, is %s",
                           json_type_name(field));
    uint64_t value;
    if (json_number_u64(field, &value) < 0 || value < min || value > max)
        return json_refuse(object, key, -EINVAL, failure,
                           "%.17g is not an integer in %llu ... %llu", field->valuedouble,
                           (unsigned long long)min, (unsigned long long)max);
    *ret_value = value;
    return 0;
}

int json_u32(const struct json_object *object, const char *key, uint32_t min, uint32_t max,
             uint32_t *ret_value, struct failure *failure)
{
    uint64_t value = 0;
    int err = json_u64(object, key, min, max, &value, failure);
    if (err == 0)
        *ret_value = (uint32_t)value;
    return err;
}

int json_u32_or(const struct json_object *object, const char *key, uint32_t min, uint32_t max,
                uint32_t fallback, uint32_t *ret_value, struct failure *failure)
{
    if (json_field(object, key))
        return json_u32(object, key, min, max, ret_value, failure);
    *ret_value = fallback;
    return 0;
}

int json_double(const struct json_object *object, const char *key, double min, double max,
                double *ret_value, struct failure *failure)
{
    const cJSON *field = json_field(object, key);
    if (!field)
        return json_refuse(object, key, -ENOENT, failure, "missing");
    if (!cJSON_IsNumber(field))
        return json_refuse(object, key, -EINVAL, failure, "must be a number, is %s",
                           json_type_name(field));
    if (!(field->valuedouble >= min && field->valuedouble <= max))
        return json_refuse(object, key, -EINVAL, failure, "%.17g is not in %g ... %g",
                           field->valuedouble, min, max);
    *ret_value = field->valuedouble;
    return 0;
}

int json_double_or(const struct json_object *object, const char *key, double min, double max,
                   double fallback, double *ret_value, struct failure *failure)
{
    if (json_field(object, key))
        return json_double(object, key, min, max, ret_value, failure);
    *ret_value = fallback;
    return 0;
}

int json_bool_or(const struct json_object *object, const char *key, bool fallback, bool *ret_value,
                 struct failure *failure)
{
    const cJSON *field = json_field(object, key);
    if (field && !cJSON_IsBool(field))
        return json_refuse(object, key, -EINVAL, failure, "must be true or false, is %s",
                           json_type_name(field));
    *ret_value = field ? cJSON_IsTrue(field) : fallback;
    return 0;
}

int json_string(const struct json_object *object, const char *key, const char **ret_value,
                struct failure *failure)
{
    const cJSON *field = json_field(object, key);
    if (!field)
        return json_refuse(object, key, -ENOENT, failure, "missing");
    if (!cJSON_IsString(field))
        return json_refuse(object, key, -EINVAL, failure, "must be a string, is %s",
                           json_type_name(field));
    *ret_value = field->valuestring;
    return 0;
}

int json_string_or(const struct json_object *object, const char *key, const char *fallback,
                   const char **ret_value, struct failure *failure)
{
    if (json_field(object, key))
        return json_string(object, key, ret_value, failure);
    *ret_value = fallback;
    return 0;
}
