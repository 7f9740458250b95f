/*
 * The places of a text where two tokens may merge, in the order of merging: lowest rank first, and
 * leftmost first within a rank.
 *
 * A heap over all places would cost a walk through cold memory for each of the millions of places
 * of a long piece. Here the heap holds ranks only, each once; a rank's places form a list. Merging
 * goes through a rank from left to right, so the places that it finds for another rank arrive in
 * order almost always, and a list that is out of order is sorted once, when its turn comes. A place
 * is pushed at most three times for each byte of the piece, so a piece of n bytes takes O(n log n)
 * at worst and O(n) for what texts look like.
 */
#ifndef AGL_CLIENT_MERGE_QUEUE_H
#define AGL_CLIENT_MERGE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct merge_entry {
    uint32_t position;
    uint32_t next; /* index of an entry; UINT32_MAX: none */
};

struct merge_bucket {
    uint32_t rank;
    uint32_t head; /* indices of entries; UINT32_MAX: none */
    uint32_t tail;
    uint32_t place;
    bool sorted;
};

struct merge_queue {
    struct merge_entry *entries;
    uint32_t entry_count;
    uint32_t entry_capacity;
    uint32_t free_entry;          /* a list */
    struct merge_bucket *buckets; /* one for each rank met so far */
    uint32_t bucket_count;
    uint32_t bucket_capacity;
    uint32_t *places; /* indices of buckets, by the hash of the rank; UINT32_MAX: empty */
    uint32_t place_count;
    uint64_t *heap; /* rank << 32 | bucket, of the buckets that hold entries */
    uint32_t heap_count;
    uint64_t pushes; /* since merge_queue_init(), as all counters; for tests */
    uint64_t steps;  /* comparisons of heap and sorting, and steps along lists */
};

/* Makes an empty queue that holds no memory yet. */
void merge_queue_init(struct merge_queue *queue);

void merge_queue_fini(struct merge_queue *queue);

/* Forgets all places and ranks but keeps the memory. */
void merge_queue_clear(struct merge_queue *queue);

/* Adds a place. Adding one that is there already does no harm: pop may give it twice. -ENOMEM. */
int merge_queue_push(struct merge_queue *queue, uint32_t rank, uint32_t position);

/* Takes the leftmost place of the lowest rank. False: the queue is empty. */
bool merge_queue_pop(struct merge_queue *queue, uint32_t *ret_rank, uint32_t *ret_position);

#endif
