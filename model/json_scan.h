/*
 * The grammar of JSON (RFC 8259), checked without building anything: one pass, no allocation.
 */
#ifndef AGL_MODEL_JSON_SCAN_H
#define AGL_MODEL_JSON_SCAN_H

#include <stddef.h>

/* 0, or -EINVAL, or -EFBIG beyond JSON_DEPTH_MAX or JSON_VALUES_MAX. On failure *ret_offset is the
 * byte that is wrong and *ret_why a constant that says why. flags as in json.h; comments are not
 * known here. */
int json_scan(const char *text, size_t bytes, unsigned flags, size_t *ret_offset,
              const char **ret_why);

#endif
