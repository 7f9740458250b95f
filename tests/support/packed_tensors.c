#include "tests/support/packed_tensors.h"

#include <string.h>

#include "model/gguf_blocks.h"
#include "model/gguf_pack.h"
#include "tests/support/model_files.h"
#include "tests/support/test.h"

enum { ROW_BYTES_MAX = 4096, STRIP_BYTES_MAX = 1 << 16 };

struct rows {
    const struct tensor *tensor;
    const char *name;
    enum gguf_type type;
    uint32_t first_row;
};

static int from_floats(const struct rows *rows, const unsigned char *row, uint32_t first_group,
                       uint32_t count, struct quant_group *ret_groups)
{
    float floats[ROW_BYTES_MAX];
    uint32_t cols = rows->tensor->cols;
    gguf_blocks_to_float(rows->type, row, floats, cols);
    for (uint32_t i = cols; i % PACKED_GROUP != 0; i++)
        floats[i] = floats[cols - 1];
    for (uint32_t g = 0; g < count; g++)
        quant_from_floats(rows->tensor->type, floats + (size_t)(first_group + g) * PACKED_GROUP,
                          &ret_groups[g]);
    return 0;
}

static int wanted_groups(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                         struct quant_group *ret_groups)
{
    const struct rows *rows = context;
    unsigned char bytes[ROW_BYTES_MAX];
    uint32_t elements = 1, block_bytes = 0;
    enum tensor_type packed;
    assert_true(gguf_type_block((uint32_t)rows->type, &elements, &block_bytes));
    uint64_t row_bytes = (uint64_t)rows->tensor->cols / elements * block_bytes;
    assert_true(row_bytes <= sizeof bytes);
    for (uint64_t i = 0; i < row_bytes; i++)
        bytes[i] = test_tensor_byte(rows->name, (rows->first_row + row) * row_bytes + i);
    if (!gguf_pack_type(rows->type, &packed))
        return from_floats(rows, bytes, first_group, count, ret_groups);
    gguf_pack_groups(rows->type, bytes, first_group, count, ret_groups);
    return 0;
}

void test_check_packed(const struct tensor *tensor, enum tensor_type packed, const char *name,
                       enum gguf_type type, uint32_t first_row)
{
    static unsigned char wanted[STRIP_BYTES_MAX];
    struct rows rows = {tensor, name, type, first_row};
    assert_string_equal(tensor_type_name(tensor->type), tensor_type_name(packed));
    assert_int_equal((uintptr_t)tensor->data % 64, 0);
    size_t strip_bytes = packed_strip_bytes(packed, tensor->cols);
    assert_true(strip_bytes <= sizeof wanted);
    for (uint32_t strip = 0; strip * PACKED_STRIP < tensor->rows; strip++) {
        /* One strip alone, as if it were the first. */
        uint32_t first = strip * PACKED_STRIP, left = tensor->rows - first;
        struct tensor one = tensor_rows(*tensor, first, left < PACKED_STRIP ? left : PACKED_STRIP);
        rows.tensor = &one;
        rows.first_row = first_row + first;
        assert_int_equal(quant_pack_strip(&one, wanted, 0, wanted_groups, &rows), 0);
        if (memcmp(wanted, one.data, strip_bytes) != 0)
            fail_msg("%s: strip %u is not what the file has", name, strip);
    }
}
