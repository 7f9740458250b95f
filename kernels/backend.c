#include "kernels/backend.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

int backend_open(struct backend **ret_backend, const struct backend_options *options,
                 const char **ret_why)
{
    if (!options->device || strcmp(options->device, "cpu") != 0) {
        *ret_why = "no such device; this build knows \"cpu\"";
        return -ENODEV;
    }
    return cpu_open(ret_backend, options, ret_why);
}

void backend_close(struct backend *backend)
{
    if (backend)
        backend->ops->close(backend);
}

uint64_t kv_cache_bytes(const struct kv_cache_options *options)
{
    const uint64_t factors[] = {options->layers,       options->blocks,   options->kv_heads,
                                options->block_tokens, options->head_dim, 2};
    uint64_t bytes = tensor_type_bytes(options->type);
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++)
        if (__builtin_mul_overflow(bytes, factors[i], &bytes))
            return UINT64_MAX;
    return bytes;
}
