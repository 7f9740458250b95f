#include "client/merge_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    NONE = -1,     /* UINT32_MAX, as an index */
    LOOK_AHEAD = 4 /* so far from the front a place is put in order at once */
};

void merge_queue_init(struct merge_queue *queue)
{
    *queue = (struct merge_queue){.free_entry = (uint32_t)NONE};
}

void merge_queue_fini(struct merge_queue *queue)
{
    free(queue->entries);
    free(queue->buckets);
    free(queue->places);
    free(queue->heap);
    merge_queue_init(queue);
}

void merge_queue_clear(struct merge_queue *queue)
{
    for (uint32_t i = 0; i < queue->bucket_count; i++)
        queue->places[queue->buckets[i].place] = (uint32_t)NONE;
    queue->bucket_count = 0;
    queue->entry_count = 0;
    queue->free_entry = (uint32_t)NONE;
    queue->heap_count = 0;
}

/* ---- the heap of ranks ----------------------------------------------------------------------- */

static void heap_push(struct merge_queue *queue, uint64_t key)
{
    uint32_t at = queue->heap_count++;
    while (at > 0 && queue->heap[(at - 1) / 2] > key) {
        queue->heap[at] = queue->heap[(at - 1) / 2];
        at = (at - 1) / 2;
        queue->steps++;
    }
    queue->heap[at] = key;
}

static void heap_drop_first(struct merge_queue *queue)
{
    uint64_t key = queue->heap[--queue->heap_count];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child >= queue->heap_count)
            break;
        if (child + 1 < queue->heap_count && queue->heap[child + 1] < queue->heap[child])
            child++;
        queue->steps++;
        if (queue->heap[child] >= key)
            break;
        queue->heap[at] = queue->heap[child];
        at = child;
    }
    queue->heap[at] = key;
}

/* ---- buckets --------------------------------------------------------------------------------- */

static uint32_t *find_place(const struct merge_queue *queue, uint32_t rank)
{
    uint32_t mask = queue->place_count - 1;
    uint32_t place = (rank * 2654435769u >> 7) & mask;
    while (queue->places[place] != (uint32_t)NONE &&
           queue->buckets[queue->places[place]].rank != rank)
        place = (place + 1) & mask;
    return &queue->places[place];
}

static int grow_buckets(struct merge_queue *queue)
{
    uint32_t capacity = queue->bucket_capacity ? queue->bucket_capacity * 2 : 128;
    struct merge_bucket *buckets = realloc(queue->buckets, capacity * sizeof *buckets);
    if (!buckets)
        return -ENOMEM;
    queue->buckets = buckets;
    uint64_t *heap = realloc(queue->heap, capacity * sizeof *heap);
    if (!heap)
        return -ENOMEM;
    queue->heap = heap;
    uint32_t *places = realloc(queue->places, capacity * 2 * sizeof *places);
    if (!places)
        return -ENOMEM;
    memset(places, 0xFF, capacity * 2 * sizeof *places);
    queue->places = places;
    queue->place_count = capacity * 2;
    queue->bucket_capacity = capacity;
    for (uint32_t i = 0; i < queue->bucket_count; i++) {
        uint32_t *place = find_place(queue, buckets[i].rank);
        *place = i;
        buckets[i].place = (uint32_t)(place - places);
    }
    return 0;
}

static struct merge_bucket *bucket_of(struct merge_queue *queue, uint32_t rank)
{
    if (queue->bucket_count == queue->bucket_capacity && grow_buckets(queue) < 0)
        return NULL;
    uint32_t *place = find_place(queue, rank);
    if (*place == (uint32_t)NONE) {
        *place = queue->bucket_count;
        queue->buckets[queue->bucket_count++] =
            (struct merge_bucket){.rank = rank,
                                  .head = (uint32_t)NONE,
                                  .tail = (uint32_t)NONE,
                                  .place = (uint32_t)(place - queue->places),
                                  .sorted = true};
    }
    return &queue->buckets[*place];
}

static int new_entry(struct merge_queue *queue, uint32_t position, uint32_t *ret_entry)
{
    uint32_t entry = queue->free_entry;
    if (entry != (uint32_t)NONE) {
        queue->free_entry = queue->entries[entry].next;
    } else {
        if (queue->entry_count == queue->entry_capacity) {
            uint64_t capacity = queue->entry_capacity ? queue->entry_capacity * 2ull : 256;
            struct merge_entry *entries = NULL;
            if (capacity < UINT32_MAX)
                entries = realloc(queue->entries, capacity * sizeof *entries);
            if (!entries)
                return -ENOMEM;
            queue->entries = entries;
            queue->entry_capacity = (uint32_t)capacity;
        }
        entry = queue->entry_count++;
    }
    queue->entries[entry] = (struct merge_entry){.position = position, .next = (uint32_t)NONE};
    *ret_entry = entry;
    return 0;
}

/* Puts an entry into its list: behind it or near its front if that keeps the order, as it does
 * nearly always, else behind it for the sort. */
static void link_entry(struct merge_queue *queue, struct merge_bucket *bucket, uint32_t entry)
{
    struct merge_entry *entries = queue->entries;
    uint32_t position = entries[entry].position;
    if (bucket->sorted && position < entries[bucket->tail].position) {
        uint32_t *link = &bucket->head;
        int looked = 0;
        while (looked < LOOK_AHEAD && entries[*link].position < position) {
            link = &entries[*link].next;
            looked++;
            queue->steps++;
        }
        if (looked < LOOK_AHEAD) {
            entries[entry].next = *link;
            *link = entry;
            return;
        }
        bucket->sorted = false;
    }
    entries[bucket->tail].next = entry;
    bucket->tail = entry;
}

int merge_queue_push(struct merge_queue *queue, uint32_t rank, uint32_t position)
{
    uint32_t entry = 0;
    struct merge_bucket *bucket = bucket_of(queue, rank);
    if (!bucket || new_entry(queue, position, &entry) < 0)
        return -ENOMEM;
    queue->pushes++;
    if (bucket->head != (uint32_t)NONE) {
        link_entry(queue, bucket, entry);
        return 0;
    }
    bucket->head = bucket->tail = entry;
    bucket->sorted = true;
    heap_push(queue, (uint64_t)rank << 32 | (uint32_t)(bucket - queue->buckets));
    return 0;
}

/* ---- sorting a list -------------------------------------------------------------------------- */

static uint32_t merge_lists(struct merge_queue *queue, uint32_t a, uint32_t b)
{
    struct merge_entry *entries = queue->entries;
    uint32_t head = (uint32_t)NONE;
    uint32_t *link = &head;
    while (a != (uint32_t)NONE && b != (uint32_t)NONE) {
        uint32_t *less = entries[b].position < entries[a].position ? &b : &a;
        *link = *less;
        link = &entries[*less].next;
        *less = *link;
        queue->steps++;
    }
    *link = a != (uint32_t)NONE ? a : b;
    return head;
}

/* Cuts the ascending run off the front of *list. */
static uint32_t take_run(struct merge_queue *queue, uint32_t *list)
{
    struct merge_entry *entries = queue->entries;
    uint32_t head = *list;
    uint32_t last = head;
    while (entries[last].next != (uint32_t)NONE &&
           entries[entries[last].next].position >= entries[last].position) {
        last = entries[last].next;
        queue->steps++;
    }
    *list = entries[last].next;
    entries[last].next = (uint32_t)NONE;
    return head;
}

/* Merges the list's ascending runs like the digits of a counter: bin i holds 2^i of them. */
static void sort_bucket(struct merge_queue *queue, struct merge_bucket *bucket)
{
    uint32_t bins[33];
    uint32_t list = bucket->head;
    memset(bins, 0xFF, sizeof bins);
    while (list != (uint32_t)NONE) {
        uint32_t run = take_run(queue, &list);
        uint32_t i = 0;
        for (; bins[i] != (uint32_t)NONE; i++) {
            run = merge_lists(queue, bins[i], run);
            bins[i] = (uint32_t)NONE;
        }
        bins[i] = run;
    }
    for (uint32_t i = 0; i < 33; i++)
        list = merge_lists(queue, bins[i], list);

    bucket->head = list;
    bucket->sorted = true;
    while (queue->entries[list].next != (uint32_t)NONE)
        list = queue->entries[list].next;
    bucket->tail = list;
}

bool merge_queue_pop(struct merge_queue *queue, uint32_t *ret_rank, uint32_t *ret_position)
{
    if (queue->heap_count == 0)
        return false;
    struct merge_bucket *bucket = &queue->buckets[(uint32_t)queue->heap[0]];
    if (!bucket->sorted)
        sort_bucket(queue, bucket);
    uint32_t entry = bucket->head;
    *ret_rank = bucket->rank;
    *ret_position = queue->entries[entry].position;
    bucket->head = queue->entries[entry].next;
    queue->entries[entry].next = queue->free_entry;
    queue->free_entry = entry;
    if (bucket->head == (uint32_t)NONE)
        heap_drop_first(queue);
    return true;
}
