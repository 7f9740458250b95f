/* A whole safetensors file from anywhere: refused, or a table whose every number holds. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "model/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void check_table(const struct safetensors *table, uint64_t body_offset, uint64_t file_bytes)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < table->count; i++) {
        const struct safetensors_tensor *tensor = &table->tensors[i];
        assert(tensor->offset >= body_offset && tensor->offset <= file_bytes);
        assert(tensor->bytes <= file_bytes - tensor->offset);
        assert(i == 0 || strcmp(table->tensors[i - 1].name, tensor->name) < 0);
        bytes += tensor->bytes;
    }
    assert(body_offset + bytes == file_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors table = {0};
    struct failure failure = {""};
    unsigned char prefix[SAFETENSORS_PREFIX_BYTES] = {0};
    uint64_t header_bytes;
    memcpy(prefix, data, size < sizeof prefix ? size : sizeof prefix);
    if (safetensors_header_bytes(prefix, size, "fuzz", &header_bytes, &failure) < 0) {
        assert(failure.text[0]);
        return 0;
    }
    int err = safetensors_parse(&table, (const char *)data + sizeof prefix, header_bytes, size,
                                "fuzz", &failure);
    if (err < 0)
        assert(failure.text[0] && !table.tensors);
    else
        check_table(&table, sizeof prefix + header_bytes, size);
    safetensors_fini(&table);
    return 0;
}
