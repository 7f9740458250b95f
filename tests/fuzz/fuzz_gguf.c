/* A whole GGUF file from anywhere: refused, or a table whose every number holds, of which a model's
 * configuration is read or refused. */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_config.h"
#include "tests/fuzz/fuzz.h"

static void check_values(const struct gguf *table, const uint8_t *data)
{
    const unsigned char *end = data + table->data_offset;
    for (size_t i = 0; i < table->value_count; i++) {
        const struct gguf_value *value = &table->values[i];
        assert(value->bytes >= data && value->bytes + value->size <= end);
        assert(value->key_bytes > 0 && value->key_bytes <= GGUF_KEY_MAX);
        char key[GGUF_KEY_MAX + 1];
        memcpy(key, value->key, value->key_bytes);
        key[value->key_bytes] = 0;
        assert(gguf_find(table, key) == value);
    }
}

static int compare_offsets(const void *a, const void *b)
{
    const struct gguf_tensor *left = a, *right = b;
    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

/* No two tensors share a byte, and all are in the file. Sorts them by offset. */
static void check_tensors(struct gguf *table, uint64_t file_bytes)
{
    uint64_t end = table->data_offset;
    for (size_t i = 1; i < table->tensor_count; i++)
        assert(strcmp(table->tensors[i - 1].name, table->tensors[i].name) < 0);
    if (table->tensor_count > 1)
        qsort(table->tensors, table->tensor_count, sizeof *table->tensors, compare_offsets);
    for (size_t i = 0; i < table->tensor_count; i++) {
        const struct gguf_tensor *tensor = &table->tensors[i];
        assert(tensor->offset >= end && tensor->offset % table->alignment == 0);
        assert(tensor->offset <= file_bytes && tensor->bytes <= file_bytes - tensor->offset);
        assert(tensor->bytes > 0);
        end = tensor->offset + tensor->bytes;
    }
}

static void check_config(const struct gguf *table)
{
    struct failure failure = {""};
    struct model_config config;
    if (gguf_config_read(&config, table, &failure) < 0) {
        assert(failure.text[0]);
        return;
    }
    assert(config.layers >= 1 && config.layers <= MODEL_LAYERS_MAX);
    assert(config.heads % config.kv_heads == 0 && config.head_dim % 2 == 0);
    assert(config.rotary_dims >= 2 && config.rotary_dims <= config.head_dim);
    assert(config.vocab_size >= 1 && config.vocab_size <= config.vocab_rows);
    assert(config.eos_count <= MODEL_EOS_MAX && config.context_tokens <= MODEL_CONTEXT_MAX);
    for (uint32_t i = 0; i < config.eos_count; i++)
        assert(config.eos_ids[i] < config.vocab_size);
    assert(config.norm_eps > 0 && config.rope_base > 1 && config.rope_factor >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf table = {0};
    char why[GGUF_WHY_BYTES] = "";
    /* Half of it in memory: more is asked for, or it is decided as with all of it. */
    uint8_t *half = malloc(size / 2 + 1);
    memcpy(half, data, size / 2);
    int half_err = gguf_parse(&table, half, size / 2, size, "fuzz", NULL);
    gguf_fini(&table);
    free(half);
    int err = gguf_parse(&table, data, size, size, "fuzz", why);
    assert(err != -EAGAIN && (half_err == -EAGAIN || half_err == err));
    if (err < 0) {
        assert(why[0] && !table.values && !table.tensors);
        return 0;
    }
    check_values(&table, data);
    check_config(&table);
    check_tensors(&table, size);
    gguf_fini(&table);
    return 0;
}
