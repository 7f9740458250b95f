#include "tools/sampling.h"

#include <string.h>

#include "tools/cli.h"

enum { NS_PER_MS = 1000000 };

static int parse_priority(struct sampling *sampling, const char *value)
{
    static const char *const names[] = {"batch", "normal", "high", "realtime"};
    for (uint32_t i = 0; i < 4; i++) {
        if (strcmp(value, names[i]) == 0) {
            sampling->priority = i;
            return -1;
        }
    }
    return cli_usage("--priority %s: must be batch, normal, high or realtime", value);
}

static int parse_stop(struct sampling *sampling, const char *value)
{
    uint64_t id = 0;
    if (sampling->stop_count == AGL_STOP_IDS_MAX)
        return cli_usage("--stop-id %s: at most %d of them", value, AGL_STOP_IDS_MAX);
    if (!cli_count("--stop-id", value, 0, UINT32_MAX, &id))
        return CLI_USAGE;
    sampling->stop_ids[sampling->stop_count++] = (uint32_t)id;
    return -1;
}

int sampling_option(struct sampling *sampling, int option, const char *value)
{
    bool good = true;
    switch (option) {
    case 'n':
        good = cli_count("-n", value, 1, UINT32_MAX, &sampling->max_tokens);
        break;
    case 't':
        good = cli_number("-t", value, 0, 100, &sampling->temperature);
        break;
    case SAMPLING_TOP_P:
        good = cli_number("--top-p", value, 1e-6, 1, &sampling->top_p);
        break;
    case SAMPLING_TOP_K:
        good = cli_count("--top-k", value, 0, UINT32_MAX, &sampling->top_k);
        break;
    case SAMPLING_MIN_P:
        good = cli_number("--min-p", value, 0, 0.999999, &sampling->min_p);
        break;
    case SAMPLING_SEED:
        good = cli_count("--seed", value, 0, UINT64_MAX, &sampling->seed);
        break;
    case SAMPLING_DEADLINE:
        good = cli_count("--deadline-ms", value, 1, 86400000, &sampling->deadline_ms);
        break;
    case SAMPLING_PRIORITY:
        return parse_priority(sampling, value);
    case SAMPLING_STOP:
        return parse_stop(sampling, value);
    case SAMPLING_IGNORE_EOS:
        sampling->flags |= AGL_IGNORE_EOS;
        break;
    default:
        return CLI_USAGE;
    }
    return good ? -1 : CLI_USAGE;
}

void sampling_apply(const struct sampling *sampling, struct agl_request *request)
{
    request->max_tokens = (uint32_t)sampling->max_tokens;
    request->temperature = (float)sampling->temperature;
    request->top_p = (float)sampling->top_p;
    request->min_p = (float)sampling->min_p;
    request->top_k = (uint32_t)sampling->top_k;
    request->seed = sampling->seed;
    request->priority = sampling->priority;
    request->flags |= sampling->flags;
    request->deadline_ns =
        sampling->deadline_ms ? agl_now_ns() + sampling->deadline_ms * NS_PER_MS : 0;
    memcpy(request->stop_ids, sampling->stop_ids, sizeof request->stop_ids);
    request->stop_count = sampling->stop_count;
}
