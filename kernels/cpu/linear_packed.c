/*
 * Matrix products with packed weights.
 *
 * A lane is a row of a strip: it sums one output from beginning to end, group by group in
 * ascending order, as
 *
 *     sum = fma(whole number * weight scale, input scale, sum)
 *     sum = fma(weight min, input scale * sum of inputs, sum)       where the type has a min
 *
 * with one rounding each. The whole numbers are exact (dot.h), so an output's bits depend on its
 * row and its input alone: not on tiles, batches, threads, nor on the instructions.
 *
 * A tile is a few parts (strips, or halves and quarters of them in narrower registers) by a few
 * rows of inputs. One row alone takes several strips at once: memory is read faster in several
 * streams. Many rows go panel by panel over a chunk's strips, which stay in a near cache for all of
 * them, as the panel does for all strips.
 */
#include "kernels/cpu/dot.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/part.h"

enum {
    STRIPS_AT_ONCE = 4,
    ROWS_STREAMED = 16,
};

/* A part of a strip. */
struct part {
    const char *strip;
    size_t lane; /* its first row in the strip */
};

/* Adds a part's products with the inputs' quads [from, to). */
SPECIALISED void dot_bytes(enum tensor_type type, int parts, int rows,
                           const char *const numbers[TILE_PARTS_MAX], const int8_t *inputs,
                           int from, int to, vector_i32 sums[TILE_PARTS_MAX][TILE_ROWS_MAX])
{
    for (int quad = from; quad < to; quad++)
        for (int p = 0; p < parts; p++) {
            vector_i32 weights = load_i32(numbers[p] + (size_t)quad * PACKED_STRIP * 4);
            for (int r = 0; r < rows; r++)
                sums[p][r] =
                    dot_quad(type, sums[p][r], weights,
                             vector_all_i32(quad_at(inputs + (size_t)r * PACKED_GROUP, quad)));
        }
}

#if defined(__AVX2__) && !defined(DOT_BIASED)

/* All of a group's pairs of 4-bit numbers fit into 16 bits: 15 * 127 * 2 * 8 = 30480. */
SPECIALISED void dot_nibbles(enum tensor_type type, int parts, int rows,
                             const char *const numbers[TILE_PARTS_MAX], const int8_t *inputs,
                             vector_i32 sums[TILE_PARTS_MAX][TILE_ROWS_MAX])
{
    vector_i16 pairs[TILE_PARTS_MAX][TILE_ROWS_MAX] = {0};
    for (int quad = 0; quad < QUADS / 2; quad++)
        for (int p = 0; p < parts; p++) {
            vector_i32 weights = load_i32(numbers[p] + (size_t)quad * PACKED_STRIP * 4);
            for (int half = 0; half < 2; half++, weights >>= 4)
                for (int r = 0; r < rows; r++) {
                    int32_t input =
                        quad_at(inputs + (size_t)r * PACKED_GROUP, quad + half * QUADS / 2);
                    pairs[p][r] += dot_pairs(weights & 0x0F0F0F0F, vector_all_i32(input));
                }
        }
    for (int p = 0; p < parts; p++)
        for (int r = 0; r < rows; r++)
            sums[p][r] += join_pairs(pairs[p][r]);
}

#else

SPECIALISED void dot_nibbles(enum tensor_type type, int parts, int rows,
                             const char *const numbers[TILE_PARTS_MAX], const int8_t *inputs,
                             vector_i32 sums[TILE_PARTS_MAX][TILE_ROWS_MAX])
{
    for (int quad = 0; quad < QUADS / 2; quad++)
        for (int p = 0; p < parts; p++) {
            vector_i32 weights = load_i32(numbers[p] + (size_t)quad * PACKED_STRIP * 4);
            vector_i32 low = weights & 0x0F0F0F0F, high = weights >> 4 & 0x0F0F0F0F;
            for (int r = 0; r < rows; r++) {
                const int8_t *input = inputs + (size_t)r * PACKED_GROUP;
                sums[p][r] = dot_quad(type, sums[p][r], low, vector_all_i32(quad_at(input, quad)));
                sums[p][r] = dot_quad(type, sums[p][r], high,
                                      vector_all_i32(quad_at(input, quad + QUADS / 2)));
            }
        }
}

#endif

/* The products of a part's group with each row's, scaled by the weights' scales. */
SPECIALISED void dot_group(enum tensor_type type, int parts, int rows,
                           const char *const numbers[TILE_PARTS_MAX],
                           const char *const headers[TILE_PARTS_MAX], const size_t *lanes,
                           size_t group, const int8_t *inputs, const struct input_group *in,
                           vector_f32 ret_products[TILE_PARTS_MAX][TILE_ROWS_MAX])
{
    vector_i32 sums[TILE_PARTS_MAX][TILE_ROWS_MAX];
    for (int p = 0; p < parts; p++)
        for (int r = 0; r < rows; r++)
            sums[p][r] = dot_begin(type, (uint32_t)in[r].sum);
    if (packed_bits(type) == 4)
        dot_nibbles(type, parts, rows, numbers, inputs, sums);
    else
        dot_bytes(type, parts, rows, numbers, inputs, 0, QUADS, sums);
    for (int p = 0; p < parts; p++) {
        vector_f32 scale = part_scale(type, headers[p], group, lanes[p]);
        vector_f32 origin = scaled_origin(scale);
        for (int r = 0; r < rows; r++)
            ret_products[p][r] = scale_sum(sums[p][r], scale, origin);
    }
}

/* The same of a type whose groups' halves have factors: (first * factor + second * factor) * scale,
 * the first two in one rounding. */
SPECIALISED void dot_halves(enum tensor_type type, int parts, int rows,
                            const char *const numbers[TILE_PARTS_MAX],
                            const char *const headers[TILE_PARTS_MAX], const size_t *lanes,
                            size_t group, const int8_t *inputs, const struct input_group *in,
                            vector_f32 ret_products[TILE_PARTS_MAX][TILE_ROWS_MAX])
{
    vector_i32 sums[2][TILE_PARTS_MAX][TILE_ROWS_MAX];
    for (int p = 0; p < parts; p++)
        for (int r = 0; r < rows; r++) {
            uint32_t first = (uint32_t)in[r].half_sum;
            sums[0][p][r] = dot_begin(type, first);
            sums[1][p][r] = dot_begin(type, (uint32_t)in[r].sum - first);
        }
    dot_bytes(type, parts, rows, numbers, inputs, 0, QUADS / 2, sums[0]);
    dot_bytes(type, parts, rows, numbers, inputs, QUADS / 2, QUADS, sums[1]);
    for (int p = 0; p < parts; p++) {
        vector_f32 scale = part_scale(type, headers[p], group, lanes[p]);
        vector_f32 first = half_factor(headers[p], group, 0, lanes[p]);
        vector_f32 second = half_factor(headers[p], group, 1, lanes[p]);
        for (int r = 0; r < rows; r++)
            ret_products[p][r] =
                fused(whole_of_sum(sums[0][p][r]), first, whole_of_sum(sums[1][p][r]) * second) *
                scale;
    }
}

SPECIALISED void sum_tile(enum tensor_type type, int parts, int rows, const struct part *tile,
                          const struct panel *panel, uint32_t first_row, size_t groups,
                          vector_f32 sums[TILE_PARTS_MAX][TILE_ROWS_MAX])
{
    size_t unit_groups = packed_unit_groups(type), header_bytes = packed_header_bytes(type);
    size_t lanes[TILE_PARTS_MAX];
    for (int p = 0; p < parts; p++) {
        lanes[p] = STRIP_PARTS == 1 ? 0 : tile[p].lane;
        for (int r = 0; r < rows; r++)
            sums[p][r] = (vector_f32){0};
    }
    for (size_t g = 0; g < groups; g++) {
        size_t unit = g / unit_groups * packed_unit_bytes(type), group = g % unit_groups;
        size_t place = g * panel->stride + first_row;
        const int8_t *inputs = panel->numbers + place * PACKED_GROUP;
        const struct input_group *in = panel->groups + place;
        const char *headers[TILE_PARTS_MAX], *numbers[TILE_PARTS_MAX];
        for (int p = 0; p < parts; p++) {
            headers[p] = tile[p].strip + unit;
            numbers[p] =
                headers[p] + header_bytes + group * packed_group_bytes(type) + lanes[p] * 4;
            prefetch(numbers[p] + (parts == 1 ? PREFETCH_BYTES_ALONE : PREFETCH_BYTES),
                     packed_group_bytes(type) / STRIP_PARTS);
        }
        vector_f32 products[TILE_PARTS_MAX][TILE_ROWS_MAX];
        if (type == TENSOR_Q8_HALVES)
            dot_halves(type, parts, rows, numbers, headers, lanes, group, inputs, in, products);
        else
            dot_group(type, parts, rows, numbers, headers, lanes, group, inputs, in, products);
        for (int p = 0; p < parts; p++) {
            for (int r = 0; r < rows; r++)
                sums[p][r] = fused(products[p][r], vector_all(in[r].scale), sums[p][r]);
            if (!packed_has_min(type))
                continue;
            vector_f32 min = part_min(type, headers[p], group, lanes[p]);
            for (int r = 0; r < rows; r++)
                sums[p][r] = fused(min, vector_all(in[r].scaled_sum), sums[p][r]);
        }
    }
}

/* Outputs [first, end) of `rows` of a panel's rows from `row` on; what a tile has too many of is
 * computed and not written. */
SPECIALISED void multiply_rows(enum tensor_type type, int parts, int rows,
                               const struct linear_job *job, const struct map *map,
                               const struct panel *panel, uint32_t row, uint32_t panel_first,
                               uint32_t first, uint32_t end)
{
    const struct tensor *weight = &map->weight;
    size_t strip_bytes = packed_strip_bytes(type, weight->cols);
    int valid = panel->rows - row < (uint32_t)rows ? (int)(panel->rows - row) : rows;
    for (uint32_t output = first; output < end; output += (uint32_t)parts * VECTOR_LANES) {
        struct part tile[TILE_PARTS_MAX];
        vector_f32 sums[TILE_PARTS_MAX][TILE_ROWS_MAX];
        for (int p = 0; p < parts; p++) {
            uint32_t at = output + (uint32_t)p * VECTOR_LANES;
            at = at < end ? at : output;
            tile[p].strip = (const char *)weight->data + at / PACKED_STRIP * strip_bytes;
            tile[p].lane = at % PACKED_STRIP;
        }
        sum_tile(type, parts, rows, tile, panel, row, packed_groups(job->width), sums);
        for (int p = 0; p < parts && output + (uint32_t)p * VECTOR_LANES < end; p++)
            write_part(map, output + (uint32_t)p * VECTOR_LANES, job->first_row + panel_first + row,
                       valid, sums[p]);
    }
}

SPECIALISED void multiply_panel(enum tensor_type type, const struct linear_job *job,
                                const struct map *map, uint32_t panel_first, uint32_t first,
                                uint32_t end)
{
    struct panel panel = panel_at(job->quantised, panel_first, job->rows, job->width);
    for (uint32_t row = 0; row < panel.rows;) {
        uint32_t left = panel.stride - row;
        if (left >= 8 && TILE_ROWS_MAX >= 8) {
            multiply_rows(type, 1, TILE_ROWS_MAX, job, map, &panel, row, panel_first, first, end);
            row += TILE_ROWS_MAX;
        } else if (left >= 4 && TILE_ROWS_MAX >= 4) {
            multiply_rows(type, VECTOR_LANES == 16 ? 2 : 1, TILE_ROWS_MAX >= 4 ? 4 : 2, job, map,
                          &panel, row, panel_first, first, end);
            row += 4;
        } else if (left >= 2) {
            multiply_rows(type, VECTOR_LANES == 16 ? 4 : 2, 2, job, map, &panel, row, panel_first,
                          first, end);
            row += 2;
        } else {
            multiply_rows(type, TILE_PARTS_MAX, 1, job, map, &panel, row, panel_first, first, end);
            row += 1;
        }
    }
}

SPECIALISED void multiply_strips(enum tensor_type type, const struct linear_job *job,
                                 const struct map *map, uint32_t first, uint32_t end)
{
    uint32_t step = job->rows > ROWS_STREAMED ? end - first : PACKED_STRIP * STRIPS_AT_ONCE;
    for (; first < end; first += step)
        for (uint32_t row = 0; row < job->rows; row += PANEL_ROWS)
            multiply_panel(type, job, map, row, first, end - first < step ? end : first + step);
}

void VARIANT(cpu_multiply_packed)(const struct linear_job *job, const struct map *map,
                                  uint32_t first, uint32_t end, uint32_t thread)
{
#if defined(__AMX_INT8__)
    if (job->rows >= AMX_ROWS_MIN) {
        cpu_multiply_tiles(job, map, first, end, thread);
        return;
    }
#endif
    switch (map->weight.type) {
    case TENSOR_Q8:
        multiply_strips(TENSOR_Q8, job, map, first, end);
        break;
    case TENSOR_Q8_MIN:
        multiply_strips(TENSOR_Q8_MIN, job, map, first, end);
        break;
    case TENSOR_Q8_SUPER:
        multiply_strips(TENSOR_Q8_SUPER, job, map, first, end);
        break;
    case TENSOR_Q8_HALVES:
        multiply_strips(TENSOR_Q8_HALVES, job, map, first, end);
        break;
    case TENSOR_Q4:
        multiply_strips(TENSOR_Q4, job, map, first, end);
        break;
    case TENSOR_Q4_MIN:
        multiply_strips(TENSOR_Q4_MIN, job, map, first, end);
        break;
    case TENSOR_Q4_SUPER:
        multiply_strips(TENSOR_Q4_SUPER, job, map, first, end);
        break;
    default:
        assert(!"weights of a plain type are not packed");
    }
}
