/*
 * JSON from files that nobody vouches for. The text is checked against the grammar first, then
 * given to cJSON; so what reaches the caller is UTF-8 without NULs, of bounded depth and size, with
 * no key twice in one object and with numbers as JSON writes them. The readers of single fields
 * name file, field and value when they refuse one.
 *
 * Errors: -EINVAL what was read is wrong, -ENOENT a required file or field is not there, -EFBIG
 * beyond a limit, -ENOMEM, or the errno of the system call. failure may be NULL.
 */
#ifndef AGL_MODEL_JSON_H
#define AGL_MODEL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/failure.h"

struct cJSON;

enum {
    JSON_DEPTH_MAX = 64,
    JSON_VALUES_MAX = 4 << 20, /* bounds the memory of a parsed text: about 100 bytes a value */
};

enum json_flags {
    JSON_STRICT = 0,
    JSON_COMMENTS = 1, /* // and C comments count as spaces */
    JSON_INTEGERS = 2, /* every number is an integer in 0 ... 2^53 - 1, in plain digits */
};

/* Parses text[bytes]. `file` is for the messages. The caller frees the tree with cJSON_Delete(). */
int json_parse(struct cJSON **ret_root, const char *text, size_t bytes, const char *file,
               unsigned flags, struct failure *failure);

/* Reads a regular file of at most `limit` bytes and parses it. */
int json_read_file(struct cJSON **ret_root, const char *path, size_t limit, unsigned flags,
                   struct failure *failure);

/* Reads a regular file of at most `limit` bytes into malloc'd memory with a NUL behind it. */
int json_read_text(char **ret_text, size_t *ret_bytes, const char *path, size_t limit,
                   struct failure *failure);

/* An object and where it stands, for the messages: "DIR/config.json: rope_scaling.factor: ...".
 * Owns nothing. */
struct json_object {
    const struct cJSON *object;
    const char *file;
    char path[64]; /* "rope_scaling." or "" */
};

/* The whole of a parsed text, which must be an object. */
int json_root(struct json_object *ret_object, const struct cJSON *root, const char *file,
              struct failure *failure);

/* A field's value, or NULL if it is absent or null. */
const struct cJSON *json_field(const struct json_object *object, const char *key);

/* The object in a field; -ENOENT without a message if the field is absent or null. */
int json_enter(const struct json_object *object, const char *key, struct json_object *ret_object,
               struct failure *failure);

/* One field each. Absent and null are the same: -ENOENT and a message; the _or forms then give the
 * fallback. A value of another type, or outside min ... max (a NaN is), is -EINVAL. */
int json_u32(const struct json_object *object, const char *key, uint32_t min, uint32_t max,
             uint32_t *ret_value, struct failure *failure);
int json_u32_or(const struct json_object *object, const char *key, uint32_t min, uint32_t max,
                uint32_t fallback, uint32_t *ret_value, struct failure *failure);
int json_u64(const struct json_object *object, const char *key, uint64_t min, uint64_t max,
             uint64_t *ret_value, struct failure *failure);
int json_double(const struct json_object *object, const char *key, double min, double max,
                double *ret_value, struct failure *failure);
int json_double_or(const struct json_object *object, const char *key, double min, double max,
                   double fallback, double *ret_value, struct failure *failure);
int json_bool_or(const struct json_object *object, const char *key, bool fallback, bool *ret_value,
                 struct failure *failure);
/* The string lives as long as the tree. */
int json_string(const struct json_object *object, const char *key, const char **ret_value,
                struct failure *failure);
int json_string_or(const struct json_object *object, const char *key, const char *fallback,
                   const char **ret_value, struct failure *failure);

/* A number as an integer in 0 ... 2^53 - 1; -EINVAL, without a message, if it is none. */
int json_number_u64(const struct cJSON *value, uint64_t *ret_value);

/* Fills failure with "file: path.key: " and the printed rest, and returns err. */
__attribute__((format(printf, 5, 6))) int json_refuse(const struct json_object *object,
                                                      const char *key, int err,
                                                      struct failure *failure, const char *format,
                                                      ...);

/* Foreign text for a message: in quotes, control bytes escaped, cut after about 60 bytes. Use it as
 * an argument: json_quote(name).text */
struct json_quoted {
    char text[80];
};
struct json_quoted json_quote(const char *text);

/* "null", "a boolean", "a number", "a string", "an array", "an object", "nothing" */
const char *json_type_name(const struct cJSON *value);

#endif
