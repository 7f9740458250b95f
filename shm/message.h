/*
 * The handshake on the control socket (SOCK_SEQPACKET), as fixed structs, one a packet:
 *
 *   client                              daemon
 *   MESSAGE_HELLO   what it wants  ->
 *                                  <-   MESSAGE_WELCOME  what it gets; with three descriptors:
 *                                       daemon half, board, doorbell (an eventfd to write 1 to)
 *   MESSAGE_ATTACH                 ->   with one descriptor: the client half, sealed
 *                                  <-   MESSAGE_READY
 *
 * At any point the daemon may answer MESSAGE_ERROR and close. After MESSAGE_READY the client sends
 * nothing more; the daemon sends MESSAGE_WAKE when a client sleeps on its descriptor. Closing the
 * socket ends the session.
 */
#ifndef AGL_SHM_MESSAGE_H
#define AGL_SHM_MESSAGE_H

#include "shm/layout.h"

enum { MESSAGE_MAGIC = 0x4d4c4741 /* "AGLM" */ };

enum message_kind {
    MESSAGE_HELLO = 1,
    MESSAGE_WELCOME = 2,
    MESSAGE_ATTACH = 3,
    MESSAGE_READY = 4,
    MESSAGE_ERROR = 5,
    MESSAGE_WAKE = 6,
};

enum { MESSAGE_WELCOME_FDS = 3, MESSAGE_ATTACH_FDS = 1 };

struct message_header {
    uint32_t magic; /* MESSAGE_MAGIC */
    uint16_t kind;  /* enum message_kind */
    uint16_t bytes; /* of the whole packet */
};

struct message_hello {
    struct message_header header;
    uint16_t major; /* LAYOUT_MAJOR, LAYOUT_MINOR of the client */
    uint16_t minor;
    uint32_t features;        /* none yet: 0 */
    struct geometry geometry; /* wished for; stagger is the daemon's choice: 0 */
    char name[32];            /* of the program, for the daemon's log; NUL-terminated */
    uint32_t reserved[4];
};
static_assert(sizeof(struct message_hello) == 88, "layout");

struct message_welcome {
    struct message_header header;
    uint16_t major; /* of the daemon */
    uint16_t minor; /* of the session: the smaller of both */
    uint32_t features;
    struct geometry geometry; /* granted; never more than was wished for, except up to a minimum */
    uint32_t session;         /* a number for logs */
    uint32_t board_bytes;
    uint32_t reserved[4];
};
static_assert(sizeof(struct message_welcome) == 64, "layout");

struct message_attach {
    struct message_header header;
    uint32_t reserved[2];
};
static_assert(sizeof(struct message_attach) == 16, "layout");

struct message_ready {
    struct message_header header;
    uint32_t reserved[2];
};
static_assert(sizeof(struct message_ready) == 16, "layout");

struct message_error {
    struct message_header header;
    int32_t error;  /* negative errno */
    uint16_t major; /* of the daemon */
    uint16_t minor;
    char text[112]; /* NUL-terminated, for people */
};
static_assert(sizeof(struct message_error) == 128, "layout");

struct message_wake {
    struct message_header header;
};
static_assert(sizeof(struct message_wake) == 8, "layout");

union message {
    struct message_header header;
    struct message_hello hello;
    struct message_welcome welcome;
    struct message_attach attach;
    struct message_ready ready;
    struct message_error error;
    struct message_wake wake;
};

#define MESSAGE_INIT(kind_, type)                                      \
    {                                                                  \
        .magic = MESSAGE_MAGIC, .kind = (kind_), .bytes = sizeof(type) \
    }

#endif
