/* The benchmark's HTTP, against itself and against what nobody should send. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/test.h"
#include "tools/bench_http.h"

static struct http server;
static int client_fd;

static int open_pair(void **state)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return -1;
    server.fd = fds[0];
    client_fd = fds[1];
    return 0;
}

static int close_pair(void **state)
{
    close(server.fd);
    close(client_fd);
    return 0;
}

static void send_text(const char *text)
{
    assert_int_equal(send(client_fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What the server says to one request. */
static const char *answer_to(const char *text)
{
    static char answer[HTTP_MESSAGE_BYTES + 1];
    send_text(text);
    assert_int_equal(http_answer(&server), 0);
    ssize_t got = recv(client_fd, answer, HTTP_MESSAGE_BYTES, MSG_DONTWAIT);
    assert_true(got > 0);
    answer[got] = 0;
    return answer;
}

static void a_question_is_answered_with_its_id(void **state)
{
    const char *answer =
        answer_to("POST /v1/completions HTTP/1.1\r\nHost: x\r\ncontent-length: 17\r\n\r\n"
                  "{\"prompt\":[1234]}");
    assert_non_null(strstr(answer, "HTTP/1.1 200 OK\r\n"));
    assert_non_null(strstr(answer, "{\"tokens\":[1234],"));
    char length[64];
    const char *body = strstr(answer, "\r\n\r\n") + 4;
    snprintf(length, sizeof length, "Content-Length: %zu\r\n", strlen(body));
    assert_non_null(strstr(answer, length));
}

static void what_is_not_served_is_refused(void **state)
{
    assert_non_null(
        strstr(answer_to("POST /other HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"), " 404 "));
    assert_non_null(
        strstr(answer_to("GET /v1/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), " 404 "));
    assert_non_null(
        strstr(answer_to("POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{]"), " 400 "));
    assert_non_null(strstr(
        answer_to("POST /v1/completions HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"prompt\":[]}"),
        " 400 "));
}

static void *send_in_pieces(void *argument)
{
    static const char text[] =
        "POST /v1/completions HTTP/1.1\r\nContent-Length: 14\r\n\r\n{\"prompt\":[7]}";
    for (size_t i = 0; i < sizeof text - 1; i++) {
        if (send(client_fd, text + i, 1, MSG_NOSIGNAL) != 1)
            return NULL;
        usleep(100);
    }
    return NULL;
}

static void a_message_may_come_byte_by_byte(void **state)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_in_pieces, NULL), 0);
    assert_int_equal(http_answer(&server), 0);
    assert_string_equal(server.body, "{\"prompt\":[7]}");
    pthread_join(thread, NULL);
}

static void a_head_without_a_good_length_is_refused(void **state)
{
    static const char *const heads[] = {
        "POST / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 12x\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 4096\r\n\r\n",
        "POST / HTTP/1.1\r\nX-Content-Length: 2\r\n\r\n{}",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n{}",
    };
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        send_text(heads[i]);
        assert_int_equal(http_answer(&server), -EPROTO);
    }
}

static void a_head_that_never_ends_is_refused(void **state)
{
    char *text = malloc(HTTP_MESSAGE_BYTES);
    memset(text, 'x', HTTP_MESSAGE_BYTES);
    assert_int_equal(send(client_fd, text, HTTP_MESSAGE_BYTES, MSG_NOSIGNAL), HTTP_MESSAGE_BYTES);
    assert_int_equal(http_answer(&server), -EPROTO);
    free(text);
}

static void the_other_sides_end_is_noticed(void **state)
{
    send_text("POST /v1/comp");
    shutdown(client_fd, SHUT_WR);
    assert_int_equal(http_answer(&server), -EPIPE);
}

/* Over TCP, both sides as the benchmark uses them. */
static void *serve_two(void *argument)
{
    int *listen_fd = argument;
    struct http *http = calloc(1, sizeof *http);
    if (http && http_accept(*listen_fd, &http->fd) == 0) {
        for (int i = 0; i < 2; i++)
            (void)http_answer(http);
        close(http->fd);
    }
    free(http);
    return NULL;
}

static void a_connection_is_kept_for_the_next_question(void **state)
{
    static struct http client;
    pthread_t thread;
    int listen_fd = -1;
    assert_int_equal(http_listen(&listen_fd), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve_two, &listen_fd), 0);
    assert_int_equal(http_connect(listen_fd, &client.fd), 0);
    assert_int_equal(http_ask(&client, 5), 0);
    assert_non_null(strstr(client.body, "[5]"));
    assert_int_equal(http_ask(&client, 6), 0);
    assert_non_null(strstr(client.body, "[6]"));
    assert_int_equal(http_ask(&client, 7), -EPIPE);
    pthread_join(thread, NULL);
    close(client.fd);
    close(listen_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_question_is_answered_with_its_id, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(what_is_not_served_is_refused, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(a_message_may_come_byte_by_byte, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(a_head_without_a_good_length_is_refused, open_pair,
                                        close_pair),
        cmocka_unit_test_setup_teardown(a_head_that_never_ends_is_refused, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(the_other_sides_end_is_noticed, open_pair, close_pair),
        cmocka_unit_test(a_connection_is_kept_for_the_next_question),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
