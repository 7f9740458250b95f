/*
 * One hostile client in two parts. Its speaker (race_gang.c) shakes hands rightly, keeps books of
 * its requests and pushes submissions that are mostly right, so that they get deep into the daemon;
 * its racing threads (race_strokes.c) write into the same half meanwhile, each stroke chosen by the
 * gang's habit. When the daemon ends the session the speaker comes again at once; the new half
 * takes the old one's place in one step, so the racers never stop.
 *
 * Every store to the half is a relaxed atomic one, so that a sanitizer has nothing to say of this
 * process: it is the daemon that is tried.
 */
#ifndef AGL_TESTS_STRESS_RACE_GANG_H
#define AGL_TESTS_STRESS_RACE_GANG_H

#include <assert.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/stress/race.h"
#include "tests/stress/stress.h"
#include "tests/support/stranger.h"

enum {
    GANG_RACERS = 2,
    GANG_REQUESTS = 8,
    GANG_PLACE_BYTES = 1024 /* of a request in the arena */
};

#define GANG_GEOMETRY                                                   \
    ((struct geometry){.submission_slots = 16,                          \
                       .event_slots = 32,                               \
                       .max_requests = GANG_REQUESTS,                   \
                       .arena_bytes = GANG_REQUESTS * GANG_PLACE_BYTES, \
                       .output_bytes = 32768})

/* What a racing thread does next. */
enum stroke {
    STROKE_RIGHT_FIELD, /* a field of a slot becomes another right value */
    STROKE_WILD_FIELD,  /* any word of a slot but its number becomes anything */
    STROKE_NUMBER,      /* a slot's sequence number: right, early, late, far ahead, anything */
    STROKE_PROMPT,      /* an id in the arena, now and then beyond the vocabulary */
    STROKE_FLIP_PROMPT, /* an id goes to and fro between right and wrong, as fast as can be */
    STROKE_FLIP_FIELD,  /* likewise a field */
    STROKE_EVENT_CURSOR,
    STROKE_OUTPUT_CURSOR,
    STROKE_SLEEP,    /* every way of being asleep, and some that do not exist */
    STROKE_BELL,     /* rings, fills the eventfd, makes it blocking, empties it */
    STROKE_ANYWHERE, /* any word of the half */
    STROKES,
};
static_assert((int)STROKES == (int)RACE_STROKES, "race.h counts them");

struct habit {
    const char *name;
    uint32_t weights[STROKES];
    uint32_t wrong;       /* of 256 submissions so many are wrong in a field */
    uint32_t reads;       /* of 256 turns in so many events are read */
    uint32_t stories;     /* of 16 requests so many are for the model that computes */
    uint32_t halts;       /* of 4096 publications so many are stopped in the middle */
    uint32_t wild_cursor; /* of 2^20 strokes at a cursor so many are out of range */
};

/* What the racers know of the session. */
struct gang_target {
    const struct race *race;
    const struct habit *habit;
    struct race_habit_tally *tally;
    uint8_t *half; /* always the same address */
    int doorbell;  /* always the same number */

    _Atomic uint32_t stagger;
    _Atomic uint32_t tail;     /* submissions pushed */
    _Atomic uint32_t events;   /* events read */
    _Atomic uint64_t released; /* bytes of the output arena read */
};

/* relaxed, here and in the next: who races needs no order; that there is none is the point. */
static inline void gang_put(void *word, uint32_t value)
{
    atomic_store_explicit((_Atomic uint32_t *)word, value, memory_order_relaxed);
}

static inline uint32_t gang_hint(const _Atomic uint32_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static inline uint32_t gang_below(uint32_t *random, uint32_t n)
{
    return (stress_random(random) >> 4) % n;
}

/* The doorbell's descriptor is replaced while racers use it, which the books that ThreadSanitizer
 * keeps of descriptors do not expect: past its interceptors. */
static inline void gang_write_bell(int fd, uint64_t count)
{
    (void)!syscall(SYS_write, fd, &count, sizeof count);
}

static inline void gang_read_bell(int fd)
{
    uint64_t count;
    (void)!syscall(SYS_read, fd, &count, sizeof count);
}

/* A value that means trouble, or any. */
uint32_t gang_wild(uint32_t *random);

/* The same for a field of a submission: which of its words, and the value. */
uint32_t gang_wild_field(uint32_t *random, uint32_t *ret_word);

/* Starts the racing threads, which never end. */
void gang_start_racers(struct gang_target *target, uint32_t seed);

#endif
