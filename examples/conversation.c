/*
 * A conversation: the daemon keeps the sequence between the turns, so that each turn sends and
 * computes its own tokens only. One line of standard input a turn; an empty line starts over.
 *
 *   cc conversation.c $(pkg-config --cflags --libs autoglm) -o conversation
 *   printf 'Hello!\nTell me a story.\n' | ./conversation
 */
#include <autoglm.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *doing, int error)
{
    fprintf(stderr, "%s: %s: %s\n", doing, agl_strerror(error), agl_error_detail());
    return 1;
}

/* Submits a turn behind request `continues` (0: the first one). */
static int submit(struct agl_client *client, const struct agl_tokenizer *tokenizer,
                  const char *line, uint32_t continues, uint32_t *ret_id)
{
    struct agl_message message = {"user", line};
    struct agl_request request = AGL_REQUEST_INIT;
    uint32_t flags = AGL_CHAT_GENERATE | (continues ? AGL_CHAT_CONTINUE : 0), *place;
    int err, count = agl_chat_encode(tokenizer, &message, 1, flags, NULL, 0);
    if (count < 0)
        return count;
    if ((err = agl_prompt(client, (uint32_t)count, &place)) < 0)
        return err;
    if ((count = agl_chat_encode(tokenizer, &message, 1, flags, place, (size_t)count)) < 0)
        return count;
    request.prompt_tokens = (uint32_t)count;
    request.continues = continues;
    request.flags = AGL_KEEP;
    return agl_submit(client, &request, ret_id);
}

/* Prints the answer as it comes; *ret_done is its AGL_EVENT_DONE. */
static int print_answer(struct agl_client *client, struct agl_detokenizer *detokenizer,
                        struct agl_event *ret_done)
{
    struct agl_event event = {0};
    const char *text;
    size_t bytes;
    int err;
    while (event.kind != AGL_EVENT_DONE) {
        if ((err = agl_wait(client, &event, UINT64_MAX)) < 0)
            return err;
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++) {
            if ((err = agl_detokenizer_push(detokenizer, event.tokens[i].id, &text, &bytes)) < 0)
                return err;
            fwrite(text, 1, bytes, stdout);
        }
        fflush(stdout);
    }
    if ((err = agl_detokenizer_finish(detokenizer, &text, &bytes)) < 0)
        return err;
    fwrite(text, 1, bytes, stdout);
    *ret_done = event;
    return event.error;
}

int main(void)
{
    struct agl_client *client;
    struct agl_model model;
    struct agl_tokenizer *tokenizer;
    struct agl_detokenizer *detokenizer;
    struct agl_event done;
    uint32_t last = 0; /* the request whose sequence goes on; 0: none */
    char line[1024];
    int err;

    if ((err = agl_connect(&client, NULL)) < 0)
        return fail("cannot connect", err);
    if ((err = agl_model(client, 0, &model)) < 0 ||
        (err = agl_tokenizer_open(&tokenizer, model.folder)) < 0 ||
        (err = agl_detokenizer_open(&detokenizer, tokenizer)) < 0)
        return fail("no model with a tokenizer", err);

    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!*line) {
            if (last && (err = agl_forget(client, last)) < 0)
                return fail("cannot forget", err);
            last = 0;
            continue;
        }
        if ((err = submit(client, tokenizer, line, last, &last)) < 0)
            return fail("cannot submit", err);
        if ((err = print_answer(client, detokenizer, &done)) < 0)
            return fprintf(stderr, "no answer: %s\n", agl_strerror(err)), 1;
        printf("\n[%u tokens so far, %u of them computed before; %u new in the answer]\n",
               done.prompt_tokens, done.cached_tokens, done.generated_tokens);
    }
    agl_detokenizer_close(detokenizer);
    agl_tokenizer_close(tokenizer);
    agl_close(client); /* and with it goes what was kept */
    return 0;
}
