#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/byte_level.h"
#include "client/document.h"
#include "client/error.h"
#include "client/tokenizer.h"

/* What is being read, for refusals. */
struct source {
    const char *path;
    struct vocabulary *vocabulary;
};

/* ---- tokens ---------------------------------------------------------------------------------- */

static int add_added(const struct source *source, const char *field, const cJSON *id,
                     const cJSON *token)
{
    uint32_t number = 0;
    const char *content = document_string(token, "content");
    const cJSON *special = document_field(token, "special");
    if (!document_id(id, &number))
        return error_set(-EINVAL, "%s: %s: an id is missing or out of range", source->path, field);
    if (!content || !*content)
        return error_set(-EINVAL, "%s: %s: id %u has no content", source->path, field, number);
    if (special && !cJSON_IsBool(special))
        return error_set(-EINVAL, "%s: %s: id %u: special is not a boolean", source->path, field,
                         number);
    uint32_t flags = VOCABULARY_ADDED | (cJSON_IsTrue(special) ? VOCABULARY_SPECIAL : 0);
    int err = vocabulary_add(source->vocabulary, number, content, strlen(content), flags);
    if (err == -EEXIST)
        return error_set(-EINVAL, "%s: %s: id %u (\"%.64s\") already has another text",
                         source->path, field, number, content);
    if (err == -ERANGE)
        return error_set(-EINVAL, "%s: %s: id %u: content longer than %d bytes", source->path,
                         field, number, VOCABULARY_TOKEN_BYTES_MAX);
    return err;
}

static int read_added(const struct source *source, const cJSON *root)
{
    const cJSON *added = document_field(root, "added_tokens");
    const cJSON *token = NULL;
    if (added && !cJSON_IsArray(added))
        return error_set(-EINVAL, "%s: added_tokens is not an array", source->path);
    cJSON_ArrayForEach(token, added)
    {
        int err = add_added(source, "added_tokens", document_field(token, "id"), token);
        if (err < 0)
            return err;
    }
    return 0;
}

int tokenizer_config_read(struct agl_tokenizer *tokenizer, const char *path, const cJSON *config)
{
    const struct source source = {.path = path, .vocabulary = &tokenizer->vocabulary};
    const char *field = "added_tokens_decoder of the tokenizer_config.json beside it";
    const cJSON *added = document_field(config, "added_tokens_decoder");
    const cJSON *token = NULL;
    int count = 0;
    if (added && !cJSON_IsObject(added))
        return error_set(-EINVAL, "%s: %s is not an object", path, field);
    cJSON_ArrayForEach(token, added)
    {
        /* The id is the key. */
        size_t length = strlen(token->string);
        bool digits = length > 0 && length <= 9 && strspn(token->string, "0123456789") == length;
        cJSON id = {.type = cJSON_Number, .valuedouble = digits ? atoi(token->string) : -1};
        int err = add_added(&source, field, &id, token);
        if (err < 0)
            return err;
        count++;
    }
    return count;
}

/* One entry of model.vocab. An added token may be there as well, spelled either way. */
static int add_entry(const struct source *source, const cJSON *entry)
{
    uint32_t id = 0;
    char bytes[VOCABULARY_TOKEN_BYTES_MAX];
    const char *key = entry->string;
    size_t length = strlen(key);
    if (!document_id(entry, &id))
        return error_set(-EINVAL,
                         "%s: model.vocab: the id of \"%.64s\" is not a whole number below %d",
                         source->path, key, VOCABULARY_IDS_MAX);

    int count = byte_level_spell(key, length, bytes);
    const struct vocabulary_token *added = vocabulary_token(source->vocabulary, id);
    if (added && added->flags & VOCABULARY_ADDED) {
        const char *text = vocabulary_bytes(source->vocabulary, added);
        bool spelled = count == added->bytes && memcmp(text, bytes, (size_t)count) == 0;
        if (!spelled && added->bytes == length && memcmp(text, key, length) == 0)
            return 0;
    }
    if (count < 0)
        return error_set(
            -EINVAL,
            "%s: model.vocab: \"%.64s\" (id %u) is not byte-level, or longer than %d bytes",
            source->path, key, id, VOCABULARY_TOKEN_BYTES_MAX);
    int err = vocabulary_add(source->vocabulary, id, bytes, (size_t)count, VOCABULARY_ORDINARY);
    if (err == -EEXIST)
        return error_set(-EINVAL, "%s: model.vocab: id %u or its text \"%.64s\" occurs twice",
                         source->path, id, key);
    if (err == -ERANGE)
        return error_set(-EINVAL, "%s: model.vocab: id %u has no text", source->path, id);
    return err;
}

static int read_vocab(const struct source *source, const cJSON *model)
{
    const cJSON *vocab = document_field(model, "vocab");
    const cJSON *entry = NULL;
    if (!cJSON_IsObject(vocab))
        return error_set(-EINVAL, "%s: model.vocab is missing or not an object", source->path);
    cJSON_ArrayForEach(entry, vocab)
    {
        int err = add_entry(source, entry);
        if (err < 0)
            return err;
    }
    return 0;
}

/* ---- merges ---------------------------------------------------------------------------------- */

/* Finds the two halves of a merge: "a b" or ["a", "b"]. */
static int split_merge(const cJSON *merge, const char *ret_half[2], size_t ret_length[2])
{
    if (cJSON_IsArray(merge)) {
        const cJSON *left = merge->child;
        const cJSON *right = left ? left->next : NULL;
        if (!cJSON_IsString(left) || !right || !cJSON_IsString(right) || right->next)
            return -1;
        ret_half[0] = left->valuestring;
        ret_half[1] = right->valuestring;
        ret_length[0] = strlen(ret_half[0]);
        ret_length[1] = strlen(ret_half[1]);
        return 0;
    }
    const char *text = cJSON_IsString(merge) ? merge->valuestring : NULL;
    const char *blank = text ? strchr(text, ' ') : NULL;
    if (!blank)
        return -1;
    ret_half[0] = text;
    ret_length[0] = (size_t)(blank - text);
    ret_half[1] = blank + 1;
    ret_length[1] = strlen(blank + 1);
    return 0;
}

static int add_merge(const struct source *source, uint32_t rank, const cJSON *merge)
{
    const char *half[2];
    size_t length[2];
    if (split_merge(merge, half, length) < 0)
        return error_set(-EINVAL, "%s: model.merges[%u] is neither \"a b\" nor [\"a\", \"b\"]",
                         source->path, rank);
    return byte_level_add_merge(source->vocabulary, rank, half, length, source->path,
                                "model.merges");
}

static int read_merges(const struct source *source, const cJSON *model)
{
    const cJSON *merges = document_field(model, "merges");
    const cJSON *merge = NULL;
    uint32_t rank = 0;
    if (!cJSON_IsArray(merges))
        return error_set(-EINVAL, "%s: model.merges is missing or not an array", source->path);
    cJSON_ArrayForEach(merge, merges)
    {
        int err = add_merge(source, rank++, merge);
        if (err < 0)
            return err;
    }
    return 0;
}

/* ---- components ------------------------------------------------------------------------------ */

static const char *type_of(const cJSON *component)
{
    const char *type = document_string(component, "type");
    return type ? type : "of no type";
}

static int refuse_type(const char *path, const char *field, const cJSON *component)
{
    return error_set(-EINVAL, "%s: %s \"%.64s\" is not supported", path, field, type_of(component));
}

static int read_normalizer(struct agl_tokenizer *tokenizer, const char *path, const cJSON *root)
{
    const cJSON *normalizer = document_field(root, "normalizer");
    tokenizer->nfc = false;
    if (!normalizer)
        return 0;
    if (strcmp(type_of(normalizer), "NFC") != 0)
        return refuse_type(path, "normalizer", normalizer);
    tokenizer->nfc = true;
    return 0;
}

/* A ByteLevel pre-tokenizer, whose own GPT-2 rule is on if the field is absent. */
static int read_byte_level(const char *path, const cJSON *component, bool *ret_use_regex)
{
    const cJSON *use_regex = document_field(component, "use_regex");
    const cJSON *prefix = document_field(component, "add_prefix_space");
    if (strcmp(type_of(component), "ByteLevel") != 0)
        return refuse_type(path, "pre_tokenizer", component);
    if (!prefix || !cJSON_IsFalse(prefix))
        return error_set(-EINVAL, "%s: pre_tokenizer ByteLevel: add_prefix_space is not false",
                         path);
    if (use_regex && !cJSON_IsBool(use_regex))
        return error_set(-EINVAL, "%s: pre_tokenizer ByteLevel: use_regex is not a boolean", path);
    *ret_use_regex = !use_regex || cJSON_IsTrue(use_regex);
    return 0;
}

/* A Split whose matches are the pieces: isolated, or everything else removed (the known rules match
 * every character, so nothing else is there). */
static int read_split(struct agl_tokenizer *tokenizer, const char *path, const cJSON *split)
{
    const char *regex = document_string(document_field(split, "pattern"), "Regex");
    const char *behavior = document_string(split, "behavior");
    bool invert = document_is_true(split, "invert");
    if (!regex)
        return error_set(-EINVAL, "%s: pre_tokenizer Split: pattern is not a Regex", path);
    if (!behavior || !((strcmp(behavior, "Isolated") == 0 && !invert) ||
                       (strcmp(behavior, "Removed") == 0 && invert)))
        return error_set(-EINVAL, "%s: pre_tokenizer Split: behavior \"%.32s\"%s is not supported",
                         path, behavior ? behavior : "", invert ? " with invert" : "");
    if (pretokenizer_find(regex, &tokenizer->pretokenizer) < 0)
        return error_set(-EINVAL, "%s: pre_tokenizer Split: unknown Regex \"%.300s\"", path, regex);
    return 0;
}

/* [Split, ByteLevel without rule] or [Digits one by one, ByteLevel with its rule]. */
static int read_sequence(struct agl_tokenizer *tokenizer, const char *path, const cJSON *sequence)
{
    const cJSON *parts = document_field(sequence, "pretokenizers");
    bool use_regex = false;
    if (!cJSON_IsArray(parts) || cJSON_GetArraySize(parts) != 2)
        return error_set(-EINVAL, "%s: pre_tokenizer Sequence: pretokenizers are not two", path);
    const cJSON *first = parts->child;
    int err = read_byte_level(path, first->next, &use_regex);
    if (err < 0)
        return err;
    if (strcmp(type_of(first), "Split") == 0) {
        if (use_regex)
            return error_set(-EINVAL,
                             "%s: pre_tokenizer: Split before ByteLevel with use_regex is "
                             "not supported",
                             path);
        return read_split(tokenizer, path, first);
    }
    if (strcmp(type_of(first), "Digits") != 0)
        return refuse_type(path, "pre_tokenizer", first);
    if (!use_regex || !document_is_true(first, "individual_digits"))
        return error_set(-EINVAL,
                         "%s: pre_tokenizer Digits is supported only with individual_digits "
                         "and before ByteLevel with use_regex",
                         path);
    tokenizer->pretokenizer = (struct pretokenizer){.rule = PRETOKENIZER_SMOLLM};
    return 0;
}

static int read_pre_tokenizer(struct agl_tokenizer *tokenizer, const char *path, const cJSON *root)
{
    const cJSON *component = document_field(root, "pre_tokenizer");
    bool use_regex = false;
    if (!component)
        return error_set(-EINVAL, "%s: pre_tokenizer is missing", path);
    if (strcmp(type_of(component), "Sequence") == 0)
        return read_sequence(tokenizer, path, component);
    int err = read_byte_level(path, component, &use_regex);
    if (err < 0)
        return err;
    if (!use_regex)
        return error_set(-EINVAL,
                         "%s: pre_tokenizer ByteLevel: use_regex is false, and no Split is "
                         "before it",
                         path);
    tokenizer->pretokenizer = (struct pretokenizer){.rule = PRETOKENIZER_GPT2};
    return 0;
}

static int read_decoder(const char *path, const cJSON *root)
{
    const cJSON *decoder = document_field(root, "decoder");
    if (!decoder)
        return error_set(-EINVAL, "%s: decoder is missing", path);
    if (strcmp(type_of(decoder), "ByteLevel") != 0)
        return refuse_type(path, "decoder", decoder);
    return 0;
}

/* The fields of the model that change what merging gives. Old files leave model.type out. */
static int read_model(struct agl_tokenizer *tokenizer, const char *path, const cJSON *model)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (!cJSON_IsObject(model))
        return error_set(-EINVAL, "%s: model is missing or not an object", path);
    if (document_field(model, "type") && strcmp(type_of(model), "BPE") != 0)
        return refuse_type(path, "model", model);
    for (int i = 0; i < 2; i++) {
        const cJSON *affix = document_field(model, affixes[i]);
        if (affix && !(cJSON_IsString(affix) && affix->valuestring[0] == 0))
            return error_set(-EINVAL, "%s: model.%s is not supported", path, affixes[i]);
    }
    if (document_is_true(model, "byte_fallback"))
        return error_set(-EINVAL, "%s: model.byte_fallback is not supported", path);
    const cJSON *dropout = document_field(model, "dropout");
    if (dropout && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0))
        return error_set(-EINVAL, "%s: model.dropout is not supported", path);
    tokenizer->whole_pieces = document_is_true(model, "ignore_merges");
    return 0;
}

/* ---- the whole file -------------------------------------------------------------------------- */

static int read_root(struct agl_tokenizer *tokenizer, const char *path, const cJSON *root,
                     const cJSON *config)
{
    const struct source source = {.path = path, .vocabulary = &tokenizer->vocabulary};
    const cJSON *model = document_field(root, "model");
    int err = read_model(tokenizer, path, model);
    if (err == 0)
        err = read_normalizer(tokenizer, path, root);
    if (err == 0)
        err = read_pre_tokenizer(tokenizer, path, root);
    if (err == 0)
        err = read_decoder(path, root);
    /* Added tokens first: model.vocab may hold them in a spelling that is not byte-level. */
    if (err == 0)
        err = read_added(&source, root);
    if (err == 0)
        err = read_vocab(&source, model);
    if (err == 0)
        err = tokenizer_config_read(tokenizer, path, config);
    if (err < 0)
        return err;
    if (vocabulary_seal(&tokenizer->vocabulary) < 0)
        return error_set(-EINVAL, "%s: two added tokens have the same text", path);
    return read_merges(&source, model);
}

int tokenizer_json_read(struct agl_tokenizer *tokenizer, const char *path, const char *text,
                        size_t bytes, const cJSON *config)
{
    cJSON *root = NULL;
    int err = document_parse(path, text, bytes, &root);
    if (err < 0)
        return err;
    err = read_root(tokenizer, path, root, config);
    cJSON_Delete(root);
    return err;
}
