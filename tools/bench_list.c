#include "tools/bench_list.h"

#include <stdlib.h>

#include "tools/cli.h"

static bool has_value(const struct bench_list *list, uint32_t value)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (list->values[i] == value)
            return true;
    return false;
}

bool bench_list_parse(const char *text, uint32_t least, uint32_t most, struct bench_list *ret_list)
{
    struct bench_list list = {0};
    for (const char *word = text;; word++) {
        char *end = NULL;
        unsigned long value = *word >= '0' && *word <= '9' ? strtoul(word, &end, 10) : 0;
        if (!end || (*end && *end != ',') || value < least || value > most)
            return false;
        if (!has_value(&list, (uint32_t)value)) {
            if (list.count == BENCH_LIST_MAX)
                return false;
            list.values[list.count++] = (uint32_t)value;
        }
        word = end;
        if (!*word)
            break;
    }
    *ret_list = list;
    return true;
}

bool bench_list_read(const char *name, const char *text, uint32_t least, uint32_t most,
                     struct bench_list *ret_list)
{
    if (bench_list_parse(text, least, most, ret_list))
        return true;
    cli_usage("%s %s: must be a list of up to %d whole numbers from %u to %u, such as %u,%u", name,
              text, BENCH_LIST_MAX, least, most, least, least + 1);
    return false;
}

uint32_t bench_list_least(const struct bench_list *list)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < list->count; i++)
        if (list->values[i] < least)
            least = list->values[i];
    return least;
}
