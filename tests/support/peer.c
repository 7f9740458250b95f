#include "tests/support/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "autoglm.h"
#include "tests/support/test.h"

enum { FLOOD_FDS = 20 };

/* ---- packets --------------------------------------------------------------------------------- */

static void send_with_fds(int socket_fd, const void *packet, size_t bytes, const int *fds,
                          size_t fd_count)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(FLOOD_FDS * sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {.iov_base = (void *)(uintptr_t)packet, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count) {
        message.msg_control = control.room;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
    }
    sendmsg(socket_fd, &message, MSG_NOSIGNAL);
}

/* The size of what came, 0 at the end; *ret_fd is -1 or a descriptor. */
static ssize_t receive(int socket_fd, void *ret_packet, size_t bytes, int *ret_fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = ret_packet, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    ssize_t got = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
    *ret_fd = -1;
    if (got <= 0)
        return 0;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(header), sizeof *ret_fd);
    return got;
}

static void send_error(struct peer *peer, int error, const char *text)
{
    struct message_error message = {.header = MESSAGE_INIT(MESSAGE_ERROR, struct message_error),
                                    .error = error,
                                    .major = LAYOUT_MAJOR,
                                    .minor = LAYOUT_MINOR};
    if (peer->fault == PEER_REFUSES_WITHOUT_NUL)
        memset(message.text, 'x', sizeof message.text);
    else
        memcpy(message.text, text, strlen(text));
    if (peer->fault == PEER_REFUSES_BRIEFLY)
        message.header.bytes = sizeof message.header;
    send_with_fds(peer->socket_fd, &message, message.header.bytes, NULL, 0);
}

/* ---- what the peer gives --------------------------------------------------------------------- */

/* Memory with no seals; a region that owns it for peer_stop(). */
static void make_unsealed(struct region *ret_region, uint64_t bytes)
{
    int fd = memfd_create("peer-unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(base != MAP_FAILED);
    *ret_region = (struct region){.base = base, .bytes = bytes, .fd = fd};
}

static void make_region(struct region *ret_region, const char *name, uint64_t bytes, bool is_sealed)
{
    if (is_sealed)
        assert_int_equal(region_create(ret_region, name, bytes), 0);
    else
        make_unsealed(ret_region, bytes);
}

static void describe_model(struct board_model *model, const char *name)
{
    strcpy(model->name, name);
    strcpy(model->architecture, "EchoModel");
    strcpy(model->folder, "/nowhere");
    model->vocab_size = PEER_VOCAB_SIZE;
    model->context_tokens = PEER_CONTEXT_TOKENS;
    model->eos_ids[0] = 1;
    model->eos_ids[1] = 2;
    model->eos_count = 2;
    model->weights_bytes = 4096;
    model->bytes_per_token = 2048;
    model->block_tokens = 16;
    model->blocks = 64;
    model->blocks_free = 63;
    model->steps = 12;
}

static void make_board(struct peer *peer)
{
    uint64_t bytes = layout_pages(sizeof(struct board));
    if (peer->fault == PEER_SMALL_BOARD)
        bytes = LAYOUT_PAGE_BYTES;
    if (peer->fault == PEER_LARGE_BOARD)
        bytes = 2 << 20;
    make_region(&peer->board_region, "peer-board", bytes, peer->fault != PEER_UNSEALED_BOARD);
    if (peer->fault == PEER_SMALL_BOARD)
        return;
    struct board *board = (void *)peer->board_region.base;
    peer->board = board;
    board->magic = peer->fault == PEER_BOARD_MAGIC ? 1 : BOARD_MAGIC;
    board->version = BOARD_VERSION;
    board->bytes = peer->fault == PEER_BOARD_BYTES ? 16 : sizeof(struct board);
    board->daemon_pid = (uint32_t)getpid();
    strcpy(board->instance, "peer");
    strcpy(board->daemon_version, "0.1.0");
    strcpy(board->backend, "none");
    board->start_ns = 5;
    board->state = BOARD_SERVING;
    board->sessions = 1;
    board->requests_total = 7;
    describe_model(&board->models[0], "echo");
    describe_model(&board->models[1], "other-model");
    board->models[1].vocab_size = 300;
    board->model_count = peer->fault == PEER_BOARD_MODELS ? BOARD_MODELS_MAX + 1 : 2;
}

static void choose_geometry(struct peer *peer)
{
    peer->geometry = peer->hello.geometry;
    if (peer->max_requests)
        peer->geometry.max_requests = peer->max_requests;
    peer->geometry.stagger = 5;
    if (peer->fault == PEER_INVALID_GEOMETRY)
        peer->geometry.event_slots = 3;
    if (peer->fault == PEER_HUGE_GEOMETRY)
        peer->geometry.output_bytes = GEOMETRY_OUTPUT_BYTES_MAX;
    if (peer->fault == PEER_HUGE_ARENA)
        peer->geometry.arena_bytes = GEOMETRY_ARENA_BYTES_MAX;
}

static void make_halves(struct peer *peer)
{
    struct geometry real = peer->geometry;
    real.event_slots = peer->fault == PEER_INVALID_GEOMETRY ? 64 : real.event_slots;
    real.output_bytes = peer->fault == PEER_HUGE_GEOMETRY ? 0 : real.output_bytes;
    uint64_t bytes = daemon_half_bytes(&real);
    if (peer->fault == PEER_WRONG_SIZE_HALF)
        bytes += LAYOUT_PAGE_BYTES;
    make_region(&peer->daemon_half, "peer-half", bytes, peer->fault != PEER_UNSEALED_HALF);
    peer->words = (void *)(peer->daemon_half.base + daemon_half_words(&real));
    peer->output = peer->daemon_half.base + daemon_half_arena(&real);
    ring_writer_init(&peer->events, peer->daemon_half.base + daemon_half_ring(&real),
                     real.event_slots, EVENT_SLOT_BYTES, NULL);
}

static uint32_t fds_to_send(enum peer_fault fault)
{
    switch (fault) {
    case PEER_NO_FDS:
        return 0;
    case PEER_TWO_FDS:
        return 2;
    case PEER_SURPLUS_FDS:
        return 4;
    case PEER_FLOOD_OF_FDS:
        return FLOOD_FDS;
    default:
        return MESSAGE_WELCOME_FDS;
    }
}

static void spoil_welcome(struct message_welcome *welcome, enum peer_fault fault)
{
    if (fault == PEER_WRONG_MAGIC)
        welcome->header.magic++;
    if (fault == PEER_WRONG_KIND)
        welcome->header.kind = MESSAGE_READY;
    if (fault == PEER_LYING_LENGTH)
        welcome->header.bytes--;
    if (fault == PEER_NEWER_MAJOR)
        welcome->major = LAYOUT_MAJOR + 1;
    if (fault == PEER_OLDER_MAJOR)
        welcome->major = LAYOUT_MAJOR - 1;
    if (fault == PEER_NEWER_MINOR)
        welcome->minor = LAYOUT_MINOR + 1;
    if (fault == PEER_FEATURES)
        welcome->features = 4;
}

static void send_welcome(struct peer *peer)
{
    struct {
        struct message_welcome welcome;
        uint8_t more[256];
    } packet = {.welcome = {.header = MESSAGE_INIT(MESSAGE_WELCOME, struct message_welcome),
                            .major = LAYOUT_MAJOR,
                            .minor = LAYOUT_MINOR,
                            .geometry = peer->geometry,
                            .session = 1,
                            .board_bytes = (uint32_t)peer->board_region.bytes}};
    size_t bytes = sizeof packet.welcome;
    spoil_welcome(&packet.welcome, peer->fault);
    if (peer->fault == PEER_SHORT_PACKET)
        packet.welcome.header.bytes = (uint16_t)(bytes = 40);
    if (peer->fault == PEER_TINY_PACKET)
        bytes = 5;
    if (peer->fault == PEER_LONG_PACKET)
        packet.welcome.header.bytes = (uint16_t)(bytes = sizeof packet);

    int fds[FLOOD_FDS] = {peer->daemon_half.fd, peer->board_region.fd, peer->doorbell_fd};
    for (int i = MESSAGE_WELCOME_FDS; i < FLOOD_FDS; i++)
        fds[i] = peer->doorbell_fd;
    if (peer->fault == PEER_SOCKET_AS_DOORBELL)
        fds[2] = peer->socket_fd;
    int file = peer->fault == PEER_FILE_AS_HALF ? open("/proc/self/exe", O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0)
        fds[0] = file;
    send_with_fds(peer->socket_fd, &packet, bytes, fds, fds_to_send(peer->fault));
    if (file >= 0)
        close(file);
}

/* ---- the talk -------------------------------------------------------------------------------- */

static void take_client_half(struct peer *peer, int fd)
{
    const char *why = NULL;
    int err = region_map_peer(&peer->client_half, fd, client_half_bytes(&peer->geometry), &why);
    if (err < 0) {
        fprintf(stderr, "peer: the client's half: %s\n", why ? why : strerror(-err));
        close(fd);
        return;
    }
    const uint8_t *base = peer->client_half.base;
    peer->client_words = (const void *)(base + client_half_words(&peer->geometry));
    peer->arena = base + client_half_arena(&peer->geometry);
    ring_reader_init(&peer->submissions, base + client_half_ring(&peer->geometry),
                     peer->geometry.submission_slots, SUBMISSION_SLOT_BYTES,
                     &peer->words->submission_cursor);
    peer->events.cursor = &peer->client_words->event_cursor;
    peer->is_ready = true;
}

static void send_ready(struct peer *peer)
{
    struct message_ready ready = {.header = MESSAGE_INIT(MESSAGE_READY, struct message_ready)};
    if (peer->fault == PEER_WRONG_READY)
        ready.header.kind = MESSAGE_WAKE;
    send_with_fds(peer->socket_fd, &ready, sizeof ready, &peer->doorbell_fd,
                  peer->fault == PEER_FDS_WITH_READY ? 1 : 0);
}

static void answer_hello(struct peer *peer)
{
    int fd;
    if (peer->fault == PEER_CLOSES_AT_ONCE)
        return;
    if (receive(peer->socket_fd, &peer->hello, sizeof peer->hello, &fd) == 0)
        return;
    if (peer->fault == PEER_CLOSES_AFTER_HELLO)
        return;
    if (peer->fault == PEER_REFUSES || peer->fault == PEER_REFUSES_WITHOUT_NUL)
        return send_error(peer, -EUSERS, "no session left");
    if (peer->fault == PEER_REFUSES_WITH_SUCCESS)
        return send_error(peer, 0, "all \033[31mfine\n");
    if (peer->fault == PEER_REFUSES_WITH_NONSENSE || peer->fault == PEER_REFUSES_BRIEFLY)
        return send_error(peer, -5000, "");
    if (peer->fault != PEER_SILENT) {
        choose_geometry(peer);
        make_board(peer);
        make_halves(peer);
        send_welcome(peer);
    }

    struct message_attach attach;
    if (receive(peer->socket_fd, &attach, sizeof attach, &fd) == 0)
        return;
    if (peer->fault == PEER_SILENT_AFTER_ATTACH && fd >= 0) {
        close(fd);
        fd = -1;
        receive(peer->socket_fd, &attach, sizeof attach, &fd); /* until the client has gone */
        return;
    }
    if (peer->fault == PEER_REFUSES_ATTACH)
        send_error(peer, -EPROTO, "not sealed");
    if (peer->fault == PEER_REFUSES_ATTACH || peer->fault == PEER_CLOSES_AFTER_ATTACH) {
        close(fd);
        return;
    }
    take_client_half(peer, fd);
    send_ready(peer);
}

static void *run(void *argument)
{
    struct peer *peer = argument;
    struct pollfd waiting[2] = {{.fd = peer->listen_fd, .events = POLLIN},
                                {.fd = peer->stop_fd, .events = POLLIN}};
    poll(waiting, 2, -1);
    if (!(waiting[0].revents & POLLIN))
        return NULL;
    peer->socket_fd = accept4(peer->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (peer->socket_fd < 0)
        return NULL;
    answer_hello(peer);
    if (!peer->is_ready)
        peer_die(peer);
    return NULL;
}

/* ---- for the test ---------------------------------------------------------------------------- */

static void start(struct peer *peer)
{
    test_folder(peer->folder);
    snprintf(peer->path, sizeof peer->path, "%s/socket", peer->folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_true(strlen(peer->path) < sizeof address.sun_path);
    memcpy(address.sun_path, peer->path, strlen(peer->path));

    peer->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(peer->listen_fd >= 0);
    assert_int_equal(bind(peer->listen_fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(peer->listen_fd, 4), 0);
    peer->stop_fd = eventfd(0, EFD_CLOEXEC);
    int blocking = peer->fault == PEER_BLOCKING_DOORBELL ? 0 : EFD_NONBLOCK;
    peer->doorbell_fd = eventfd(0, EFD_CLOEXEC | blocking);
    assert_true(peer->stop_fd >= 0 && peer->doorbell_fd >= 0);
    assert_int_equal(pthread_create(&peer->thread, NULL, run, peer), 0);
}

void peer_start(struct peer *peer, enum peer_fault fault)
{
    *peer = (struct peer){.fault = fault,
                          .socket_fd = -1,
                          .board_region = REGION_EMPTY,
                          .daemon_half = REGION_EMPTY,
                          .client_half = REGION_EMPTY};
    start(peer);
}

void peer_start_small(struct peer *peer, uint32_t max_requests)
{
    *peer = (struct peer){.max_requests = max_requests,
                          .socket_fd = -1,
                          .board_region = REGION_EMPTY,
                          .daemon_half = REGION_EMPTY,
                          .client_half = REGION_EMPTY};
    start(peer);
}

void peer_join(struct peer *peer)
{
    if (peer->is_joined)
        return;
    assert_int_equal(pthread_join(peer->thread, NULL), 0);
    peer->is_joined = true;
}

int peer_take(struct peer *peer, struct submission *ret_submission)
{
    int err = ring_pop(&peer->submissions, ret_submission);
    ring_return(&peer->submissions);
    return err;
}

void peer_send(struct peer *peer, const struct event *event)
{
    static const struct message_wake wake = {.header =
                                                 MESSAGE_INIT(MESSAGE_WAKE, struct message_wake)};
    uint32_t position = peer->events.tail;
    assert_int_equal(ring_push(&peer->events, event), 0);
    const uint8_t *slot = peer->events.slots + (size_t)(position & (peer->events.slot_count - 1)) *
                                                   peer->events.slot_bytes;
    switch (doorbell_sleeper(&peer->client_words->sleep, &peer->rung)) {
    case DOORBELL_NONE:
        break;
    case DOORBELL_FUTEX:
        doorbell_wake((const _Atomic uint32_t *)(const void *)slot);
        break;
    case DOORBELL_FD:
        send(peer->socket_fd, &wake, sizeof wake, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    }
}

void peer_accept(struct peer *peer, uint32_t request, uint32_t prompt_tokens)
{
    struct event event = {.kind = EVENT_ACCEPTED,
                          .request = request,
                          .accepted = {.taken_ns = 77, .prompt_tokens = prompt_tokens}};
    peer_send(peer, &event);
}

void peer_token(struct peer *peer, uint32_t request, uint32_t index, uint32_t id)
{
    struct event event = {.kind = EVENT_TOKENS,
                          .count = 1,
                          .request = request,
                          .index = index,
                          .tokens = {{.id = id, .logprob = -0.5f}}};
    peer_send(peer, &event);
}

void peer_done(struct peer *peer, uint32_t request, uint8_t reason, int error)
{
    struct event event = {.kind = EVENT_DONE,
                          .reason = reason,
                          .request = request,
                          .done = {.error = error, .generated_tokens = 3, .queued_us = 4}};
    peer_send(peer, &event);
}

bool peer_was_rung(struct peer *peer)
{
    uint64_t count;
    return read(peer->doorbell_fd, &count, sizeof count) == sizeof count;
}

void peer_live(struct peer *peer)
{
    atomic_store_explicit(&peer->board->heartbeat_ns, agl_now_ns(), memory_order_relaxed);
}

void peer_die(struct peer *peer)
{
    if (peer->socket_fd >= 0)
        close(peer->socket_fd);
    peer->socket_fd = -1;
}

void peer_stop(struct peer *peer)
{
    static const uint64_t one = 1;
    assert_int_equal(write(peer->stop_fd, &one, sizeof one), sizeof one);
    peer_join(peer);
    peer_die(peer);
    close(peer->listen_fd);
    close(peer->stop_fd);
    close(peer->doorbell_fd);
    region_fini(&peer->board_region);
    region_fini(&peer->daemon_half);
    region_fini(&peer->client_half);
    test_remove_folder(peer->folder);
}

int peer_shared_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    char line[512];
    int count = 0;
    while (fgets(line, sizeof line, maps))
        count += strstr(line, "/memfd:") != NULL;
    fclose(maps);
    return count;
}
