/*
 * A model without arithmetic in the place of model/forward.c: the logits after a token are a hash
 * of the whole sequence up to it, read back through the block tables. A block that went to the
 * wrong sequence, a position left out or a stale table changes every token that follows. Link
 * fake_forward.c into the test program: the linker then leaves forward.c's object out.
 */
#ifndef AGL_TESTS_SUPPORT_FAKE_FORWARD_H
#define AGL_TESTS_SUPPORT_FAKE_FORWARD_H

#include "kernels/backend.h"
#include "model/model.h"

/* What follows after these ids, told without any cache: [vocab_rows]. */
void fake_logits(const struct model_config *config, const uint32_t *ids, uint32_t count,
                 float *ret_logits);

/* A device without operations: nobody calls any. */
extern struct backend fake_backend;

/* So many more steps succeed, then -EIO. -1: all of them. */
extern int fake_forward_steps_left;

/* Rows computed since the program began. */
extern uint64_t fake_forward_rows;

#endif
