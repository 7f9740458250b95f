/*
 * A real daemon, a good client that it goes on serving, and what the daemon counts and writes into
 * its log about the others.
 */
#ifndef AGL_TESTS_INTEGRATION_SCENE_H
#define AGL_TESTS_INTEGRATION_SCENE_H

#include "tests/integration/daemon.h"
#include "tests/support/stranger.h"

struct scene {
    struct daemon daemon;
    struct agl_client *good;
    int descriptors; /* of the daemon, at the begin: these three may not grow */
    uint64_t memfd_bytes;
    uint64_t shared_bytes;
    size_t log_seen;        /* bytes */
    struct agl_status seen; /* counters */
    uint64_t refused_ns;    /* when the last refusal was expected */
};

/* Starts autoglmd with these flags and lets the good client in. */
void scene_open(struct scene *ret_scene, const char *const *flags);

/* Expects that the good client is served, that everybody else is gone and that nothing of them is
 * left; then that the daemon stops well. */
void scene_close(struct scene *scene);

/* A request of the good client is answered rightly. */
void scene_expect_served(struct scene *scene);

/* Fails the test unless the stranger connects. */
void scene_connect(const struct scene *scene, struct stranger *ret_stranger);

/* Expects a refusal with that error whose text contains `text`, and the end of the connection; that
 * the counters went up by one; and that the log has exactly one line of it, with `name` and `text`.
 * Takes a tenth of a second, so that the limit of the log's lines is never reached. */
void scene_expect_refused(struct scene *scene, int socket_fd, const char *name, int error,
                          const char *text);

/* Waits until so many handshakes were refused since the last time. */
void scene_wait_refused(struct scene *scene, uint64_t refused);

/* Waits until so many handshakes were refused since the last time, and expects no more, so many of
 * them for breaking the contract; and as many in the log, line by line or as "N more".
 * Provokes one more refusal for the latter. */
void scene_expect_counted(struct scene *scene, uint64_t refused, uint64_t broken);

/* The lines of the log since the last time that contain `text`. */
uint32_t scene_log_lines(struct scene *scene, const char *text);

#endif
