/*
 * One answer: a prompt goes out, tokens come back and are printed as they come.
 */
#ifndef AGL_TOOLS_ANSWER_H
#define AGL_TOOLS_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include <autoglm.h>

enum answer_output { ANSWER_TEXT, ANSWER_IDS, ANSWER_JSON };

struct answer {
    /* Filled by the caller. */
    struct agl_client *client;
    const struct agl_tokenizer *tokenizer; /* NULL: ids only */
    enum answer_output output;
    bool strip_newline; /* GLM begins its answers with one */

    /* Filled by answer_stream(). */
    uint32_t request;
    uint32_t model;          /* index */
    uint32_t prompt_tokens;  /* sent with it */
    struct agl_event done;   /* the last event */
    bool interrupted;        /* SIGINT cancelled it */
    uint64_t submit_ns;      /* just before agl_submit() */
    uint64_t first_event_ns; /* when the first event was seen */
    uint64_t first_token_ns; /* when the first token was seen; 0: none */
    uint64_t last_token_ns;
    uint32_t *ids; /* [id_count]; freed by answer_free() */
    uint32_t id_count;
    uint32_t id_capacity;
};

/* From now on SIGINT cancels the running answer instead of ending the program, and the second one
 * during the same answer gives up waiting for its end; unless SIGINT is ignored. */
void answer_catch_interrupt(void);

/* Submits ids [count] with `request` (prompt_tokens is set here), prints the answer to stdout and
 * waits for its end. 0; CLI_FAILED after a message (a refusal is one). */
int answer_stream(struct answer *answer, struct agl_request *request, const uint32_t *ids,
                  uint32_t count);

/* Prints the table of --stats to stderr: tokens, time to first token, rate, share of
 * `read_bytes_per_s`, the machine's read bandwidth (0: leave that line out). */
void answer_print_stats(const struct answer *answer, const struct agl_model *model,
                        double read_bytes_per_s);

void answer_free(struct answer *answer);

#endif
