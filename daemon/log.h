/*
 * The log: one line an entry on stderr, with journald's priority in front when stderr is the
 * journal ("<6>text"), else with time and level. Control thread and main only; the engine thread
 * never logs.
 */
#ifndef AGL_DAEMON_LOG_H
#define AGL_DAEMON_LOG_H

#include <stdint.h>

enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7
};

/* Entries above `level` are left out from now on. */
void log_init(uint32_t level);

/* printf; a newline is added, control characters in the text are escaped. */
__attribute__((format(printf, 2, 3))) void log_write(enum log_level level, const char *format, ...);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
