#include <autoglm.h>
#include <stdio.h>

int main(void)
{
    struct agl_client *client;
    struct agl_request request = AGL_REQUEST_INIT;
    struct agl_event event = {0};
    uint32_t *prompt, id;

    if (agl_connect(&client, NULL) < 0 || agl_prompt(client, 3, &prompt) < 0)
        return fprintf(stderr, "%s\n", agl_error_detail()), 1;
    prompt[0] = 1, prompt[1] = 403, prompt[2] = 407; /* written where the daemon reads it */
    request.prompt_tokens = 3;
    if (agl_submit(client, &request, &id) < 0)
        return fprintf(stderr, "%s\n", agl_error_detail()), 1;
    while (event.kind != AGL_EVENT_DONE && agl_wait(client, &event, UINT64_MAX) == 1)
        for (uint32_t i = 0; event.kind == AGL_EVENT_TOKENS && i < event.token_count; i++)
            printf("%u\n", event.tokens[i].id);
    agl_close(client);
}
