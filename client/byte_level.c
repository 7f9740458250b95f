#include "client/byte_level.h"

#include <errno.h>

#include "client/error.h"
#include "client/unicode.h"

/* GPT-2's spelling of bytes: printable Latin-1 characters stand for themselves, the other 68 bytes
 * for U+0100 and on. Returns the byte, or -1. */
static int byte_of(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD))
        return (int)code;
    if (code < 0x100 || code >= 0x144)
        return -1;
    code -= 0x100;
    if (code <= 0x20)
        return (int)code;
    return code <= 0x42 ? (int)(code - 0x21 + 0x7F) : 0xAD;
}

int byte_level_spell(const char *text, size_t length, char *ret_bytes)
{
    int count = 0;
    size_t at = 0;
    while (at < length) {
        struct unicode_char c = unicode_read(text + at, length - at);
        int byte = c.state == UNICODE_GOOD ? byte_of(c.code) : -1;
        if (byte < 0 || count == VOCABULARY_TOKEN_BYTES_MAX)
            return -1;
        ret_bytes[count++] = (char)byte;
        at += c.bytes;
    }
    return count;
}

/* What is being read, for refusals. */
struct source {
    const struct vocabulary *vocabulary;
    const char *path;
    const char *field;
};

/* The ordinary token of these bytes. -ENOENT: they are a special token's; -EINVAL: nobody's. */
static int find_part(const struct source *source, uint32_t rank, const char *bytes, size_t length,
                     uint32_t *ret_id)
{
    int32_t id = vocabulary_find(source->vocabulary, bytes, length);
    if (id >= 0) {
        *ret_id = (uint32_t)id;
        return 0;
    }
    if (vocabulary_find_added(source->vocabulary, bytes, length) >= 0)
        return -ENOENT;
    return error_set(-EINVAL, "%s: %s[%u] names or makes a token that the vocabulary lacks",
                     source->path, source->field, rank);
}

int byte_level_add_merge(struct vocabulary *vocabulary, uint32_t rank, const char *const half[2],
                         const size_t length[2], const char *path, const char *field)
{
    const struct source source = {vocabulary, path, field};
    char bytes[2 * VOCABULARY_TOKEN_BYTES_MAX];
    int left = byte_level_spell(half[0], length[0], bytes);
    int right = left > 0 ? byte_level_spell(half[1], length[1], bytes + left) : -1;
    if (left <= 0 || right <= 0)
        return error_set(-EINVAL, "%s: %s[%u] is not byte-level, or too long", path, field, rank);

    struct vocabulary_pair pair = {.rank = rank};
    int err = find_part(&source, rank, bytes, (size_t)left, &pair.left);
    if (err == 0)
        err = find_part(&source, rank, bytes + left, (size_t)right, &pair.right);
    if (err == 0)
        err = find_part(&source, rank, bytes, (size_t)left + (size_t)right, &pair.merged);
    if (err < 0)
        return err == -ENOENT ? 0 : err;
    err = vocabulary_add_pair(vocabulary, pair);
    if (err == -EEXIST)
        return error_set(-EINVAL, "%s: %s[%u] occurs twice", path, field, rank);
    return err;
}
