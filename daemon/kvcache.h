/*
 * The blocks of one model's key-value cache: which are free, and which belong to which sequence.
 *
 * A block holds the keys and values of `block_tokens` consecutive positions of one sequence, in all
 * layers. A sequence's table names its blocks by position; the backend reads and writes through it
 * (kernels/backend.h). Blocks carry reference counts, so that a block can serve more than one table
 * once prefixes are shared. Nothing here touches the device.
 */
#ifndef AGL_DAEMON_KVCACHE_H
#define AGL_DAEMON_KVCACHE_H

#include <stdint.h>

struct kvcache {
    uint32_t blocks;
    uint32_t block_tokens;
    uint32_t free_blocks;
    uint32_t *free;       /* [blocks], a stack: the first free_blocks entries */
    uint32_t *references; /* [blocks] tables that name the block */
};

/* The blocks of one sequence. The memory of `blocks` belongs to whoever made the table. */
struct kvcache_table {
    uint32_t *blocks; /* [capacity], the first `count` are valid */
    uint32_t count;
    uint32_t capacity;
};

/* -ENOMEM. */
int kvcache_init(struct kvcache *cache, uint32_t blocks, uint32_t block_tokens);
void kvcache_fini(struct kvcache *cache);

/* Blocks that hold so many tokens. */
uint32_t kvcache_blocks_for(const struct kvcache *cache, uint32_t tokens);

/* Gives the table blocks for `tokens` tokens in all; no change if it has them. -ENOSPC: not so many
 * free (nothing changed); -EMSGSIZE: more than the table can name. */
int kvcache_grow(struct kvcache *cache, struct kvcache_table *table, uint32_t tokens);

/* Takes back what the table has beyond `tokens` tokens; all of it for 0. */
void kvcache_shrink(struct kvcache *cache, struct kvcache_table *table, uint32_t tokens);

#endif
