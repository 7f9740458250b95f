#include "model/vocabulary.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json.h"

enum { TOKENIZER_BYTES_MAX = 128 << 20, ID_MAX = (1 << 24) - 1, PATH_BYTES = 4096 };

static int file_path(char path[PATH_BYTES], const char *folder, const char *name,
                     struct failure *failure)
{
    if (snprintf(path, PATH_BYTES, "%s/%s", folder, name) >= PATH_BYTES)
        return failure_set(failure, -ENAMETOOLONG, "%.256s...: the path is too long", folder);
    return 0;
}

static int take_id(const struct json_object *where, const char *key, const cJSON *value,
                   uint32_t *size, struct failure *failure)
{
    uint64_t id;
    if (json_number_u64(value, &id) < 0 || id > ID_MAX)
        return json_refuse(where, key, -EINVAL, failure, "%s: its id is not an integer in 0 ... %d",
                           value && value->string ? json_quote(value->string).text : "a token",
                           ID_MAX);
    if (id >= *size)
        *size = (uint32_t)id + 1;
    return 0;
}

/* model.vocab: {token: id} of byte-pair models, or an array whose places are the ids. */
static int take_vocab(const struct json_object *root, uint32_t *size, struct failure *failure)
{
    struct json_object model;
    int err = json_enter(root, "model", &model, failure);
    if (err == -ENOENT)
        return json_refuse(root, "model", -EINVAL, failure, "missing");
    if (err < 0)
        return err;
    const cJSON *vocab = json_field(&model, "vocab");
    if (cJSON_IsArray(vocab)) {
        uint32_t count = (uint32_t)cJSON_GetArraySize(vocab);
        *size = count > *size ? count : *size;
        return 0;
    }
    if (!cJSON_IsObject(vocab))
        return json_refuse(&model, "vocab", -EINVAL, failure, "must be an object, is %s",
                           json_type_name(vocab));
    for (const cJSON *item = vocab->child; item; item = item->next) {
        err = take_id(&model, "vocab", item, size, failure);
        if (err < 0)
            return err;
    }
    return 0;
}

static int take_added_tokens(const struct json_object *root, uint32_t *size,
                             struct failure *failure)
{
    const cJSON *added = json_field(root, "added_tokens");
    if (added && !cJSON_IsArray(added))
        return json_refuse(root, "added_tokens", -EINVAL, failure, "must be an array, is %s",
                           json_type_name(added));
    for (const cJSON *item = added ? added->child : NULL; item; item = item->next) {
        int err = take_id(root, "added_tokens", cJSON_GetObjectItemCaseSensitive(item, "id"), size,
                          failure);
        if (err < 0)
            return err;
    }
    return 0;
}

static int read_tokenizer_json(const char *path, uint32_t *ret_size, struct failure *failure)
{
    cJSON *tree;
    int err = json_read_file(&tree, path, TOKENIZER_BYTES_MAX, JSON_STRICT, failure);
    if (err < 0)
        return err;
    struct json_object root;
    uint32_t size = 0;
    err = json_root(&root, tree, path, failure);
    if (err == 0)
        err = take_vocab(&root, &size, failure);
    if (err == 0)
        err = take_added_tokens(&root, &size, failure);
    cJSON_Delete(tree);
    if (err == 0)
        *ret_size = size;
    return err;
}

/* Reads "base64 rank" and moves *at behind the line. False: it is something else. */
static bool read_rank(const char **at, const char *end, uint32_t *ret_rank)
{
    const char *c = *at;
    while (c < end && (*c == '+' || *c == '/' || *c == '=' || (*c >= '0' && *c <= '9') ||
                       (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z')))
        c++;
    if (c == *at || c >= end || *c != ' ')
        return false;
    const char *digits = ++c;
    uint32_t rank = 0;
    for (; c < end && *c >= '0' && *c <= '9'; c++) {
        rank = rank * 10 + (uint32_t)(*c - '0');
        if (rank > ID_MAX)
            return false;
    }
    if (c == digits)
        return false;
    if (c < end && *c == '\r')
        c++;
    if (c < end && *c++ != '\n')
        return false;
    *at = c;
    *ret_rank = rank;
    return true;
}

/* The file of ranks. What is no such file from its first line on is of another kind
 * (SentencePiece), which tells us nothing: size 0. */
static int read_ranks(const char *path, uint32_t *ret_size, struct failure *failure)
{
    char *text;
    size_t bytes;
    int err = json_read_text(&text, &bytes, path, TOKENIZER_BYTES_MAX, failure);
    if (err < 0)
        return err;
    uint32_t size = 0, lines = 0;
    const char *at = text, *end = text + bytes;
    while (at < end) {
        uint32_t rank;
        if (!read_rank(&at, end, &rank)) {
            if (lines > 0)
                err = failure_set(failure, -EINVAL, "%s: line %u: not \"base64 rank\"", path,
                                  lines + 1);
            break;
        }
        size = rank >= size ? rank + 1 : size;
        lines++;
    }
    free(text);
    if (err == 0)
        *ret_size = size;
    return err;
}

/* added_tokens_decoder: {"id": {...}}. */
static int take_decoder(const struct json_object *root, uint32_t *size, struct failure *failure)
{
    struct json_object decoder;
    int err = json_enter(root, "added_tokens_decoder", &decoder, failure);
    if (err == -ENOENT)
        return 0;
    if (err < 0)
        return err;
    for (const cJSON *item = decoder.object->child; item; item = item->next) {
        char *end;
        errno = 0;
        unsigned long id = strtoul(item->string, &end, 10);
        if (item->string[0] < '0' || item->string[0] > '9' || *end || errno || id > ID_MAX)
            return json_refuse(root, "added_tokens_decoder", -EINVAL, failure,
                               "%s is not an integer in 0 ... %d", json_quote(item->string).text,
                               ID_MAX);
        *size = id >= *size ? (uint32_t)id + 1 : *size;
    }
    return 0;
}

static int read_tokenizer_config(const char *path, uint32_t *size, struct failure *failure)
{
    cJSON *tree;
    int err = json_read_file(&tree, path, TOKENIZER_BYTES_MAX, JSON_STRICT, failure);
    if (err == -ENOENT)
        return 0;
    if (err < 0)
        return err;
    struct json_object root;
    err = json_root(&root, tree, path, failure);
    if (err == 0)
        err = take_decoder(&root, size, failure);
    cJSON_Delete(tree);
    return err;
}

int vocabulary_size(const char *folder, uint32_t *ret_size, struct failure *failure)
{
    char path[PATH_BYTES];
    uint32_t size = 0;
    int err = file_path(path, folder, "tokenizer.json", failure);
    if (err == 0)
        err = read_tokenizer_json(path, &size, failure);
    if (err == -ENOENT) {
        err = file_path(path, folder, "tokenizer.model", failure);
        if (err == 0)
            err = read_ranks(path, &size, failure);
        if (err == 0 && size > 0)
            err = file_path(path, folder, "tokenizer_config.json", failure);
        if (err == 0 && size > 0)
            err = read_tokenizer_config(path, &size, failure);
    }
    if (err < 0 && err != -ENOENT)
        return err;
    *ret_size = size;
    return 0;
}
