#include "tests/conformance/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/test.h"

uint32_t random_u32(struct random *random)
{
    /* splitmix64 */
    uint64_t z = random->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

float random_float(struct random *random)
{
    return (float)(random_u32(random) >> 8) * 0x1p-23f - 1.0f;
}

float *random_floats(struct random *random, size_t count, float scale)
{
    float *floats = malloc((count + 1) * sizeof *floats);
    assert_non_null(floats);
    for (size_t i = 0; i < count; i++)
        floats[i] = random_float(random) * scale;
    return floats;
}

double value_of_f16(uint16_t half)
{
    int exponent = half >> 10 & 31;
    double fraction = half & 1023;
    double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

/* A f16 near the value: the sixteen bits are searched, since this is a test of conversions too. */
static uint16_t near_f16(double value)
{
    uint16_t low = 0, high = 0x7BFF;
    while (low < high) {
        uint16_t middle = (uint16_t)((low + high + 1) / 2);
        if (value_of_f16(middle) <= fabs(value))
            low = middle;
        else
            high = (uint16_t)(middle - 1);
    }
    return value < 0 ? low | 0x8000 : low;
}

static double store_element(enum tensor_type type, char *to, double value)
{
    float number = (float)value;
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    uint16_t upper = (uint16_t)(bits >> 16);
    uint16_t half = near_f16(value);
    switch (type) {
    case TENSOR_F32:
        memcpy(to, &number, sizeof number);
        return (double)number;
    case TENSOR_BF16:
        memcpy(to, &upper, sizeof upper);
        bits = (uint32_t)upper << 16;
        memcpy(&number, &bits, sizeof number);
        return (double)number;
    case TENSOR_F16:
        memcpy(to, &half, sizeof half);
        return value_of_f16(half);
    default:
        break;
    }
    return 0;
}

struct values values_random(struct random *random, enum tensor_type type, uint32_t rows,
                            uint32_t cols, double scale)
{
    size_t count = (size_t)rows * cols;
    size_t bytes = tensor_type_bytes(type);
    /* Exactly as much as is needed: AddressSanitizer sees what reads beyond. */
    struct values values = {.exact = malloc(count * sizeof(double)),
                            .memory = malloc((count + 1) * bytes)};
    assert_non_null(values.exact);
    assert_non_null(values.memory);
    char *data = (char *)values.memory + bytes;
    for (size_t i = 0; i < count; i++)
        values.exact[i] =
            store_element(type, data + i * bytes, (double)random_float(random) * scale);
    values.tensor = (struct tensor){.data = data, .type = type, .rows = rows, .cols = cols};
    return values;
}

void values_free(struct values *values)
{
    free(values->exact);
    free(values->memory);
    *values = (struct values){0};
}

double rounding_bound(double operations)
{
    return operations * ROUNDOFF_F32 / (1 - operations * ROUNDOFF_F32);
}

double sum_chain(uint32_t n)
{
    return ceil(n / 4.0) + 2;
}

const char *const *runnable_variants(void)
{
    static const char *const all[] = {"plain", "avx2", "avx512", "avx512vnni", "amx"};
    static const char *runnable[sizeof all / sizeof *all + 1];
    int count = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *why;
        struct backend *backend;
        struct backend_options options = {.device = "cpu", .threads = 1, .variant = all[i]};
        if (backend_open(&backend, &options, &why) == 0) {
            runnable[count++] = all[i];
            backend_close(backend);
        }
    }
    runnable[count] = NULL;
    return runnable;
}

struct backend *open_variant(const char *variant, uint32_t threads)
{
    const char *why = "";
    struct backend *backend;
    struct backend_options options = {.device = "cpu", .threads = threads, .variant = variant};
    if (backend_open(&backend, &options, &why) < 0)
        fail_msg("backend_open: %s", why);
    return backend;
}
