#include "daemon/intake.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static const float temperature_max = 100;

int intake_take(struct ring_reader *submissions, struct submission *ret_submission)
{
    enum { FIRST = LAYOUT_LINE_BYTES };
    if (ring_peek(submissions, ret_submission, FIRST) < 0)
        return -EAGAIN;
    if (ret_submission->flags & SUBMISSION_WIDE)
        ring_peek_rest(submissions, ret_submission, FIRST);
    else
        memset((uint8_t *)ret_submission + FIRST, 0, sizeof *ret_submission - FIRST);
    ring_advance(submissions);
    return 0;
}

static int broken(const char *why, const char **ret_why)
{
    *ret_why = why;
    return -EPROTO;
}

/* Whether the two are the same in all but the sequence number. */
static bool is_same(const struct submission *a, const struct submission *b)
{
    enum { SKIP = offsetof(struct submission, op) };
    return memcmp((const uint8_t *)a + SKIP, (const uint8_t *)b + SKIP, sizeof *a - SKIP) == 0;
}

/* An operation on a request that is there already: uses its id and little more. */
static int check_short(const struct submission *submission, const char **ret_why)
{
    struct submission allowed = {.op = submission->op, .request = submission->request};
    if (submission->op == SUBMISSION_SET_PRIORITY)
        allowed.priority = submission->priority;
    if (!is_same(submission, &allowed))
        return broken("a field that the operation does not use is not zero", ret_why);
    return 0;
}

static bool is_in_arena(const struct submission *submission, const struct geometry *geometry)
{
    uint32_t size = geometry->arena_bytes;
    return submission->prompt_offset % sizeof(uint32_t) == 0 && submission->prompt_offset <= size &&
           submission->prompt_tokens <= (size - submission->prompt_offset) / sizeof(uint32_t);
}

static bool are_reserved_zero(const struct submission *submission)
{
    for (size_t i = 0; i < sizeof submission->reserved / sizeof *submission->reserved; i++) {
        if (submission->reserved[i])
            return false;
    }
    return true;
}

/* Comparisons with a NaN are false, so each test asks for what is right. */
static int check_parameters(const struct submission *submission)
{
    if (!(submission->temperature >= 0 && submission->temperature <= temperature_max) ||
        !(submission->top_p > 0 && submission->top_p <= 1) ||
        !(submission->min_p >= 0 && submission->min_p < 1))
        return -EINVAL;
    if (!(submission->repetition_penalty == 0 && submission->presence_penalty == 0 &&
          submission->frequency_penalty == 0))
        return -EINVAL;
    if (submission->extra_offset || submission->extra_bytes || submission->max_tokens == 0)
        return -EINVAL;
    if (submission->op == SUBMISSION_GENERATE && submission->prompt_tokens == 0)
        return -EINVAL;
    return 0;
}

static int check_long(const struct submission *submission, const struct geometry *geometry,
                      const char **ret_why)
{
    if (submission->flags & ~(uint32_t)SUBMISSION_FLAGS_ALL)
        return broken("unknown flags", ret_why);
    if (!are_reserved_zero(submission))
        return broken("reserved fields are not zero", ret_why);
    if (submission->stop_count > SUBMISSION_STOP_IDS)
        return broken("too many stop ids", ret_why);
    if (submission->op == SUBMISSION_GENERATE && submission->parent)
        return broken("a field that the operation does not use is not zero", ret_why);
    if (submission->op == SUBMISSION_EXTEND && !submission->parent)
        return broken("the parent's id is 0", ret_why);
    if (!is_in_arena(submission, geometry))
        return broken("the prompt is not within the arena", ret_why);

    int err = check_parameters(submission);
    if (err < 0)
        return err;
    if ((submission->flags & SUBMISSION_LOGITS) && geometry->output_bytes == 0)
        return -EINVAL;
    return 0;
}

int intake_check(const struct submission *submission, const struct geometry *geometry,
                 const char **ret_why)
{
    if (submission->request == 0)
        return broken("the request's id is 0", ret_why);
    if (submission->priority > PRIORITY_REALTIME)
        return broken("unknown priority", ret_why);
    switch (submission->op) {
    case SUBMISSION_GENERATE:
    case SUBMISSION_EXTEND:
        return check_long(submission, geometry, ret_why);
    case SUBMISSION_CANCEL:
    case SUBMISSION_SET_PRIORITY:
    case SUBMISSION_DETACH:
        return check_short(submission, ret_why);
    default:
        return broken("unknown operation", ret_why);
    }
}

int intake_copy_prompt(const uint8_t *arena, uint32_t offset, uint32_t count, uint32_t vocab_size,
                       uint32_t *ret_ids)
{
    enum { PIECE = 1024, TOP_BIT_SHIFT = 31 }; /* ids: the copy is still near when it is checked */
    enum { LINE = LAYOUT_LINE_BYTES / sizeof(uint32_t) };
    uint32_t highest = vocab_size - 1;
    uint32_t bits = 0;
    for (uint32_t done = 0; done < count; done += PIECE) {
        uint32_t piece = count - done < PIECE ? count - done : PIECE;
        uint32_t *ids = ret_ids + done;
        const uint8_t *from = arena + offset + (size_t)done * sizeof *ids;
        /* The lines lie in the client's cache: asked for at once, more of them are on their way at
         * a time than a copy asks for by itself. */
        for (uint32_t i = 0; i < piece; i += LINE)
            __builtin_prefetch(from + i * sizeof *ids);
        memcpy(ids, from, piece * sizeof *ids);
        /* From here on only the copy counts: the client may change the original at any time, so
         * the compiler must not read that again. */
        __asm__ volatile("" ::: "memory");
        /* An id below 2^31 is beyond the highest one if the difference has the top bit, and any
         * other is if it has it itself: three operations that every vector unit has, where a
         * comparison of unsigned numbers takes several. */
        for (uint32_t i = 0; i < piece; i++)
            bits |= ids[i] | (highest - ids[i]);
    }
    return bits >> TOP_BIT_SHIFT ? -EINVAL : 0;
}
