#include "client/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "client/bpe.h"
#include "client/chat.h"
#include "client/document.h"
#include "client/error.h"
#include "client/unicode.h"

/* ---- opening --------------------------------------------------------------------------------- */

/* What lies where, and what was read of it. */
struct model_files {
    char folder[DOCUMENT_PATH_BYTES];
    char tokenizer[DOCUMENT_PATH_BYTES];
    cJSON *tokenizer_config; /* NULL: not there, as the next two */
    cJSON *config;
    char *template; /* chat_template.jinja */
};

static bool is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static bool exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}

static int locate_in_folder(struct model_files *files, const char *path)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    int err = document_path(path, ".", files->folder);
    for (int i = 0; err == 0 && i < 2; i++) {
        err = document_path(path, names[i], files->tokenizer);
        if (err == 0 && exists(files->tokenizer))
            return 0;
    }
    if (err < 0)
        return err;
    return error_set(-ENOENT, "%s: neither tokenizer.json nor tokenizer.model in it", path);
}

/* Splits a path into the file and its folder. */
static int locate_file(struct model_files *files, const char *path)
{
    size_t length = strlen(path);
    if (length == 0 || length >= DOCUMENT_PATH_BYTES)
        return error_set(length ? -ENAMETOOLONG : -ENOENT, "\"%.64s\": not a path", path);
    memcpy(files->tokenizer, path, length + 1);
    const char *slash = strrchr(path, '/');
    size_t folder_length = slash ? (size_t)(slash - path) + 1 : 0;
    memcpy(files->folder, path, folder_length);
    memcpy(files->folder + folder_length, folder_length ? "" : ".", folder_length ? 1 : 2);
    return 0;
}

/* Loads a JSON file of the folder if it is there. */
static int load_beside(const struct model_files *files, const char *name, cJSON **ret_root)
{
    char path[DOCUMENT_PATH_BYTES];
    int err = document_path(files->folder, name, path);
    if (err < 0 || !exists(path))
        return err;
    return document_load(path, DOCUMENT_SMALL_BYTES_MAX, ret_root);
}

static int load_template(struct model_files *files)
{
    char path[DOCUMENT_PATH_BYTES];
    size_t bytes = 0;
    int err = document_path(files->folder, "chat_template.jinja", path);
    if (err < 0 || !exists(path))
        return err;
    return document_read(path, DOCUMENT_SMALL_BYTES_MAX, &files->template, &bytes);
}

static int load_files(struct model_files *files)
{
    int err = load_beside(files, "tokenizer_config.json", &files->tokenizer_config);
    if (err == 0)
        err = load_beside(files, "config.json", &files->config);
    if (err == 0)
        err = load_template(files);
    return err;
}

static void free_files(struct model_files *files)
{
    cJSON_Delete(files->tokenizer_config);
    cJSON_Delete(files->config);
    free(files->template);
}

/* The template's text: chat_template.jinja, else chat_template of tokenizer_config.json, which is
 * one text or a list of named ones. */
static const char *template_of(const struct model_files *files)
{
    if (files->template)
        return files->template;
    const cJSON *template = document_field(files->tokenizer_config, "chat_template");
    if (!cJSON_IsArray(template))
        return document_string(files->tokenizer_config, "chat_template");
    const cJSON *named = NULL;
    cJSON_ArrayForEach(named, template)
    {
        const char *name = document_string(named, "name");
        if (name && strcmp(name, "default") == 0)
            return document_string(named, "template");
    }
    return NULL;
}

static int find_chat(struct agl_tokenizer *tokenizer, const struct model_files *files)
{
    const cJSON *architecture =
        cJSON_GetArrayItem(document_field(files->config, "architectures"), 0);
    const struct chat_clues clues = {
        .template = template_of(files),
        .architecture = cJSON_IsString(architecture) ? architecture->valuestring : NULL,
        .model_type = document_string(files->config, "model_type"),
    };
    return chat_find(tokenizer, &clues);
}

/* JSON begins with a brace; a line of base64 cannot. */
static bool looks_like_json(const char *text, size_t bytes)
{
    size_t at = 0;
    while (at < bytes && text[at] && strchr(" \t\r\n", text[at]))
        at++;
    return at < bytes && text[at] == '{';
}

static int read_tokenizer(struct agl_tokenizer *tokenizer, const struct model_files *files)
{
    const char *path = files->tokenizer;
    char *text = NULL;
    size_t bytes = 0;
    int err = document_read(path, DOCUMENT_BYTES_MAX, &text, &bytes);
    if (err < 0)
        return err;
    if (looks_like_json(text, bytes))
        err = tokenizer_json_read(tokenizer, path, text, bytes, files->tokenizer_config);
    else
        err = tokenizer_model_read(tokenizer, path, text, bytes, files->tokenizer_config);
    free(text);
    return err;
}

static int open_files(struct agl_tokenizer *tokenizer, struct model_files *files, const char *path)
{
    bool folder = is_folder(path);
    if (!folder && tokenizer_is_gguf(path))
        return tokenizer_gguf_open(tokenizer, path); /* has all that other models have beside it */
    int err = folder ? locate_in_folder(files, path) : locate_file(files, path);
    if (err == 0)
        err = load_files(files);
    if (err == 0)
        err = read_tokenizer(tokenizer, files);
    if (err == 0)
        err = find_chat(tokenizer, files);
    return err;
}

int agl_tokenizer_open(struct agl_tokenizer **ret_tokenizer, const char *path)
{
    if (!ret_tokenizer || !path)
        return error_set(-EINVAL, "agl_tokenizer_open: an argument is NULL");
    struct agl_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    struct model_files *files = calloc(1, sizeof *files);
    int err = -ENOMEM;
    if (tokenizer && files) {
        vocabulary_init(&tokenizer->vocabulary);
        err = open_files(tokenizer, files, path);
    }
    if (files)
        free_files(files);
    free(files);
    if (err < 0) {
        agl_tokenizer_close(tokenizer);
        return err == -ENOMEM ? error_set(err, "%s: no memory for the tokenizer", path) : err;
    }
    *ret_tokenizer = tokenizer;
    return 0;
}

void agl_tokenizer_close(struct agl_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    vocabulary_fini(&tokenizer->vocabulary);
    free(tokenizer->chat_system);
    free(tokenizer);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

uint32_t agl_tokenizer_size(const struct agl_tokenizer *tokenizer)
{
    return tokenizer->vocabulary.token_count;
}

int agl_special_id(const struct agl_tokenizer *tokenizer, const char *text)
{
    int32_t id = vocabulary_find_added(&tokenizer->vocabulary, text, strlen(text));
    if (id == VOCABULARY_NONE)
        return error_set(-ENOENT, "no special token \"%.64s\"", text);
    return id;
}

int agl_token_bytes(const struct agl_tokenizer *tokenizer, uint32_t id, const char **ret_text,
                    size_t *ret_bytes)
{
    const struct vocabulary_token *token = vocabulary_token(&tokenizer->vocabulary, id);
    if (!token)
        return error_set(-EINVAL, "no token has the id %u", id);
    *ret_text = vocabulary_bytes(&tokenizer->vocabulary, token);
    *ret_bytes = token->bytes;
    return 0;
}

int agl_token_is_special(const struct agl_tokenizer *tokenizer, uint32_t id)
{
    const struct vocabulary_token *token = vocabulary_token(&tokenizer->vocabulary, id);
    return token && token->flags & VOCABULARY_SPECIAL;
}

/* ---- encoding -------------------------------------------------------------------------------- */

static int encode_pieces(const struct agl_tokenizer *tokenizer, struct bpe *bpe, const char *text,
                         size_t bytes, struct id_list *ids)
{
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    size_t length = 0;
    for (size_t at = 0; at < bytes; at += length) {
        length = pretokenizer_next(&tokenizer->pretokenizer, text + at, bytes - at);
        int32_t whole = tokenizer->whole_pieces ? vocabulary_find(vocabulary, text + at, length)
                                                : VOCABULARY_NONE;
        uint8_t byte = 0;
        int err = whole >= 0 ? id_list_push(ids, (uint32_t)whole)
                             : bpe_encode(bpe, vocabulary, text + at, length, ids, &byte);
        if (err == -EILSEQ)
            return error_set(err, "the vocabulary has no token for the byte 0x%02X", byte);
        if (err < 0)
            return err;
    }
    return 0;
}

int tokenizer_encode(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes,
                     struct id_list *ids)
{
    char *normal = NULL;
    int err = tokenizer->nfc ? unicode_nfc(text, bytes, &normal, &bytes) : 0;
    if (err >= 0) {
        struct bpe bpe;
        bpe_init(&bpe);
        err = encode_pieces(tokenizer, &bpe, normal ? normal : text, bytes, ids);
        bpe_fini(&bpe);
    }
    free(normal);
    if (err == -ENOMEM)
        return error_set(err, "no memory to encode a text of %zu bytes", bytes);
    if (err == -E2BIG)
        return error_set(err, "the text has more than %d ids, or a piece of it as many bytes",
                         INT32_MAX);
    return err;
}

int agl_encode(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes,
               uint32_t *ret_ids, size_t capacity)
{
    if (!tokenizer || (!text && bytes > 0) || (!ret_ids && capacity > 0))
        return error_set(-EINVAL, "agl_encode: an argument is NULL");
    struct id_list ids = {0};
    int err = tokenizer_encode(tokenizer, text, bytes, &ids);
    if (err < 0) {
        free(ids.ids);
        return err;
    }
    return id_list_deliver(&ids, ret_ids, capacity);
}
