#include "client/document.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/error.h"
#include "client/vocabulary.h"

/* Reads until the end of the file or `bytes` bytes. */
static int read_all(int fd, char *text, size_t bytes, size_t *ret_bytes)
{
    size_t got = 0;
    while (got < bytes) {
        ssize_t n = read(fd, text + got, bytes - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    *ret_bytes = got;
    return 0;
}

int document_read(const char *path, size_t limit, char **ret_text, size_t *ret_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(-errno, "%s: %s", path, strerrordesc_np(errno));

    struct stat status;
    size_t bytes = 0;
    char *text = NULL;
    int err = 0;
    if (fstat(fd, &status) < 0) {
        err = error_set(-errno, "%s: %s", path, strerrordesc_np(errno));
        goto close_fd;
    }
    if (!S_ISREG(status.st_mode)) {
        err = error_set(-EINVAL, "%s: not a regular file", path);
        goto close_fd;
    }
    if ((uint64_t)status.st_size > limit) {
        err = error_set(-EINVAL, "%s: %lld bytes, more than the limit of %zu", path,
                        (long long)status.st_size, limit);
        goto close_fd;
    }
    text = malloc((size_t)status.st_size + 1);
    if (!text) {
        err = error_set(-ENOMEM, "%s: no memory for %lld bytes", path, (long long)status.st_size);
        goto close_fd;
    }
    err = read_all(fd, text, (size_t)status.st_size, &bytes);
    if (err < 0) {
        err = error_set(err, "%s: %s", path, strerrordesc_np(-err));
        free(text);
        goto close_fd;
    }
    text[bytes] = 0;
    *ret_text = text;
    *ret_bytes = bytes;

close_fd:
    close(fd);
    return err;
}

/* True if a string of the JSON text holds a NUL, plain or as \u0000. */
static bool holds_nul(const char *text, size_t bytes)
{
    const char *end = text + bytes;
    const char *at = text;
    if (bytes > 0 && memchr(text, 0, bytes))
        return true;
    while (at < end && (at = memchr(at, '\\', (size_t)(end - at)))) {
        if (end - at >= 6 && memcmp(at, "\\u0000", 6) == 0)
            return true;
        at += end - at >= 2 ? 2 : 1;
    }
    return false;
}

static bool only_blanks(const char *text, const char *end)
{
    while (text < end && strchr(" \t\r\n", *text))
        text++;
    return text == end;
}

int document_parse(const char *path, const char *text, size_t bytes, cJSON **ret_root)
{
    if (holds_nul(text, bytes))
        return error_set(-EINVAL, "%s: a NUL in it", path);
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, bytes, &end, false);
    if (!root) {
        /* cJSON names no position when memory ran out before it had begun. */
        size_t at = end && end >= text ? (size_t)(end - text) : 0;
        return error_set(-EINVAL, "%s: not JSON, wrong at byte %zu of %zu (or no memory)", path, at,
                         bytes);
    }
    int err = 0;
    if (!only_blanks(end, text + bytes))
        err = error_set(-EINVAL, "%s: something follows the JSON text at byte %zu", path,
                        (size_t)(end - text));
    else if (!cJSON_IsObject(root))
        err = error_set(-EINVAL, "%s: not a JSON object", path);
    if (err < 0) {
        cJSON_Delete(root);
        return err;
    }
    *ret_root = root;
    return 0;
}

int document_load(const char *path, size_t limit, cJSON **ret_root)
{
    char *text = NULL;
    size_t bytes = 0;
    int err = document_read(path, limit, &text, &bytes);
    if (err < 0)
        return err;
    err = document_parse(path, text, bytes, ret_root);
    free(text);
    return err;
}

int document_path(const char *folder, const char *name, char *ret_path)
{
    int length = snprintf(ret_path, DOCUMENT_PATH_BYTES, "%s/%s", folder, name);
    if (length < 0 || length >= DOCUMENT_PATH_BYTES)
        return error_set(-ENAMETOOLONG, "%.64s...: path too long", folder);
    return 0;
}

const cJSON *document_field(const cJSON *object, const char *name)
{
    const cJSON *field = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNull(field) ? NULL : field;
}

const char *document_string(const cJSON *object, const char *name)
{
    const cJSON *field = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(field) ? field->valuestring : NULL;
}

bool document_is_true(const cJSON *object, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, name));
}

bool document_id(const cJSON *number, uint32_t *ret_id)
{
    if (!cJSON_IsNumber(number) || !(number->valuedouble >= 0) ||
        !(number->valuedouble < VOCABULARY_IDS_MAX))
        return false;
    uint32_t id = (uint32_t)number->valuedouble;
    if ((double)id != number->valuedouble)
        return false;
    *ret_id = id;
    return true;
}
