#include "tools/bench_peak.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>

/* ---- vectors --------------------------------------------------------------------------------- */

typedef float floats_4 __attribute__((vector_size(16)));
typedef float floats_8 __attribute__((vector_size(32)));
typedef float floats_16 __attribute__((vector_size(64)));
typedef int8_t bytes_32 __attribute__((vector_size(32)));
typedef int8_t bytes_64 __attribute__((vector_size(64)));
typedef uint64_t words_4 __attribute__((vector_size(32)));
typedef uint64_t words_8 __attribute__((vector_size(64)));

/* Sums that do not wait for each other: more than latency times instructions a cycle. */
enum { SUMS = 12 };

#define TIMES_12(do_one)                                                                      \
    do_one(0) do_one(1) do_one(2) do_one(3) do_one(4) do_one(5) do_one(6) do_one(7) do_one(8) \
        do_one(9) do_one(10) do_one(11)

/* What is done to one sum. The instructions are named themselves: of the same as intrinsics,
 * compilers make copies between registers that take longer than the arithmetic. `volatile`: each is
 * done each time. */
#define APART(i) \
    between = a; \
    __asm__ volatile("mulps %2, %1\n\taddps %1, %0" : "+x"(sums[i]), "+x"(between) : "x"(b));
#define FUSED(i) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(sums[i]) : "v"(a), "v"(b));
#define IN_PAIRS(i)                                                                      \
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0" \
                     : "+v"(sums[i]), "=&v"(between)                                     \
                     : "v"(a), "v"(b));
#define IN_FOURS(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums[i]) : "v"(a), "v"(b));

/* A peak_loop: an element of a vector is a multiply-add. */
#define MULTIPLY(name, isa, vector, do_one)                                 \
    __attribute__((target(isa))) static double name(uint64_t turns)         \
    {                                                                       \
        vector sums[SUMS] = {{0}}, a = (vector){0} + 1, b = a, between = a; \
        const size_t lanes = sizeof a / sizeof a[0];                        \
        for (uint64_t turn = 0; turn < turns; turn++) {                     \
            TIMES_12(do_one)                                                \
        }                                                                   \
        (void)between;                                                      \
        return (double)turns * SUMS * lanes;                                \
    }

MULTIPLY(multiply_f32_plain, "sse2", floats_4, APART)
MULTIPLY(multiply_f32_avx2, "avx2,fma", floats_8, FUSED)
MULTIPLY(multiply_int8_avx2, "avx2", bytes_32, IN_PAIRS)
MULTIPLY(multiply_f32_avx512, "avx512f", floats_16, FUSED)
MULTIPLY(multiply_int8_avx512, "avx512f,avx512bw", bytes_64, IN_PAIRS)
MULTIPLY(multiply_int8_vnni, "avx512f,avx512vnni", bytes_64, IN_FOURS)

/* A peak_reader. */
#define READ(name, isa, vector)                                                         \
    __attribute__((target(isa))) static uint64_t name(const void *memory, size_t bytes) \
    {                                                                                   \
        const vector *vectors = memory;                                                 \
        vector sums[8] = {{0}};                                                         \
        for (size_t i = 0; i < bytes / sizeof *vectors; i += 8)                         \
            for (size_t lane = 0; lane < 8; lane++)                                     \
                sums[lane] += vectors[i + lane];                                        \
        for (int lane = 1; lane < 8; lane++)                                            \
            sums[0] += sums[lane];                                                      \
        return sums[0][0];                                                              \
    }

READ(read_avx2, "avx2", words_4)
READ(read_avx512, "avx512f", words_8)

/* ---- the matrix unit ------------------------------------------------------------------------- */

/* Four sums, two tiles of inputs and two of weights; all are whole: 16 rows of 64 bytes. */
__attribute__((target("amx-tile,amx-int8"))) static double multiply_amx(uint64_t turns)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("" : : "m"(config)); /* gcc 12 does not tell that the instruction reads it */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (uint64_t turn = 0; turn < turns; turn++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return (double)turns * 4 * 16 * 16 * 64;
}

#else

/* The compiler's own choice of instructions. */
static double multiply_f32_plain(uint64_t turns)
{
    enum { LANES = 64 };
    volatile float factors[2] = {1, 1};
    float sums[LANES] = {0}, a = factors[0], b = factors[1];
    for (uint64_t turn = 0; turn < turns; turn++, a += b)
        for (int i = 0; i < LANES; i++)
            sums[i] += a * b;
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += sums[i];
    factors[0] = sum;
    return (double)turns * LANES;
}

#endif

static uint64_t read_plain(const void *memory, size_t bytes)
{
    const uint64_t *words = memory;
    uint64_t sums[16] = {0};
    for (size_t i = 0; i < bytes / sizeof *words; i += 16)
        for (size_t lane = 0; lane < 16; lane++)
            sums[lane] += words[i + lane];
    uint64_t sum = 0;
    for (int lane = 0; lane < 16; lane++)
        sum += sums[lane];
    return sum;
}

/* ---- which ----------------------------------------------------------------------------------- */

struct peaks {
    const char *isa;
    peak_reader *read;
    peak_loop *loops[LIMITS];
};

static const struct peaks all_peaks[] = {
#if defined(__x86_64__)
    {"avx2", read_avx2, {NULL, multiply_f32_avx2, multiply_int8_avx2, NULL}},
    {"avx512", read_avx512, {NULL, multiply_f32_avx512, multiply_int8_avx512, NULL}},
    {"avx512vnni", read_avx512, {NULL, multiply_f32_avx512, multiply_int8_vnni, NULL}},
    {"amx", read_avx512, {NULL, multiply_f32_avx512, multiply_int8_vnni, multiply_amx}},
#endif
    {"plain", read_plain, {NULL, multiply_f32_plain, NULL, NULL}},
};

static const struct peaks *peaks_of(const char *isa)
{
    const size_t count = sizeof all_peaks / sizeof all_peaks[0];
    for (size_t i = 0; i < count; i++)
        if (strcmp(all_peaks[i].isa, isa) == 0)
            return &all_peaks[i];
    return &all_peaks[count - 1];
}

peak_loop *peak_loop_of(const char *isa, enum limit limit)
{
    return peaks_of(isa)->loops[limit];
}

peak_reader *peak_reader_of(const char *isa)
{
    return peaks_of(isa)->read;
}
