/*
 * Inputs rounded to 8 bits, as packed weights meet them: row by row in groups of 32 numbers with a
 * scale. Sixteen rows are a panel, laid out by group, so that a tile of a few rows reads one
 * stream from beginning to end. The last panel holds as many rows as its tiles take; those beyond
 * the batch are never written out.
 */
#ifndef AGL_KERNELS_CPU_QUANTISED_H
#define AGL_KERNELS_CPU_QUANTISED_H

#include "kernels/tensor.h"

enum { PANEL_ROWS = 16 };

struct input_group {
    float scale;
    float scaled_sum; /* scale * sum: what a weight's min is multiplied by */
    int32_t sum;      /* of the group's numbers: what a weight's bias is multiplied by */
    int32_t half_sum; /* of the first 16 */
};

struct panel {
    int8_t *numbers;            /* [groups][stride][32] */
    struct input_group *groups; /* [groups][stride] */
    uint32_t stride;
    uint32_t rows; /* of the batch */
};

static inline uint32_t packed_groups(uint32_t width)
{
    return width / PACKED_GROUP + (width % PACKED_GROUP != 0);
}

/* Tiles take 1, 2, 4 or 8 rows. */
static inline uint32_t panel_stride(uint32_t rows)
{
    static const uint8_t stride[PANEL_ROWS + 1] = {0, 1,  2,  4,  4,  8,  8,  8, 8,
                                                   9, 10, 12, 12, 16, 16, 16, 16};
    return rows < PANEL_ROWS ? stride[rows] : PANEL_ROWS;
}

/* The panel with row `first`, a multiple of 16, of a batch. */
static inline struct panel panel_at(char *quantised, uint32_t first, uint32_t rows, uint32_t width)
{
    size_t groups = packed_groups(width);
    char *memory = quantised + first * groups * (PACKED_GROUP + sizeof(struct input_group));
    uint32_t left = rows - first;
    struct panel panel = {.numbers = (int8_t *)memory,
                          .stride = panel_stride(left),
                          .rows = left < PANEL_ROWS ? left : PANEL_ROWS};
    panel.groups = (struct input_group *)(memory + groups * panel.stride * PACKED_GROUP);
    return panel;
}

#endif
