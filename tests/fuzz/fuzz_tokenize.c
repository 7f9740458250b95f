/* Any bytes as text: the first byte chooses a splitting rule, the rest is encoded. The ids must
 * give the same bytes again, whole and streamed. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autoglm.h"
#include "tests/fuzz/fuzz.h"

enum { RULES = 5 };

static struct agl_tokenizer *tokenizers[RULES];

static const struct agl_tokenizer *open_rule(unsigned rule)
{
    static const char *const names[RULES] = {"glm4", "llama3", "gpt2", "smollm", "qwen2"};
    if (!tokenizers[rule]) {
        char path[4096];
        snprintf(path, sizeof path, "%s/tests/data/tokenizer/%s.tokenizer.json", AGL_SOURCE_DIR,
                 names[rule]);
        int err = agl_tokenizer_open(&tokenizers[rule], path);
        assert(err == 0);
    }
    return tokenizers[rule];
}

/* qwen2 changes the text (normalisation), so it is the last and only has to survive. */
static int keeps_bytes(unsigned rule)
{
    return rule < RULES - 1;
}

static void check_bytes(const struct agl_tokenizer *tokenizer, const uint32_t *ids, int count,
                        const char *text, size_t bytes)
{
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        const char *token = NULL;
        size_t token_bytes = 0;
        int err = agl_token_bytes(tokenizer, ids[i], &token, &token_bytes);
        assert(err == 0 && token_bytes <= bytes - at);
        assert(memcmp(token, text + at, token_bytes) == 0);
        at += token_bytes;
    }
    assert(at == bytes);
}

static void check_stream(const struct agl_tokenizer *tokenizer, const uint32_t *ids, int count)
{
    struct agl_detokenizer *detokenizer = NULL;
    int whole_bytes = agl_decode(tokenizer, ids, (size_t)count, NULL, 0);
    assert(whole_bytes >= 0);
    char *whole = malloc((size_t)whole_bytes + 1);
    assert(whole &&
           agl_decode(tokenizer, ids, (size_t)count, whole, (size_t)whole_bytes) == whole_bytes);
    assert(agl_detokenizer_open(&detokenizer, tokenizer) == 0);
    size_t at = 0;
    for (int i = 0; i <= count; i++) {
        const char *text = NULL;
        size_t bytes = 0;
        int err = i < count ? agl_detokenizer_push(detokenizer, ids[i], &text, &bytes)
                            : agl_detokenizer_finish(detokenizer, &text, &bytes);
        assert(err == 0 && bytes <= (size_t)whole_bytes - at);
        assert(memcmp(whole + at, text, bytes) == 0);
        at += bytes;
    }
    assert(at == (size_t)whole_bytes);
    agl_detokenizer_close(detokenizer);
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    unsigned rule = data[0] % RULES;
    const char *text = (const char *)data + 1;
    const struct agl_tokenizer *tokenizer = open_rule(rule);
    int count = agl_encode(tokenizer, text, size - 1, NULL, 0);
    assert(count >= 0);
    uint32_t *ids = malloc(((size_t)count + 1) * sizeof *ids);
    assert(ids && agl_encode(tokenizer, text, size - 1, ids, (size_t)count) == count);
    if (keeps_bytes(rule))
        check_bytes(tokenizer, ids, count, text, size - 1);
    check_stream(tokenizer, ids, count);
    free(ids);
    return 0;
}
