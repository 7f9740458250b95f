/*
 * autoglm.h - the client library of autoglm, a host service that holds GLM language models and
 * serves the processes beside it through lock-free rings in shared memory.
 *
 * In short: agl_connect(), agl_prompt() for a place in shared memory, write token ids there,
 * agl_submit(), agl_wait() or agl_poll() for events, agl_close(). Text is turned into ids and back
 * by the tokenizer functions at the end, which need no connection. This file is the reference;
 * section 3 of the manual has it page by page, examples/ has whole programs.
 *
 * Every function
 *
 *   - returns 0, a count or an index on success and a negative errno on failure, unless it says
 *     otherwise. A call that fails changes nothing and leaves its outputs (ret_...) untouched.
 *     agl_strerror() gives a sentence for the number, agl_error_detail() says what exactly was
 *     wrong. errno itself means nothing.
 *   - neither blocks, nor makes a system call, nor allocates, unless it says so.
 *   - wants pointers that are not NULL, unless it says so.
 *   - starts no thread, changes no signal's handling, raises no SIGPIPE, prints nothing.
 *   - may not be called in a signal handler; agl_now_ns() may.
 *
 * Threads. One client is used by one thread at a time: threads that share one need a lock of
 * their own around every call. Different clients in a process are independent. agl_model_count(),
 * agl_model(), agl_model_find() and agl_status() only read what the daemon writes, and may be
 * called by any thread at any time until agl_close(). A tokenizer may be used by many threads at
 * once, a detokenizer by one at a time. What belongs to no object may be called by any thread.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC (agl_now_ns()). Strings are UTF-8.
 *
 * Versions. Structs that a caller fills begin with their size, so that they can grow: a program
 * built with a newer header runs with this library as long as the fields that it does not know are
 * 0. Structs that are filled for the caller have room in reserve.
 *
 *
 * THE LIFE OF A CONNECTION
 *
 * agl_connect() makes a session with the daemon: memory that both share, and a socket that shows to
 * each whether the other one lives. The session belongs to the process that connected, and ends
 * with it: after fork() the child may call agl_close(), which does not disturb the parent, and
 * nothing else. The descriptors are close-on-exec.
 *
 * It ends in one of these ways:
 *
 *   agl_close()                The daemon cancels what runs and drops what it kept.
 *   The daemon stops, or this  Every request that it has taken ends with its AGL_EVENT_DONE, then
 *   process broke the          comes AGL_EVENT_SHUTDOWN, then -EPIPE.
 *   contract.
 *   The daemon dies.           What it told before is still delivered, then -EPIPE. Nothing else
 *                              comes: agl_request_state() tells what is lost.
 *   The daemon breaks the      -EPROTO at once.
 *   contract.
 *
 * A daemon that is made to stop at once just goes: that looks like death. One whose device fails
 * ends every request with AGL_DONE_FAILED, and goes without AGL_EVENT_SHUTDOWN.
 *
 * The end stays: from then on every call that needs the daemon returns that error (below: -EPIPE,
 * -EPROTO), agl_error_detail() has the reason, and what is left to do is agl_close() and, if
 * wanted, agl_connect() anew. Death is noticed by agl_wait() and agl_poll() in about 100 ms, by who
 * sleeps on agl_fd() at once; agl_submit() and the like do not notice it.
 *
 *
 * THE LIFE OF A REQUEST
 *
 *   agl_prompt()       a place in shared memory; it is the caller's until agl_submit()
 *   agl_submit()       the request, with an id; its place is the daemon's: do not write there
 *     ACCEPTED         the daemon has copied the prompt, its place is free for another one
 *     TOKENS ...       the answer, token by token; with AGL_LOGITS a LOGITS before each; an
 *                      OVERFLOW where the request stood still since this client did not read
 *     DONE             the end, with its reason; with AGL_KEEP the sequence waits to be continued
 *
 * Events of one request come in this order, each token exactly once; events of different requests
 * come in any. A DONE without ACCEPTED means that the request never began: refused (`error` says
 * why), or its deadline had passed. Every request that the daemon takes has exactly one DONE, even
 * a cancelled one, and even if its client reads nothing meanwhile: room for it is set aside.
 *
 * A client that does not read its events stops its own requests (when the ring for events is full)
 * and nobody else's; after slow_reader_ms (autoglm.conf(5)) they end with AGL_DONE_OVERFLOW.
 *
 * A request kept with AGL_KEEP takes one of max_requests until agl_forget(), or until a request
 * that `continues` it is accepted; from then on the sequence is the new request's, and the old id
 * is no more. If that request is not accepted, the old one is kept as before. The daemon may drop
 * the computed state of what is kept (it is then computed again: cached_tokens tells) or, short of
 * room, the sequence itself: the request that continues it is then refused with -ENOENT.
 *
 *
 * MEMORY
 *
 * agl_submit() publishes whatever the calling thread wrote before it; nobody needs a fence. Logits
 * are in the daemon's memory and readable until the next agl_poll() or agl_wait() of that client.
 * The daemon copies and checks everything that it reads: a client that changes a prompt after
 * agl_submit() spoils its own answers, no more.
 *
 *
 * WAITING
 *
 *   agl_poll()   looks and comes back.
 *   agl_wait()   spins as long as an event is likely soon, then sleeps until the daemon wakes it.
 *   agl_fd()     a descriptor for a loop of one's own.
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

/* A sentence for an error of this library, `error` or -error alike; a constant string, never NULL.
 * Any thread. */
const char *agl_strerror(int error);

/* What exactly was wrong in this thread's last failing call: names the file, field or value. Calls
 * that succeed leave it; so do errors that come in events. Never NULL, "" before the first. Valid
 * until the thread's next failing call, or its end. */
const char *agl_error_detail(void);

/* The version of the library that runs, "0.1.0"; AGL_VERSION_... are those of the header. Any
 * thread. */
const char *agl_version(void);

/* CLOCK_MONOTONIC now, for deadlines. Any thread, and signal handlers. */
uint64_t agl_now_ns(void);

/* ---- connection ------------------------------------------------------------------------------ */

struct agl_client;

/* How agl_wait() waits. */
enum agl_wait_mode {
    AGL_WAIT_ADAPTIVE = 0, /* spin as long as an event is likely to come soon, then sleep */
    AGL_WAIT_SPIN = 1,     /* never sleep: a whole core for the shortest latency */
    AGL_WAIT_SLEEP = 2     /* never spin */
};

/* Options of agl_connect(). Begin with AGL_OPTIONS_INIT; 0 means the default everywhere. The daemon
 * may grant less than the three sizes say: its own limits are the session.* of autoglm.conf(5). */
struct agl_options {
    size_t size_bytes;       /* sizeof(struct agl_options) */
    const char *socket_path; /* NULL: $AUTOGLM_SOCKET, else /run/autoglm/autoglm.sock */
    const char *name;        /* for the daemon's log, 31 bytes of it; NULL: the program's name */
    uint64_t timeout_ns;     /* for the whole of agl_connect(); default 5 s; UINT64_MAX: none */
    uint32_t max_requests;   /* in flight or kept at once; rounded up to a power of two, from 2 to
                                1024; default 16 */
    uint32_t prompt_tokens; /* room for prompts not yet taken by the daemon, and so the longest one;
                               default 32,768; at most 16,777,216 */
    uint32_t output_bytes;  /* room for logits; default 0: AGL_LOGITS is refused; at most 64 MiB */
    uint32_t wait_mode;     /* enum agl_wait_mode */
    uint64_t spin_ns;       /* AGL_WAIT_ADAPTIVE: spin no longer than this; default 50 us, and none
                               on a machine with one processor */
};
#define AGL_OPTIONS_INIT                                   \
    {                                                      \
        sizeof(struct agl_options), 0, 0, 0, 0, 0, 0, 0, 0 \
    }

/* Connects to the daemon. options may be NULL; nothing of it is kept. On success *ret_client is the
 * caller's, to be closed with agl_close().
 * Blocks for at most timeout_ns; signals do not end it. Makes system calls and allocates:
 * shared memory of some 4 * prompt_tokens + output_bytes.
 *   -ENOENT, -ECONNREFUSED   no daemon there
 *   -EACCES                  the socket's permissions or the daemon do not allow this user
 *   -EUSERS                  the daemon has no session left, or none for this user
 *   -EDQUOT                  this user's sessions have all the memory that one user's may have
 *   -EPROTONOSUPPORT         client and daemon speak different versions
 *   -ETIMEDOUT               not within timeout_ns, or not within the daemon's handshake_ms
 *   -ESHUTDOWN               the daemon stops
 *   -EPIPE                   the daemon closed the connection
 *   -EPROTO                  what answers is not a daemon that keeps to the contract
 *   -EINVAL                  a field of options makes no sense, or the path is too long (107 bytes)
 *   -ENOMEM, -EMFILE, -ENFILE   none left, here or in the daemon
 * or what socket(2), connect(2) or memfd_create(2) say. */
int agl_connect(struct agl_client **ret_client, const struct agl_options *options);

/* Ends the session and frees the client: the daemon cancels what still runs and drops what is kept.
 * Places, logits and the descriptor of agl_fd() are gone with it. Makes system calls, waits for
 * nobody. NULL does nothing. */
void agl_close(struct agl_client *client);

/* ---- models ---------------------------------------------------------------------------------- */

enum { AGL_EOS_MAX = 8 };

struct agl_model {
    char name[64];
    char architecture[32];
    char folder[256];        /* where the daemon read it from; its tokenizer is there too; "" for
                                a model without files */
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

/* Number of models held by the daemon; it does not change during a session. Never fails. Any
 * thread. */
int agl_model_count(const struct agl_client *client);

/* Describes model `index`, 0 to agl_model_count() - 1. Any thread.
 *   -EINVAL   no such index */
int agl_model(const struct agl_client *client, uint32_t index, struct agl_model *ret_model);

/* The index of the model of that name (NULL: the first). Any thread.
 *   -ENOENT   none, the detail lists them */
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
    uint64_t heartbeat_ns; /* the engine's last sign of life: at most a second or two ago, or one
                              step if that takes longer */
    uint64_t steps;        /* completed by all models */
    uint32_t model_count;
    uint32_t sessions;
    uint32_t requests_queued;
    uint32_t requests_running;
    uint64_t sessions_total;
    uint64_t sessions_broken; /* broke the contract; or, rarely, were ended for another error */
    uint64_t requests_total;
    uint64_t requests_refused;
    uint64_t requests_done;
    uint64_t sessions_refused; /* connections that were sent away, for whatever reason */
    uint64_t reserved[8];      /* 0 */
};

/* The daemon's state as of now, read from memory that it shares; each number stands by itself.
 * Returns 0, and after the daemon's end its last state. Any thread. */
int agl_status(const struct agl_client *client, struct agl_status *ret_status);

/* The same without a connection, from the named object /autoglm.INSTANCE (NULL: "default"), up to a
 * second old; and the first `capacity` of its model_count models (ret_models may be NULL if that
 * is 0). A daemon that was killed leaves the object behind: heartbeat_ns then stands still.
 * Any thread. Makes system calls and waits for nobody.
 *   -ENOENT   no such daemon
 *   -EACCES   not in its group
 *   -EPROTO   not a board; -EPROTONOSUPPORT: one of another version
 *   -EINVAL   the instance is empty, longer than 31 bytes, or has a / in it
 * or what shm_open(3) or pread(2) say. */
int agl_status_of(const char *instance, struct agl_status *ret_status, struct agl_model *ret_models,
                  uint32_t capacity);

/* ---- requests -------------------------------------------------------------------------------- */

/* Requests wait by class, the higher one first; within a class, first come, first served. */
enum agl_priority {
    AGL_PRIORITY_BATCH = 0,
    AGL_PRIORITY_NORMAL = 1,
    AGL_PRIORITY_HIGH = 2,
    AGL_PRIORITY_REALTIME = 3
};

enum agl_request_flags {
    AGL_KEEP = 1 << 0,       /* keep the sequence when the answer ends, to continue it; not if it is
                                refused or failed */
    AGL_IGNORE_EOS = 1 << 1, /* the model's own end tokens do not end the answer */
    AGL_LOGITS = 1 << 2,     /* an AGL_EVENT_LOGITS goes before each token; needs output_bytes */
    AGL_TIMES = 1 << 3       /* AGL_EVENT_ACCEPTED tells exact times (two readings of a clock) */
};

enum { AGL_STOP_IDS_MAX = 4 };

/* A request. Begin with AGL_REQUEST_INIT. */
struct agl_request {
    size_t size_bytes;      /* sizeof(struct agl_request) */
    uint32_t model;         /* index, see agl_model_find() */
    uint32_t prompt_tokens; /* how many ids were written at agl_prompt()'s place, from its start; 0
                               only with `continues` */
    uint32_t max_tokens;    /* generate at most so many, at least 1; default 256; cut to what the
                               context holds */
    uint32_t flags;         /* enum agl_request_flags */
    uint32_t continues;     /* id of an ended request with AGL_KEEP: the prompt goes on after its
                               answer, without sending or computing the history again; 0: new */
    uint32_t priority;      /* enum agl_priority */
    float temperature;      /* 0: greedy; at most 100 */
    float top_p;            /* keep the most likely ids that reach this sum; 1: off */
    float min_p;            /* keep ids this fraction as likely as the best, or more; 0: off */
    uint32_t top_k;         /* keep the k most likely ids; 0: off */
    uint64_t seed;          /* same seed, same request: same tokens, whatever else runs */
    uint64_t first_token_deadline_ns;    /* absolute; 0: none */
    uint64_t deadline_ns;                /* absolute, of the whole answer; 0: none */
    uint32_t stop_ids[AGL_STOP_IDS_MAX]; /* each ends the answer and is not among its tokens */
    uint32_t stop_count;
    uint32_t reserved; /* 0 */
};
#define AGL_REQUEST_INIT                                                                          \
    {                                                                                             \
        sizeof(struct agl_request), 0, 0, 256, 0, 0, AGL_PRIORITY_NORMAL, 0.0f, 1.0f, 0.0f, 0, 0, \
            0, 0, {0, 0, 0, 0}, 0, 0                                                              \
    }

/* Gives a place in shared memory for `tokens` ids, aligned to 64 bytes, with anything in it; write
 * the prompt there and call agl_submit(). It is the caller's until then. Asking again before that
 * moves the place.
 *   -EAGAIN    no room until the daemon has taken earlier prompts: read events, try again
 *   -EMSGSIZE  longer than options.prompt_tokens, or than what the daemon granted of it
 *   -EINVAL    tokens is 0
 *   -EPIPE, -EPROTO */
int agl_prompt(struct agl_client *client, uint32_t tokens, uint32_t **ret_tokens);

/* Hands the request and its prompt to the daemon; its id (> 0) is in *ret_request, and its events
 * follow. The place of agl_prompt() is the daemon's from now on; if the call fails it stays the
 * caller's, with what is written there. An id is not used again for at least four million
 * requests.
 * At most one system call, and none if the daemon is awake and this session has submitted something
 * within the last 20 ms.
 *   -EAGAIN   max_requests are in flight or kept: read events until one is done (if all are kept
 *             none will be: agl_forget() one); or the ring is full: try again soon
 *   -ENOENT   `continues` names nothing kept
 *   -EINVAL   a field makes no sense, or has more tokens than agl_prompt() gave room for
 *   -EPIPE, -EPROTO
 * What depends on the daemon's state comes as AGL_EVENT_DONE, see AGL_DONE_REFUSED. */
int agl_submit(struct agl_client *client, const struct agl_request *request, uint32_t *ret_request);

/* Asks to end a request. Its AGL_EVENT_DONE still comes: reason cancelled, or whatever was first;
 * until then tokens may come. With AGL_KEEP what was generated is kept.
 * System calls as agl_submit().
 *   -ENOENT   no such request in flight, or its AGL_EVENT_DONE was read
 *   -EAGAIN   the ring is full: try again soon
 *   -EPIPE, -EPROTO */
int agl_cancel(struct agl_client *client, uint32_t request);

/* Changes the class of a request in flight; that counts while it waits in the queue.
 * System call and errors as agl_cancel(), and
 *   -EINVAL   no such class */
int agl_set_priority(struct agl_client *client, uint32_t request, uint32_t priority);

/* Gives up the kept sequence of an ended request; its id is no more. System call and errors as
 * agl_cancel(), but
 *   -ENOENT   no such request is kept, or one that continues it is in flight */
int agl_forget(struct agl_client *client, uint32_t request);

enum agl_request_state {
    AGL_REQUEST_SUBMITTED = 1, /* not accepted yet: of a dead daemon nobody knows if it was seen */
    AGL_REQUEST_RUNNING = 2,   /* accepted, its AGL_EVENT_DONE has not been read yet */
    AGL_REQUEST_KEPT = 3       /* done, and kept to be continued */
};

/* What this client knows of a request from the events that it has read: enum agl_request_state, and
 * the number of tokens received so far (ret_tokens may be NULL). Also after the session's end, so
 * that the caller can tell what was lost.
 *   -ENOENT   no such request, or it is done and not kept */
int agl_request_state(const struct agl_client *client, uint32_t request, uint32_t *ret_tokens);

/* ---- events ---------------------------------------------------------------------------------- */

enum agl_event_kind {
    AGL_EVENT_ACCEPTED = 1, /* the daemon has taken the prompt */
    AGL_EVENT_TOKENS = 2,   /* the next tokens of the answer */
    AGL_EVENT_LOGITS = 3,   /* what the next token is chosen from; comes right before it */
    AGL_EVENT_DONE = 4,     /* the last event of a request */
    AGL_EVENT_OVERFLOW = 5, /* this client read too slowly: the request stood still for a while */
    AGL_EVENT_SHUTDOWN = 6  /* the last event of a session: the daemon ends it */
};

/* In every case but REFUSED and FAILED `error` is 0 and AGL_KEEP keeps the sequence of a request
 * that was accepted. */
enum agl_done_reason {
    AGL_DONE_STOP = 1,      /* an end or stop token; it is not among the tokens */
    AGL_DONE_LENGTH = 2,    /* max_tokens, or the context is full */
    AGL_DONE_DEADLINE = 3,  /* either deadline passed, maybe before anything was begun */
    AGL_DONE_CANCELLED = 4, /* agl_cancel(), or the session broke the contract */
    AGL_DONE_REFUSED = 5,   /* never started; accepted only if the daemon stopped later. `error`:
                               -EAGAIN    the queue is full: try again after retry_after_ns
                               -EDQUOT    so is this user's share of it: likewise
                               -EMSGSIZE  history and prompt leave no room in the context
                               -EINVAL    an id in the prompt is not below vocab_size
                               -ENOENT    the daemon dropped the sequence to continue: agl_forget()
                                          it and send the whole history
                               -ESHUTDOWN the daemon stops
                               -EIO       the daemon's device is lost */
    AGL_DONE_FAILED = 6,    /* was accepted and could not end; maybe it had not begun. `error`:
                               -EIO, the device failed or gave no numbers; -ESHUTDOWN, the daemon
                               stopped before the answer was whole */
    AGL_DONE_OVERFLOW = 7   /* this client stayed too slow for too long */
};

struct agl_token {
    uint32_t id;
    float logprob; /* natural logarithm of its probability before temperature and filters */
};

enum { AGL_EVENT_TOKENS_MAX = 6 };

/* Fields that do not belong to the event's kind are 0. */
struct agl_event {
    uint32_t kind;    /* enum agl_event_kind */
    uint32_t request; /* 0 for AGL_EVENT_SHUTDOWN */
    /* AGL_EVENT_TOKENS, and `index` of AGL_EVENT_LOGITS too */
    uint32_t index; /* the first token is number `index` of the answer */
    uint32_t token_count;
    struct agl_token tokens[AGL_EVENT_TOKENS_MAX];
    /* AGL_EVENT_LOGITS: f32 [logit_count] in shared memory, valid until the next agl_poll() or
     * agl_wait() of this client. */
    uint32_t logit_count;
    const float *logits;
    /* AGL_EVENT_DONE; of a request that was not accepted all but reason, error, retry_after_ns and
     * taken_ns are 0 */
    uint32_t reason; /* enum agl_done_reason */
    int error;       /* AGL_DONE_REFUSED, AGL_DONE_FAILED. Of AGL_EVENT_SHUTDOWN: -ESHUTDOWN, the
                        daemon stops; -EPROTO, this client broke the contract; or its own error */
    uint64_t retry_after_ns;   /* AGL_DONE_REFUSED: when to try again; 0: it would not help */
    uint32_t prompt_tokens;    /* of the whole sequence, kept history included; of
                                  AGL_EVENT_ACCEPTED: of this prompt alone */
    uint32_t cached_tokens;    /* of these, how many needed no computation */
    uint32_t generated_tokens; /* by this request */
    uint64_t taken_ns;         /* when the engine took it (also of AGL_EVENT_ACCEPTED) */
    uint64_t queued_ns;        /* taken until first scheduled */
    uint64_t prompt_ns;        /* first scheduled until first token */
    uint64_t generate_ns;      /* first token until last token */
    /* AGL_EVENT_OVERFLOW */
    uint64_t parked_ns; /* how long the request stood still */
    /* AGL_EVENT_ACCEPTED of a request with AGL_TIMES: when the event was stored; taken_ns is then
     * when the submission was taken from the ring, else that of the engine's turn. */
    uint64_t published_ns;
    uint64_t reserved[4]; /* 0 */
};

/* Takes the next event without waiting. 1: *ret_event is filled; 0: nothing there.
 * System calls: none while the daemon gives signs of life; otherwise, and that includes a daemon
 * that sleeps, one in 100 ms to see whether it lives. Once agl_fd() was called, one or two if the
 * call before this one returned 0.
 *   -EPIPE    the daemon is gone, or ended the session, and all its events were read
 *   -EPROTO   it broke the contract */
int agl_poll(struct agl_client *client, struct agl_event *ret_event);

/* The same, waiting for at most timeout_ns (UINT64_MAX: for ever, though never beyond the life of
 * the daemon; 0: a look, at the socket too). Returns 1.
 * Blocks, as options.wait_mode says: spinning makes no system call beyond those of agl_poll();
 * sleeping costs a few, however long it lasts.
 *   -ETIMEDOUT        no event came in time
 *   -EINTR            a signal handler ran while this slept, whatever SA_RESTART says; never while
 *                     it spins, so AGL_WAIT_SPIN notices no signal
 *   -EPIPE, -EPROTO   as agl_poll() */
int agl_wait(struct agl_client *client, struct agl_event *ret_event, uint64_t timeout_ns);

/* A descriptor for the caller's own poll, epoll or io_uring loop: readable when events may be there
 * or the daemon is gone. Call agl_poll() until it returns 0, and only then sleep on the descriptor;
 * level- and edge-triggered waits both do. After agl_wait() likewise: agl_poll() until 0 first.
 * Never read from it. It belongs to the client, is the same each time, and is closed by
 * agl_close(). Never fails. */
int agl_fd(struct agl_client *client);

/* A word for a done reason ("stop", "length", ...; "unknown"), for people; a constant string. Any
 * thread. */
const char *agl_reason_name(uint32_t reason);

/* ---- text ------------------------------------------------------------------------------------ */

/* Functions that fill an array return how many entries there are in all, of which the first
 * `capacity` were written; the array may be NULL if that is 0. So ask with 0 first, or call again
 * with more room. All but agl_decode() allocate while they work. */

struct agl_tokenizer;

/* Opens a tokenizer: a `tokenizer.json` (byte-level BPE), a GLM-4 `tokenizer.model` (base64 ranks),
 * or a model folder that holds one of them. What lies beside it is read too: tokenizer_config.json,
 * config.json, chat_template.jinja. Or a GGUF file, which has all that in it. On success
 * *ret_tokenizer is the caller's. Any thread.
 * Reads files and allocates, in proportion to the vocabulary.
 *   -ENOENT         nothing there
 *   -EINVAL         not understood, the detail names file and field; or an argument is NULL
 *   -ENAMETOOLONG   the path
 *   -ENOMEM
 * or what open(2) or read(2) say. */
int agl_tokenizer_open(struct agl_tokenizer **ret_tokenizer, const char *path);

/* Nobody may use the tokenizer any more, no detokenizer either. NULL does nothing. */
void agl_tokenizer_close(struct agl_tokenizer *tokenizer);

/* One more than the highest id. */
uint32_t agl_tokenizer_size(const struct agl_tokenizer *tokenizer);

/* Turns `bytes` bytes of text into ids. The text is taken as plain text: nothing in it ever becomes
 * a special token. Any bytes are accepted; those that are not UTF-8 are split byte by byte.
 * Returns the number of ids.
 *   -EILSEQ   the vocabulary has no token for one of its bytes (no GLM vocabulary lacks any)
 *   -E2BIG    more than INT32_MAX ids
 *   -EINVAL   an argument is NULL
 *   -ENOMEM */
int agl_encode(const struct agl_tokenizer *tokenizer, const char *text, size_t bytes,
               uint32_t *ret_ids, size_t capacity);

/* The id of a special or added token by its exact text ("<|user|>").
 *   -ENOENT   none of that text */
int agl_special_id(const struct agl_tokenizer *tokenizer, const char *text);

/* The bytes of one id, valid as long as the tokenizer; not NUL-terminated, maybe not whole UTF-8.
 * Special tokens give their text.
 *   -EINVAL   no such id */
int agl_token_bytes(const struct agl_tokenizer *tokenizer, uint32_t id, const char **ret_text,
                    size_t *ret_bytes);

/* 1: the id is a special token (not for users' eyes); 0: not, or no such id. */
int agl_token_is_special(const struct agl_tokenizer *tokenizer, uint32_t id);

/* Turns ids into text, special tokens included by their text, incomplete UTF-8 as U+FFFD. Returns
 * the number of bytes; no NUL is added. Allocates nothing.
 *   -EINVAL   no such id, the detail names it; or an argument is NULL
 *   -E2BIG    more than INT32_MAX bytes */
int agl_decode(const struct agl_tokenizer *tokenizer, const uint32_t *ids, size_t count,
               char *ret_text, size_t capacity);

/* Ids to text as they come: never gives out half a character. Special tokens give no text. */
struct agl_detokenizer;

/* Begins a text. *ret_detokenizer is the caller's and borrows the tokenizer. Allocates.
 *   -EINVAL   an argument is NULL
 *   -ENOMEM */
int agl_detokenizer_open(struct agl_detokenizer **ret_detokenizer,
                         const struct agl_tokenizer *tokenizer);

/* NULL does nothing. */
void agl_detokenizer_close(struct agl_detokenizer *detokenizer);

/* Takes one id and gives the text that became whole with it, maybe empty: *ret_bytes bytes at
 * *ret_text, without a NUL, valid until the next call.
 *   -EINVAL   no such id */
int agl_detokenizer_push(struct agl_detokenizer *detokenizer, uint32_t id, const char **ret_text,
                         size_t *ret_bytes);

/* Gives what is left at the end of a text (incomplete UTF-8 as U+FFFD) and starts anew. Never
 * fails. */
int agl_detokenizer_finish(struct agl_detokenizer *detokenizer, const char **ret_text,
                           size_t *ret_bytes);

struct agl_message {
    const char *role;    /* "system", "user", "assistant", "observation" (not in chatml) */
    const char *content; /* plain text, UTF-8, NUL-terminated */
};

enum agl_chat_flags {
    AGL_CHAT_GENERATE = 1 << 0, /* end with the header that the model's answer follows */
    AGL_CHAT_CONTINUE = 1 << 1  /* these messages go on behind an answer (agl_request.continues): no
                                   opening tokens, but what the format wants behind an answer */
};

/* Renders messages to ids by the model's chat format. Contents stay plain text. A chatml model
 * whose template has a system message of its own gets it unless the first message is one or
 * AGL_CHAT_CONTINUE is given; an empty one keeps it away. Returns the number of ids.
 *   -ENOTSUP   no chat format is known for this tokenizer
 *   -EINVAL    a role that the format does not know, named in the detail; an unknown flag; or an
 *              argument, role or content is NULL
 *   -EILSEQ, -E2BIG, -ENOMEM   as agl_encode() */
int agl_chat_encode(const struct agl_tokenizer *tokenizer, const struct agl_message *messages,
                    size_t count, uint32_t flags, uint32_t *ret_ids, size_t capacity);

/* The name of the chat format in use: "glm4", "glm4-0414", "glm-z1", "glm-edge", "chatml"; NULL:
 * none. A constant string. */
const char *agl_chat_format(const struct agl_tokenizer *tokenizer);

/* Chooses the chat format by name instead of the one found in the model's files. Call it before the
 * tokenizer is shared between threads.
 *   -ENOENT    no such format
 *   -ENOTSUP   the vocabulary lacks its tokens */
int agl_chat_set_format(struct agl_tokenizer *tokenizer, const char *name);

#ifdef __cplusplus
}
#endif

#endif
