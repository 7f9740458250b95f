/* Single values of a parsed file. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "formats/gguf.h"

static const char *type_word(enum gguf_value_type type, bool many)
{
    static const char *const words[][2] = {
        {"a u8", "u8"},          {"an i8", "i8"},        {"a u16", "u16"},  {"an i16", "i16"},
        {"a u32", "u32"},        {"an i32", "i32"},      {"an f32", "f32"}, {"a bool", "bool"},
        {"a string", "strings"}, {"an array", "arrays"}, {"a u64", "u64"},  {"an i64", "i64"},
        {"an f64", "f64"},
    };
    return words[type][many];
}

struct gguf_words gguf_value_words(const struct gguf_value *value)
{
    struct gguf_words words;
    if (value->type == GGUF_VALUE_ARRAY)
        snprintf(words.text, sizeof words.text, "an array of %s",
                 type_word(value->item_type, true));
    else
        snprintf(words.text, sizeof words.text, "%s", type_word(value->type, false));
    return words;
}

/* -EINVAL with "must be ..., is ..."; or -ENOENT for NULL. */
static int refuse_type(const struct gguf *table, const char *key, const struct gguf_value *value,
                       const char *wanted, char *why)
{
    if (!value)
        return gguf_refuse(why, -ENOENT, "%s: %s: missing", table->file, key);
    return gguf_refuse(why, -EINVAL, "%s: %s: must be %s, is %s", table->file, key, wanted,
                       gguf_value_words(value).text);
}

/* The sign is looked at only where the type has one. */
static bool read_integer(const struct gguf_value *value, uint64_t *ret_value, bool *ret_negative)
{
    static const struct {
        enum gguf_value_type type;
        uint32_t bytes;
        bool has_sign;
    } integers[] = {
        {GGUF_VALUE_U8, 1, false},  {GGUF_VALUE_I8, 1, true},   {GGUF_VALUE_U16, 2, false},
        {GGUF_VALUE_I16, 2, true},  {GGUF_VALUE_U32, 4, false}, {GGUF_VALUE_I32, 4, true},
        {GGUF_VALUE_U64, 8, false}, {GGUF_VALUE_I64, 8, true},
    };
    for (size_t i = 0; value && i < sizeof integers / sizeof integers[0]; i++) {
        if (integers[i].type != value->type)
            continue;
        uint32_t bytes = integers[i].bytes;
        uint64_t number = 0;
        for (uint32_t at = bytes; at-- > 0;)
            number = number << 8 | value->bytes[at];
        *ret_negative = integers[i].has_sign && value->bytes[bytes - 1] >= 0x80;
        if (*ret_negative && bytes < 8)
            number |= UINT64_MAX << (8 * bytes);
        *ret_value = number;
        return true;
    }
    return false;
}

int gguf_u64(const struct gguf *table, const char *key, uint64_t min, uint64_t max,
             uint64_t *ret_value, char *why)
{
    const struct gguf_value *value = gguf_find(table, key);
    uint64_t number = 0;
    bool negative = false;
    if (!read_integer(value, &number, &negative))
        return refuse_type(table, key, value, "an integer", why);
    if (negative)
        return gguf_refuse(why, -EINVAL, "%s: %s: %lld is not in %llu ... %llu", table->file, key,
                           (long long)number, (unsigned long long)min, (unsigned long long)max);
    if (number < min || number > max)
        return gguf_refuse(why, -EINVAL, "%s: %s: %llu is not in %llu ... %llu", table->file, key,
                           (unsigned long long)number, (unsigned long long)min,
                           (unsigned long long)max);
    *ret_value = number;
    return 0;
}

int gguf_u32(const struct gguf *table, const char *key, uint32_t min, uint32_t max,
             uint32_t *ret_value, char *why)
{
    uint64_t value = 0;
    int err = gguf_u64(table, key, min, max, &value, why);
    if (err == 0)
        *ret_value = (uint32_t)value;
    return err;
}

int gguf_u32_or(const struct gguf *table, const char *key, uint32_t min, uint32_t max,
                uint32_t fallback, uint32_t *ret_value, char *why)
{
    int err = gguf_u32(table, key, min, max, ret_value, why);
    if (err != -ENOENT)
        return err;
    *ret_value = fallback;
    return 0;
}

int gguf_double(const struct gguf *table, const char *key, double min, double max,
                double *ret_value, char *why)
{
    const struct gguf_value *value = gguf_find(table, key);
    double number = 0;
    if (value && value->type == GGUF_VALUE_F32)
        number = gguf_item_f32(value, 0);
    else if (value && value->type == GGUF_VALUE_F64)
        memcpy(&number, value->bytes, sizeof number);
    else
        return refuse_type(table, key, value, "a float", why);
    if (!(number >= min && number <= max))
        return gguf_refuse(why, -EINVAL, "%s: %s: %g is not in %g ... %g", table->file, key, number,
                           min, max);
    *ret_value = number;
    return 0;
}

int gguf_double_or(const struct gguf *table, const char *key, double min, double max,
                   double fallback, double *ret_value, char *why)
{
    int err = gguf_double(table, key, min, max, ret_value, why);
    if (err != -ENOENT)
        return err;
    *ret_value = fallback;
    return 0;
}

int gguf_bool_or(const struct gguf *table, const char *key, bool fallback, bool *ret_value,
                 char *why)
{
    const struct gguf_value *value = gguf_find(table, key);
    if (value && value->type != GGUF_VALUE_BOOL)
        return refuse_type(table, key, value, "a bool", why);
    *ret_value = value ? value->bytes[0] != 0 : fallback;
    return 0;
}

int gguf_string(const struct gguf *table, const char *key, const char **ret_text, size_t *ret_bytes,
                char *why)
{
    const struct gguf_value *value = gguf_find(table, key);
    if (!value || value->type != GGUF_VALUE_STRING)
        return refuse_type(table, key, value, "a string", why);
    const unsigned char *at = value->bytes;
    gguf_next_string(&at, ret_text, ret_bytes);
    return 0;
}

int gguf_array(const struct gguf *table, const char *key, enum gguf_value_type item_type,
               const struct gguf_value **ret_array, char *why)
{
    const struct gguf_value *value = gguf_find(table, key);
    const struct gguf_value wanted = {.type = GGUF_VALUE_ARRAY, .item_type = item_type};
    if (!value || value->type != GGUF_VALUE_ARRAY || value->item_type != item_type)
        return refuse_type(table, key, value, gguf_value_words(&wanted).text, why);
    *ret_array = value;
    return 0;
}

void gguf_next_string(const unsigned char **at, const char **ret_text, size_t *ret_bytes)
{
    uint64_t bytes = 0;
    for (int i = 8; i-- > 0;)
        bytes = bytes << 8 | (*at)[i];
    *ret_text = (const char *)*at + 8;
    *ret_bytes = bytes;
    *at += 8 + bytes;
}

static uint32_t item_u32(const struct gguf_value *array, uint64_t index)
{
    const unsigned char *bytes = array->bytes + 4 * index;
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

int32_t gguf_item_i32(const struct gguf_value *array, uint64_t index)
{
    return (int32_t)item_u32(array, index);
}

float gguf_item_f32(const struct gguf_value *array, uint64_t index)
{
    uint32_t bits = item_u32(array, index);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
