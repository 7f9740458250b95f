/*
 * The forward pass: the models of tests/data/models against float64, bit for bit in any company,
 * and two references from outside.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/forward.h"
#include "tests/conformance/data.h"
#include "tests/support/test.h"

static const char *const MODELS[] = {
    "glm",   "glm-f16", "glm-bf16", "glm-edge", "glm4",          "glm4-yarn",
    "llama", "llama3",  "qwen2",    "chatglm",  "qwen2-sharded",
};

enum {
    MODEL_COUNT = sizeof MODELS / sizeof *MODELS,
    PROMPTS_MAX = 4,
    ROWS_MAX = 256,
    BLOCK_TOKENS = 16,
    SEQUENCE_BLOCKS = 20,
};

/* Calls that allocate; forward_run() makes none. The one with the number failing_allocation,
 * counted from 1, fails. */
static int allocations;
static int failing_allocation;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    return ++allocations == failing_allocation ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return ++allocations == failing_allocation ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    return ++allocations == failing_allocation ? NULL : __real_realloc(memory, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return ++allocations == failing_allocation ? NULL : __real_aligned_alloc(alignment, bytes);
}

/* What transformers computed; see tests/data/make_references.py. */
struct reference {
    uint32_t prompt_count;
    uint32_t lengths[PROMPTS_MAX];
    uint32_t *prompts[PROMPTS_MAX];
    double *logits[PROMPTS_MAX]; /* [length, vocab_rows], within `bytes` */
    char *bytes;
    uint32_t vocab_rows;
};

static struct reference read_reference(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/reference.json", folder);
    char *text = test_read_file(path, NULL);
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    snprintf(path, sizeof path, "%s/reference.bin", folder);
    size_t size;
    struct reference reference = {.bytes = test_read_file(path, &size)};
    reference.vocab_rows = (uint32_t)cJSON_GetObjectItem(json, "vocab_rows")->valueint;

    double *next = (double *)(void *)reference.bytes;
    const cJSON *prompt;
    cJSON_ArrayForEach(prompt, cJSON_GetObjectItem(json, "prompts"))
    {
        uint32_t p = reference.prompt_count++;
        assert_true(p < PROMPTS_MAX);
        reference.lengths[p] = (uint32_t)cJSON_GetArraySize(prompt);
        reference.prompts[p] = malloc(reference.lengths[p] * sizeof(uint32_t));
        assert_non_null(reference.prompts[p]);
        for (uint32_t i = 0; i < reference.lengths[p]; i++)
            reference.prompts[p][i] = (uint32_t)cJSON_GetArrayItem(prompt, (int)i)->valueint;
        reference.logits[p] = next;
        next += (size_t)reference.lengths[p] * reference.vocab_rows;
    }
    assert_ptr_equal((char *)next, reference.bytes + size);
    cJSON_Delete(json);
    free(text);
    return reference;
}

static void free_reference(struct reference *reference)
{
    for (uint32_t p = 0; p < reference->prompt_count; p++)
        free(reference->prompts[p]);
    free(reference->bytes);
}

/* A model on a backend, with a cache of SEQUENCE_BLOCKS for each of PROMPTS_MAX sequences. */
struct rig {
    struct backend *backend;
    struct model *model;
    struct forward *forward;
    uint32_t tables[PROMPTS_MAX * SEQUENCE_BLOCKS];
};

static void open_forward(struct rig *rig, const struct model *model, enum tensor_type cache_type)
{
    struct forward_options options = {.rows_max = ROWS_MAX,
                                      .logits_max = ROWS_MAX,
                                      .cache_type = cache_type,
                                      .cache_blocks = PROMPTS_MAX * SEQUENCE_BLOCKS,
                                      .block_tokens = BLOCK_TOKENS};
    assert_int_equal(forward_open(&rig->forward, model, rig->backend, &options), 0);
    /* Blocks of all sequences in turn, from the last one down. */
    for (uint32_t s = 0; s < PROMPTS_MAX; s++)
        for (uint32_t i = 0; i < SEQUENCE_BLOCKS; i++)
            rig->tables[s * SEQUENCE_BLOCKS + i] = options.cache_blocks - 1 - (i * PROMPTS_MAX + s);
}

static void open_rig(struct rig *rig, const char *folder, const char *variant, uint32_t threads,
                     enum tensor_type cache_type)
{
    struct failure failure = {""};
    struct model_options options = {0};
    *rig = (struct rig){.backend = open_variant(variant, threads)};
    if (model_open(&rig->model, "test", folder, rig->backend, &options, &failure) < 0)
        fail_msg("model_open: %s", failure.text);
    open_forward(rig, rig->model, cache_type);
}

static void close_rig(struct rig *rig)
{
    forward_close(rig->forward);
    model_close(rig->model, rig->backend);
    backend_close(rig->backend);
}

struct segment {
    uint32_t sequence;
    uint32_t first;
    uint32_t count;
};

/* One step with all rows of the segments; each row's logits go to its place in
 * ret_logits[sequence]. */
static void run_step(struct rig *rig, const struct model *model, uint32_t *const *ids,
                     const struct segment *segments, uint32_t segment_count,
                     float *const *ret_logits)
{
    uint32_t batch_ids[ROWS_MAX], positions[ROWS_MAX], sequences[ROWS_MAX], wanted[ROWS_MAX] = {0};
    uint32_t rows = 0;
    for (uint32_t i = 0; i < segment_count; i++)
        for (uint32_t j = 0; j < segments[i].count; j++, rows++) {
            sequences[rows] = segments[i].sequence;
            positions[rows] = segments[i].first + j;
            batch_ids[rows] = ids[segments[i].sequence][segments[i].first + j];
        }
    struct batch batch = {.rows = rows,
                          .ids = batch_ids,
                          .positions = positions,
                          .sequences = sequences,
                          .sequence_count = PROMPTS_MAX,
                          .block_tables = rig->tables,
                          .table_stride = SEQUENCE_BLOCKS};
    /* From the last row to the first: the order is the caller's. */
    for (uint32_t i = 0; i < rows; i++)
        wanted[i] = rows - 1 - i;
    const float *logits = NULL;
    int before = allocations;
    assert_int_equal(forward_run(rig->forward, &batch, wanted, rows, &logits), 0);
    assert_int_equal(allocations, before);
    size_t vocab = model->config.vocab_rows;
    for (uint32_t i = 0; i < rows; i++)
        memcpy(ret_logits[sequences[wanted[i]]] + positions[wanted[i]] * vocab, logits + i * vocab,
               vocab * sizeof *logits);
}

static void make_logits(const struct reference *reference, float **ret_logits)
{
    for (uint32_t p = 0; p < reference->prompt_count; p++) {
        ret_logits[p] =
            calloc((size_t)reference->lengths[p] * reference->vocab_rows, sizeof(float));
        assert_non_null(ret_logits[p]);
    }
}

static void free_logits(const struct reference *reference, float **logits)
{
    for (uint32_t p = 0; p < reference->prompt_count; p++)
        free(logits[p]);
}

static void run_whole_prompts(struct rig *rig, const struct model *model,
                              const struct reference *reference, float *const *ret_logits)
{
    for (uint32_t p = 0; p < reference->prompt_count; p++)
        run_step(rig, model, reference->prompts,
                 &(struct segment){.sequence = p, .count = reference->lengths[p]}, 1, ret_logits);
}

/* The largest difference at any position, relative to the position's largest logit. */
static double worst_difference(const struct reference *reference, float *const *logits)
{
    double worst = 0;
    for (uint32_t p = 0; p < reference->prompt_count; p++)
        for (uint32_t i = 0; i < reference->lengths[p]; i++) {
            double difference = 0, largest = 0;
            for (uint32_t v = 0; v < reference->vocab_rows; v++) {
                size_t at = (size_t)i * reference->vocab_rows + v;
                double expected = reference->logits[p][at], got = (double)logits[p][at];
                if (!isfinite(got))
                    return INFINITY;
                difference = fmax(difference, fabs(got - expected));
                largest = fmax(largest, fabs(expected));
            }
            worst = fmax(worst, difference / largest);
        }
    return worst;
}

static void folder_of(const char *name, char ret_folder[4096])
{
    snprintf(ret_folder, 4096, "%s/tests/data/models/%s", AGL_SOURCE_DIR, name);
}

static void check_against_reference(const char *name, const char *variant,
                                    enum tensor_type cache_type, double allowed)
{
    char folder[4096];
    folder_of(name, folder);
    struct reference reference = read_reference(folder);
    struct rig rig;
    open_rig(&rig, folder, variant, 2, cache_type);
    assert_int_equal(rig.model->config.vocab_rows, reference.vocab_rows);
    float *logits[PROMPTS_MAX];
    make_logits(&reference, logits);
    run_whole_prompts(&rig, rig.model, &reference, logits);
    double worst = worst_difference(&reference, logits);
    if (!(worst <= allowed))
        fail_msg("%s, %s: logits are off by %.3g of the largest", name, variant ? variant : "best",
                 worst);
    print_message("%s, %s, cache %s: %.2g\n", name, variant ? variant : "best",
                  tensor_type_name(cache_type), worst);
    free_logits(&reference, logits);
    close_rig(&rig);
    free_reference(&reference);
}

static void every_models_logits_are_within_1e_4_of_float64(void **state)
{
    for (const char *const *variant = runnable_variants(); *variant; variant++)
        for (size_t i = 0; i < MODEL_COUNT; i++)
            check_against_reference(MODELS[i], *variant, TENSOR_F32, 1e-4);
}

/* Keys and values lose 2^-12 (half a unit of 11 bits) each on their way into an f16 cache. A score
 * may move by that times sum |q k|, which is 10 or so here, and each layer adds its own: a percent
 * would be too much, a thousandth is usual. */
static void with_an_f16_cache_the_logits_are_within_1e_2(void **state)
{
    for (size_t i = 0; i < MODEL_COUNT; i++)
        check_against_reference(MODELS[i], NULL, TENSOR_F16, 1e-2);
}

/* Runs all prompts `chunk` tokens at a time: each alone, or all in one batch. */
static void run_chunks(struct rig *rig, const struct reference *reference, uint32_t chunk,
                       bool together, float *const *ret_logits)
{
    for (uint32_t first = 0;; first += chunk) {
        struct segment segments[PROMPTS_MAX];
        uint32_t count = 0;
        for (uint32_t i = 0; i < reference->prompt_count; i++) {
            uint32_t p = reference->prompt_count - 1 - i;
            if (first >= reference->lengths[p])
                continue;
            uint32_t left = reference->lengths[p] - first;
            segments[count++] = (struct segment){p, first, left < chunk ? left : chunk};
        }
        if (!count)
            return;
        for (uint32_t i = 0; !together && i < count; i++)
            run_step(rig, rig->model, reference->prompts, &segments[i], 1, ret_logits);
        if (together)
            run_step(rig, rig->model, reference->prompts, segments, count, ret_logits);
    }
}

static void check_bits(const struct reference *reference, float *const *expected,
                       float *const *logits)
{
    for (uint32_t p = 0; p < reference->prompt_count; p++) {
        size_t bytes = (size_t)reference->lengths[p] * reference->vocab_rows * sizeof(float);
        assert_memory_equal(logits[p], expected[p], bytes);
        memset(logits[p], 0, bytes);
    }
}

static void check_company(const char *name, enum tensor_type cache_type)
{
    char folder[4096];
    folder_of(name, folder);
    struct reference reference = read_reference(folder);
    float *expected[PROMPTS_MAX], *logits[PROMPTS_MAX];
    make_logits(&reference, expected);
    make_logits(&reference, logits);
    for (const char *const *variant = runnable_variants(); *variant; variant++)
        for (uint32_t threads = 1; threads <= 3; threads++) {
            struct rig rig;
            open_rig(&rig, folder, *variant, threads, cache_type);
            if (threads == 1)
                run_whole_prompts(&rig, rig.model, &reference, expected);
            static const uint32_t chunks[] = {1, 5, 16, 1000};
            for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
                for (int together = 0; together <= 1; together++) {
                    run_chunks(&rig, &reference, chunks[i], together, logits);
                    check_bits(&reference, expected, logits);
                }
            close_rig(&rig);
        }
    free_logits(&reference, expected);
    free_logits(&reference, logits);
    free_reference(&reference);
}

static void logits_are_the_same_bits_in_any_company_cut_and_number_of_threads(void **state)
{
    check_company("glm4", TENSOR_F32);
    check_company("glm-bf16", TENSOR_F16);
    check_company("llama3", TENSOR_F16);
}

/* The references can tell: what a model computes with the other pairing is plainly another thing.
 */
static void the_other_rotary_pairing_gives_clearly_other_logits(void **state)
{
    for (size_t i = 0; i < MODEL_COUNT; i++) {
        char folder[4096];
        folder_of(MODELS[i], folder);
        struct reference reference = read_reference(folder);
        struct rig rig;
        open_rig(&rig, folder, NULL, 1, TENSOR_F32);
        assert_true(rig.model->config.rotary_dims > 2);
        forward_close(rig.forward);
        struct model other = *rig.model;
        other.config.rotary =
            other.config.rotary == ROTARY_HALVES ? ROTARY_INTERLEAVED : ROTARY_HALVES;
        open_forward(&rig, &other, TENSOR_F32);
        float *logits[PROMPTS_MAX];
        make_logits(&reference, logits);
        run_whole_prompts(&rig, &other, &reference, logits);
        assert_true(worst_difference(&reference, logits) > 0.05);
        free_logits(&reference, logits);
        close_rig(&rig);
        free_reference(&reference);
    }
}

static uint32_t best_of(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* From bos, 200 ids, each the best of the logits before. */
static void check_stories(const char *folder, const char *variant, uint32_t *expected)
{
    struct rig rig;
    open_rig(&rig, folder, variant, 2, TENSOR_F32);
    uint32_t vocab = rig.model->config.vocab_rows;
    float *logits = malloc((size_t)201 * vocab * sizeof *logits);
    assert_non_null(logits);
    uint32_t ids[201];
    ids[0] = expected[0];
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t *prompts[] = {ids};
        run_step(&rig, rig.model, prompts, &(struct segment){.first = i, .count = 1}, 1, &logits);
        ids[i + 1] = best_of(logits + (size_t)i * vocab, vocab);
    }
    for (uint32_t i = 0; i < 201; i++)
        assert_int_equal(ids[i], expected[i]);
    free(logits);
    close_rig(&rig);
}

static void a_trained_model_tells_its_story_word_for_word(void **state)
{
    char folder[4096], path[4096 + 32];
    if (!test_shared_data("stories260k-glm", folder))
        skip();
    snprintf(path, sizeof path, "%s/greedy_reference.json", folder);
    char *text = test_read_file(path, NULL);
    cJSON *json = cJSON_Parse(text);
    const cJSON *ids = cJSON_GetObjectItem(json, "greedy_ids_from_bos");
    assert_int_equal(cJSON_GetArraySize(ids), 201);
    uint32_t expected[201];
    for (int i = 0; i < 201; i++)
        expected[i] = (uint32_t)cJSON_GetArrayItem(ids, i)->valueint;
    for (const char *const *variant = runnable_variants(); *variant; variant++)
        check_stories(folder, *variant, expected);
    cJSON_Delete(json);
    free(text);
}

/* One layer of THUDM's own code: 32 wide, 8 heads of 4, 2 key-value heads, ffn 48. */
enum { DIM = 32, HEADS = 8, KV_HEADS = 2, HEAD_DIM = 4, FFN = 48, QKV = 48, IDS = 5 };

struct activations_file {
    float embedding[IDS * DIM], norm[DIM], qkv[QKV * DIM], qkv_bias[QKV], o[DIM * DIM];
    float ffn_norm[DIM], gate_up[2 * FFN * DIM], down[DIM * FFN], final_norm[DIM];
    int32_t x1[3];
    float y1[3 * DIM];
    int32_t x2;
    float y2[DIM];
    int32_t x3;
    float y3[DIM];
};

static struct tensor matrix(const float *data, uint32_t rows, uint32_t cols)
{
    return (struct tensor){.data = data, .type = TENSOR_F32, .rows = rows, .cols = cols};
}

/* The head is the identity, so the logits are the hidden state after the final norm. */
static struct model model_of(const struct activations_file *file, float eps,
                             struct model_layer *layer, float *frequencies, const float *identity)
{
    *layer = (struct model_layer){
        .attention_norm = matrix(file->norm, 1, DIM),
        .q = matrix(file->qkv, HEADS * HEAD_DIM, DIM),
        .k = matrix(file->qkv + 32 * DIM, 8, DIM),
        .v = matrix(file->qkv + 40 * DIM, 8, DIM),
        .q_bias = matrix(file->qkv_bias, 1, 32),
        .k_bias = matrix(file->qkv_bias + 32, 1, 8),
        .v_bias = matrix(file->qkv_bias + 40, 1, 8),
        .o = matrix(file->o, DIM, DIM),
        .ffn_norm = matrix(file->ffn_norm, 1, DIM),
        .gate = matrix(file->gate_up, FFN, DIM),
        .up = matrix(file->gate_up + (size_t)FFN * DIM, FFN, DIM),
        .down = matrix(file->down, DIM, FFN),
    };
    frequencies[0] = 1;
    return (struct model){
        .config = {.layers = 1,
                   .dim = DIM,
                   .heads = HEADS,
                   .kv_heads = KV_HEADS,
                   .head_dim = HEAD_DIM,
                   .ffn_dim = FFN,
                   .vocab_rows = DIM,
                   .norm_eps = eps,
                   .rotary = ROTARY_INTERLEAVED,
                   .rotary_dims = 2,
                   .rope_attention_factor = 1},
        .layers = layer,
        .embedding = matrix(file->embedding, IDS, DIM),
        .final_norm = matrix(file->final_norm, 1, DIM),
        .head = matrix(identity, DIM, DIM),
        .rotary_frequencies = frequencies,
    };
}

static void check_rows(const float *got, const float *expected, size_t count)
{
    /* Both sides are f32 of values below 10; the reference's own rounding counts too. */
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - expected[i]) <= 2e-6f))
            fail_msg("element %zu: %.9g instead of %.9g", i, (double)got[i], (double)expected[i]);
}

static void check_activations(const char *path, float eps)
{
    size_t size;
    char *bytes = test_read_file(path, &size);
    assert_int_equal(size, sizeof(struct activations_file));
    struct activations_file *file = (struct activations_file *)(void *)bytes;
    float identity[DIM * DIM] = {0}, frequency;
    for (int i = 0; i < DIM; i++)
        identity[i * DIM + i] = 1;
    struct model_layer layer;
    struct model model = model_of(file, eps, &layer, &frequency, identity);
    struct rig rig = {.backend = open_variant(NULL, 2)};
    open_forward(&rig, &model, TENSOR_F32);

    uint32_t ids[5] = {(uint32_t)file->x1[0], (uint32_t)file->x1[1], (uint32_t)file->x1[2],
                       (uint32_t)file->x2, (uint32_t)file->x3};
    uint32_t *prompts[] = {ids};
    float out[5 * DIM], *logits = out;
    run_step(&rig, &model, prompts, &(struct segment){.count = 3}, 1, &logits);
    run_step(&rig, &model, prompts, &(struct segment){.first = 3, .count = 1}, 1, &logits);
    run_step(&rig, &model, prompts, &(struct segment){.first = 4, .count = 1}, 1, &logits);
    check_rows(out, file->y1, (size_t)3 * DIM);
    check_rows(out + 3 * DIM, file->y2, DIM);
    check_rows(out + 4 * DIM, file->y3, DIM);
    forward_close(rig.forward);
    backend_close(rig.backend);
    free(bytes);
}

static void hidden_states_of_the_original_code_are_reproduced(void **state)
{
    char path[4096];
    if (!test_shared_data("glm-reference-activations/glm4_model.data", path))
        skip();
    check_activations(path, 1.5625e-7f);
    if (!test_shared_data("glm-reference-activations/glm3_model.data", path))
        skip();
    check_activations(path, 1e-5f);
}

static void the_memory_is_known_before_and_refused_beyond_reason(void **state)
{
    char folder[4096];
    folder_of("glm", folder);
    struct rig rig;
    open_rig(&rig, folder, NULL, 1, TENSOR_F32);
    const struct model_config *config = &rig.model->config;
    struct forward_options options = {.rows_max = 16,
                                      .logits_max = 16,
                                      .cache_type = TENSOR_F16,
                                      .cache_blocks = 4,
                                      .block_tokens = 16};
    /* Widths of 48, q 48, k and v 24, ffn 50 twice, 6 rotary and 96 logits, in whole cache lines;
     * keys and values of 2 layers and 2 heads of 12. */
    uint64_t floats = 16 * (48 + 48 + 24 + 24 + 48 + 50 + 50 + 6) + 16 * (48 + 96);
    assert_int_equal(forward_bytes(config, &options), floats * 4 + 4 * 16 * 2 * 2 * 2 * 12 * 2);

    struct forward *forward = NULL;
    struct forward_options none = options;
    none.rows_max = 0;
    assert_int_equal(forward_open(&forward, rig.model, rig.backend, &none), -EINVAL);
    options.cache_blocks = UINT32_MAX;
    options.block_tokens = UINT32_MAX;
    assert_true(forward_bytes(config, &options) > UINT64_MAX / 2);
    assert_int_equal(forward_open(&forward, rig.model, rig.backend, &options), -ENOMEM);
    assert_null(forward);
    forward_close(NULL);
    close_rig(&rig);
}

static void an_allocation_that_fails_is_told_and_leaves_nothing(void **state)
{
    char folder[4096];
    folder_of("glm", folder);
    struct rig rig;
    open_rig(&rig, folder, NULL, 1, TENSOR_F32);
    struct forward_options options = {.rows_max = 16,
                                      .logits_max = 16,
                                      .cache_type = TENSOR_F16,
                                      .cache_blocks = 4,
                                      .block_tokens = 16};
    struct forward *forward = NULL;
    int err = -ENOMEM, failures = 0;
    for (; err < 0; failures += err < 0) {
        allocations = 0;
        failing_allocation = failures + 1;
        err = forward_open(&forward, rig.model, rig.backend, &options);
        failing_allocation = 0;
        assert_true(err == 0 || (err == -ENOMEM && !forward));
    }
    assert_int_equal(failures, 5); /* itself, the cache, its count and memory, the activations */
    forward_close(forward);
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_models_logits_are_within_1e_4_of_float64),
        cmocka_unit_test(with_an_f16_cache_the_logits_are_within_1e_2),
        cmocka_unit_test(logits_are_the_same_bits_in_any_company_cut_and_number_of_threads),
        cmocka_unit_test(the_other_rotary_pairing_gives_clearly_other_logits),
        cmocka_unit_test(a_trained_model_tells_its_story_word_for_word),
        cmocka_unit_test(hidden_states_of_the_original_code_are_reproduced),
        cmocka_unit_test(an_allocation_that_fails_is_told_and_leaves_nothing),
        cmocka_unit_test(the_memory_is_known_before_and_refused_beyond_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
