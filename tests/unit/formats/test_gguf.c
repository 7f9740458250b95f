/* The parser of GGUF files: what is right is read, what is wrong is refused with file, field and
 * value, whatever its numbers multiply to. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/gguf_files.h"
#include "tests/support/model_files.h"
#include "tests/support/test.h"

/* A file that is right: values of all sorts, two tensors. */
static void make_good(struct test_gguf *gguf)
{
    test_gguf_init(gguf);
    test_gguf_string(gguf, "general.architecture", "llama");
    test_gguf_u32(gguf, "llama.block_count", 7);
    test_gguf_f32(gguf, "llama.rope.freq_base", 10000);
    test_gguf_bool(gguf, "some.switch", 1);
    test_gguf_strings(gguf, "some.texts", (const char *const[]){"one", "", "three"}, 3);
    test_gguf_i32s(gguf, "some.numbers", (const int32_t[]){1, -2}, 2);
    test_gguf_tensor(gguf, "matrix", GGUF_F32, 3, 5);
    test_gguf_tensor(gguf, "blocks", GGUF_Q8_0, 2, 64);
}

/* Parses the file and frees it. file_bytes 0: it is as long as it is. */
static int parse(struct test_gguf *gguf, uint64_t file_bytes, char *why)
{
    struct gguf table = {0};
    size_t size;
    unsigned char *bytes = test_gguf_bytes(gguf, &size);
    memset(why, 0, GGUF_WHY_BYTES);
    int err = gguf_parse(&table, bytes, size, file_bytes ? file_bytes : size, "x.gguf", why);
    if (err < 0)
        assert_null(table.values);
    gguf_fini(&table);
    free(bytes);
    test_gguf_fini(gguf);
    return err;
}

static void expect(int err, int wanted_err, const char *why, const char *field, const char *value)
{
    if (err != wanted_err || !strstr(why, "x.gguf: ") || !strstr(why, field) || !strstr(why, value))
        fail_msg("%d, \"%s\", wanted %d with %s and %s", err, why, wanted_err, field, value);
}

static void refused(struct test_gguf *gguf, int wanted_err, const char *field, const char *value)
{
    char why[GGUF_WHY_BYTES];
    int err = parse(gguf, 0, why);
    expect(err, wanted_err, why, field, value);
}

static void a_good_file_gives_its_values_and_tensors(void **state)
{
    struct test_gguf gguf;
    struct gguf table;
    size_t size;
    char why[GGUF_WHY_BYTES];
    make_good(&gguf);
    unsigned char *bytes = test_gguf_bytes(&gguf, &size);
    assert_int_equal(gguf_parse(&table, bytes, size, size, "x.gguf", why), 0);
    assert_int_equal(table.value_count, 6);
    assert_int_equal(table.tensor_count, 2);
    assert_int_equal(table.alignment, 32);
    assert_int_equal(table.data_offset % 32, 0);
    /* Sorted by name: blocks, matrix. */
    const struct gguf_tensor *blocks = &table.tensors[0], *matrix = &table.tensors[1];
    assert_string_equal(blocks->name, "blocks");
    assert_int_equal(blocks->type, GGUF_Q8_0);
    assert_int_equal(blocks->bytes, 2 * 2 * 34);
    assert_int_equal(blocks->offset, table.data_offset + 64);
    assert_int_equal(matrix->dimensions, 2);
    assert_int_equal(matrix->sizes[0], 5);
    assert_int_equal(matrix->sizes[1], 3);
    assert_int_equal(matrix->offset, table.data_offset);
    for (uint64_t i = 0; i < matrix->bytes; i++)
        assert_int_equal(bytes[matrix->offset + i], test_tensor_byte("matrix", i));
    gguf_fini(&table);
    free(bytes);
    test_gguf_fini(&gguf);
}

static void every_alignment_that_may_be_is_taken(void **state)
{
    for (uint32_t alignment = GGUF_ALIGNMENT_MIN; alignment <= GGUF_ALIGNMENT_MAX; alignment *= 2) {
        char why[GGUF_WHY_BYTES];
        struct test_gguf gguf;
        test_gguf_init(&gguf);
        gguf.alignment = alignment;
        test_gguf_u32(&gguf, "general.alignment", alignment);
        test_gguf_tensor(&gguf, "a", GGUF_F32, 0, 3);
        test_gguf_tensor(&gguf, "b", GGUF_F16, 0, 3);
        if (parse(&gguf, 0, why) != 0)
            fail_msg("%u: %s", alignment, why);
    }
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    struct test_gguf gguf;
    size_t size;
    make_good(&gguf);
    unsigned char *bytes = test_gguf_bytes(&gguf, &size);
    for (size_t cut = 0; cut < size; cut++) {
        struct gguf table = {0};
        char why[GGUF_WHY_BYTES] = "";
        unsigned char *copy = malloc(cut ? cut : 1); /* so that a sanitizer sees a step beyond */
        memcpy(copy, bytes, cut);
        int err = gguf_parse(&table, copy, cut, cut, "x.gguf", why);
        expect(err, -EINVAL, why, "", "");
        free(copy);
    }
    free(bytes);
    test_gguf_fini(&gguf);
}

static void a_header_that_goes_on_behind_what_is_read_is_asked_for(void **state)
{
    struct test_gguf gguf;
    struct gguf table = {0};
    size_t size;
    make_good(&gguf);
    unsigned char *bytes = test_gguf_bytes(&gguf, &size);
    int err = -EAGAIN;
    size_t have = 0;
    for (; have < size && err == -EAGAIN; have++)
        err = gguf_parse(&table, bytes, have, size, "x.gguf", NULL);
    assert_int_equal(err, 0);
    assert_true(have < size); /* the tensors' bytes were not needed */
    gguf_fini(&table);
    free(bytes);
    test_gguf_fini(&gguf);
}

static void another_magic_or_version_is_refused(void **state)
{
    struct test_gguf gguf;
    char why[GGUF_WHY_BYTES];
    for (uint32_t version = 0; version < 5; version++) {
        char wanted[32];
        make_good(&gguf);
        gguf.version = version;
        snprintf(wanted, sizeof wanted, "version: %u is not", version);
        int err = parse(&gguf, 0, why);
        if (version != 3)
            expect(err, -ENOTSUP, why, "version", wanted);
        else
            assert_int_equal(err, 0);
    }
    make_good(&gguf);
    gguf.version = 0x03000000;
    refused(&gguf, -ENOTSUP, "version", "big-endian");
    struct gguf table = {0};
    int err = gguf_parse(&table, (const unsigned char *)"GGML\3\0\0\0", 8, 8, "x.gguf", why);
    expect(err, -EINVAL, why, "magic", "\"GGML\"");
}

static void counts_that_wrap_or_do_not_fit_are_refused(void **state)
{
    static const uint64_t counts[] = {UINT64_MAX,
                                      UINT64_MAX / sizeof(struct gguf_value) + 2,
                                      UINT64_MAX / sizeof(struct gguf_tensor) + 2,
                                      UINT64_C(1) << 63,
                                      UINT64_C(1) << 32,
                                      100000};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct test_gguf gguf;
        char wanted[32];
        snprintf(wanted, sizeof wanted, "%llu", (unsigned long long)counts[i]);
        make_good(&gguf);
        gguf.value_count = counts[i];
        refused(&gguf, -EINVAL, "value count", wanted);
        make_good(&gguf);
        gguf.tensor_count = counts[i];
        refused(&gguf, -EINVAL, "tensor count", wanted);
    }
}

static void counts_beyond_the_limits_are_refused_though_they_fit(void **state)
{
    char why[GGUF_WHY_BYTES];
    struct test_gguf gguf;
    make_good(&gguf);
    gguf.tensor_count = GGUF_TENSORS_MAX + 1;
    expect(parse(&gguf, UINT64_C(1) << 40, why), -EFBIG, why, "tensor count", "1000001");
    make_good(&gguf);
    gguf.value_count = GGUF_VALUES_MAX + 1;
    expect(parse(&gguf, UINT64_C(1) << 40, why), -EFBIG, why, "value count", "65537");
    make_good(&gguf);
    test_gguf_raw(&gguf, "k", 1, GGUF_VALUE_STRING, &(uint64_t){(uint64_t)GGUF_HEADER_MAX}, 8);
    expect(parse(&gguf, UINT64_C(1) << 40, why), -EFBIG, why, "\"k\"", "100000000");
}

static void strings_longer_than_the_file_are_refused(void **state)
{
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 63, 1 << 20};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct test_gguf gguf;
        char wanted[48];
        snprintf(wanted, sizeof wanted, "%llu bytes", (unsigned long long)lengths[i]);
        make_good(&gguf);
        test_gguf_raw(&gguf, "k", 1, GGUF_VALUE_STRING, &lengths[i], 8);
        refused(&gguf, -EINVAL, "\"k\"", wanted);
    }
}

static void arrays_longer_than_the_file_are_refused(void **state)
{
    static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 8 + 2, UINT64_C(1) << 63,
                                      UINT64_C(1) << 61, 1 << 20};
    for (uint32_t type = 0; type <= GGUF_VALUE_F64; type++)
        for (size_t i = 0; i < sizeof counts / sizeof counts[0] && type != GGUF_VALUE_ARRAY; i++) {
            struct test_gguf gguf;
            unsigned char array[12];
            char wanted[48];
            memcpy(array, &type, 4);
            memcpy(array + 4, &counts[i], 8);
            snprintf(wanted, sizeof wanted, "%llu items", (unsigned long long)counts[i]);
            make_good(&gguf);
            test_gguf_raw(&gguf, "k", 1, GGUF_VALUE_ARRAY, array, sizeof array);
            refused(&gguf, -EINVAL, "\"k\"", wanted);
        }
}

static void unknown_types_of_values_are_refused(void **state)
{
    static const uint32_t types[] = {13, 14, 255, 0x80000000, UINT32_MAX};
    struct test_gguf gguf;
    unsigned char array[16] = {0};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "type %u", types[i]);
        make_good(&gguf);
        test_gguf_raw(&gguf, "k", 1, types[i], array, 8);
        refused(&gguf, -EINVAL, "\"k\"", wanted);
        memcpy(array, &types[i], 4);
        make_good(&gguf);
        test_gguf_raw(&gguf, "k", 1, GGUF_VALUE_ARRAY, array, sizeof array);
        refused(&gguf, -EINVAL, "\"k\"", wanted);
    }
    memcpy(array, &(uint32_t){GGUF_VALUE_ARRAY}, 4);
    make_good(&gguf);
    test_gguf_raw(&gguf, "k", 1, GGUF_VALUE_ARRAY, array, sizeof array);
    refused(&gguf, -ENOTSUP, "\"k\"", "array of arrays");
}

static void a_boolean_is_0_or_1(void **state)
{
    struct test_gguf gguf;
    make_good(&gguf);
    test_gguf_bool(&gguf, "k", 2);
    refused(&gguf, -EINVAL, "\"k\"", "value 2");
    make_good(&gguf);
    test_gguf_raw(&gguf, "k", 1, GGUF_VALUE_ARRAY, "\7\0\0\0\2\0\0\0\0\0\0\0\1\xff", 14);
    refused(&gguf, -EINVAL, "\"k\"", "value 255");
}

static void keys_are_unique_and_printable(void **state)
{
    static char long_key[GGUF_KEY_MAX + 1];
    struct test_gguf gguf;
    make_good(&gguf);
    test_gguf_raw(&gguf, "", 0, GGUF_VALUE_U8, "", 1);
    refused(&gguf, -EINVAL, "key of value 6", "empty");
    make_good(&gguf);
    test_gguf_raw(&gguf, "a\0b", 3, GGUF_VALUE_U8, "", 1);
    refused(&gguf, -EINVAL, "\"a\\x00b\"", "0x00");
    make_good(&gguf);
    test_gguf_raw(&gguf, "a\nb", 3, GGUF_VALUE_U8, "", 1);
    refused(&gguf, -EINVAL, "\"a\\x0ab\"", "0x0a");
    make_good(&gguf);
    memset(long_key, 'k', sizeof long_key);
    test_gguf_raw(&gguf, long_key, sizeof long_key, GGUF_VALUE_U8, "", 1);
    refused(&gguf, -EINVAL, "kkk", "4097 bytes");
    make_good(&gguf);
    test_gguf_u32(&gguf, "llama.block_count", 7);
    refused(&gguf, -EINVAL, "\"llama.block_count\"", "twice");
}

static void an_alignment_is_a_power_of_two_within_limits(void **state)
{
    static const uint32_t bad[] = {0, 1, 4, 24, 33, 0x20000, 0x80000000, UINT32_MAX};
    struct test_gguf gguf;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, ": %u is no", bad[i]);
        make_good(&gguf);
        test_gguf_u32(&gguf, "general.alignment", bad[i]);
        refused(&gguf, -EINVAL, "\"general.alignment\"", wanted);
    }
    make_good(&gguf);
    test_gguf_u64(&gguf, "general.alignment", 32);
    refused(&gguf, -EINVAL, "\"general.alignment\"", "is a u64");
    make_good(&gguf);
    test_gguf_string(&gguf, "general.alignment", "32");
    refused(&gguf, -EINVAL, "\"general.alignment\"", "is a string");
}

/* A good file and one more entry of the table, at the place where it belongs. */
static void add_entry(struct test_gguf *gguf, const char *name, uint32_t dimensions,
                      const uint64_t *sizes, uint32_t type)
{
    make_good(gguf);
    test_gguf_entry(gguf, name, strlen(name), dimensions, sizes, type, 64 + 160);
}

static void dimensions_are_checked_before_they_are_multiplied(void **state)
{
    struct test_gguf gguf;
    static const struct {
        uint32_t dimensions;
        uint64_t sizes[8];
        const char *value;
    } cases[] = {
        {0, {0}, "0 dimensions"},
        {5, {1, 1, 1, 1, 1}, "5 dimensions"},
        {UINT32_MAX, {1, 1, 1, 1, 1, 1, 1, 1}, "4294967295 dimensions"},
        {1, {0}, "dimension 0 has the size 0"},
        {2, {4, 0}, "dimension 1 has the size 0"},
        {2, {UINT64_C(1) << 62, 0}, "dimension 1 has the size 0"},
        {2, {4, UINT64_MAX}, "dimension 1 has the size -1"},
        {1, {UINT64_C(1) << 63}, "dimension 0 has the size -9223372036854775808"},
        {2, {UINT64_C(1) << 32, UINT64_C(1) << 32}, "overflows at dimension 1"},
        {4, {3, 1 << 30, 1 << 30, 1 << 30}, "overflows at dimension 3"},
        {1, {UINT64_C(1) << 62}, "4611686018427387904 blocks of 4 bytes overflow"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        add_entry(&gguf, "t", cases[i].dimensions, cases[i].sizes, GGUF_F32);
        refused(&gguf, -EINVAL, "tensor \"t\"", cases[i].value);
    }
}

static void elements_that_fit_but_not_as_bytes_are_refused(void **state)
{
    struct test_gguf gguf;
    /* 2^63 - 32 elements are 2^58 - 1 blocks, whose bytes fit; 31 times as many do not. */
    add_entry(&gguf, "t", 1, (const uint64_t[]){(UINT64_C(1) << 63) - 32}, GGUF_Q8_0);
    refused(&gguf, -EINVAL, "tensor \"t\"", "beyond the file's end");
    add_entry(&gguf, "t", 2, (const uint64_t[]){(UINT64_C(1) << 63) - 32, 31}, GGUF_Q8_0);
    refused(&gguf, -EINVAL, "tensor \"t\"", "blocks of 34 bytes overflow");
}

static void the_sum_of_padded_sizes_cannot_wrap(void **state)
{
    struct test_gguf gguf;
    static const uint64_t half[] = {UINT64_C(1) << 61};
    /* Each of them fits, their sum does not; nor does the padding of the last one. */
    add_entry(&gguf, "t", 1, half, GGUF_F32);
    test_gguf_entry(&gguf, "u", 1, 1, half, GGUF_F32, 64 + 160 + (UINT64_C(1) << 63));
    refused(&gguf, -EINVAL, "tensor \"u\"", "overflow");
    test_gguf_init(&gguf);
    test_gguf_entry(&gguf, "t", 1, 1, (const uint64_t[]){(UINT64_C(1) << 62) - 1}, GGUF_F32, 0);
    refused(&gguf, -EINVAL, "tensor \"t\"", "offset 0 and its 18446744073709551612 bytes overflow");
}

static void a_tensor_beyond_the_files_end_is_refused(void **state)
{
    struct test_gguf gguf;
    char why[GGUF_WHY_BYTES];
    add_entry(&gguf, "t", 1, (const uint64_t[]){8}, GGUF_F32);
    refused(&gguf, -EINVAL, "tensor \"t\"", "its 32 bytes at");
    /* One byte too few. */
    size_t size;
    make_good(&gguf);
    unsigned char *bytes = test_gguf_bytes(&gguf, &size);
    free(bytes);
    expect(parse(&gguf, size - 1, why), -EINVAL, why, "tensor \"blocks\"", "its 136 bytes at");
}

static void tensors_follow_each_other_at_the_alignment(void **state)
{
    static const struct {
        uint64_t offset;
        const char *value;
    } cases[] = {
        {1, "offset 1 is no multiple of the alignment 32"},
        {0, "offset 0, the tensor before ends at 224: an overlap"},
        {192, "an overlap"},
        {256, "offset 256, the tensor before ends at 224: a hole"},
        {UINT64_MAX - 31, "a hole"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_gguf gguf;
        make_good(&gguf);
        test_gguf_entry(&gguf, "t", 1, 1, (const uint64_t[]){1}, GGUF_F32, cases[i].offset);
        refused(&gguf, -EINVAL, "tensor \"t\"", cases[i].value);
    }
}

static void types_of_tensors_that_we_do_not_read_are_refused_by_name(void **state)
{
    static const struct {
        uint32_t type;
        int err;
        const char *value;
    } cases[] = {
        {4, -ENOTSUP, "Q4_2"},    {9, -ENOTSUP, "Q8_1"},    {10, -ENOTSUP, "Q2_K"},
        {23, -ENOTSUP, "IQ4_XS"}, {28, -ENOTSUP, "F64"},    {39, -ENOTSUP, "MXFP4"},
        {40, -EINVAL, "type 40"}, {99, -EINVAL, "type 99"}, {UINT32_MAX, -EINVAL, "4294967295"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_gguf gguf;
        add_entry(&gguf, "t", 1, (const uint64_t[]){256}, cases[i].type);
        refused(&gguf, cases[i].err, "tensor \"t\"", cases[i].value);
    }
}

static void rows_are_whole_blocks(void **state)
{
    static const enum gguf_type types[] = {GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q5_0,
                                           GGUF_Q5_1, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct test_gguf gguf;
        /* As many elements as blocks have, but in rows that have not. */
        add_entry(&gguf, "t", 2, (const uint64_t[]){16, 512}, (uint32_t)types[i]);
        refused(&gguf, -EINVAL, "tensor \"t\"", gguf_type_name((uint32_t)types[i]));
    }
}

static void names_of_tensors_are_unique_printable_and_short(void **state)
{
    static const char name[] = "0123456789012345678901234567890123456789012345678901234567890123";
    struct test_gguf gguf;
    add_entry(&gguf, "", 1, (const uint64_t[]){1}, GGUF_F32);
    refused(&gguf, -EINVAL, "tensor 2", "empty");
    add_entry(&gguf, name, 1, (const uint64_t[]){1}, GGUF_F32);
    refused(&gguf, -EINVAL, "tensor 2", "64 bytes");
    make_good(&gguf);
    test_gguf_entry(&gguf, "a\0b", 3, 1, (const uint64_t[]){1}, GGUF_F32, 224);
    refused(&gguf, -EINVAL, "tensor 2", "0x00");
    make_good(&gguf);
    test_gguf_tensor(&gguf, "matrix", GGUF_F32, 0, 1);
    refused(&gguf, -EINVAL, "tensor \"matrix\"", "twice");
}

static void a_hundred_thousand_names_are_no_matter_of_their_square(void **state)
{
    struct test_gguf gguf;
    test_gguf_init(&gguf);
    for (uint64_t i = 0; i < 100000; i++) {
        char name[16];
        int length = snprintf(name, sizeof name, "t%llu", (unsigned long long)(i % 99999));
        test_gguf_entry(&gguf, name, (size_t)length, 1, (const uint64_t[]){1}, GGUF_F32, 32 * i);
    }
    char why[GGUF_WHY_BYTES];
    size_t size;
    unsigned char *bytes = test_gguf_bytes(&gguf, &size);
    free(bytes);
    expect(parse(&gguf, size + 3200000, why), -EINVAL, why, "tensor \"t0\"", "twice");
}

static int read_at(const char *path, uint64_t file_bytes, char *why)
{
    struct gguf table = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    int err = gguf_read(&table, fd, file_bytes, "x.gguf", why);
    close(fd);
    gguf_fini(&table);
    return err;
}

static void a_file_is_read_piece_by_piece_until_its_header_is_whole(void **state)
{
    char folder[4096], path[8192], why[GGUF_WHY_BYTES];
    static char text[3 << 20];
    struct test_gguf gguf;
    size_t size;
    test_folder(folder);
    make_good(&gguf);
    memset(text, 'x', sizeof text - 1);
    test_gguf_string(&gguf, "long", text);
    test_gguf_write(&gguf, folder, "long.gguf");
    free(test_gguf_bytes(&gguf, &size));
    snprintf(path, sizeof path, "%s/long.gguf", folder);
    assert_int_equal(read_at(path, size, why), 0);
    test_gguf_fini(&gguf);

    /* It was longer when it was looked at. */
    make_good(&gguf);
    gguf.value_count++;
    test_gguf_write(&gguf, folder, "long.gguf");
    free(test_gguf_bytes(&gguf, &size));
    expect(read_at(path, size + 4096, why), -EINVAL, why, "header", "the file ends at");
    test_gguf_fini(&gguf);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_gives_its_values_and_tensors),
        cmocka_unit_test(every_alignment_that_may_be_is_taken),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_header_that_goes_on_behind_what_is_read_is_asked_for),
        cmocka_unit_test(another_magic_or_version_is_refused),
        cmocka_unit_test(counts_that_wrap_or_do_not_fit_are_refused),
        cmocka_unit_test(counts_beyond_the_limits_are_refused_though_they_fit),
        cmocka_unit_test(strings_longer_than_the_file_are_refused),
        cmocka_unit_test(arrays_longer_than_the_file_are_refused),
        cmocka_unit_test(unknown_types_of_values_are_refused),
        cmocka_unit_test(a_boolean_is_0_or_1),
        cmocka_unit_test(keys_are_unique_and_printable),
        cmocka_unit_test(an_alignment_is_a_power_of_two_within_limits),
        cmocka_unit_test(dimensions_are_checked_before_they_are_multiplied),
        cmocka_unit_test(elements_that_fit_but_not_as_bytes_are_refused),
        cmocka_unit_test(the_sum_of_padded_sizes_cannot_wrap),
        cmocka_unit_test(a_tensor_beyond_the_files_end_is_refused),
        cmocka_unit_test(tensors_follow_each_other_at_the_alignment),
        cmocka_unit_test(types_of_tensors_that_we_do_not_read_are_refused_by_name),
        cmocka_unit_test(rows_are_whole_blocks),
        cmocka_unit_test(names_of_tensors_are_unique_printable_and_short),
        cmocka_unit_test(a_hundred_thousand_names_are_no_matter_of_their_square),
        cmocka_unit_test(a_file_is_read_piece_by_piece_until_its_header_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
