/* The racing threads of a hostile client. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "tests/stress/race_gang.h"

static const struct geometry wished = GANG_GEOMETRY;

struct racer {
    struct gang_target *target;
    uint32_t random;
    bool has_bell; /* one racer alone, or they would stop each other */
    uint32_t bell; /* the next of its steps */
};

uint32_t gang_wild(uint32_t *random)
{
    static const uint32_t values[] = {0,          1,          4,          0x7fffffff, 0x80000000,
                                      0xffffffff, 0xfffffffc, 0x7fc00000, 0xff800000, 0x00010000};
    enum { COUNT = sizeof values / sizeof *values };
    uint32_t choice = gang_below(random, COUNT + 4);
    return choice < COUNT ? values[choice] : stress_random(random);
}

/* A value at the edge of what the field may have, for those that have an edge. */
static uint32_t edge(uint32_t *random, uint32_t word)
{
    switch (word * 4) {
    case offsetof(struct submission, op): /* with priority and flags */
        return gang_below(random, SUBMISSION_DETACH + 2) |
               gang_below(random, PRIORITY_REALTIME + 2) << 8 | 1u << (16 + gang_below(random, 16));
    case offsetof(struct submission, request):
    case offsetof(struct submission, parent):
        return gang_below(random, 8 * GANG_REQUESTS);
    case offsetof(struct submission, model):
        return gang_below(random, RACE_MODELS + 2);
    case offsetof(struct submission, prompt_offset):
        return wished.arena_bytes + 8 - gang_below(random, 24) * 2;
    case offsetof(struct submission, prompt_tokens):
        if (gang_below(random, 2))
            return gang_wild(random);
        return wished.arena_bytes / 4 + 8 - gang_below(random, 16);
    case offsetof(struct submission, stop_count):
        return gang_below(random, 4) ? gang_below(random, SUBMISSION_STOP_IDS + 4) : 1000;
    default:
        return gang_wild(random);
    }
}

uint32_t gang_wild_field(uint32_t *random, uint32_t *ret_word)
{
    *ret_word = 1 + gang_below(random, SUBMISSION_SLOT_BYTES / 4 - 1);
    return gang_below(random, 2) ? edge(random, *ret_word) : gang_wild(random);
}

static uint8_t *words_of(struct gang_target *target)
{
    return target->half + (size_t)gang_hint(&target->stagger) * LAYOUT_LINE_BYTES;
}

/* The slot that is written next or one near it: about to be taken. */
static uint8_t *some_slot(struct racer *racer, uint32_t *ret_position)
{
    *ret_position = gang_hint(&racer->target->tail);
    if (gang_below(&racer->random, 2))
        *ret_position += gang_below(&racer->random, 4) - 2;
    uint32_t slot = *ret_position & (wished.submission_slots - 1);
    return words_of(racer->target) + sizeof(struct client_words) +
           (size_t)slot * SUBMISSION_SLOT_BYTES;
}

static uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void change_right_field(struct racer *racer)
{
    uint32_t position;
    uint32_t *random = &racer->random;
    uint8_t *slot = some_slot(racer, &position);
    uint32_t op = gang_hint((_Atomic uint32_t *)(void *)(slot + offsetof(struct submission, op)));
    if ((uint8_t)op != SUBMISSION_GENERATE && (uint8_t)op != SUBMISSION_EXTEND)
        return; /* the others have no such fields */
    switch (gang_below(random, 8)) {
    case 0:
        gang_put(slot + offsetof(struct submission, model),
                 gang_below(random, 16) ? RACE_ECHO : RACE_STORY);
        break;
    case 1:
        gang_put(slot + offsetof(struct submission, prompt_offset),
                 gang_below(random, GANG_REQUESTS * (gang_below(random, 64) ? 200u : 256u)) * 4);
        break;
    case 2:
        gang_put(slot + offsetof(struct submission, prompt_tokens), 1 + gang_below(random, 100));
        break;
    case 3:
        gang_put(slot + offsetof(struct submission, max_tokens), 1 + gang_below(random, 16));
        break;
    case 4:
        gang_put(slot + offsetof(struct submission, temperature),
                 float_bits((float)gang_below(random, 8) * 0.25f));
        break;
    case 5:
        gang_put(slot + offsetof(struct submission, top_p),
                 float_bits(0.25f + (float)gang_below(random, 4) * 0.25f));
        break;
    case 6:
        gang_put(slot + offsetof(struct submission, top_k), gang_below(random, 3000));
        break;
    default:
        gang_put(slot + offsetof(struct submission, seed), stress_random(random));
    }
}

static void change_wild_field(struct racer *racer)
{
    uint32_t position;
    uint8_t *slot = some_slot(racer, &position);
    uint32_t word, value = gang_wild_field(&racer->random, &word);
    gang_put(slot + (size_t)word * 4, value);
}

static void change_number(struct racer *racer)
{
    uint32_t position;
    uint8_t *slot = some_slot(racer, &position);
    static const uint32_t ahead[] = {1, 1, 1, 0, 2, 17, (uint32_t)-15, 1u << 31};
    uint32_t choice = gang_below(&racer->random, 10);
    gang_put(slot, choice < 8 ? position + ahead[choice] : gang_wild(&racer->random));
}

static void change_prompt(struct racer *racer)
{
    uint32_t *random = &racer->random;
    uint8_t *arena = racer->target->half + client_half_arena(&wished);
    uint32_t model = gang_below(random, 64) ? RACE_STORY : RACE_ECHO; /* the other knows more ids */
    uint32_t id = gang_below(random, racer->target->race->vocab_size[model]);
    gang_put(arena + (size_t)gang_below(random, wished.arena_bytes / 4) * 4,
             gang_below(random, 256) ? id : gang_wild(random));
}

/* Some microseconds of nothing else: whoever looks twice at the word meanwhile sees two values. */
static void flip(struct racer *racer, uint8_t *word, uint32_t right, uint32_t wrong)
{
    uint32_t flips = 64 + gang_below(&racer->random, 1024);
    for (uint32_t i = 0; i < flips; i++) {
        gang_put(word, wrong);
        stress_delay(i % 2);
        gang_put(word, right);
        stress_delay(i % 4); /* right for longer, so that it is accepted */
    }
}

static uint32_t field(uint8_t *slot, size_t offset)
{
    return gang_hint((_Atomic uint32_t *)(void *)(slot + offset));
}

static void flip_prompt(struct racer *racer)
{
    uint32_t position;
    uint8_t *slot = some_slot(racer, &position);
    uint32_t offset = field(slot, offsetof(struct submission, prompt_offset));
    uint32_t tokens = field(slot, offsetof(struct submission, prompt_tokens));
    uint32_t model = field(slot, offsetof(struct submission, model));
    if (offset % 4 || tokens == 0 || tokens > wished.arena_bytes / 4 || model >= RACE_MODELS ||
        offset > wished.arena_bytes - tokens * 4)
        return; /* not yet written, or spoilt */
    flip(racer,
         racer->target->half + client_half_arena(&wished) + offset +
             (size_t)gang_below(&racer->random, tokens) * 4,
         1, racer->target->race->vocab_size[model] + gang_below(&racer->random, 2) * 0x10000000u);
}

static void flip_field(struct racer *racer)
{
    static const size_t worst[] = {offsetof(struct submission, op),
                                   offsetof(struct submission, request),
                                   offsetof(struct submission, prompt_offset),
                                   offsetof(struct submission, prompt_tokens),
                                   offsetof(struct submission, max_tokens),
                                   offsetof(struct submission, stop_count)};
    uint32_t position, word;
    uint8_t *slot = some_slot(racer, &position);
    uint32_t wrong = gang_wild_field(&racer->random, &word);
    if (gang_below(&racer->random, 2)) {
        word = (uint32_t)worst[gang_below(&racer->random, sizeof worst / sizeof *worst)] / 4;
        wrong = edge(&racer->random, word);
    }
    flip(racer, slot + (size_t)word * 4, field(slot, (size_t)word * 4), wrong);
}

/* One wrong value is overwritten by the next stroke before anybody looks, so it is kept up for a
 * while. */
static uint32_t times_to_store(struct racer *racer, bool *ret_is_wild)
{
    *ret_is_wild = gang_below(&racer->random, 1 << 20) < racer->target->habit->wild_cursor;
    return *ret_is_wild ? gang_below(&racer->random, 200000) : 1;
}

static void change_event_cursor(struct racer *racer)
{
    struct gang_target *target = racer->target;
    bool is_wild;
    uint32_t times = times_to_store(racer, &is_wild);
    uint32_t off = is_wild ? gang_below(&racer->random, 64) - 32 : 0;
    for (uint32_t i = 0; i < times; i++)
        gang_put(words_of(target), gang_hint(&target->events) + off);
}

static void change_output_cursor(struct racer *racer)
{
    struct gang_target *target = racer->target;
    bool is_wild;
    uint32_t times = times_to_store(racer, &is_wild);
    uint64_t off =
        is_wild ? (uint64_t)gang_wild(&racer->random) << gang_below(&racer->random, 33) : 0;
    for (uint32_t i = 0; i < times; i++)
        atomic_store_explicit(
            (_Atomic uint64_t *)(void *)(words_of(target) +
                                         offsetof(struct client_words, output_cursor)),
            atomic_load_explicit(&target->released, memory_order_relaxed) + off,
            memory_order_relaxed);
}

static void change_sleep(struct racer *racer)
{
    uint32_t value =
        gang_below(&racer->random, 2) ? gang_below(&racer->random, 4) : gang_wild(&racer->random);
    gang_put(words_of(racer->target) + offsetof(struct client_words, sleep), value);
}

static void empty_bell(int fd)
{
    struct pollfd bell = {.fd = fd, .events = POLLIN};
    if (poll(&bell, 1, 0) == 1)
        gang_read_bell(fd);
}

/* Rings; then lays traps for who would read: rings that are gone when he comes, on an eventfd that
 * blocks; then fills it, so that who would write blocks, and leaves that for some turns. */
static void play_the_bell(struct racer *racer)
{
    enum { RING_UNTIL = 40, TRAP_UNTIL = 80, FILL = TRAP_UNTIL, LEAVE = 120 };
    int fd = racer->target->doorbell;
    racer->bell = (racer->bell + 1) % (LEAVE + 1);
    if (racer->bell == RING_UNTIL)
        fcntl(fd, F_SETFL, 0);
    if (racer->bell < TRAP_UNTIL)
        gang_write_bell(fd, 1);
    if (racer->bell >= RING_UNTIL && racer->bell <= TRAP_UNTIL) {
        stress_delay(gang_below(&racer->random, 256));
        empty_bell(fd);
    }
    if (racer->bell == FILL)
        gang_write_bell(fd, UINT64_MAX - 1);
    if (racer->bell == LEAVE) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        empty_bell(fd);
    }
}

static void change_anything(struct racer *racer)
{
    uint32_t words = (uint32_t)(client_half_bytes(&wished) / 4);
    gang_put(racer->target->half + (size_t)gang_below(&racer->random, words) * 4,
             gang_wild(&racer->random));
}

static const char *const stroke_names[STROKES] = {
    [STROKE_RIGHT_FIELD] = "right field",
    [STROKE_WILD_FIELD] = "wild field",
    [STROKE_NUMBER] = "number",
    [STROKE_PROMPT] = "prompt",
    [STROKE_FLIP_PROMPT] = "flipped prompt",
    [STROKE_FLIP_FIELD] = "flipped field",
    [STROKE_EVENT_CURSOR] = "event cursor",
    [STROKE_OUTPUT_CURSOR] = "output cursor",
    [STROKE_SLEEP] = "sleep word",
    [STROKE_BELL] = "bell",
    [STROKE_ANYWHERE] = "anywhere",
};

const char *race_stroke_name(uint32_t stroke)
{
    return stroke_names[stroke];
}

static void (*const stroke_functions[STROKES])(struct racer *) = {
    [STROKE_RIGHT_FIELD] = change_right_field,
    [STROKE_WILD_FIELD] = change_wild_field,
    [STROKE_NUMBER] = change_number,
    [STROKE_PROMPT] = change_prompt,
    [STROKE_FLIP_PROMPT] = flip_prompt,
    [STROKE_FLIP_FIELD] = flip_field,
    [STROKE_EVENT_CURSOR] = change_event_cursor,
    [STROKE_OUTPUT_CURSOR] = change_output_cursor,
    [STROKE_SLEEP] = change_sleep,
    [STROKE_BELL] = play_the_bell,
    [STROKE_ANYWHERE] = change_anything,
};

/* Not all the time, or nobody else would get anywhere on few processors. */
static void pause_a_little(struct racer *racer)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000 + (long)gang_below(&racer->random, 500000)},
              NULL);
}

/* Counts it in `counts`. */
static void strike(struct racer *racer, uint32_t weights_sum, uint64_t *counts)
{
    const uint32_t *weights = racer->target->habit->weights;
    uint32_t choice = gang_below(&racer->random, weights_sum);
    uint32_t stroke = 0;
    while (choice >= weights[stroke])
        choice -= weights[stroke++];
    if (stroke == STROKE_BELL && !racer->has_bell)
        return;
    stroke_functions[stroke](racer);
    counts[stroke]++;
}

static void *run_racer(void *argument)
{
    struct racer *racer = argument;
    uint32_t weights_sum = 0;
    for (uint32_t i = 0; i < STROKES; i++)
        weights_sum += racer->target->habit->weights[i];
    for (;;) {
        uint64_t counts[STROKES] = {0};
        for (uint32_t i = 1u << gang_below(&racer->random, 14); i > 0; i--)
            strike(racer, weights_sum, counts);
        for (uint32_t i = 0; i < STROKES; i++)
            race_count(&racer->target->tally->strokes[i], counts[i]);
        pause_a_little(racer);
    }
    return NULL;
}

void gang_start_racers(struct gang_target *target, uint32_t seed)
{
    static struct racer racers[GANG_RACERS];
    for (uint32_t i = 0; i < GANG_RACERS; i++) {
        pthread_t thread;
        racers[i] = (struct racer){
            .target = target, .random = seed * GANG_RACERS + i + 1, .has_bell = i == 0};
        int err = pthread_create(&thread, NULL, run_racer, &racers[i]);
        if (err)
            STRESS_FAIL("race_writer: no thread: %s", strerror(err));
    }
}
