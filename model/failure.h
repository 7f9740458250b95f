/*
 * What went wrong, in words: passed down by whoever will print it, filled by whoever found it.
 */
#ifndef AGL_MODEL_FAILURE_H
#define AGL_MODEL_FAILURE_H

struct failure {
    char text[512]; /* one line: names file, field and value */
};

/* Fills failure->text (printf) and returns err, so that one can `return failure_set(...)`. failure
 * may be NULL. */
__attribute__((format(printf, 3, 4))) int failure_set(struct failure *failure, int err,
                                                      const char *format, ...);

#endif
