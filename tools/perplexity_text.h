/*
 * The text of a measurement as token ids, and the token that begins a text of its model.
 */
#ifndef AGL_TOOLS_PERPLEXITY_TEXT_H
#define AGL_TOOLS_PERPLEXITY_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "tools/perplexity_options.h"

struct perplexity_text {
    uint32_t *ids; /* [count], the begin token first if there is one; malloc'd */
    size_t count;
    int64_t bos; /* PERPLEXITY_NO_BOS */
};

/* Reads and encodes the text. 0, or an exit status after a message. */
int perplexity_text_read(struct perplexity_text *ret_text,
                         const struct perplexity_options *options);

#endif
