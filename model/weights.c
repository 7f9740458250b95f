#include "model/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json.h"
#include "model/memory.h"
#include "model/weights_plan.h"

enum {
    PAGE_BYTES = READER_PAGE_BYTES,
    BOUNCE_BYTES = 64 << 20, /* for memory that files cannot be read into */
};

static int compare_wants(const void *a, const void *b)
{
    const struct weights_want *left = a, *right = b;
    if (left->source->file_index != right->source->file_index)
        return left->source->file_index < right->source->file_index ? -1 : 1;
    uint64_t left_offset = weights_offset(left), right_offset = weights_offset(right);
    return left_offset < right_offset ? -1 : left_offset > right_offset;
}

static int check_memory(const struct weights_loading *loading, struct failure *failure)
{
    uint64_t available = loading->options->memory_bytes, staging, needed;
    char more[64] = "";
    if (available == 0)
        available = loading->backend->ops->host_memory ? memory_available("") : UINT64_MAX;
    staging = weights_staging_bytes(&loading->plan);
    needed = loading->plan.memory_bytes + staging;
    if (needed <= available)
        return 0;
    if (staging)
        snprintf(more, sizeof more, ", %.3g GB of them to pack in", (double)staging * 1e-9);
    return failure_set(failure, -ENOMEM, "needs %.3g GB of memory%s, %.3g GB are available: %s",
                       (double)needed * 1e-9, more, (double)available * 1e-9, loading->folder);
}

/* The tensor that holds a byte of a file, for the message. */
static const char *name_at(const struct weights_loading *loading, const struct reader_fault *fault)
{
    for (size_t i = 0; i < loading->count; i++) {
        const struct safetensors_tensor *source = loading->wants[i].source;
        if (source->file_index == fault->file_index &&
            source->offset + source->bytes > fault->offset)
            return source->name;
    }
    return "";
}

static int report_fault(const struct weights_loading *loading, int err,
                        const struct reader_fault *fault, struct failure *failure)
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
    const struct weights_loading *loading = context;
    const struct weights_options *options = loading->options;
    uint64_t total = loading->plan.read_bytes, done = loading->done_bytes + done_bytes;
    if (options->progress)
        options->progress(options->progress_context, done < total ? done : total, total);
}

int weights_read(struct weights_loading *loading, struct reader_extent *extents, size_t count,
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

static int read_in_place(struct weights_loading *loading, void *memory, struct failure *failure)
{
    const struct weights_plan *plan = &loading->plan;
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
    int err = weights_read(loading, extents, plan->piece_count, failure);
    free(extents);
    return err;
}

/* One slice of a piece: into the bounce buffer, from there to the device. */
static int bounce_slice(struct weights_loading *loading, const struct weights_piece *piece,
                        uint64_t done, uint64_t bytes, char *bounce, char *memory,
                        struct failure *failure)
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
    int err = weights_read(loading, &extent, 1, failure);
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

static int read_through_bounce(struct weights_loading *loading, void *memory,
                               struct failure *failure)
{
    char *bounce = aligned_alloc(PAGE_BYTES, BOUNCE_BYTES + 2 * PAGE_BYTES);
    if (!bounce)
        return failure_set(failure, -ENOMEM, "no memory for a buffer of %d bytes", BOUNCE_BYTES);
    int err = 0;
    for (size_t i = 0; i < loading->plan.piece_count && err == 0; i++) {
        const struct weights_piece *piece = &loading->plan.pieces[i];
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

static int read_all(struct weights_loading *loading, void *memory, struct failure *failure)
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
    if (err == 0 && loading->plan.packed_count)
        err = weights_pack(loading, memory, failure);
    free(loading->files);
    /* A file that changed under our hands would be a model that never was. */
    return err < 0 ? err : checkpoint_verify(loading->checkpoint, failure);
}

static void fill_tensors(const struct weights_loading *loading, const char *memory)
{
    for (size_t i = 0; i < loading->count; i++) {
        const struct weights_want *want = &loading->wants[i];
        struct tensor tensor = {.data = memory + loading->plan.places[i],
                                .type = want->type,
                                .rows = want->rows,
                                .cols = want->cols};
        *want->ret_tensor = tensor;
    }
}

static int load(struct weights *weights, struct weights_loading *loading, struct failure *failure)
{
    int err = weights_plan_init(&loading->plan, loading->wants, loading->count);
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
    struct weights_loading loading = {.checkpoint = checkpoint,
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
        .packing_seconds = loading.packing_seconds,
    };
    for (size_t i = 0; i < count; i++)
        weights->report.tensors_of_type[wants[i].type]++;
    weights_plan_fini(&loading.plan);
    if (err < 0) {
        weights_close(weights, backend);
        return err;
    }
    *ret_weights = weights;
    return 0;
}

/* "q4_super 168, q8_halves 29, f32 57" */
static void describe_types(const struct weights_report *report, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (int type = WEIGHTS_TYPES - 1; type >= 0; type--) {
        if (report->tensors_of_type[type] == 0 || used >= bytes)
            continue;
        used += (size_t)snprintf(text + used, bytes - used, "%s%s %u", used ? ", " : "",
                                 tensor_type_name((enum tensor_type)type),
                                 report->tensors_of_type[type]);
    }
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
    char types[160], packing[64] = "";
    describe_types(report, types, sizeof types);
    if (report->packing_seconds > 0)
        snprintf(packing, sizeof packing, "read and packed in %.3g s, ", report->packing_seconds);
    snprintf(text, bytes,
             "%.3g GB of weights: %s; %sread %.3g GB in %.3g s, %.3g GB/s, %s, "
             "%.0f %% around the page cache, %llu reads, %llu repeated, %zu tensors ignored",
             (double)report->weights_bytes * 1e-9, types, packing, gigabytes, reading->seconds,
             reading->seconds > 0 ? gigabytes / reading->seconds : 0, reading->path,
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
