#include "daemon/kvcache.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int kvcache_init(struct kvcache *cache, uint32_t blocks, uint32_t block_tokens)
{
    uint32_t *free_stack = calloc(blocks, sizeof *free_stack);
    uint32_t *references = calloc(blocks, sizeof *references);
    if (!free_stack || !references) {
        free(free_stack);
        free(references);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < blocks; i++)
        free_stack[i] = blocks - 1 - i; /* so that block 0 is the first to go */
    *cache = (struct kvcache){.blocks = blocks,
                              .block_tokens = block_tokens,
                              .free_blocks = blocks,
                              .free = free_stack,
                              .references = references};
    return 0;
}

void kvcache_fini(struct kvcache *cache)
{
    free(cache->free);
    free(cache->references);
    *cache = (struct kvcache){0};
}

uint32_t kvcache_blocks_for(const struct kvcache *cache, uint32_t tokens)
{
    return tokens / cache->block_tokens + (tokens % cache->block_tokens != 0);
}

int kvcache_grow(struct kvcache *cache, struct kvcache_table *table, uint32_t tokens)
{
    uint32_t wanted = kvcache_blocks_for(cache, tokens);
    if (wanted > table->capacity)
        return -EMSGSIZE;
    if (wanted > table->count && wanted - table->count > cache->free_blocks)
        return -ENOSPC;
    while (table->count < wanted) {
        uint32_t block = cache->free[--cache->free_blocks];
        assert(cache->references[block] == 0);
        cache->references[block] = 1;
        table->blocks[table->count++] = block;
    }
    return 0;
}

void kvcache_shrink(struct kvcache *cache, struct kvcache_table *table, uint32_t tokens)
{
    uint32_t wanted = kvcache_blocks_for(cache, tokens);
    while (table->count > wanted) {
        uint32_t block = table->blocks[--table->count];
        assert(block < cache->blocks && cache->references[block] > 0);
        if (--cache->references[block] == 0)
            cache->free[cache->free_blocks++] = block;
    }
}
