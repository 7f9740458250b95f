/*
 * One question, one answer, as text: the whole of libautoglm in one function.
 *
 *   cc story.c $(pkg-config --cflags --libs autoglm) -o story
 *   ./story 'Tell me a story about a little fox.'
 */
#include <autoglm.h>
#include <stdio.h>

static int fail(const char *doing, int error)
{
    fprintf(stderr, "%s: %s: %s\n", doing, agl_strerror(error), agl_error_detail());
    return 1;
}

int main(int argc, char **argv)
{
    struct agl_message message = {"user", argc > 1 ? argv[1] : "Hello!"};
    struct agl_request request = AGL_REQUEST_INIT;
    struct agl_event event = {0};
    struct agl_client *client;
    struct agl_model model;
    struct agl_tokenizer *tokenizer;
    struct agl_detokenizer *detokenizer;
    uint32_t *place;
    uint32_t id;
    int err;

    if ((err = agl_connect(&client, NULL)) < 0)
        return fail("cannot connect", err);
    if ((err = agl_model(client, 0, &model)) < 0)
        return fail("no model", err);
    if ((err = agl_tokenizer_open(&tokenizer, model.folder)) < 0 ||
        (err = agl_detokenizer_open(&detokenizer, tokenizer)) < 0)
        return fail("no tokenizer", err);

    /* First how many ids there will be, then straight into shared memory. */
    int count = agl_chat_encode(tokenizer, &message, 1, AGL_CHAT_GENERATE, NULL, 0);
    if (count < 0)
        return fail("cannot render the message", count);
    if ((err = agl_prompt(client, (uint32_t)count, &place)) < 0)
        return fail("no place for the prompt", err);
    agl_chat_encode(tokenizer, &message, 1, AGL_CHAT_GENERATE, place, (size_t)count);

    request.prompt_tokens = (uint32_t)count;
    request.temperature = 0.7f;
    if ((err = agl_submit(client, &request, &id)) < 0)
        return fail("cannot submit", err);
    while (event.kind != AGL_EVENT_DONE) {
        if ((err = agl_wait(client, &event, UINT64_MAX)) < 0)
            return fail("no answer", err);
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++) {
            const char *text;
            size_t bytes;
            if (agl_detokenizer_push(detokenizer, event.tokens[i].id, &text, &bytes) == 0)
                fwrite(text, 1, bytes, stdout);
        }
        fflush(stdout);
    }
    printf("\n(%u tokens, %s)\n", event.generated_tokens, agl_reason_name(event.reason));

    agl_detokenizer_close(detokenizer);
    agl_tokenizer_close(tokenizer);
    agl_close(client);
    return 0;
}
