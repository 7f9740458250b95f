/* autoglm perplexity with the bundled model, held against the same model run token by token. */
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/forward.h"
#include "tests/support/gguf_files.h"
#include "tests/support/test.h"
#include "tools/cli.h"

#define STORY AGL_SOURCE_DIR "/models/story-glm"
#define TINY AGL_SOURCE_DIR "/tests/data/models/glm"

static const char SENTENCE[] = "Once upon a time there was a little fox who lived in the woods. "
                               "One day the fox met a bird. They played together all day long. ";

static char folder[4096];

static int make_folder(void **state)
{
    test_folder(folder);
    return 0;
}

static int remove_folder(void **state)
{
    test_remove_folder(folder);
    return 0;
}

static void redirect(int fd, const char *name, int flags)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int file = open(path, flags | O_CLOEXEC, 0600);
    if (file < 0 || dup2(file, fd) < 0)
        _exit(99);
}

/* Runs the command with this text on standard input; its output to be freed, what it said on stderr
 * in the file "err". */
static int run(const char *text, char **argv, char **ret_output)
{
    char path[8192];
    int status = 0;
    int argc = 0;
    while (argv[argc])
        argc++;
    test_write_file(folder, "in", text, strlen(text));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        redirect(0, "in", O_RDONLY);
        redirect(1, "out", O_WRONLY | O_CREAT | O_TRUNC);
        redirect(2, "err", O_WRONLY | O_CREAT | O_TRUNC);
        int exit_status = perplexity_main(argc, argv);
        fflush(NULL);
        _exit(exit_status);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    snprintf(path, sizeof path, "%s/out", folder);
    *ret_output = test_read_file(path, NULL);
    return WEXITSTATUS(status);
}

#define RUN(text, output, ...) run(text, (char *[]){"perplexity", __VA_ARGS__, NULL}, output)

/* `count` times the sentence; to be freed. */
static char *make_text(int count)
{
    size_t bytes = sizeof SENTENCE - 1;
    char *text = malloc(bytes * (size_t)count + 1);
    assert_non_null(text);
    for (int i = 0; i < count; i++)
        memcpy(text + bytes * (size_t)i, SENTENCE, bytes);
    text[bytes * (size_t)count] = 0;
    return text;
}

/* Runs the command with --json; the report is to be deleted. */
#define REPORT(text, ...) report_of(text, (char *[]){"perplexity", "--json", __VA_ARGS__, NULL})

static cJSON *report_of(const char *text, char **argv)
{
    char path[8192];
    char *output = NULL;
    if (run(text, argv, &output) != 0) {
        snprintf(path, sizeof path, "%s/err", folder);
        fail_msg("%s", test_read_file(path, NULL));
    }
    cJSON *report = cJSON_Parse(output);
    assert_non_null(report);
    free(output);
    return report;
}

static double number(const cJSON *report, const char *name)
{
    const cJSON *item = cJSON_GetObjectItem(report, name);
    if (!cJSON_IsNumber(item))
        fail_msg("%s is no number", name);
    return item->valuedouble;
}

/* ---- the same, token by token ---------------------------------------------------------------- */

enum { CONTEXT = 1024, BLOCK = 16 };

struct stepper {
    struct backend *backend;
    struct model *model;
    struct forward *forward;
    uint32_t blocks[CONTEXT / BLOCK];
};

static void open_stepper(struct stepper *stepper)
{
    const char *why = "";
    struct failure failure = {""};
    const struct backend_options device = {.device = "cpu", .threads = 1};
    const struct model_options options = {0};
    const struct forward_options forward = {.rows_max = 1,
                                            .logits_max = 1,
                                            .cache_type = TENSOR_F32,
                                            .cache_blocks = CONTEXT / BLOCK,
                                            .block_tokens = BLOCK};
    assert_int_equal(backend_open(&stepper->backend, &device, &why), 0);
    assert_int_equal(
        model_open(&stepper->model, "story", STORY, stepper->backend, &options, &failure), 0);
    assert_int_equal(forward_open(&stepper->forward, stepper->model, stepper->backend, &forward),
                     0);
    for (uint32_t i = 0; i < CONTEXT / BLOCK; i++)
        stepper->blocks[i] = CONTEXT / BLOCK - 1 - i;
}

static void close_stepper(struct stepper *stepper)
{
    forward_close(stepper->forward);
    model_close(stepper->model, stepper->backend);
    backend_close(stepper->backend);
}

/* -log of the probability of `next` behind the token `id` at this position. */
static long double surprise(struct stepper *stepper, uint32_t id, uint32_t position, uint32_t next)
{
    const uint32_t row = 0;
    const struct batch batch = {.rows = 1,
                                .ids = &id,
                                .positions = &position,
                                .sequences = &row,
                                .sequence_count = 1,
                                .block_tables = stepper->blocks,
                                .table_stride = CONTEXT / BLOCK};
    const float *logits = NULL;
    long double sum = 0;
    assert_int_equal(forward_run(stepper->forward, &batch, &row, 1, &logits), 0);
    for (uint32_t i = 0; i < stepper->model->config.vocab_rows; i++)
        sum += expl((long double)logits[i]);
    return logl(sum) - (long double)logits[next];
}

/* Perplexity and standard error by the formulas, over the surprises of all scored tokens. */
static void compute(const uint32_t *ids, uint32_t window, uint32_t windows, double *ret_value,
                    double *ret_error)
{
    struct stepper stepper;
    long double sum = 0, squares = 0, count = 0;
    open_stepper(&stepper);
    for (uint32_t w = 0; w < windows; w++)
        for (uint32_t i = 0; i + 1 < window; i++) {
            const uint32_t *at = ids + (size_t)w * window + i;
            long double x = surprise(&stepper, at[0], i, at[1]);
            if (i < window / 2)
                continue;
            sum += x, squares += x * x, count++;
        }
    long double mean = sum / count;
    *ret_value = (double)expl(mean);
    *ret_error = *ret_value * (double)sqrtl((squares / count - mean * mean) / (count - 1));
    close_stepper(&stepper);
}

static uint32_t encode(const char *text, uint32_t *ret_ids, uint32_t capacity)
{
    struct agl_tokenizer *tokenizer = NULL;
    assert_int_equal(agl_tokenizer_open(&tokenizer, STORY), 0);
    int count = agl_encode(tokenizer, text, strlen(text), ret_ids, capacity);
    assert_true(count > 0 && (uint32_t)count <= capacity);
    agl_tokenizer_close(tokenizer);
    return (uint32_t)count;
}

static void check_report(const cJSON *report, const uint32_t *ids, uint32_t window,
                         uint32_t windows)
{
    double value, error;
    compute(ids, window, windows, &value, &error);
    double got = number(report, "perplexity");
    double got_error = number(report, "standard_error");
    if (fabs(got - value) > value * 1e-9 || fabs(got_error - error) > error * 1e-9)
        fail_msg("%.12g +/- %.12g, expected %.12g +/- %.12g", got, got_error, value, error);
    assert_true(number(report, "window") == window);
    assert_true(number(report, "windows") == windows);
    assert_true(number(report, "scored_tokens") == (double)windows * (window - window / 2 - 1));
}

/* A window of more than one step, and one whose half is no whole number. */
static void the_figures_are_those_of_the_model_run_token_by_token(void **state)
{
    static uint32_t ids[2048];
    char *text = make_text(24);
    uint32_t count = encode(text, ids, 2048);
    assert_true(count >= 600 && count < 900);
    cJSON *report =
        REPORT(text, "--model", STORY, "--window", "300", "--cache-type", "f32", "--threads", "2");
    check_report(report, ids, 300, count / 300);
    assert_true(number(report, "text_tokens") == count);
    assert_true(number(report, "model_bytes") > 6e6 && number(report, "model_bytes") < 8e6);
    assert_true(number(report, "tokens_per_s") > 0);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(report, "bos")));
    cJSON_Delete(report);
    report =
        REPORT(text, "--model", STORY, "--window", "77", "--cache-type", "f32", "--chunks", "3");
    check_report(report, ids, 77, 3);
    cJSON_Delete(report);
    free(text);
}

static void the_table_and_the_progress_have_the_same_figure(void **state)
{
    char path[8192], expected[64];
    char *text = make_text(4), *output = NULL;
    cJSON *report = REPORT(text, "--model", STORY, "--window", "40");
    assert_int_equal(RUN(text, &output, "--model", STORY, "--window", "40"), 0);
    snprintf(path, sizeof path, "%s/err", folder);
    char *progress = test_read_file(path, NULL);
    snprintf(expected, sizeof expected, "perplexity  %.4f +/- %.4f\n", number(report, "perplexity"),
             number(report, "standard_error"));
    assert_non_null(strstr(output, expected));
    snprintf(expected, sizeof expected, "window %.0f of %.0f: %.4f, ", number(report, "windows"),
             number(report, "windows"), number(report, "perplexity"));
    assert_non_null(strstr(progress, expected));
    cJSON_Delete(report);
    free(progress);
    free(output);
    free(text);
}

static void one_scored_token_has_no_standard_error(void **state)
{
    char *output = NULL;
    cJSON *report = REPORT(SENTENCE, "--model", STORY, "--window", "4", "--chunks", "1");
    assert_true(number(report, "scored_tokens") == 1);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(report, "standard_error")));
    cJSON_Delete(report);
    assert_int_equal(RUN(SENTENCE, &output, "--model", STORY, "--window", "4", "--chunks", "1"), 0);
    assert_null(strstr(output, "+/-"));
    assert_non_null(strstr(output, "1 scored, 1 window of 4\n"));
    free(output);
}

static void a_file_and_standard_input_are_the_same(void **state)
{
    char path[8192];
    test_write_file(folder, "text", SENTENCE, sizeof SENTENCE - 1);
    snprintf(path, sizeof path, "%s/text", folder);
    cJSON *file = REPORT("", "--model", STORY, "--window", "16", path);
    cJSON *input = REPORT(SENTENCE, "--model", STORY, "--window", "16", "-");
    assert_true(number(file, "perplexity") == number(input, "perplexity"));
    cJSON_Delete(file);
    cJSON_Delete(input);
}

/* Fewer bytes of head and matrices each time, and figures that are near but others. */
static void the_model_is_quantised_as_asked(void **state)
{
    char *text = make_text(12);
    cJSON *reports[] = {
        REPORT(text, "--model", STORY, "--window", "128"),
        REPORT(text, "--model", STORY, "--window", "128", "--quant", "q8", "--quant-head", "keep",
               "--quant-embedding", "keep"),
        REPORT(text, "--model", STORY, "--window", "128", "--quant", "q8"),
        REPORT(text, "--model", STORY, "--window", "128", "--quant", "q4"),
        REPORT(text, "--model", STORY, "--window", "128", "--quant", "q4", "--quant-head", "quant",
               "--quant-embedding", "quant"),
    };
    enum { COUNT = sizeof reports / sizeof reports[0] };
    const char *const names[COUNT] = {"none", "q8", "q8", "q4", "q4"};
    for (int i = 0; i < COUNT; i++)
        assert_string_equal(cJSON_GetObjectItem(reports[i], "quant")->valuestring, names[i]);
    for (int i = 1; i < COUNT; i++) {
        double near = number(reports[i], "perplexity") / number(reports[0], "perplexity");
        assert_true(number(reports[i], "model_bytes") < number(reports[i - 1], "model_bytes"));
        assert_true(number(reports[i], "perplexity") != number(reports[i - 1], "perplexity"));
        assert_true(near > 0.5 && near < 2);
    }
    for (int i = 0; i < COUNT; i++)
        cJSON_Delete(reports[i]);
    free(text);
}

/* ---- the begin token ------------------------------------------------------------------------- */

/* A folder with the bundled model's files and this tokenizer_config.json (NULL: none). */
static void link_story(const char *config)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char from[4096], to[8192];
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, "%s/%s", STORY, names[i]);
        snprintf(to, sizeof to, "%s/%s", folder, names[i]);
        unlink(to);
        assert_int_equal(symlink(from, to), 0);
    }
    snprintf(to, sizeof to, "%s/tokenizer_config.json", folder);
    unlink(to);
    if (config)
        test_write_file(folder, "tokenizer_config.json", config, strlen(config));
}

static cJSON *report_with(const char *config)
{
    link_story(config);
    return REPORT(SENTENCE, "--model", folder, "--window", "8");
}

static void the_begin_token_is_what_the_folder_says_or_the_option(void **state)
{
    static const char *const without[] = {NULL, "{}", "{\"bos_token\": \"<sop>\"}",
                                          "{\"add_bos_token\": false, \"bos_token\": \"<sop>\"}"};
    static const char *const with[] = {
        "{\"add_bos_token\": true, \"bos_token\": \"<sop>\"}",
        "{\"add_bos_token\": true, \"bos_token\": {\"content\": \"<sop>\"}}"};
    cJSON *plain = report_with(NULL);
    double count = number(plain, "text_tokens");
    for (int i = 0; i < 4; i++) {
        cJSON *report = report_with(without[i]);
        assert_true(cJSON_IsNull(cJSON_GetObjectItem(report, "bos")));
        assert_true(number(report, "perplexity") == number(plain, "perplexity"));
        cJSON_Delete(report);
    }
    cJSON *begun = report_with(with[0]);
    char id[16];
    snprintf(id, sizeof id, "%.0f", number(begun, "bos"));
    assert_true(number(begun, "text_tokens") == count + 1);
    assert_true(number(begun, "perplexity") != number(plain, "perplexity"));
    for (int i = 0; i < 3; i++) {
        cJSON *report = i < 2 ? report_with(with[i])
                              : REPORT(SENTENCE, "--model", STORY, "--window", "8", "--bos", id);
        assert_true(number(report, "perplexity") == number(begun, "perplexity"));
        cJSON_Delete(report);
    }
    cJSON *none = REPORT(SENTENCE, "--model", folder, "--window", "8", "--bos", "none");
    assert_true(number(none, "perplexity") == number(plain, "perplexity"));
    cJSON_Delete(none);
    cJSON_Delete(begun);
    cJSON_Delete(plain);
}

/* A GGUF file with a tokenizer of single bytes; add: 0 or 1, or -1: not said. */
static void write_gguf_tokenizer(const char *rule, int add, int has_id)
{
    static const char *const tokens[] = {"a", "b", "c", "<s>"};
    static const int32_t kinds[] = {1, 1, 1, 3};
    struct test_gguf file;
    test_gguf_init(&file);
    test_gguf_string(&file, "general.architecture", "llama");
    test_gguf_string(&file, "tokenizer.ggml.model", "gpt2");
    test_gguf_string(&file, "tokenizer.ggml.pre", rule);
    test_gguf_strings(&file, "tokenizer.ggml.tokens", tokens, 4);
    test_gguf_i32s(&file, "tokenizer.ggml.token_type", kinds, 4);
    test_gguf_strings(&file, "tokenizer.ggml.merges", NULL, 0);
    if (add >= 0)
        test_gguf_bool(&file, "tokenizer.ggml.add_bos_token", (unsigned char)add);
    if (has_id)
        test_gguf_u32(&file, "tokenizer.ggml.bos_token_id", 3);
    test_gguf_write(&file, folder, "x.gguf");
    test_gguf_fini(&file);
}

static void a_gguf_file_says_whether_there_is_a_begin_token(void **state)
{
    static const struct {
        const char *rule;
        int add;
        double bos; /* -1: none */
    } cases[] = {{"smollm", -1, -1},   {"smollm", 0, -1},   {"smollm", 1, 3}, {"llama-bpe", -1, 3},
                 {"llama-bpe", 0, -1}, {"llama-bpe", 1, 3}, {"llama3", -1, 3}};
    char path[8192];
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_gguf_tokenizer(cases[i].rule, cases[i].add, 1);
        cJSON *report = REPORT("abcabcab", "--model", TINY, "--tokenizer", path, "--window", "8");
        const cJSON *bos = cJSON_GetObjectItem(report, "bos");
        double got = cJSON_IsNumber(bos) ? bos->valuedouble : -1;
        if (got != cases[i].bos)
            fail_msg("%s, %d: %g", cases[i].rule, cases[i].add, got);
        assert_true(number(report, "text_tokens") == 8 + (got >= 0));
        cJSON_Delete(report);
    }
}

/* ---- mistakes -------------------------------------------------------------------------------- */

static void assert_fails(int expected, const char *named, int status, char *output)
{
    char path[8192];
    snprintf(path, sizeof path, "%s/err", folder);
    char *message = test_read_file(path, NULL);
    if (status != expected || strcmp(output, "") != 0 || strncmp(message, "autoglm: ", 9) != 0 ||
        !strstr(message, named))
        fail_msg("%d, \"%s\", \"%s\" does not name %s", status, output, message, named);
    free(message);
    free(output);
}

#define FAILS(expected, named, text, ...)              \
    do {                                               \
        char *output = NULL;                           \
        int status = RUN(text, &output, __VA_ARGS__);  \
        assert_fails(expected, named, status, output); \
    } while (0)

static void options_that_make_no_sense_are_named(void **state)
{
    FAILS(2, "--model PATH is missing", "", "--window", "8");
    FAILS(2, "--loud is not an option", "", "--loud");
    FAILS(2, "one file too many", "", "--model", STORY, "a", "b");
    FAILS(2, "--window 3: ", "", "--model", STORY, "--window", "3");
    FAILS(2, "--window x: ", "", "--model", STORY, "--window", "x");
    FAILS(2, "--chunks 0: ", "", "--model", STORY, "--chunks", "0");
    FAILS(2, "--threads 0: ", "", "--model", STORY, "--threads", "0");
    FAILS(2, "--threads 1025: ", "", "--model", STORY, "--threads", "1025");
    FAILS(2, "--isa sse: must be auto, plain, avx2, avx512, avx512vnni or amx\n", "", "--model",
          STORY, "--isa", "sse");
    FAILS(2, "--cache-type f64: must be f16 or f32\n", "", "--model", STORY, "--cache-type", "f64");
    FAILS(2, "--quant q5: must be none, q8, q8_min, q4 or q4_min\n", "", "--model", STORY,
          "--quant", "q5");
    FAILS(2, "--quant-head q4: must be q8, keep or quant\n", "", "--model", STORY, "--quant-head",
          "q4");
    FAILS(2, "--quant-embedding needs a value", "", "--model", STORY, "--quant-embedding");
    FAILS(2, "--bos <s>: ", "", "--model", STORY, "--bos", "<s>");
}

static void what_cannot_be_measured_is_named(void **state)
{
    char path[8192];
    char *long_text = make_text(40);
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    FAILS(1, "the text has 0 tokens, a window 512", "", "--model", STORY);
    FAILS(1, "the text has 7 tokens, a window 8:", "a b c d e f", "--model", STORY, "--window", "8",
          "--bos", "1");
    FAILS(1, "--window 1025: the model holds 1024 tokens", long_text, "--model", STORY, "--window",
          "1025");
    FAILS(1, "neither tokenizer.json nor tokenizer.model", "", "--model", TINY);
    FAILS(1, "/nonexistent", "", "--model", "/nonexistent");
    FAILS(1, "/nonexistent: No such file", "", "--model", STORY, "/nonexistent");
    FAILS(1, "the echo model foresees nothing", SENTENCE, "--model", "echo:", "--tokenizer", STORY,
          "--window", "8");
    FAILS(1, "the model has the ids below 96", SENTENCE, "--model", TINY, "--tokenizer", STORY,
          "--window", "8");
    FAILS(1, "the model has the ids below", SENTENCE, "--model", STORY, "--window", "8", "--bos",
          "99999");
    write_gguf_tokenizer("smollm", 1, 0);
    FAILS(1, "x.gguf: tokenizer.ggml.bos_token_id", "abcabcab", "--model", TINY, "--tokenizer",
          path, "--window", "8");
    link_story("{\"add_bos_token\": true}");
    FAILS(1, "tokenizer_config.json: bos_token: ", SENTENCE, "--model", folder);
    link_story("{\"add_bos_token\": true, \"bos_token\": \"<none>\"}");
    FAILS(1, "bos_token: \"<none>\" is no token", SENTENCE, "--model", folder);
    link_story("{\"add_bos_token\": 7}");
    FAILS(1, "add_bos_token", SENTENCE, "--model", folder);
    free(long_text);
}

static void help_goes_to_standard_output(void **state)
{
    static const char *const words[] = {MODEL_QUANT_WORDS, MODEL_WIDE_WORDS, BACKEND_CPU_VARIANTS};
    char *output = NULL;
    assert_int_equal(RUN("", &output, "--help"), 0);
    assert_non_null(strstr(output, "--chunks N"));
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr(output, words[i]))
            fail_msg("--help lacks %s", words[i]);
    free(output);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(the_figures_are_those_of_the_model_run_token_by_token),
        IN_FOLDER(the_table_and_the_progress_have_the_same_figure),
        IN_FOLDER(one_scored_token_has_no_standard_error),
        IN_FOLDER(a_file_and_standard_input_are_the_same),
        IN_FOLDER(the_model_is_quantised_as_asked),
        IN_FOLDER(the_begin_token_is_what_the_folder_says_or_the_option),
        IN_FOLDER(a_gguf_file_says_whether_there_is_a_begin_token),
        IN_FOLDER(options_that_make_no_sense_are_named),
        IN_FOLDER(what_cannot_be_measured_is_named),
        IN_FOLDER(help_goes_to_standard_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
