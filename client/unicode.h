/*
 * What the tokenizers need of Unicode: reading UTF-8 that may be broken anywhere, the three classes
 * of the splitting rules, and normalisation form C in linear time. Classes and compositions are
 * those of the utf8proc in use (Debian 12: Unicode 14); code points that it does not know yet count
 * as neither letters nor numbers.
 */
#ifndef AGL_CLIENT_UNICODE_H
#define AGL_CLIENT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum unicode_class {
    UNICODE_OTHER = 0,  /* anything else, and each byte that is not UTF-8 */
    UNICODE_LETTER = 1, /* \p{L} */
    UNICODE_NUMBER = 2, /* \p{N} */
    UNICODE_SPACE = 3,  /* \s but for the next */
    UNICODE_NEWLINE = 4 /* \r and \n, which are \s too */
};

/* What unicode_read() found. */
enum unicode_state {
    UNICODE_GOOD,
    UNICODE_BROKEN,    /* no continuation of these bytes can be a character */
    UNICODE_INCOMPLETE /* the text ends within a character */
};

struct unicode_char {
    uint32_t code;  /* UNICODE_GOOD: the code point; else UINT32_MAX */
    uint32_t bytes; /* its length; if not good, the length of the longest part that could have begun
                       a character (what Python's decode(errors="replace") turns into one U+FFFD) */
    enum unicode_state state;
};

/* Reads the character at the start of text; bytes > 0. */
struct unicode_char unicode_read(const char *text, size_t bytes);

/* Writes a code point as UTF-8 (at most 4 bytes) and returns its length. */
uint32_t unicode_write(uint32_t code, char *ret_text);

enum unicode_class unicode_class(uint32_t code);

/* The class of the character at the start of text (bytes > 0) and its length in *ret_bytes; a byte
 * that is not UTF-8 is a character of its own, of class UNICODE_OTHER. */
enum unicode_class unicode_class_at(const char *text, size_t bytes, size_t *ret_bytes);

/* Brings text into normalisation form C; bytes that are not UTF-8 stay as they are. 1: *ret_text is
 * the new text, to be freed, *ret_bytes large; 0: the text already is in that form; -ENOMEM. Takes
 * time linear in the text, however many combining marks follow each other. */
int unicode_nfc(const char *text, size_t bytes, char **ret_text, size_t *ret_bytes);

#endif
