#include "model/json_scan.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "model/json.h"

enum { NUMBER_BYTES_MAX = 60 /* cJSON reads no more than 63 */ };

struct scan {
    const unsigned char *text;
    size_t bytes;
    size_t at;
    unsigned flags;
    unsigned depth;
    size_t values;
    const char *why;
    int err;
};

static bool scan_value(struct scan *scan);

static bool stop(struct scan *scan, int err, const char *why)
{
    scan->err = err;
    scan->why = why;
    return false;
}

/* The byte at the cursor; -1 at the end. */
static int peek(const struct scan *scan)
{
    return scan->at < scan->bytes ? scan->text[scan->at] : -1;
}

static void skip_spaces(struct scan *scan)
{
    int c;
    while ((c = peek(scan)) == ' ' || c == '\t' || c == '\n' || c == '\r')
        scan->at++;
}

static bool expect(struct scan *scan, int wanted, const char *why)
{
    if (peek(scan) != wanted)
        return stop(scan, -EINVAL, why);
    scan->at++;
    return true;
}

static bool scan_word(struct scan *scan, const char *word)
{
    size_t length = strlen(word);
    if (scan->bytes - scan->at < length || memcmp(scan->text + scan->at, word, length) != 0)
        return stop(scan, -EINVAL, "this is no JSON value");
    scan->at += length;
    return true;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool scan_digits(struct scan *scan)
{
    if (!is_digit(peek(scan)))
        return stop(scan, -EINVAL, "a digit is missing in a number");
    while (is_digit(peek(scan)))
        scan->at++;
    return true;
}

/* Whether the digits text[first, end) are below 2^53, where doubles still count one by one. */
static bool is_exact(const struct scan *scan, size_t first, size_t end)
{
    uint64_t value = 0;
    for (size_t i = first; i < end; i++) {
        value = value * 10 + (scan->text[i] - '0');
        if (value >= UINT64_C(1) << 53)
            return false;
    }
    return true;
}

static bool scan_number(struct scan *scan)
{
    size_t first = scan->at;
    bool integer = peek(scan) != '-';
    if (!integer)
        scan->at++;
    size_t digits = scan->at;
    if (!scan_digits(scan))
        return false;
    if (scan->text[digits] == '0' && scan->at - digits > 1)
        return stop(scan, -EINVAL, "a number begins with 0");
    if (peek(scan) == '.') {
        integer = false;
        scan->at++;
        if (!scan_digits(scan))
            return false;
    }
    if (peek(scan) == 'e' || peek(scan) == 'E') {
        integer = false;
        scan->at++;
        if (peek(scan) == '+' || peek(scan) == '-')
            scan->at++;
        if (!scan_digits(scan))
            return false;
    }
    if (scan->at - first > NUMBER_BYTES_MAX)
        return stop(scan, -EFBIG, "a number has too many digits");
    if ((scan->flags & JSON_INTEGERS) && (!integer || !is_exact(scan, first, scan->at))) {
        scan->at = first;
        return stop(scan, -EINVAL, "a number is not an integer in 0 ... 2^53 - 1");
    }
    return true;
}

/* Reads the four hexadecimal digits of an escape. */
static bool scan_hex(struct scan *scan, unsigned *ret_unit)
{
    unsigned unit = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(scan);
        if (is_digit(c))
            c -= '0';
        else if (c >= 'a' && c <= 'f')
            c -= 'a' - 10;
        else if (c >= 'A' && c <= 'F')
            c -= 'A' - 10;
        else
            return stop(scan, -EINVAL, "an escape \\u needs four hexadecimal digits");
        unit = unit * 16 + (unsigned)c;
        scan->at++;
    }
    *ret_unit = unit;
    return true;
}

static bool scan_unicode_escape(struct scan *scan)
{
    unsigned unit;
    if (!scan_hex(scan, &unit))
        return false;
    if (unit == 0)
        return stop(scan, -EINVAL, "a string contains NUL");
    if (unit >= 0xDC00 && unit <= 0xDFFF)
        return stop(scan, -EINVAL, "a low surrogate stands alone");
    if (unit < 0xD800 || unit > 0xDBFF)
        return true;
    if (peek(scan) != '\\' || scan->at + 1 >= scan->bytes || scan->text[scan->at + 1] != 'u')
        return stop(scan, -EINVAL, "a high surrogate stands alone");
    scan->at += 2;
    if (!scan_hex(scan, &unit))
        return false;
    if (unit < 0xDC00 || unit > 0xDFFF)
        return stop(scan, -EINVAL, "a high surrogate stands alone");
    return true;
}

static bool scan_escape(struct scan *scan)
{
    int c = peek(scan);
    if (c < 0 || !strchr("\"\\/bfnrtu", c) || c == 0)
        return stop(scan, -EINVAL, "an escape is unknown");
    scan->at++;
    return c != 'u' || scan_unicode_escape(scan);
}

/* One character of UTF-8 beyond ASCII: no overlong forms, surrogates or values above U+10FFFF. */
static bool scan_utf8(struct scan *scan)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned lead = scan->text[scan->at];
    unsigned length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || scan->bytes - scan->at < length)
        return stop(scan, -EINVAL, "this is not UTF-8");
    uint32_t code = lead & (0xFFu >> (length + 1));
    for (unsigned i = 1; i < length; i++) {
        unsigned next = scan->text[scan->at + i];
        if ((next & 0xC0) != 0x80)
            return stop(scan, -EINVAL, "this is not UTF-8");
        code = code << 6 | (next & 0x3F);
    }
    if (code < smallest[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return stop(scan, -EINVAL, "this is not UTF-8");
    scan->at += length;
    return true;
}

static bool scan_string(struct scan *scan)
{
    if (!expect(scan, '"', "a string is missing"))
        return false;
    for (;;) {
        int c = peek(scan);
        if (c < 0)
            return stop(scan, -EINVAL, "a string does not end");
        if (c < 0x20)
            return stop(scan, -EINVAL, "a control byte stands in a string");
        if (c >= 0x80) {
            if (!scan_utf8(scan))
                return false;
            continue;
        }
        scan->at++;
        if (c == '"')
            return true;
        if (c == '\\' && !scan_escape(scan))
            return false;
    }
}

static bool scan_member(struct scan *scan)
{
    skip_spaces(scan);
    if (!scan_string(scan))
        return false;
    skip_spaces(scan);
    return expect(scan, ':', "a colon is missing") && scan_value(scan);
}

/* An object (open is '{') or an array: the cursor stands on its first byte. */
static bool scan_members(struct scan *scan, int close)
{
    if (scan->depth >= JSON_DEPTH_MAX)
        return stop(scan, -EFBIG, "the nesting is too deep");
    scan->depth++;
    scan->at++;
    skip_spaces(scan);
    if (peek(scan) != close) {
        for (;;) {
            if (!(close == '}' ? scan_member(scan) : scan_value(scan)))
                return false;
            if (peek(scan) != ',')
                break;
            scan->at++;
        }
    }
    scan->depth--;
    return expect(scan, close, "a comma or a closing bracket is missing");
}

static bool scan_value(struct scan *scan)
{
    if (++scan->values > JSON_VALUES_MAX)
        return stop(scan, -EFBIG, "there are too many values");
    skip_spaces(scan);
    int c = peek(scan);
    bool good;
    if (c < 0)
        return stop(scan, -EINVAL, "the text ends where a value is missing");
    if (c == '{')
        good = scan_members(scan, '}');
    else if (c == '[')
        good = scan_members(scan, ']');
    else if (c == '"')
        good = scan_string(scan);
    else if (c == '-' || is_digit(c))
        good = scan_number(scan);
    else
        good = scan_word(scan, c == 't' ? "true" : c == 'f' ? "false" : "null");
    if (good)
        skip_spaces(scan);
    return good;
}

int json_scan(const char *text, size_t bytes, unsigned flags, size_t *ret_offset,
              const char **ret_why)
{
    struct scan scan = {.text = (const unsigned char *)text, .bytes = bytes, .flags = flags};
    if (scan_value(&scan) && scan.at < bytes)
        stop(&scan, -EINVAL, "something follows the end");
    if (scan.err < 0) {
        *ret_offset = scan.at;
        *ret_why = scan.why;
    }
    return scan.err;
}
