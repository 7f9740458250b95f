/*
 * Products with plain weights for more than a few rows: arithmetic is what takes the time.
 *
 * A panel is a few outputs' weights of some columns, widened to f32 once for all rows of a block,
 * in the order in which a tile reads them: it stays in the first cache, while the inputs come from
 * the second. A tile of a few rows and all of the panel's outputs has its sums in registers;
 * between panels they are put aside, lane by lane, so that the order of every sum is that of
 * linear_plain.h. Meanwhile the next panel's weights are asked for.
 */
#include <assert.h>

#include "kernels/cpu/linear_plain.h"

enum {
#if VECTOR_LANES == 16
    TILE_ROWS = 3, /* 32 registers: 24 of sums, 3 of inputs, 1 of weights */
    TILE_OUTPUTS = 8,
#else
    TILE_ROWS = 2, /* 16 registers: 12 of sums, 2 of inputs, 1 of weights */
    TILE_OUTPUTS = 6,
#endif
    ASKED = 3, /* rows of weights that a tile asks for */
    SUMS_MAX = CPU_PANEL_SUMS / VECTOR_LANES - VECTOR_LANES, /* join_lanes() rounds up */
};

static_assert(TILE_OUTPUTS * (CPU_PANEL_COLUMNS + VECTOR_LANES) <= CPU_PANEL_FLOATS,
              "a panel fits");
static_assert(SUMS_MAX >= CPU_PANEL_ROWS * TILE_OUTPUTS, "its sums fit");
static_assert(CPU_PANEL_COLUMNS % VECTOR_LANES == 0, "only a row's last panel has a tail");

/* One panel and what is multiplied by it. */
struct panel {
    const float *in; /* [rows, width], from the panel's first column on */
    size_t width;
    uint32_t rows;
    size_t vectors; /* whole ones of columns */
    size_t left;    /* columns beyond */
    bool is_first;  /* of its outputs: sums begin at 0 */
    vector_f32 (*weights)[TILE_OUTPUTS];
    vector_f32 (*sums)[TILE_OUTPUTS]; /* [rows] */
    const char *next;                 /* the next panel's weights; NULL: none */
    size_t row_bytes, element_bytes;
    uint32_t next_outputs;
};

/* What a tile asks for: rows of the next panel, the first tiles for all of them, so that they are
 * there in time; where there is nothing to ask for, what is at hand anyway. */
SPECIALISED void find_asked(const struct panel *panel, uint32_t row, const char *asked[ASKED])
{
    uint32_t first = row / TILE_ROWS * ASKED;
    for (uint32_t i = 0; i < ASKED; i++)
        asked[i] = panel->next && first + i < panel->next_outputs
                       ? panel->next + (first + i) * panel->row_bytes
                       : (const char *)panel->weights;
}

SPECIALISED void add_tile(const struct panel *panel, uint32_t row, int rows)
{
    vector_f32 sums[TILE_ROWS][TILE_OUTPUTS];
    const float *in = panel->in + row * panel->width;
    size_t width = panel->width;
    const char *asked[ASKED];
    find_asked(panel, row, asked);
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < TILE_OUTPUTS; o++)
            sums[r][o] = panel->is_first ? vector_all(0.0f) : panel->sums[row + (uint32_t)r][o];
    for (size_t v = 0; v < panel->vectors; v++) {
        vector_f32 x[TILE_ROWS];
        for (int r = 0; r < rows; r++)
            x[r] = load_f32(in + r * width + v * VECTOR_LANES);
        for (int i = 0; i < ASKED; i++)
            __builtin_prefetch(asked[i] + v * VECTOR_LANES * panel->element_bytes);
        for (int o = 0; o < TILE_OUTPUTS; o++) {
            vector_f32 w = in_register(panel->weights[v][o]);
            for (int r = 0; r < rows; r++)
                sums[r][o] = multiply_add(x[r], w, sums[r][o]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < TILE_OUTPUTS; o++)
            panel->sums[row + (uint32_t)r][o] = sums[r][o];
}

/* The columns beyond whole vectors, of all rows. */
static void add_tail(const struct panel *panel)
{
    size_t first = panel->vectors * VECTOR_LANES;
    for (uint32_t row = 0; row < panel->rows; row++) {
        vector_f32 x = load_tail(TENSOR_F32, panel->in + row * panel->width, first, panel->left);
        for (int o = 0; o < TILE_OUTPUTS; o++)
            panel->sums[row][o] =
                multiply_add(x, panel->weights[panel->vectors][o], panel->sums[row][o]);
    }
}

static void add_panel(const struct panel *panel)
{
    uint32_t row = 0;
    for (; panel->rows - row >= TILE_ROWS; row += TILE_ROWS)
        add_tile(panel, row, TILE_ROWS);
    if (TILE_ROWS > 2 && panel->rows - row == 2)
        add_tile(panel, row, 2);
    else if (panel->rows - row)
        add_tile(panel, row, 1);
    if (panel->left)
        add_tail(panel);
}

/* Widens `outputs` rows of weights from column `first` on; missing outputs are zero. */
SPECIALISED void widen(const struct panel *panel, const char *weight, size_t first,
                       uint32_t outputs, enum tensor_type type)
{
    size_t row_bytes = panel->row_bytes;
    if (outputs < TILE_OUTPUTS)
        memset(panel->weights, 0, (panel->vectors + 1) * sizeof *panel->weights);
    for (size_t v = 0; outputs == TILE_OUTPUTS && v < panel->vectors; v++)
        for (uint32_t o = 0; o < TILE_OUTPUTS; o++)
            panel->weights[v][o] =
                load_elements(type, weight + o * row_bytes, first + v * VECTOR_LANES);
    for (uint32_t o = 0; outputs < TILE_OUTPUTS && o < outputs; o++)
        for (size_t v = 0; v < panel->vectors; v++)
            panel->weights[v][o] =
                load_elements(type, weight + o * row_bytes, first + v * VECTOR_LANES);
    for (uint32_t o = 0; panel->left && o < outputs; o++)
        panel->weights[panel->vectors][o] = load_tail(
            type, weight + o * row_bytes, first + panel->vectors * VECTOR_LANES, panel->left);
}

static void widen_any(const struct panel *panel, const char *weight, size_t first, uint32_t outputs,
                      enum tensor_type type)
{
    switch (type) {
    case TENSOR_F32:
        widen(panel, weight, first, outputs, TENSOR_F32);
        break;
    case TENSOR_F16:
        widen(panel, weight, first, outputs, TENSOR_F16);
        break;
    case TENSOR_BF16:
        widen(panel, weight, first, outputs, TENSOR_BF16);
        break;
    default:
        assert(!"weights of a packed type are not plain");
    }
}

/* ---- the sums across lanes ------------------------------------------------------------------- */

#define SHUFFLE __builtin_shufflevector

/* For each of four vectors that hold quarters (of as many vectors as there are groups of 4 lanes):
 * the sums of their 4 lanes, as vector_sum() has them. */
SPECIALISED vector_f32 sum_quarters(vector_f32 a, vector_f32 b, vector_f32 c, vector_f32 d)
{
#if VECTOR_LANES == 16
#define LOW_PAIRS 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH_PAIRS 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define EVEN 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30
#define ODD 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31
#elif VECTOR_LANES == 8
#define LOW_PAIRS 0, 1, 8, 9, 4, 5, 12, 13
#define HIGH_PAIRS 2, 3, 10, 11, 6, 7, 14, 15
#define EVEN 0, 2, 8, 10, 4, 6, 12, 14
#define ODD 1, 3, 9, 11, 5, 7, 13, 15
#else
#define LOW_PAIRS 0, 1, 4, 5
#define HIGH_PAIRS 2, 3, 6, 7
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif
    vector_f32 ab = SHUFFLE(a, b, LOW_PAIRS) + SHUFFLE(a, b, HIGH_PAIRS);
    vector_f32 cd = SHUFFLE(c, d, LOW_PAIRS) + SHUFFLE(c, d, HIGH_PAIRS);
    return SHUFFLE(ab, cd, EVEN) + SHUFFLE(ab, cd, ODD);
}

/* vector_sum() of as many vectors as there are lanes. */
SPECIALISED vector_f32 vector_sums(const vector_f32 *v)
{
    vector_f32 quarters[4];
    for (int i = 0; i < 4; i++) {
#if VECTOR_LANES == 16
#define LOW 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define FIRSTS 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define SECONDS 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
        vector_f32 a = SHUFFLE(v[i], v[i + 4], LOW) + SHUFFLE(v[i], v[i + 4], HIGH);
        vector_f32 b = SHUFFLE(v[i + 8], v[i + 12], LOW) + SHUFFLE(v[i + 8], v[i + 12], HIGH);
        quarters[i] = SHUFFLE(a, b, FIRSTS) + SHUFFLE(a, b, SECONDS);
#elif VECTOR_LANES == 8
        quarters[i] = SHUFFLE(v[i], v[i + 4], 0, 1, 2, 3, 8, 9, 10, 11) +
                      SHUFFLE(v[i], v[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
#else
        quarters[i] = v[i];
#endif
    }
    return sum_quarters(quarters[0], quarters[1], quarters[2], quarters[3]);
}

/* In place: the lanes' sums of all rows and outputs. */
static float (*join_lanes(const struct panel *panel))[TILE_OUTPUTS]
{
    vector_f32 *from = panel->sums[0];
    float *to = (float *)panel->sums;
    for (size_t i = 0; i < (size_t)panel->rows * TILE_OUTPUTS; i += VECTOR_LANES)
        store_f32(to + i, vector_sums(from + i));
    return (float(*)[TILE_OUTPUTS])panel->sums;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static uint32_t outputs_at(const struct linear_part *part, uint32_t output)
{
    return part->end - output < TILE_OUTPUTS ? part->end - output : TILE_OUTPUTS;
}

static void write_sums(const struct linear_job *job, const struct linear_part *part, uint32_t first,
                       uint32_t outputs, float (*sums)[TILE_OUTPUTS])
{
    const struct map *map = part->map;
    float biases[TILE_OUTPUTS];
    for (uint32_t o = 0; o < outputs; o++)
        biases[o] = bias_at(&map->bias, first + o);
    for (uint32_t row = 0; row < part->rows; row++) {
        float *to = place_of(job, map, part->row + row, first);
        for (uint32_t o = 0; o < outputs; o++)
            write_sum(map, to + o, sums[row][o] + biases[o]);
    }
}

/* What comes after the panel of these columns and outputs: the same columns of the next outputs, or
 * the next columns of the first ones. */
static void find_next(struct panel *panel, const struct linear_part *part, uint32_t output,
                      uint32_t column)
{
    const char *weights = part->map->weight.data;
    panel->next = NULL;
    if (part->end - output > TILE_OUTPUTS)
        output += TILE_OUTPUTS;
    else if (panel->width - column > CPU_PANEL_COLUMNS)
        output = part->first, column += CPU_PANEL_COLUMNS;
    else
        return;
    panel->next = weights + output * panel->row_bytes + column * panel->element_bytes;
    panel->next_outputs = outputs_at(part, output);
}

/* All outputs of the part by the columns from `column` on. */
static void add_columns(struct panel *panel, const struct linear_job *job,
                        const struct linear_part *part, uint32_t column, float *sums)
{
    const struct tensor *weights = &part->map->weight;
    uint32_t columns = job->width - column;
    columns = columns < CPU_PANEL_COLUMNS ? columns : CPU_PANEL_COLUMNS;
    panel->in = job->in + (size_t)part->row * job->width + column;
    panel->vectors = columns / VECTOR_LANES;
    panel->left = columns % VECTOR_LANES;
    panel->is_first = column == 0;
    panel->sums = (vector_f32(*)[TILE_OUTPUTS])sums;
    for (uint32_t o = part->first; o < part->end; o += TILE_OUTPUTS) {
        find_next(panel, part, o, column);
        widen_any(panel, (const char *)weights->data + o * panel->row_bytes, column,
                  outputs_at(part, o), weights->type);
        add_panel(panel);
        panel->sums += part->rows;
    }
}

/* All columns of the part's outputs, which are few enough for their sums. */
static void multiply_outputs(const struct linear_job *job, const struct linear_part *part,
                             struct cpu_panel *own)
{
    size_t element_bytes = tensor_type_bytes(part->map->weight.type);
    struct panel panel = {.width = job->width,
                          .rows = part->rows,
                          .weights = (vector_f32(*)[TILE_OUTPUTS])own->weights,
                          .row_bytes = job->width * element_bytes,
                          .element_bytes = element_bytes};
    for (uint32_t column = 0; column < job->width; column += CPU_PANEL_COLUMNS)
        add_columns(&panel, job, part, column, own->sums);
    panel.sums = (vector_f32(*)[TILE_OUTPUTS])own->sums;
    for (uint32_t o = part->first; o < part->end; o += TILE_OUTPUTS, panel.sums += part->rows)
        write_sums(job, part, o, outputs_at(part, o), join_lanes(&panel));
}

void VARIANT(cpu_multiply_panel)(const struct linear_job *job, const struct linear_part *part,
                                 uint32_t thread)
{
    assert(part->rows <= CPU_PANEL_ROWS);
    uint32_t at_once = SUMS_MAX / part->rows;
    at_once -= at_once % TILE_OUTPUTS;
    for (struct linear_part some = *part; some.first < part->end; some.first = some.end) {
        some.end = part->end - some.first < at_once ? part->end : some.first + at_once;
        multiply_outputs(job, &some, &job->cpu->panels[thread]);
    }
}
