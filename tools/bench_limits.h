/*
 * The machine's limits, measured now and again beside what is held against them: how fast memory
 * is read, and how fast numbers are multiplied and added, by as many threads as are asked for.
 *
 * Reading is one pass of plain loads over a buffer of huge pages that no cache holds, each thread
 * over its own part. Multiplying is done in registers alone, with the widest instructions of a set:
 *
 *     f32    fused multiply-add (plain: a product and a sum, of 4 lanes)
 *     int8   VPDPBUSD where the set has VNNI, else VPMADDUBSW, VPMADDWD and VPADDD
 *     amx    TDPBSSD, 8 bits too
 */
#ifndef AGL_TOOLS_BENCH_LIMITS_H
#define AGL_TOOLS_BENCH_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

enum limit { LIMIT_READ, LIMIT_F32, LIMIT_INT8, LIMIT_AMX, LIMITS };

struct limits;

/* What the buffer takes unless it is told: 1 GiB, or four times the last cache if that is more. */
uint64_t limits_usual_bytes(void);

/* isa: of "plain", "avx2", "avx512", "avx512vnni", "amx", one that this processor has. buffer_bytes
 * are rounded down to whole MiB, 1 at least. -ENOMEM. */
int limits_open(struct limits **ret_limits, const char *isa, uint64_t buffer_bytes);
/* NULL does nothing. */
void limits_close(struct limits *limits);

/* Whether the set of instructions has it. */
bool limits_have(const struct limits *limits, enum limit limit);

/* Bytes, or multiply-adds, a second; some ten milliseconds, or one pass. NAN: the set does not have
 * it, or threads cannot be had. */
double limits_measure(struct limits *limits, enum limit limit, uint32_t threads);

/* "read", "f32", "int8", "amx". */
const char *limit_name(enum limit limit);

#endif
