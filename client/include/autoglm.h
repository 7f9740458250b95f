/*
 * autoglm.h - the client library of autoglm, a host service that holds GLM language models and
 * serves the processes beside it through lock-free rings in shared memory.
 *
 * In short: agl_connect(), agl_prompt() for a place in shared memory, write token ids there,
 * agl_submit(), agl_wait() or agl_poll() for events, agl_close(). Text is turned into ids and back
 * by the tokenizer functions at the end, which need no connection.
 *
 * Errors are negative errno values; agl_strerror() gives a sentence, agl_error_detail() what
 * exactly was wrong. A call that fails changes nothing and leaves its outputs (ret_...) untouched.
 *
 * Threads: one client is used by one thread at a time; several clients in a process are
 * independent. A tokenizer may be used by many threads at once; a detokenizer by one.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC (agl_now_ns()). Strings are UTF-8.
 */
#ifndef AUTOGLM_H
#define AUTOGLM_H

#include <stddef.h>
#include <stdint.h>

#define AGL_VERSION_MAJOR 0
#define AGL_VERSION_MINOR 1
#define AGL_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ---------------------------------------------------------------------------------- */

/* A sentence for an error returned by this library (negative errno), never NULL. */
const char *agl_strerror(int error);

/* What exactly went wrong in this thread's last failing call: names the file, field or value. Never
 * NULL; valid until the thread's next failing call. */
const char *agl_error_detail(void);

/* The library's version, "0.1.0". */
const char *agl_version(void);

/* CLOCK_MONOTONIC now, for deadlines. */
uint64_t agl_now_ns(void);

/* ---- connection ------------------------------------------------------------------------------ */

struct agl_client;

/* How agl_wait() waits. */
enum agl_wait_mode {
    AGL_WAIT_ADAPTIVE = 0, /* spin as long as an event is likely to come soon, then sleep */
    AGL_WAIT_SPIN = 1,     /* never sleep: a whole core for the shortest latency */
    AGL_WAIT_SLEEP = 2     /* never spin */
};

/* Options of agl_connect(). Begin with AGL_OPTIONS_INIT; 0 means the default everywhere. */
struct agl_options {
    size_t size_bytes;       /* sizeof(struct agl_options) */
    const char *socket_path; /* NULL: $AUTOGLM_SOCKET, else /run/autoglm/autoglm.sock */
    const char *name;        /* for the daemon's log; NULL: the program's name */
    uint64_t timeout_ns;     /* for the whole of agl_connect(); default 5 s */
    uint32_t max_requests; /* in flight or kept at once, rounded up to a power of two; default 16 */
    uint32_t prompt_tokens; /* room for prompts not yet taken by the daemon; default 32,768 */
    uint32_t output_bytes;  /* room for logits; default 0: AGL_LOGITS is refused */
    uint32_t wait_mode;     /* enum agl_wait_mode */
    uint64_t spin_ns;       /* AGL_WAIT_ADAPTIVE: spin no longer than this; default 50 us, and none
                               on a machine with one processor */
};
#define AGL_OPTIONS_INIT                                   \
    {                                                      \
        sizeof(struct agl_options), 0, 0, 0, 0, 0, 0, 0, 0 \
    }

/* Connects to the daemon; blocks for at most timeout_ns. options may be NULL.
 * -ENOENT, -ECONNREFUSED: no daemon there; -EACCES: not allowed; -EPROTONOSUPPORT: versions differ;
 * -EUSERS: the daemon has no session left for this user; -ETIMEDOUT; -EINVAL; -ENOMEM. */
int agl_connect(struct agl_client **ret_client, const struct agl_options *options);

/* Ends the session: the daemon cancels what still runs. NULL does nothing. */
void agl_close(struct agl_client *client);

/* ---- models ---------------------------------------------------------------------------------- */

enum { AGL_EOS_MAX = 8 };

struct agl_model {
    char name[64];
    char architecture[32];
    char folder[256];        /* where the daemon read it from; its tokenizer is there too */
    uint32_t vocab_size;     /* prompt ids must be below it */
    uint32_t context_tokens; /* prompt and answer together */
    uint32_t eos_ids[AGL_EOS_MAX];
    uint32_t eos_count;
    uint64_t weights_bytes;
    uint64_t bytes_per_token; /* weights read to decode one token alone */
    uint32_t block_tokens;    /* tokens of one cache block */
    uint32_t blocks;          /* cache blocks in all */
    uint32_t blocks_free;     /* the rest of the struct changes while the daemon works */
    uint64_t prompt_tokens;   /* computed since the daemon's start */
    uint64_t generated_tokens;
    uint64_t steps;
    uint64_t busy_ns;     /* spent in those steps */
    uint64_t reserved[8]; /* 0 */
};

/* Number of models held by the daemon; 0 or more. */
int agl_model_count(const struct agl_client *client);

/* Describes model `index`. -EINVAL: no such index. */
int agl_model(const struct agl_client *client, uint32_t index, struct agl_model *ret_model);

/* The index of the model of that name (NULL: the first). -ENOENT: none, the detail lists them. */
int agl_model_find(const struct agl_client *client, const char *name);

/* ---- the daemon's state ---------------------------------------------------------------------- */

enum agl_state { AGL_STATE_STARTING = 0, AGL_STATE_SERVING = 1, AGL_STATE_DRAINING = 2 };

struct agl_status {
    char instance[32];
    char daemon_version[16];
    char backend[32];
    uint32_t daemon_pid;
    uint32_t state;        /* enum agl_state */
    uint64_t start_ns;     /* CLOCK_MONOTONIC */
    uint64_t heartbeat_ns; /* the engine's last sign of life: at most a second or two ago */
    uint64_t steps;        /* completed by all models */
    uint32_t model_count;
    uint32_t sessions;
    uint32_t requests_queued;
    uint32_t requests_running;
    uint64_t sessions_total;
    uint64_t sessions_broken; /* ended for breaking the contract */
    uint64_t requests_total;
    uint64_t requests_refused;
    uint64_t requests_done;
    uint64_t sessions_refused; /* connections that were sent away, for whatever reason */
    uint64_t reserved[8];      /* 0 */
};

/* The daemon's state as of now, read from memory that it shares; no system call. */
int agl_status(const struct agl_client *client, struct agl_status *ret_status);

/* The same without a connection, from the named object /autoglm.INSTANCE (NULL: "default"), up to a
 * second old; and the first `capacity` models. -ENOENT: no such daemon; -EACCES: not in its group;
 * -EPROTONOSUPPORT: versions differ; -EPROTO: no board. */
int agl_status_of(const char *instance, struct agl_status *ret_status, struct agl_model *ret_models,
                  uint32_t capacity);

/* ---- requests -------------------------------------------------------------------------------- */

enum agl_priority {
    AGL_PRIORITY_BATCH = 0,
    AGL_PRIORITY_NORMAL = 1,
    AGL_PRIORITY_HIGH = 2,
    AGL_PRIORITY_REALTIME = 3
};

enum agl_request_flags {
    AGL_KEEP = 1 << 0,       /* keep the sequence when the answer ends, to continue it */
    AGL_IGNORE_EOS = 1 << 1, /* the model's own end tokens do not end the answer */
    AGL_LOGITS = 1 << 2,     /* an AGL_EVENT_LOGITS goes before each token; needs output_bytes */
    AGL_TIMES = 1 << 3       /* AGL_EVENT_ACCEPTED tells exact times (two readings of a clock) */
};

enum { AGL_STOP_IDS_MAX = 4 };

/* A request. Begin with AGL_REQUEST_INIT. */
struct agl_request {
    size_t size_bytes;      /* sizeof(struct agl_request) */
    uint32_t model;         /* index, see agl_model_find() */
    uint32_t prompt_tokens; /* how many ids were written at agl_prompt()'s place, from its start */
    uint32_t max_tokens; /* generate at most so many; default 256; cut to what the context holds */
    uint32_t flags;      /* enum agl_request_flags */
    uint32_t continues;  /* id of an ended request with AGL_KEEP: the prompt goes on after its
                            answer, without sending or computing the history again; 0: new */
    uint32_t priority;   /* enum agl_priority */
    float temperature;   /* 0: greedy */
    float top_p;         /* keep the most likely ids that reach this sum; 1: off */
    float min_p;         /* keep ids at least this fraction as likely as the best; 0: off */
    uint32_t top_k;      /* keep the k most likely ids; 0: off */
    uint64_t seed;       /* same seed, same request: same tokens, whatever else runs */
    uint64_t first_token_deadline_ns; /* absolute; 0: none */
    uint64_t deadline_ns;             /* absolute, of the whole answer; 0: none */
    uint32_t stop_ids[AGL_STOP_IDS_MAX];
    uint32_t stop_count;
    uint32_t reserved; /* 0 */
};
#define AGL_REQUEST_INIT                                                                          \
    {                                                                                             \
        sizeof(struct agl_request), 0, 0, 256, 0, 0, AGL_PRIORITY_NORMAL, 0.0f, 1.0f, 0.0f, 0, 0, \
            0, 0, {0, 0, 0, 0}, 0, 0                                                              \
    }

/* Gives a place in shared memory for `tokens` ids; write the prompt there and call agl_submit().
 * Asking again before that moves the place. -EAGAIN: no room until the daemon has taken earlier
 * prompts (read events, try again); -EMSGSIZE: more than options.prompt_tokens; -EPIPE. */
int agl_prompt(struct agl_client *client, uint32_t tokens, uint32_t **ret_tokens);

/* Hands the prompt to the daemon. Returns the request's id (> 0) in *ret_request; its events
 * follow. -EAGAIN: the ring is full or max_requests are in flight; -EINVAL: a field makes no sense;
 * -ENOENT: `continues` names nothing kept; -EPIPE: the daemon is gone. */
int agl_submit(struct agl_client *client, const struct agl_request *request, uint32_t *ret_request);

/* Asks to end a request; its AGL_EVENT_DONE still comes (reason cancelled, or whatever was first).
 * -ENOENT: no such request in flight; -EAGAIN; -EPIPE. */
int agl_cancel(struct agl_client *client, uint32_t request);

/* Changes the class of a request in flight. Errors as agl_cancel(). */
int agl_set_priority(struct agl_client *client, uint32_t request, uint32_t priority);

/* Gives up the kept sequence of an ended request. Errors as agl_cancel(). */
int agl_forget(struct agl_client *client, uint32_t request);

enum agl_request_state {
    AGL_REQUEST_SUBMITTED = 1, /* not accepted yet: of a dead daemon nobody knows if it was seen */
    AGL_REQUEST_RUNNING = 2,   /* accepted, its AGL_EVENT_DONE has not been read yet */
    AGL_REQUEST_KEPT = 3       /* done, and kept to be continued */
};

/* What this client knows of a request from the events that it has read: enum agl_request_state, and
 * the number of tokens received so far (ret_tokens may be NULL). Also after the session's end
 * (-EPIPE), so that the caller can tell what was lost. -ENOENT: no such request, or it is done. */
int agl_request_state(const struct agl_client *client, uint32_t request, uint32_t *ret_tokens);

/* ---- events ---------------------------------------------------------------------------------- */

enum agl_event_kind {
    AGL_EVENT_ACCEPTED = 1, /* the daemon has taken the prompt */
    AGL_EVENT_TOKENS = 2,
    AGL_EVENT_LOGITS = 3,
    AGL_EVENT_DONE = 4,
    AGL_EVENT_OVERFLOW = 5, /* this client read too slowly: the request stood still for a while */
    AGL_EVENT_SHUTDOWN = 6  /* the daemon ends the session; `error` says why */
};

enum agl_done_reason {
    AGL_DONE_STOP = 1,   /* an end or stop token; it is not among the tokens */
    AGL_DONE_LENGTH = 2, /* max_tokens, or the context is full */
    AGL_DONE_DEADLINE = 3,
    AGL_DONE_CANCELLED = 4,
    AGL_DONE_REFUSED = 5, /* never started; `error` and `retry_after_ns` say more */
    AGL_DONE_FAILED = 6,  /* `error` says why */
    AGL_DONE_OVERFLOW = 7 /* this client stayed too slow for too long */
};

struct agl_token {
    uint32_t id;
    float logprob; /* natural logarithm of its probability before temperature and filters */
};

enum { AGL_EVENT_TOKENS_MAX = 6 };

struct agl_event {
    uint32_t kind;    /* enum agl_event_kind */
    uint32_t request; /* 0 for AGL_EVENT_SHUTDOWN */
    /* AGL_EVENT_TOKENS */
    uint32_t index; /* the first token is number `index` of the answer */
    uint32_t token_count;
    struct agl_token tokens[AGL_EVENT_TOKENS_MAX];
    /* AGL_EVENT_LOGITS: f32 [logit_count] in shared memory, valid until the next agl_poll() or
     * agl_wait() of this client. */
    uint32_t logit_count;
    const float *logits;
    /* AGL_EVENT_DONE */
    uint32_t reason; /* enum agl_done_reason */
    int error;
    uint64_t retry_after_ns;
    uint32_t prompt_tokens;    /* of the whole sequence, kept history included */
    uint32_t cached_tokens;    /* of these, how many needed no computation */
    uint32_t generated_tokens; /* by this request */
    uint64_t taken_ns;         /* when the engine took it (also of AGL_EVENT_ACCEPTED) */
    uint64_t queued_ns;        /* taken until first scheduled */
    uint64_t prompt_ns;        /* first scheduled until first token */
    uint64_t generate_ns;      /* first token until last token */
    /* AGL_EVENT_OVERFLOW */
    uint64_t parked_ns;
    /* AGL_EVENT_ACCEPTED of a request with AGL_TIMES: when the event was stored; taken_ns is then
     * when the submission was taken from the ring, else that of the engine's turn. */
    uint64_t published_ns;
    uint64_t reserved[4]; /* 0 */
};

/* Takes the next event without waiting. 1: *ret_event is filled; 0: nothing there; -EPIPE: the
 * daemon is gone; -EPROTO: it broke the contract. Makes no system call unless agl_fd() is in use,
 * and so does not notice by itself that the daemon has died: agl_wait() does, even with timeout_ns
 * 0. */
int agl_poll(struct agl_client *client, struct agl_event *ret_event);

/* The same, waiting for at most timeout_ns (UINT64_MAX: for ever, though never beyond the life of
 * the daemon). 1; -ETIMEDOUT; -EPIPE; -EPROTO; -EINTR: a signal came. */
int agl_wait(struct agl_client *client, struct agl_event *ret_event, uint64_t timeout_ns);

/* A descriptor for the caller's own poll, epoll or io_uring loop: readable when events may be there
 * or the daemon is gone. Read events with agl_poll() until it returns 0 and only then sleep on it;
 * never read from it. It belongs to the client and is closed by agl_close(). */
int agl_fd(struct agl_client *client);

/* A word for a done reason ("stop", "length", ...), for people. */
const char *agl_reason_name(uint32_t reason);

/* ---- text ------------------------------------------------------------------------------------ */

struct agl_tokenizer;

/* Opens a tokenizer: a `tokenizer.json` (byte-level BPE), a GLM-4 `tokenizer.model` (base64 ranks),
 * or a model folder that holds one of them, with tokenizer_config.json beside it.
 * -ENOENT: nothing there; -EINVAL: not understood, the detail names file and field; -ENOMEM. */
int agl_tokenizer_open(struct agl_tokenizer **ret_tokenizer, const char *path);

/* NULL does nothing. */
void agl_tokenizer_close(struct agl_tokenizer *tokenizer);

/* One more than the highest id. */
uint32_t agl_tokenizer_size(const struct agl_tokenizer *tokenizer);

/* Turns `bytes` bytes of text into ids. The text is taken as plain text: nothing in it ever becomes
 * a special token. Any bytes are accepted; those that are not UTF-8 are split byte by byte.
 * Returns the number of ids the text has, of which the first `capacity` were written to ret_ids (so
 * call again with more room if it is larger); -E2BIG: more than INT32_MAX; -EILSEQ: the vocabulary
 * has no token for one of its bytes (no GLM vocabulary lacks any); -ENOMEM. */
int agl_encode(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes,
               uint32_t *ret_ids, size_t capacity);

/* The id of a special or added token by its exact text ("<|user|>"). -ENOENT: none of that name. */
int agl_special_id(const struct agl_tokenizer *tokenizer, const char *text);

/* The bytes of one id, valid as long as the tokenizer; not NUL-terminated, maybe not whole UTF-8.
 * Special tokens give their text. -EINVAL: no such id. */
int agl_token_bytes(const struct agl_tokenizer *tokenizer, uint32_t id, const char **ret_text,
                    size_t *ret_bytes);

/* 1: the id is a special token (not for users' eyes); 0: not. */
int agl_token_is_special(const struct agl_tokenizer *tokenizer, uint32_t id);

/* Turns ids into text, special tokens included by their text, incomplete UTF-8 as U+FFFD. Returns
 * the number of bytes the text has, of which the first `capacity` were written (no NUL is added).
 * -EINVAL: no such id; -E2BIG: more than INT32_MAX bytes. */
int agl_decode(const struct agl_tokenizer *tokenizer, const uint32_t *ids, size_t count,
               char *ret_text, size_t capacity);

/* Ids to text as they come: never gives out half a character. Special tokens give no text. */
struct agl_detokenizer;

int agl_detokenizer_open(struct agl_detokenizer **ret_detokenizer,
                         const struct agl_tokenizer *tokenizer);
void agl_detokenizer_close(struct agl_detokenizer *detokenizer);

/* Takes one id and gives the text that became whole with it, maybe empty: *ret_bytes bytes at
 * *ret_text, valid until the next call. -EINVAL: no such id; -ENOMEM. */
int agl_detokenizer_push(struct agl_detokenizer *detokenizer, uint32_t id, const char **ret_text,
                         size_t *ret_bytes);

/* Gives what is left at the end of a text (incomplete UTF-8 as U+FFFD) and starts anew. */
int agl_detokenizer_finish(struct agl_detokenizer *detokenizer, const char **ret_text,
                           size_t *ret_bytes);

struct agl_message {
    const char *role;    /* "system", "user", "assistant", "observation" */
    const char *content; /* plain text, UTF-8, NUL-terminated */
};

enum agl_chat_flags {
    AGL_CHAT_GENERATE = 1 << 0, /* end with the header that the model's answer follows */
    AGL_CHAT_CONTINUE = 1 << 1  /* these messages go on behind an answer (agl_request.continues): no
                                   opening tokens, but what the format wants behind an answer */
};

/* Renders messages to ids by the model's chat format. Contents stay plain text. Returns the number
 * of ids, of which the first `capacity` were written. -ENOTSUP: no chat format is known for this
 * tokenizer; -EINVAL: a role that the format does not know, named in the detail. */
int agl_chat_encode(const struct agl_tokenizer *tokenizer, const struct agl_message *messages,
                    size_t count, uint32_t flags, uint32_t *ret_ids, size_t capacity);

/* The name of the chat format in use ("glm4", "glm4-0414", "glm-edge", ...); NULL: none. */
const char *agl_chat_format(const struct agl_tokenizer *tokenizer);

/* Chooses the chat format by name instead of the one found in the model's files; call before the
 * tokenizer is shared between threads. -ENOENT: no such format; -ENOTSUP: the vocabulary lacks its
 * tokens. */
int agl_chat_set_format(struct agl_tokenizer *tokenizer, const char *name);

#ifdef __cplusplus
}
#endif

#endif
