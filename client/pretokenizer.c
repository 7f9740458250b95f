#include "client/pretokenizer.h"

#include <errno.h>
#include <string.h>

#include "client/unicode.h"

/* ---- the spellings --------------------------------------------------------------------------- */

#define FOLDED "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define FOLDED_SHORT "'(?i:[sdmt]|ll|ve|re)"
#define SPELLED "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define SPELLED_GROUP "(?:" SPELLED ")"
#define WORDS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define THREE WORDS "|\\p{N}{1,3}" REST
#define SINGLE WORDS "|\\p{N}" REST
#define GPT2 "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *regex;
    struct pretokenizer pretokenizer;
} spellings[] = {
    {FOLDED THREE, {PRETOKENIZER_GLM4, true}},
    {FOLDED_SHORT THREE, {PRETOKENIZER_GLM4, true}},
    {SPELLED THREE, {PRETOKENIZER_GLM4, false}},
    {SPELLED_GROUP THREE, {PRETOKENIZER_GLM4, false}},
    {FOLDED SINGLE, {PRETOKENIZER_QWEN2, true}},
    {FOLDED_SHORT SINGLE, {PRETOKENIZER_QWEN2, true}},
    {SPELLED SINGLE, {PRETOKENIZER_QWEN2, false}},
    {SPELLED_GROUP SINGLE, {PRETOKENIZER_QWEN2, false}},
    {"'s|'t|'re|'ve|'m|'ll|'d" GPT2, {PRETOKENIZER_GPT2, false}},
    {"'(?:[sdmt]|ll|ve|re)" GPT2, {PRETOKENIZER_GPT2, false}},
};

int pretokenizer_find(const char *regex, struct pretokenizer *ret_pretokenizer)
{
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        if (strcmp(spellings[i].regex, regex) == 0) {
            *ret_pretokenizer = spellings[i].pretokenizer;
            return 0;
        }
    }
    return -ENOENT;
}

/* ---- scanners -------------------------------------------------------------------------------- */

/* Where the run of one class that goes on at `at` ends. */
static size_t run_end(const char *text, size_t at, size_t bytes, enum unicode_class class)
{
    size_t length = 0;
    while (at < bytes && unicode_class_at(text + at, bytes - at, &length) == class)
        at += length;
    return at;
}

/* The same, for at most `count` characters. */
static size_t short_run_end(const char *text, size_t bytes, enum unicode_class class, int count)
{
    size_t at = 0;
    size_t length = 0;
    while (count-- > 0 && at < bytes && unicode_class_at(text + at, bytes - at, &length) == class)
        at += length;
    return at;
}

static bool same_letter(char c, char small, bool any_case)
{
    return c == small || (any_case && c == small - 'a' + 'A');
}

/* The length of the contraction ('s, 't, 're, 've, 'm, 'll, 'd) that text begins with, or 0. */
static size_t contraction(const struct pretokenizer *pretokenizer, const char *text, size_t bytes)
{
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    bool any_case =
        pretokenizer->rule == PRETOKENIZER_GLM4 || pretokenizer->rule == PRETOKENIZER_QWEN2;
    if (bytes < 2 || text[0] != '\'')
        return 0;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t length = strlen(endings[i]);
        if (bytes > length && same_letter(text[1], endings[i][0], any_case) &&
            (length == 1 || same_letter(text[2], endings[i][1], any_case)))
            return 1 + length;
    }
    if (pretokenizer->long_s && bytes >= 3 && memcmp(text + 1, "\xC5\xBF", 2) == 0)
        return 3;
    return 0;
}

/* White space that nothing else has taken. `line_ends`: \s*[\r\n]+ goes before the rest. `alone`: a
 * number behind it counts as the end of the text. */
static size_t white_space(const char *text, size_t bytes, bool line_ends, bool alone)
{
    size_t at = 0;
    size_t last = 0;     /* where the last character began */
    size_t line_end = 0; /* behind the last \r or \n */
    enum unicode_class next = UNICODE_NUMBER;
    while (at < bytes) {
        size_t length = 0;
        next = unicode_class_at(text + at, bytes - at, &length);
        if (next != UNICODE_SPACE && next != UNICODE_NEWLINE)
            break;
        last = at;
        at += length;
        if (next == UNICODE_NEWLINE)
            line_end = at;
    }
    if (line_ends && line_end > 0)
        return line_end;
    /* \s+(?!\S): all but the last character when something follows, which that one then begins. */
    if (at < bytes && last > 0 && !(alone && next == UNICODE_NUMBER))
        return last;
    return at;
}

/* GLM-4, Llama 3, Qwen2. */
static size_t next_modern(const struct pretokenizer *pretokenizer, const char *text, size_t bytes)
{
    size_t first_bytes = 0;
    enum unicode_class first = unicode_class_at(text, bytes, &first_bytes);
    size_t length = contraction(pretokenizer, text, bytes);
    if (length > 0)
        return length;
    if (first == UNICODE_LETTER)
        return run_end(text, first_bytes, bytes, UNICODE_LETTER);
    if (first == UNICODE_NUMBER)
        return short_run_end(text, bytes, UNICODE_NUMBER,
                             pretokenizer->rule == PRETOKENIZER_QWEN2 ? 1 : 3);
    if (first != UNICODE_NEWLINE) {
        size_t end = run_end(text, first_bytes, bytes, UNICODE_LETTER);
        if (end > first_bytes)
            return end;
    }
    size_t start = text[0] == ' ' ? 1 : 0;
    size_t end = run_end(text, start, bytes, UNICODE_OTHER);
    if (end > start)
        return run_end(text, end, bytes, UNICODE_NEWLINE);
    return white_space(text, bytes, true, false);
}

/* GPT-2 and SmolLM. */
static size_t next_plain(const struct pretokenizer *pretokenizer, const char *text, size_t bytes)
{
    bool alone = pretokenizer->rule == PRETOKENIZER_SMOLLM;
    size_t length = contraction(pretokenizer, text, bytes);
    if (length > 0)
        return length;
    size_t start = text[0] == ' ' ? 1 : 0;
    if (start < bytes) {
        enum unicode_class class = unicode_class_at(text + start, bytes - start, &length);
        if (class == UNICODE_NUMBER && alone)
            return start > 0 ? start : length;
        if (class != UNICODE_SPACE && class != UNICODE_NEWLINE)
            return run_end(text, start, bytes, class);
    }
    return white_space(text, bytes, false, alone);
}

size_t pretokenizer_next(const struct pretokenizer *pretokenizer, const char *text, size_t bytes)
{
    if (pretokenizer->rule == PRETOKENIZER_GLM4 || pretokenizer->rule == PRETOKENIZER_QWEN2)
        return next_modern(pretokenizer, text, bytes);
    return next_plain(pretokenizer, text, bytes);
}
