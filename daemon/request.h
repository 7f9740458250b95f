/*
 * One generation and the sequence of tokens it works on: prompt, parameters, state, deadlines.
 *
 * The sequence outlives the generation when the client keeps it (SUBMISSION_KEEP): a request that
 * extends it takes over the same struct under its new id. All requests come from one pool made at
 * start; a request's tokens lie in the pool too, whole, so that a sequence whose cache blocks were
 * taken away can be computed again.
 */
#ifndef AGL_DAEMON_REQUEST_H
#define AGL_DAEMON_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/kvcache.h"
#include "daemon/sampler.h"
#include "shm/layout.h"

struct session;

enum request_state {
    REQUEST_FREE = 0,
    REQUEST_QUEUED,  /* waits to be started */
    REQUEST_RUNNING, /* takes part in steps, unless parked */
    REQUEST_KEPT,    /* ended and told; the sequence waits to be extended */
};

/* A request can stand in two lists: by its state, and among the sequences that hold cache blocks
 * without running. */
enum request_link { REQUEST_BY_STATE = 0, REQUEST_BY_BLOCKS, REQUEST_LINKS };

struct request {
    struct {
        struct request *next, *previous;
    } links[REQUEST_LINKS];
    struct session *session;
    enum request_state state;
    uint32_t id; /* the client's */
    uint32_t model;
    uint16_t flags;         /* enum submission_flags */
    uint8_t priority;       /* enum priority */
    bool holds_idle_blocks; /* stands in the list REQUEST_BY_BLOCKS */

    struct sampler_params params;
    uint32_t stop_ids[SUBMISSION_STOP_IDS];
    uint32_t stop_count;
    uint32_t max_tokens; /* cut to what the context holds */

    /* The sequence. */
    uint32_t *tokens;            /* prompt and answer, in the pool */
    uint32_t known_tokens;       /* valid in `tokens` */
    uint32_t computed_tokens;    /* of these, the first so many are in the cache */
    struct kvcache_table blocks; /* covers at least the computed ones */

    /* This generation. */
    uint32_t prompt_start;     /* where this request's own prompt begins */
    uint32_t prompt_tokens;    /* of the whole sequence, before the first generated token */
    uint32_t cached_tokens;    /* of these, computed before this request was started */
    uint32_t generated_tokens; /* by this request */
    uint32_t queue_tokens;     /* its weight in the queue */
    uint32_t output_bytes;     /* SUBMISSION_LOGITS: of one row; else 0 */

    uint64_t first_token_deadline_ns; /* UINT64_MAX: none */
    uint64_t deadline_ns;             /* UINT64_MAX: none */
    uint64_t taken_ns;
    uint64_t started_ns;      /* 0: not yet */
    uint64_t first_token_ns;  /* 0: not yet */
    uint64_t last_token_ns;   /* 0: not yet */
    uint64_t parked_since_ns; /* 0: not parked */
};

/* The next moment at which the request may have to be ended: a deadline, or the patience with a
 * slow reader. UINT64_MAX: none. */
uint64_t request_timer_ns(const struct request *request, uint64_t slow_reader_ns);

/* Whether the answer ends with this id; eos_ids are the model's own. */
bool request_stops_at(const struct request *request, uint32_t id, const uint32_t *eos_ids,
                      uint32_t eos_count);

struct request_list {
    struct request *first, *last;
    uint32_t count;
    enum request_link link;
};

void request_list_add(struct request_list *list, struct request *request); /* at the end */
void request_list_remove(struct request_list *list, struct request *request);

/* Who waits for a model: higher classes first, first come, first served within one. */
struct request_queue {
    struct request_list classes[PRIORITY_REALTIME + 1];
    uint32_t requests;
    uint64_t tokens;
};

void request_queue_init(struct request_queue *queue);
void request_queue_add(struct request_queue *queue, struct request *request);
void request_queue_remove(struct request_queue *queue, struct request *request);
/* The one to be started next; NULL: none waits. */
struct request *request_queue_first(const struct request_queue *queue);

/* All requests there can be. Their tokens and tables are mapped but not touched until used. */
struct request_pool {
    struct request *requests; /* [capacity] */
    struct request *free;     /* linked by REQUEST_BY_STATE: the one used last first */
    uint32_t capacity;
    uint32_t free_requests;
    uint8_t *memory; /* tokens and tables */
    uint64_t memory_bytes;
};

/* Room for `capacity` requests of up to `context_tokens` tokens in up to `table_blocks` blocks.
 * -ENOMEM. */
int request_pool_init(struct request_pool *pool, uint32_t capacity, uint32_t context_tokens,
                      uint32_t table_blocks);
void request_pool_fini(struct request_pool *pool);

/* A request with an empty sequence; NULL: none left. */
struct request *request_pool_take(struct request_pool *pool);
/* Its blocks must have been given back. */
void request_pool_give(struct request_pool *pool, struct request *request);

#endif
