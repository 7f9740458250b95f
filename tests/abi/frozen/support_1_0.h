/*
 * What the client and the daemon of version 1.0 have in common: packets with descriptors, sealed
 * memory, sleep words, and the way in which they fail. Frozen, as layout_1_0.h is.
 */
#ifndef AGL_TESTS_ABI_FROZEN_SUPPORT_1_0_H
#define AGL_TESTS_ABI_FROZEN_SUPPORT_1_0_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "layout_1_0.h"
#include "message_1_0.h"

enum { EXIT_REFUSED = 3, PATIENCE_MS = 20000, PACKET_FDS = 8 };

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static void expect(const char *what, uint64_t is, uint64_t must_be)
{
    if (is != must_be)
        fail("%s: is %llu, must be %llu", what, (unsigned long long)is,
             (unsigned long long)must_be);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- packets --------------------------------------------------------------------------------- */

static void send_packet(int socket_fd, const void *packet, size_t bytes, const int *fds,
                        size_t fd_count)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(PACKET_FDS * sizeof *fds)] = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)packet, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof *fds);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(fd_count * sizeof *fds),
                                   .cmsg_level = SOL_SOCKET,
                                   .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(header), fds, fd_count * sizeof *fds);
    }
    if (sendmsg(socket_fd, &message, MSG_NOSIGNAL) != (ssize_t)bytes)
        fail("cannot send: %s", strerror(errno));
}

/* A refusal ends the program. */
static void end_if_refused(const union v1_0_message *message, size_t bytes)
{
    if (message->header.kind != V1_0_MESSAGE_ERROR)
        return;
    expect("size of a refusal", bytes, sizeof message->error);
    expect("NUL behind a refusal's text", (uint8_t)message->error.text[111], 0);
    printf("refused with %d by a daemon of version %u.%u: %s\n", message->error.error,
           message->error.major, message->error.minor, message->error.text);
    exit(EXIT_REFUSED);
}

/* Receives the packet of that kind and size, with so many descriptors. */
static void receive_packet(int socket_fd, union v1_0_message *ret_message,
                           enum v1_0_message_kind kind, size_t bytes, int *ret_fds, size_t fd_count)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(PACKET_FDS * sizeof *ret_fds)];
    struct iovec part = {.iov_base = ret_message, .iov_len = sizeof *ret_message};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct pollfd entry = {.fd = socket_fd, .events = POLLIN};
    if (poll(&entry, 1, PATIENCE_MS) != 1)
        fail("message %d does not come", kind);
    ssize_t got = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
    if (got < (ssize_t)sizeof ret_message->header)
        fail("message %d does not come: %s", kind, got < 0 ? strerror(errno) : "the end does");
    expect("magic number of a message", ret_message->header.magic, V1_0_MESSAGE_MAGIC);
    end_if_refused(ret_message, (size_t)got);
    expect("kind of a message", ret_message->header.kind, kind);
    expect("size of a message", (uint64_t)got, bytes);
    expect("size in its header", ret_message->header.bytes, bytes);
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    expect("descriptors with a message",
           header ? (header->cmsg_len - CMSG_LEN(0)) / sizeof *ret_fds : 0, fd_count);
    if (fd_count)
        memcpy(ret_fds, CMSG_DATA(header), fd_count * sizeof *ret_fds);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* What the other side made, mapped read-only; takes the descriptor. */
static const uint8_t *map_theirs(int fd, uint64_t bytes)
{
    struct stat status;
    expect("seals of a region", (uint64_t)fcntl(fd, F_GET_SEALS) & V1_0_REGION_SEALS,
           V1_0_REGION_SEALS);
    if (fstat(fd, &status) < 0)
        fail("fstat: %s", strerror(errno));
    expect("size of a region", (uint64_t)status.st_size, bytes);
    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    close(fd);
    return base;
}

/* Zeroed memory of our own: allocated, mapped for writing, then sealed. */
static uint8_t *make_ours(uint64_t bytes, int *ret_fd)
{
    int fd = memfd_create("version-1.0", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || fallocate(fd, 0, 0, (off_t)bytes) < 0)
        fail("memfd: %s", strerror(errno));
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED || fcntl(fd, F_ADD_SEALS, V1_0_REGION_SEALS) < 0)
        fail("mapping and seals: %s", strerror(errno));
    *ret_fd = fd;
    return base;
}

/* ---- sleep words ----------------------------------------------------------------------------- */

static void announce(uint32_t *word, enum v1_0_doorbell_how how)
{
    uint32_t count = *word & ~(uint32_t)V1_0_DOORBELL_HOW_MASK;
    __atomic_store_n(word, (count + V1_0_DOORBELL_COUNT_STEP) | (uint32_t)how, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void take_announcement_back(uint32_t *word)
{
    __atomic_store_n(word, *word & ~(uint32_t)V1_0_DOORBELL_HOW_MASK, __ATOMIC_RELAXED);
}

/* How the other side wants to be woken; by descriptor once a sleep. */
static uint32_t sleeper(const uint32_t *word, uint32_t *rung)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint32_t value = __atomic_load_n(word, __ATOMIC_RELAXED);
    uint32_t how = value & V1_0_DOORBELL_HOW_MASK;
    if (how == V1_0_DOORBELL_FD && value == *rung)
        return V1_0_DOORBELL_NONE;
    if (how == V1_0_DOORBELL_FD)
        *rung = value;
    return how;
}

#endif
