/*
 * The splitting rules: they cut a text into pieces, and merging never crosses a cut. Each known
 * rule is a regular expression in the models' files; here each is a scanner that looks at a
 * character at most a fixed number of times, so any text takes linear time.
 *
 *   GLM-4, Llama 3   contractions in any case | one other character and letters | 1 to 3 numbers |
 *                    a blank and others, with line ends behind | white space up to its last line
 *                    end | white space but for its last character before something else | the rest
 *   Qwen2            the same with numbers one by one
 *   GPT-2            contractions in small letters | a blank and letters | a blank and numbers |
 *                    a blank and others | white space as above, line ends not told apart
 *   SmolLM           each number alone, then GPT-2's rule on what lies between
 */
#ifndef AGL_CLIENT_PRETOKENIZER_H
#define AGL_CLIENT_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pretokenizer_rule {
    PRETOKENIZER_GLM4, /* and Llama 3 */
    PRETOKENIZER_QWEN2,
    PRETOKENIZER_GPT2,
    PRETOKENIZER_SMOLLM
};

struct pretokenizer {
    enum pretokenizer_rule rule;
    /* "(?i:'s)" matches U+017F, the long s, too, as Unicode folds it to s; a rule that spells
     * "'[sS]" does not. */
    bool long_s;
};

/* Finds the rule of a regular expression, by its exact text in one of the known spellings.
 * -ENOENT: an unknown one. */
int pretokenizer_find(const char *regex, struct pretokenizer *ret_pretokenizer);

/* The length of the first piece of text, 1 to bytes; bytes > 0. */
size_t pretokenizer_next(const struct pretokenizer *pretokenizer, const char *text, size_t bytes);

#endif
