/*
 * Matrix products of packed weights with many rows, on a matrix unit (AMX): one instruction
 * multiplies a group of a strip's 16 rows with the same group of 16 rows of inputs.
 *
 * The whole numbers are the same as everywhere, and so is what is done with them: see
 * linear_packed.c, whose results these are bit for bit. Parts of a few strips are unpacked, to
 * signed bytes and f32 scales, and meet all rows from the nearest cache.
 *
 * What limits it: beside the unit's instructions the floats that follow take one of the two ports
 * for them, two operations for each row of products; storing the products takes the unit as long as
 * making them. docs/design/quantised.md has the figures.
 */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/part.h"

/* Which tile registers hold what, of steps with even and with odd numbers. */
#define PRODUCTS_0 0
#define PRODUCTS_1 1
#define INPUTS_0 2
#define INPUTS_1 3
#define WEIGHTS_0 4
#define WEIGHTS_1 5

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

/* A step multiplies a group, or half of one where halves have factors. */
SPECIALISED size_t steps_of_group(enum tensor_type type)
{
    return type == TENSOR_Q8_HALVES ? 2 : 1;
}

SPECIALISED void configure_tiles(enum tensor_type type)
{
    static const struct tile_config configs[2] = {
        {.palette = 1, .row_bytes = {64, 64, 32, 32, 64, 64}, .rows = {16, 16, 16, 16, 8, 8}},
        {.palette = 1, .row_bytes = {64, 64, 16, 16, 64, 64}, .rows = {16, 16, 16, 16, 4, 4}},
    };
    memory_is_used();
    _tile_loadconfig(&configs[steps_of_group(type) - 1]);
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

/* A panel's part that meets a strip's. */
struct meeting {
    const struct cpu_strip *strip;
    const int8_t *inputs; /* of the first group */
    const struct input_group *groups;
    size_t stride; /* of groups, in rows */
    size_t steps;
    int32_t (*products)[16][16]; /* of the last four steps */
};

SPECIALISED const int8_t *inputs_of_step(enum tensor_type type, const struct meeting *m,
                                         size_t step)
{
    size_t parts = steps_of_group(type);
    return m->inputs + step / parts * m->stride * PACKED_GROUP + step % parts * (PACKED_GROUP / 2);
}

SPECIALISED const void *weights_of_step(enum tensor_type type, const struct meeting *m, size_t step)
{
    size_t parts = steps_of_group(type);
    return m->strip->numbers[step / parts] + step % parts * (QUADS / 2);
}

/* Makes a step's products, loads what the next one takes, and stores those of the step before:
 * so long the unit needs. Instructions name tile registers by their numbers, so there are two of
 * these. The first step stores what nobody reads. */
SPECIALISED void even_step(enum tensor_type type, const struct meeting *m, size_t step)
{
    memory_is_used();
    _tile_stored(PRODUCTS_1, m->products[(step - 1) % 4], 64);
    _tile_zero(PRODUCTS_0);
    _tile_dpbssd(PRODUCTS_0, INPUTS_0, WEIGHTS_0);
    if (step + 1 < m->steps) {
        _tile_loadd(INPUTS_1, inputs_of_step(type, m, step + 1), PACKED_GROUP);
        _tile_loadd(WEIGHTS_1, weights_of_step(type, m, step + 1), 64);
    }
    memory_is_used();
}

SPECIALISED void odd_step(enum tensor_type type, const struct meeting *m, size_t step)
{
    memory_is_used();
    _tile_stored(PRODUCTS_0, m->products[(step - 1) % 4], 64);
    _tile_zero(PRODUCTS_1);
    _tile_dpbssd(PRODUCTS_1, INPUTS_1, WEIGHTS_1);
    if (step + 1 < m->steps) {
        _tile_loadd(INPUTS_0, inputs_of_step(type, m, step + 1), PACKED_GROUP);
        _tile_loadd(WEIGHTS_0, weights_of_step(type, m, step + 1), 64);
    }
    memory_is_used();
}

/* Adds a step's products, or with a group's second half those of both. */
SPECIALISED void add_step(enum tensor_type type, const struct meeting *m, size_t step,
                          vector_f32 sums[TILE_ROWS])
{
    size_t parts = steps_of_group(type), group = step / parts;
    if (step % parts != parts - 1)
        return;
    const struct input_group *in = m->groups + group * m->stride;
    vector_f32 scale = load_f32(m->strip->scales[group]), min = load_f32(m->strip->mins[group]);
    vector_f32 second = load_f32(m->strip->second[group]), origin = scaled_origin(scale);
    for (int r = 0; r < TILE_ROWS; r++) {
        vector_i32 sum = load_i32(m->products[step % 4][r]) + SUM_ORIGIN;
        vector_f32 product;
        if (type == TENSOR_Q8_HALVES) {
            vector_i32 first = load_i32(m->products[(step - 1) % 4][r]) + SUM_ORIGIN;
            product = fused(whole_of_sum(first), min, whole_of_sum(sum) * second) * scale;
        } else {
            product = scale_sum(sum, scale, origin);
        }
        sums[r] = fused(product, vector_all(in[r].scale), sums[r]);
    }
    for (int r = 0; packed_has_min(type) && r < TILE_ROWS; r++)
        sums[r] = fused(min, vector_all(in[r].scaled_sum), sums[r]);
}

/* The products of a step are added two steps later, while others are made. */
SPECIALISED void meet(enum tensor_type type, const struct meeting *m, float (*kept)[CPU_STRIPS][16],
                      uint32_t strip, bool is_first)
{
    vector_f32 sums[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++)
        sums[r] = is_first ? (vector_f32){0} : load_f32(kept[r][strip]);
    memory_is_used();
    _tile_loadd(INPUTS_0, inputs_of_step(type, m, 0), PACKED_GROUP);
    _tile_loadd(WEIGHTS_0, weights_of_step(type, m, 0), 64);
    for (size_t step = 0; step < m->steps; step += 2) {
        even_step(type, m, step);
        if (step)
            add_step(type, m, step - 2, sums);
        if (step + 1 == m->steps)
            break;
        odd_step(type, m, step + 1);
        if (step)
            add_step(type, m, step - 1, sums);
    }
    memory_is_used();
    if (m->steps % 2)
        _tile_stored(PRODUCTS_0, m->products[(m->steps - 1) % 4], 64);
    else
        _tile_stored(PRODUCTS_1, m->products[(m->steps - 1) % 4], 64);
    memory_is_used();
    for (size_t step = m->steps < 2 ? 0 : m->steps - 2; step < m->steps; step++)
        add_step(type, m, step, sums);
    for (int r = 0; r < TILE_ROWS; r++)
        store_f32(kept[r][strip], sums[r]);
}

/* A few strips for the rows [row, end): `count` groups from `first` on. */
SPECIALISED void multiply_groups(enum tensor_type type, const struct linear_job *job,
                                 uint32_t strips, size_t first, size_t count, uint32_t row,
                                 uint32_t end, struct cpu_tiles *tiles)
{
    for (uint32_t r = row; r < end; r += PANEL_ROWS) {
        struct panel panel = panel_at(job->quantised, r, job->rows, job->width);
        struct meeting m = {.inputs = panel.numbers + first * panel.stride * PACKED_GROUP,
                            .groups = panel.groups + first * panel.stride,
                            .stride = panel.stride,
                            .steps = count * steps_of_group(type),
                            .products = tiles->products};
        for (uint32_t s = 0; s < strips; s++) {
            m.strip = &tiles->strips[s];
            meet(type, &m, &tiles->sums[r - row], s, first == 0);
        }
    }
}

/* Outputs [first, end), of at most CPU_STRIPS strips, for the rows [row, last). */
SPECIALISED void multiply_part(enum tensor_type type, const struct linear_job *job,
                               const struct map *map, uint32_t first, uint32_t end, uint32_t row,
                               uint32_t last, struct cpu_tiles *tiles)
{
    const struct tensor *weight = &map->weight;
    size_t bytes = packed_strip_bytes(type, weight->cols), groups = packed_groups(job->width);
    const char *packed = (const char *)weight->data + first / PACKED_STRIP * bytes;
    uint32_t strips = (end - first + PACKED_STRIP - 1) / PACKED_STRIP;
    for (size_t g = 0; g < groups; g += CPU_STRIP_GROUPS) {
        size_t count = groups - g < CPU_STRIP_GROUPS ? groups - g : CPU_STRIP_GROUPS;
        for (uint32_t s = 0; s < strips; s++)
            unpack(type, packed + s * bytes, g, count, &tiles->strips[s]);
        multiply_groups(type, job, strips, g, count, row, last, tiles);
    }
    for (uint32_t s = 0; s < strips; s++)
        for (uint32_t r = row; r < last; r++) {
            vector_f32 sum = load_f32(tiles->sums[r - row][s]);
            write_part(map, first + s * PACKED_STRIP, job->first_row + r, 1, &sum);
        }
}

static inline uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

SPECIALISED void multiply_strips(enum tensor_type type, const struct linear_job *job,
                                 const struct map *map, uint32_t first, uint32_t end,
                                 struct cpu_tiles *tiles)
{
    configure_tiles(type);
    for (; first < end; first += CPU_STRIPS * PACKED_STRIP)
        for (uint32_t row = 0; row < job->rows; row += CPU_STRIP_ROWS)
            multiply_part(type, job, map, first, smaller(end, first + CPU_STRIPS * PACKED_STRIP),
                          row, smaller(job->rows, row + CPU_STRIP_ROWS), tiles);
}

void cpu_multiply_tiles(const struct linear_job *job, const struct map *map, uint32_t first,
                        uint32_t end, uint32_t thread)
{
    struct cpu_tiles *tiles = &job->cpu->tiles[thread];
    switch (map->weight.type) {
    case TENSOR_Q8:
        multiply_strips(TENSOR_Q8, job, map, first, end, tiles);
        break;
    case TENSOR_Q8_MIN:
        multiply_strips(TENSOR_Q8_MIN, job, map, first, end, tiles);
        break;
    case TENSOR_Q8_SUPER:
        multiply_strips(TENSOR_Q8_SUPER, job, map, first, end, tiles);
        break;
    case TENSOR_Q8_HALVES:
        multiply_strips(TENSOR_Q8_HALVES, job, map, first, end, tiles);
        break;
    case TENSOR_Q4:
        multiply_strips(TENSOR_Q4, job, map, first, end, tiles);
        break;
    case TENSOR_Q4_MIN:
        multiply_strips(TENSOR_Q4_MIN, job, map, first, end, tiles);
        break;
    case TENSOR_Q4_SUPER:
        multiply_strips(TENSOR_Q4_SUPER, job, map, first, end, tiles);
        break;
    default:
        assert(!"weights of a plain type are not packed");
    }
    /* What is not in use need not be saved when threads take turns. */
    _tile_release();
}
