#include "tests/support/control_rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/loop.h"
#include "shm/region.h"
#include "tests/support/test.h"

static const uint64_t patience_ns = 30000000000;
static const uint64_t turn_ns = 1000000;

void rig_init(struct rig *rig)
{
    static unsigned number;
    memset(rig, 0, sizeof *rig);
    log_init(LOG_LEVEL_ERROR);
    test_folder(rig->folder);
    config_defaults(&rig->config);
    snprintf(rig->config.socket_path, sizeof rig->config.socket_path, "%.90s/socket", rig->folder);
    snprintf(rig->config.instance, sizeof rig->config.instance, "test-%d-%u", (int)getpid(),
             number++);
    rig->config.handshake_ns = 3000000000;
    rig->config.drain_ns = 50000000;
    assert_int_equal(board_open(&rig->board, rig->config.instance, NULL), 0);
    fake_engine_init(&rig->engine);
    assert_int_equal(pipe(rig->signal_pipe), 0);
}

void rig_open(struct rig *rig)
{
    struct failure failure = {""};
    if (access_open(&rig->access, &rig->config, &failure) < 0)
        fail_msg("%s", failure.text);
    struct control_options options = {.config = &rig->config,
                                      .access = &rig->access,
                                      .engine = &rig->engine,
                                      .board = &rig->board,
                                      .signal_fd = rig->signal_pipe[0]};
    if (control_open(&rig->control, &options, &failure) < 0)
        fail_msg("%s", failure.text);
}

void rig_fini(struct rig *rig)
{
    control_close(rig->control);
    board_close(&rig->board);
    fake_engine_fini(&rig->engine);
    close(rig->signal_pipe[0]);
    close(rig->signal_pipe[1]);
    test_remove_folder(rig->folder);
}

int rig_turn(struct rig *rig)
{
    return control_turn(rig->control, turn_ns);
}

void rig_until_sessions(struct rig *rig, uint32_t count)
{
    uint64_t end_ns = loop_now_ns() + patience_ns;
    while (rig->engine.session_count != count) {
        if (loop_now_ns() > end_ns)
            fail_msg("the engine has %u sessions, not %u", rig->engine.session_count, count);
        rig_turn(rig);
    }
}

void rig_until_descriptors(struct rig *rig, int count)
{
    uint64_t end_ns = loop_now_ns() + patience_ns;
    while (test_open_descriptors() != count) {
        if (loop_now_ns() > end_ns)
            fail_msg("%d descriptors are open, not %d", test_open_descriptors(), count);
        rig_turn(rig);
    }
}

void rig_signal(struct rig *rig, int number)
{
    struct signalfd_siginfo info = {.ssi_signo = (uint32_t)number};
    assert_int_equal(write(rig->signal_pipe[1], &info, sizeof info), sizeof info);
}

int rig_connect(const struct rig *rig)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, rig->config.socket_path, sizeof rig->config.socket_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail_msg("connect: %s", strerror(errno));
    return fd;
}

struct message_hello rig_hello(void)
{
    return (struct message_hello){
        .header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello),
        .major = LAYOUT_MAJOR,
        .minor = LAYOUT_MINOR,
        .geometry = {.submission_slots = 16,
                     .event_slots = 64,
                     .max_requests = 16,
                     .arena_bytes = 8192},
        .name = "tester",
    };
}

struct message_attach rig_attach(void)
{
    return (struct message_attach){.header = MESSAGE_INIT(MESSAGE_ATTACH, struct message_attach)};
}

ssize_t rig_send(int fd, const void *bytes, size_t count, const int *fds, uint32_t fd_count)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(RIG_FDS_MAX * sizeof(int))] = {0};
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, fd_count * sizeof(int));
    }
    ssize_t sent = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? -errno : sent;
}

static ssize_t receive_now(int fd, struct answer *answer)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(RIG_FDS_MAX * sizeof(int))];
    struct iovec part = {.iov_base = &answer->message, .iov_len = sizeof answer->message};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control,
                            .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return -errno;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&header); at; at = CMSG_NXTHDR(&header, at)) {
        answer->fd_count = (uint32_t)((at->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(answer->fds, CMSG_DATA(at), answer->fd_count * sizeof(int));
    }
    return got;
}

void rig_receive(struct rig *rig, int fd, struct answer *ret_answer)
{
    uint64_t end_ns = loop_now_ns() + patience_ns;
    memset(ret_answer, 0, sizeof *ret_answer);
    while ((ret_answer->bytes = receive_now(fd, ret_answer)) == -EAGAIN) {
        if (loop_now_ns() > end_ns)
            fail_msg("no answer came");
        rig_turn(rig);
    }
}

void rig_close_fds(struct answer *answer)
{
    for (uint32_t i = 0; i < answer->fd_count; i++)
        close(answer->fds[i]);
    answer->fd_count = 0;
}

void rig_expect_error(struct rig *rig, int fd, int error, const char *text)
{
    struct answer answer;
    rig_receive(rig, fd, &answer);
    if (answer.bytes != sizeof answer.message.error || answer.message.header.kind != MESSAGE_ERROR)
        fail_msg("expected a refusal (\"%s\"), got %zd bytes, kind %u", text, answer.bytes,
                 answer.message.header.kind);
    assert_int_equal(answer.message.header.magic, MESSAGE_MAGIC);
    assert_int_equal(answer.message.header.bytes, sizeof answer.message.error);
    assert_int_equal(answer.message.error.major, LAYOUT_MAJOR);
    if (!strstr(answer.message.error.text, text))
        fail_msg("the refusal says \"%s\", not \"%s\"", answer.message.error.text, text);
    assert_int_equal(answer.message.error.error, error);
    rig_receive(rig, fd, &answer);
    if (answer.bytes != -ECONNRESET) /* what it sent may be left unread */
        assert_int_equal(answer.bytes, 0);
}

struct geometry rig_enter_hall(struct rig *rig, int fd)
{
    struct answer answer;
    struct message_hello hello = rig_hello();
    assert_int_equal(rig_send(fd, &hello, sizeof hello, NULL, 0), sizeof hello);
    rig_receive(rig, fd, &answer);
    if (answer.message.header.kind == MESSAGE_ERROR)
        fail_msg("refused: %s", answer.message.error.text);
    assert_int_equal(answer.message.header.kind, MESSAGE_WELCOME);
    assert_int_equal(answer.fd_count, MESSAGE_WELCOME_FDS);
    rig_close_fds(&answer);
    return answer.message.welcome.geometry;
}

void rig_enter(struct rig *rig, int fd)
{
    struct answer answer;
    struct region half;
    struct message_attach attach = rig_attach();
    struct geometry geometry = rig_enter_hall(rig, fd);
    assert_int_equal(region_create(&half, "test-client", client_half_bytes(&geometry)), 0);
    assert_int_equal(rig_send(fd, &attach, sizeof attach, &half.fd, 1), sizeof attach);
    region_fini(&half);
    rig_receive(rig, fd, &answer);
    if (answer.message.header.kind == MESSAGE_ERROR)
        fail_msg("refused: %s", answer.message.error.text);
    assert_int_equal(answer.message.header.kind, MESSAGE_READY);
}

int rig_mappings(void)
{
    char line[4096];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps))
        count += strstr(line, "memfd:") != NULL;
    fclose(maps);
    return count;
}
