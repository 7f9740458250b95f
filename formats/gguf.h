/*
 * One GGUF file of version 3: hostile bytes in, a checked table of values and tensors out. Client
 * and daemon both read it: the one the tokenizer, the other the rest. It knows neither.
 *
 * The format, all little-endian: "GGUF", u32 version, u64 tensors, u64 values; the values (key,
 * u32 type, value); the tensors (name, u32 dimensions, their u64 sizes with the fastest first, u32
 * type, u64 offset); then, from the next multiple of general.alignment on, the tensors' bytes in
 * the order of the table, each padded to the alignment. Strings are a u64 length and bytes.
 *
 * As strict as the reference: arrays of arrays, holes, overlaps, a dimension of 0 and types that
 * are not in the table below are refused. Stricter: keys and names must be unique and without
 * control bytes, booleans 0 or 1. What stands behind the last tensor is not looked at.
 *
 * Errors: -EINVAL the file lies, -ENOTSUP a type or version that we do not read, -EFBIG beyond a
 * limit, -ENOENT a key that is not there, -ENOMEM, or the errno of a read. The text that says why
 * goes to why[GGUF_WHY_BYTES], which may be NULL: file, field and value in one line.
 */
#ifndef AGL_FORMATS_GGUF_H
#define AGL_FORMATS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GGUF_WHY_BYTES = 512,
    GGUF_HEADER_MAX = 100 * 1000 * 1000, /* all before the tensors' bytes */
    GGUF_TENSORS_MAX = 1000 * 1000,
    GGUF_VALUES_MAX = 1 << 16,
    GGUF_KEY_MAX = 4096,
    GGUF_NAME_MAX = 63, /* of a tensor, as in the reference */
    GGUF_DIMENSIONS_MAX = 4,
    GGUF_ALIGNMENT_MIN = 8,
    GGUF_ALIGNMENT_DEFAULT = 32,
    GGUF_ALIGNMENT_MAX = 1 << 16,
};

/* Types of values, by their numbers in the file. */
enum gguf_value_type {
    GGUF_VALUE_U8 = 0,
    GGUF_VALUE_I8 = 1,
    GGUF_VALUE_U16 = 2,
    GGUF_VALUE_I16 = 3,
    GGUF_VALUE_U32 = 4,
    GGUF_VALUE_I32 = 5,
    GGUF_VALUE_F32 = 6,
    GGUF_VALUE_BOOL = 7,
    GGUF_VALUE_STRING = 8,
    GGUF_VALUE_ARRAY = 9,
    GGUF_VALUE_U64 = 10,
    GGUF_VALUE_I64 = 11,
    GGUF_VALUE_F64 = 12,
};

/* Types of tensors that we read, by their numbers in the file. gguf_blocks.h has their layouts. */
enum gguf_type {
    GGUF_NONE = -1, /* of a tensor from elsewhere whose type GGUF does not have */
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q4_1 = 3,
    GGUF_Q5_0 = 6,
    GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_BF16 = 30,
};

/* A key and what stands behind it. Points into the header. */
struct gguf_value {
    const char *key; /* without a NUL behind it */
    size_t key_bytes;
    enum gguf_value_type type;
    enum gguf_value_type item_type; /* of an array */
    uint64_t count;                 /* of an array's items; else 1 */
    const unsigned char *bytes;     /* the value, or an array's first item */
    uint64_t size;
};

struct gguf_tensor {
    char name[GGUF_NAME_MAX + 1];
    enum gguf_type type;
    uint32_t dimensions;                 /* 1 ... GGUF_DIMENSIONS_MAX */
    uint64_t sizes[GGUF_DIMENSIONS_MAX]; /* the fastest first */
    uint64_t offset;                     /* from the file's first byte */
    uint64_t bytes;
};

struct gguf {
    const char *file;          /* for the messages; the caller's */
    struct gguf_value *values; /* sorted by key */
    size_t value_count;
    struct gguf_tensor *tensors; /* sorted by name */
    size_t tensor_count;
    uint64_t alignment;
    uint64_t data_offset;  /* where the tensors' bytes begin */
    unsigned char *header; /* what the values point into; NULL: the caller's */
};

/* Parses a file of file_bytes whose first `have` bytes are in memory, which must stay as long as
 * the table. -EAGAIN without a text: the header goes on behind them. */
int gguf_parse(struct gguf *ret_table, const unsigned char *bytes, size_t have, uint64_t file_bytes,
               const char *file, char *why);

/* Reads and checks the header of an open file of file_bytes, with pread() alone. */
int gguf_read(struct gguf *ret_table, int fd, uint64_t file_bytes, const char *file, char *why);

/* Empties the table; what is empty stays so. */
void gguf_fini(struct gguf *table);

/* "Q4_K": the format's word for a type, read by us or not; NULL for a number without one. */
const char *gguf_type_name(uint32_t type);

/* The elements and the bytes of one block. False: a type that we do not read. */
bool gguf_type_block(uint32_t type, uint32_t *ret_elements, uint32_t *ret_bytes);

/* ---- values ---------------------------------------------------------------------------------- */

/* NULL: there is none. */
const struct gguf_value *gguf_find(const struct gguf *table, const char *key);

/* One value each. -ENOENT if the key is not there; the _or forms then give the fallback. Another
 * type, or outside min ... max (a NaN is), is -EINVAL. Integers of every width are one type, and so
 * are the two floats. */
int gguf_u64(const struct gguf *table, const char *key, uint64_t min, uint64_t max,
             uint64_t *ret_value, char *why);
int gguf_u32(const struct gguf *table, const char *key, uint32_t min, uint32_t max,
             uint32_t *ret_value, char *why);
int gguf_u32_or(const struct gguf *table, const char *key, uint32_t min, uint32_t max,
                uint32_t fallback, uint32_t *ret_value, char *why);
int gguf_double(const struct gguf *table, const char *key, double min, double max,
                double *ret_value, char *why);
int gguf_double_or(const struct gguf *table, const char *key, double min, double max,
                   double fallback, double *ret_value, char *why);
int gguf_bool_or(const struct gguf *table, const char *key, bool fallback, bool *ret_value,
                 char *why);

/* Bytes as they stand, NULs and all, without one behind them. */
int gguf_string(const struct gguf *table, const char *key, const char **ret_text, size_t *ret_bytes,
                char *why);

/* An array of just this type of item. */
int gguf_array(const struct gguf *table, const char *key, enum gguf_value_type item_type,
               const struct gguf_value **ret_array, char *why);

/* Goes through an array of strings: begin with *at = array->bytes, array->count times. */
void gguf_next_string(const unsigned char **at, const char **ret_text, size_t *ret_bytes);

/* The item of an array of I32 or F32; index < count. */
int32_t gguf_item_i32(const struct gguf_value *array, uint64_t index);
float gguf_item_f32(const struct gguf_value *array, uint64_t index);

/* "an array of strings": a value's type in words. */
struct gguf_words {
    char text[40];
};
struct gguf_words gguf_value_words(const struct gguf_value *value);

/* Foreign text for a message: in quotes, control bytes escaped, cut after about 60 bytes. */
struct gguf_quoted {
    char text[80];
};
struct gguf_quoted gguf_quote(const char *text, size_t bytes);

/* Fills why (printf), if there is one, and returns err. */
__attribute__((format(printf, 3, 4))) int gguf_refuse(char *why, int err, const char *format, ...);

#endif
