#include "daemon/request.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

uint64_t request_timer_ns(const struct request *request, uint64_t slow_reader_ns)
{
    uint64_t timer_ns = request->deadline_ns;
    if (!request->first_token_ns && request->first_token_deadline_ns < timer_ns)
        timer_ns = request->first_token_deadline_ns;
    if (request->parked_since_ns && request->parked_since_ns + slow_reader_ns < timer_ns)
        timer_ns = request->parked_since_ns + slow_reader_ns;
    return timer_ns;
}

static bool contains(const uint32_t *ids, uint32_t count, uint32_t id)
{
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

bool request_stops_at(const struct request *request, uint32_t id, const uint32_t *eos_ids,
                      uint32_t eos_count)
{
    if (!(request->flags & SUBMISSION_IGNORE_EOS) && contains(eos_ids, eos_count, id))
        return true;
    return contains(request->stop_ids, request->stop_count, id);
}

void request_list_add(struct request_list *list, struct request *request)
{
    request->links[list->link].next = NULL;
    request->links[list->link].previous = list->last;
    if (list->last)
        list->last->links[list->link].next = request;
    else
        list->first = request;
    list->last = request;
    list->count++;
}

void request_list_remove(struct request_list *list, struct request *request)
{
    struct request *next = request->links[list->link].next;
    struct request *previous = request->links[list->link].previous;
    if (previous)
        previous->links[list->link].next = next;
    else
        list->first = next;
    if (next)
        next->links[list->link].previous = previous;
    else
        list->last = previous;
    request->links[list->link].next = request->links[list->link].previous = NULL;
    list->count--;
}

void request_queue_init(struct request_queue *queue)
{
    *queue = (struct request_queue){0};
    for (int i = 0; i <= PRIORITY_REALTIME; i++)
        queue->classes[i].link = REQUEST_BY_STATE;
}

void request_queue_add(struct request_queue *queue, struct request *request)
{
    request_list_add(&queue->classes[request->priority], request);
    queue->requests++;
    queue->tokens += request->queue_tokens;
}

void request_queue_remove(struct request_queue *queue, struct request *request)
{
    request_list_remove(&queue->classes[request->priority], request);
    queue->requests--;
    queue->tokens -= request->queue_tokens;
}

struct request *request_queue_first(const struct request_queue *queue)
{
    for (int i = PRIORITY_REALTIME; i >= 0; i--) {
        if (queue->classes[i].first)
            return queue->classes[i].first;
    }
    return NULL;
}

int request_pool_init(struct request_pool *pool, uint32_t capacity, uint32_t context_tokens,
                      uint32_t table_blocks)
{
    uint64_t tokens_bytes = layout_pages((uint64_t)context_tokens * sizeof(uint32_t));
    uint64_t table_bytes = layout_pages((uint64_t)table_blocks * sizeof(uint32_t));
    uint64_t memory_bytes = capacity * (tokens_bytes + table_bytes);
    struct request *requests = calloc(capacity, sizeof *requests);
    if (!requests)
        return -ENOMEM;
    uint8_t *memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        free(requests);
        return -ENOMEM;
    }

    *pool = (struct request_pool){
        .requests = requests, .capacity = capacity, .memory = memory, .memory_bytes = memory_bytes};
    for (uint32_t i = capacity; i-- > 0;) {
        uint8_t *own = memory + i * (tokens_bytes + table_bytes);
        requests[i].tokens = (uint32_t *)(void *)own;
        requests[i].blocks = (struct kvcache_table){
            .blocks = (uint32_t *)(void *)(own + tokens_bytes), .capacity = table_blocks};
        request_pool_give(pool, &requests[i]);
    }
    return 0;
}

void request_pool_fini(struct request_pool *pool)
{
    if (pool->memory)
        munmap(pool->memory, pool->memory_bytes);
    free(pool->requests);
    *pool = (struct request_pool){0};
}

struct request *request_pool_take(struct request_pool *pool)
{
    struct request *request = pool->free;
    if (!request)
        return NULL;
    pool->free = request->links[REQUEST_BY_STATE].next;
    pool->free_requests--;
    *request = (struct request){.tokens = request->tokens, .blocks = request->blocks};
    return request;
}

void request_pool_give(struct request_pool *pool, struct request *request)
{
    assert(request->blocks.count == 0);
    request->state = REQUEST_FREE;
    request->links[REQUEST_BY_STATE].next = pool->free;
    pool->free = request;
    pool->free_requests++;
}
