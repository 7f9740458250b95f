#include <assert.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector.h"

SPECIALISED void read_row(const void *row, uint32_t width, enum tensor_type type, float *out)
{
    size_t i = 0;
    for (; i + VECTOR_LANES <= width; i += VECTOR_LANES)
        store_f32(out + i, load_elements(type, row, i));
    if (i < width)
        store_tail(out + i, load_tail(type, row, i, width - i), width - i);
}

int VARIANT(cpu_embed)(struct backend *backend, const struct tensor *table,
                       const struct batch *batch, float *out)
{
    for (uint32_t i = 0; i < batch->rows; i++) {
        assert(batch->ids[i] < table->rows);
        const void *row = tensor_rows(*table, batch->ids[i], 1).data;
        float *to = out + (size_t)i * table->cols;
        switch (table->type) {
        case TENSOR_F32:
            read_row(row, table->cols, TENSOR_F32, to);
            break;
        case TENSOR_F16:
            read_row(row, table->cols, TENSOR_F16, to);
            break;
        case TENSOR_BF16:
            read_row(row, table->cols, TENSOR_BF16, to);
            break;
        }
    }
    return 0;
}
