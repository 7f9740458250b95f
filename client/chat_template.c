#include "client/chat_template.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const char HEAD[] = "<|im_start|>system";
static const char TAIL[] = "<|im_end|>";

/* The text behind a line end, which strings in quotes may spell "\n". NULL: there is none. */
static const char *skip_line_end(const char *at, char quote)
{
    if (*at == '\n')
        return at + 1;
    return quote && at[0] == '\\' && at[1] == 'n' ? at + 2 : NULL;
}

/* How many bytes stand literally before the tail; -1: something that is computed comes first, or
 * no tail. */
static ptrdiff_t literal_bytes(const char *text, char quote)
{
    for (const char *at = text; *at; at++) {
        if (strncmp(at, TAIL, sizeof TAIL - 1) == 0)
            return at - text;
        if (quote ? *at == quote : *at == '{')
            return -1;
        if (quote && *at == '\\' && at[1])
            at++;
    }
    return -1;
}

/* Copies a literal; in quotes a backslash spells a line end, a tab, or what follows it. */
static char *copy_literal(const char *text, size_t bytes, bool is_quoted)
{
    char *copy = malloc(bytes + 1);
    size_t length = 0;
    for (size_t i = 0; copy && i < bytes; i++) {
        bool is_escape = is_quoted && text[i] == '\\' && i + 1 < bytes;
        if (is_escape)
            i++;
        char byte = text[i];
        if (is_escape && byte == 'n')
            byte = '\n';
        else if (is_escape && byte == 't')
            byte = '\t';
        copy[length++] = byte;
    }
    if (copy)
        copy[length] = 0;
    return copy;
}

int chat_template_system(const char *template, char **ret_text)
{
    *ret_text = NULL;
    for (const char *at = template; (at = strstr(at, HEAD)); at++) {
        char before = at > template ? at[-1] : 0;
        char quote = before == '\'' || before == '"' ? before : 0;
        const char *text = skip_line_end(at + sizeof HEAD - 1, quote);
        ptrdiff_t bytes = text ? literal_bytes(text, quote) : -1;
        if (bytes <= 0)
            continue;
        *ret_text = copy_literal(text, (size_t)bytes, quote);
        return *ret_text ? 0 : -ENOMEM;
    }
    return 0;
}
