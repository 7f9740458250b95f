/* What does not parse: the reading of a header, the table of types, and words for messages. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/gguf.h"

enum { FIRST_READ_BYTES = 1 << 20 };

/* elements 0: known by name only. */
static const struct {
    const char *name;
    uint16_t elements, bytes;
} TYPES[] = {
    [0] = {"F32", 1, 4},
    [1] = {"F16", 1, 2},
    [2] = {"Q4_0", 32, 2 + 16},
    [3] = {"Q4_1", 32, 4 + 16},
    [4] = {"Q4_2", 0, 0},
    [5] = {"Q4_3", 0, 0},
    [6] = {"Q5_0", 32, 2 + 4 + 16},
    [7] = {"Q5_1", 32, 4 + 4 + 16},
    [8] = {"Q8_0", 32, 2 + 32},
    [9] = {"Q8_1", 0, 0},
    [10] = {"Q2_K", 0, 0},
    [11] = {"Q3_K", 0, 0},
    [12] = {"Q4_K", 256, 4 + 12 + 128},
    [13] = {"Q5_K", 256, 4 + 12 + 32 + 128},
    [14] = {"Q6_K", 256, 128 + 64 + 16 + 2},
    [15] = {"Q8_K", 0, 0},
    [16] = {"IQ2_XXS", 0, 0},
    [17] = {"IQ2_XS", 0, 0},
    [18] = {"IQ3_XXS", 0, 0},
    [19] = {"IQ1_S", 0, 0},
    [20] = {"IQ4_NL", 0, 0},
    [21] = {"IQ3_S", 0, 0},
    [22] = {"IQ2_S", 0, 0},
    [23] = {"IQ4_XS", 0, 0},
    [24] = {"I8", 0, 0},
    [25] = {"I16", 0, 0},
    [26] = {"I32", 0, 0},
    [27] = {"I64", 0, 0},
    [28] = {"F64", 0, 0},
    [29] = {"IQ1_M", 0, 0},
    [30] = {"BF16", 1, 2},
    [31] = {"Q4_0_4_4", 0, 0},
    [32] = {"Q4_0_4_8", 0, 0},
    [33] = {"Q4_0_8_8", 0, 0},
    [34] = {"TQ1_0", 0, 0},
    [35] = {"TQ2_0", 0, 0},
    [36] = {"IQ4_NL_4_4", 0, 0},
    [37] = {"IQ4_NL_4_8", 0, 0},
    [38] = {"IQ4_NL_8_8", 0, 0},
    [39] = {"MXFP4", 0, 0},
};

enum { TYPE_COUNT = sizeof TYPES / sizeof TYPES[0] };

const char *gguf_type_name(uint32_t type)
{
    return type < TYPE_COUNT ? TYPES[type].name : NULL;
}

bool gguf_type_block(uint32_t type, uint32_t *ret_elements, uint32_t *ret_bytes)
{
    if (type >= TYPE_COUNT || TYPES[type].elements == 0)
        return false;
    *ret_elements = TYPES[type].elements;
    *ret_bytes = TYPES[type].bytes;
    return true;
}

int gguf_refuse(char *why, int err, const char *format, ...)
{
    if (why) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(why, GGUF_WHY_BYTES, format, arguments);
        va_end(arguments);
    }
    return err;
}

struct gguf_quoted gguf_quote(const char *text, size_t bytes)
{
    struct gguf_quoted quoted;
    size_t used = 0, limit = sizeof quoted.text - sizeof "\\x00...\"";
    quoted.text[used++] = '"';
    size_t at = 0;
    for (; at < bytes && used < limit; at++) {
        unsigned char c = (unsigned char)text[at];
        if (c < 0x20 || c == 0x7F)
            used += (size_t)snprintf(quoted.text + used, sizeof quoted.text - used, "\\x%02x", c);
        else
            quoted.text[used++] = (char)c;
    }
    snprintf(quoted.text + used, sizeof quoted.text - used, "%s\"", at < bytes ? "..." : "");
    return quoted;
}

/* Makes header[*have] longer: the file's first `wanted` bytes. */
static int read_more(int fd, unsigned char **header, size_t *have, size_t wanted, const char *file,
                     char *why)
{
    unsigned char *larger = realloc(*header, wanted ? wanted : 1);
    if (!larger)
        return gguf_refuse(why, -ENOMEM, "%s: no memory for a header of %zu bytes", file, wanted);
    *header = larger;
    while (*have < wanted) {
        ssize_t got = pread(fd, larger + *have, wanted - *have, (off_t)*have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return gguf_refuse(why, -errno, "%s: header: reading at %zu: %s", file, *have,
                               strerror(errno));
        if (got == 0)
            return gguf_refuse(why, -EINVAL, "%s: header: the file ends at %zu", file, *have);
        *have += (size_t)got;
    }
    return 0;
}

int gguf_read(struct gguf *ret_table, int fd, uint64_t file_bytes, const char *file, char *why)
{
    unsigned char *header = NULL;
    size_t have = 0;
    uint64_t limit = file_bytes < GGUF_HEADER_MAX ? file_bytes : GGUF_HEADER_MAX;
    uint64_t wanted = FIRST_READ_BYTES;
    int err = -EAGAIN;
    /* The header does not say how long it is: try with more until it is whole. At the limit the
     * parser wants no more. */
    for (; err == -EAGAIN; wanted *= 4) {
        err = read_more(fd, &header, &have, (size_t)(wanted < limit ? wanted : limit), file, why);
        if (err == 0)
            err = gguf_parse(ret_table, header, have, file_bytes, file, why);
    }
    if (err < 0)
        free(header);
    else
        ret_table->header = header;
    return err;
}
