#include "daemon/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 2048 };

static uint32_t level_max = LOG_LEVEL_INFO;
static bool to_journal;

/* sd-journal's rule: $JOURNAL_STREAM holds device and inode of the stream that stderr was connected
 * to at start. If stderr is another file now, it is not the journal. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    unsigned long long device, inode;
    int end = 0;
    if (!stream || sscanf(stream, "%llu:%llu%n", &device, &inode, &end) != 2 || stream[end])
        return false;
    if (fstat(STDERR_FILENO, &status) < 0)
        return false;
    return (unsigned long long)status.st_dev == device &&
           (unsigned long long)status.st_ino == inode;
}

void log_init(uint32_t level)
{
    level_max = level;
    to_journal = stderr_is_journal();
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR:
        return "error";
    case LOG_LEVEL_WARNING:
        return "warn";
    case LOG_LEVEL_INFO:
        return "info";
    case LOG_LEVEL_DEBUG:
        return "debug";
    }
    return "info";
}

static size_t put_prefix(char *line, enum log_level level)
{
    if (to_journal)
        return (size_t)snprintf(line, LINE_BYTES, "<%d>", (int)level);

    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, LINE_BYTES, "%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(line + used, LINE_BYTES - used, ".%03ldZ %-5s ", now.tv_nsec / 1000000,
                             level_name(level));
    return used;
}

/* Names that clients chose come through here: whatever could move the cursor, colour the terminal
 * or begin a line of its own becomes \xHH. Bytes from 0x80 on pass, as parts of UTF-8. */
static size_t put_text(char *line, size_t used, const char *text)
{
    for (; *text && used < LINE_BYTES - 6; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte >= 0x20 && byte != 0x7f)
            line[used++] = (char)byte;
        else
            used += (size_t)snprintf(line + used, 5, "\\x%02x", byte);
    }
    return used;
}

void log_write(enum log_level level, const char *format, ...)
{
    if ((uint32_t)level > level_max)
        return;

    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;

    char line[LINE_BYTES];
    size_t used = put_text(line, put_prefix(line, level), text);
    line[used++] = '\n';
    /* One write a line, so that lines of several processes do not mix. Nobody could be told of a
     * failure. */
    while (write(STDERR_FILENO, line, used) < 0 && errno == EINTR)
        ;
}
