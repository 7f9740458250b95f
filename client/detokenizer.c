#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "client/error.h"
#include "client/tokenizer.h"
#include "client/unicode.h"

enum { REPLACEMENT_BYTES = 3 };
static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* Bytes come in, whole characters go out: the beginning of a character waits for its rest, and each
 * part that cannot become one gives U+FFFD, as Python's decode("utf-8", errors="replace") does. */
struct mender {
    char held[4]; /* the beginning of a character */
    uint32_t held_bytes;
};

/* Where the text goes: at most `capacity` bytes are written, all are counted. */
struct sink {
    char *text;
    size_t capacity;
    size_t bytes;
};

static void put(struct sink *sink, const char *text, size_t bytes)
{
    if (sink->bytes < sink->capacity) {
        size_t room = sink->capacity - sink->bytes;
        memcpy(sink->text + sink->bytes, text, bytes < room ? bytes : room);
    }
    sink->bytes += bytes;
}

/* Takes one more byte. A byte that breaks what is held is looked at again by itself. */
static void mend_byte(struct mender *mender, char byte, struct sink *sink)
{
    for (;;) {
        mender->held[mender->held_bytes] = byte;
        struct unicode_char c = unicode_read(mender->held, mender->held_bytes + 1);
        if (c.state == UNICODE_INCOMPLETE) {
            mender->held_bytes++;
            return;
        }
        bool alone = mender->held_bytes == 0;
        if (c.state == UNICODE_GOOD)
            put(sink, mender->held, c.bytes);
        else
            put(sink, replacement, REPLACEMENT_BYTES);
        mender->held_bytes = 0;
        if (c.state == UNICODE_GOOD || alone)
            return;
    }
}

static void mend(struct mender *mender, const char *text, size_t bytes, struct sink *sink)
{
    for (size_t i = 0; i < bytes; i++)
        mend_byte(mender, text[i], sink);
}

static void mend_end(struct mender *mender, struct sink *sink)
{
    if (mender->held_bytes > 0)
        put(sink, replacement, REPLACEMENT_BYTES);
    mender->held_bytes = 0;
}

int agl_decode(const struct agl_tokenizer *tokenizer, const uint32_t *ids, size_t count,
               char *ret_text, size_t capacity)
{
    if (!tokenizer || (!ids && count > 0) || (!ret_text && capacity > 0))
        return error_set(-EINVAL, "agl_decode: an argument is NULL");
    for (size_t i = 0; i < count; i++)
        if (!vocabulary_token(&tokenizer->vocabulary, ids[i]))
            return error_set(-EINVAL, "ids[%zu] is %u, which no token has", i, ids[i]);

    /* Twice, so that a text too long for the answer is found before anything is written. */
    for (int pass = 0; pass < 2; pass++) {
        struct mender mender = {.held_bytes = 0};
        struct sink sink = {.text = ret_text, .capacity = pass == 0 ? 0 : capacity};
        for (size_t i = 0; i < count; i++) {
            const struct vocabulary_token *token = vocabulary_token(&tokenizer->vocabulary, ids[i]);
            mend(&mender, vocabulary_bytes(&tokenizer->vocabulary, token), token->bytes, &sink);
        }
        mend_end(&mender, &sink);
        if (sink.bytes > INT32_MAX)
            return error_set(-E2BIG, "the text has %zu bytes, more than an int holds", sink.bytes);
        if (pass == 1 || capacity == 0)
            return (int)sink.bytes;
    }
    return 0;
}

/* ---- streaming ------------------------------------------------------------------------------- */

struct agl_detokenizer {
    const struct agl_tokenizer *tokenizer;
    struct mender mender;
    size_t capacity;
    char text[];
};

int agl_detokenizer_open(struct agl_detokenizer **ret_detokenizer,
                         const struct agl_tokenizer *tokenizer)
{
    if (!ret_detokenizer || !tokenizer)
        return error_set(-EINVAL, "agl_detokenizer_open: an argument is NULL");
    /* At worst every byte of the longest token gives U+FFFD, and so does what was held. */
    size_t capacity = ((size_t)tokenizer->vocabulary.longest_bytes + 1) * REPLACEMENT_BYTES + 1;
    struct agl_detokenizer *detokenizer = malloc(sizeof *detokenizer + capacity);
    if (!detokenizer)
        return error_set(-ENOMEM, "no memory for a detokenizer");
    *detokenizer = (struct agl_detokenizer){.tokenizer = tokenizer, .capacity = capacity};
    *ret_detokenizer = detokenizer;
    return 0;
}

void agl_detokenizer_close(struct agl_detokenizer *detokenizer)
{
    free(detokenizer);
}

int agl_detokenizer_push(struct agl_detokenizer *detokenizer, uint32_t id, const char **ret_text,
                         size_t *ret_bytes)
{
    const struct vocabulary *vocabulary = &detokenizer->tokenizer->vocabulary;
    const struct vocabulary_token *token = vocabulary_token(vocabulary, id);
    if (!token)
        return error_set(-EINVAL, "no token has the id %u", id);
    struct sink sink = {.text = detokenizer->text, .capacity = detokenizer->capacity};
    if (!(token->flags & VOCABULARY_SPECIAL))
        mend(&detokenizer->mender, vocabulary_bytes(vocabulary, token), token->bytes, &sink);
    *ret_text = detokenizer->text;
    *ret_bytes = sink.bytes;
    return 0;
}

int agl_detokenizer_finish(struct agl_detokenizer *detokenizer, const char **ret_text,
                           size_t *ret_bytes)
{
    struct sink sink = {.text = detokenizer->text, .capacity = detokenizer->capacity};
    mend_end(&detokenizer->mender, &sink);
    *ret_text = detokenizer->text;
    *ret_bytes = sink.bytes;
    return 0;
}
