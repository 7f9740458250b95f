#include "tests/support/stranger.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* ---- packets --------------------------------------------------------------------------------- */

struct message_hello stranger_hello(const char *name)
{
    struct message_hello hello = {
        .header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello),
        .major = LAYOUT_MAJOR,
        .minor = LAYOUT_MINOR,
        .geometry = {.submission_slots = 16,
                     .event_slots = 64,
                     .max_requests = 16,
                     .arena_bytes = 8192},
    };
    memcpy(hello.name, name, strnlen(name, sizeof hello.name - 1));
    return hello;
}

struct message_attach stranger_attach(void)
{
    return (struct message_attach){.header = MESSAGE_INIT(MESSAGE_ATTACH, struct message_attach)};
}

int stranger_connect(struct stranger *ret_stranger, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    *ret_stranger = (struct stranger){
        .socket_fd = -1, .daemon_fd = -1, .board_fd = -1, .doorbell_fd = -1, .half = REGION_EMPTY};
    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    ret_stranger->socket_fd = fd;
    return 0;
}

ssize_t stranger_send(int socket_fd, const void *packet, size_t bytes, const int *fds,
                      uint32_t fd_count)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE((STRANGER_FDS_MAX + 1) * sizeof(int))];
    } control = {.room = {0}};
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
    ssize_t sent = sendmsg(socket_fd, &message, MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

int stranger_receive(int socket_fd, struct stranger_answer *ret_answer, int timeout_ms)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(MESSAGE_WELCOME_FDS * sizeof(int))];
    } control;
    struct stranger_answer answer = {.bytes = 0};
    struct iovec part = {.iov_base = &answer.message, .iov_len = sizeof answer.message};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    struct pollfd waiting = {.fd = socket_fd, .events = POLLIN};
    int ready = poll(&waiting, 1, timeout_ms);
    if (ready <= 0)
        return ready < 0 ? -errno : -ETIMEDOUT;
    ssize_t got = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno != ECONNRESET)
        return -errno;
    answer.bytes = got < 0 ? 0 : (size_t)got;
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
        answer.fd_count = (uint32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(answer.fds, CMSG_DATA(header), answer.fd_count * sizeof(int));
    }
    *ret_answer = answer;
    return 0;
}

/* ---- the handshake --------------------------------------------------------------------------- */

/* The answer of that kind, or the daemon's error. */
static int expect(int socket_fd, enum message_kind kind, struct stranger_answer *ret_answer,
                  struct message_error *ret_refusal)
{
    int err = stranger_receive(socket_fd, ret_answer, STRANGER_PATIENCE_MS);
    if (err < 0)
        return err;
    if (ret_answer->bytes == 0)
        return -EPIPE;
    const struct message_error *refusal = &ret_answer->message.error;
    if (refusal->header.kind == MESSAGE_ERROR) {
        if (ret_refusal)
            *ret_refusal = *refusal;
        return refusal->error < 0 ? refusal->error : -EPROTO;
    }
    return refusal->header.kind == kind ? 0 : -EPROTO;
}

int stranger_enter_hall(struct stranger *stranger, const struct message_hello *hello,
                        struct message_error *ret_refusal)
{
    struct stranger_answer answer;
    ssize_t sent = stranger_send(stranger->socket_fd, hello, sizeof *hello, NULL, 0);
    if (sent < 0 && sent != -EPIPE) /* a refusal may have come before: it says why */
        return (int)sent;
    int err = expect(stranger->socket_fd, MESSAGE_WELCOME, &answer, ret_refusal);
    if (err < 0)
        return err;
    if (answer.fd_count != MESSAGE_WELCOME_FDS)
        return -EPROTO;
    stranger->daemon_fd = answer.fds[0];
    stranger->board_fd = answer.fds[1];
    stranger->doorbell_fd = answer.fds[2];
    stranger->geometry = answer.message.welcome.geometry;
    stranger->session = answer.message.welcome.session;
    stranger->board_bytes = answer.message.welcome.board_bytes;
    return 0;
}

void stranger_place(struct stranger *stranger)
{
    const struct geometry *geometry = &stranger->geometry;
    uint8_t *ours = stranger->half.base;
    const uint8_t *theirs = stranger->daemon_half;
    stranger->words = (void *)(ours + client_half_words(geometry));
    stranger->arena = (void *)(ours + client_half_arena(geometry));
    stranger->daemon_words = (const void *)(theirs + daemon_half_words(geometry));
    ring_writer_init(&stranger->submissions, ours + client_half_ring(geometry),
                     geometry->submission_slots, SUBMISSION_SLOT_BYTES,
                     &stranger->daemon_words->submission_cursor);
    ring_reader_init(&stranger->events, theirs + daemon_half_ring(geometry), geometry->event_slots,
                     EVENT_SLOT_BYTES, &stranger->words->event_cursor);
    stranger->rung = 0;
}

int stranger_attach_half(struct stranger *stranger, struct message_error *ret_refusal)
{
    const struct geometry *geometry = &stranger->geometry;
    const struct message_attach attach = stranger_attach();
    struct stranger_answer answer;
    void *theirs =
        mmap(NULL, daemon_half_bytes(geometry), PROT_READ, MAP_SHARED, stranger->daemon_fd, 0);
    if (theirs == MAP_FAILED)
        return -errno;
    stranger->daemon_half = theirs;
    int err = region_create(&stranger->half, "stranger", client_half_bytes(geometry));
    if (err < 0)
        return err;
    stranger_place(stranger);
    ssize_t sent =
        stranger_send(stranger->socket_fd, &attach, sizeof attach, &stranger->half.fd, 1);
    if (sent < 0 && sent != -EPIPE)
        return (int)sent;
    return expect(stranger->socket_fd, MESSAGE_READY, &answer, ret_refusal);
}

int stranger_enter(struct stranger *stranger, const struct message_hello *hello)
{
    int err = stranger_enter_hall(stranger, hello, NULL);
    return err < 0 ? err : stranger_attach_half(stranger, NULL);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void stranger_leave(struct stranger *stranger)
{
    if (stranger->daemon_half)
        munmap((void *)(uintptr_t)stranger->daemon_half, daemon_half_bytes(&stranger->geometry));
    stranger->daemon_half = NULL;
    region_fini(&stranger->half);
    close_fd(&stranger->socket_fd);
    close_fd(&stranger->daemon_fd);
    close_fd(&stranger->board_fd);
    close_fd(&stranger->doorbell_fd);
}

/* ---- the session ----------------------------------------------------------------------------- */

int stranger_submit(struct stranger *stranger, const struct submission *submission)
{
    static const uint64_t one = 1;
    int err = ring_push(&stranger->submissions, submission);
    if (err == 0 && doorbell_sleeper(&stranger->daemon_words->sleep, &stranger->rung))
        (void)!write(stranger->doorbell_fd, &one, sizeof one);
    return err;
}

int stranger_wait(struct stranger *stranger, struct event *ret_event, int timeout_ms)
{
    for (int waited_us = 0; ring_pop(&stranger->events, ret_event) < 0; waited_us += 100) {
        if (waited_us / 1000 >= timeout_ms)
            return -ETIMEDOUT;
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    ring_return(&stranger->events);
    return 0;
}

struct submission stranger_request(struct stranger *stranger, uint32_t id, uint32_t tokens,
                                   uint32_t max_tokens)
{
    for (uint32_t i = 0; i < tokens; i++)
        stranger->arena[i] = i + 1;
    return (struct submission){.op = SUBMISSION_GENERATE,
                               .priority = PRIORITY_NORMAL,
                               .request = id,
                               .prompt_tokens = tokens,
                               .max_tokens = max_tokens,
                               .top_p = 1};
}
