#include "kernels/quant.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/half.h"

enum { HALF_INFINITY = 0x7C00, HALF_NAN = 0x7E00, UNIT_GROUPS_MAX = 8 };

static float largest_half(void)
{
    return 65504.0f;
}

/* half_from_float() keeps what is too large at the largest f16; here it has to show. */
static uint16_t scale_from_float(float scale)
{
    if (isnan(scale))
        return HALF_NAN;
    if (fabsf(scale) > largest_half())
        return HALF_INFINITY;
    return half_from_float(scale);
}

/* To the nearest whole number, ties to even, as adding 1.5 * 2^23 rounds. NaN becomes low. (All
 * loops here are written so that a compiler makes vectors of them.) */
static void numbers_near(const float *floats, float offset, float factor, float add, float low,
                         float high, uint8_t *ret_numbers)
{
    int32_t numbers[PACKED_GROUP];
    for (int i = 0; i < PACKED_GROUP; i++) {
        float value = (floats[i] - offset) * factor + add;
        value = value > low ? value : low;
        value = value < high ? value : high;
        value += 0x1.8p23f;
        memcpy(&numbers[i], &value, sizeof value);
    }
    for (int i = 0; i < PACKED_GROUP; i++)
        ret_numbers[i] = (uint8_t)numbers[i];
}

struct range {
    float low, high;
};

/* NaN, if there is one, is both. */
static struct range range_of(const float *floats)
{
    uint32_t largest = 0;
    struct range range = {floats[0], floats[0]};
    for (int i = 0; i < PACKED_GROUP; i++) {
        uint32_t bits;
        memcpy(&bits, &floats[i], sizeof bits);
        bits &= 0x7FFFFFFF;
        largest = bits > largest ? bits : largest;
        range.low = floats[i] < range.low ? floats[i] : range.low;
        range.high = floats[i] > range.high ? floats[i] : range.high;
    }
    if (largest > 0x7F800000)
        range.low = range.high = NAN;
    return range;
}

static float inverse_of(uint16_t scale)
{
    float value = half_to_float(scale);
    return value != 0 ? 1 / value : 0;
}

static void quantise_symmetric(enum tensor_type type, const float *floats,
                               struct quant_group *group)
{
    struct range range = range_of(floats);
    float largest = range.high >= -range.low ? range.high : range.low;
    /* Four bits reach one further down than up: the largest takes that end. */
    group->scale = scale_from_float(type == TENSOR_Q8 ? fabsf(largest) / 127 : largest / -8);
    numbers_near(floats, 0, inverse_of(group->scale), (float)packed_bias(type),
                 type == TENSOR_Q8 ? 1 : 0, type == TENSOR_Q8 ? 255 : 15, group->numbers);
}

static void quantise_range(enum tensor_type type, const float *floats, struct quant_group *group)
{
    struct range range = range_of(floats);
    float steps = type == TENSOR_Q4_MIN ? 15 : 127;
    group->min = scale_from_float(range.low);
    float low = half_to_float(group->min);
    group->scale = scale_from_float(range.high > low ? (range.high - low) / steps : 0);
    numbers_near(floats, low, inverse_of(group->scale), 0, 0, steps, group->numbers);
}

void quant_from_floats(enum tensor_type type, const float floats[PACKED_GROUP],
                       struct quant_group *ret_group)
{
    struct quant_group group = {0};
    assert(tensor_type_is_packed(type) && !packed_has_factors(type));
    if (packed_has_min(type))
        quantise_range(type, floats, &group);
    else
        quantise_symmetric(type, floats, &group);
    *ret_group = group;
}

/* The bits of a number that the type keeps. */
static uint8_t number_mask(enum tensor_type type)
{
    return type == TENSOR_Q8 ? 255 : packed_bits(type) == 8 ? 127 : 15;
}

void quant_to_floats(enum tensor_type type, const struct quant_group *group,
                     const struct quant_group *unit, float ret_floats[PACKED_GROUP])
{
    bool factors = packed_has_factors(type), halves = type == TENSOR_Q8_HALVES;
    float scale = half_to_float(factors ? unit->scale : group->scale);
    float min = packed_has_min(type) ? half_to_float(factors ? unit->min : group->min) : 0;
    if (factors && !halves)
        min *= group->factors[1];
    for (int i = 0; i < PACKED_GROUP; i++) {
        float factor = factors ? group->factors[halves ? i / 16 : 0] : 1;
        float number =
            (float)((int)(group->numbers[i] & number_mask(type)) - (int)packed_bias(type));
        ret_floats[i] = scale * factor * number + min;
    }
}

/* A unit of a strip before it is laid out: [row][group]. */
typedef struct quant_group unit_rows[PACKED_STRIP][UNIT_GROUPS_MAX];

static void write_half(unsigned char *to, size_t index, uint16_t half)
{
    memcpy(to + index * sizeof half, &half, sizeof half);
}

static void write_header(enum tensor_type type, unit_rows rows, unsigned char *to)
{
    if (!packed_has_factors(type)) {
        for (size_t g = 0; g < packed_unit_groups(type); g++)
            for (size_t r = 0; r < PACKED_STRIP; r++) {
                write_half(to, g * PACKED_STRIP + r, rows[r][g].scale);
                if (packed_has_min(type))
                    write_half(to, (2 + g) * PACKED_STRIP + r, rows[r][g].min);
            }
        return;
    }
    unsigned char *factors = to + (size_t)2 * 2 * PACKED_STRIP;
    for (size_t r = 0; r < PACKED_STRIP; r++) {
        write_half(to, r, rows[r][0].scale);
        write_half(to, PACKED_STRIP + r, packed_has_min(type) ? rows[r][0].min : 0);
        for (size_t g = 0; g < UNIT_GROUPS_MAX; g++)
            for (size_t i = 0; i < 2; i++)
                factors[(g * 2 + i) * PACKED_STRIP + r] = (unsigned char)rows[r][g].factors[i];
    }
}

static void write_numbers(enum tensor_type type, unit_rows rows, size_t group, unsigned char *to)
{
    uint32_t mask = number_mask(type) * 0x01010101u;
    size_t vectors = packed_group_bytes(type) / (PACKED_STRIP * sizeof mask);
    for (size_t i = 0; i < vectors; i++)
        for (size_t r = 0; r < PACKED_STRIP; r++) {
            uint32_t low, high;
            memcpy(&low, rows[r][group].numbers + 4 * i, sizeof low);
            low &= mask;
            if (packed_bits(type) == 4) {
                memcpy(&high, rows[r][group].numbers + 16 + 4 * i, sizeof high);
                low |= (high & mask) << 4;
            }
            memcpy(to + (i * PACKED_STRIP + r) * sizeof low, &low, sizeof low);
        }
}

int quant_pack_strip(const struct tensor *tensor, void *memory, uint32_t strip,
                     quant_source *source, void *context)
{
    enum tensor_type type = tensor->type;
    uint32_t groups = (tensor->cols + PACKED_GROUP - 1) / PACKED_GROUP;
    uint32_t first_row = strip * PACKED_STRIP, unit_groups = packed_unit_groups(type);
    unsigned char *to = (unsigned char *)memory + strip * packed_strip_bytes(type, tensor->cols);
    for (uint32_t first = 0; first < groups; first += unit_groups) {
        uint32_t count = groups - first < unit_groups ? groups - first : unit_groups;
        unit_rows rows;
        memset(rows, 0, sizeof rows);
        for (uint32_t r = 0; r < PACKED_STRIP && r < tensor->rows - first_row; r++) {
            int err = source(context, first_row + r, first, count, rows[r]);
            if (err < 0)
                return err;
        }
        write_header(type, rows, to);
        to += packed_header_bytes(type);
        for (uint32_t g = 0; g < unit_groups; g++, to += packed_group_bytes(type))
            write_numbers(type, rows, g, to);
    }
    return 0;
}
