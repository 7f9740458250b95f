/* The tokenizer in a GGUF file from anywhere: refused with a text, or one that encodes. Its chat
 * template, too. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "client/chat_template.h"
#include "client/tokenizer.h"
#include "formats/gguf.h"
#include "tests/fuzz/fuzz.h"

static void read_template(const struct gguf *table)
{
    const char *text = NULL;
    char *system = NULL;
    size_t bytes = 0;
    if (gguf_string(table, "tokenizer.chat_template", &text, &bytes, NULL) < 0)
        return;
    char *copy = calloc(1, bytes + 1);
    if (copy)
        memcpy(copy, text, bytes);
    if (copy && chat_template_system(copy, &system) == 0 && system)
        assert(*system && strlen(system) < bytes);
    free(system);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "ab <|user|> 12\n";
    struct gguf table = {0};
    if (gguf_parse(&table, data, size, size, "fuzz", NULL) < 0)
        return 0;
    read_template(&table);
    struct agl_tokenizer tokenizer = {0};
    vocabulary_init(&tokenizer.vocabulary);
    if (tokenizer_gguf_read(&tokenizer, "fuzz", &table) < 0) {
        assert(agl_error_detail()[0]);
    } else {
        uint32_t ids[64];
        int count = agl_encode(&tokenizer, text, sizeof text - 1, ids, 64);
        for (int i = 0; i < count && i < 64; i++)
            assert(ids[i] < agl_tokenizer_size(&tokenizer));
    }
    vocabulary_fini(&tokenizer.vocabulary);
    gguf_fini(&table);
    return 0;
}
