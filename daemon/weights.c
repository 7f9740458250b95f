#include "daemon/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/json.h"
#include "daemon/memory.h"

enum {
    PAGE_BYTES = READER_PAGE_BYTES,
    GAP_BYTES = 64 << 10,    /* reading across costs less than one more read */
    LOOSE_ALIGNMENT = 64,    /* of tensors that the file has at odd places */
    BOUNCE_BYTES = 64 << 20, /* for memory that files cannot be read into */
};

/* A piece of a file that is read as a whole: neighbouring tensors, or one loose tensor. */
struct piece {
    uint32_t file_index;
    bool loose; /* stands in memory where its type wants it, not as in the file */
    uint64_t offset;
    uint64_t bytes;
    uint64_t memory_offset; /* of the piece's first byte */
};

struct plan {
    struct piece *pieces;
    size_t piece_count;
    uint64_t *places; /* [count of wants] offset in memory of each */
    uint64_t memory_bytes;
    uint64_t weights_bytes;
    uint64_t read_bytes; /* of all pieces: with the gaps between neighbours */
};

/* What the steps of reading share. */
struct loading {
    const struct checkpoint *checkpoint;
    const char *folder;
    const struct weights_want *wants; /* sorted by file and offset */
    size_t count;
    struct reader_file *files;
    struct backend *backend;
    const struct weights_options *options;
    struct plan plan;
    uint64_t done_bytes; /* by the calls of the reader before */
    struct reader_stats stats;
};

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static int compare_wants(const void *a, const void *b)
{
    const struct safetensors_tensor *left = ((const struct weights_want *)a)->source;
    const struct safetensors_tensor *right = ((const struct weights_want *)b)->source;
    if (left->file_index != right->file_index)
        return left->file_index < right->file_index ? -1 : 1;
    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

static uint64_t type_bytes(const struct safetensors_tensor *source)
{
    enum tensor_type type = TENSOR_F32;
    safetensors_tensor_type(source, &type);
    return tensor_type_bytes(type);
}

/* Adds a tensor that a kernel could not read where it stands in the file: it gets a place of its
 * own. */
static void add_loose(struct plan *plan, const struct safetensors_tensor *source, size_t index)
{
    plan->memory_bytes = round_up(plan->memory_bytes, LOOSE_ALIGNMENT);
    plan->places[index] = plan->memory_bytes;
    plan->pieces[plan->piece_count++] = (struct piece){
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
static void add_neighbour(struct plan *plan, const struct safetensors_tensor *source, size_t index,
                          struct piece **piece)
{
    struct piece *last = *piece;
    bool near = last && last->file_index == source->file_index &&
                source->offset - (last->offset + last->bytes) <= GAP_BYTES;
    if (!near) {
        if (last)
            plan->memory_bytes = round_up(last->memory_offset + last->bytes, PAGE_BYTES);
        last = *piece = &plan->pieces[plan->piece_count++];
        *last = (struct piece){
            .file_index = source->file_index,
            .offset = source->offset,
            .memory_offset = plan->memory_bytes + source->offset % PAGE_BYTES,
        };
    }
    last->bytes = source->offset + source->bytes - last->offset;
    plan->places[index] = last->memory_offset + (source->offset - last->offset);
}

/* Sums cannot overflow: they are bounded by the sizes of files, and a page for each tensor. */
static int make_plan(struct plan *plan, const struct weights_want *wants, size_t count)
{
    plan->pieces = calloc(count + 1, sizeof *plan->pieces);
    plan->places = calloc(count + 1, sizeof *plan->places);
    if (!plan->pieces || !plan->places)
        return -ENOMEM;
    struct piece *piece = NULL;
    for (size_t i = 0; i < count; i++) {
        plan->weights_bytes += wants[i].source->bytes;
        if (wants[i].source->offset % type_bytes(wants[i].source) == 0)
            add_neighbour(plan, wants[i].source, i, &piece);
    }
    if (piece)
        plan->memory_bytes = round_up(piece->memory_offset + piece->bytes, PAGE_BYTES);
    for (size_t i = 0; i < count; i++)
        if (wants[i].source->offset % type_bytes(wants[i].source) != 0)
            add_loose(plan, wants[i].source, i);
    for (size_t i = 0; i < plan->piece_count; i++)
        plan->read_bytes += plan->pieces[i].bytes;
    plan->memory_bytes = round_up(plan->memory_bytes, PAGE_BYTES);
    return 0;
}

static void free_plan(struct plan *plan)
{
    free(plan->pieces);
    free(plan->places);
}

static int check_memory(const struct loading *loading, struct failure *failure)
{
    uint64_t available = loading->options->memory_bytes;
    if (available == 0)
        available = loading->backend->ops->host_memory ? memory_available("") : UINT64_MAX;
    if (loading->plan.memory_bytes <= available)
        return 0;
    return failure_set(failure, -ENOMEM, "needs %.3g GB of memory, %.3g GB are available: %s",
                       (double)loading->plan.memory_bytes * 1e-9, (double)available * 1e-9,
                       loading->folder);
}

/* The tensor that holds a byte of a file, for the message. */
static const char *name_at(const struct loading *loading, const struct reader_fault *fault)
{
    for (size_t i = 0; i < loading->count; i++) {
        const struct safetensors_tensor *source = loading->wants[i].source;
        if (source->file_index == fault->file_index &&
            source->offset + source->bytes > fault->offset)
            return source->name;
    }
    return "";
}

static int report_fault(const struct loading *loading, int err, const struct reader_fault *fault,
                        struct failure *failure)
{
    if (err == -ECANCELED)
        return failure_set(failure, err, "%s: reading the weights was cancelled", loading->folder);
    const char *path = loading->checkpoint->files[fault->file_index].path;
    struct json_quoted name = json_quote(name_at(loading, fault));
    if (fault->shrank)
        return failure_set(failure, err,
                           "%s: tensor %s: the file ends at %llu, it shrank while it was read",
                           path, name.text, (unsigned long long)fault->offset);
    return failure_set(failure, err, "%s: tensor %s: reading at %llu: %s", path, name.text,
                       (unsigned long long)fault->offset, strerror(-err));
}

/* The reader counts the pages around the pieces, too: what is more than the pieces is cut off. */
static void forward_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)total_bytes;
    const struct loading *loading = context;
    const struct weights_options *options = loading->options;
    uint64_t total = loading->plan.read_bytes, done = loading->done_bytes + done_bytes;
    if (options->progress)
        options->progress(options->progress_context, done < total ? done : total, total);
}

static int read_extents(struct loading *loading, struct reader_extent *extents, size_t count,
                        struct failure *failure)
{
    struct reader_options options = {
        .path = loading->options->path,
        .cache = loading->options->cache,
        .block_bytes = loading->options->block_bytes,
        .progress = forward_progress,
        .progress_context = loading,
        .cancel = loading->options->cancel,
    };
    struct reader_stats stats;
    struct reader_fault fault;
    int err = reader_read(loading->files, loading->checkpoint->file_count, extents, count, &options,
                          &stats, &fault);
    loading->done_bytes += stats.bytes;
    loading->stats.path = stats.path;
    loading->stats.bytes += stats.bytes;
    loading->stats.direct_bytes += stats.direct_bytes;
    loading->stats.requests += stats.requests;
    loading->stats.retries += stats.retries;
    loading->stats.seconds += stats.seconds;
    return err < 0 ? report_fault(loading, err, &fault, failure) : 0;
}

static int read_in_place(struct loading *loading, void *memory, struct failure *failure)
{
    const struct plan *plan = &loading->plan;
    struct reader_extent *extents = calloc(plan->piece_count + 1, sizeof *extents);
    if (!extents)
        return failure_set(failure, -ENOMEM, "no memory for a plan of %zu pieces",
                           plan->piece_count);
    for (size_t i = 0; i < plan->piece_count; i++)
        extents[i] = (struct reader_extent){
            .file_index = plan->pieces[i].file_index,
            .offset = plan->pieces[i].offset,
            .bytes = plan->pieces[i].bytes,
            .destination = (char *)memory + plan->pieces[i].memory_offset,
            .whole_pages = !plan->pieces[i].loose,
        };
    int err = read_extents(loading, extents, plan->piece_count, failure);
    free(extents);
    return err;
}

/* One slice of a piece: into the bounce buffer, from there to the device. */
static int bounce_slice(struct loading *loading, const struct piece *piece, uint64_t done,
                        uint64_t bytes, char *bounce, char *memory, struct failure *failure)
{
    uint64_t offset = piece->offset + done;
    char *landing = bounce + offset % PAGE_BYTES;
    struct reader_extent extent = {
        .file_index = piece->file_index,
        .offset = offset,
        .bytes = bytes,
        .destination = landing,
        .whole_pages = true,
    };
    int err = read_extents(loading, &extent, 1, failure);
    if (err < 0)
        return err;
    err = loading->backend->ops->upload(loading->backend, memory + piece->memory_offset + done,
                                        landing, bytes);
    if (err < 0)
        return failure_set(failure, err, "%s: uploading %llu bytes at %llu: %s",
                           loading->checkpoint->files[piece->file_index].path,
                           (unsigned long long)bytes, (unsigned long long)offset, strerror(-err));
    return 0;
}

static int read_through_bounce(struct loading *loading, void *memory, struct failure *failure)
{
    char *bounce = aligned_alloc(PAGE_BYTES, BOUNCE_BYTES + 2 * PAGE_BYTES);
    if (!bounce)
        return failure_set(failure, -ENOMEM, "no memory for a buffer of %d bytes", BOUNCE_BYTES);
    int err = 0;
    for (size_t i = 0; i < loading->plan.piece_count && err == 0; i++) {
        const struct piece *piece = &loading->plan.pieces[i];
        for (uint64_t done = 0; done < piece->bytes && err == 0;) {
            uint64_t left = piece->bytes - done;
            uint64_t bytes = left < BOUNCE_BYTES ? left : BOUNCE_BYTES;
            err = bounce_slice(loading, piece, done, bytes, bounce, memory, failure);
            done += bytes;
        }
    }
    free(bounce);
    return err;
}

static int read_all(struct loading *loading, void *memory, struct failure *failure)
{
    loading->files = calloc(loading->checkpoint->file_count + 1, sizeof *loading->files);
    if (!loading->files)
        return failure_set(failure, -ENOMEM, "no memory for a plan of %zu files",
                           loading->checkpoint->file_count);
    for (size_t i = 0; i < loading->checkpoint->file_count; i++)
        loading->files[i] = (struct reader_file){
            .fd = loading->checkpoint->files[i].fd,
            .bytes = (uint64_t)loading->checkpoint->files[i].status.st_size,
        };
    int err = loading->backend->ops->host_memory ? read_in_place(loading, memory, failure)
                                                 : read_through_bounce(loading, memory, failure);
    free(loading->files);
    /* A file that changed under our hands would be a model that never was. */
    return err < 0 ? err : checkpoint_verify(loading->checkpoint, failure);
}

static void fill_tensors(const struct loading *loading, const char *memory)
{
    for (size_t i = 0; i < loading->count; i++) {
        const struct weights_want *want = &loading->wants[i];
        struct tensor tensor = {
            .data = memory + loading->plan.places[i], .rows = want->rows, .cols = want->cols};
        safetensors_tensor_type(want->source, &tensor.type);
        *want->ret_tensor = tensor;
    }
}

static int load(struct weights *weights, struct loading *loading, struct failure *failure)
{
    int err = make_plan(&loading->plan, loading->wants, loading->count);
    if (err < 0)
        return failure_set(failure, err, "no memory for a plan of %zu tensors", loading->count);
    err = check_memory(loading, failure);
    if (err < 0)
        return err;
    uint64_t bytes = loading->plan.memory_bytes;
    err = loading->backend->ops->alloc(loading->backend, bytes, &weights->memory);
    if (err < 0) {
        weights->memory = NULL;
        return failure_set(failure, err,
                           "needs %.3g GB of memory, the %s backend could not allocate them: %s",
                           (double)bytes * 1e-9, loading->backend->ops->name, loading->folder);
    }
    weights->memory_bytes = bytes;
    err = read_all(loading, weights->memory, failure);
    if (err == 0)
        fill_tensors(loading, weights->memory);
    return err;
}

int weights_open(struct weights **ret_weights, const struct checkpoint *checkpoint,
                 const char *folder, struct weights_want *wants, size_t count,
                 struct backend *backend, const struct weights_options *options,
                 struct failure *failure)
{
    struct weights *weights = calloc(1, sizeof *weights);
    if (!weights)
        return failure_set(failure, -ENOMEM, "%s: no memory", folder);
    if (count > 1)
        qsort(wants, count, sizeof *wants, compare_wants);
    struct loading loading = {.checkpoint = checkpoint,
                              .folder = folder,
                              .wants = wants,
                              .count = count,
                              .backend = backend,
                              .options = options};
    int err = load(weights, &loading, failure);
    weights->report = (struct weights_report){
        .reading = loading.stats,
        .memory_bytes = weights->memory_bytes,
        .weights_bytes = loading.plan.weights_bytes,
    };
    free_plan(&loading.plan);
    if (err < 0) {
        weights_close(weights, backend);
        return err;
    }
    *ret_weights = weights;
    return 0;
}

const char *weights_describe(const struct weights *weights, char *text, size_t bytes)
{
    if (!weights) {
        snprintf(text, bytes, "no weights");
        return text;
    }
    const struct weights_report *report = &weights->report;
    const struct reader_stats *reading = &report->reading;
    double gigabytes = (double)reading->bytes * 1e-9;
    snprintf(text, bytes,
             "read %.3g GB in %.3g s, %.3g GB/s, %s, %.0f %% around the page cache, "
             "%llu reads, %llu repeated, %zu tensors ignored",
             gigabytes, reading->seconds, reading->seconds > 0 ? gigabytes / reading->seconds : 0,
             reading->path,
             reading->bytes ? 100.0 * (double)reading->direct_bytes / (double)reading->bytes : 0,
             (unsigned long long)reading->requests, (unsigned long long)reading->retries,
             report->ignored_tensors);
    return text;
}

void weights_close(struct weights *weights, struct backend *backend)
{
    if (!weights)
        return;
    if (weights->memory)
        backend->ops->free(backend, weights->memory, weights->memory_bytes);
    free(weights);
}
