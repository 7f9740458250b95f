/* Built against an installed library, as C99 and as C++: the header is clean in both. */
#include <autoglm.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_request request = AGL_REQUEST_INIT;
    struct agl_client *client = NULL;
    char version[32];
    int err;

    sprintf(version, "%d.%d.%d", AGL_VERSION_MAJOR, AGL_VERSION_MINOR, AGL_VERSION_PATCH);
    if (strcmp(version, agl_version()) != 0) {
        fprintf(stderr, "header %s, library %s\n", version, agl_version());
        return 1;
    }
    if (options.size_bytes != sizeof options || request.size_bytes != sizeof request ||
        request.max_tokens != 256 || request.top_p != 1.0f)
        return 2;
    options.socket_path = "/nonexistent/socket";
    err = agl_connect(&client, &options);
    if (err >= 0 || client != NULL || strstr(agl_error_detail(), options.socket_path) == NULL)
        return 3;
    agl_close(client);
    printf("%s: %s: %s\n", version, agl_strerror(err), agl_error_detail());
    return 0;
}
