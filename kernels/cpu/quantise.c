#include <math.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/quantised.h"
#include "kernels/cpu/vector.h"

enum { GROUP_VECTORS = PACKED_GROUP / VECTOR_LANES };

static const uint32_t INFINITE = 0x7F800000; /* the bits of an infinity; NaN's are larger */
static const uint32_t TINY = 0x0D800000;     /* 2^-100: 127 over it is far from overflow */

/* The largest magnitude, by its bits, which order like whole numbers: NaN is the largest. */
SPECIALISED uint32_t largest_magnitude(const vector_f32 x[GROUP_VECTORS])
{
    vector_i32 largest = {0};
    for (int i = 0; i < GROUP_VECTORS; i++) {
        vector_i32 bits = (vector_i32)x[i] & 0x7FFFFFFF;
        vector_i32 mask = bits > largest;
        largest = (bits & mask) | (largest & ~mask);
    }
    int32_t lanes[VECTOR_LANES], result = 0;
    memcpy(lanes, &largest, sizeof lanes);
    for (int i = 0; i < VECTOR_LANES; i++)
        result = lanes[i] > result ? lanes[i] : result;
    return (uint32_t)result;
}

SPECIALISED int32_t sum_lanes(vector_i32 v)
{
    int32_t lanes[VECTOR_LANES], sum = 0;
    memcpy(lanes, &v, sizeof lanes);
    for (int i = 0; i < VECTOR_LANES; i++)
        sum += lanes[i];
    return sum;
}

SPECIALISED void store_i8(int8_t *to, vector_i32 v)
{
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)v));
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

void VARIANT(cpu_quantise_row)(struct cpu_backend *cpu, const float *in, uint32_t row,
                               uint32_t rows, uint32_t width)
{
    uint32_t in_panel = row % PANEL_ROWS;
    struct panel panel = panel_at(cpu->quantised, row - in_panel, rows, width);
    for (size_t k = 0, g = 0; k < width; k += PACKED_GROUP, g++) {
        float padded[PACKED_GROUP] = {0};
        const float *from = in + k;
        if (width - k < PACKED_GROUP)
            from = memcpy(padded, in + k, (width - k) * sizeof *in);
        vector_f32 x[GROUP_VECTORS];
        for (int i = 0; i < GROUP_VECTORS; i++)
            x[i] = load_f32(from + i * VECTOR_LANES);
        size_t place = g * panel.stride + in_panel;
        quantise_group(x, panel.numbers + place * PACKED_GROUP, panel.groups + place);
    }
}
