/*
 * HTTP/1.1 over loopback, as little of it as a token service needs: one kept connection, POST with
 * a JSON body, a JSON answer. What the rings are held against; not for use.
 */
#ifndef AGL_TOOLS_BENCH_HTTP_H
#define AGL_TOOLS_BENCH_HTTP_H

#include <stddef.h>
#include <stdint.h>

enum { HTTP_MESSAGE_BYTES = 4096 }; /* head and body of a message at the most */

/* One end of a connection, and the message read last. Not owned: fd. */
struct http {
    int fd;
    size_t bytes; /* of the message; 0: none is there */
    char *body;   /* NUL-terminated, in `message` */
    char message[HTTP_MESSAGE_BYTES + 1];
};

/* A listening socket on a free port of 127.0.0.1. 0 or a negative errno. */
int http_listen(int *ret_fd);

/* Connects to what http_listen() gave; and takes that connection on the other side. Neither end
 * delays small packets. 0 or a negative errno. */
int http_connect(int listen_fd, int *ret_fd);
int http_accept(int listen_fd, int *ret_fd);

/* Asks for one token after the prompt of one id, and reads the answer. 0; -EPROTO: not the answer
 * expected; -EINTR: told to stop or lost patience (bench_stop.h); another negative errno. */
int http_ask(struct http *http, uint32_t id);

/* Reads one request and answers it: 200 with the id that was sent, 400 to what is not JSON with a
 * prompt, 404 elsewhere. 0; -EPIPE: the other side is gone; -EPROTO; another negative errno. */
int http_answer(struct http *http);

#endif
