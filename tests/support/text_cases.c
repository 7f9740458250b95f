#include "tests/support/text_cases.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "tests/support/test.h"

enum { PATH_BYTES = 4096 };

struct agl_tokenizer *text_open(const char *path)
{
    struct agl_tokenizer *tokenizer = NULL;
    int err = agl_tokenizer_open(&tokenizer, path);
    if (err < 0)
        fail_msg("%s: %s: %s", path, agl_strerror(err), agl_error_detail());
    return tokenizer;
}

struct agl_tokenizer *text_open_small(const char *name)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, AGL_SOURCE_DIR "/tests/data/tokenizer/%s.tokenizer.json", name);
    return text_open(path);
}

void text_assert_ids(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes,
                     const uint32_t *ids, size_t count)
{
    uint32_t *got = calloc(count + 2, sizeof *got);
    assert_non_null(got);
    got[count] = 0xABABABAB;
    int got_count = agl_encode(tokenizer, text, bytes, got, count);
    if (got_count < 0)
        fail_msg("\"%.*s\": %s", (int)bytes, text, agl_error_detail());
    bool same = (size_t)got_count == count && memcmp(got, ids, count * sizeof *ids) == 0;
    if (!same) {
        fprintf(stderr, "\"%.*s\" gives %d ids:", (int)bytes, text, got_count);
        for (size_t i = 0; i < count && i < (size_t)got_count; i++)
            fprintf(stderr, " %u%s", got[i], got[i] == ids[i] ? "" : "(!)");
        fail_msg("not the %zu ids expected", count);
    }
    assert_int_equal(got[count], 0xABABABAB);
    free(got);
}

int text_assert_cases(const struct agl_tokenizer *tokenizer, const char *path)
{
    char *text = test_read_file(path, NULL);
    cJSON *root = cJSON_Parse(text);
    const cJSON *cases = cJSON_GetObjectItem(root, "cases");
    const cJSON *item = NULL;
    int count = 0;
    assert_true(cJSON_IsArray(cases));
    cJSON_ArrayForEach(item, cases)
    {
        const char *case_text = cJSON_GetObjectItem(item, "text")->valuestring;
        const cJSON *case_ids = cJSON_GetObjectItem(item, "ids");
        size_t id_count = (size_t)cJSON_GetArraySize(case_ids);
        uint32_t *ids = calloc(id_count + 1, sizeof *ids);
        const cJSON *id = NULL;
        size_t i = 0;
        assert_non_null(ids);
        cJSON_ArrayForEach(id, case_ids) ids[i++] = (uint32_t)id->valueint;
        text_assert_ids(tokenizer, case_text, strlen(case_text), ids, id_count);
        free(ids);
        count++;
    }
    cJSON_Delete(root);
    free(text);
    return count;
}

/* Reads one line of ids and moves on behind it. */
static size_t read_ids(char **at, uint32_t *ret_ids, size_t capacity)
{
    size_t count = 0;
    char *line_end = strchr(*at, '\n');
    assert_non_null(line_end);
    *line_end = 0;
    for (char *id = strtok(*at, " "); id; id = strtok(NULL, " ")) {
        assert_true(count < capacity);
        ret_ids[count++] = (uint32_t)strtoul(id, NULL, 10);
    }
    *at = line_end + 1;
    return count;
}

int text_assert_vocab_cases(const struct agl_tokenizer *tokenizer, const char *texts_path,
                            const char *ids_path)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char *texts = test_read_file(texts_path, NULL);
    char *lines = test_read_file(ids_path, NULL);
    char *line = lines;
    int count = 0;
    for (char *text = texts; text; count++) {
        char *end = strstr(text, separator);
        size_t bytes = end ? (size_t)(end - text) : strlen(text);
        uint32_t ids[1024];
        if (!end && bytes == 0)
            break; /* the file ends with a separator */
        size_t id_count = read_ids(&line, ids, 1024);
        text_assert_ids(tokenizer, text, bytes, ids, id_count);
        text = end ? end + strlen(separator) : NULL;
    }
    assert_int_equal(*line, 0);
    free(lines);
    free(texts);
    return count;
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static uint64_t take(const char **at, const char *end, int bytes)
{
    uint64_t value = 0;
    assert_true(end - *at >= bytes);
    memcpy(&value, *at, (size_t)bytes);
    *at += bytes;
    return value;
}

static const char *take_string(const char **at, const char *end, size_t *ret_bytes)
{
    *ret_bytes = take(at, end, 8);
    assert_true((size_t)(end - *at) >= *ret_bytes);
    const char *text = *at;
    *at += *ret_bytes;
    return text;
}

enum { GGUF_STRING = 8, GGUF_ARRAY = 9 };

/* Takes one value; strings of an array go into `strings` if it is not NULL. */
static void take_value(const char **at, const char *end, uint32_t type, cJSON *strings)
{
    static const int sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    size_t bytes = 0;
    assert_true(type < sizeof sizes / sizeof sizes[0]);
    if (type == GGUF_ARRAY) {
        uint32_t element = (uint32_t)take(at, end, 4);
        uint64_t count = take(at, end, 8);
        for (uint64_t i = 0; i < count; i++)
            take_value(at, end, element, strings);
    } else if (type == GGUF_STRING) {
        const char *text = take_string(at, end, &bytes);
        char *copy = strndup(text, bytes);
        if (strings)
            cJSON_AddItemToArray(strings, cJSON_CreateString(copy));
        free(copy);
    } else {
        take(at, end, sizes[type]);
    }
}

static cJSON *byte_level(void)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "type", "ByteLevel");
    cJSON_AddBoolToObject(object, "add_prefix_space", false);
    return object;
}

void text_json_from_gguf(const char *gguf_path, const char *folder)
{
    size_t bytes = 0;
    char *file = test_read_file(gguf_path, &bytes);
    const char *end = file + bytes;
    const char *at = file;
    cJSON *tokens = cJSON_CreateArray();
    cJSON *merges = cJSON_CreateArray();
    assert_int_equal(take(&at, end, 4), 0x46554747);
    assert_int_equal(take(&at, end, 4), 3);
    take(&at, end, 8);
    uint64_t count = take(&at, end, 8);
    for (uint64_t i = 0; i < count; i++) {
        size_t key_bytes = 0;
        const char *key = take_string(&at, end, &key_bytes);
        uint32_t type = (uint32_t)take(&at, end, 4);
        bool is_tokens = key_bytes == 21 && memcmp(key, "tokenizer.ggml.tokens", 21) == 0;
        bool is_merges = key_bytes == 21 && memcmp(key, "tokenizer.ggml.merges", 21) == 0;
        take_value(&at, end, type, is_tokens ? tokens : is_merges ? merges : NULL);
    }
    free(file);

    cJSON *root = cJSON_CreateObject();
    cJSON *model = cJSON_AddObjectToObject(root, "model");
    cJSON *vocab = cJSON_AddObjectToObject(model, "vocab");
    const cJSON *token = NULL;
    int id = 0;
    cJSON_ArrayForEach(token, tokens)
        cJSON_AddItemToObjectCS(vocab, token->valuestring, cJSON_CreateNumber(id++));
    cJSON_AddStringToObject(model, "type", "BPE");
    cJSON_AddItemToObject(model, "merges", merges);
    cJSON_AddItemToObject(root, "pre_tokenizer", byte_level());
    cJSON_AddItemToObject(root, "decoder", byte_level());
    char *json = cJSON_PrintUnformatted(root);
    test_write_file(folder, "tokenizer.json", json, strlen(json));
    free(json);
    cJSON_Delete(root);
    cJSON_Delete(tokens);
}

void text_assert_round_trip(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes)
{
    int count = agl_encode(tokenizer, text, bytes, NULL, 0);
    if (count < 0) {
        fail_msg("%s", agl_error_detail());
        return;
    }
    uint32_t *ids = calloc((size_t)count + 1, sizeof *ids);
    assert_non_null(ids);
    assert_int_equal(agl_encode(tokenizer, text, bytes, ids, (size_t)count), count);
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        const char *token = NULL;
        size_t token_bytes = 0;
        assert_int_equal(agl_token_bytes(tokenizer, ids[i], &token, &token_bytes), 0);
        assert_int_equal(agl_token_is_special(tokenizer, ids[i]), 0);
        assert_true(token_bytes <= bytes - at);
        assert_memory_equal(token, text + at, token_bytes);
        at += token_bytes;
    }
    assert_int_equal(at, bytes);
    free(ids);
}
