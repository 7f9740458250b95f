/*
 * The options that say how tokens are chosen, the same for run and chat.
 */
#ifndef AGL_TOOLS_SAMPLING_H
#define AGL_TOOLS_SAMPLING_H

#include <getopt.h>
#include <stdint.h>

#include <autoglm.h>

struct sampling {
    uint64_t max_tokens;
    double temperature;
    double top_p;
    double min_p;
    uint64_t top_k;
    uint64_t seed;
    uint64_t deadline_ms; /* of the whole answer, from its submission; 0: none */
    uint32_t priority;
    uint32_t stop_ids[AGL_STOP_IDS_MAX];
    uint32_t stop_count;
    uint32_t flags;
};
#define SAMPLING_INIT                                                  \
    {                                                                  \
        .max_tokens = 256, .top_p = 1, .priority = AGL_PRIORITY_NORMAL \
    }

enum {
    SAMPLING_TOP_P = 512,
    SAMPLING_TOP_K,
    SAMPLING_MIN_P,
    SAMPLING_SEED,
    SAMPLING_DEADLINE,
    SAMPLING_PRIORITY,
    SAMPLING_STOP,
    SAMPLING_IGNORE_EOS,
};

#define SAMPLING_OPTIONS                                             \
    {"top-p", required_argument, NULL, SAMPLING_TOP_P},              \
        {"top-k", required_argument, NULL, SAMPLING_TOP_K},          \
        {"min-p", required_argument, NULL, SAMPLING_MIN_P},          \
        {"seed", required_argument, NULL, SAMPLING_SEED},            \
        {"deadline-ms", required_argument, NULL, SAMPLING_DEADLINE}, \
        {"priority", required_argument, NULL, SAMPLING_PRIORITY},    \
        {"stop-id", required_argument, NULL, SAMPLING_STOP},         \
    {                                                                \
        "ignore-eos", no_argument, NULL, SAMPLING_IGNORE_EOS         \
    }

#define SAMPLING_USAGE                                                                     \
    "  -n N               generate at most N tokens; default 256\n"                        \
    "  -t T               temperature; default 0, always the most likely token\n"          \
    "  --top-p P          only the most likely tokens that reach probability P together\n" \
    "  --top-k K          only the K most likely tokens\n"                                 \
    "  --min-p P          only tokens at least P times as likely as the best\n"            \
    "  --seed N           same seed, same answer; default 0\n"                             \
    "  --stop-id ID       also stop at this token (up to four times)\n"                    \
    "  --ignore-eos       do not stop at the model's own end tokens\n"                     \
    "  --deadline-ms N    end the answer after N milliseconds\n"                           \
    "  --priority CLASS   batch, normal (default), high or realtime\n"

/* Takes one option. -1: go on; else the exit status after a message. */
int sampling_option(struct sampling *sampling, int option, const char *value);

/* Fills the fields of a request; deadlines count from now. */
void sampling_apply(const struct sampling *sampling, struct agl_request *request);

#endif
