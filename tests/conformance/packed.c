#include "tests/conformance/packed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test.h"

const enum tensor_type packed_types[PACKED_TYPES] = {
    TENSOR_Q8, TENSOR_Q8_MIN, TENSOR_Q8_SUPER, TENSOR_Q8_HALVES,
    TENSOR_Q4, TENSOR_Q4_MIN, TENSOR_Q4_SUPER};

static uint32_t number_max(enum tensor_type type)
{
    return type == TENSOR_Q8 ? 255 : type >= TENSOR_Q4 ? 15 : 127;
}

/* An f16 between 2^-14 and 2, or now and then 0, the smallest there is, or 2048. */
static uint16_t random_scale(struct random *random)
{
    uint32_t bits = random_u32(random);
    uint16_t sign = bits & 1 ? 0x8000 : 0;
    switch (bits >> 1 & 31) {
    case 0:
        return 0;
    case 1:
        return sign | 1;
    case 2:
        return sign | 0x0355;
    case 3:
        return sign | 0x6800;
    }
    return sign | (uint16_t)(0x0400 + (bits >> 8) % 0x3C00);
}

static struct quant_group random_group(struct random *random, enum tensor_type type)
{
    struct quant_group group = {.scale = random_scale(random), .min = random_scale(random)};
    uint32_t max = number_max(type), kind = random_u32(random) % 8;
    for (int i = 0; i < PACKED_GROUP; i++) {
        uint32_t number = random_u32(random) % (max + 1);
        group.numbers[i] = (uint8_t)(kind == 0 ? 0 : kind == 1 ? max : number);
    }
    for (int i = 0; i < 2; i++)
        group.factors[i] = (int8_t)(kind == 2 ? -128 : (int)(random_u32(random) % 256) - 128);
    return group;
}

static int give_groups(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                       struct quant_group *ret_groups)
{
    const struct packed *packed = context;
    assert_true(row < packed->tensor.rows && first_group + count <= packed->group_count);
    memcpy(ret_groups, packed->groups + (size_t)row * packed->group_count + first_group,
           count * sizeof *ret_groups);
    return 0;
}

struct packed packed_random(struct backend *backend, struct random *random, enum tensor_type type,
                            uint32_t rows, uint32_t cols)
{
    struct packed packed = {.tensor = {.type = type, .rows = rows, .cols = cols},
                            .group_count = (cols + PACKED_GROUP - 1) / PACKED_GROUP};
    size_t count = (size_t)rows * packed.group_count;
    packed.groups = calloc(count, sizeof *packed.groups);
    assert_non_null(packed.groups);
    for (size_t i = 0; i < count; i++)
        packed.groups[i] = random_group(random, type);
    uint64_t bytes = tensor_bytes(&packed.tensor);
    /* Exactly as much as is needed: AddressSanitizer sees what reads beyond. */
    packed.memory = aligned_alloc(64, bytes);
    assert_non_null(packed.memory);
    memset(packed.memory, 0xFF, bytes);
    assert_int_equal(
        backend->ops->pack(backend, &packed.tensor, packed.memory, give_groups, &packed), 0);
    packed.tensor.data = packed.memory;
    return packed;
}

void packed_free(struct backend *backend, struct packed *packed)
{
    free(packed->memory);
    free(packed->groups);
    *packed = (struct packed){0};
}

struct packed_element packed_element(const struct packed *packed, uint32_t row, uint32_t column)
{
    enum tensor_type type = packed->tensor.type;
    const struct quant_group *groups = packed->groups + (size_t)row * packed->group_count;
    const struct quant_group *group = &groups[column / 32];
    const struct quant_group *unit = &groups[column / 256 * 8];
    double scale = value_of_f16(group->scale), min = value_of_f16(group->min);
    double super_scale = value_of_f16(unit->scale), super_min = value_of_f16(unit->min);
    int number = group->numbers[column % 32];
    switch (type) {
    case TENSOR_Q8:
        return (struct packed_element){scale, 0, number - 128};
    case TENSOR_Q4:
        return (struct packed_element){scale, 0, number - 8};
    case TENSOR_Q8_HALVES:
        return (struct packed_element){super_scale * group->factors[column % 32 / 16], 0,
                                       number - 32};
    case TENSOR_Q8_SUPER:
    case TENSOR_Q4_SUPER:
        return (struct packed_element){super_scale * group->factors[0],
                                       super_min * group->factors[1], number};
    default:
        return (struct packed_element){scale, min, number};
    }
}

void round_inputs(const float *in, uint32_t width, int *ret_numbers, double *ret_scales)
{
    for (uint32_t first = 0; first < width; first += PACKED_GROUP) {
        uint32_t count = width - first < PACKED_GROUP ? width - first : PACKED_GROUP;
        float largest = 0;
        for (uint32_t i = 0; i < count; i++)
            largest = fmaxf(largest, fabsf(in[first + i]));
        if (largest < 0x1p-100f)
            largest = 0;
        float inverse = largest > 0 ? 127.0f / largest : 0;
        for (uint32_t i = 0; i < count; i++)
            ret_numbers[first + i] = (int)rintf(in[first + i] * inverse);
        ret_scales[first / PACKED_GROUP] = (double)(largest / 127.0f);
    }
}
