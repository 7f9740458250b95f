/* A client half with any contents whatever, which change between any two turns of the engine.
 *
 * Like fuzz_submission a wild client beside one that talks sense, but made for many executions: the
 * engine, both sessions and their memory are made once, and an execution costs a few system calls
 * for leaving and entering. The engine sees its own read-only mapping of the client half, with
 * inaccessible pages around it and, under AddressSanitizer, with everything poisoned that it has no
 * business to read: it may neither write there nor look beyond words, ring and arena.
 *
 * Afterwards the sane client must have its answer, a session that was ended must know why, and all
 * blocks and requests must be back.
 */
#include "tests/fuzz/fuzz_region.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/engine_state.h"
#include "tests/fuzz/fuzz.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifdef HAS_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

enum { VOCAB = 100, WIDE_VOCAB = 2000, EOS = 99, ANSWER = 3, TURNS_MAX = 1000 };
enum { US = 1000, SLOT_DATA_BYTES = SUBMISSION_SLOT_BYTES - 4 };

static const uint64_t start_ns = 1000000000;
static uint64_t now_ns;

/* ---- what is made once ----------------------------------------------------------------------- */

static struct config config = {.block_tokens = 4,
                               .step_tokens = 16,
                               .chunk_tokens = 8,
                               .running_max = 3,
                               .kept_max = 2,
                               .queue_requests = 4,
                               .queue_tokens = 200,
                               .sessions_max = 4,
                               .slow_reader_ns = 50 * 1000000};

static struct model narrow = {.config = {.architecture = MODEL_ECHO,
                                         .vocab_rows = VOCAB,
                                         .vocab_size = VOCAB,
                                         .context_tokens = 64,
                                         .eos_ids = {EOS},
                                         .eos_count = 1}};

/* A row of its logits does not fit into the output arena. */
static struct model wide = {.config = {.architecture = MODEL_ECHO,
                                       .vocab_rows = WIDE_VOCAB,
                                       .vocab_size = WIDE_VOCAB,
                                       .context_tokens = 32}};

static struct engine *engine;

/* One client with its session. */
struct talker {
    struct session *session;
    struct session pristine; /* as session_open() left it */
    struct geometry geometry;
    struct region half;    /* ours, for writing */
    uint8_t *ring, *arena; /* in it */
    struct client_words *words;
    struct daemon_words *daemon_words;
    const uint8_t *daemon_ring;
    struct ring_writer submissions;
    struct ring_reader events;
    uint32_t rung;
    int doorbell_fd;
};

static struct talker sane, wild_with_output, wild_without;

static uint64_t fuzz_clock(void)
{
    return now_ns;
}

/* Moves a mapping to where inaccessible pages are on both sides. */
static void guard(struct region *region)
{
    size_t bytes = region->bytes + 2 * LAYOUT_PAGE_BYTES;
    uint8_t *room = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(room != MAP_FAILED);
    void *base = mremap(region->base, region->bytes, region->bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                        room + LAYOUT_PAGE_BYTES);
    assert(base == room + LAYOUT_PAGE_BYTES);
    region->base = base;
}

/* Leaves the engine what it may read: three words, the ring and the arena. */
static void poison_gaps(const struct region *half, const struct geometry *geometry)
{
    const struct client_words *words = (const void *)(half->base + client_half_words(geometry));
    ASAN_POISON_MEMORY_REGION(half->base, client_half_arena(geometry));
    ASAN_UNPOISON_MEMORY_REGION(&words->event_cursor, sizeof words->event_cursor);
    ASAN_UNPOISON_MEMORY_REGION(&words->sleep, sizeof words->sleep);
    ASAN_UNPOISON_MEMORY_REGION(&words->output_cursor, sizeof words->output_cursor);
    ASAN_UNPOISON_MEMORY_REGION(half->base + client_half_ring(geometry),
                                geometry->submission_slots * SUBMISSION_SLOT_BYTES);
}

static void make_halves(struct talker *talker, struct session_options *options)
{
    const char *why;
    int err = region_create(&talker->half, "fuzz-client", client_half_bytes(&talker->geometry));
    assert(err == 0);
    err = region_map_peer(&options->client_half, dup(talker->half.fd), talker->half.bytes, &why);
    assert(err == 0);
    err = region_create(&options->daemon_half, "fuzz-daemon", daemon_half_bytes(&talker->geometry));
    assert(err == 0);
    (void)err;
    guard(&options->client_half);
    guard(&options->daemon_half);
    poison_gaps(&options->client_half, &talker->geometry);
}

static void talker_open(struct talker *talker, uint32_t output_bytes)
{
    talker->geometry = (struct geometry){.submission_slots = 8,
                                         .event_slots = 16,
                                         .max_requests = 4,
                                         .arena_bytes = LAYOUT_PAGE_BYTES,
                                         .output_bytes = output_bytes,
                                         .stagger = 1};
    struct session_options options = {.geometry = talker->geometry};
    int sockets[2];
    make_halves(talker, &options);
    int err = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets);
    assert(err == 0);
    options.socket_fd = sockets[1]; /* the other end stays open, and is never read */
    options.doorbell_fd = talker->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = session_open(&talker->session, &options);
    assert(err == 0);
    (void)err;
    talker->pristine = *talker->session;

    talker->words = (void *)(talker->half.base + client_half_words(&talker->geometry));
    talker->ring = talker->half.base + client_half_ring(&talker->geometry);
    talker->arena = talker->half.base + client_half_arena(&talker->geometry);
    talker->daemon_words = talker->session->daemon_words;
    talker->daemon_ring = options.daemon_half.base + daemon_half_ring(&talker->geometry);
}

static void open_all(void)
{
    static struct board board;
    struct model *models[] = {&narrow, &wide};
    int err = engine_open(&engine, &config, models, 2, NULL, &board, NULL);
    assert(err == 0);
    (void)err;
    engine->clock_ns = fuzz_clock;
    talker_open(&sane, 0);
    talker_open(&wild_with_output, LAYOUT_PAGE_BYTES);
    talker_open(&wild_without, 0);
}

/* ---- in and out ------------------------------------------------------------------------------ */

/* The numbers that slots carry when `position` is the next to be written. */
static void number_slots(uint8_t *slots, uint32_t count, uint32_t slot_bytes, uint32_t position)
{
    for (uint32_t p = position - count; p != position; p++)
        *(_Atomic uint32_t *)(void *)(slots + (size_t)(p & (count - 1)) * slot_bytes) = p + 1;
}

/* Zeroed memory and an untouched session, as after a handshake; or as after 2^32 messages less
 * -position, when position is not 0. */
static void renew(struct talker *talker, uint32_t position)
{
    const struct geometry *geometry = &talker->geometry;
    struct session *session = talker->session;
    uint8_t *daemon_slots = session->events.slots;
    memset(talker->words, 0, sizeof *talker->words);
    memset(talker->ring, 0, geometry->submission_slots * SUBMISSION_SLOT_BYTES);
    memset(talker->arena, 0, geometry->arena_bytes);
    memset(talker->daemon_words, 0, sizeof *talker->daemon_words);
    memset(daemon_slots, 0, geometry->event_slots * EVENT_SLOT_BYTES);
    *session = talker->pristine;
    ring_writer_init(&talker->submissions, talker->ring, geometry->submission_slots,
                     SUBMISSION_SLOT_BYTES, &talker->daemon_words->submission_cursor);
    ring_reader_init(&talker->events, talker->daemon_ring, geometry->event_slots, EVENT_SLOT_BYTES,
                     &talker->words->event_cursor);
    talker->rung = 0;
    if (position == 0)
        return;
    number_slots(talker->ring, geometry->submission_slots, SUBMISSION_SLOT_BYTES, position);
    number_slots(daemon_slots, geometry->event_slots, EVENT_SLOT_BYTES, position);
    talker->submissions.tail = talker->submissions.head = position;
    talker->events.head = talker->events.published = position;
    session->submissions.head = session->submissions.published = position;
    session->events.tail = session->events.head = position;
    talker->words->event_cursor = talker->daemon_words->submission_cursor = position;
}

static void enter(struct talker *talker, uint32_t position)
{
    renew(talker, position);
    int err = engine_attach(engine, talker->session);
    assert(err == 0);
    (void)err;
}

/* The same, but a session that stayed and has nothing going on is not taken out and in. */
static void enter_again(struct talker *talker)
{
    struct session was = *talker->session;
    if (was.place == SESSION_NOWHERE) {
        enter(talker, 0);
        return;
    }
    assert(was.place == SESSION_HOT && was.live_requests == 0 && was.promised == 1);
    renew(talker, 0);
    talker->session->place = SESSION_HOT;
    talker->session->next = was.next;
    talker->session->previous = was.previous;
    talker->session->last_active_ns = now_ns;
}

static void expect_report(enum engine_report_kind kind, const struct session *session)
{
    struct engine_report report = {0};
    int count = engine_next_report(engine, &report);
    assert(count == 1 && report.kind == kind && report.session == session);
    (void)count;
}

/* Who leaves; the next turn lets it. Whether it was broken. */
static bool leave(struct talker *talker)
{
    const struct session *session = talker->session;
    assert(!session->broken == !session->broken_why);
    int err = engine_detach(engine, talker->session);
    assert(err == 0);
    (void)err;
    return session->broken;
}

static void check_has_left(const struct talker *talker, bool was_broken)
{
    const struct session *session = talker->session;
    if (was_broken)
        expect_report(ENGINE_BROKEN, session);
    expect_report(ENGINE_DETACHED, session);
    assert(session->live_requests == 0 && session->promised == 0 && session->is_shut);
    assert(session->queue->requests == 0 && session->queue->tokens == 0);
    for (uint32_t i = 0; i < talker->geometry.max_requests; i++)
        assert(!session->requests[i]);
}

/* The engine as it was after it was opened, but for the order of its free blocks and requests. */
static void renew_engine(uint8_t setting)
{
    config.wait = setting & REGION_ADAPTIVE ? ENGINE_WAIT_ADAPTIVE : ENGINE_WAIT_SPIN;
    config.user_queued_requests = setting & REGION_BUDGETS ? 2 : 0;
    config.user_queued_tokens = setting & REGION_BUDGETS ? 60 : 0;
    now_ns = start_ns;
    spinner_init(&engine->spinner, UINT64_MAX);
    engine->service_ns = engine->looked_ns = engine->heartbeat_ns = engine->idle_since_ns = 0;
    engine->timer_ns = UINT64_MAX;
    engine->cold_left = 0;
    engine->next_model = engine->models[0].rotation = engine->models[1].rotation = 0;
}

static void check_engine_is_empty(void)
{
    for (uint32_t i = 0; i < engine->model_count; i++) {
        const struct engine_model *model = &engine->models[i];
        assert(model->cache.free_blocks == model->cache.blocks);
        assert(model->running.count == 0 && model->queue.requests == 0);
        assert(model->idle_blocks == 0 && model->queue.tokens == 0);
    }
    assert(engine->pool.free_requests == engine->pool.capacity);
    assert(engine->queued_requests == 0 && engine->running_requests == 0);
    assert(engine->queued_tokens == 0 && !engine->holders.first);
    assert(engine->parked_requests == 0 && engine->stalled_sessions == 0);
    assert(engine->idle_requests == 0 && engine->cold.count == 0);
    assert(engine->hot.count == (sane.session->place == SESSION_HOT));
}

/* ---- the one that talks sense ---------------------------------------------------------------- */

static void ask(void)
{
    static const uint32_t prompt[] = {11, 22, 33};
    struct submission submission = {.op = SUBMISSION_GENERATE,
                                    .priority = PRIORITY_REALTIME,
                                    .request = 1,
                                    .prompt_tokens = 3,
                                    .max_tokens = ANSWER,
                                    .top_p = 1};
    memcpy(sane.arena, prompt, sizeof prompt);
    ring_push(&sane.submissions, &submission);
}

/* Reads what came. Whether the answer is whole. */
static bool listen_on(uint32_t *told)
{
    struct event event;
    while (ring_pop(&sane.events, &event) == 0) {
        assert(event.request == 1);
        if (event.kind == EVENT_TOKENS) {
            assert(event.index == *told);
            assert(event.tokens[0].id == (event.index % 3 + 1) * 11);
            ++*told;
        } else if (event.kind == EVENT_DONE) {
            assert(event.reason == DONE_LENGTH && *told == ANSWER);
            return true;
        } else {
            assert(event.kind == EVENT_ACCEPTED || event.kind == EVENT_OVERFLOW);
        }
    }
    ring_return(&sane.events);
    return false;
}

/* ---- the records ----------------------------------------------------------------------------- */

struct player {
    struct talker *wild;
    const uint8_t *data; /* what is left of the input */
    size_t size;
    struct submission draft;
};

/* The next record, zeros when there is none. */
static struct region_record next_record(struct player *player)
{
    struct region_record record = {0};
    if (player->size >= sizeof record) {
        memcpy(&record, player->data, sizeof record);
        player->data += sizeof record;
        player->size -= sizeof record;
    } else {
        player->size = 0;
    }
    return record;
}

static size_t width_of(const struct region_record *record)
{
    static const uint8_t widths[] = {4, 1, 2, 4};
    return widths[record->a % 4];
}

static void begin_draft(struct player *player, const struct region_record *record)
{
    static const uint8_t ops[] = {SUBMISSION_GENERATE,     SUBMISSION_EXTEND,  SUBMISSION_CANCEL,
                                  SUBMISSION_SET_PRIORITY, SUBMISSION_DETACH,  SUBMISSION_GENERATE,
                                  SUBMISSION_EXTEND,       SUBMISSION_GENERATE};
    struct submission *draft = &player->draft;
    *draft = (struct submission){.op = ops[record->a % 8], .request = record->b % 16};
    if (draft->op != SUBMISSION_CANCEL && draft->op != SUBMISSION_DETACH)
        draft->priority = (record->b >> 4) % 4;
    if (draft->op != SUBMISSION_GENERATE && draft->op != SUBMISSION_EXTEND)
        return;
    draft->prompt_tokens = record->value % 128;
    draft->max_tokens = (record->value >> 8) % 128;
    draft->prompt_offset = (record->value >> 16) % 64 * 64;
    draft->flags = (record->value >> 24) % 16;
    draft->flags |= record->value >> 31 ? SUBMISSION_WIDE : 0;
    draft->model = (record->value >> 28) % 2;
    draft->top_p = 1;
    if (draft->op == SUBMISSION_EXTEND)
        draft->parent = (record->b >> 8) % 16;
}

static void push(struct player *player)
{
    ring_push(&player->wild->submissions, &player->draft);
}

static void set_deadline(struct player *player, const struct region_record *record)
{
    uint64_t deadline_ns = now_ns + (uint64_t)((int64_t)(int32_t)record->value * US);
    if (record->a % 2)
        player->draft.first_token_deadline_ns = deadline_ns;
    else
        player->draft.deadline_ns = deadline_ns;
}

static void put_slot(struct player *player, const struct region_record *record)
{
    uint32_t index = record->a % player->wild->geometry.submission_slots;
    uint8_t *slot = player->wild->ring + (size_t)index * SUBMISSION_SLOT_BYTES;
    uint32_t number = player->wild->session->submissions.head + 1 + (uint32_t)(int16_t)record->b;
    memcpy(slot + 4, (uint8_t *)&player->draft + 4, SLOT_DATA_BYTES);
    memcpy(slot, &number, sizeof number);
}

/* Where byte `at` of the image lies, and how many follow it there. */
static uint8_t *image(const struct talker *talker, uint32_t at, size_t *ret_bytes)
{
    uint32_t ring_bytes = talker->geometry.submission_slots * SUBMISSION_SLOT_BYTES;
    uint8_t *words[] = {(uint8_t *)&talker->words->event_cursor, (uint8_t *)&talker->words->sleep,
                        (uint8_t *)&talker->words->output_cursor,
                        (uint8_t *)&talker->words->output_cursor + 4};
    at %= REGION_IMAGE_WORDS + ring_bytes + REGION_IMAGE_ARENA;
    if (at < REGION_IMAGE_WORDS) {
        *ret_bytes = 4 - at % 4;
        return words[at / 4] + at % 4;
    }
    at -= REGION_IMAGE_WORDS;
    *ret_bytes = ring_bytes + REGION_IMAGE_ARENA - at;
    if (at >= ring_bytes)
        return talker->arena + (at - ring_bytes);
    *ret_bytes = ring_bytes - at;
    return talker->ring + at;
}

static void store(const struct talker *talker, uint32_t at, const void *from, size_t bytes)
{
    size_t room;
    uint8_t *to = image(talker, at, &room);
    memcpy(to, from, bytes < room ? bytes : room);
}

static void store_image(struct player *player, const struct region_record *record)
{
    uint32_t at = record->b;
    for (uint32_t i = 0; i < record->a && player->size; i++, at += sizeof *record) {
        struct region_record bytes = next_record(player);
        store(player->wild, at, &bytes, sizeof bytes);
    }
}

static void write_prompt(struct player *player, const struct region_record *record)
{
    uint32_t *ids = (uint32_t *)(void *)player->wild->arena;
    uint32_t count = player->wild->geometry.arena_bytes / sizeof *ids;
    for (uint32_t i = 0; i <= record->a % 64; i++)
        ids[(record->b + i) % count] = record->value + i;
}

static void set_cursor(struct player *player, const struct region_record *record)
{
    uint32_t right = record->a % 2 ? 0 : player->wild->session->events.tail;
    player->wild->words->event_cursor = right + record->value;
}

static void set_output_cursor(struct player *player, const struct region_record *record)
{
    uint64_t right = record->a % 2 ? 0 : player->wild->session->output_tail;
    uint64_t units = (uint64_t)(int32_t)record->value;
    player->wild->words->output_cursor = right + units * (record->b % 65);
}

static void check_event(const struct talker *talker, const struct event *event)
{
    assert(event->kind >= EVENT_ACCEPTED && event->kind <= EVENT_SHUTDOWN);
    assert((event->kind == EVENT_SHUTDOWN) == (event->request == 0));
    if (event->kind == EVENT_TOKENS)
        assert(event->count == 1 && event->tokens[0].id < WIDE_VOCAB);
    if (event->kind == EVENT_OUTPUT)
        assert(event->output.offset <= talker->geometry.output_bytes - event->output.bytes);
}

static void read_events(struct talker *talker, const struct region_record *record)
{
    struct event event;
    uint32_t count = record->a;
    if (count == 255)
        talker->events.head = talker->session->events.tail;
    while (count-- && ring_pop(&talker->events, &event) == 0) {
        check_event(talker, &event);
        if (event.kind == EVENT_OUTPUT)
            talker->words->output_cursor = event.output.release;
    }
    ring_return(&talker->events);
}

static void ring_doorbell(struct talker *talker, const struct region_record *record)
{
    uint64_t one = 1;
    if (doorbell_sleeper(&talker->daemon_words->sleep, &talker->rung) || record->a % 2)
        (void)!write(talker->doorbell_fd, &one, sizeof one);
}

static void check_request(const struct request *request)
{
    uint32_t context_tokens = engine->models[request->model].context_tokens;
    assert(request->known_tokens <= context_tokens);
    assert(request->computed_tokens <= request->known_tokens);
    assert(request->generated_tokens <= request->max_tokens);
    assert(request->stop_count <= SUBMISSION_STOP_IDS && request->id != 0);
}

/* What must hold between any two turns. */
static void check_session(const struct session *session)
{
    const struct geometry *geometry = &session->geometry;
    assert(session->claimed == 0 && !session->is_touched && !session->next_broken);
    assert(session->events.tail - session->events.head <= geometry->event_slots);
    assert(session->promised <= geometry->max_requests + 1);
    assert(session->live_requests <= geometry->max_requests);
    assert(session->output_planned == session->output_tail);
    assert(session->output_tail - session->output_cursor <= geometry->output_bytes);
    for (uint32_t i = 0; i < geometry->max_requests && session->live_requests; i++)
        if (session->requests[i])
            check_request(session->requests[i]);
    assert(!session->broken || (session->is_shut && session->place == SESSION_NOWHERE));
}

static void turn(struct player *player, const struct region_record *record)
{
    now_ns += record->b * (uint64_t)(100 * US);
    for (int i = 0; i <= record->a % 2; i++) {
        engine_turn(engine, now_ns);
        check_session(player->wild->session);
    }
}

static void play(struct player *player, const struct region_record *record)
{
    switch ((enum region_op)(record->op % REGION_OPS)) {
    case REGION_DRAFT:
        begin_draft(player, record);
        if (record->a & 0x80)
            push(player);
        break;
    case REGION_FIELD:
        memcpy((uint8_t *)&player->draft + 4 + record->b % (SLOT_DATA_BYTES - 3), &record->value,
               width_of(record));
        break;
    case REGION_DEADLINE:
        set_deadline(player, record);
        break;
    case REGION_PUSH:
        push(player);
        break;
    case REGION_SLOT:
        put_slot(player, record);
        break;
    case REGION_STORE:
        store(player->wild, record->b, &record->value, width_of(record));
        break;
    case REGION_IMAGE:
        store_image(player, record);
        break;
    case REGION_PROMPT:
        write_prompt(player, record);
        break;
    case REGION_EVENT_CURSOR:
        set_cursor(player, record);
        break;
    case REGION_OUTPUT_CURSOR:
        set_output_cursor(player, record);
        break;
    case REGION_SLEEP:
        player->wild->words->sleep = record->value;
        break;
    case REGION_READ:
        read_events(player->wild, record);
        break;
    case REGION_RING:
        ring_doorbell(player->wild, record);
        break;
    case REGION_WAIT:
        engine_wait(engine, now_ns); /* it spins, since the spinner has no limit here */
        break;
    case REGION_TURN:
    case REGION_OPS:
        turn(player, record);
        break;
    }
}

/* The records, then turns until the sane one has its answer. */
static void play_all(struct player *player)
{
    struct region_record record;
    uint32_t told = 0;
    for (int i = 0; player->size && i < REGION_RECORDS_MAX; i++) {
        record = next_record(player);
        play(player, &record);
    }
    record = (struct region_record){.b = 100}; /* 10 ms: nobody may stand in its way for long */
    for (int turns = 0; !listen_on(&told); turns++) {
        assert(turns < TURNS_MAX);
        turn(player, &record);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct player player = {.data = data, .size = size};
    struct region_record setting = next_record(&player);
    if (!engine)
        open_all();
    player.wild = setting.a & REGION_NO_OUTPUT ? &wild_without : &wild_with_output;
    renew_engine(setting.a);
    enter_again(&sane);
    enter(player.wild, setting.a & REGION_WRAPS ? -3u : 0);
    ask();
    engine_turn(engine, now_ns); /* before the other can fill the queue */
    play_all(&player);

    bool was_broken = leave(player.wild);
    bool sane_leaves = sane.session->place == SESSION_COLD;
    if (sane_leaves)
        leave(&sane);
    engine_turn(engine, now_ns);
    check_has_left(player.wild, was_broken);
    if (sane_leaves)
        check_has_left(&sane, false);
    check_engine_is_empty();
    return 0;
}
