/*
 * Judging what a client submits. The submission is a private copy (intake_take()); the client's
 * memory is looked at once more only to copy the prompt.
 *
 * What breaks the contract ends the session (-EPROTO), since a client library that does this is
 * broken or hostile, and nothing that it says can be relied on:
 *   - an unknown operation, flag or priority; reserved[] not zero; more than 4 stop ids
 *   - a field that the operation does not use and that is not zero (CANCEL, DETACH: all but
 *     `request`; SET_PRIORITY: all but `request` and `priority`; GENERATE: `parent`)
 *   - request id 0; an id whose entry is in use by an unfinished or kept request; EXTEND of parent
 * 0
 *   - a prompt that is not within the arena or not aligned
 *   - and outside of submissions: a cursor (events, output arena) outside of what was published
 *
 * What is merely not possible is refused, and the session goes on. EVENT_DONE then says
 * DONE_REFUSED and one of:
 *   -EINVAL     a sampling parameter out of range (temperature 0 to 100, top_p above 0 up to 1,
 *               min_p 0 to below 1); max_tokens 0; an empty prompt (GENERATE); an id outside of the
 *               vocabulary; penalties or extra records, not known yet; logits without output arena
 *   -ENOENT     no such model; EXTEND: nothing is kept of the parent (any more)
 *   -EBUSY      EXTEND: the parent has not ended
 *   -EMSGSIZE   sequence, prompt and one token are more than the context
 *   -ENOSPC     one row of logits does not fit into the output arena
 *   -EDQUOT     the user has as much waiting as one user may; retry_after_us as below
 *   -EAGAIN     the queue is full; retry_after_us says when to come again
 *   -ESHUTDOWN  the daemon is stopping
 *   -EIO        the device is lost
 * A deadline that has passed already ends with DONE_DEADLINE. CANCEL, SET_PRIORITY and DETACH of an
 * id that is not there do nothing: the request may have ended while they were on their way. For
 * EXTEND `model` is ignored: a sequence stays with its model.
 */
#ifndef AGL_DAEMON_INTAKE_H
#define AGL_DAEMON_INTAKE_H

#include "shm/layout.h"
#include "shm/ring.h"

/* Takes the next submission out of the ring, as a private copy. 0; -EAGAIN: nothing there yet. */
int intake_take(struct ring_reader *submissions, struct submission *ret_submission);

/* Everything that can be judged from the submission itself. 0; -EPROTO: the contract is broken and
 * *ret_why (a constant) says how; another error: refuse with it. */
int intake_check(const struct submission *submission, const struct geometry *geometry,
                 const char **ret_why);

/* Copies `count` ids from the client's arena, whose bounds intake_check() has checked, and
 * validates the copies. -EINVAL: one of them is not below vocab_size (at most 2^31); ret_ids is
 * then garbage. */
int intake_copy_prompt(const uint8_t *arena, uint32_t offset, uint32_t count, uint32_t vocab_size,
                       uint32_t *ret_ids);

#endif
