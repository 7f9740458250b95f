#include "formats/gguf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAGIC_BYTES = 4,
    VERSION = 3,
    VALUE_BYTES_MIN = 8 + 1 + 4 + 1,          /* a key of one byte and a u8 */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* a name of one byte, one dimension */
};

/* The header from its first byte on. What is taken never reaches beyond `have`. */
struct cursor {
    const unsigned char *bytes;
    size_t have; /* in memory */
    uint64_t file_bytes;
    uint64_t at; /* <= have */
    const char *file;
    char where[112]; /* the field that is being read */
    char *why;
};

#define REFUSE(cursor, err, format, ...) \
    gguf_refuse((cursor)->why, err, "%s: %s: " format, (cursor)->file, (cursor)->where, __VA_ARGS__)

static unsigned long long llu(uint64_t value)
{
    return value;
}

/* ---- the cursor ------------------------------------------------------------------------------ */

/* The bytes of a value of a fixed size; 0: of another kind, or unknown. */
static uint32_t value_bytes(uint32_t type)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

static uint64_t left(const struct cursor *cursor)
{
    return cursor->file_bytes - cursor->at;
}

/* Whether the next `bytes` are in the file, within the limit, and in memory. */
static int need(struct cursor *cursor, uint64_t bytes)
{
    if (bytes > left(cursor))
        return REFUSE(cursor, -EINVAL,
                      "%llu bytes at %llu are beyond the file's end, which has %llu bytes",
                      llu(bytes), llu(cursor->at), llu(cursor->file_bytes));
    if (bytes > GGUF_HEADER_MAX - cursor->at)
        return REFUSE(cursor, -EFBIG, "%llu bytes at %llu: the header's limit is %d bytes",
                      llu(bytes), llu(cursor->at), GGUF_HEADER_MAX);
    return bytes > cursor->have - cursor->at ? -EAGAIN : 0;
}

static uint64_t little_endian(const unsigned char *bytes, uint32_t count)
{
    uint64_t value = 0;
    while (count-- > 0)
        value = value << 8 | bytes[count];
    return value;
}

static int take_number(struct cursor *cursor, uint32_t bytes, uint64_t *ret_value)
{
    int err = need(cursor, bytes);
    if (err < 0)
        return err;
    *ret_value = little_endian(cursor->bytes + cursor->at, bytes);
    cursor->at += bytes;
    return 0;
}

static int take_u32(struct cursor *cursor, uint32_t *ret_value)
{
    uint64_t value = 0;
    int err = take_number(cursor, 4, &value);
    *ret_value = (uint32_t)value;
    return err;
}

/* A string; its bytes stay where they are. */
static int take_string(struct cursor *cursor, const char **ret_text, uint64_t *ret_bytes)
{
    uint64_t bytes = 0;
    int err = take_number(cursor, 8, &bytes);
    if (err < 0)
        return err;
    err = need(cursor, bytes);
    if (err < 0)
        return err;
    *ret_text = (const char *)cursor->bytes + cursor->at;
    *ret_bytes = bytes;
    cursor->at += bytes;
    return 0;
}

/* A key or a name: not empty, of bounded length, printable. */
static int take_name(struct cursor *cursor, uint32_t limit, const char **ret_text,
                     uint64_t *ret_bytes)
{
    int err = take_string(cursor, ret_text, ret_bytes);
    if (err < 0)
        return err;
    if (*ret_bytes == 0)
        return REFUSE(cursor, -EINVAL, "%s", "the name is empty");
    if (*ret_bytes > limit)
        return REFUSE(cursor, -EINVAL, "the name %s has %llu bytes, the limit is %u",
                      gguf_quote(*ret_text, *ret_bytes).text, llu(*ret_bytes), limit);
    for (uint64_t i = 0; i < *ret_bytes; i++) {
        unsigned char c = (unsigned char)(*ret_text)[i];
        if (c < 0x20 || c == 0x7F)
            return REFUSE(cursor, -EINVAL, "the name %s contains the control byte 0x%02x",
                          gguf_quote(*ret_text, *ret_bytes).text, c);
    }
    return 0;
}

/* ---- values ---------------------------------------------------------------------------------- */

static int check_bools(struct cursor *cursor, const unsigned char *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (bytes[i] > 1)
            return REFUSE(cursor, -EINVAL, "a boolean has the value %u", bytes[i]);
    return 0;
}

/* `count` values of a type that is no array. */
static int skip_values(struct cursor *cursor, uint32_t type, uint64_t count)
{
    if (type == GGUF_VALUE_STRING) {
        for (uint64_t i = 0; i < count; i++) {
            const char *text;
            uint64_t bytes;
            int err = take_string(cursor, &text, &bytes);
            if (err < 0)
                return err;
        }
        return 0;
    }
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(count, (uint64_t)value_bytes(type), &bytes))
        return REFUSE(cursor, -EINVAL, "%llu items overflow", llu(count));
    int err = need(cursor, bytes);
    if (err == 0 && type == GGUF_VALUE_BOOL)
        err = check_bools(cursor, cursor->bytes + cursor->at, count);
    cursor->at += err == 0 ? bytes : 0;
    return err;
}

static int take_array(struct cursor *cursor, struct gguf_value *value)
{
    uint32_t type = 0;
    int err = take_u32(cursor, &type);
    if (err < 0)
        return err;
    if (type == GGUF_VALUE_ARRAY)
        return REFUSE(cursor, -ENOTSUP, "%s", "an array of arrays is not supported");
    if (type > GGUF_VALUE_F64)
        return REFUSE(cursor, -EINVAL, "an array of type %u, which is not known", type);
    err = take_number(cursor, 8, &value->count);
    if (err < 0)
        return err;
    uint64_t each = type == GGUF_VALUE_STRING ? 8 : value_bytes(type);
    if (value->count > left(cursor) / each)
        return REFUSE(cursor, -EINVAL,
                      "an array of %llu items of at least %llu bytes, %llu are left in the file",
                      llu(value->count), llu(each), llu(left(cursor)));
    value->item_type = type;
    value->bytes = cursor->bytes + cursor->at;
    return skip_values(cursor, type, value->count);
}

static int take_value(struct cursor *cursor, struct gguf_value *value, uint64_t index)
{
    uint64_t key_bytes = 0;
    snprintf(cursor->where, sizeof cursor->where, "key of value %llu", llu(index));
    int err = take_name(cursor, GGUF_KEY_MAX, &value->key, &key_bytes);
    if (err < 0)
        return err;
    value->key_bytes = key_bytes;
    snprintf(cursor->where, sizeof cursor->where, "%s", gguf_quote(value->key, key_bytes).text);
    uint32_t type = 0;
    err = take_u32(cursor, &type);
    if (err < 0)
        return err;
    if (type > GGUF_VALUE_F64)
        return REFUSE(cursor, -EINVAL, "type %u is not known", type);
    value->type = type;
    value->count = 1;
    value->bytes = cursor->bytes + cursor->at;
    err = type == GGUF_VALUE_ARRAY ? take_array(cursor, value) : skip_values(cursor, type, 1);
    value->size = (uint64_t)(cursor->bytes + cursor->at - value->bytes);
    return err;
}

static int compare_bytes(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare_keys(const void *a, const void *b)
{
    const struct gguf_value *first = a, *second = b;
    return compare_bytes(first->key, first->key_bytes, second->key, second->key_bytes);
}

static int take_values(struct cursor *cursor, struct gguf *table, uint64_t count)
{
    table->values = calloc(count ? count : 1, sizeof *table->values);
    if (!table->values)
        return REFUSE(cursor, -ENOMEM, "no memory for %llu values", llu(count));
    for (uint64_t i = 0; i < count; i++) {
        int err = take_value(cursor, &table->values[i], i);
        if (err < 0)
            return err;
        table->value_count++;
    }
    if (count > 1)
        qsort(table->values, count, sizeof *table->values, compare_keys);
    for (uint64_t i = 1; i < count; i++)
        if (compare_keys(&table->values[i - 1], &table->values[i]) == 0) {
            const struct gguf_value *value = &table->values[i];
            snprintf(cursor->where, sizeof cursor->where, "%s",
                     gguf_quote(value->key, value->key_bytes).text);
            return REFUSE(cursor, -EINVAL, "%s", "the key stands twice");
        }
    return 0;
}

const struct gguf_value *gguf_find(const struct gguf *table, const char *key)
{
    struct gguf_value wanted = {.key = key, .key_bytes = strlen(key)};
    if (table->value_count == 0)
        return NULL;
    return bsearch(&wanted, table->values, table->value_count, sizeof wanted, compare_keys);
}

static int settle_alignment(struct cursor *cursor, struct gguf *table)
{
    static const char key[] = "general.alignment";
    const struct gguf_value *value = gguf_find(table, key);
    if (!value)
        return 0;
    snprintf(cursor->where, sizeof cursor->where, "\"%s\"", key);
    if (value->type != GGUF_VALUE_U32)
        return REFUSE(cursor, -EINVAL, "must be a u32, is %s", gguf_value_words(value).text);
    uint64_t alignment = little_endian(value->bytes, 4);
    if (alignment < GGUF_ALIGNMENT_MIN || alignment > GGUF_ALIGNMENT_MAX ||
        (alignment & (alignment - 1)) != 0)
        return REFUSE(cursor, -EINVAL, "%llu is not a power of two in %d ... %d", llu(alignment),
                      GGUF_ALIGNMENT_MIN, GGUF_ALIGNMENT_MAX);
    table->alignment = alignment;
    return 0;
}

/* ---- tensors --------------------------------------------------------------------------------- */

static int take_sizes(struct cursor *cursor, struct gguf_tensor *tensor)
{
    int err = take_u32(cursor, &tensor->dimensions);
    if (err < 0)
        return err;
    if (tensor->dimensions < 1 || tensor->dimensions > GGUF_DIMENSIONS_MAX)
        return REFUSE(cursor, -EINVAL, "%u dimensions, must be 1 ... %d", tensor->dimensions,
                      GGUF_DIMENSIONS_MAX);
    for (uint32_t i = 0; i < tensor->dimensions; i++) {
        err = take_number(cursor, 8, &tensor->sizes[i]);
        if (err < 0)
            return err;
        if (tensor->sizes[i] < 1 || tensor->sizes[i] > INT64_MAX)
            return REFUSE(cursor, -EINVAL, "dimension %u has the size %lld", i,
                          (long long)tensor->sizes[i]);
    }
    return 0;
}

/* The bytes that type and sizes ask for. No dimension is 0. */
static int count_bytes(struct cursor *cursor, struct gguf_tensor *tensor, uint32_t type)
{
    uint32_t block_elements = 1, block_bytes = 0;
    if (!gguf_type_name(type))
        return REFUSE(cursor, -EINVAL, "type %u is not known", type);
    if (!gguf_type_block(type, &block_elements, &block_bytes))
        return REFUSE(cursor, -ENOTSUP,
                      "type %s is not supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, "
                      "Q4_K, Q5_K and Q6_K are",
                      gguf_type_name(type));
    tensor->type = (enum gguf_type)type;
    if (tensor->sizes[0] % block_elements != 0)
        return REFUSE(cursor, -EINVAL, "rows of %llu elements are no whole blocks of %u of %s",
                      llu(tensor->sizes[0]), block_elements, gguf_type_name(type));
    uint64_t blocks = tensor->sizes[0] / block_elements;
    for (uint32_t i = 1; i < tensor->dimensions; i++)
        if (__builtin_mul_overflow(blocks, tensor->sizes[i], &blocks))
            return REFUSE(cursor, -EINVAL, "the product of its sizes overflows at dimension %u", i);
    if (__builtin_mul_overflow(blocks, (uint64_t)block_bytes, &tensor->bytes))
        return REFUSE(cursor, -EINVAL, "%llu blocks of %u bytes overflow", llu(blocks),
                      block_bytes);
    return 0;
}

/* Tensors follow each other without holes. *end: of the one before, padded. */
static int check_offset(struct cursor *cursor, const struct gguf_tensor *tensor, uint64_t alignment,
                        uint64_t *end)
{
    if (tensor->offset % alignment != 0)
        return REFUSE(cursor, -EINVAL, "offset %llu is no multiple of the alignment %llu",
                      llu(tensor->offset), llu(alignment));
    if (tensor->offset != *end)
        return REFUSE(cursor, -EINVAL, "offset %llu, the tensor before ends at %llu: %s",
                      llu(tensor->offset), llu(*end),
                      tensor->offset > *end ? "a hole" : "an overlap");
    uint64_t padded = 0;
    if (__builtin_add_overflow(*end, tensor->bytes, &padded) ||
        __builtin_add_overflow(padded, alignment - 1, &padded))
        return REFUSE(cursor, -EINVAL, "offset %llu and its %llu bytes overflow", llu(*end),
                      llu(tensor->bytes));
    *end = padded / alignment * alignment;
    return 0;
}

/* Its offset counts from the first tensor's byte until the table's end is known. */
static int take_tensor(struct cursor *cursor, struct gguf_tensor *tensor, uint64_t index,
                       uint64_t alignment, uint64_t *end)
{
    const char *name = "";
    uint64_t name_bytes = 0;
    snprintf(cursor->where, sizeof cursor->where, "tensor %llu", llu(index));
    int err = take_name(cursor, GGUF_NAME_MAX, &name, &name_bytes);
    if (err < 0)
        return err;
    memcpy(tensor->name, name, name_bytes);
    snprintf(cursor->where, sizeof cursor->where, "tensor %s", gguf_quote(name, name_bytes).text);
    uint32_t type = 0;
    err = take_sizes(cursor, tensor);
    if (err == 0)
        err = take_u32(cursor, &type);
    if (err == 0)
        err = take_number(cursor, 8, &tensor->offset);
    if (err == 0)
        err = count_bytes(cursor, tensor, type);
    return err < 0 ? err : check_offset(cursor, tensor, alignment, end);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

/* Holds the tensors against the file's size, and makes their offsets the file's. */
static int place_tensors(struct cursor *cursor, struct gguf *table)
{
    /* at is below GGUF_HEADER_MAX, so this sum is small. */
    table->data_offset = (cursor->at + table->alignment - 1) / table->alignment * table->alignment;
    for (size_t i = 0; i < table->tensor_count; i++) {
        struct gguf_tensor *tensor = &table->tensors[i];
        uint64_t end = 0;
        snprintf(cursor->where, sizeof cursor->where, "tensor %s",
                 gguf_quote(tensor->name, strlen(tensor->name)).text);
        if (__builtin_add_overflow(tensor->offset, table->data_offset, &tensor->offset) ||
            __builtin_add_overflow(tensor->offset, tensor->bytes, &end))
            return REFUSE(cursor, -EINVAL, "offset %llu and its %llu bytes overflow",
                          llu(tensor->offset), llu(tensor->bytes));
        if (end > cursor->file_bytes)
            return REFUSE(cursor, -EINVAL,
                          "its %llu bytes at %llu are beyond the file's end, which has %llu bytes",
                          llu(tensor->bytes), llu(tensor->offset), llu(cursor->file_bytes));
    }
    return 0;
}

static int take_tensors(struct cursor *cursor, struct gguf *table, uint64_t count)
{
    uint64_t end = 0;
    snprintf(cursor->where, sizeof cursor->where, "tensor count");
    table->tensors = calloc(count ? count : 1, sizeof *table->tensors);
    if (!table->tensors)
        return REFUSE(cursor, -ENOMEM, "no memory for %llu tensors", llu(count));
    for (uint64_t i = 0; i < count; i++) {
        int err = take_tensor(cursor, &table->tensors[i], i, table->alignment, &end);
        if (err < 0)
            return err;
        table->tensor_count++;
    }
    int err = place_tensors(cursor, table);
    if (err < 0)
        return err;
    if (count > 1)
        qsort(table->tensors, count, sizeof *table->tensors, compare_tensors);
    for (uint64_t i = 1; i < count; i++)
        if (compare_tensors(&table->tensors[i - 1], &table->tensors[i]) == 0) {
            const char *name = table->tensors[i].name;
            snprintf(cursor->where, sizeof cursor->where, "tensor %s",
                     gguf_quote(name, strlen(name)).text);
            return REFUSE(cursor, -EINVAL, "%s", "the name stands twice");
        }
    return 0;
}

/* ---- the file -------------------------------------------------------------------------------- */

static int take_version(struct cursor *cursor)
{
    snprintf(cursor->where, sizeof cursor->where, "magic");
    int err = need(cursor, MAGIC_BYTES);
    if (err < 0)
        return err;
    if (memcmp(cursor->bytes, "GGUF", MAGIC_BYTES) != 0)
        return REFUSE(cursor, -EINVAL, "is %s, not a GGUF file",
                      gguf_quote((const char *)cursor->bytes, MAGIC_BYTES).text);
    cursor->at = MAGIC_BYTES;
    snprintf(cursor->where, sizeof cursor->where, "version");
    uint32_t version = 0;
    err = take_u32(cursor, &version);
    if (err < 0)
        return err;
    if (version == (uint32_t)VERSION << 24)
        return REFUSE(cursor, -ENOTSUP, "%s", "3 in big-endian is not supported");
    if (version != VERSION)
        return REFUSE(cursor, -ENOTSUP, "%u is not supported: %d is", version, VERSION);
    return 0;
}

/* A count of things that take at least `each` bytes. */
static int take_count(struct cursor *cursor, const char *what, uint64_t limit, uint64_t each,
                      uint64_t *ret_count)
{
    snprintf(cursor->where, sizeof cursor->where, "%s", what);
    int err = take_number(cursor, 8, ret_count);
    if (err < 0)
        return err;
    if (*ret_count > left(cursor) / each)
        return REFUSE(cursor, -EINVAL, "%llu of at least %llu bytes, %llu are left in the file",
                      llu(*ret_count), llu(each), llu(left(cursor)));
    if (*ret_count > limit)
        return REFUSE(cursor, -EFBIG, "%llu, the limit is %llu", llu(*ret_count), llu(limit));
    return 0;
}

static int take_all(struct cursor *cursor, struct gguf *table)
{
    uint64_t tensors = 0, values = 0;
    int err = take_version(cursor);
    if (err == 0)
        err = take_count(cursor, "tensor count", GGUF_TENSORS_MAX, TENSOR_BYTES_MIN, &tensors);
    if (err == 0)
        err = take_count(cursor, "value count", GGUF_VALUES_MAX, VALUE_BYTES_MIN, &values);
    if (err == 0)
        err = take_values(cursor, table, values);
    if (err == 0)
        err = settle_alignment(cursor, table);
    return err < 0 ? err : take_tensors(cursor, table, tensors);
}

int gguf_parse(struct gguf *ret_table, const unsigned char *bytes, size_t have, uint64_t file_bytes,
               const char *file, char *why)
{
    struct gguf table = {.file = file, .alignment = GGUF_ALIGNMENT_DEFAULT};
    struct cursor cursor = {
        .bytes = bytes,
        .have = have < file_bytes ? have : (size_t)file_bytes,
        .file_bytes = file_bytes,
        .file = file,
        .why = why,
    };
    int err = take_all(&cursor, &table);
    if (err < 0) {
        gguf_fini(&table);
        return err;
    }
    *ret_table = table;
    return 0;
}

void gguf_fini(struct gguf *table)
{
    free(table->values);
    free(table->tensors);
    free(table->header);
    *table = (struct gguf){0};
}
