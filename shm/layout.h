/*
 * The map of shared memory: what lies where in the two halves of a session and on the board.
 *
 * A session has two halves, each with one writer. The client half is made by the client and
 * mapped read-only by the daemon; the daemon half the other way round:
 *
 *   client half                              daemon half
 *     struct client_words                      struct daemon_words
 *     submission ring [submission_slots]       event ring [event_slots]
 *     prompt arena    [arena_bytes]            output arena [output_bytes]
 *
 * The offsets follow from struct geometry, which the handshake settles (message.h); each side keeps
 * its copy in private memory and never reads it from a shared page. Everything is little-endian and
 * of fixed width. A change to anything in this file is a change of LAYOUT_MAJOR or LAYOUT_MINOR.
 */
#ifndef AGL_SHM_LAYOUT_H
#define AGL_SHM_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Tests build peers of later versions with these; nothing else ever defines them. */
#ifndef LAYOUT_MAJOR_AHEAD
#define LAYOUT_MAJOR_AHEAD 0
#endif
#ifndef LAYOUT_MINOR_AHEAD
#define LAYOUT_MINOR_AHEAD 0
#endif
#ifndef BOARD_VERSION_AHEAD
#define BOARD_VERSION_AHEAD 0
#endif

enum {
    LAYOUT_MAJOR = 1 + LAYOUT_MAJOR_AHEAD, /* sides with different majors refuse each other */
    LAYOUT_MINOR = 0 + LAYOUT_MINOR_AHEAD, /* the session runs at the smaller of both minors */

    LAYOUT_LINE_BYTES = 64,
    LAYOUT_PAIR_BYTES =
        128, /* words of different rhythm keep two lines apart: prefetch pulls pairs */
    LAYOUT_PAGE_BYTES = 4096,
    LAYOUT_STAGGERS = 64, /* sessions are shifted against each other by up to 63 lines */

    SUBMISSION_STOP_IDS = 4,
    EVENT_TOKENS_MAX = 6,

    GEOMETRY_SLOTS_MIN = 8,
    GEOMETRY_SLOTS_MAX = 4096,
    GEOMETRY_REQUESTS_MAX = 1024,
    GEOMETRY_ARENA_BYTES_MIN = 4096,
    GEOMETRY_ARENA_BYTES_MAX = 64 << 20,
    GEOMETRY_OUTPUT_BYTES_MAX = 64 << 20,

    BOARD_MODELS_MAX = 16,
    BOARD_EOS_MAX = 8,
};

/* What a submission asks for.
 *
 * A request's sequence is kept after its EVENT_DONE if it was accepted with SUBMISSION_KEEP and the
 * reason is neither DONE_REFUSED nor DONE_FAILED. Once an EXTEND is accepted the sequence is the
 * new request's and `parent` is no more; if it ends without EVENT_ACCEPTED, `parent` is kept as
 * before. The entries of both (the low bits of their ids) are taken until then. */
enum submission_op {
    SUBMISSION_GENERATE = 1,     /* a new sequence from a prompt */
    SUBMISSION_EXTEND = 2,       /* more tokens on the kept sequence of request `parent` */
    SUBMISSION_CANCEL = 3,       /* end request `request` early */
    SUBMISSION_SET_PRIORITY = 4, /* give request `request` the class in `priority` */
    SUBMISSION_DETACH = 5,       /* give up the kept sequence of request `request` */
};

enum submission_flags {
    SUBMISSION_KEEP = 1 << 0,       /* keep the sequence after its end, for SUBMISSION_EXTEND */
    SUBMISSION_IGNORE_EOS = 1 << 1, /* the model's own end tokens do not stop it */
    SUBMISSION_LOGITS = 1 << 2,     /* an EVENT_OUTPUT with all logits goes before each token */
    SUBMISSION_TIMES = 1 << 3,      /* EVENT_ACCEPTED tells exact times: two readings of a clock */
    SUBMISSION_WIDE = 1 << 15,      /* the second line of the slot is part of the submission */
    SUBMISSION_FLAGS_ALL = SUBMISSION_KEEP | SUBMISSION_IGNORE_EOS | SUBMISSION_LOGITS |
                           SUBMISSION_TIMES | SUBMISSION_WIDE,
};

enum priority { PRIORITY_BATCH = 0, PRIORITY_NORMAL = 1, PRIORITY_HIGH = 2, PRIORITY_REALTIME = 3 };

/* One slot of the submission ring: two cache lines, of which most submissions use the first alone.
 * Without SUBMISSION_WIDE the second line is neither written nor read and counts as zeros, so that
 * one line moves from processor to processor. Fields that an operation does not use must be zero,
 * as must the reserved ones: the daemon refuses the submission otherwise, so that they can gain a
 * meaning. */
struct submission {
    _Atomic uint32_t seq; /* ring.h: position + 1, stored last */
    uint8_t op;           /* enum submission_op */
    uint8_t priority;     /* enum priority */
    uint16_t flags;       /* enum submission_flags */

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

    uint32_t stop_ids[SUBMISSION_STOP_IDS]; /* besides the model's own */
    uint32_t stop_count;

    float repetition_penalty; /* reserved until the sampler knows them: 0 */
    float presence_penalty;
    float frequency_penalty;

    uint32_t extra_offset; /* reserved for records in the arena (biases, stop sequences): 0 */
    uint32_t extra_bytes;

    uint32_t reserved[4]; /* 0 */
};
static_assert(offsetof(struct submission, op) == 4, "layout");
static_assert(offsetof(struct submission, request) == 8, "layout");
static_assert(offsetof(struct submission, model) == 16, "layout");
static_assert(offsetof(struct submission, prompt_offset) == 20, "layout");
static_assert(offsetof(struct submission, max_tokens) == 28, "layout");
static_assert(offsetof(struct submission, first_token_deadline_ns) == 32, "layout");
static_assert(offsetof(struct submission, deadline_ns) == 40, "layout");
static_assert(offsetof(struct submission, temperature) == 48, "layout");
static_assert(offsetof(struct submission, seed) == 56, "layout");
static_assert(offsetof(struct submission, top_k) == LAYOUT_LINE_BYTES, "the second line");
static_assert(offsetof(struct submission, stop_ids) == 72, "layout");
static_assert(offsetof(struct submission, stop_count) == 88, "layout");
static_assert(offsetof(struct submission, repetition_penalty) == 92, "layout");
static_assert(offsetof(struct submission, extra_offset) == 104, "layout");
static_assert(offsetof(struct submission, reserved) == 112, "layout");

enum { SUBMISSION_SLOT_BYTES = 128, EVENT_SLOT_BYTES = 64 };
static_assert(sizeof(struct submission) == SUBMISSION_SLOT_BYTES, "ring.h copies whole slots");

enum event_kind {
    EVENT_ACCEPTED = 1, /* the prompt was taken: its place in the arena is free again */
    EVENT_TOKENS = 2,   /* `count` generated tokens, the first is number `index` */
    EVENT_OUTPUT = 3,   /* bulk data in the output arena */
    EVENT_DONE = 4,     /* the last event of a request */
    EVENT_OVERFLOW = 5, /* the reader was slow: the request stood still for `parked_ns` */
    EVENT_SHUTDOWN = 6, /* the last event of a session (request 0), `error` says why */
};

enum done_reason {
    DONE_STOP = 1,
    DONE_LENGTH = 2,
    DONE_DEADLINE = 3,
    DONE_CANCELLED = 4,
    DONE_REFUSED = 5,
    DONE_FAILED = 6,
    DONE_OVERFLOW = 7, /* the reader stayed slow for too long */
};

struct event_token {
    uint32_t id;
    float logprob; /* natural logarithm, of the distribution before temperature and filters */
};

struct event_accepted {
    uint64_t taken_ns; /* the engine's turn that took the submission, CLOCK_MONOTONIC; with
                          SUBMISSION_TIMES: right after it was taken from the ring */
    uint32_t prompt_tokens;
    uint32_t reserved0;
    uint64_t published_ns; /* SUBMISSION_TIMES: right before this event was stored; else 0 */
    uint32_t reserved[6];
};

struct event_output {
    uint32_t offset; /* bytes from the start of the output arena */
    uint32_t bytes;
    uint64_t release; /* store this into client_words.output_cursor when done with it */
    uint32_t reserved[8];
};

struct event_done {
    uint32_t prompt_tokens;    /* of the whole sequence so far, kept history included */
    uint32_t cached_tokens;    /* of these, how many needed no computation */
    uint32_t generated_tokens; /* by this request */
    int32_t error;             /* DONE_REFUSED, DONE_FAILED: negative errno */
    uint32_t retry_after_us;   /* DONE_REFUSED, -EAGAIN or -EDQUOT: when to come again */
    uint32_t queued_us;        /* taken until first scheduled */
    uint32_t prompt_us;        /* first scheduled until first token */
    uint32_t generate_us;      /* first token until last token */
    uint64_t taken_ns;
    uint64_t done_ns;
};

struct event_overflow {
    uint64_t parked_ns;
    uint32_t reserved[10];
};

struct event_shutdown {
    int32_t error; /* -EPROTO: the client broke the contract; -ESHUTDOWN: the daemon stops; -EFAULT:
                      a page of the client's half has failed; or an error of the daemon's own */
    uint32_t reserved[11];
};

/* One slot of the event ring. */
struct event {
    _Atomic uint32_t seq; /* ring.h */
    uint8_t kind;         /* enum event_kind */
    uint8_t reason;       /* enum done_reason, of EVENT_DONE */
    uint16_t count;       /* EVENT_TOKENS: valid entries of `tokens` */
    uint32_t request;
    uint32_t index;
    union {
        struct event_token tokens[EVENT_TOKENS_MAX];
        struct event_accepted accepted;
        struct event_output output;
        struct event_done done;
        struct event_overflow overflow;
        struct event_shutdown shutdown;
    };
};
static_assert(offsetof(struct event, kind) == 4, "layout");
static_assert(offsetof(struct event, request) == 8, "layout");
static_assert(offsetof(struct event, tokens) == 16, "layout");
static_assert(offsetof(struct event, done.taken_ns) == 48, "layout");
static_assert(sizeof(struct event) == EVENT_SLOT_BYTES, "layout");

/* The words that the client writes. */
struct client_words {
    _Atomic uint32_t event_cursor; /* events read so far, free-running, published lazily */
    uint8_t pad0[LAYOUT_PAIR_BYTES - 4];
    _Atomic uint32_t sleep; /* doorbell.h: how the client wants to be woken */
    uint8_t pad1[LAYOUT_PAIR_BYTES - 4];
    _Atomic uint64_t output_cursor; /* bytes of the output arena given back, free-running */
    uint8_t pad2[LAYOUT_PAIR_BYTES - 8];
};
static_assert(offsetof(struct client_words, sleep) == 128, "layout");
static_assert(offsetof(struct client_words, output_cursor) == 256, "layout");
static_assert(sizeof(struct client_words) == 384, "layout");

/* The words that the daemon writes. */
struct daemon_words {
    _Atomic uint32_t submission_cursor; /* submissions taken so far, free-running, lazily */
    uint8_t pad0[LAYOUT_PAIR_BYTES - 4];
    _Atomic uint32_t sleep; /* doorbell.h: DOORBELL_FD while the engine does not look by itself */
    uint8_t pad1[LAYOUT_PAIR_BYTES - 4];
};
static_assert(offsetof(struct daemon_words, sleep) == 128, "layout");
static_assert(sizeof(struct daemon_words) == 256, "layout");

/* The sizes of one session, settled by the handshake. */
struct geometry {
    uint32_t submission_slots; /* a power of two */
    uint32_t event_slots;      /* a power of two, at least 2 * max_requests + 2 */
    uint32_t max_requests;     /* a power of two; requests in flight or kept at once */
    uint32_t arena_bytes;      /* a multiple of LAYOUT_PAGE_BYTES */
    uint32_t output_bytes;     /* likewise, may be 0 */
    uint32_t stagger;          /* lines by which words and ring are shifted, < LAYOUT_STAGGERS */
};
static_assert(sizeof(struct geometry) == 24, "layout");

static inline uint64_t layout_pages(uint64_t bytes)
{
    return (bytes + LAYOUT_PAGE_BYTES - 1) / LAYOUT_PAGE_BYTES * LAYOUT_PAGE_BYTES;
}

static inline int layout_is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* Whether a session may have these sizes at all; policy (what this daemon grants) comes on top. */
static inline int geometry_is_valid(const struct geometry *g)
{
    return layout_is_power_of_two(g->submission_slots) && layout_is_power_of_two(g->event_slots) &&
           layout_is_power_of_two(g->max_requests) && g->submission_slots >= GEOMETRY_SLOTS_MIN &&
           g->submission_slots <= GEOMETRY_SLOTS_MAX && g->event_slots >= GEOMETRY_SLOTS_MIN &&
           g->event_slots <= GEOMETRY_SLOTS_MAX && g->max_requests <= GEOMETRY_REQUESTS_MAX &&
           g->event_slots >= 2 * g->max_requests + 2 &&
           g->arena_bytes >= GEOMETRY_ARENA_BYTES_MIN &&
           g->arena_bytes <= GEOMETRY_ARENA_BYTES_MAX && g->arena_bytes % LAYOUT_PAGE_BYTES == 0 &&
           g->output_bytes <= GEOMETRY_OUTPUT_BYTES_MAX &&
           g->output_bytes % LAYOUT_PAGE_BYTES == 0 && g->stagger < LAYOUT_STAGGERS;
}

/* Where things lie in the client half; all offsets in bytes. */
static inline uint64_t client_half_words(const struct geometry *g)
{
    return (uint64_t)g->stagger * LAYOUT_LINE_BYTES;
}

static inline uint64_t client_half_ring(const struct geometry *g)
{
    return client_half_words(g) + sizeof(struct client_words);
}

static inline uint64_t client_half_arena(const struct geometry *g)
{
    return layout_pages(LAYOUT_STAGGERS * LAYOUT_LINE_BYTES + sizeof(struct client_words) +
                        (uint64_t)g->submission_slots * SUBMISSION_SLOT_BYTES);
}

static inline uint64_t client_half_bytes(const struct geometry *g)
{
    return client_half_arena(g) + g->arena_bytes;
}

/* The same for the daemon half. */
static inline uint64_t daemon_half_words(const struct geometry *g)
{
    return (uint64_t)g->stagger * LAYOUT_LINE_BYTES;
}

static inline uint64_t daemon_half_ring(const struct geometry *g)
{
    return daemon_half_words(g) + sizeof(struct daemon_words);
}

static inline uint64_t daemon_half_arena(const struct geometry *g)
{
    return layout_pages(LAYOUT_STAGGERS * LAYOUT_LINE_BYTES + sizeof(struct daemon_words) +
                        (uint64_t)g->event_slots * EVENT_SLOT_BYTES);
}

static inline uint64_t daemon_half_bytes(const struct geometry *g)
{
    return daemon_half_arena(g) + g->output_bytes;
}

/* The board: one for all clients, written by the daemon alone. Every counter stands by itself, is
 * stored relaxed and may be a little older than its neighbour. */
enum { BOARD_MAGIC = 0x424c4741 /* "AGLB" */, BOARD_VERSION = 2 + BOARD_VERSION_AHEAD };

enum board_state { BOARD_STARTING = 0, BOARD_SERVING = 1, BOARD_DRAINING = 2 };

struct board_model {
    char name[64];           /* NUL-terminated */
    char architecture[32];   /* as in config.json */
    char folder[256];        /* absolute path; empty for a model without files */
    uint32_t vocab_size;     /* ids below it are valid in a prompt */
    uint32_t context_tokens; /* prompt and answer together */
    uint32_t eos_ids[BOARD_EOS_MAX];
    uint32_t eos_count;
    uint32_t block_tokens; /* tokens of one cache block */
    uint32_t blocks;       /* cache blocks in all */
    _Atomic uint32_t blocks_free;
    uint64_t weights_bytes;
    uint64_t bytes_per_token; /* weights read to decode one token at batch 1 */
    uint64_t cache_bytes;
    _Atomic uint64_t prompt_tokens; /* computed since start */
    _Atomic uint64_t generated_tokens;
    _Atomic uint64_t steps;
    _Atomic uint64_t busy_ns; /* spent in those steps */
};
static_assert(offsetof(struct board_model, vocab_size) == 352, "layout");
static_assert(offsetof(struct board_model, blocks_free) == 404, "layout");
static_assert(sizeof(struct board_model) == 464, "layout");

struct board {
    uint32_t magic;   /* BOARD_MAGIC */
    uint32_t version; /* BOARD_VERSION */
    uint32_t bytes;   /* sizeof(struct board) */
    uint32_t daemon_pid;
    char instance[32];
    char daemon_version[16];
    char backend[32];
    uint64_t start_ns;
    _Atomic uint32_t state;        /* enum board_state */
    uint32_t model_count;          /* fixed before the first client is let in */
    _Atomic uint64_t heartbeat_ns; /* the engine's last turn, CLOCK_MONOTONIC */
    _Atomic uint64_t steps;        /* completed steps of all models */
    _Atomic uint32_t sessions;
    _Atomic uint32_t requests_queued;
    _Atomic uint32_t requests_running;
    _Atomic uint32_t reserved0;
    _Atomic uint64_t sessions_total;
    _Atomic uint64_t sessions_broken; /* broke the contract, also that of the
                                         handshake; or ended for another error */
    _Atomic uint64_t requests_total;
    _Atomic uint64_t requests_refused;
    _Atomic uint64_t requests_done;
    _Atomic uint64_t sessions_refused; /* handshakes that were sent away, for whatever reason */
    uint64_t reserved1[7];
    struct board_model models[BOARD_MODELS_MAX];
};
static_assert(offsetof(struct board, start_ns) == 96, "layout");
static_assert(offsetof(struct board, heartbeat_ns) == 112, "layout");
static_assert(offsetof(struct board, sessions_refused) == 184, "layout");
static_assert(offsetof(struct board, models) == 248, "layout");

#endif
