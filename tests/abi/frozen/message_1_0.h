/*
 * Version 1.0 of the handshake, as it was released: what shm/message.h was then.
 *
 * Frozen, as layout_1_0.h is: this file is never edited.
 *
 *   client                              daemon
 *   MESSAGE_HELLO   what it wants  ->
 *                                  <-   MESSAGE_WELCOME  what it gets; with three descriptors:
 *                                       daemon half, board, doorbell (an eventfd to write 1 to)
 *   MESSAGE_ATTACH                 ->   with one descriptor: the client half, sealed
 *                                  <-   MESSAGE_READY
 */
#ifndef AGL_TESTS_ABI_FROZEN_MESSAGE_1_0_H
#define AGL_TESTS_ABI_FROZEN_MESSAGE_1_0_H

#include "layout_1_0.h"

enum { V1_0_MESSAGE_MAGIC = 0x4d4c4741 /* "AGLM" */ };

enum v1_0_message_kind {
    V1_0_MESSAGE_HELLO = 1,
    V1_0_MESSAGE_WELCOME = 2,
    V1_0_MESSAGE_ATTACH = 3,
    V1_0_MESSAGE_READY = 4,
    V1_0_MESSAGE_ERROR = 5,
    V1_0_MESSAGE_WAKE = 6,
};

enum { V1_0_MESSAGE_WELCOME_FDS = 3, V1_0_MESSAGE_ATTACH_FDS = 1 };

struct v1_0_message_header {
    uint32_t magic; /* MESSAGE_MAGIC */
    uint16_t kind;  /* enum message_kind */
    uint16_t bytes; /* of the whole packet */
};

struct v1_0_message_hello {
    struct v1_0_message_header header;
    uint16_t major; /* LAYOUT_MAJOR, LAYOUT_MINOR of the client */
    uint16_t minor;
    uint32_t features;             /* none yet: 0 */
    struct v1_0_geometry geometry; /* wished for; stagger is the daemon's choice: 0 */
    char name[32];                 /* of the program, for the daemon's log; NUL-terminated */
    uint32_t reserved[4];
};
static_assert(sizeof(struct v1_0_message_hello) == 88, "layout");

struct v1_0_message_welcome {
    struct v1_0_message_header header;
    uint16_t major; /* of the daemon */
    uint16_t minor; /* of the session: the smaller of both */
    uint32_t features;
    struct v1_0_geometry
        geometry;     /* granted; never more than was wished for, except up to a minimum */
    uint32_t session; /* a number for logs */
    uint32_t board_bytes;
    uint32_t reserved[4];
};
static_assert(sizeof(struct v1_0_message_welcome) == 64, "layout");

struct v1_0_message_attach {
    struct v1_0_message_header header;
    uint32_t reserved[2];
};
static_assert(sizeof(struct v1_0_message_attach) == 16, "layout");

struct v1_0_message_ready {
    struct v1_0_message_header header;
    uint32_t reserved[2];
};
static_assert(sizeof(struct v1_0_message_ready) == 16, "layout");

struct v1_0_message_error {
    struct v1_0_message_header header;
    int32_t error;  /* negative errno */
    uint16_t major; /* of the daemon */
    uint16_t minor;
    char text[112]; /* NUL-terminated, for people */
};
static_assert(sizeof(struct v1_0_message_error) == 128, "layout");

struct v1_0_message_wake {
    struct v1_0_message_header header;
};
static_assert(sizeof(struct v1_0_message_wake) == 8, "layout");

union v1_0_message {
    struct v1_0_message_header header;
    struct v1_0_message_hello hello;
    struct v1_0_message_welcome welcome;
    struct v1_0_message_attach attach;
    struct v1_0_message_ready ready;
    struct v1_0_message_error error;
    struct v1_0_message_wake wake;
};

#define V1_0_MESSAGE_INIT(kind_, type)                                      \
    {                                                                       \
        .magic = V1_0_MESSAGE_MAGIC, .kind = (kind_), .bytes = sizeof(type) \
    }

#endif
