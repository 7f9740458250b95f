/*
 * Errors of the client library: every failing public function goes through error_set() once, so
 * that agl_error_detail() can say what exactly was wrong. The text lives in the thread's own
 * storage.
 */
#ifndef AGL_CLIENT_ERROR_H
#define AGL_CLIENT_ERROR_H

/* Stores the detail of this thread's last error (cut at 511 bytes) and returns err, a negative
 * errno. The arguments may point into the old detail. */
int error_set(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
