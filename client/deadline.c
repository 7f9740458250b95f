#include "client/deadline.h"

#include "autoglm.h"

uint64_t deadline_after(uint64_t now_ns, uint64_t ns)
{
    return ns < UINT64_MAX - now_ns ? now_ns + ns : UINT64_MAX;
}

uint64_t deadline_left_ns(uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX)
        return UINT64_MAX;
    uint64_t now_ns = agl_now_ns();
    return now_ns < deadline_ns ? deadline_ns - now_ns : 0;
}

struct timespec deadline_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}
