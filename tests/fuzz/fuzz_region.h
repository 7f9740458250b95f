/*
 * The input of fuzz_region: a list of records of eight bytes, the first of which is the setting. A
 * record too few bytes for is left out. The harness (fuzz_region.c) plays them, the mutator
 * (mutate_region.c) writes them.
 */
#ifndef AGL_TESTS_FUZZ_FUZZ_REGION_H
#define AGL_TESTS_FUZZ_FUZZ_REGION_H

#include <stdint.h>

struct region_record {
    uint8_t op; /* enum region_op, modulo REGION_OPS */
    uint8_t a;
    uint16_t b;
    uint32_t value;
};

enum { REGION_RECORDS_MAX = 64 };

/* What the first record's `a` says. */
enum region_setting {
    REGION_ADAPTIVE = 1 << 0,  /* silent sessions go cold and have to ring */
    REGION_WRAPS = 1 << 1,     /* all positions are about to run through 2^32 */
    REGION_NO_OUTPUT = 1 << 2, /* the session has no output arena */
    REGION_BUDGETS = 1 << 3,   /* little of one user's may wait */
};

enum region_op {
    /* A draft of a submission, built field by field and put anywhere, as often as wanted. */
    REGION_DRAFT,    /* begins anew from template `a`; its highest bit: and pushes it */
    REGION_FIELD,    /* `value`, 1, 2 or 4 bytes of it as `a` says, at byte 4 + b % 124 */
    REGION_DEADLINE, /* `a`: which; now and `value` us, signed */
    REGION_PUSH,     /* as a right client does, if there is room */
    REGION_SLOT,     /* into slot `a`, numbered as position `b` from there on, signed */

    /* The memory as such. */
    REGION_STORE,  /* `value`, 1, 2 or 4 bytes of it as `a` says, at byte b of the image */
    REGION_IMAGE,  /* the next `a` records are not records but go to byte b of the image */
    REGION_PROMPT, /* the arena from id b on: a % 64 + 1 ids that count up from `value` */

    /* The words; `a` even: relative to what would be right, signed. */
    REGION_EVENT_CURSOR,
    REGION_OUTPUT_CURSOR, /* `value` in units of b % 65 bytes */
    REGION_SLEEP,

    /* What a right client does. */
    REGION_READ, /* up to `a` events; 255: everything, wherever the reader stood */
    REGION_RING, /* the doorbell, if that is asked for or `a` is odd */

    /* The engine. */
    REGION_WAIT, /* the engine spins until a submission comes, or for a moment */
    REGION_TURN, /* b units of 100 us pass, then the engine turns a % 2 + 1 times */
    REGION_OPS
};

/* The image: the parts of the client half that mean something, without the gaps between them. */
enum { REGION_IMAGE_WORDS = 16, REGION_IMAGE_ARENA = 256 };

#endif
