/*
 * Matrix products of packed weights with many rows, on a matrix unit (AMX): one instruction
 * multiplies a group of a strip's 16 rows with the same group of 16 rows of inputs.
 *
 * The whole numbers are the same as everywhere, and so is what is done with them: see
 * linear_packed.c, whose results these are bit for bit. A strip is unpacked once, to signed bytes
 * and f32 scales in the nearest caches, and meets all rows from there.
 */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/part.h"

/* Which tile registers hold what. */
#define PRODUCTS_0 0
#define PRODUCTS_1 1
#define INPUTS_0 2
#define INPUTS_1 3
#define WEIGHTS_0 4
#define WEIGHTS_1 5
#define HALF_INPUTS 6
#define HALF_WEIGHTS 7

enum { TILE_ROWS = 16 };

/* The operand of LDTILECFG. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(struct tile_config) == 64, "as the processor reads it");

/* The intrinsics of gcc 12 do not tell that tiles are read from and written to memory. */
SPECIALISED void memory_is_used(void)
{
    __asm__ volatile("" ::: "memory");
}

static void configure_tiles(void)
{
    static const struct tile_config config = {
        .palette = 1,
        .row_bytes = {64, 64, 32, 32, 64, 64, 16, 64},
        .rows = {16, 16, 16, 16, 8, 8, 16, 4},
    };
    _tile_loadconfig(&config);
}

SPECIALISED void unpack_numbers(enum tensor_type type, const char *numbers, int8_t to[8][64])
{
    vector_i32 bias = vector_all_i32((int32_t)(packed_bias(type) * 0x01010101u));
    for (int quad = 0; quad < QUADS / (packed_bits(type) == 4 ? 2 : 1); quad++) {
        vector_i32 packed = load_i32(numbers + (size_t)quad * 64);
        vector_i32 low = packed_bits(type) == 4 ? packed & 0x0F0F0F0F : packed;
        low = (vector_i32)_mm512_sub_epi8((__m512i)low, (__m512i)bias);
        memcpy(to[quad], &low, sizeof low);
        if (packed_bits(type) == 8)
            continue;
        vector_i32 high = packed >> 4 & 0x0F0F0F0F;
        high = (vector_i32)_mm512_sub_epi8((__m512i)high, (__m512i)bias);
        memcpy(to[quad + QUADS / 2], &high, sizeof high);
    }
}

/* `count` groups from `first` on. */
SPECIALISED void unpack(enum tensor_type type, const char *strip, size_t first, size_t count,
                        struct cpu_strip *to)
{
    size_t unit_groups = packed_unit_groups(type);
    for (size_t i = 0; i < count; i++) {
        size_t group = (first + i) % unit_groups;
        const char *header = strip + (first + i) / unit_groups * packed_unit_bytes(type);
        const char *numbers = header + packed_header_bytes(type) + group * packed_group_bytes(type);
        prefetch(numbers + PREFETCH_BYTES_ALONE, packed_group_bytes(type));
        unpack_numbers(type, numbers, to->numbers[i]);
        store_f32(to->scales[i], part_scale(type, header, group, 0));
        if (packed_has_min(type))
            store_f32(to->mins[i], part_min(type, header, group, 0));
        if (type == TENSOR_Q8_HALVES) {
            store_f32(to->mins[i], half_factor(header, group, 0, 0));
            store_f32(to->second[i], half_factor(header, group, 1, 0));
        }
    }
}

/* The products of groups `group` and the next, or of one group's halves. */
SPECIALISED void multiply_pair(enum tensor_type type, const struct cpu_strip *strip, size_t group,
                               size_t next, const int8_t *inputs, const int8_t *next_inputs,
                               int32_t ret_products[2][16][16])
{
    memory_is_used();
    _tile_zero(PRODUCTS_0);
    _tile_zero(PRODUCTS_1);
    if (type == TENSOR_Q8_HALVES) {
        _tile_loadd(HALF_INPUTS, inputs, PACKED_GROUP);
        _tile_loadd(HALF_WEIGHTS, strip->numbers[group], 64);
        _tile_dpbssd(PRODUCTS_0, HALF_INPUTS, HALF_WEIGHTS);
        _tile_loadd(HALF_INPUTS, inputs + PACKED_GROUP / 2, PACKED_GROUP);
        _tile_loadd(HALF_WEIGHTS, strip->numbers[group] + QUADS / 2, 64);
        _tile_dpbssd(PRODUCTS_1, HALF_INPUTS, HALF_WEIGHTS);
    } else {
        _tile_loadd(INPUTS_0, inputs, PACKED_GROUP);
        _tile_loadd(WEIGHTS_0, strip->numbers[group], 64);
        _tile_dpbssd(PRODUCTS_0, INPUTS_0, WEIGHTS_0);
        _tile_loadd(INPUTS_1, next_inputs, PACKED_GROUP);
        _tile_loadd(WEIGHTS_1, strip->numbers[next], 64);
        _tile_dpbssd(PRODUCTS_1, INPUTS_1, WEIGHTS_1);
    }
    _tile_stored(PRODUCTS_0, ret_products[0], 64);
    _tile_stored(PRODUCTS_1, ret_products[1], 64);
    memory_is_used();
}

SPECIALISED void add_group(enum tensor_type type, const struct cpu_strip *strip, size_t group,
                           const struct input_group *in, int32_t products[2][16][16], int which,
                           vector_f32 sums[TILE_ROWS])
{
    vector_f32 scale = load_f32(strip->scales[group]), min = load_f32(strip->mins[group]);
    vector_f32 second = load_f32(strip->second[group]), origin = scaled_origin(scale);
    for (int r = 0; r < TILE_ROWS; r++) {
        vector_i32 sum = load_i32(products[which][r]) + SUM_ORIGIN;
        vector_f32 product;
        if (type == TENSOR_Q8_HALVES)
            product = fused(whole_of_sum(sum), min,
                            whole_of_sum(load_i32(products[1][r]) + SUM_ORIGIN) * second) *
                      scale;
        else
            product = scale_sum(sum, scale, origin);
        sums[r] = fused(product, vector_all(in[r].scale), sums[r]);
    }
    for (int r = 0; packed_has_min(type) && r < TILE_ROWS; r++)
        sums[r] = fused(min, vector_all(in[r].scaled_sum), sums[r]);
}

/* Adds the products of a panel with the unpacked groups, which are `first` and those after. A
 * pair's products are added while the next pair's are made. */
SPECIALISED void add_panel(enum tensor_type type, struct cpu_strip *strip,
                           const struct panel *panel, size_t first, size_t count,
                           vector_f32 sums[TILE_ROWS])
{
    size_t step = type == TENSOR_Q8_HALVES ? 1 : 2, stride = panel->stride;
    const int8_t *inputs = panel->numbers + first * stride * PACKED_GROUP;
    const struct input_group *in = panel->groups + first * stride;
    for (size_t g = 0, turn = 0; g < count + step; g += step, turn ^= 1) {
        if (g < count) {
            size_t next = g + 1 < count ? g + 1 : g;
            multiply_pair(type, strip, g, next, inputs + g * stride * PACKED_GROUP,
                          inputs + next * stride * PACKED_GROUP, strip->products[turn]);
        }
        if (g == 0)
            continue;
        size_t before = g - step;
        add_group(type, strip, before, in + before * stride, strip->products[turn ^ 1], 0, sums);
        if (step == 2 && before + 1 < count)
            add_group(type, strip, before + 1, in + (before + 1) * stride,
                      strip->products[turn ^ 1], 1, sums);
    }
}

/* One panel's part of multiply_strip(). The sums are named one by one, so that they stay in
 * registers. */
SPECIALISED void multiply_panel(enum tensor_type type, struct cpu_strip *strip,
                                const struct panel *panel, size_t first, size_t count,
                                float (*kept)[16])
{
    vector_f32 sums[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++)
        sums[r] = first ? load_f32(kept[r]) : (vector_f32){0};
    add_panel(type, strip, panel, first, count, sums);
    for (int r = 0; r < TILE_ROWS; r++)
        store_f32(kept[r], sums[r]);
}

/* One strip for the rows [row, end). */
SPECIALISED void multiply_strip(enum tensor_type type, const struct linear_job *job,
                                const struct map *map, uint32_t output, uint32_t row, uint32_t end,
                                struct cpu_strip *strip)
{
    const struct tensor *weight = &map->weight;
    const char *packed =
        (const char *)weight->data + output / PACKED_STRIP * packed_strip_bytes(type, weight->cols);
    size_t groups = packed_groups(job->width);
    for (size_t first = 0; first < groups; first += CPU_STRIP_GROUPS) {
        size_t count = groups - first < CPU_STRIP_GROUPS ? groups - first : CPU_STRIP_GROUPS;
        unpack(type, packed, first, count, strip);
        for (uint32_t r = row; r < end; r += PANEL_ROWS) {
            struct panel panel = panel_at(job->quantised, r, job->rows, job->width);
            multiply_panel(type, strip, &panel, first, count, strip->sums + (r - row));
        }
    }
    for (uint32_t r = row; r < end; r++) {
        vector_f32 sum = load_f32(strip->sums[r - row]);
        write_part(map, output, job->first_row + r, 1, &sum);
    }
}

SPECIALISED void multiply_strips(enum tensor_type type, const struct linear_job *job,
                                 const struct map *map, uint32_t first, uint32_t end,
                                 struct cpu_strip *strip)
{
    for (; first < end; first += PACKED_STRIP)
        for (uint32_t row = 0; row < job->rows; row += CPU_STRIP_ROWS)
            multiply_strip(type, job, map, first, row,
                           job->rows - row < CPU_STRIP_ROWS ? job->rows : row + CPU_STRIP_ROWS,
                           strip);
}

void cpu_multiply_tiles(const struct linear_job *job, const struct map *map, uint32_t first,
                        uint32_t end, uint32_t thread)
{
    struct cpu_strip *strip = &job->cpu->strips[thread];
    configure_tiles();
    switch (map->weight.type) {
    case TENSOR_Q8:
        multiply_strips(TENSOR_Q8, job, map, first, end, strip);
        break;
    case TENSOR_Q8_MIN:
        multiply_strips(TENSOR_Q8_MIN, job, map, first, end, strip);
        break;
    case TENSOR_Q8_SUPER:
        multiply_strips(TENSOR_Q8_SUPER, job, map, first, end, strip);
        break;
    case TENSOR_Q8_HALVES:
        multiply_strips(TENSOR_Q8_HALVES, job, map, first, end, strip);
        break;
    case TENSOR_Q4:
        multiply_strips(TENSOR_Q4, job, map, first, end, strip);
        break;
    case TENSOR_Q4_MIN:
        multiply_strips(TENSOR_Q4_MIN, job, map, first, end, strip);
        break;
    case TENSOR_Q4_SUPER:
        multiply_strips(TENSOR_Q4_SUPER, job, map, first, end, strip);
        break;
    default:
        assert(!"weights of a plain type are not packed");
    }
    /* What is not in use need not be saved when threads take turns. */
    _tile_release();
}
