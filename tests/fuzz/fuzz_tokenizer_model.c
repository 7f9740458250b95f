/* Any bytes as a tokenizer.model, behind the 256 single bytes if the first byte is a plus sign, so
 * that more than refusals is reached. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/tokenizer.h"
#include "tests/fuzz/fuzz.h"

enum { PREFIX_BYTES = 256 * 9 };

static size_t write_bytes(char *ret_text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t bytes = 0;
    for (int i = 0; i < 256; i++)
        bytes += (size_t)snprintf(ret_text + bytes, 10, "%c%c== %d\n", digits[i >> 2],
                                  digits[(i & 3) << 4], i);
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct agl_tokenizer tokenizer = {0};
    char *text = malloc(PREFIX_BYTES + size + 1);
    size_t bytes = 0;
    assert(text);
    if (size > 0 && data[0] == '+') {
        bytes = write_bytes(text);
        data++;
        size--;
    }
    memcpy(text + bytes, data, size);
    vocabulary_init(&tokenizer.vocabulary);
    if (tokenizer_model_read(&tokenizer, "fuzz.model", text, bytes + size, NULL) == 0) {
        static const char sample[] = "abab  12\n\xC3\xA9\xFF";
        uint32_t ids[64];
        int count = agl_encode(&tokenizer, sample, sizeof sample - 1, ids, 64);
        assert(count > 0 && count <= (int)sizeof sample);
    }
    vocabulary_fini(&tokenizer.vocabulary);
    free(text);
    return 0;
}
