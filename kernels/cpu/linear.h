/*
 * What the files of the matrix product share: one call of linear or linear_add, cut into chunks.
 */
#ifndef AGL_KERNELS_CPU_LINEAR_H
#define AGL_KERNELS_CPU_LINEAR_H

#include "kernels/cpu/cpu.h"

enum { MAPS_MAX = 8 };

/* One weight matrix as the chunks see it. */
struct map {
    struct tensor weight; /* [outputs, in] */
    struct tensor bias;   /* [outputs] or absent */
    float *out;           /* [rows, stride] */
    uint32_t stride;
    uint32_t first;         /* the output that is in out's column 0 */
    bool add;               /* to what is in out */
    uint32_t chunk_outputs; /* of a packed type: a multiple of a strip */
    uint32_t chunk_rows;    /* of a packed type: all */
    uint32_t first_chunk;
};

/* A chunk of one: outputs and the rows that they are wanted for. */
struct linear_part {
    const struct map *map;
    uint32_t first, end;
    uint32_t row, rows;
};

struct linear_job {
    struct cpu_backend *cpu;
    const float *in;      /* [rows, width], for maps of plain types */
    char *quantised;      /* the same for maps of packed types (quantised.h) */
    struct rms_norm norm; /* still to be done; absent: none, or done */
    uint32_t first_row;   /* of the outputs, for in's row 0 */
    uint32_t rows;
    uint32_t width;
    bool has_plain, has_packed; /* maps of these types */
    bool gated;                 /* two maps: the first's outputs are silu(first) * second */
    uint32_t count;
    struct map maps[MAPS_MAX];
};

/* Rounds one row of inputs to 8 bits, into its place in `quantised` among `rows` of them. */
void VARIANT(cpu_quantise_row)(char *quantised, const float *in, uint32_t row, uint32_t rows,
                               uint32_t width);

/* A part of a map of a plain type, from job->in; at most CPU_PANEL_ROWS rows. */
void VARIANT(cpu_multiply_plain)(const struct linear_job *job, const struct linear_part *part,
                                 uint32_t thread);
/* Its way for more than a few rows. */
void VARIANT(cpu_multiply_panel)(const struct linear_job *job, const struct linear_part *part,
                                 uint32_t thread);

/* The outputs [first, end) of a map of a packed type, for all rows, from job->quantised; `first` is
 * a multiple of a strip. */
void VARIANT(cpu_multiply_packed)(const struct linear_job *job, const struct map *map,
                                  uint32_t first, uint32_t end, uint32_t thread);

/* linear_amx.c: the same with a matrix unit, where the variant has one. It takes 16 rows at a time
 * and unpacks weights first, which fewer rows do not pay for. */
enum { AMX_ROWS_MIN = 32 };
void cpu_multiply_tiles(const struct linear_job *job, const struct map *map, uint32_t first,
                        uint32_t end, uint32_t thread);

#endif
