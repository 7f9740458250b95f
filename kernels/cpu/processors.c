#include "kernels/cpu/processors.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>

static bool read_allowed(cpu_set_t *ret_set)
{
    return sched_getaffinity(0, sizeof *ret_set, ret_set) == 0;
}

uint32_t processors_allowed(void)
{
    cpu_set_t set;
    if (!read_allowed(&set))
        return 1; /* more processors than the set holds, or none of our business */
    int count = CPU_COUNT(&set);
    return count > 0 ? (uint32_t)count : 1;
}

/* A number below PROCESSORS_MAX; *at goes behind it. */
static bool read_number(const char **at, uint32_t *ret_number)
{
    if (!isdigit((unsigned char)**at))
        return false;
    uint32_t number = 0;
    for (; isdigit((unsigned char)**at) && number < PROCESSORS_MAX; ++*at)
        number = number * 10 + (uint32_t)(**at - '0');
    *ret_number = number;
    return number < PROCESSORS_MAX;
}

/* "3" or "0-3"; *at goes behind it. */
static bool read_range(const char **at, uint32_t *ret_first, uint32_t *ret_last)
{
    if (!read_number(at, ret_first))
        return false;
    *ret_last = *ret_first;
    if (**at != '-')
        return true;
    ++*at;
    return read_number(at, ret_last) && *ret_last >= *ret_first;
}

int processors_parse(const char *list, uint32_t ret_processors[PROCESSORS_MAX], uint32_t *ret_count,
                     const char **ret_why)
{
    cpu_set_t set;
    uint32_t count = 0, first, last;
    if (!read_allowed(&set))
        CPU_ZERO(&set);
    for (const char *at = list;; at++) {
        if (!read_range(&at, &first, &last) || (*at != ',' && *at)) {
            *ret_why =
                "cpus: must be a list of processors and ranges like \"0-3,8\", each below 1024";
            return -EINVAL;
        }
        for (; first <= last; first++) {
            if (!CPU_ISSET(first, &set))
                continue;
            CPU_CLR(first, &set); /* once */
            ret_processors[count++] = first;
        }
        if (!*at)
            break;
    }
    if (!count) {
        *ret_why = "cpus: this process may run on none of the listed processors";
        return -EINVAL;
    }
    *ret_count = count;
    return 0;
}

void processors_pin(uint32_t processor)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    /* Should it have been taken away meanwhile, the thread runs where it may. */
    (void)sched_setaffinity(0, sizeof set, &set);
}
