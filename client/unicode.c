#include "client/unicode.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

static struct unicode_char not_a_char(uint32_t bytes, enum unicode_state state)
{
    return (struct unicode_char){.code = UINT32_MAX, .bytes = bytes, .state = state};
}

struct unicode_char unicode_read(const char *text, size_t bytes)
{
    const uint8_t *at = (const uint8_t *)text;
    uint8_t first = at[0];
    if (first < 0x80)
        return (struct unicode_char){.code = first, .bytes = 1, .state = UNICODE_GOOD};
    if (first < 0xC2 || first > 0xF4)
        return not_a_char(1, UNICODE_BROKEN);

    uint32_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    uint32_t code = first & (0x7Fu >> length);
    /* The second byte's range keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
     */
    uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    for (uint32_t i = 1; i < length; i++) {
        if (i >= bytes)
            return not_a_char(i, UNICODE_INCOMPLETE);
        if (at[i] < low || at[i] > high)
            return not_a_char(i, UNICODE_BROKEN);
        code = code << 6 | (at[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    return (struct unicode_char){.code = code, .bytes = length, .state = UNICODE_GOOD};
}

uint32_t unicode_write(uint32_t code, char *ret_text)
{
    return (uint32_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)ret_text);
}

static bool is_space(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

static enum unicode_class ascii_class(uint32_t code)
{
    uint32_t small = code | 0x20;
    if (small >= 'a' && small <= 'z')
        return UNICODE_LETTER;
    if (code == '\n' || code == '\r')
        return UNICODE_NEWLINE;
    if (is_space(code))
        return UNICODE_SPACE;
    return code >= '0' && code <= '9' ? UNICODE_NUMBER : UNICODE_OTHER;
}

enum unicode_class unicode_class(uint32_t code)
{
    if (code < 0x80)
        return ascii_class(code);
    if (is_space(code))
        return UNICODE_SPACE;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return UNICODE_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return UNICODE_NUMBER;
    default:
        return UNICODE_OTHER;
    }
}

enum unicode_class unicode_class_at(const char *text, size_t bytes, size_t *ret_bytes)
{
    if ((uint8_t)text[0] < 0x80) {
        *ret_bytes = 1;
        return ascii_class((uint8_t)text[0]);
    }
    struct unicode_char c = unicode_read(text, bytes);
    if (c.state != UNICODE_GOOD) {
        *ret_bytes = 1;
        return UNICODE_OTHER;
    }
    *ret_bytes = c.bytes;
    return unicode_class(c.code);
}

/* ---- normalisation --------------------------------------------------------------------------- */

/* A stretch of text as code points. Bytes that are not UTF-8 never come in here. */
struct codes {
    int32_t *code;
    size_t count;
    size_t capacity;
};

enum {
    DECOMPOSED_MAX = 16,     /* a code point has at most 4 canonical parts */
    FIRST_COMBINING = 0x300, /* below it nothing combines with what stands before it */
    STRETCH = 4096           /* so many code points are worth a flush where one may be made */
};

static int make_room(struct codes *codes)
{
    if (codes->capacity - codes->count >= DECOMPOSED_MAX)
        return 0;
    size_t capacity = codes->capacity ? codes->capacity * 2 : 256;
    int32_t *code = realloc(codes->code, capacity * sizeof *code);
    if (!code)
        return -ENOMEM;
    codes->code = code;
    codes->capacity = capacity;
    return 0;
}

static int combining_class(int32_t code)
{
    return utf8proc_get_property(code)->combining_class;
}

static bool is_sorted(const int32_t *code, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (combining_class(code[i - 1]) > combining_class(code[i]))
            return false;
    return true;
}

/* Sorts a run of combining marks by class, stably. utf8proc_decompose() would do it by exchanging
 * neighbours, quadratic in the run; classes are below 256, so counting does it in one pass. */
static int sort_marks(int32_t *code, size_t count)
{
    if (is_sorted(code, count))
        return 0;
    int32_t *copy = malloc(count * sizeof *copy);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, code, count * sizeof *copy);
    size_t start[257] = {0};
    for (size_t i = 0; i < count; i++)
        start[combining_class(code[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        start[i] += start[i - 1];
    for (size_t i = 0; i < count; i++)
        code[start[combining_class(copy[i])]++] = copy[i];
    free(copy);
    return 0;
}

static int sort_all_marks(struct codes *codes)
{
    size_t i = 0;
    while (i < codes->count) {
        size_t end = i;
        while (end < codes->count && combining_class(codes->code[end]) > 0)
            end++;
        if (end - i > 1) {
            int err = sort_marks(codes->code + i, end - i);
            if (err < 0)
                return err;
        }
        i = end + 1;
    }
    return 0;
}

/* Composes what was collected and appends it to the text. */
static int flush_codes(struct codes *codes, char *text, size_t *bytes)
{
    if (codes->count == 0)
        return 0;
    int err = sort_all_marks(codes);
    if (err < 0)
        return err;
    utf8proc_ssize_t count = utf8proc_normalize_utf32(codes->code, (utf8proc_ssize_t)codes->count,
                                                      UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < count; i++)
        *bytes += unicode_write((uint32_t)codes->code[i], text + *bytes);
    codes->count = 0;
    return 0;
}

/* Every code point below U+0300 is its own normal form and combines with nothing before it. */
static bool is_plain(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((uint8_t)text[i] >= 0xCC)
            return false;
    return true;
}

static int normalise(const char *text, size_t bytes, struct codes *codes, char *ret_text,
                     size_t *ret_bytes)
{
    size_t at = 0;
    while (at < bytes) {
        struct unicode_char c = unicode_read(text + at, bytes - at);
        if (c.state != UNICODE_GOOD) {
            int err = flush_codes(codes, ret_text, ret_bytes);
            if (err < 0)
                return err;
            ret_text[(*ret_bytes)++] = text[at++];
            continue;
        }
        if (c.code < FIRST_COMBINING && codes->count >= STRETCH) {
            int err = flush_codes(codes, ret_text, ret_bytes);
            if (err < 0)
                return err;
        }
        if (make_room(codes) < 0)
            return -ENOMEM;
        int boundclass = 0;
        utf8proc_ssize_t parts = utf8proc_decompose_char(
            (utf8proc_int32_t)c.code, codes->code + codes->count, DECOMPOSED_MAX,
            UTF8PROC_COMPOSE | UTF8PROC_STABLE, &boundclass);
        assert(parts >= 1 && parts <= DECOMPOSED_MAX);
        codes->count += (size_t)parts;
        at += c.bytes;
    }
    return flush_codes(codes, ret_text, ret_bytes);
}

int unicode_nfc(const char *text, size_t bytes, char **ret_text, size_t *ret_bytes)
{
    if (is_plain(text, bytes))
        return 0;

    /* No character's normal form C is more than three times as long in UTF-8. */
    struct codes codes = {0};
    size_t result_bytes = 0;
    char *result = bytes > SIZE_MAX / 3 ? NULL : malloc(bytes * 3);
    int err = result ? normalise(text, bytes, &codes, result, &result_bytes) : -ENOMEM;
    free(codes.code);
    if (err < 0 || (result_bytes == bytes && memcmp(result, text, bytes) == 0)) {
        free(result);
        return err;
    }
    *ret_text = result;
    *ret_bytes = result_bytes;
    return 1;
}
