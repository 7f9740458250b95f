/*
 * A synchronous call: ask() sends a question and comes back with the whole answer.
 *
 *   cc call.c $(pkg-config --cflags --libs autoglm) -o call
 *   ./call 'Tell me a story about a little fox.' 'Hello!'
 */
#include <autoglm.h>
#include <stdio.h>

enum { ANSWER_TOKENS = 200 };

/* Blocks until the answer is complete or the daemon is gone. Returns its length in bytes, of which
 * the first `capacity` are in ret_text; or a negative errno. */
static int ask(struct agl_client *client, const struct agl_tokenizer *tokenizer,
               const char *question, char *ret_text, size_t capacity)
{
    struct agl_message message = {"user", question};
    struct agl_request request = AGL_REQUEST_INIT;
    struct agl_event event = {0};
    uint32_t ids[ANSWER_TOKENS], *place, id, count = 0;
    int prompt, err;

    /* First how many ids there will be, then straight into shared memory. */
    prompt = agl_chat_encode(tokenizer, &message, 1, AGL_CHAT_GENERATE, NULL, 0);
    if (prompt < 0)
        return prompt;
    if ((err = agl_prompt(client, (uint32_t)prompt, &place)) < 0)
        return err;
    prompt = agl_chat_encode(tokenizer, &message, 1, AGL_CHAT_GENERATE, place, (size_t)prompt);
    if (prompt < 0)
        return prompt;

    request.prompt_tokens = (uint32_t)prompt;
    request.max_tokens = ANSWER_TOKENS;
    if ((err = agl_submit(client, &request, &id)) < 0)
        return err;
    while (event.kind != AGL_EVENT_DONE) {
        if ((err = agl_wait(client, &event, UINT64_MAX)) < 0)
            return err;
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++)
            ids[count++] = event.tokens[i].id;
    }
    if (event.error < 0)
        return event.error; /* refused or failed */
    return agl_decode(tokenizer, ids, count, ret_text, capacity);
}

static int fail(const char *doing, int error)
{
    fprintf(stderr, "%s: %s: %s\n", doing, agl_strerror(error), agl_error_detail());
    return 1;
}

int main(int argc, char **argv)
{
    struct agl_client *client;
    struct agl_model model;
    struct agl_tokenizer *tokenizer;
    char text[8192];
    int err;

    if ((err = agl_connect(&client, NULL)) < 0)
        return fail("cannot connect", err);
    if ((err = agl_model(client, 0, &model)) < 0 ||
        (err = agl_tokenizer_open(&tokenizer, model.folder)) < 0)
        return fail("no model with a tokenizer", err);
    for (int i = 1; i < argc; i++) {
        int bytes = ask(client, tokenizer, argv[i], text, sizeof text);
        if (bytes < 0)
            return fprintf(stderr, "no answer: %s\n", agl_strerror(bytes)), 1;
        printf("%.*s\n", bytes < (int)sizeof text ? bytes : (int)sizeof text, text);
    }
    agl_tokenizer_close(tokenizer);
    agl_close(client);
    return 0;
}
