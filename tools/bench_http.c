#include "tools/bench_http.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "tools/bench_stop.h"

static const char path[] = "POST /v1/completions HTTP/1.1\r\n";

/* ---- connections ----------------------------------------------------------------------------- */

int http_listen(int *ret_fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    *ret_fd = fd;
    return 0;
}

/* Takes the descriptor: closes it on failure. */
static int set_no_delay(int fd, int *ret_fd)
{
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    *ret_fd = fd;
    return 0;
}

int http_connect(int listen_fd, int *ret_fd)
{
    struct sockaddr_in address;
    socklen_t bytes = sizeof address;
    if (getsockname(listen_fd, (struct sockaddr *)&address, &bytes) < 0)
        return -errno;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return set_no_delay(fd, ret_fd);
}

int http_accept(int listen_fd, int *ret_fd)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    return fd < 0 ? -errno : set_no_delay(fd, ret_fd);
}

/* ---- messages -------------------------------------------------------------------------------- */

/* The body's length by the head's Content-Length. -EPROTO: the head names none. */
static long body_bytes(const char *head)
{
    static const char name[] = "Content-Length:";
    for (const char *line = head; line; line = strstr(line, "\r\n")) {
        line += line == head ? 0 : 2;
        if (strncasecmp(line, name, sizeof name - 1) != 0)
            continue;
        const char *value = line + sizeof name - 1;
        value += strspn(value, " ");
        char *end = NULL;
        unsigned long bytes = strtoul(value, &end, 10);
        bool is_number = *value >= '0' && *value <= '9' && *end == '\r';
        return is_number && bytes <= HTTP_MESSAGE_BYTES ? (long)bytes : -EPROTO;
    }
    return -EPROTO;
}

/* Whether the message is whole: 1, with its body found; 0: more must come; -EPROTO. */
static int is_whole(struct http *http)
{
    http->message[http->bytes] = 0;
    char *end = strstr(http->message, "\r\n\r\n");
    if (!end)
        return http->bytes < HTTP_MESSAGE_BYTES ? 0 : -EPROTO;
    long bytes = body_bytes(http->message);
    if (bytes < 0)
        return (int)bytes;
    http->body = end + 4;
    size_t whole = (size_t)(http->body - http->message) + (size_t)bytes;
    if (whole > HTTP_MESSAGE_BYTES || http->bytes > whole)
        return -EPROTO; /* too long; or another one behind it, which nobody here sends */
    return http->bytes == whole;
}

static int read_message(struct http *http)
{
    uint64_t give_up_ns = 0; /* the clock is read only by who is interrupted */
    int whole = 0;
    http->bytes = 0;
    while (whole == 0) {
        ssize_t got =
            recv(http->fd, http->message + http->bytes, HTTP_MESSAGE_BYTES - http->bytes, 0);
        if (got == 0)
            return -EPIPE;
        if (got < 0 && errno != EINTR)
            return errno == ECONNRESET ? -EPIPE : -errno;
        if (got < 0) {
            give_up_ns = give_up_ns ? give_up_ns : bench_give_up_ns();
            if (!bench_may_wait(give_up_ns))
                return -EINTR;
            continue;
        }
        http->bytes += (size_t)got;
        whole = is_whole(http);
    }
    return whole < 0 ? whole : 0;
}

/* Messages are small: a connection with room for one takes it at once. */
static int write_message(struct http *http, const char *head, const char *body)
{
    char message[HTTP_MESSAGE_BYTES];
    int bytes = snprintf(message, sizeof message,
                         "%sContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", head,
                         strlen(body), body);
    if (bytes < 0 || (size_t)bytes >= sizeof message)
        return -EMSGSIZE;
    ssize_t sent = send(http->fd, message, (size_t)bytes, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    return sent == bytes ? 0 : -EIO;
}

/* ---- the two sides --------------------------------------------------------------------------- */

int http_ask(struct http *http, uint32_t id)
{
    char head[sizeof path + 64];
    char body[64];
    snprintf(head, sizeof head, "%sHost: 127.0.0.1\r\n", path);
    snprintf(body, sizeof body, "{\"prompt\":[%u],\"max_tokens\":1}", id);
    int err = write_message(http, head, body);
    if (err == 0)
        err = read_message(http);
    if (err < 0)
        return err;
    return strncmp(http->message, "HTTP/1.1 200 ", 13) == 0 ? 0 : -EPROTO;
}

/* The id that is asked for: the prompt's first. -1: the body is not such a question. */
static double asked_id(const char *body)
{
    cJSON *root = cJSON_Parse(body);
    const cJSON *id = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "prompt"), 0);
    double value = cJSON_IsNumber(id) ? id->valuedouble : -1;
    cJSON_Delete(root);
    return value;
}

int http_answer(struct http *http)
{
    int err = read_message(http);
    if (err < 0)
        return err;
    if (strncmp(http->message, path, sizeof path - 1) != 0)
        return write_message(http, "HTTP/1.1 404 Not Found\r\n", "{}");
    double id = asked_id(http->body);
    if (id < 0)
        return write_message(http, "HTTP/1.1 400 Bad Request\r\n", "{}");
    char body[64];
    snprintf(body, sizeof body, "{\"tokens\":[%.0f],\"reason\":\"length\"}", id);
    return write_message(http, "HTTP/1.1 200 OK\r\n", body);
}
