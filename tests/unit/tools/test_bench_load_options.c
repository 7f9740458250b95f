/* What `autoglm bench engine` and `bench kernels` make of their options. */
#include <string.h>

#include "tests/support/test.h"
#include "tools/bench_limits.h"
#include "tools/bench_load_options.h"
#include "tools/cli.h"

static struct load_options options;

/* The options with argv[0] in front, words up to NULL; -1: they make sense. */
static int parse(enum load_command command, char **words)
{
    char *argv[16] = {"bench"};
    int count = 1;
    for (; words[count - 1]; count++)
        argv[count] = words[count - 1];
    return load_options_parse(&options, command, count, argv);
}

#define ENGINE(...) parse(LOAD_ENGINE, (char *[]){__VA_ARGS__, NULL})
#define KERNELS(...) parse(LOAD_KERNELS, (char *[]){__VA_ARGS__, NULL})

static void assert_list(const struct bench_list *list, uint32_t count, const uint32_t *values)
{
    assert_int_equal(list->count, count);
    assert_memory_equal(list->values, values, count * sizeof *values);
}

static void the_engine_is_measured_in_the_usual_ways(void **state)
{
    assert_int_equal(parse(LOAD_ENGINE, (char *[]){NULL}), -1);
    assert_string_equal(options.shape, "edge-1.5b");
    assert_int_equal(options.config.ffn_dim, 6144);
    assert_int_equal(options.type_count, 1);
    assert_int_equal(options.types[0], TENSOR_Q8);
    assert_int_equal(options.head_type, TENSOR_Q8);
    assert_int_equal(options.cache_type, TENSOR_F16);
    assert_list(&options.batches, 5, (uint32_t[]){1, 2, 4, 8, 16});
    assert_list(&options.contexts, 3, (uint32_t[]){0, 1024, 4096});
    assert_list(&options.prompts, 2, (uint32_t[]){128, 512});
    assert_int_equal(options.threads.count, 1);
    assert_true(options.threads.values[0] >= 1);
    assert_null(options.isa);
    assert_int_equal(options.buffer_bytes, limits_usual_bytes());
    assert_true(options.buffer_bytes >= (uint64_t)1 << 30);
}

static void the_kernels_are_measured_in_every_type(void **state)
{
    assert_int_equal(parse(LOAD_KERNELS, (char *[]){NULL}), -1);
    assert_int_equal(options.type_count, 10);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(options.types[i], i);
    assert_list(&options.rows, 7, (uint32_t[]){1, 2, 4, 8, 16, 64, 512});
}

static void what_is_given_is_kept(void **state)
{
    assert_int_equal(ENGINE("--shape", "story", "--quant", "q4_super", "--batch", "3,5",
                            "--context", "7", "--prompt", "9", "--threads", "1,2", "--isa"),
                     CLI_USAGE);
    assert_int_equal(ENGINE("--shape", "story", "--quant", "q4_super", "--batch", "3,5",
                            "--context", "7", "--threads", "1,2", "--isa", "avx2"),
                     -1);
    assert_int_equal(options.config.layers, 5);
    assert_int_equal(options.types[0], TENSOR_Q4_SUPER);
    assert_int_equal(options.head_type, TENSOR_Q4_SUPER); /* as the others */
    assert_list(&options.batches, 2, (uint32_t[]){3, 5});
    assert_list(&options.contexts, 1, (uint32_t[]){7});
    assert_list(&options.threads, 2, (uint32_t[]){1, 2});
    assert_string_equal(options.isa, "avx2");
    assert_int_equal(ENGINE("--head", "q8_halves", "--quant", "q4", "--cache", "f32", "--rounds",
                            "9", "--ms", "77", "--buffer", "5", "--json"),
                     -1);
    assert_int_equal(options.types[0], TENSOR_Q4);
    assert_int_equal(options.head_type, TENSOR_Q8_HALVES);
    assert_int_equal(options.cache_type, TENSOR_F32);
    assert_int_equal(options.rounds, 9);
    assert_int_equal(options.round_ms, 77);
    assert_int_equal(options.buffer_bytes, 5 << 20);
    assert_true(options.is_json);
    assert_int_equal(KERNELS("--quant", "q4,f16,q4", "--rows", "3"), -1);
    assert_int_equal(options.type_count, 2);
    assert_int_equal(options.types[0], TENSOR_Q4);
    assert_int_equal(options.types[1], TENSOR_F16);
    assert_list(&options.rows, 1, (uint32_t[]){3});
}

static void either_kind_of_row_can_be_left_out_but_not_both(void **state)
{
    assert_int_equal(ENGINE("--batch", "0"), -1);
    assert_int_equal(options.batches.count, 0);
    assert_int_equal(options.prompts.count, 2);
    assert_int_equal(ENGINE("--prompt", "0"), -1);
    assert_int_equal(options.prompts.count, 0);
    assert_int_equal(ENGINE("--prompt", "0", "--batch", "0"), CLI_USAGE);
}

static void what_makes_no_sense_is_refused(void **state)
{
    assert_int_equal(ENGINE("--shape", "edge-2b"), CLI_USAGE);
    assert_int_equal(ENGINE("--quant", "q3"), CLI_USAGE);
    assert_int_equal(ENGINE("--quant", "q4,q8"), CLI_USAGE); /* one at a time */
    assert_int_equal(ENGINE("--head", "q4,q8"), CLI_USAGE);
    assert_int_equal(ENGINE("--cache", "bf16"), CLI_USAGE);
    assert_int_equal(ENGINE("--batch", "1,0"), CLI_USAGE);
    assert_int_equal(ENGINE("--threads", "0"), CLI_USAGE);
    assert_int_equal(ENGINE("--isa", "sse"), CLI_USAGE);
    assert_int_equal(ENGINE("--rounds", "0"), CLI_USAGE);
    assert_int_equal(ENGINE("--model", "x", "--shape", "story"), CLI_USAGE);
    assert_int_equal(ENGINE("--model", "x", "--quant", "q8"), CLI_USAGE);
    assert_int_equal(ENGINE("--model", "x", "--head", "q8"), CLI_USAGE);
    assert_int_equal(ENGINE("--rows", "1"), CLI_USAGE); /* of the kernels */
    assert_int_equal(ENGINE("word"), CLI_USAGE);
    assert_int_equal(KERNELS("--quant", "q4,,q8"), CLI_USAGE);
    assert_int_equal(KERNELS("--quant", "q4,"), CLI_USAGE);
    assert_int_equal(KERNELS("--quant", ""), CLI_USAGE);
    assert_int_equal(KERNELS("--batch", "1"), CLI_USAGE); /* of the engine */
    assert_int_equal(KERNELS("--model", "x"), CLI_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_engine_is_measured_in_the_usual_ways),
        cmocka_unit_test(the_kernels_are_measured_in_every_type),
        cmocka_unit_test(what_is_given_is_kept),
        cmocka_unit_test(either_kind_of_row_can_be_left_out_but_not_both),
        cmocka_unit_test(what_makes_no_sense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
