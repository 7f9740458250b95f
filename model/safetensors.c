#include "model/safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/json.h"

static const struct {
    const char *name;
    uint32_t bits;
} TYPES[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};

/* What a message is about. */
struct place {
    const char *file;
    const char *tensor;
    struct failure *failure;
};

#define REFUSE(place, format, ...)                                                  \
    failure_set((place)->failure, -EINVAL, "%s: tensor %s: " format, (place)->file, \
                json_quote((place)->tensor).text, __VA_ARGS__)

bool safetensors_tensor_type(const struct safetensors_tensor *tensor, enum tensor_type *ret_type)
{
    switch (tensor->source_type) {
    case GGUF_F32:
        *ret_type = TENSOR_F32;
        return true;
    case GGUF_F16:
        *ret_type = TENSOR_F16;
        return true;
    case GGUF_BF16:
        *ret_type = TENSOR_BF16;
        return true;
    default:
        return false;
    }
}

int safetensors_header_bytes(const unsigned char prefix[SAFETENSORS_PREFIX_BYTES],
                             uint64_t file_bytes, const char *file, uint64_t *ret_header_bytes,
                             struct failure *failure)
{
    if (file_bytes < SAFETENSORS_PREFIX_BYTES)
        return failure_set(failure, -EINVAL, "%s: header: the file has %llu bytes, less than 8",
                           file, (unsigned long long)file_bytes);
    uint64_t header_bytes = 0;
    for (int i = SAFETENSORS_PREFIX_BYTES - 1; i >= 0; i--)
        header_bytes = header_bytes << 8 | prefix[i];
    if (header_bytes > SAFETENSORS_HEADER_MAX)
        return failure_set(failure, -EFBIG, "%s: header: length %llu is beyond the limit of %d",
                           file, (unsigned long long)header_bytes, SAFETENSORS_HEADER_MAX);
    if (header_bytes > file_bytes - SAFETENSORS_PREFIX_BYTES)
        return failure_set(failure, -EINVAL,
                           "%s: header: length %llu is beyond the file's end, which has %llu bytes",
                           file, (unsigned long long)header_bytes, (unsigned long long)file_bytes);
    *ret_header_bytes = header_bytes;
    return 0;
}

static enum gguf_type source_type(const char *name)
{
    static const enum gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(gguf_type_name((uint32_t)types[i]), name) == 0)
            return types[i];
    return GGUF_NONE;
}

static int parse_type(struct safetensors_tensor *tensor, const cJSON *value, uint32_t *ret_bits,
                      const struct place *place)
{
    if (!cJSON_IsString(value))
        return REFUSE(place, "dtype: must be a string, is %s", json_type_name(value));
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (strcmp(TYPES[i].name, value->valuestring) == 0) {
            tensor->type = TYPES[i].name;
            tensor->source_type = source_type(tensor->type);
            *ret_bits = TYPES[i].bits;
            return 0;
        }
    return REFUSE(place, "dtype: %s is not known", json_quote(value->valuestring).text);
}

static int parse_shape(struct safetensors_tensor *tensor, const cJSON *value,
                       const struct place *place)
{
    if (!cJSON_IsArray(value))
        return REFUSE(place, "shape: must be an array, is %s", json_type_name(value));
    for (const cJSON *item = value->child; item; item = item->next) {
        if (tensor->dimensions == SAFETENSORS_DIMENSIONS_MAX)
            return REFUSE(place, "shape: more than %d dimensions", SAFETENSORS_DIMENSIONS_MAX);
        if (json_number_u64(item, &tensor->shape[tensor->dimensions]) < 0)
            return REFUSE(place, "shape: dimension %u is no size", tensor->dimensions);
        tensor->dimensions++;
    }
    return 0;
}

/* The bytes that type and shape ask for. */
static int shape_bytes(const struct safetensors_tensor *tensor, uint32_t type_bits,
                       uint64_t *ret_bytes, const struct place *place)
{
    uint64_t elements = 1, bits;
    for (uint32_t i = 0; i < tensor->dimensions; i++)
        if (__builtin_mul_overflow(elements, tensor->shape[i], &elements))
            return REFUSE(place, "shape: the product overflows at dimension %u of %llu", i,
                          (unsigned long long)tensor->shape[i]);
    if (__builtin_mul_overflow(elements, (uint64_t)type_bits, &bits))
        return REFUSE(place, "shape: %llu elements of %s overflow", (unsigned long long)elements,
                      tensor->type);
    if (bits % 8 != 0)
        return REFUSE(place, "shape: %llu elements of %s are no whole bytes",
                      (unsigned long long)elements, tensor->type);
    *ret_bytes = bits / 8;
    return 0;
}

/* body_offset: where the tensors' bytes begin in the file. */
static int parse_offsets(struct safetensors_tensor *tensor, const cJSON *value,
                         uint64_t body_offset, uint64_t body_bytes, const struct place *place)
{
    const cJSON *first = cJSON_IsArray(value) ? value->child : NULL;
    const cJSON *second = first ? first->next : NULL;
    uint64_t begin, end;
    if (!second || second->next || json_number_u64(first, &begin) < 0 ||
        json_number_u64(second, &end) < 0)
        return REFUSE(place, "data_offsets: must be two integers, is %s", json_type_name(value));
    if (end < begin)
        return REFUSE(place, "data_offsets: the end %llu is before the begin %llu",
                      (unsigned long long)end, (unsigned long long)begin);
    if (end > body_bytes)
        return REFUSE(place,
                      "data_offsets: the end %llu is beyond the %llu bytes behind the header",
                      (unsigned long long)end, (unsigned long long)body_bytes);
    tensor->offset = body_offset + begin;
    tensor->bytes = end - begin;
    return 0;
}

static int check_name(const char *name, const struct place *place)
{
    size_t length = strlen(name);
    if (length == 0)
        return REFUSE(place, "%s", "the name is empty");
    if (length > SAFETENSORS_NAME_MAX)
        return REFUSE(place, "the name has %zu bytes, the limit is %d", length,
                      SAFETENSORS_NAME_MAX);
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        if (*c < 0x20 || *c == 0x7F)
            return REFUSE(place, "the name contains the control byte 0x%02x", *c);
    return 0;
}

static int parse_tensor(struct safetensors_tensor *tensor, const cJSON *item, uint64_t body_offset,
                        uint64_t body_bytes, const struct place *place)
{
    int err = check_name(item->string, place);
    if (err < 0)
        return err;
    if (!cJSON_IsObject(item))
        return REFUSE(place, "must be an object, is %s", json_type_name(item));
    uint32_t bits = 0;
    err = parse_type(tensor, cJSON_GetObjectItemCaseSensitive(item, "dtype"), &bits, place);
    if (err < 0)
        return err;
    err = parse_shape(tensor, cJSON_GetObjectItemCaseSensitive(item, "shape"), place);
    if (err < 0)
        return err;
    err = parse_offsets(tensor, cJSON_GetObjectItemCaseSensitive(item, "data_offsets"), body_offset,
                        body_bytes, place);
    if (err < 0)
        return err;
    uint64_t bytes = 0;
    err = shape_bytes(tensor, bits, &bytes, place);
    if (err < 0)
        return err;
    if (bytes != tensor->bytes)
        return REFUSE(place, "data_offsets: hold %llu bytes, dtype and shape ask for %llu",
                      (unsigned long long)tensor->bytes, (unsigned long long)bytes);
    return 0;
}

/* __metadata__ is for people, but it has a form, too. */
static int check_metadata(const cJSON *metadata, const char *file, struct failure *failure)
{
    if (!cJSON_IsObject(metadata))
        return failure_set(failure, -EINVAL, "%s: __metadata__: must be an object, is %s", file,
                           json_type_name(metadata));
    for (const cJSON *item = metadata->child; item; item = item->next)
        if (!cJSON_IsString(item))
            return failure_set(failure, -EINVAL, "%s: __metadata__: %s must be a string, is %s",
                               file, json_quote(item->string).text, json_type_name(item));
    return 0;
}

static bool is_metadata(const cJSON *item)
{
    return strcmp(item->string, "__metadata__") == 0;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct safetensors_tensor *left = a, *right = b;
    if (left->offset != right->offset)
        return left->offset < right->offset ? -1 : 1;
    return left->bytes < right->bytes ? -1 : left->bytes > right->bytes;
}

static int compare_names(const void *a, const void *b)
{
    const struct safetensors_tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

/* The tensors must fill the file from the header's end to its own: no hole, no overlap. Sorts them
 * by offset. */
static int check_layout(struct safetensors *table, uint64_t body_offset, uint64_t file_bytes,
                        const char *file, struct failure *failure)
{
    if (table->count > 1)
        qsort(table->tensors, table->count, sizeof *table->tensors, compare_offsets);
    uint64_t expected = body_offset;
    for (size_t i = 0; i < table->count; i++) {
        const struct safetensors_tensor *tensor = &table->tensors[i];
        struct place place = {.file = file, .tensor = tensor->name, .failure = failure};
        if (tensor->offset != expected)
            return REFUSE(&place,
                          "data_offsets: begins at %llu, the tensor before ends at %llu: %s",
                          (unsigned long long)(tensor->offset - body_offset),
                          (unsigned long long)(expected - body_offset),
                          tensor->offset > expected ? "a hole" : "an overlap");
        expected = tensor->offset + tensor->bytes;
    }
    if (expected != file_bytes)
        return failure_set(failure, -EINVAL,
                           "%s: data_offsets: the last tensor ends at %llu, the file at %llu", file,
                           (unsigned long long)expected, (unsigned long long)file_bytes);
    return 0;
}

/* Allocates for every tensor of the header, and copies the names. */
static int reserve_table(struct safetensors *table, const cJSON *root, const char *file,
                         struct failure *failure)
{
    size_t count = 0, name_bytes = 1;
    for (const cJSON *item = root->child; item; item = item->next) {
        if (is_metadata(item))
            continue;
        count++;
        name_bytes += strlen(item->string) + 1;
    }
    if (count > SAFETENSORS_TENSORS_MAX)
        return failure_set(failure, -EFBIG, "%s: header: %zu tensors, the limit is %d", file, count,
                           SAFETENSORS_TENSORS_MAX);
    table->tensors = calloc(count ? count : 1, sizeof *table->tensors);
    table->names = malloc(name_bytes);
    if (!table->tensors || !table->names)
        return failure_set(failure, -ENOMEM, "%s: no memory for %zu tensors", file, count);
    return 0;
}

static int fill_table(struct safetensors *table, const cJSON *root, uint64_t body_offset,
                      uint64_t file_bytes, const char *file, struct failure *failure)
{
    int err = reserve_table(table, root, file, failure);
    if (err < 0)
        return err;
    char *name = table->names;
    for (const cJSON *item = root->child; item; item = item->next) {
        struct place place = {.file = file, .tensor = item->string, .failure = failure};
        if (is_metadata(item)) {
            err = check_metadata(item, file, failure);
        } else {
            struct safetensors_tensor *tensor = &table->tensors[table->count++];
            size_t length = strlen(item->string) + 1;
            tensor->name = memcpy(name, item->string, length);
            name += length;
            err = parse_tensor(tensor, item, body_offset, file_bytes - body_offset, &place);
        }
        if (err < 0)
            return err;
    }
    return check_layout(table, body_offset, file_bytes, file, failure);
}

int safetensors_parse(struct safetensors *ret_table, const char *header, size_t header_bytes,
                      uint64_t file_bytes, const char *file, struct failure *failure)
{
    cJSON *root;
    int err = json_parse(&root, header, header_bytes, file, JSON_INTEGERS, failure);
    if (err < 0)
        return err;
    struct safetensors table = {0};
    if (!cJSON_IsObject(root))
        err = failure_set(failure, -EINVAL, "%s: header: must be an object, is %s", file,
                          json_type_name(root));
    else
        err = fill_table(&table, root, SAFETENSORS_PREFIX_BYTES + header_bytes, file_bytes, file,
                         failure);
    cJSON_Delete(root);
    if (err < 0) {
        safetensors_fini(&table);
        return err;
    }
    if (table.count > 1)
        qsort(table.tensors, table.count, sizeof *table.tensors, compare_names);
    *ret_table = table;
    return 0;
}

void safetensors_fini(struct safetensors *table)
{
    free(table->tensors);
    free(table->names);
    *table = (struct safetensors){0};
}

/* Reads all of [offset, offset + bytes). */
static int read_exactly(int fd, void *buffer, size_t bytes, uint64_t offset, const char *file,
                        struct failure *failure)
{
    for (size_t done = 0; done < bytes;) {
        unsigned long long at = offset + done;
        ssize_t got = pread(fd, (char *)buffer + done, bytes - done, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failure_set(failure, -errno, "%s: header: reading at %llu: %s", file, at,
                               strerror(errno));
        if (got == 0)
            return failure_set(failure, -EINVAL, "%s: header: the file ends at %llu", file, at);
        done += (size_t)got;
    }
    return 0;
}

int safetensors_read(struct safetensors *ret_table, int fd, uint64_t file_bytes, const char *file,
                     struct failure *failure)
{
    unsigned char prefix[SAFETENSORS_PREFIX_BYTES] = {0};
    size_t prefix_bytes = file_bytes < sizeof prefix ? (size_t)file_bytes : sizeof prefix;
    int err = read_exactly(fd, prefix, prefix_bytes, 0, file, failure);
    if (err < 0)
        return err;
    uint64_t header_bytes = 0;
    err = safetensors_header_bytes(prefix, file_bytes, file, &header_bytes, failure);
    if (err < 0)
        return err;
    char *header = malloc(header_bytes + 1);
    if (!header)
        return failure_set(failure, -ENOMEM, "%s: no memory for a header of %llu bytes", file,
                           (unsigned long long)header_bytes);
    err = read_exactly(fd, header, header_bytes, SAFETENSORS_PREFIX_BYTES, file, failure);
    if (err == 0)
        err = safetensors_parse(ret_table, header, header_bytes, file_bytes, file, failure);
    free(header);
    return err;
}
