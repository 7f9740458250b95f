/* Windows through the models of tests/data/models, against the logits that transformers computed in
 * float64, whose softmax is taken here. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test.h"
#include "tools/perplexity_windows.h"

static const char *const MODELS[] = {"glm",   "glm-f16", "glm-edge", "glm4",   "glm4-yarn",
                                     "llama", "llama3",  "qwen2",    "chatglm"};

enum { MODEL_COUNT = sizeof MODELS / sizeof MODELS[0], PROMPTS = 3, VOCABULARY = 96, LENGTH = 64 };

struct rig {
    struct backend *backend;
    struct model *model;
    uint32_t lengths[PROMPTS];
    uint32_t prompts[PROMPTS][LENGTH];
    double *logits[PROMPTS]; /* [length, VOCABULARY], within `bytes` */
    char *bytes;
};

static void read_prompts(struct rig *rig, const char *folder)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/reference.json", folder);
    char *text = test_read_file(path, NULL);
    cJSON *json = cJSON_Parse(text);
    assert_int_equal(cJSON_GetObjectItem(json, "vocab_rows")->valueint, VOCABULARY);
    snprintf(path, sizeof path, "%s/reference.bin", folder);
    rig->bytes = test_read_file(path, NULL);
    double *next = (double *)(void *)rig->bytes;
    for (int p = 0; p < PROMPTS; p++) {
        const cJSON *prompt = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "prompts"), p);
        rig->lengths[p] = (uint32_t)cJSON_GetArraySize(prompt);
        assert_true(rig->lengths[p] <= LENGTH);
        for (uint32_t i = 0; i < rig->lengths[p]; i++)
            rig->prompts[p][i] = (uint32_t)cJSON_GetArrayItem(prompt, (int)i)->valueint;
        rig->logits[p] = next;
        next += (size_t)rig->lengths[p] * VOCABULARY;
    }
    cJSON_Delete(json);
    free(text);
}

static void open_rig(struct rig *rig, const char *name)
{
    char folder[4096];
    const char *why = "";
    struct failure failure = {""};
    const struct backend_options device = {.device = "cpu", .threads = 2};
    const struct model_options options = {0};
    snprintf(folder, sizeof folder, AGL_SOURCE_DIR "/tests/data/models/%s", name);
    *rig = (struct rig){0};
    if (backend_open(&rig->backend, &device, &why) < 0)
        fail_msg("%s", why);
    if (model_open(&rig->model, name, folder, rig->backend, &options, &failure) < 0)
        fail_msg("%s", failure.text);
    read_prompts(rig, folder);
}

static void close_rig(struct rig *rig)
{
    model_close(rig->model, rig->backend);
    backend_close(rig->backend);
    free(rig->bytes);
}

static void open_windows(struct perplexity_windows *windows, const struct rig *rig, uint32_t window)
{
    struct failure failure = {""};
    if (perplexity_windows_open(windows, rig->model, rig->backend, window, TENSOR_F32, &failure) <
        0)
        fail_msg("%s", failure.text);
}

/* What float64 says of the scored tokens of a prompt, and how far we may be from it: a logit is
 * within 1e-4 of the row's largest (test_forward), and a surprise is a difference of two. */
static double expected_mean(const struct rig *rig, int p, double *ret_allowed)
{
    long double sum = 0;
    double allowed = 0;
    uint32_t length = rig->lengths[p], count = 0;
    for (uint32_t i = length / 2; i + 1 < length; i++, count++) {
        const double *row = rig->logits[p] + (size_t)i * VOCABULARY;
        long double total = 0;
        double largest = 0;
        for (int v = 0; v < VOCABULARY; v++) {
            total += expl((long double)row[v]);
            largest = fmax(largest, fabs(row[v]));
        }
        sum += logl(total) - (long double)row[rig->prompts[p][i + 1]];
        allowed += 2e-4 * largest;
    }
    *ret_allowed = allowed / count;
    return (double)(sum / count);
}

static void check_prompt(const struct rig *rig, const char *name, int p)
{
    struct perplexity_windows windows;
    double allowed;
    double expected = expected_mean(rig, p, &allowed);
    open_windows(&windows, rig, rig->lengths[p]);
    assert_int_equal(perplexity_windows_run(&windows, rig->prompts[p]), 0);
    assert_int_equal(windows.score.count, perplexity_scored(rig->lengths[p]));
    assert_int_equal(windows.tokens, rig->lengths[p] - 1);
    if (!(fabs(windows.score.mean - expected) <= allowed))
        fail_msg("%s, %u tokens: %.9g, expected %.9g", name, rig->lengths[p], windows.score.mean,
                 expected);
    perplexity_windows_close(&windows);
}

static void every_models_surprises_are_those_of_float64(void **state)
{
    for (int i = 0; i < MODEL_COUNT; i++) {
        struct rig rig;
        open_rig(&rig, MODELS[i]);
        for (int p = 1; p < PROMPTS; p++) /* the first has one token */
            check_prompt(&rig, MODELS[i], p);
        close_rig(&rig);
    }
}

static void windows_know_nothing_of_each_other(void **state)
{
    struct rig rig;
    struct perplexity_windows windows;
    open_rig(&rig, "glm");
    open_windows(&windows, &rig, 12);
    double means[3];
    for (int i = 0; i < 3; i++) { /* the first one again, behind another one */
        windows.score = (struct perplexity_score){0};
        assert_int_equal(perplexity_windows_run(&windows, rig.prompts[2] + (i == 1 ? 12 : 0)), 0);
        means[i] = windows.score.mean;
    }
    assert_true(means[0] == means[2] && means[0] != means[1]);
    perplexity_windows_close(&windows);
    close_rig(&rig);
}

static void a_begin_token_takes_the_place_of_the_first(void **state)
{
    struct rig rig;
    struct perplexity_windows windows;
    open_rig(&rig, "glm");
    open_windows(&windows, &rig, 12);
    uint32_t ids[12];
    memcpy(ids, rig.prompts[2], sizeof ids);
    windows.bos = (ids[0] + 1) % VOCABULARY;
    assert_int_equal(perplexity_windows_run(&windows, ids), 0);
    double mean = windows.score.mean;
    assert_memory_equal(ids, rig.prompts[2], sizeof ids);
    ids[0] = (uint32_t)windows.bos;
    windows.bos = PERPLEXITY_NO_BOS;
    windows.score = (struct perplexity_score){0};
    assert_int_equal(perplexity_windows_run(&windows, ids), 0);
    assert_true(windows.score.mean == mean);
    windows.score = (struct perplexity_score){0};
    assert_int_equal(perplexity_windows_run(&windows, rig.prompts[2]), 0);
    assert_true(windows.score.mean != mean);
    perplexity_windows_close(&windows);
    close_rig(&rig);
}

static void logits_that_are_no_numbers_are_reported(void **state)
{
    struct rig rig;
    struct perplexity_windows windows;
    open_rig(&rig, "llama");
    rig.model->config.norm_eps = NAN;
    open_windows(&windows, &rig, 12);
    assert_int_equal(perplexity_windows_run(&windows, rig.prompts[2]), -EDOM);
    perplexity_windows_close(&windows);
    close_rig(&rig);
}

static void a_window_without_memory_is_refused_with_the_figures(void **state)
{
    struct rig rig;
    struct perplexity_windows windows;
    struct failure failure = {""};
    open_rig(&rig, "llama");
    rig.model->config.layers = 1u << 30;
    assert_int_equal(
        perplexity_windows_open(&windows, rig.model, rig.backend, 1 << 20, TENSOR_F32, &failure),
        -ENOMEM);
    if (!strstr(failure.text, "a window of 1048576 tokens would take ") ||
        !strstr(failure.text, " GB are free"))
        fail_msg("%s", failure.text);
    rig.model->config.layers = 2;
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_models_surprises_are_those_of_float64),
        cmocka_unit_test(windows_know_nothing_of_each_other),
        cmocka_unit_test(a_begin_token_takes_the_place_of_the_first),
        cmocka_unit_test(logits_that_are_no_numbers_are_reported),
        cmocka_unit_test(a_window_without_memory_is_refused_with_the_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
