#include <math.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/quantised.h"
#include "kernels/cpu/vector.h"

enum { GROUP_VECTORS = PACKED_GROUP / VECTOR_LANES };

static const uint32_t INFINITE = 0x7F800000; /* the bits of an infinity; NaN's are larger */
static const uint32_t TINY = 0x0D800000;     /* 2^-100: 127 over it is far from overflow */

typedef int32_t vector_4i32 __attribute__((vector_size(16)));

SPECIALISED vector_4i32 larger(vector_4i32 a, vector_4i32 b)
{
    vector_4i32 mask = a > b;
    return (a & mask) | (b & ~mask);
}

/* The four quarters of a wide register, or fewer, as a narrow one each; returns how many. */
SPECIALISED int quarters(vector_i32 v, vector_4i32 ret_quarters[VECTOR_LANES / 4])
{
    memcpy(ret_quarters, &v, sizeof v);
    return VECTOR_LANES / 4;
}

/* The largest magnitude, by its bits, which order like whole numbers: NaN is the largest. */
SPECIALISED uint32_t largest_magnitude(const vector_f32 x[GROUP_VECTORS])
{
    vector_4i32 largest = {0}, parts[VECTOR_LANES / 4];
    vector_i32 all = {0};
    for (int i = 0; i < GROUP_VECTORS; i++) {
        vector_i32 bits = (vector_i32)x[i] & 0x7FFFFFFF;
        vector_i32 mask = bits > all;
        all = (bits & mask) | (all & ~mask);
    }
    for (int i = 0, count = quarters(all, parts); i < count; i++)
        largest = larger(largest, parts[i]);
    largest = larger(largest, __builtin_shufflevector(largest, largest, 2, 3, 2, 3));
    largest = larger(largest, __builtin_shufflevector(largest, largest, 1, 1, 1, 1));
    return (uint32_t)largest[0];
}

SPECIALISED int32_t sum_lanes(vector_i32 v)
{
    vector_4i32 sum = {0}, parts[VECTOR_LANES / 4];
    for (int i = 0, count = quarters(v, parts); i < count; i++)
        sum += parts[i];
    sum += __builtin_shufflevector(sum, sum, 2, 3, 2, 3);
    return sum[0] + sum[1];
}

SPECIALISED void store_i8(int8_t *to, vector_i32 v)
{
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
    const __m256i first_bytes = _mm256_set1_epi32(0x0C080400);
    __m256i bytes = _mm256_shuffle_epi8((__m256i)v, first_bytes);
    uint32_t low = (uint32_t)_mm256_extract_epi32(bytes, 0);
    uint32_t high = (uint32_t)_mm256_extract_epi32(bytes, 4);
    memcpy(to, &low, sizeof low);
    memcpy(to + 4, &high, sizeof high);
#else
    int32_t lanes[VECTOR_LANES];
    memcpy(lanes, &v, sizeof lanes);
    for (int i = 0; i < VECTOR_LANES; i++)
        to[i] = (int8_t)lanes[i];
#endif
}

/* x * inverse to the nearest whole number, ties to even: adding 1.5 * 2^23 rounds. */
SPECIALISED vector_i32 rounded(vector_f32 x, float inverse)
{
    const vector_f32 round = vector_all(0x1.8p23f);
    vector_f32 scaled = x * inverse;
    return (vector_i32)(scaled + round) - (vector_i32)round;
}

SPECIALISED void quantise_group(const vector_f32 x[GROUP_VECTORS], int8_t *numbers,
                                struct input_group *group)
{
    uint32_t bits = largest_magnitude(x);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    if (bits >= INFINITE || bits < TINY) {
        memset(numbers, 0, PACKED_GROUP);
        *group = (struct input_group){0};
        if (bits >= INFINITE)
            group->scale = group->scaled_sum = NAN;
        return;
    }
    float inverse = 127.0f / largest;
    vector_i32 halves[2] = {{0}, {0}};
    for (int i = 0; i < GROUP_VECTORS; i++) {
        vector_i32 q = rounded(x[i], inverse);
        store_i8(numbers + i * VECTOR_LANES, q);
        halves[i / (GROUP_VECTORS / 2)] += q;
    }
    group->half_sum = sum_lanes(halves[0]);
    group->sum = group->half_sum + sum_lanes(halves[1]);
    group->scale = largest / 127.0f;
    group->scaled_sum = group->scale * (float)group->sum;
}

/* 32 numbers, or what is left of the row and zeros. */
SPECIALISED void load_group(const float *in, size_t left, vector_f32 ret_x[GROUP_VECTORS])
{
    if (left >= PACKED_GROUP) {
        for (int i = 0; i < GROUP_VECTORS; i++)
            ret_x[i] = load_f32(in + i * VECTOR_LANES);
        return;
    }
    float padded[PACKED_GROUP] = {0};
    memcpy(padded, in, left * sizeof *in);
    for (int i = 0; i < GROUP_VECTORS; i++)
        ret_x[i] = load_f32(padded + i * VECTOR_LANES);
}

void VARIANT(cpu_quantise_row)(char *quantised, const float *in, uint32_t row, uint32_t rows,
                               uint32_t width)
{
    uint32_t in_panel = row % PANEL_ROWS;
    struct panel panel = panel_at(quantised, row - in_panel, rows, width);
    for (size_t k = 0, g = 0; k < width; k += PACKED_GROUP, g++) {
        vector_f32 x[GROUP_VECTORS];
        load_group(in + k, width - k, x);
        size_t place = g * panel.stride + in_panel;
        quantise_group(x, panel.numbers + place * PACKED_GROUP, panel.groups + place);
    }
}
