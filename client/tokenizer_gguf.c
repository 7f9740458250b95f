/* The tokenizer in a GGUF file's metadata. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/byte_level.h"
#include "client/chat.h"
#include "client/error.h"
#include "client/tokenizer.h"
#include "formats/gguf.h"

static const char TOKENS[] = "tokenizer.ggml.tokens";
static const char TYPES[] = "tokenizer.ggml.token_type";
static const char MERGES[] = "tokenizer.ggml.merges";

/* Types of tokens, by their numbers in the file. */
enum token_type { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

/* Splitting rules by the name that the file has for them, with what the models' own tokenizers do
 * and the file does not say. */
static const struct rule {
    const char *name;
    struct pretokenizer pretokenizer;
    bool whole_pieces;
    bool nfc;
} rules[] = {
    {"glm4", {PRETOKENIZER_GLM4, true}, true, false},
    {"chatglm-bpe", {PRETOKENIZER_GLM4, true}, true, false},
    {"llama-bpe", {PRETOKENIZER_GLM4, true}, true, false},
    {"llama3", {PRETOKENIZER_GLM4, true}, true, false},
    {"llama-v3", {PRETOKENIZER_GLM4, true}, true, false},
    {"qwen2", {PRETOKENIZER_QWEN2, true}, false, true},
    {"smollm", {PRETOKENIZER_SMOLLM, false}, false, false},
    {"gpt-2", {PRETOKENIZER_GPT2, false}, false, false},
};

struct source {
    const char *path;
    const struct gguf *gguf;
    struct vocabulary *vocabulary;
};

/* The parser's text becomes the detail. */
static int refuse(int err, const char *why)
{
    return error_set(err == -ENOENT ? -EINVAL : err, "%s", why);
}

static bool is_text(const char *text, size_t bytes, const char *wanted)
{
    return strlen(wanted) == bytes && memcmp(text, wanted, bytes) == 0;
}

static int read_kind(const struct source *source)
{
    char why[GGUF_WHY_BYTES];
    const char *model = "";
    size_t bytes = 0;
    int err = gguf_string(source->gguf, "tokenizer.ggml.model", &model, &bytes, why);
    if (err < 0)
        return refuse(err, why);
    if (!is_text(model, bytes, "gpt2"))
        return error_set(-EINVAL, "%s: tokenizer.ggml.model: %s is not supported: gpt2 is",
                         source->path, gguf_quote(model, bytes).text);
    return 0;
}

static int read_rule(const struct source *source, struct agl_tokenizer *tokenizer)
{
    char why[GGUF_WHY_BYTES];
    const char *name = "";
    size_t bytes = 0;
    int err = gguf_string(source->gguf, "tokenizer.ggml.pre", &name, &bytes, why);
    if (err < 0)
        return refuse(err, why);
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (is_text(name, bytes, rules[i].name)) {
            tokenizer->pretokenizer = rules[i].pretokenizer;
            tokenizer->whole_pieces = rules[i].whole_pieces;
            tokenizer->nfc = rules[i].nfc;
            return 0;
        }
    return error_set(-EINVAL, "%s: tokenizer.ggml.pre: %s is not supported", source->path,
                     gguf_quote(name, bytes).text);
}

static int refuse_token(const struct source *source, uint32_t id, const char *text, size_t bytes,
                        const char *what)
{
    return error_set(-EINVAL, "%s: %s[%u]: %s %s", source->path, TOKENS, id,
                     gguf_quote(text, bytes).text, what);
}

static int add_token(const struct source *source, uint32_t id, const char *text, size_t bytes,
                     int32_t type)
{
    char spelled[VOCABULARY_TOKEN_BYTES_MAX];
    uint32_t flags = VOCABULARY_ADDED | VOCABULARY_SPECIAL;
    switch (type) {
    case NORMAL: {
        int count = byte_level_spell(text, bytes, spelled);
        if (count < 0)
            return refuse_token(source, id, text, bytes, "is not byte-level, or too long");
        text = spelled;
        bytes = (size_t)count;
        flags = VOCABULARY_ORDINARY;
        break;
    }
    case USER_DEFINED:
        flags = VOCABULARY_ADDED;
        break;
    case UNKNOWN:
    case CONTROL:
        break;
    case UNUSED:
        return 0;
    default:
        return error_set(-EINVAL, "%s: %s[%u]: %d is not supported%s", source->path, TYPES, id,
                         type, type == BYTE ? ": gpt2 has no tokens of single bytes" : "");
    }
    int err = vocabulary_add(source->vocabulary, id, text, bytes, flags);
    if (err == -EEXIST)
        return refuse_token(source, id, text, bytes, "occurs twice");
    if (err == -ERANGE)
        return refuse_token(source, id, text, bytes,
                            bytes == 0                           ? "is empty"
                            : bytes > VOCABULARY_TOKEN_BYTES_MAX ? "is too long"
                                                                 : "has an id beyond the limit");
    return err;
}

/* The types of the tokens, as many as there are, or NULL: all are normal. */
static int find_types(const struct source *source, const struct gguf_value *tokens,
                      const struct gguf_value **ret_types)
{
    char why[GGUF_WHY_BYTES];
    *ret_types = NULL;
    int err = gguf_array(source->gguf, TYPES, GGUF_VALUE_I32, ret_types, why);
    if (err == -ENOENT)
        return 0;
    if (err < 0)
        return refuse(err, why);
    if ((*ret_types)->count != tokens->count)
        return error_set(-EINVAL, "%s: %s: %llu types of %llu tokens", source->path, TYPES,
                         (unsigned long long)(*ret_types)->count,
                         (unsigned long long)tokens->count);
    return 0;
}

static int read_tokens(const struct source *source)
{
    char why[GGUF_WHY_BYTES];
    const struct gguf_value *tokens = NULL, *types = NULL;
    int err = gguf_array(source->gguf, TOKENS, GGUF_VALUE_STRING, &tokens, why);
    if (err < 0)
        return refuse(err, why);
    if (tokens->count > VOCABULARY_IDS_MAX)
        return error_set(-EINVAL, "%s: %s: %llu, the limit is %d", source->path, TOKENS,
                         (unsigned long long)tokens->count, VOCABULARY_IDS_MAX);
    err = find_types(source, tokens, &types);
    const unsigned char *at = tokens->bytes;
    for (uint32_t id = 0; id < tokens->count && err == 0; id++) {
        const char *text = "";
        size_t bytes = 0;
        gguf_next_string(&at, &text, &bytes);
        err = add_token(source, id, text, bytes, types ? gguf_item_i32(types, id) : NORMAL);
    }
    return err;
}

static int add_merge(const struct source *source, uint32_t rank, const char *text, size_t bytes)
{
    const char *blank = memchr(text, ' ', bytes);
    if (!blank)
        return error_set(-EINVAL, "%s: %s[%u]: %s is not \"a b\"", source->path, MERGES, rank,
                         gguf_quote(text, bytes).text);
    size_t left = (size_t)(blank - text);
    const char *const half[2] = {text, blank + 1};
    const size_t length[2] = {left, bytes - left - 1};
    return byte_level_add_merge(source->vocabulary, rank, half, length, source->path, MERGES);
}

static int read_merges(const struct source *source)
{
    char why[GGUF_WHY_BYTES];
    const struct gguf_value *merges = NULL;
    int err = gguf_array(source->gguf, MERGES, GGUF_VALUE_STRING, &merges, why);
    if (err < 0)
        return refuse(err, why);
    if (merges->count > UINT32_MAX)
        return error_set(-EINVAL, "%s: %s: %llu, the limit is %u", source->path, MERGES,
                         (unsigned long long)merges->count, UINT32_MAX);
    const unsigned char *at = merges->bytes;
    for (uint32_t rank = 0; rank < merges->count && err == 0; rank++) {
        const char *text = "";
        size_t bytes = 0;
        gguf_next_string(&at, &text, &bytes);
        err = add_merge(source, rank, text, bytes);
    }
    return err;
}

int tokenizer_gguf_read(struct agl_tokenizer *tokenizer, const char *path, const struct gguf *gguf)
{
    const struct source source = {path, gguf, &tokenizer->vocabulary};
    int err = read_kind(&source);
    if (err == 0)
        err = read_rule(&source, tokenizer);
    if (err == 0)
        err = read_tokens(&source);
    if (err < 0)
        return err;
    if (vocabulary_seal(&tokenizer->vocabulary) < 0)
        return error_set(-EINVAL, "%s: %s: two special tokens have the same text", path, TOKENS);
    return read_merges(&source);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* A string as a C string; NULL if it is absent or anything else. A NUL in it ends it early. */
static int copy_string(const struct gguf *gguf, const char *key, char **ret_text)
{
    const char *text = NULL;
    size_t bytes = 0;
    *ret_text = NULL;
    if (gguf_string(gguf, key, &text, &bytes, NULL) < 0)
        return 0;
    *ret_text = calloc(1, bytes + 1);
    if (*ret_text)
        memcpy(*ret_text, text, bytes);
    return *ret_text ? 0 : -ENOMEM;
}

/* GGUF's chatglm is GLM-Edge and the Hugging Face layout, too, which the chat formats call glm. */
static int find_chat(struct agl_tokenizer *tokenizer, const struct gguf *gguf)
{
    char *template = NULL, *architecture = NULL;
    int err = copy_string(gguf, "tokenizer.chat_template", &template);
    if (err == 0)
        err = copy_string(gguf, "general.architecture", &architecture);
    if (err == 0) {
        bool is_glm = architecture && strcmp(architecture, "chatglm") == 0;
        const struct chat_clues clues = {.template = template,
                                         .model_type = is_glm ? "glm" : architecture};
        err = chat_find(tokenizer, &clues);
    }
    free(template);
    free(architecture);
    return err;
}

bool tokenizer_is_gguf(const char *path)
{
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return false;
    ssize_t got = pread(fd, magic, sizeof magic, 0);
    close(fd);
    return got == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
}

int tokenizer_gguf_open(struct agl_tokenizer *tokenizer, const char *path)
{
    char why[GGUF_WHY_BYTES] = "";
    struct gguf gguf = {0};
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_set(-errno, "%s: %s", path, strerrordesc_np(errno));
    int err = fstat(fd, &status) < 0 ? -errno : 0;
    if (err < 0) {
        error_set(err, "%s: %s", path, strerrordesc_np(-err));
    } else {
        err = gguf_read(&gguf, fd, (uint64_t)status.st_size, path, why);
        if (err < 0)
            refuse(err, why);
    }
    close(fd);
    if (err == 0)
        err = tokenizer_gguf_read(tokenizer, path, &gguf);
    if (err == 0)
        err = find_chat(tokenizer, &gguf);
    gguf_fini(&gguf);
    return err;
}
