/* The speaker of a hostile client. */
#include "tests/stress/race_gang.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const struct habit habits[RACE_HABITS] = {
    {.name = "meddler", /* changes what it has said, to what it might have said */
     .weights = {[STROKE_RIGHT_FIELD] = 8, [STROKE_PROMPT] = 8},
     .reads = 256,
     .stories = 1},
    {.name = "juggler", /* of cursors and sleep words */
     .weights = {[STROKE_EVENT_CURSOR] = 4,
                 [STROKE_OUTPUT_CURSOR] = 4,
                 [STROKE_SLEEP] = 8,
                 [STROKE_PROMPT] = 1},
     .reads = 200,
     .stories = 8, /* whose logits go through the output arena */
     .wild_cursor = 64},
    {.name = "vandal",
     .weights = {[STROKE_WILD_FIELD] = 8,
                 [STROKE_NUMBER] = 4,
                 [STROKE_PROMPT] = 4,
                 [STROKE_EVENT_CURSOR] = 1,
                 [STROKE_OUTPUT_CURSOR] = 1,
                 [STROKE_ANYWHERE] = 1},
     .wrong = 64,
     .reads = 128,
     .stories = 3,
     .wild_cursor = 1 << 12},
    {.name = "ringer", /* makes noise and does not listen */
     .weights = {[STROKE_BELL] = 8, [STROKE_SLEEP] = 1, [STROKE_RIGHT_FIELD] = 1},
     .wrong = 1,
     .reads = 2,
     .stories = 1},
    {.name = "flipper", /* right when it is looked at, wrong when it is used */
     .weights = {[STROKE_FLIP_PROMPT] = 2, [STROKE_FLIP_FIELD] = 1},
     .reads = 256,
     .stories = 8},
    {.name = "halter", /* stops in the middle */
     .weights = {[STROKE_RIGHT_FIELD] = 4, [STROKE_PROMPT] = 4, [STROKE_NUMBER] = 1},
     .reads = 256,
     .stories = 1,
     .halts = 256},
};

enum entry_state { ENTRY_FREE = 0, ENTRY_SENT, ENTRY_ACCEPTED, ENTRY_KEPT };

/* The speaker's books: one entry a request, by the low bits of its id. */
struct entry {
    uint32_t id;
    enum entry_state state;
    bool keeps;
    struct entry *parent; /* the kept one that it continues, until it is accepted */
};

struct gang {
    struct gang_target target;
    struct stranger self;
    struct entry entries[GANG_REQUESTS];
    uint32_t random;
    struct race_tally *tally;
};

static bool has_chance(struct gang *gang, uint32_t chance, uint32_t of)
{
    return gang_below(&gang->random, of) < chance;
}

/* ---- submissions that are right ---------------------------------------------------------------
 */

static struct entry *find_entry(struct gang *gang, enum entry_state state)
{
    uint32_t first = gang_below(&gang->random, GANG_REQUESTS);
    for (uint32_t i = 0; i < GANG_REQUESTS; i++) {
        struct entry *entry = &gang->entries[(first + i) % GANG_REQUESTS];
        if (entry->state == state)
            return entry;
    }
    return NULL;
}

static void write_prompt(struct gang *gang, uint32_t offset, uint32_t tokens, uint32_t vocab_size)
{
    uint8_t *place = gang->target.half + client_half_arena(&gang->self.geometry) + offset;
    for (uint32_t i = 0; i < tokens; i++)
        gang_put(place + (size_t)i * 4, stress_random(&gang->random) % vocab_size);
}

static void fill_request(struct gang *gang, struct submission *ret_submission, struct entry *entry)
{
    enum { PROMPT_MAX = 200 };
    uint32_t *random = &gang->random;
    uint32_t index = (uint32_t)(entry - gang->entries);
    uint32_t model = gang_below(random, 16) < gang->target.habit->stories ? RACE_STORY : RACE_ECHO;
    uint32_t flags = gang_below(random, SUBMISSION_LOGITS); /* what lies below it */
    bool is_wide = gang_below(random, 2);
    flags |= is_wide ? SUBMISSION_WIDE : 0;
    flags |= gang_below(random, 4) ? 0 : SUBMISSION_TIMES;
    if (gang_below(random, model == RACE_STORY ? 4 : 64) == 0)
        flags |= SUBMISSION_LOGITS; /* a row of the echo model has no room */
    /* Thousands of short ones rather than some long ones that compute. */
    bool is_long = model == RACE_ECHO && gang_below(random, 8) == 0;
    struct submission submission = {
        .op = SUBMISSION_GENERATE,
        .priority = (uint8_t)gang_below(random, PRIORITY_REALTIME),
        .flags = (uint16_t)flags,
        .model = model,
        .prompt_offset = index * GANG_PLACE_BYTES,
        .prompt_tokens = 1 + gang_below(random, is_long ? PROMPT_MAX : 16),
        .max_tokens = 1 + gang_below(random, is_long ? 64 : 4),
        .temperature = (float)gang_below(random, 4) * 0.5f,
        .top_p = 0.5f + (float)gang_below(random, 2) * 0.5f,
        .top_k = is_wide ? gang_below(random, 50) : 0,
        .seed = *random,
    };
    if (gang_below(random, 16) == 0)
        submission.deadline_ns = agl_now_ns() + gang_below(random, 20000000);
    write_prompt(gang, submission.prompt_offset, submission.prompt_tokens,
                 gang->target.race->vocab_size[model]);
    entry->id = (entry->id ? entry->id : index) + GANG_REQUESTS;
    entry->keeps = submission.flags & SUBMISSION_KEEP;
    entry->parent = NULL;
    submission.request = entry->id;
    *ret_submission = submission;
}

/* Something about a request that is there already. */
static void fill_change(struct gang *gang, struct submission *ret_submission)
{
    static const enum submission_op ops[] = {SUBMISSION_CANCEL, SUBMISSION_SET_PRIORITY,
                                             SUBMISSION_DETACH};
    struct entry *entry = &gang->entries[gang_below(&gang->random, GANG_REQUESTS)];
    struct submission submission = {.op = (uint8_t)ops[gang_below(&gang->random, 3)],
                                    .request = entry->id ? entry->id : 1};
    if (submission.op == SUBMISSION_SET_PRIORITY)
        submission.priority = PRIORITY_HIGH;
    if (submission.op == SUBMISSION_DETACH) {
        if (entry->state == ENTRY_KEPT)
            entry->state = ENTRY_FREE;
        entry->keeps = false;
    }
    *ret_submission = submission;
}

/* false: nothing can be said now. */
static bool fill(struct gang *gang, struct submission *ret_submission)
{
    struct entry *entry = find_entry(gang, ENTRY_FREE);
    struct entry *kept = find_entry(gang, ENTRY_KEPT);
    uint32_t choice = gang_below(&gang->random, 16);
    if (entry ? choice == 0 : has_chance(gang, 1, 64)) {
        fill_change(gang, ret_submission);
        return true;
    }
    if (!entry)
        return false;
    fill_request(gang, ret_submission, entry);
    entry->state = ENTRY_SENT;
    if (kept && choice < 10) {
        ret_submission->op = SUBMISSION_EXTEND;
        ret_submission->parent = kept->id;
        kept->state = ENTRY_SENT; /* not to be continued twice */
        entry->parent = kept;
    }
    return true;
}

/* ---- publication ------------------------------------------------------------------------------
 */

/* The whole process stops here until the test lets it go on. */
static void halt(struct gang *gang)
{
    race_count(&gang->tally->halts, 1);
    raise(SIGSTOP);
}

/* As ring_push(), word by word, in two pieces; now and then the process stops between them, or the
 * number is stored before the second. */
static int push(struct gang *gang, const struct submission *submission)
{
    enum { WORDS = SUBMISSION_SLOT_BYTES / 4, HALF = WORDS / 2 };
    struct ring_writer *writer = &gang->self.submissions;
    uint32_t words[WORDS];
    if (ring_room(writer, 1) <= 0)
        return -EAGAIN;
    memcpy(words, submission, sizeof words);
    uint8_t *slot =
        writer->slots + (size_t)(writer->tail & (writer->slot_count - 1)) * writer->slot_bytes;
    bool halts = has_chance(gang, gang->target.habit->halts, 4096);
    bool is_early = halts && has_chance(gang, 1, 2);
    writer->tail++;
    for (uint32_t i = 1; i < HALF; i++)
        gang_put(slot + (size_t)i * 4, words[i]);
    if (is_early)
        gang_put(slot, writer->tail);
    if (halts)
        halt(gang);
    for (uint32_t i = HALF; i < WORDS; i++)
        gang_put(slot + (size_t)i * 4, words[i]);
    /* release: as ring_push(); what is right has to arrive as such. */
    atomic_store_explicit((_Atomic uint32_t *)(void *)slot, writer->tail, memory_order_release);
    atomic_store_explicit(&gang->target.tail, writer->tail, memory_order_relaxed);
    race_count(&gang->target.tally->submissions, 1);
    return 0;
}

/* The doorbell may be full and blocking by now: only its own racer empties it. */
static void ring(struct gang *gang)
{
    struct pollfd bell = {.fd = gang->target.doorbell, .events = POLLOUT};
    if (doorbell_sleeper(&gang->self.daemon_words->sleep, &gang->self.rung) == DOORBELL_FD &&
        poll(&bell, 1, 0) == 1)
        gang_write_bell(bell.fd, 1);
}

static void spoil(struct gang *gang, struct submission *submission)
{
    uint32_t words[SUBMISSION_SLOT_BYTES / 4];
    uint32_t count = has_chance(gang, 1, 16) ? SUBMISSION_SLOT_BYTES / 4 : 1;
    memcpy(words, submission, sizeof words);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t word, value = gang_wild_field(&gang->random, &word);
        words[word] = value;
    }
    memcpy(submission, words, sizeof words);
}

static void speak(struct gang *gang)
{
    struct submission submission;
    if (ring_room(&gang->self.submissions, 1) <= 0 || !fill(gang, &submission)) {
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL); /* everything is in flight */
        return;
    }
    if (has_chance(gang, gang->target.habit->wrong, 256))
        spoil(gang, &submission);
    push(gang, &submission);
}

/* ---- events -----------------------------------------------------------------------------------
 */

static void note_done(struct entry *entry, const struct event *event)
{
    bool was_accepted = entry->state == ENTRY_ACCEPTED;
    bool is_kept = was_accepted && entry->keeps && event->reason != DONE_REFUSED &&
                   event->reason != DONE_FAILED;
    entry->state = is_kept ? ENTRY_KEPT : ENTRY_FREE;
    if (entry->parent) /* refused: what it was to continue is kept as before */
        entry->parent->state = event->done.error == -ENOENT ? ENTRY_FREE : ENTRY_KEPT;
    entry->parent = NULL;
}

static void note(struct gang *gang, const struct event *event)
{
    struct entry *entry = &gang->entries[event->request % GANG_REQUESTS];
    bool is_known = entry->id == event->request;
    switch (event->kind) {
    case EVENT_ACCEPTED:
        if (is_known && entry->parent)
            entry->parent->state = ENTRY_FREE;
        if (is_known)
            *entry =
                (struct entry){.id = entry->id, .state = ENTRY_ACCEPTED, .keeps = entry->keeps};
        break;
    case EVENT_TOKENS:
        race_count(&gang->tally->tokens, event->count);
        break;
    case EVENT_OUTPUT:
        atomic_store_explicit(&gang->target.released, event->output.release, memory_order_relaxed);
        atomic_store_explicit(&gang->self.words->output_cursor, event->output.release,
                              memory_order_relaxed);
        break;
    case EVENT_DONE:
        if (is_known)
            note_done(entry, event);
        break;
    default:
        break;
    }
}

static void listen_to_daemon(struct gang *gang)
{
    struct event event;
    if (!has_chance(gang, gang->target.habit->reads, 256))
        return;
    while (ring_pop(&gang->self.events, &event) == 0)
        note(gang, &event);
    ring_return(&gang->self.events);
    atomic_store_explicit(&gang->target.events, gang->self.events.head, memory_order_relaxed);
}

/* ---- sessions ---------------------------------------------------------------------------------
 */

/* The new half appears where the racers write. */
static void move_in(struct gang *gang)
{
    struct region *half = &gang->self.half;
    void *moved = mremap(half->base, half->bytes, half->bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                         gang->target.half);
    if (moved != gang->target.half)
        STRESS_FAIL("race_writer: mremap: %s", strerror(errno));
    half->base = moved;
    stranger_place(&gang->self);
    atomic_store_explicit(&gang->target.stagger, gang->self.geometry.stagger, memory_order_relaxed);
    atomic_store_explicit(&gang->target.tail, 0, memory_order_relaxed);
    atomic_store_explicit(&gang->target.events, 0, memory_order_relaxed);
    atomic_store_explicit(&gang->target.released, 0, memory_order_relaxed);
    if (syscall(SYS_dup3, gang->self.doorbell_fd, gang->target.doorbell, O_CLOEXEC) < 0)
        STRESS_FAIL("race_writer: dup3: %s", strerror(errno));
    memset(gang->entries, 0, sizeof gang->entries);
}

static void leave(struct gang *gang)
{
    if (gang->self.half.base == gang->target.half)
        gang->self.half.base = NULL; /* the racers still write there */
    stranger_leave(&gang->self);
}

static int enter(struct gang *gang)
{
    struct message_hello hello = stranger_hello(gang->target.habit->name);
    hello.geometry = GANG_GEOMETRY;
    int err = stranger_connect(&gang->self, gang->target.race->daemon->socket_path);
    if (err == 0)
        err = stranger_enter(&gang->self, &hello);
    if (err < 0) {
        leave(gang);
        race_count(&gang->tally->turned_away, 1);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        return err;
    }
    move_in(gang);
    race_count(&gang->target.tally->sessions, 1);
    return 0;
}

/* Wake packets are not read: the socket may as well be full of them. */
static bool is_over(struct gang *gang)
{
    struct pollfd socket = {.fd = gang->self.socket_fd, .events = POLLRDHUP};
    return poll(&socket, 1, 0) == 1;
}

static void live(struct gang *gang)
{
    enum { LOOK_AFTER = 16, LEAVE_ONCE_IN = 20000 };
    for (uint32_t turn = 1; !has_chance(gang, 1, LEAVE_ONCE_IN); turn++) {
        speak(gang);
        ring(gang);
        listen_to_daemon(gang);
        if (turn % LOOK_AFTER == 0 && is_over(gang)) {
            race_count(&gang->target.tally->ended, 1);
            return;
        }
    }
}

const char *race_habit_name(uint32_t habit)
{
    return habits[habit].name;
}

bool race_is_wrong(uint32_t habit)
{
    return habits[habit].wrong > 1 || habits[habit].weights[STROKE_FLIP_PROMPT] > 0;
}

bool race_has_stroke(uint32_t habit, uint32_t stroke)
{
    return habits[habit].weights[stroke] > 0;
}

_Noreturn void race_gang(const struct race *race, uint32_t habit, uint32_t seed)
{
    static struct gang gang;
    const struct geometry geometry = GANG_GEOMETRY;
    gang.target.race = race;
    gang.target.habit = &habits[habit];
    gang.target.tally = &race->tally->habits[habit];
    gang.tally = race->tally;
    gang.random = seed;
    gang.target.doorbell = open("/dev/null", O_RDWR | O_CLOEXEC);
    gang.target.half = mmap(NULL, client_half_bytes(&geometry), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (gang.target.doorbell < 0 || gang.target.half == MAP_FAILED)
        STRESS_FAIL("race_writer: cannot begin: %s", strerror(errno));
    (void)!nice(10); /* the daemon and the witnesses come first */
    gang_start_racers(&gang.target, seed);
    for (;;) {
        if (enter(&gang) < 0)
            continue;
        live(&gang);
        leave(&gang);
    }
}
