#include "client/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "autoglm.h"

enum { DETAIL_BYTES = 512 };

static _Thread_local char last_detail[DETAIL_BYTES];

/* Sentences that fit what this library means by an errno better than the system's own. */
static const struct {
    int error;
    const char *text;
} sentences[] = {
    {0, "Success"},
    {EAGAIN, "Nothing there yet, or no room: try again"},
    {EINVAL, "Invalid argument or file"},
    {ENOENT, "Not found"},
    {ENOTSUP, "Not supported by this model or build"},
    {EPIPE, "The daemon is gone"},
    {EPROTO, "The daemon broke the contract"},
    {EPROTONOSUPPORT, "Client and daemon speak different versions of the contract"},
    {EMSGSIZE, "Longer than the room or the context allows"},
    {EDQUOT, "The user has used up what one user may have at once"},
    {EACCES, "Not allowed"},
    {ESHUTDOWN, "The daemon stops"},
    {EUSERS, "The daemon has no session left for this user"},
    {E2BIG, "Too much for one call"},
    {EILSEQ, "The vocabulary cannot spell this text"},
};

int error_set(int err, const char *format, ...)
{
    char text[DETAIL_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(last_detail, text, sizeof text);
    return err;
}

const char *agl_error_detail(void)
{
    return last_detail;
}

const char *agl_strerror(int error)
{
    if (error < 0 && error != -2147483647 - 1)
        error = -error;
    for (size_t i = 0; i < sizeof sentences / sizeof sentences[0]; i++)
        if (sentences[i].error == error)
            return sentences[i].text;
    /* strerrordesc_np() is constant and thread-safe, unlike strerror(). */
    const char *text = strerrordesc_np(error);
    return text ? text : "Unknown error";
}

#define TEXT_OF(x) #x
#define VERSION(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *agl_version(void)
{
    return VERSION(AGL_VERSION_MAJOR, AGL_VERSION_MINOR, AGL_VERSION_PATCH);
}

uint64_t agl_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

const char *agl_reason_name(uint32_t reason)
{
    switch (reason) {
    case AGL_DONE_STOP:
        return "stop";
    case AGL_DONE_LENGTH:
        return "length";
    case AGL_DONE_DEADLINE:
        return "deadline";
    case AGL_DONE_CANCELLED:
        return "cancelled";
    case AGL_DONE_REFUSED:
        return "refused";
    case AGL_DONE_FAILED:
        return "failed";
    case AGL_DONE_OVERFLOW:
        return "overflow";
    default:
        return "unknown";
    }
}
