/* Any bytes as a tokenizer.json: refused, or a tokenizer that encodes and decodes. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "client/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void use(const struct agl_tokenizer *tokenizer)
{
    static const char text[] =
        "It's 12 <|user|>\n\n caf\xC3\xA9 \xFF aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    uint32_t ids[512];
    char back[4096];
    int count = agl_encode(tokenizer, text, sizeof text - 1, ids, 512);
    if (count < 0)
        return; /* a byte without token */
    assert(count <= 512);
    for (int i = 0; i < count; i++)
        assert(!agl_token_is_special(tokenizer, ids[i]));
    assert(agl_decode(tokenizer, ids, (size_t)count, back, sizeof back) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct agl_tokenizer tokenizer = {0};
    vocabulary_init(&tokenizer.vocabulary);
    int err = tokenizer_json_read(&tokenizer, "fuzz.json", (const char *)data, size, NULL);
    if (err == 0)
        use(&tokenizer);
    else
        assert(strlen(agl_error_detail()) > 0);
    vocabulary_fini(&tokenizer.vocabulary);
    return 0;
}
