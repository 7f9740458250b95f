#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "model/reader_plan.h"
#include "model/weights.h"
#include "tests/support/model_files.h"
#include "tests/support/model_stand.h"
#include "tests/support/packed_tensors.h"

enum { COUNT = 5 };

/* Two neighbours, one that nobody wants and that is too large to read across, two more. */
static const struct test_tensor TENSORS[COUNT] = {
    {"a", "F32", 1, {1000}},   {"b", "BF16", 2, {30, 40}}, {"unwanted", "U8", 1, {300000}},
    {"c", "F32", 2, {50, 60}}, {"d", "F16", 1, {7}},
};
static const int WANTED[] = {4, 0, 3, 1};

struct fixture {
    struct model_stand stand;
    struct checkpoint *checkpoint;
    struct tensor tensors[4];
    struct weights_want wants[4];
};

static void want_tensors(struct fixture *fixture)
{
    for (int i = 0; i < 4; i++) {
        const struct test_tensor *tensor = &TENSORS[WANTED[i]];
        fixture->tensors[i] = (struct tensor){0};
        fixture->wants[i] = (struct weights_want){
            .source = checkpoint_find(fixture->checkpoint, tensor->name),
            .ret_tensor = &fixture->tensors[i],
            .rows = tensor->dimensions == 1 ? 1 : (uint32_t)tensor->shape[0],
            .cols = (uint32_t)tensor->shape[tensor->dimensions - 1],
        };
        assert_true(safetensors_tensor_type(fixture->wants[i].source, &fixture->wants[i].type));
    }
}

static void open_checkpoint(struct fixture *fixture, unsigned remainder)
{
    struct failure failure = {""};
    test_write_safetensors(fixture->stand.folder, "model.safetensors", TENSORS, COUNT, remainder);
    if (checkpoint_open(&fixture->checkpoint, fixture->stand.folder, &failure) < 0)
        fail_msg("%s", failure.text);
}

static int set_up(void **state)
{
    static struct fixture fixture;
    model_stand_open(&fixture.stand, 1);
    open_checkpoint(&fixture, 0);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    checkpoint_close(fixture->checkpoint);
    model_stand_close(&fixture->stand);
    return 0;
}

static void check_tensors(const struct fixture *fixture)
{
    for (int i = 0; i < 4; i++) {
        const struct test_tensor *tensor = &TENSORS[WANTED[i]];
        const unsigned char *bytes = fixture->tensors[i].data;
        assert_int_equal((uintptr_t)bytes % tensor_type_bytes(fixture->tensors[i].type), 0);
        assert_string_equal(tensor->type, fixture->tensors[i].type == TENSOR_F32   ? "F32"
                                          : fixture->tensors[i].type == TENSOR_F16 ? "F16"
                                                                                   : "BF16");
        assert_int_equal(tensor_bytes(&fixture->tensors[i]), test_tensor_bytes(tensor));
        for (uint64_t n = 0; n < test_tensor_bytes(tensor); n++)
            if (bytes[n] != test_tensor_byte(tensor->name, n))
                fail_msg("%s differs at %llu", tensor->name, (unsigned long long)n);
    }
}

/* So that reads around the page cache need no copy: not for those that the type forbids. */
static void check_places(const struct fixture *fixture)
{
    for (int i = 0; i < 4; i++) {
        const struct weights_want *want = &fixture->wants[i];
        if (want->source->offset % tensor_type_bytes(want->ret_tensor->type) == 0)
            assert_int_equal((uintptr_t)want->ret_tensor->data % READER_PAGE_BYTES,
                             want->source->offset % READER_PAGE_BYTES);
    }
}

static int open_weights(struct fixture *fixture, const struct weights_options *options,
                        struct weights **weights, struct failure *failure)
{
    *weights = NULL;
    *failure = (struct failure){""};
    want_tensors(fixture);
    return weights_open(weights, fixture->checkpoint, fixture->stand.folder, fixture->wants, 4,
                        fixture->stand.backend, options, failure);
}

static void every_way_of_reading_fills_every_tensor(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned remainder = 0; remainder < 8; remainder++) {
        checkpoint_close(fixture->checkpoint);
        open_checkpoint(fixture, remainder);
        for (int path = READER_AUTO; path <= READER_SERIAL; path++) {
            struct weights *weights;
            struct failure failure;
            int err = open_weights(fixture,
                                   &(struct weights_options){.path = path, .cache = remainder % 3},
                                   &weights, &failure);
            if (path == READER_RING && err == -ENOSYS)
                continue;
            if (err < 0)
                fail_msg("%s", failure.text);
            check_tensors(fixture);
            check_places(fixture);
            assert_int_equal(weights->report.weights_bytes, 4000 + 2400 + 12000 + 14);
            weights_close(weights, fixture->stand.backend);
        }
    }
}

static void what_nobody_wants_takes_no_memory(void **state)
{
    struct fixture *fixture = *state;
    struct weights *weights;
    struct failure failure;
    assert_int_equal(open_weights(fixture, &(struct weights_options){0}, &weights, &failure), 0);
    assert_true(weights->memory_bytes <= 7 * READER_PAGE_BYTES);
    assert_true(weights->report.reading.bytes < 30000);
    weights_close(weights, fixture->stand.backend);
    weights_close(NULL, fixture->stand.backend);
}

/* Bends the result of the read at one offset. */
static struct {
    uint64_t offset;
    int64_t result;
    void (*before)(const struct fixture *fixture);
    const struct fixture *fixture;
} bend;

int __real_reader_settle(struct reader_block *block, int64_t result,
                         struct reader_fault *ret_fault);
int __wrap_reader_settle(struct reader_block *block, int64_t result,
                         struct reader_fault *ret_fault);

int __wrap_reader_settle(struct reader_block *block, int64_t result, struct reader_fault *ret_fault)
{
    if (bend.before) {
        bend.before(bend.fixture);
        bend.before = NULL;
    }
    if (bend.offset > 0) {
        if (block->offset >= bend.offset)
            result = bend.result;
        else if (block->offset + block->required > bend.offset)
            result = (int64_t)(bend.offset - block->offset);
    }
    return __real_reader_settle(block, result, ret_fault);
}

static void a_fault_names_file_tensor_and_offset(void **state)
{
    struct fixture *fixture = *state;
    struct weights *weights;
    struct failure failure;
    char words[4300];
    const struct safetensors_tensor *tensor = checkpoint_find(fixture->checkpoint, "c");
    bend.offset = tensor->offset + 500;
    bend.result = -EIO;
    int err =
        open_weights(fixture, &(struct weights_options){.path = READER_SERIAL}, &weights, &failure);
    assert_int_equal(err, -EIO);
    snprintf(words, sizeof words,
             "%s/model.safetensors: tensor \"c\": reading at %llu: Input/output error",
             fixture->stand.folder, (unsigned long long)bend.offset);
    assert_string_equal(failure.text, words);
    bend.offset = checkpoint_find(fixture->checkpoint, "b")->offset;
    bend.result = 0;
    err =
        open_weights(fixture, &(struct weights_options){.path = READER_SERIAL}, &weights, &failure);
    assert_int_equal(err, -ESTALE);
    snprintf(words, sizeof words, "tensor \"b\": the file ends at %llu, it shrank",
             (unsigned long long)bend.offset);
    assert_non_null(strstr(failure.text, words));
    bend.offset = 0;
    assert_null(weights);
    assert_null(fixture->tensors[0].data);
}

static void touch(const struct fixture *fixture)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/model.safetensors", fixture->stand.folder);
    const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void a_file_that_changes_while_it_is_read_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct weights *weights;
    struct failure failure;
    bend.before = touch;
    bend.fixture = fixture;
    assert_int_equal(open_weights(fixture, &(struct weights_options){0}, &weights, &failure),
                     -ESTALE);
    assert_non_null(strstr(failure.text, "was changed while it was read"));
    assert_null(weights);
}

static void a_cancelled_reading_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct weights *weights;
    struct failure failure;
    const atomic_bool cancel = true;
    assert_int_equal(
        open_weights(fixture, &(struct weights_options){.cancel = &cancel}, &weights, &failure),
        -ECANCELED);
    assert_null(weights);
}

static void note_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    uint64_t *seen = context;
    seen[0] = done_bytes;
    seen[1] = total_bytes;
}

static void progress_is_told(void **state)
{
    struct fixture *fixture = *state;
    struct weights *weights;
    struct failure failure;
    uint64_t seen[2] = {0};
    assert_int_equal(
        open_weights(fixture,
                     &(struct weights_options){.progress = note_progress, .progress_context = seen},
                     &weights, &failure),
        0);
    assert_int_equal(seen[0], seen[1]);
    assert_true(seen[1] >= weights->report.weights_bytes);
    weights_close(weights, fixture->stand.backend);
}

static void a_line_says_how_it_was_read(void **state)
{
    struct fixture *fixture = *state;
    struct weights *weights;
    struct failure failure;
    char text[512];
    assert_int_equal(open_weights(fixture, &(struct weights_options){.path = READER_THREADS},
                                  &weights, &failure),
                     0);
    weights_describe(weights, text, sizeof text);
    assert_non_null(strstr(text, "1.84e-05 GB of weights: bf16 1, f16 1, f32 2; read "));
    assert_non_null(strstr(text, "GB/s, threads, "));
    assert_non_null(strstr(text, "0 repeated, 0 tensors ignored"));
    assert_string_equal(weights_describe(NULL, text, sizeof text), "no weights");
    weights_close(weights, fixture->stand.backend);
}

/* ---- packed ---------------------------------------------------------------------------------- */

/* Matrices of odd sizes and a vector between them. */
static const struct test_tensor MATRICES[] = {
    {"first", "F32", 2, {100, 70}},  {"norm", "F32", 1, {70}},   {"second", "BF16", 2, {33, 64}},
    {"third", "F16", 2, {1000, 31}}, {"gap", "U8", 1, {200000}}, {"fused", "F32", 2, {90, 96}},
};
enum { MATRIX_COUNT = sizeof MATRICES / sizeof MATRICES[0], PACKED_WANTS = 6, NORM = 1 };

static const struct {
    int tensor;
    enum tensor_type type;
    uint32_t first_row, rows;
} PACKED[PACKED_WANTS] = {
    {0, TENSOR_Q8, 0, 100},      {NORM, TENSOR_F32, 0, 1},   {2, TENSOR_Q4, 0, 33},
    {3, TENSOR_Q8_MIN, 0, 1000}, {5, TENSOR_Q4_MIN, 50, 40}, {5, TENSOR_Q4_MIN, 0, 50},
};

static void open_matrices(struct fixture *fixture, unsigned remainder)
{
    struct failure failure = {""};
    checkpoint_close(fixture->checkpoint);
    test_write_safetensors(fixture->stand.folder, "model.safetensors", MATRICES, MATRIX_COUNT,
                           remainder);
    if (checkpoint_open(&fixture->checkpoint, fixture->stand.folder, &failure) < 0)
        fail_msg("%s", failure.text);
}

static int pack_weights(struct fixture *fixture, const struct weights_options *options,
                        struct tensor tensors[PACKED_WANTS], struct weights **weights,
                        struct failure *failure)
{
    struct weights_want wants[PACKED_WANTS];
    *weights = NULL;
    *failure = (struct failure){""};
    for (int i = 0; i < PACKED_WANTS; i++) {
        const struct test_tensor *tensor = &MATRICES[PACKED[i].tensor];
        tensors[i] = (struct tensor){0};
        wants[i] = (struct weights_want){
            .source = checkpoint_find(fixture->checkpoint, tensor->name),
            .ret_tensor = &tensors[i],
            .type = PACKED[i].type,
            .first_row = PACKED[i].first_row,
            .rows = PACKED[i].rows,
            .cols = (uint32_t)tensor->shape[tensor->dimensions - 1],
        };
    }
    return weights_open(weights, fixture->checkpoint, fixture->stand.folder, wants, PACKED_WANTS,
                        fixture->stand.backend, options, failure);
}

static void check_matrices(const struct tensor tensors[PACKED_WANTS])
{
    for (int i = 0; i < PACKED_WANTS; i++) {
        const struct test_tensor *tensor = &MATRICES[PACKED[i].tensor];
        enum gguf_type type = strcmp(tensor->type, "F32") == 0   ? GGUF_F32
                              : strcmp(tensor->type, "F16") == 0 ? GGUF_F16
                                                                 : GGUF_BF16;
        assert_int_equal(tensors[i].rows, PACKED[i].rows);
        if (i != NORM)
            test_check_packed(&tensors[i], PACKED[i].type, tensor->name, type, PACKED[i].first_row);
        for (uint64_t n = 0; i == NORM && n < tensor_bytes(&tensors[i]); n++)
            assert_int_equal(((const unsigned char *)tensors[i].data)[n],
                             test_tensor_byte(tensor->name, n));
    }
}

static void every_way_of_reading_packs_every_row(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned remainder = 0; remainder < 8; remainder++) {
        open_matrices(fixture, remainder);
        for (int path = READER_AUTO; path <= READER_SERIAL; path++) {
            struct tensor tensors[PACKED_WANTS];
            struct weights *weights;
            struct failure failure;
            int err = pack_weights(fixture,
                                   &(struct weights_options){.path = path, .cache = remainder % 3},
                                   tensors, &weights, &failure);
            if (path == READER_RING && err == -ENOSYS)
                continue;
            if (err < 0)
                fail_msg("%s", failure.text);
            check_matrices(tensors);
            assert_int_equal(weights->report.tensors_of_type[TENSOR_Q4_MIN], 2);
            weights_close(weights, fixture->stand.backend);
        }
    }
}

static void the_figures_count_what_packing_takes(void **state)
{
    struct fixture *fixture = *state;
    struct tensor tensors[PACKED_WANTS];
    struct weights *weights;
    struct failure failure;
    uint64_t bytes = 0, file_bytes = 0, needed = 1;
    open_matrices(fixture, 0);
    while (pack_weights(fixture, &(struct weights_options){.memory_bytes = needed}, tensors,
                        &weights, &failure) == -ENOMEM) {
        assert_non_null(strstr(failure.text, " GB of them to pack in, "));
        needed += 64;
    }
    for (int i = 0; i < PACKED_WANTS; i++)
        bytes += tensor_bytes(&tensors[i]);
    for (int i = 0; i < PACKED_WANTS; i++)
        file_bytes += i == 5 || i == NORM ? 0 : test_tensor_bytes(&MATRICES[PACKED[i].tensor]);
    assert_int_equal(weights->report.weights_bytes, bytes);
    assert_in_range(weights->memory_bytes, bytes, bytes + 4 * READER_PAGE_BYTES);
    /* Two windows of a quarter each. */
    assert_in_range(needed - weights->memory_bytes, file_bytes / 2,
                    file_bytes / 2 + 4 * READER_PAGE_BYTES + 64);
    weights_close(weights, fixture->stand.backend);
}

static void shrink(const struct fixture *fixture)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/model.safetensors", fixture->stand.folder);
    assert_int_equal(truncate(path, (off_t)checkpoint_find(fixture->checkpoint, "fused")->offset),
                     0);
}

static void a_file_that_is_cut_or_touched_while_it_is_packed_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct tensor tensors[PACKED_WANTS];
    struct weights *weights;
    struct failure failure;
    const struct weights_options options = {.path = READER_SERIAL, .cache = READER_CACHED};
    bend.fixture = fixture;
    open_matrices(fixture, 0);
    bend.before = touch;
    assert_int_equal(pack_weights(fixture, &options, tensors, &weights, &failure), -ESTALE);
    assert_non_null(strstr(failure.text, "was changed while it was read"));
    open_matrices(fixture, 0);
    bend.before = shrink;
    assert_int_equal(pack_weights(fixture, &options, tensors, &weights, &failure), -ESTALE);
    assert_non_null(strstr(failure.text, "tensor \"fused\": the file ends at"));
    assert_null(weights);
    assert_null(tensors[0].data);
}

/* A device that fails at one of its calls. */
static int calls_to_failure;

static int failing_pack(struct backend *backend, const struct tensor *tensor, void *memory,
                        quant_source *source, void *context)
{
    return --calls_to_failure == 0 ? -EIO : 0;
}

static int pack_until(struct fixture *fixture, int calls, struct weights **weights,
                      struct failure *failure)
{
    const struct backend_ops *ops = fixture->stand.backend->ops;
    struct backend_ops failing = *ops;
    struct tensor tensors[PACKED_WANTS];
    failing.pack = failing_pack;
    calls_to_failure = calls;
    fixture->stand.backend->ops = &failing;
    int err = pack_weights(fixture, &(struct weights_options){0}, tensors, weights, failure);
    fixture->stand.backend->ops = ops;
    return err;
}

static void a_tensor_that_cannot_be_packed_is_named(void **state)
{
    enum { MANY = 1000 };
    struct fixture *fixture = *state;
    struct weights *weights;
    struct failure failure;
    open_matrices(fixture, 0);
    assert_int_equal(pack_until(fixture, MANY, &weights, &failure), 0);
    weights_close(weights, fixture->stand.backend);
    int calls = MANY - calls_to_failure;
    for (int i = 1; i <= calls; i++) {
        assert_int_equal(pack_until(fixture, i, &weights, &failure), -EIO);
        const char *words = i == 1       ? "tensor \"first\": packing it as q8: Input/output error"
                            : i == calls ? "tensor \"fused\": packing it as q4_min: "
                                         : ": packing it as ";
        assert_non_null(strstr(failure.text, words));
        assert_null(weights);
    }
}

static void progress_goes_on_while_tensors_are_packed(void **state)
{
    struct fixture *fixture = *state;
    struct tensor tensors[PACKED_WANTS];
    struct weights *weights;
    struct failure failure;
    uint64_t seen[2] = {0};
    char text[512];
    open_matrices(fixture, 0);
    assert_int_equal(
        pack_weights(fixture,
                     &(struct weights_options){.progress = note_progress, .progress_context = seen},
                     tensors, &weights, &failure),
        0);
    assert_int_equal(seen[0], seen[1]);
    weights_describe(weights, text, sizeof text);
    assert_non_null(strstr(text, ": q4_min 2, q4 1, q8_min 1, q8 1, f32 1; read and packed in "));
    weights_close(weights, fixture->stand.backend);
    const atomic_bool cancel = true;
    assert_int_equal(pack_weights(fixture, &(struct weights_options){.cancel = &cancel}, tensors,
                                  &weights, &failure),
                     -ECANCELED);
}

int main(void)
{
#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_FILES(every_way_of_reading_fills_every_tensor),
        WITH_FILES(what_nobody_wants_takes_no_memory),
        WITH_FILES(a_fault_names_file_tensor_and_offset),
        WITH_FILES(a_file_that_changes_while_it_is_read_is_refused),
        WITH_FILES(a_cancelled_reading_leaves_nothing),
        WITH_FILES(progress_is_told),
        WITH_FILES(a_line_says_how_it_was_read),
        WITH_FILES(every_way_of_reading_packs_every_row),
        WITH_FILES(the_figures_count_what_packing_takes),
        WITH_FILES(a_file_that_is_cut_or_touched_while_it_is_packed_is_refused),
        WITH_FILES(a_tensor_that_cannot_be_packed_is_named),
        WITH_FILES(progress_goes_on_while_tensors_are_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
