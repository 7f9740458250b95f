#include "kernels/cpu/cpu.h"

const struct backend_ops VARIANT(cpu_ops) = {
    .name = "cpu",
    .host_memory = true,
    .close = cpu_close,
    .describe = cpu_describe,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .pack = cpu_pack,
    .cache_open = cpu_cache_open,
    .cache_close = cpu_cache_close,
    .embed = VARIANT(cpu_embed),
    .linear = VARIANT(cpu_linear),
    .rotary_store = VARIANT(cpu_rotary_store),
    .attention = VARIANT(cpu_attention),
    .gated_silu = VARIANT(cpu_gated_silu),
    .linear_add = VARIANT(cpu_linear_add),
    .select_rows = cpu_select_rows,
};
