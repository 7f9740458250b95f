/*
 * Version 1.0 of the map of shared memory, as it was released: what shm/layout.h was then, and what
 * two processes must agree on of shm/doorbell.h and shm/region.c.
 *
 * Frozen: this file is never edited, whatever becomes of shm/. It includes nothing of the project
 * and all its names begin with v1_0_, so that it fits into one program with today's.
 */
#ifndef AGL_TESTS_ABI_FROZEN_LAYOUT_1_0_H
#define AGL_TESTS_ABI_FROZEN_LAYOUT_1_0_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum {
    V1_0_LAYOUT_MAJOR = 1, /* sides with different majors refuse each other */
    V1_0_LAYOUT_MINOR = 0, /* the session runs at the smaller of both minors */

    V1_0_LAYOUT_LINE_BYTES = 64,
    V1_0_LAYOUT_PAIR_BYTES =
        128, /* words of different rhythm keep two lines apart: prefetch pulls pairs */
    V1_0_LAYOUT_PAGE_BYTES = 4096,
    V1_0_LAYOUT_STAGGERS = 64, /* sessions are shifted against each other by up to 63 lines */

    V1_0_SUBMISSION_STOP_IDS = 4,
    V1_0_EVENT_TOKENS_MAX = 6,

    V1_0_GEOMETRY_SLOTS_MIN = 8,
    V1_0_GEOMETRY_SLOTS_MAX = 4096,
    V1_0_GEOMETRY_REQUESTS_MAX = 1024,
    V1_0_GEOMETRY_ARENA_BYTES_MIN = 4096,
    V1_0_GEOMETRY_ARENA_BYTES_MAX = 64 << 20,
    V1_0_GEOMETRY_OUTPUT_BYTES_MAX = 64 << 20,

    V1_0_BOARD_MODELS_MAX = 16,
    V1_0_BOARD_EOS_MAX = 8,
};

/* What a submission asks for.
 *
 * A request's sequence is kept after its EVENT_DONE if it was accepted with SUBMISSION_KEEP and the
 * reason is neither DONE_REFUSED nor DONE_FAILED. Once an EXTEND is accepted the sequence is the
 * new request's and `parent` is no more; if it ends without EVENT_ACCEPTED, `parent` is kept as
 * before. The entries of both (the low bits of their ids) are taken until then. */
enum v1_0_submission_op {
    V1_0_SUBMISSION_GENERATE = 1,     /* a new sequence from a prompt */
    V1_0_SUBMISSION_EXTEND = 2,       /* more tokens on the kept sequence of request `parent` */
    V1_0_SUBMISSION_CANCEL = 3,       /* end request `request` early */
    V1_0_SUBMISSION_SET_PRIORITY = 4, /* give request `request` the class in `priority` */
    V1_0_SUBMISSION_DETACH = 5,       /* give up the kept sequence of request `request` */
};

enum v1_0_submission_flags {
    V1_0_SUBMISSION_KEEP = 1 << 0, /* keep the sequence after its end, for SUBMISSION_EXTEND */
    V1_0_SUBMISSION_IGNORE_EOS = 1 << 1, /* the model's own end tokens do not stop it */
    V1_0_SUBMISSION_LOGITS = 1 << 2, /* an EVENT_OUTPUT with all logits goes before each token */
    V1_0_SUBMISSION_TIMES = 1 << 3,  /* EVENT_ACCEPTED tells exact times: two readings of a clock */
    V1_0_SUBMISSION_WIDE = 1 << 15,  /* the second line of the slot is part of the submission */
    V1_0_SUBMISSION_FLAGS_ALL = V1_0_SUBMISSION_KEEP | V1_0_SUBMISSION_IGNORE_EOS |
                                V1_0_SUBMISSION_LOGITS | V1_0_SUBMISSION_TIMES |
                                V1_0_SUBMISSION_WIDE,
};

enum v1_0_priority {
    V1_0_PRIORITY_BATCH = 0,
    V1_0_PRIORITY_NORMAL = 1,
    V1_0_PRIORITY_HIGH = 2,
    V1_0_PRIORITY_REALTIME = 3
};

/* One slot of the submission ring: two cache lines, of which most submissions use the first alone.
 * Without SUBMISSION_WIDE the second line is neither written nor read and counts as zeros, so that
 * one line moves from processor to processor. Fields that an operation does not use must be zero,
 * as must the reserved ones: the daemon refuses the submission otherwise, so that they can gain a
 * meaning. */
struct v1_0_submission {
    uint32_t seq;     /* ring.h: position + 1, stored last */
    uint8_t op;       /* enum submission_op */
    uint8_t priority; /* enum priority */
    uint16_t flags;   /* enum submission_flags */

    uint32_t request; /* chosen by the client: index in its low bits (max_requests), never 0 */
    uint32_t parent;  /* EXTEND: the request whose sequence goes on */
    uint32_t model;   /* index on the board */

    uint32_t prompt_offset; /* bytes from the start of the arena, a multiple of 4 */
    uint32_t prompt_tokens; /* uint32_t ids at that place */
    uint32_t max_tokens;    /* tokens to generate at the most, at least 1 */

    uint64_t first_token_deadline_ns; /* absolute, CLOCK_MONOTONIC; 0: none */
    uint64_t deadline_ns;             /* of the whole answer, likewise */

    float temperature; /* 0: greedy */
    float top_p;       /* 1: off */
    uint64_t seed;

    /* The second line, with SUBMISSION_WIDE. */
    uint32_t top_k; /* 0: off */
    float min_p;    /* 0: off */

    uint32_t stop_ids[V1_0_SUBMISSION_STOP_IDS]; /* besides the model's own */
    uint32_t stop_count;

    float repetition_penalty; /* reserved until the sampler knows them: 0 */
    float presence_penalty;
    float frequency_penalty;

    uint32_t extra_offset; /* reserved for records in the arena (biases, stop sequences): 0 */
    uint32_t extra_bytes;

    uint32_t reserved[4]; /* 0 */
};
static_assert(offsetof(struct v1_0_submission, op) == 4, "layout");
static_assert(offsetof(struct v1_0_submission, request) == 8, "layout");
static_assert(offsetof(struct v1_0_submission, model) == 16, "layout");
static_assert(offsetof(struct v1_0_submission, prompt_offset) == 20, "layout");
static_assert(offsetof(struct v1_0_submission, max_tokens) == 28, "layout");
static_assert(offsetof(struct v1_0_submission, first_token_deadline_ns) == 32, "layout");
static_assert(offsetof(struct v1_0_submission, deadline_ns) == 40, "layout");
static_assert(offsetof(struct v1_0_submission, temperature) == 48, "layout");
static_assert(offsetof(struct v1_0_submission, seed) == 56, "layout");
static_assert(offsetof(struct v1_0_submission, top_k) == V1_0_LAYOUT_LINE_BYTES, "the second line");
static_assert(offsetof(struct v1_0_submission, stop_ids) == 72, "layout");
static_assert(offsetof(struct v1_0_submission, stop_count) == 88, "layout");
static_assert(offsetof(struct v1_0_submission, repetition_penalty) == 92, "layout");
static_assert(offsetof(struct v1_0_submission, extra_offset) == 104, "layout");
static_assert(offsetof(struct v1_0_submission, reserved) == 112, "layout");

enum { V1_0_SUBMISSION_SLOT_BYTES = 128, V1_0_EVENT_SLOT_BYTES = 64 };
static_assert(sizeof(struct v1_0_submission) == V1_0_SUBMISSION_SLOT_BYTES,
              "ring.h copies whole slots");

enum v1_0_event_kind {
    V1_0_EVENT_ACCEPTED = 1, /* the prompt was taken: its place in the arena is free again */
    V1_0_EVENT_TOKENS = 2,   /* `count` generated tokens, the first is number `index` */
    V1_0_EVENT_OUTPUT = 3,   /* bulk data in the output arena */
    V1_0_EVENT_DONE = 4,     /* the last event of a request */
    V1_0_EVENT_OVERFLOW = 5, /* the reader was slow: the request stood still for `parked_ns` */
    V1_0_EVENT_SHUTDOWN = 6, /* the last event of a session (request 0), `error` says why */
};

enum v1_0_done_reason {
    V1_0_DONE_STOP = 1,
    V1_0_DONE_LENGTH = 2,
    V1_0_DONE_DEADLINE = 3,
    V1_0_DONE_CANCELLED = 4,
    V1_0_DONE_REFUSED = 5,
    V1_0_DONE_FAILED = 6,
    V1_0_DONE_OVERFLOW = 7, /* the reader stayed slow for too long */
};

struct v1_0_event_token {
    uint32_t id;
    float logprob; /* natural logarithm, of the distribution before temperature and filters */
};

struct v1_0_event_accepted {
    uint64_t taken_ns; /* the engine's turn that took the submission, CLOCK_MONOTONIC; with
                          SUBMISSION_TIMES: right after it was taken from the ring */
    uint32_t prompt_tokens;
    uint32_t reserved0;
    uint64_t published_ns; /* SUBMISSION_TIMES: right before this event was stored; else 0 */
    uint32_t reserved[6];
};

struct v1_0_event_output {
    uint32_t offset; /* bytes from the start of the output arena */
    uint32_t bytes;
    uint64_t release; /* store this into client_words.output_cursor when done with it */
    uint32_t reserved[8];
};

struct v1_0_event_done {
    uint32_t prompt_tokens;    /* of the whole sequence so far, kept history included */
    uint32_t cached_tokens;    /* of these, how many needed no computation */
    uint32_t generated_tokens; /* by this request */
    int32_t error;             /* DONE_REFUSED, DONE_FAILED: negative errno */
    uint32_t retry_after_us;   /* DONE_REFUSED with -EAGAIN: when to come again */
    uint32_t queued_us;        /* taken until first scheduled */
    uint32_t prompt_us;        /* first scheduled until first token */
    uint32_t generate_us;      /* first token until last token */
    uint64_t taken_ns;
    uint64_t done_ns;
};

struct v1_0_event_overflow {
    uint64_t parked_ns;
    uint32_t reserved[10];
};

struct v1_0_event_shutdown {
    int32_t error; /* -EPROTO: the client broke the contract; -ESHUTDOWN: the daemon stops */
    uint32_t reserved[11];
};

/* One slot of the event ring. */
struct v1_0_event {
    uint32_t seq;   /* ring.h */
    uint8_t kind;   /* enum event_kind */
    uint8_t reason; /* enum done_reason, of EVENT_DONE */
    uint16_t count; /* EVENT_TOKENS: valid entries of `tokens` */
    uint32_t request;
    uint32_t index;
    union {
        struct v1_0_event_token tokens[V1_0_EVENT_TOKENS_MAX];
        struct v1_0_event_accepted accepted;
        struct v1_0_event_output output;
        struct v1_0_event_done done;
        struct v1_0_event_overflow overflow;
        struct v1_0_event_shutdown shutdown;
    };
};
static_assert(offsetof(struct v1_0_event, kind) == 4, "layout");
static_assert(offsetof(struct v1_0_event, request) == 8, "layout");
static_assert(offsetof(struct v1_0_event, tokens) == 16, "layout");
static_assert(offsetof(struct v1_0_event, done.taken_ns) == 48, "layout");
static_assert(sizeof(struct v1_0_event) == V1_0_EVENT_SLOT_BYTES, "layout");

/* The words that the client writes. */
struct v1_0_client_words {
    uint32_t event_cursor; /* events read so far, free-running, published lazily */
    uint8_t pad0[V1_0_LAYOUT_PAIR_BYTES - 4];
    uint32_t sleep; /* doorbell.h: how the client wants to be woken */
    uint8_t pad1[V1_0_LAYOUT_PAIR_BYTES - 4];
    uint64_t output_cursor; /* bytes of the output arena given back, free-running */
    uint8_t pad2[V1_0_LAYOUT_PAIR_BYTES - 8];
};
static_assert(offsetof(struct v1_0_client_words, sleep) == 128, "layout");
static_assert(offsetof(struct v1_0_client_words, output_cursor) == 256, "layout");
static_assert(sizeof(struct v1_0_client_words) == 384, "layout");

/* The words that the daemon writes. */
struct v1_0_daemon_words {
    uint32_t submission_cursor; /* submissions taken so far, free-running, lazily */
    uint8_t pad0[V1_0_LAYOUT_PAIR_BYTES - 4];
    uint32_t sleep; /* doorbell.h: DOORBELL_FD while the engine does not look by itself */
    uint8_t pad1[V1_0_LAYOUT_PAIR_BYTES - 4];
};
static_assert(offsetof(struct v1_0_daemon_words, sleep) == 128, "layout");
static_assert(sizeof(struct v1_0_daemon_words) == 256, "layout");

/* The sizes of one session, settled by the handshake. */
struct v1_0_geometry {
    uint32_t submission_slots; /* a power of two */
    uint32_t event_slots;      /* a power of two, at least 2 * max_requests + 2 */
    uint32_t max_requests;     /* a power of two; requests in flight or kept at once */
    uint32_t arena_bytes;      /* a multiple of LAYOUT_PAGE_BYTES */
    uint32_t output_bytes;     /* likewise, may be 0 */
    uint32_t stagger;          /* lines by which words and ring are shifted, < LAYOUT_STAGGERS */
};
static_assert(sizeof(struct v1_0_geometry) == 24, "layout");

static inline uint64_t v1_0_layout_pages(uint64_t bytes)
{
    return (bytes + V1_0_LAYOUT_PAGE_BYTES - 1) / V1_0_LAYOUT_PAGE_BYTES * V1_0_LAYOUT_PAGE_BYTES;
}

static inline int v1_0_layout_is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* Whether a session may have these sizes at all; policy (what this daemon grants) comes on top. */
static inline int v1_0_geometry_is_valid(const struct v1_0_geometry *g)
{
    return v1_0_layout_is_power_of_two(g->submission_slots) &&
           v1_0_layout_is_power_of_two(g->event_slots) &&
           v1_0_layout_is_power_of_two(g->max_requests) &&
           g->submission_slots >= V1_0_GEOMETRY_SLOTS_MIN &&
           g->submission_slots <= V1_0_GEOMETRY_SLOTS_MAX &&
           g->event_slots >= V1_0_GEOMETRY_SLOTS_MIN && g->event_slots <= V1_0_GEOMETRY_SLOTS_MAX &&
           g->max_requests <= V1_0_GEOMETRY_REQUESTS_MAX &&
           g->event_slots >= 2 * g->max_requests + 2 &&
           g->arena_bytes >= V1_0_GEOMETRY_ARENA_BYTES_MIN &&
           g->arena_bytes <= V1_0_GEOMETRY_ARENA_BYTES_MAX &&
           g->arena_bytes % V1_0_LAYOUT_PAGE_BYTES == 0 &&
           g->output_bytes <= V1_0_GEOMETRY_OUTPUT_BYTES_MAX &&
           g->output_bytes % V1_0_LAYOUT_PAGE_BYTES == 0 && g->stagger < V1_0_LAYOUT_STAGGERS;
}

/* Where things lie in the client half; all offsets in bytes. */
static inline uint64_t v1_0_client_half_words(const struct v1_0_geometry *g)
{
    return (uint64_t)g->stagger * V1_0_LAYOUT_LINE_BYTES;
}

static inline uint64_t v1_0_client_half_ring(const struct v1_0_geometry *g)
{
    return v1_0_client_half_words(g) + sizeof(struct v1_0_client_words);
}

static inline uint64_t v1_0_client_half_arena(const struct v1_0_geometry *g)
{
    return v1_0_layout_pages(V1_0_LAYOUT_STAGGERS * V1_0_LAYOUT_LINE_BYTES +
                             sizeof(struct v1_0_client_words) +
                             (uint64_t)g->submission_slots * V1_0_SUBMISSION_SLOT_BYTES);
}

static inline uint64_t v1_0_client_half_bytes(const struct v1_0_geometry *g)
{
    return v1_0_client_half_arena(g) + g->arena_bytes;
}

/* The same for the daemon half. */
static inline uint64_t v1_0_daemon_half_words(const struct v1_0_geometry *g)
{
    return (uint64_t)g->stagger * V1_0_LAYOUT_LINE_BYTES;
}

static inline uint64_t v1_0_daemon_half_ring(const struct v1_0_geometry *g)
{
    return v1_0_daemon_half_words(g) + sizeof(struct v1_0_daemon_words);
}

static inline uint64_t v1_0_daemon_half_arena(const struct v1_0_geometry *g)
{
    return v1_0_layout_pages(V1_0_LAYOUT_STAGGERS * V1_0_LAYOUT_LINE_BYTES +
                             sizeof(struct v1_0_daemon_words) +
                             (uint64_t)g->event_slots * V1_0_EVENT_SLOT_BYTES);
}

static inline uint64_t v1_0_daemon_half_bytes(const struct v1_0_geometry *g)
{
    return v1_0_daemon_half_arena(g) + g->output_bytes;
}

/* The board: one for all clients, written by the daemon alone. Every counter stands by itself, is
 * stored relaxed and may be a little older than its neighbour. */
enum { V1_0_BOARD_MAGIC = 0x424c4741 /* "AGLB" */, V1_0_BOARD_VERSION = 2 };

enum v1_0_board_state { V1_0_BOARD_STARTING = 0, V1_0_BOARD_SERVING = 1, V1_0_BOARD_DRAINING = 2 };

struct v1_0_board_model {
    char name[64];           /* NUL-terminated */
    char architecture[32];   /* as in config.json */
    char folder[256];        /* absolute path; empty for a model without files */
    uint32_t vocab_size;     /* ids below it are valid in a prompt */
    uint32_t context_tokens; /* prompt and answer together */
    uint32_t eos_ids[V1_0_BOARD_EOS_MAX];
    uint32_t eos_count;
    uint32_t block_tokens; /* tokens of one cache block */
    uint32_t blocks;       /* cache blocks in all */
    uint32_t blocks_free;
    uint64_t weights_bytes;
    uint64_t bytes_per_token; /* weights read to decode one token at batch 1 */
    uint64_t cache_bytes;
    uint64_t prompt_tokens; /* computed since start */
    uint64_t generated_tokens;
    uint64_t steps;
    uint64_t busy_ns; /* spent in those steps */
};
static_assert(offsetof(struct v1_0_board_model, vocab_size) == 352, "layout");
static_assert(offsetof(struct v1_0_board_model, blocks_free) == 404, "layout");
static_assert(sizeof(struct v1_0_board_model) == 464, "layout");

struct v1_0_board {
    uint32_t magic;   /* BOARD_MAGIC */
    uint32_t version; /* BOARD_VERSION */
    uint32_t bytes;   /* sizeof(struct board) */
    uint32_t daemon_pid;
    char instance[32];
    char daemon_version[16];
    char backend[32];
    uint64_t start_ns;
    uint32_t state;        /* enum board_state */
    uint32_t model_count;  /* fixed before the first client is let in */
    uint64_t heartbeat_ns; /* the engine's last turn, CLOCK_MONOTONIC */
    uint64_t steps;        /* completed steps of all models */
    uint32_t sessions;
    uint32_t requests_queued;
    uint32_t requests_running;
    uint32_t reserved0;
    uint64_t sessions_total;
    uint64_t sessions_broken; /* ended for breaking the contract */
    uint64_t requests_total;
    uint64_t requests_refused;
    uint64_t requests_done;
    uint64_t sessions_refused; /* handshakes that were sent away, for whatever reason */
    uint64_t reserved1[7];
    struct v1_0_board_model models[V1_0_BOARD_MODELS_MAX];
};
static_assert(offsetof(struct v1_0_board, start_ns) == 96, "layout");
static_assert(offsetof(struct v1_0_board, heartbeat_ns) == 112, "layout");
static_assert(offsetof(struct v1_0_board, sessions_refused) == 184, "layout");
static_assert(offsetof(struct v1_0_board, models) == 248, "layout");

/* doorbell.h: a sleep word's low two bits say how to be woken, the others count the sleeps. */
enum v1_0_doorbell_how { V1_0_DOORBELL_NONE = 0, V1_0_DOORBELL_FUTEX = 1, V1_0_DOORBELL_FD = 2 };
enum { V1_0_DOORBELL_HOW_MASK = 3, V1_0_DOORBELL_COUNT_STEP = 4 };

/* region.c: the seals of a half and of the board, F_SEAL_SHRINK, _GROW, _FUTURE_WRITE and _SEAL. */
enum { V1_0_REGION_SEALS = 0x0002 | 0x0004 | 0x0010 | 0x0001 };

#endif
