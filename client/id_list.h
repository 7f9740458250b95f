/*
 * A growing list of token ids: what the encoders fill before anything reaches the caller's memory,
 * so that a call that fails has changed nothing.
 */
#ifndef AGL_CLIENT_ID_LIST_H
#define AGL_CLIENT_ID_LIST_H

#include <stddef.h>
#include <stdint.h>

/* Begin with {0}; end with free(list.ids). */
struct id_list {
    uint32_t *ids;
    size_t count;
    size_t capacity;
};

/* Appends an id. -E2BIG: the list holds INT32_MAX ids; -ENOMEM. */
int id_list_push(struct id_list *list, uint32_t id);

/* Copies the first `capacity` ids to ret_ids, frees the list and returns how many it had. */
int id_list_deliver(struct id_list *list, uint32_t *ret_ids, size_t capacity);

#endif
