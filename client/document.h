/*
 * Files of a model's text side, read from hostile hands: whole files within a limit, JSON with the
 * fields checked as they are taken. Every refusal goes to error_set() with the file and the field.
 */
#ifndef AGL_CLIENT_DOCUMENT_H
#define AGL_CLIENT_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

enum {
    DOCUMENT_BYTES_MAX = 256 << 20,      /* of a tokenizer file */
    DOCUMENT_SMALL_BYTES_MAX = 16 << 20, /* of what lies beside it */
    DOCUMENT_PATH_BYTES = 4096
};

/* Reads a regular file into malloc'd memory, with a NUL behind it. -ENOENT: not there; -EINVAL: not
 * a regular file, or larger than limit; -ENOMEM; the system's error. */
int document_read(const char *path, size_t limit, char **ret_text, size_t *ret_bytes);

/* Parses a whole text as one JSON object, to be given to cJSON_Delete(). -EINVAL: not one, or it
 * has a NUL in a string, which C strings cannot hold. path is for the detail only. */
int document_parse(const char *path, const char *text, size_t bytes, cJSON **ret_root);

/* document_read() and document_parse(). */
int document_load(const char *path, size_t limit, cJSON **ret_root);

/* Writes "folder/name" to ret_path [DOCUMENT_PATH_BYTES]. -ENAMETOOLONG. */
int document_path(const char *folder, const char *name, char *ret_path);

/* The field of an object, or NULL when it is absent or null. */
const cJSON *document_field(const cJSON *object, const char *name);

/* A string field; NULL when it is absent or anything else. */
const char *document_string(const cJSON *object, const char *name);

/* True for a field that is present and true. */
bool document_is_true(const cJSON *object, const char *name);

/* Takes an id (a whole number from 0 to VOCABULARY_IDS_MAX - 1). False: it is none. */
bool document_id(const cJSON *number, uint32_t *ret_id);

#endif
