/*
 * What the two ways of multiplying by plain weights share: linear.c for few rows, linear_panel.c
 * for more.
 *
 * An output is one vector of sums, in whose lane l the products of the columns l, l + lanes, ...
 * are added in ascending order, each with one rounding (multiply_add()); then the lanes are added
 * as vector_sum() does. A tail is filled up with zeros. Both ways do just that for each output, so
 * which of them it is, and in which tile, changes no bit.
 */
#ifndef AGL_KERNELS_CPU_LINEAR_PLAIN_H
#define AGL_KERNELS_CPU_LINEAR_PLAIN_H

#include "kernels/cpu/linear.h"
#include "kernels/cpu/vector.h"

/* Keeps what was loaded in a register: gcc would read it again for each product that it is in. */
SPECIALISED vector_f32 in_register(vector_f32 v)
{
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__x86_64__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

SPECIALISED float bias_at(const struct tensor *bias, uint32_t index)
{
    return bias->data ? load_tail(bias->type, bias->data, index, 1)[0] : 0.0f;
}

/* Where the sum of a row (of the job's) and an output belongs. */
SPECIALISED float *place_of(const struct linear_job *job, const struct map *map, uint32_t row,
                            uint32_t output)
{
    return map->out + (size_t)(job->first_row + row) * map->stride + (output - map->first);
}

SPECIALISED void write_sum(const struct map *map, float *to, float sum)
{
    *to = map->add ? *to + sum : sum;
}

#endif
