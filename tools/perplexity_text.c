#include "tools/perplexity_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "formats/gguf.h"
#include "model/json.h"
#include "tools/cli.h"
#include "tools/perplexity_windows.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

/* ---- the begin token ------------------------------------------------------------------------- */

/* Without a word about it in the file, only Llama 3's rule wants one. */
static bool rule_wants_bos(const struct gguf *gguf)
{
    static const char *const names[] = {"llama-bpe", "llama3", "llama-v3"};
    const char *name = NULL;
    size_t bytes = 0;
    if (gguf_string(gguf, "tokenizer.ggml.pre", &name, &bytes, NULL) < 0)
        return false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == bytes && memcmp(names[i], name, bytes) == 0)
            return true;
    return false;
}

static int find_gguf_bos(const struct gguf *gguf, int64_t *ret_bos, char *why)
{
    bool is_wanted = false;
    uint32_t id = 0;
    int err =
        gguf_bool_or(gguf, "tokenizer.ggml.add_bos_token", rule_wants_bos(gguf), &is_wanted, why);
    if (err == 0 && is_wanted)
        err = gguf_u32(gguf, "tokenizer.ggml.bos_token_id", 0, INT32_MAX, &id, why);
    if (err == 0)
        *ret_bos = is_wanted ? (int64_t)id : PERPLEXITY_NO_BOS;
    return err;
}

/* Of a file that is no GGUF file nothing is known. */
static int find_file_bos(int fd, const char *path, int64_t *ret_bos, char *why)
{
    char magic[4] = "";
    struct stat status;
    struct gguf gguf = {0};
    if (fstat(fd, &status) < 0)
        return gguf_refuse(why, -errno, "%s: %s", path, strerror(errno));
    if (pread(fd, magic, sizeof magic, 0) != sizeof magic || memcmp(magic, "GGUF", 4) != 0)
        return 0;
    int err = gguf_read(&gguf, fd, (uint64_t)status.st_size, path, why);
    if (err == 0)
        err = find_gguf_bos(&gguf, ret_bos, why);
    gguf_fini(&gguf);
    return err;
}

static int read_file_bos(const char *path, int64_t *ret_bos)
{
    char why[GGUF_WHY_BYTES] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return cli_fail("%s: %s", path, strerror(errno));
    int err = find_file_bos(fd, path, ret_bos, why);
    close(fd);
    return err < 0 ? cli_fail("%s", why) : 0;
}

/* The text of a token that stands as a string or as an object with its content. */
static const char *token_text(const struct json_object *config, const char *key)
{
    const cJSON *token = json_field(config, key);
    const cJSON *text = cJSON_IsObject(token) ? cJSON_GetObjectItem(token, "content") : token;
    return cJSON_IsString(text) ? text->valuestring : NULL;
}

static int find_config_bos(const struct json_object *config, const struct agl_tokenizer *tokenizer,
                           int64_t *ret_bos, struct failure *failure)
{
    bool is_wanted = false;
    int err = json_bool_or(config, "add_bos_token", false, &is_wanted, failure);
    if (err < 0 || !is_wanted)
        return err;
    const char *text = token_text(config, "bos_token");
    if (!text)
        return json_refuse(config, "bos_token", -EINVAL, failure,
                           "add_bos_token wants one, and there is none");
    *ret_bos = agl_special_id(tokenizer, text);
    if (*ret_bos < 0)
        return json_refuse(config, "bos_token", -EINVAL, failure, "%s is no token",
                           json_quote(text).text);
    return 0;
}

/* tokenizer_config.json of the folder; without it there is no begin token. */
static int read_folder_bos(const char *folder, const struct agl_tokenizer *tokenizer,
                           int64_t *ret_bos)
{
    char path[4096];
    struct failure failure = {""};
    struct json_object config;
    cJSON *root = NULL;
    if (snprintf(path, sizeof path, "%s/tokenizer_config.json", folder) >= (int)sizeof path ||
        access(path, F_OK) < 0)
        return 0;
    int err = json_read_file(&root, path, CONFIG_BYTES_MAX, JSON_STRICT, &failure);
    if (err == 0)
        err = json_root(&config, root, path, &failure);
    if (err == 0)
        err = find_config_bos(&config, tokenizer, ret_bos, &failure);
    cJSON_Delete(root);
    return err < 0 ? cli_fail("%s", failure.text) : 0;
}

static int find_bos(const struct perplexity_options *options, const struct agl_tokenizer *tokenizer,
                    int64_t *ret_bos)
{
    struct stat status;
    *ret_bos = options->bos;
    if (options->bos != PERPLEXITY_BOS_OF_MODEL)
        return 0;
    *ret_bos = PERPLEXITY_NO_BOS;
    if (stat(options->tokenizer, &status) == 0 && S_ISDIR(status.st_mode))
        return read_folder_bos(options->tokenizer, tokenizer, ret_bos);
    return read_file_bos(options->tokenizer, ret_bos);
}

/* ---- the text -------------------------------------------------------------------------------- */

/* The ids of the text behind the begin token. A text rarely has more ids than bytes: where
 * normalisation spreads it, it is encoded again. */
static int encode(struct perplexity_text *text, const struct agl_tokenizer *tokenizer,
                  const char *bytes, size_t size)
{
    size_t first = text->bos != PERPLEXITY_NO_BOS;
    size_t capacity = size;
    for (;;) {
        text->ids = malloc((first + capacity + 1) * sizeof *text->ids);
        if (!text->ids)
            return cli_fail("not enough memory for the ids of the text");
        int count = agl_encode(tokenizer, bytes, size, text->ids + first, capacity);
        if (count < 0)
            return cli_error("cannot encode the text", count);
        text->count = first + (size_t)count;
        if ((size_t)count <= capacity)
            break;
        capacity = (size_t)count;
        free(text->ids);
    }
    if (first)
        text->ids[0] = (uint32_t)text->bos;
    return 0;
}

int perplexity_text_read(struct perplexity_text *ret_text, const struct perplexity_options *options)
{
    struct agl_tokenizer *tokenizer = NULL;
    char *bytes = NULL;
    size_t size = 0;
    *ret_text = (struct perplexity_text){.ids = NULL};
    int err = agl_tokenizer_open(&tokenizer, options->tokenizer);
    if (err < 0)
        return cli_error("cannot open the tokenizer", err);
    int status = find_bos(options, tokenizer, &ret_text->bos);
    if (!status) {
        bool is_stdin = !options->text || strcmp(options->text, "-") == 0;
        bytes = is_stdin ? cli_read_stdin(&size) : cli_read_file(options->text, &size);
        status = bytes ? encode(ret_text, tokenizer, bytes, size) : CLI_FAILED;
    }
    free(bytes);
    agl_tokenizer_close(tokenizer);
    if (status) {
        free(ret_text->ids);
        ret_text->ids = NULL;
    }
    return status;
}
