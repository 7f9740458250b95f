/* Where each tensor goes: what is read into place, and how much of the rest is on its way at a
 * time.
 */
#include "model/weights_plan.h"

#include <errno.h>
#include <stdlib.h>

enum {
    PAGE_BYTES = READER_PAGE_BYTES,
    ALIGNMENT = 64,          /* of packed tensors, and of those that the file has at odd places */
    WINDOW_BYTES = 64 << 20, /* long enough for the reader to get going */
    SHARES = 4,              /* of a loading, at least: reading and packing overlap */
};

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

uint64_t weights_row_bytes(const struct weights_want *want)
{
    const struct safetensors_tensor *source = want->source;
    return source->dimensions == 2 ? source->bytes / source->shape[0] : source->bytes;
}

uint64_t weights_offset(const struct weights_want *want)
{
    return want->source->offset + want->first_row * weights_row_bytes(want);
}

/* Adds a tensor that a kernel could not read where it stands in the file: it gets a place of its
 * own. */
static void add_loose(struct weights_plan *plan, const struct safetensors_tensor *source,
                      size_t index)
{
    plan->memory_bytes = round_up(plan->memory_bytes, ALIGNMENT);
    plan->places[index] = plan->memory_bytes;
    plan->pieces[plan->piece_count++] = (struct weights_piece){
        .file_index = source->file_index,
        .loose = true,
        .offset = source->offset,
        .bytes = source->bytes,
        .memory_offset = plan->memory_bytes,
    };
    plan->memory_bytes += source->bytes;
}

/* Adds a tensor to the piece that ends shortly before it, or begins a piece. A piece stands in
 * memory as in the file, congruent within a page, and has all pages that it touches for itself. */
static void add_neighbour(struct weights_plan *plan, const struct safetensors_tensor *source,
                          size_t index, struct weights_piece **piece)
{
    struct weights_piece *last = *piece;
    bool near = last && last->file_index == source->file_index &&
                source->offset - (last->offset + last->bytes) <= WEIGHTS_GAP_BYTES;
    if (!near) {
        if (last)
            plan->memory_bytes = round_up(last->memory_offset + last->bytes, PAGE_BYTES);
        last = *piece = &plan->pieces[plan->piece_count++];
        *last = (struct weights_piece){
            .file_index = source->file_index,
            .offset = source->offset,
            .memory_offset = plan->memory_bytes + source->offset % PAGE_BYTES,
        };
    }
    last->bytes = source->offset + source->bytes - last->offset;
    plan->places[index] = last->memory_offset + (source->offset - last->offset);
}

/* Whether a kernel can read it where it stands in the file. */
static bool is_aligned(const struct weights_want *want)
{
    return want->source->offset % tensor_type_bytes(want->type) == 0;
}

static void place_plain(struct weights_plan *plan, const struct weights_want *wants, size_t count)
{
    struct weights_piece *piece = NULL;
    for (size_t i = 0; i < count; i++)
        if (!tensor_type_is_packed(wants[i].type) && is_aligned(&wants[i]))
            add_neighbour(plan, wants[i].source, i, &piece);
    if (piece)
        plan->memory_bytes = round_up(piece->memory_offset + piece->bytes, PAGE_BYTES);
    for (size_t i = 0; i < count; i++)
        if (!tensor_type_is_packed(wants[i].type) && !is_aligned(&wants[i]))
            add_loose(plan, wants[i].source, i);
    for (size_t i = 0; i < plan->piece_count; i++)
        plan->read_bytes += plan->pieces[i].bytes;
}

static uint64_t add_packed(struct weights_plan *plan, const struct weights_want *want, size_t index)
{
    struct tensor tensor = {.type = want->type, .rows = want->rows, .cols = want->cols};
    plan->memory_bytes = round_up(plan->memory_bytes, ALIGNMENT);
    plan->places[index] = plan->memory_bytes;
    plan->memory_bytes += tensor_bytes(&tensor);
    plan->weights_bytes += tensor_bytes(&tensor);
    plan->packed_count++;
    return want->rows * weights_row_bytes(want);
}

/* Places what is packed, and decides on the windows: no larger than is of use, but a strip must
 * fit in. */
static void place_packed(struct weights_plan *plan, const struct weights_want *wants, size_t count)
{
    uint64_t bytes = 0, window = 0;
    for (size_t i = 0; i < count; i++) {
        if (!tensor_type_is_packed(wants[i].type)) {
            plan->weights_bytes += wants[i].source->bytes;
            continue;
        }
        uint64_t rows = wants[i].rows < PACKED_STRIP ? wants[i].rows : PACKED_STRIP;
        uint64_t strip = rows * weights_row_bytes(&wants[i]);
        window = strip > window ? strip : window;
        bytes += add_packed(plan, &wants[i], i);
    }
    if (plan->packed_count == 0)
        return;
    uint64_t share = bytes / SHARES < WINDOW_BYTES ? bytes / SHARES : WINDOW_BYTES;
    window = share > window ? share : window;
    plan->window_bytes = round_up(window, PAGE_BYTES) + PAGE_BYTES;
    plan->read_bytes += bytes;
}

/* Sums cannot overflow: they are bounded by the sizes of files, and a page for each tensor. */
int weights_plan_init(struct weights_plan *plan, const struct weights_want *wants, size_t count)
{
    plan->pieces = calloc(count + 1, sizeof *plan->pieces);
    plan->places = calloc(count + 1, sizeof *plan->places);
    if (!plan->pieces || !plan->places)
        return -ENOMEM;
    place_plain(plan, wants, count);
    place_packed(plan, wants, count);
    plan->memory_bytes = round_up(plan->memory_bytes, PAGE_BYTES);
    return 0;
}

void weights_plan_fini(struct weights_plan *plan)
{
    free(plan->pieces);
    free(plan->places);
    *plan = (struct weights_plan){0};
}

uint64_t weights_staging_bytes(const struct weights_plan *plan)
{
    return plan->window_bytes * WEIGHTS_WINDOWS;
}
