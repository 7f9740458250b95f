#include "tools/bench_stand.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/memory.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

/* ---- the backend ----------------------------------------------------------------------------- */

/* As it describes itself, "cpu, 2 threads, avx512vnni": the last word. */
static const char *find_isa(const char *description)
{
    static const char *const isas[] = {BACKEND_CPU_VARIANTS};
    const char *space = strrchr(description, ' ');
    for (size_t i = 1; i < sizeof isas / sizeof isas[0]; i++)
        if (space && strcmp(space + 1, isas[i]) == 0)
            return isas[i];
    return isas[0];
}

int stand_open_backend(struct backend **ret_backend, uint32_t threads, const char *isa,
                       const char **ret_isa)
{
    struct backend_options options = {.device = "cpu", .threads = threads, .variant = isa};
    const char *why = "";
    int err = backend_open(ret_backend, &options, &why);
    if (err < 0 && isa)
        return cli_fail("--isa %s: %s", isa, why);
    if (err < 0)
        return cli_fail("--threads %u: %s", threads, why);
    *ret_isa = find_isa((*ret_backend)->ops->describe(*ret_backend));
    return 0;
}

enum limit stand_peak(const struct limits *limits, enum tensor_type type, uint32_t rows)
{
    enum { MATRIX_UNIT_ROWS = 9 }; /* below, the engine does without (kernels/cpu/linear.h) */
    if (!tensor_type_is_packed(type) || !limits_have(limits, LIMIT_INT8))
        return LIMIT_F32;
    return limits_have(limits, LIMIT_AMX) && rows >= MATRIX_UNIT_ROWS ? LIMIT_AMX : LIMIT_INT8;
}

int stand_check_memory(uint64_t bytes, const char *for_what)
{
    struct failure failure;
    return memory_check(bytes, for_what, &failure) < 0 ? cli_fail("%s", failure.text) : 0;
}

int stand_open_limits(struct limits **ret_limits, const char *isa, uint64_t buffer_bytes)
{
    int status = stand_check_memory(buffer_bytes, "--buffer: the buffer that is read");
    if (!status && limits_open(ret_limits, isa, buffer_bytes) < 0)
        status = cli_fail("--buffer: no memory for the buffer that is read");
    return status;
}

struct attention_shape stand_attention_shape(const struct model_config *config)
{
    return (struct attention_shape){.heads = config->heads,
                                    .kv_heads = config->kv_heads,
                                    .head_dim = config->head_dim,
                                    .rotary_dims = config->rotary_dims,
                                    .rotary = config->rotary,
                                    .scale = 1 / sqrtf((float)config->head_dim)};
}

/* ---- tokens ---------------------------------------------------------------------------------- */

int tokens_init(struct tokens *tokens, uint32_t rows, uint32_t sequences, uint32_t blocks,
                uint32_t vocab_size)
{
    size_t table = (size_t)sequences * blocks;
    *tokens = (struct tokens){
        .ids = calloc(rows, sizeof(uint32_t)),
        .positions = calloc(rows, sizeof(uint32_t)),
        .sequences = calloc(rows, sizeof(uint32_t)),
        .logit_rows = calloc(rows, sizeof(uint32_t)),
        .block_tables = calloc(table, sizeof(uint32_t)),
        .blocks = blocks,
        .vocab_size = vocab_size,
        .state = 1,
    };
    if (!tokens->ids || !tokens->positions || !tokens->sequences || !tokens->logit_rows ||
        !tokens->block_tables) {
        tokens_fini(tokens);
        return -ENOMEM;
    }
    for (size_t i = 0; i < table; i++)
        tokens->block_tables[i] = (uint32_t)i;
    return 0;
}

void tokens_fini(struct tokens *tokens)
{
    free(tokens->ids);
    free(tokens->positions);
    free(tokens->sequences);
    free(tokens->logit_rows);
    free(tokens->block_tables);
    *tokens = (struct tokens){0};
}

/* Knuth's MMIX generator: its upper half is random enough for ids. */
static uint32_t invent_id(struct tokens *tokens)
{
    tokens->state = tokens->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((tokens->state >> 32) * tokens->vocab_size >> 32);
}

struct batch tokens_batch(struct tokens *tokens, const struct step *step)
{
    uint32_t row = 0;
    for (uint32_t sequence = 0; sequence < step->sequences; sequence++) {
        for (uint32_t i = 0; i < step->rows; i++, row++) {
            tokens->ids[row] = invent_id(tokens);
            tokens->positions[row] = step->context + i;
            tokens->sequences[row] = sequence;
        }
        tokens->logit_rows[sequence] = row - 1;
    }
    return (struct batch){.rows = row,
                          .ids = tokens->ids,
                          .positions = tokens->positions,
                          .sequences = tokens->sequences,
                          .sequence_count = step->sequences,
                          .block_tables = tokens->block_tables,
                          .table_stride = tokens->blocks};
}

/* ---- the cache ------------------------------------------------------------------------------- */

enum { FILL_ROWS = STAND_BLOCK_TOKENS };

/* In the backend's memory: one block's tokens of q, k and v, and their angles. */
struct filler {
    float *q, *kv, *cos_sin;
    uint64_t q_floats, kv_floats, angle_floats;
};

/* Some uneven waves around zero; angles of 0. */
static int prepare_filler(struct filler *filler, struct backend *backend, float *memory)
{
    uint64_t count = filler->q_floats + filler->kv_floats + filler->angle_floats;
    float *floats = malloc(count * sizeof *floats);
    if (!floats)
        return -ENOMEM;
    for (uint64_t i = 0; i < count; i++)
        floats[i] = i < count - filler->angle_floats ? sinf((float)(i * 37 % 1009))
                                                     : (float)((count - i) % 2 == 0);
    filler->q = memory;
    filler->kv = filler->q + filler->q_floats;
    filler->cos_sin = filler->kv + filler->kv_floats;
    int err = backend->ops->upload(backend, memory, floats, count * sizeof *floats);
    free(floats);
    return err;
}

static int fill_block(struct backend *backend, struct kv_cache *cache,
                      const struct model_config *config, const struct batch *batch,
                      const struct filler *filler)
{
    struct attention_shape shape = stand_attention_shape(config);
    int err = bench_stop_signal() ? -ECANCELED : 0;
    for (uint32_t layer = 0; layer < config->layers && err == 0; layer++)
        err = backend->ops->rotary_store(backend, &shape, batch, filler->cos_sin, filler->q,
                                         filler->kv, filler->kv, cache, layer);
    return err;
}

/* One block of one sequence: its tokens, with its own row of the table in front. */
static struct batch block_batch(struct tokens *tokens, uint32_t sequence, uint32_t first,
                                uint32_t rows)
{
    struct step step = {.sequences = 1, .rows = rows, .context = first};
    struct batch batch = tokens_batch(tokens, &step);
    batch.block_tables = tokens->block_tables + (size_t)sequence * tokens->blocks;
    return batch;
}

int stand_fill_cache(struct backend *backend, struct kv_cache *cache,
                     const struct model_config *config, uint32_t sequences, uint32_t blocks,
                     uint32_t positions)
{
    struct filler filler = {
        .q_floats = (uint64_t)FILL_ROWS * config->heads * config->head_dim,
        .kv_floats = (uint64_t)FILL_ROWS * config->kv_heads * config->head_dim,
        .angle_floats = (uint64_t)FILL_ROWS * config->rotary_dims,
    };
    struct tokens tokens;
    uint64_t bytes = (filler.q_floats + filler.kv_floats + filler.angle_floats) * sizeof(float);
    void *memory;
    int err = tokens_init(&tokens, FILL_ROWS, sequences, blocks, 1);
    if (err < 0)
        return err;
    err = backend->ops->alloc(backend, bytes, &memory);
    if (err < 0)
        goto fini_tokens;
    err = prepare_filler(&filler, backend, memory);
    for (uint32_t sequence = 0; sequence < sequences; sequence++)
        for (uint32_t first = 0; first < positions && err == 0; first += FILL_ROWS) {
            uint32_t rows = positions - first < FILL_ROWS ? positions - first : FILL_ROWS;
            struct batch batch = block_batch(&tokens, sequence, first, rows);
            err = fill_block(backend, cache, config, &batch, &filler);
        }
    backend->ops->free(backend, memory, bytes);
fini_tokens:
    tokens_fini(&tokens);
    return err;
}
