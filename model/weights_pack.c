/*
 * Tensors that are packed: the file's bytes come into windows, whole strips at a time, and are
 * packed from there on all of the backend's threads while the next window is read.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/gguf_pack.h"
#include "model/json.h"
#include "model/weights_plan.h"

enum { PAGE_BYTES = READER_PAGE_BYTES };

/* Rows of one tensor in a window. */
struct slice {
    size_t want;
    uint32_t first_row; /* of the want; a multiple of 16 */
    uint32_t rows;
    const unsigned char *bytes; /* in the window */
};

struct window {
    char *memory;
    struct slice *slices; /* [plan.packed_count] */
    size_t slice_count;
    struct reader_extent *extents; /* [plan.packed_count] */
    size_t extent_count;
};

/* Where the next slice begins. */
struct cursor {
    size_t want;
    uint32_t row;
};

struct packing {
    struct weights_loading *loading;
    char *memory;
    struct window windows[WEIGHTS_WINDOWS];
    struct window *packed; /* by the thread; NULL: there is none */
    pthread_t thread;
    int err; /* of packing, and the tensor that it struck */
    size_t failed_want;
};

/* ---- what the rows mean ---------------------------------------------------------------------- */

/* Where the groups of a tensor's rows come from. */
struct source {
    enum gguf_type type;
    enum tensor_type packed;
    const unsigned char *bytes;
    uint64_t row_bytes;
    uint32_t cols;
};

static int blocks_source(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                         struct quant_group *ret_groups)
{
    const struct source *source = context;
    gguf_pack_groups(source->type, source->bytes + row * source->row_bytes, first_group, count,
                     ret_groups);
    return 0;
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact, subnormal numbers included: the exponent is moved by a product. */
static float float_of_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7FFF) << 13;
    float value = float_of_bits(rest) * 0x1p112F;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (rest >= 0x7C00 << 13) /* infinite, or no number */
        bits = rest | 0x7F800000;
    return float_of_bits(sign | bits);
}

static void read_floats(enum gguf_type type, const unsigned char *bytes, uint32_t count,
                        float *ret_floats)
{
    if (type == GGUF_F32) {
        memcpy(ret_floats, bytes, count * sizeof(float));
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, bytes + (size_t)2 * i, sizeof half);
        ret_floats[i] =
            type == GGUF_F16 ? float_of_half(half) : float_of_bits((uint32_t)half << 16);
    }
}

/* Of a group that reaches beyond the matrix the last float is repeated, which widens no range; what
 * is beyond meets inputs of 0. */
static int floats_source(void *context, uint32_t row, uint32_t first_group, uint32_t count,
                         struct quant_group *ret_groups)
{
    const struct source *source = context;
    size_t element_bytes = source->type == GGUF_F32 ? 4 : 2;
    for (uint32_t g = 0; g < count; g++) {
        float floats[PACKED_GROUP] = {0};
        uint32_t first = (first_group + g) * PACKED_GROUP, left = source->cols - first;
        uint32_t present = left < PACKED_GROUP ? left : PACKED_GROUP;
        read_floats(source->type, source->bytes + row * source->row_bytes + first * element_bytes,
                    present, floats);
        for (uint32_t i = present; i < PACKED_GROUP; i++)
            floats[i] = floats[present - 1];
        quant_from_floats(source->packed, floats, &ret_groups[g]);
    }
    return 0;
}

/* ---- one window ------------------------------------------------------------------------------ */

static uint64_t round_up(uint64_t value)
{
    return (value + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* Where bytes of a file go in the window: as the file has them, behind what is near them there, or
 * on pages of their own. Beyond the window if it is full. */
static uint64_t place_in_window(const struct window *window, uint32_t file_index, uint64_t offset,
                                bool *ret_near)
{
    *ret_near = false;
    if (window->extent_count == 0)
        return offset % PAGE_BYTES;
    const struct reader_extent *last = &window->extents[window->extent_count - 1];
    uint64_t begin = (uint64_t)((char *)last->destination - window->memory);
    uint64_t file_end = last->offset + last->bytes;
    *ret_near = last->file_index == file_index && offset >= file_end &&
                offset - file_end <= WEIGHTS_GAP_BYTES;
    return *ret_near ? begin + (offset - last->offset)
                     : round_up(begin + last->bytes) + offset % PAGE_BYTES;
}

/* Adds as many rows as fit, in whole strips. False: none did. */
static bool add_slice(const struct weights_loading *loading, struct window *window,
                      struct cursor *cursor)
{
    const struct weights_want *want = &loading->wants[cursor->want];
    uint64_t row_bytes = weights_row_bytes(want), room = loading->plan.window_bytes;
    uint64_t offset = weights_offset(want) + cursor->row * row_bytes;
    uint32_t file_index = want->source->file_index, rows = want->rows - cursor->row;
    bool near;
    uint64_t place = place_in_window(window, file_index, offset, &near);
    room = place < room ? room - place : 0;
    if (rows * row_bytes > room)
        rows = (uint32_t)(room / (PACKED_STRIP * row_bytes) * PACKED_STRIP);
    if (rows == 0)
        return false;
    char *destination = window->memory + place;
    if (near) {
        struct reader_extent *last = &window->extents[window->extent_count - 1];
        last->bytes = offset + rows * row_bytes - last->offset;
    } else {
        window->extents[window->extent_count++] = (struct reader_extent){.file_index = file_index,
                                                                         .offset = offset,
                                                                         .bytes = rows * row_bytes,
                                                                         .destination = destination,
                                                                         .whole_pages = true};
    }
    window->slices[window->slice_count++] =
        (struct slice){cursor->want, cursor->row, rows, (const unsigned char *)destination};
    cursor->row += rows;
    return true;
}

/* Moves to where rows are left that are to be packed. False: there are none. */
static bool find_rows(const struct weights_loading *loading, struct cursor *cursor)
{
    while (cursor->want < loading->count) {
        const struct weights_want *want = &loading->wants[cursor->want];
        if (tensor_type_is_packed(want->type) && cursor->row < want->rows)
            return true;
        cursor->want++;
        cursor->row = 0;
    }
    return false;
}

static int read_window(struct weights_loading *loading, struct window *window,
                       struct cursor *cursor, struct failure *failure)
{
    window->slice_count = window->extent_count = 0;
    while (find_rows(loading, cursor) && add_slice(loading, window, cursor))
        ;
    return weights_read(loading, window->extents, window->extent_count, failure);
}

static int pack_slice(struct packing *packing, const struct slice *slice)
{
    const struct weights_loading *loading = packing->loading;
    const struct weights_want *want = &loading->wants[slice->want];
    struct tensor tensor = {.type = want->type, .rows = slice->rows, .cols = want->cols};
    struct source source = {.type = want->source->source_type,
                            .packed = want->type,
                            .bytes = slice->bytes,
                            .row_bytes = weights_row_bytes(want),
                            .cols = want->cols};
    enum tensor_type kept;
    bool quantised = gguf_pack_type(source.type, &kept);
    char *memory = packing->memory + loading->plan.places[slice->want] +
                   slice->first_row / PACKED_STRIP * packed_strip_bytes(want->type, want->cols);
    return loading->backend->ops->pack(loading->backend, &tensor, memory,
                                       quantised ? blocks_source : floats_source, &source);
}

static void pack_window(struct packing *packing, const struct window *window)
{
    for (size_t i = 0; i < window->slice_count && packing->err == 0; i++) {
        packing->err = pack_slice(packing, &window->slices[i]);
        packing->failed_want = window->slices[i].want;
    }
}

/* ---- one window after the other -------------------------------------------------------------- */

static void *thread_main(void *argument)
{
    struct packing *packing = argument;
    pack_window(packing, packing->packed);
    return NULL;
}

/* Waits for the thread, if there is one. */
static void end_thread(struct packing *packing)
{
    if (packing->packed)
        pthread_join(packing->thread, NULL);
    packing->packed = NULL;
}

/* If no thread can be had, the next window is read when this one is packed. */
static void begin_packing(struct packing *packing, struct window *window)
{
    packing->packed = window;
    if (pthread_create(&packing->thread, NULL, thread_main, packing) != 0) {
        packing->packed = NULL;
        pack_window(packing, window);
    }
}

static int report_packing(const struct packing *packing, struct failure *failure)
{
    const struct weights_loading *loading = packing->loading;
    if (packing->err == 0)
        return 0;
    const struct weights_want *want = &loading->wants[packing->failed_want];
    return failure_set(failure, packing->err, "%s: tensor %s: packing it as %s: %s",
                       loading->checkpoint->files[want->source->file_index].path,
                       json_quote(want->source->name).text, tensor_type_name(want->type),
                       strerror(-packing->err));
}

/* The thread packs one window while the other is filled: the backend is its alone meanwhile. */
static int pack_all(struct packing *packing, struct failure *failure)
{
    struct cursor cursor = {0};
    int err = 0;
    for (size_t i = 0; err == 0 && find_rows(packing->loading, &cursor); i++) {
        struct window *window = &packing->windows[i % WEIGHTS_WINDOWS];
        err = read_window(packing->loading, window, &cursor, failure);
        end_thread(packing);
        if (err == 0)
            err = report_packing(packing, failure);
        if (err == 0)
            begin_packing(packing, window);
    }
    end_thread(packing);
    return err < 0 ? err : report_packing(packing, failure);
}

static int open_window(const struct weights_plan *plan, struct window *window)
{
    window->memory = aligned_alloc(PAGE_BYTES, plan->window_bytes);
    window->slices = calloc(plan->packed_count, sizeof *window->slices);
    window->extents = calloc(plan->packed_count, sizeof *window->extents);
    return window->memory && window->slices && window->extents ? 0 : -ENOMEM;
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int weights_pack(struct weights_loading *loading, char *memory, struct failure *failure)
{
    struct packing packing = {.loading = loading, .memory = memory};
    double begin = now_seconds();
    int err = 0;
    for (int i = 0; i < WEIGHTS_WINDOWS && err == 0; i++)
        err = open_window(&loading->plan, &packing.windows[i]);
    if (err < 0)
        err = failure_set(failure, err, "%s: no memory for %.3g GB to pack in", loading->folder,
                          (double)weights_staging_bytes(&loading->plan) * 1e-9);
    else
        err = pack_all(&packing, failure);
    for (int i = 0; i < WEIGHTS_WINDOWS; i++) {
        free(packing.windows[i].memory);
        free(packing.windows[i].slices);
        free(packing.windows[i].extents);
    }
    loading->packing_seconds = now_seconds() - begin;
    return err;
}
