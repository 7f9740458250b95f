/* A client that writes whatever the bytes say into its half of the memory, beside one that talks
 * sense. The engine, turned by hand, must end the first or serve it, must serve the second rightly,
 * and must get every block and request back from both.
 *
 * The bytes are a list of records, each a byte that says what to do and its operands:
 *   0  push a submission, its 124 bytes after the sequence number as they come
 *   1  store up to 16 bytes at any place of the client half
 *   2  read events
 *   3  push a submission that is right in most fields
 *   4  let the engine turn, and time pass
 *   5  store one of the three words that the engine reads
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/engine_state.h"
#include "tests/fuzz/fuzz.h"

enum { VOCAB = 100, ANSWER = 40, RECORDS_MAX = 2000 };

static const struct geometry geometry = {.submission_slots = 8,
                                         .event_slots = 16,
                                         .max_requests = 4,
                                         .arena_bytes = LAYOUT_PAGE_BYTES,
                                         .output_bytes = LAYOUT_PAGE_BYTES,
                                         .stagger = 1};

static const struct config config = {.block_tokens = 4,
                                     .step_tokens = 16,
                                     .chunk_tokens = 8,
                                     .running_max = 3,
                                     .kept_max = 2,
                                     .queue_requests = 4,
                                     .queue_tokens = 200,
                                     .sessions_max = 4,
                                     .slow_reader_ns = 50 * 1000000};

static struct model model = {.config = {.architecture = MODEL_ECHO,
                                        .vocab_rows = VOCAB,
                                        .vocab_size = VOCAB,
                                        .context_tokens = 64}};

static uint64_t now_ns = 1000000000;

static uint64_t fuzz_clock(void)
{
    return now_ns;
}

static struct engine *fuzz_engine(void)
{
    static struct engine *engine;
    static struct board board;
    struct model *models[] = {&model};
    if (!engine) {
        int err = engine_open(&engine, &config, models, 1, NULL, &board, NULL);
        assert(err == 0);
        (void)err;
        engine->clock_ns = fuzz_clock;
    }
    return engine;
}

/* One client with its session: both halves are mapped once, by both sides. */
struct talker {
    struct session *session;
    struct region half;
    struct client_words *words;
    struct ring_writer submissions;
    struct ring_reader events;
    int socket_fd;
};

static void talker_open(struct talker *talker)
{
    struct session_options options = {.geometry = geometry};
    int sockets[2];
    int err = region_create(&options.client_half, "fuzz-client", client_half_bytes(&geometry));
    assert(err == 0);
    err = region_create(&options.daemon_half, "fuzz-daemon", daemon_half_bytes(&geometry));
    assert(err == 0);
    err = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets);
    assert(err == 0);
    options.socket_fd = sockets[1];
    options.doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    *talker = (struct talker){.half = options.client_half, .socket_fd = sockets[0]};
    err = session_open(&talker->session, &options);
    assert(err == 0);
    (void)err;

    uint8_t *ours = talker->half.base;
    const uint8_t *theirs = options.daemon_half.base;
    talker->words = (struct client_words *)(void *)(ours + client_half_words(&geometry));
    const struct daemon_words *words =
        (const struct daemon_words *)(const void *)(theirs + daemon_half_words(&geometry));
    ring_writer_init(&talker->submissions, ours + client_half_ring(&geometry),
                     geometry.submission_slots, SUBMISSION_SLOT_BYTES, &words->submission_cursor);
    ring_reader_init(&talker->events, theirs + daemon_half_ring(&geometry), geometry.event_slots,
                     EVENT_SLOT_BYTES, &talker->words->event_cursor);
    err = engine_attach(fuzz_engine(), talker->session);
    assert(err == 0);
    engine_turn(fuzz_engine(), now_ns);
}

static void talker_close(struct talker *talker)
{
    struct engine *engine = fuzz_engine();
    struct engine_report report = {0};
    uint64_t count;
    int err = engine_detach(engine, talker->session);
    assert(err == 0);
    (void)err;
    engine_turn(engine, now_ns);
    while (engine_next_report(engine, &report) && report.kind != ENGINE_DETACHED)
        assert(report.kind == ENGINE_BROKEN && report.session->broken_why);
    assert(report.kind == ENGINE_DETACHED && report.session == talker->session);
    (void)!read(engine_report_fd(engine), &count, sizeof count);
    close(talker->socket_fd);
    session_close(talker->session);
}

/* ---- the bytes --------------------------------------------------------------------------------
 */

struct input {
    const uint8_t *data;
    size_t size;
};

/* The next `bytes` bytes, zeros beyond the end. */
static void take(struct input *input, void *to, size_t bytes)
{
    size_t there = input->size < bytes ? input->size : bytes;
    memset(to, 0, bytes);
    memcpy(to, input->data, there);
    input->data += there;
    input->size -= there;
}

static uint8_t take_byte(struct input *input)
{
    uint8_t byte;
    take(input, &byte, 1);
    return byte;
}

static void push_any(struct talker *talker, struct input *input)
{
    struct submission submission;
    take(input, (uint8_t *)&submission + 4, sizeof submission - 4);
    ring_push(&talker->submissions, &submission);
}

static void push_likely(struct talker *talker, struct input *input)
{
    uint8_t bytes[8];
    take(input, bytes, sizeof bytes);
    struct submission submission = {.op = bytes[0] % 7,
                                    .flags = bytes[1] % 9,
                                    .request = bytes[2] % 16,
                                    .parent = bytes[3] % 16};
    if (submission.op == SUBMISSION_GENERATE || submission.op == SUBMISSION_EXTEND) {
        submission.priority = bytes[4] % 5;
        submission.prompt_offset = bytes[5] % 8 * 256u;
        submission.prompt_tokens = bytes[6] % 80;
        submission.max_tokens = bytes[7] % 64;
        submission.top_p = 1;
        if (submission.op == SUBMISSION_GENERATE)
            submission.parent = 0;
    } else {
        submission.parent = submission.flags = 0;
    }
    ring_push(&talker->submissions, &submission);
}

static void store(struct talker *talker, struct input *input)
{
    uint16_t offset;
    take(input, &offset, sizeof offset);
    size_t bytes = take_byte(input) % 16 + 1u;
    size_t at = offset % talker->half.bytes;
    if (bytes > talker->half.bytes - at)
        bytes = talker->half.bytes - at;
    take(input, talker->half.base + at, bytes);
}

static void store_word(struct talker *talker, struct input *input)
{
    uint8_t which = take_byte(input);
    uint32_t value;
    take(input, &value, sizeof value);
    if (which % 3 == 0)
        atomic_store(&talker->words->event_cursor, value);
    else if (which % 3 == 1)
        atomic_store(&talker->words->sleep, value);
    else
        atomic_store(&talker->words->output_cursor, value);
}

static void read_events(struct talker *talker, uint8_t count)
{
    struct event event;
    while (count-- && ring_pop(&talker->events, &event) == 0) {
        if (event.kind == EVENT_OUTPUT) {
            assert(event.output.offset <= geometry.output_bytes - event.output.bytes);
            atomic_store(&talker->words->output_cursor, event.output.release);
        }
    }
    ring_return(&talker->events);
}

static void turn(uint8_t operand)
{
    now_ns += operand / 8 * (uint64_t)1000000;
    for (int i = 0; i <= operand % 8; i++)
        engine_turn(fuzz_engine(), now_ns);
}

static void do_record(struct talker *talker, struct input *input)
{
    switch (take_byte(input) % 6) {
    case 0:
        push_any(talker, input);
        break;
    case 1:
        store(talker, input);
        break;
    case 2:
        read_events(talker, take_byte(input));
        break;
    case 3:
        push_likely(talker, input);
        break;
    case 4:
        turn(take_byte(input));
        break;
    default:
        store_word(talker, input);
        break;
    }
}

/* ---- the one that talks sense -----------------------------------------------------------------
 */

static void ask(struct talker *talker)
{
    static const uint32_t prompt[] = {11, 22, 33};
    struct submission submission = {.op = SUBMISSION_GENERATE,
                                    .priority = PRIORITY_REALTIME,
                                    .request = 1,
                                    .prompt_tokens = 3,
                                    .max_tokens = ANSWER,
                                    .top_p = 1};
    memcpy(talker->half.base + client_half_arena(&geometry), prompt, sizeof prompt);
    ring_push(&talker->submissions, &submission);
    engine_turn(fuzz_engine(), now_ns);
}

/* Reads what came. Whether the answer is whole. */
static bool listen_on(struct talker *talker, uint32_t *told)
{
    struct event event;
    while (ring_pop(&talker->events, &event) == 0) {
        if (event.kind == EVENT_TOKENS) {
            assert(event.index == *told);
            assert(event.tokens[0].id == (event.index % 3 + 1) * 11);
            ++*told;
        }
        if (event.kind == EVENT_DONE) {
            assert(event.reason == DONE_LENGTH && *told == ANSWER);
            return true;
        }
    }
    ring_return(&talker->events);
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct engine *engine = fuzz_engine();
    struct input input = {.data = data, .size = size};
    struct talker wild;
    struct talker sane;
    uint32_t told = 0;
    bool is_told = false;
    talker_open(&sane);
    talker_open(&wild);
    ask(&sane);
    for (int i = 0; input.size && i < RECORDS_MAX; i++) {
        do_record(&wild, &input);
        is_told = is_told || listen_on(&sane, &told);
    }
    for (int i = 0; !is_told; i++) {
        assert(i < 1000);
        now_ns += 2000000; /* it may have to ring by now, and does not: the slow round finds it */
        engine_turn(engine, now_ns);
        is_told = listen_on(&sane, &told);
    }
    assert(!wild.session->broken == !wild.session->broken_why);
    talker_close(&wild);
    talker_close(&sane);

    assert(engine->models[0].cache.free_blocks == engine->models[0].cache.blocks);
    assert(engine->pool.free_requests == engine->pool.capacity);
    assert(engine->queued_requests == 0 && engine->running_requests == 0);
    assert(engine->parked_requests == 0 && engine->stalled_sessions == 0);
    assert(engine->idle_requests == 0 && engine->models[0].idle_blocks == 0);
    return 0;
}
