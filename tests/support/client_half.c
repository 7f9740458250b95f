#include "tests/support/client_half.h"

#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/test.h"

static struct region map_again(const struct region *region)
{
    struct region ret_region;
    const char *why;
    int fd = dup(region->fd);
    assert_true(fd >= 0);
    assert_int_equal(region_map_peer(&ret_region, fd, region->bytes, &why), 0);
    return ret_region;
}

static void place(struct client_half *client)
{
    const struct geometry *geometry = &client->geometry;
    uint8_t *ours = client->client_half.base;
    const uint8_t *theirs = client->daemon_half.base;
    client->words = (struct client_words *)(void *)(ours + client_half_words(geometry));
    client->arena = (uint32_t *)(void *)(ours + client_half_arena(geometry));
    client->daemon_words =
        (const struct daemon_words *)(const void *)(theirs + daemon_half_words(geometry));
    client->output = theirs + daemon_half_arena(geometry);
    ring_writer_init(&client->submissions, ours + client_half_ring(geometry),
                     geometry->submission_slots, SUBMISSION_SLOT_BYTES,
                     &client->daemon_words->submission_cursor);
    ring_reader_init(&client->events, theirs + daemon_half_ring(geometry), geometry->event_slots,
                     EVENT_SLOT_BYTES, &client->words->event_cursor);
}

void client_half_open(struct client_half *ret_client, const struct geometry *geometry)
{
    struct client_half client = {.geometry = *geometry};
    struct session_options options = {.id = 1, .geometry = *geometry};
    int sockets[2];

    assert_int_equal(region_create(&client.client_half, "test-client", client_half_bytes(geometry)),
                     0);
    assert_int_equal(
        region_create(&options.daemon_half, "test-daemon", daemon_half_bytes(geometry)), 0);
    client.daemon_half = map_again(&options.daemon_half);
    options.client_half = map_again(&client.client_half);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    client.socket_fd = sockets[0];
    options.socket_fd = sockets[1];
    options.doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    client.doorbell_fd = dup(options.doorbell_fd);
    assert_int_equal(session_open(&client.session, &options), 0);
    place(&client);
    *ret_client = client;
}

void client_half_close(struct client_half *client)
{
    session_close(client->session);
    region_fini(&client->client_half);
    region_fini(&client->daemon_half);
    close(client->socket_fd);
    close(client->doorbell_fd);
}

struct submission client_half_request(struct client_half *client, uint32_t id, uint32_t tokens,
                                      uint32_t max_tokens)
{
    for (uint32_t i = 0; i < tokens; i++)
        client->arena[i] = i + 1;
    return (struct submission){.op = SUBMISSION_GENERATE,
                               .priority = PRIORITY_NORMAL,
                               .request = id,
                               .prompt_tokens = tokens,
                               .max_tokens = max_tokens,
                               .top_p = 1};
}

void client_half_submit(struct client_half *client, const struct submission *submission)
{
    assert_int_equal(ring_push(&client->submissions, submission), 0);
    if (doorbell_sleeper(&client->daemon_words->sleep, &client->rung) == DOORBELL_FD)
        assert_int_equal(write(client->doorbell_fd, &(uint64_t){1}, sizeof(uint64_t)),
                         sizeof(uint64_t));
}

int client_half_poll(struct client_half *client, struct event *ret_event)
{
    return ring_pop(&client->events, ret_event) == 0;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct event client_half_wait(struct client_half *client)
{
    enum { PATIENCE_MS = 30000 };
    uint64_t start_ms = now_ms();
    struct event event;
    while (!client_half_poll(client, &event)) {
        if (now_ms() - start_ms > PATIENCE_MS)
            fail_msg("no event came within %d ms", PATIENCE_MS);
        cpu_relax();
    }
    return event;
}
