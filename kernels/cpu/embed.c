#include <assert.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/vector.h"

SPECIALISED void read_row(const void *row, uint32_t width, enum tensor_type type, float *out)
{
    size_t i = 0;
    for (; i + VECTOR_LANES <= width; i += VECTOR_LANES)
        store_f32(out + i, load_elements(type, row, i));
    if (i < width)
        store_tail(out + i, load_tail(type, row, i, width - i), width - i);
}

/* What is taken apart here is put together in quant.c. */
static float half_at(const unsigned char *header, size_t index)
{
    uint16_t half;
    memcpy(&half, header + index * sizeof half, sizeof half);
    return half_to_float(half);
}

struct row_scales {
    float scale[2]; /* of a group's halves */
    float min;
};

static struct row_scales row_scales(enum tensor_type type, const unsigned char *header,
                                    size_t group, size_t lane)
{
    struct row_scales scales = {0};
    if (!packed_has_factors(type)) {
        scales.scale[0] = scales.scale[1] = half_at(header, group * PACKED_STRIP + lane);
        if (packed_has_min(type))
            scales.min = half_at(header, (2 + group) * PACKED_STRIP + lane);
        return scales;
    }
    const int8_t *factors = (const int8_t *)header + (size_t)4 * PACKED_STRIP;
    int8_t first = factors[group * 2 * PACKED_STRIP + lane];
    int8_t second = factors[(group * 2 + 1) * PACKED_STRIP + lane];
    scales.scale[0] = scales.scale[1] = half_at(header, lane) * (float)first;
    if (packed_has_min(type))
        scales.min = half_at(header, PACKED_STRIP + lane) * (float)second;
    else
        scales.scale[1] = half_at(header, lane) * (float)second;
    return scales;
}

/* The number of a column of a group, from the group's numbers of a strip. */
static uint32_t number_at(enum tensor_type type, const unsigned char *numbers, size_t lane,
                          size_t column)
{
    if (packed_bits(type) == 8)
        return numbers[(column / 4 * PACKED_STRIP + lane) * 4 + column % 4];
    size_t byte = (column % 16 / 4 * PACKED_STRIP + lane) * 4 + column % 4;
    return column < 16 ? numbers[byte] & 15 : numbers[byte] >> 4;
}

static void read_packed_row(const struct tensor *table, uint32_t row, float *out)
{
    enum tensor_type type = table->type;
    size_t unit_groups = packed_unit_groups(type), lane = row % PACKED_STRIP;
    const unsigned char *strip = (const unsigned char *)table->data +
                                 row / PACKED_STRIP * packed_strip_bytes(type, table->cols);
    for (size_t k = 0, group = 0; k < table->cols; k += PACKED_GROUP, group++) {
        const unsigned char *header = strip + group / unit_groups * packed_unit_bytes(type);
        const unsigned char *numbers =
            header + packed_header_bytes(type) + group % unit_groups * packed_group_bytes(type);
        struct row_scales scales = row_scales(type, header, group % unit_groups, lane);
        size_t columns = table->cols - k < PACKED_GROUP ? table->cols - k : PACKED_GROUP;
        for (size_t i = 0; i < columns; i++) {
            float number =
                (float)((int32_t)number_at(type, numbers, lane, i) - (int32_t)packed_bias(type));
            out[k + i] = scales.scale[i / 16] * number + scales.min;
        }
    }
}

int VARIANT(cpu_embed)(struct backend *backend, const struct tensor *table,
                       const struct batch *batch, float *out)
{
    pool_wait(((struct cpu_backend *)backend)->pool);
    for (uint32_t i = 0; i < batch->rows; i++) {
        assert(batch->ids[i] < table->rows);
        float *to = out + (size_t)i * table->cols;
        if (tensor_type_is_packed(table->type)) {
            read_packed_row(table, batch->ids[i], to);
            continue;
        }
        const void *row = tensor_rows(*table, batch->ids[i], 1).data;
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
        default:
            break;
        }
    }
    return 0;
}
