#include "client/id_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int id_list_push(struct id_list *list, uint32_t id)
{
    if (list->count >= INT32_MAX)
        return -E2BIG;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        uint32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (!ids)
            return -ENOMEM;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return 0;
}

int id_list_deliver(struct id_list *list, uint32_t *ret_ids, size_t capacity)
{
    int count = (int)list->count;
    size_t copied = list->count < capacity ? list->count : capacity;
    if (copied > 0)
        memcpy(ret_ids, list->ids, copied * sizeof *ret_ids);
    free(list->ids);
    *list = (struct id_list){0};
    return count;
}
