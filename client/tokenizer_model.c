#include <errno.h>
#include <string.h>

#include "client/document.h"
#include "client/error.h"
#include "client/tokenizer.h"

enum { GLM4_RANKS = 151329 };

/* GLM-4's special tokens, ids from GLM4_RANKS on. */
static const char *const glm4_special[] = {
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
};

/* The six bits of a base64 digit, or -1. */
static int digit_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes base64 (with its padding); returns the number of bytes, or -1. */
static int decode_base64(const char *text, size_t length, char *ret_bytes, size_t capacity)
{
    if (length == 0 || length % 4 != 0)
        return -1;
    size_t padding = text[length - 1] != '=' ? 0 : text[length - 2] != '=' ? 1 : 2;
    if (length / 4 * 3 - padding > capacity)
        return -1;
    size_t count = 0;
    uint32_t bits = 0;
    int held = 0;
    for (size_t i = 0; i < length - padding; i++) {
        int value = digit_value(text[i]);
        if (value < 0)
            return -1;
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            ret_bytes[count++] = (char)(bits >> held & 0xFF);
        }
    }
    if (bits & ((1u << held) - 1))
        return -1; /* bits behind the last byte */
    return (int)count;
}

/* A rank in decimal, or -1. */
static int64_t parse_rank(const char *text, size_t length)
{
    int64_t rank = 0;
    if (length == 0 || length > 9)
        return -1;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        rank = rank * 10 + (text[i] - '0');
    }
    return rank;
}

static int read_line(struct agl_tokenizer *tokenizer, const char *path, const char *line,
                     size_t length, size_t number)
{
    char bytes[VOCABULARY_TOKEN_BYTES_MAX];
    const char *blank = memchr(line, ' ', length);
    int count = -1;
    int64_t rank = -1;
    if (blank) {
        count = decode_base64(line, (size_t)(blank - line), bytes, sizeof bytes);
        rank = parse_rank(blank + 1, length - (size_t)(blank - line) - 1);
    }
    if (count < 0 || rank < 0)
        return error_set(-EINVAL, "%s: line %zu is not \"base64 rank\"%s", path, number,
                         number == 1 ? " (a sentencepiece model is not supported)" : "");
    int err = vocabulary_add(&tokenizer->vocabulary, (uint32_t)rank, bytes, (size_t)count,
                             VOCABULARY_ORDINARY);
    if (err == -ERANGE)
        return error_set(-EINVAL, "%s: line %zu: rank %lld or length %d out of range", path, number,
                         (long long)rank, count);
    if (err == -EEXIST)
        return error_set(-EINVAL, "%s: line %zu: rank %lld or its token occurs twice", path, number,
                         (long long)rank);
    return err;
}

static int read_lines(struct agl_tokenizer *tokenizer, const char *path, const char *text,
                      size_t bytes)
{
    const char *end = text + bytes;
    size_t number = 1;
    for (const char *line = text; line < end; number++) {
        const char *line_end = memchr(line, '\n', (size_t)(end - line));
        if (!line_end)
            line_end = end;
        if (line_end > line) {
            int err = read_line(tokenizer, path, line, (size_t)(line_end - line), number);
            if (err < 0)
                return err;
        }
        line = line_end + 1;
    }
    return 0;
}

static int add_glm4_special(struct agl_tokenizer *tokenizer)
{
    struct vocabulary *vocabulary = &tokenizer->vocabulary;
    if (vocabulary->used_count != GLM4_RANKS || vocabulary->token_count != GLM4_RANKS)
        return 0;
    for (uint32_t i = 0; i < sizeof glm4_special / sizeof glm4_special[0]; i++) {
        int err = vocabulary_add(vocabulary, GLM4_RANKS + i, glm4_special[i],
                                 strlen(glm4_special[i]), VOCABULARY_ADDED | VOCABULARY_SPECIAL);
        if (err < 0)
            return err;
    }
    return 0;
}

int tokenizer_model_read(struct agl_tokenizer *tokenizer, const char *path, const char *text,
                         size_t bytes, const cJSON *config)
{
    struct vocabulary *vocabulary = &tokenizer->vocabulary;
    tokenizer->pretokenizer = (struct pretokenizer){.rule = PRETOKENIZER_GLM4, .long_s = true};
    tokenizer->nfc = false;
    tokenizer->whole_pieces = true;

    int err = read_lines(tokenizer, path, text, bytes);
    if (err < 0)
        return err;
    int added = tokenizer_config_read(tokenizer, path, config);
    if (added < 0)
        return added;
    err = added == 0 ? add_glm4_special(tokenizer) : 0;
    if (err < 0)
        return err;
    if (vocabulary_seal(vocabulary) < 0)
        return error_set(-EINVAL, "%s: two added tokens have the same text", path);
    for (int byte = 0; byte < 256; byte++)
        if (vocabulary->byte_ids[byte] == VOCABULARY_NONE)
            return error_set(-EINVAL, "%s: no token for the byte 0x%02X", path, (unsigned)byte);
    return vocabulary_add_all_pairs(vocabulary);
}
