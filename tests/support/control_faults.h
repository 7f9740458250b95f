/*
 * Allocations and system calls of the control side that fail when a test says so, and closes that
 * take as long as it likes; around the rig of control_stand.h. A program with it wraps what
 * tests/fault/CMakeLists.txt names.
 */
#ifndef AGL_TESTS_SUPPORT_CONTROL_FAULTS_H
#define AGL_TESTS_SUPPORT_CONTROL_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/loop.h"

enum { FAULTS_NAMED_MAX = 2, FAULTS_CLOSES_MAX = 4 };

struct faults {
    bool is_armed;       /* only while the daemon runs, not while the client does */
    unsigned calls_left; /* until the one that fails, whichever it is; 0: none does */
    int error;           /* its errno; 0: the one that suits the call */
    const char *failed;  /* its name; NULL: none yet */

    struct {
        const char *call; /* of faults_fail() */
        unsigned calls_left;
        int error;
    } named[FAULTS_NAMED_MAX];

    /* Each of these calls fails so, as long as it is not 0. */
    int peerpidfd_errno, pidfd_open_errno;

    bool is_peer_hidden; /* it lives in a process namespace that we cannot see */
    unsigned uid_shift;  /* the peer's user is another one by so much */
    bool is_flooded;     /* there is always one more packet without descriptors */

    struct loop_op **kept_poll; /* where the next loop_poll() goes instead of to the kernel */

    bool are_closes_refused; /* there is no room for loop_close_fd() */
    bool are_closes_slow;    /* it waits for faults_end_close() */
    struct {
        struct loop_op *op;
        int fd;
    } closes[FAULTS_CLOSES_MAX];
    uint32_t close_count; /* begun so */
};

extern struct faults faults;

/* cmocka's: control_setup(), and nothing fails. */
int faults_setup(void **state);

/* The nth call of that name from now on fails, while they are armed. */
void faults_fail(const char *call, unsigned nth, int error);
/* Turns with the faults armed until all of those have failed; fails the test after seconds. */
void faults_until_done(void);

/* Turns the rig's control a dozen times with the faults armed; it may stop if something failed that
 * it lives by. */
void faults_turn(void);

/* Ends a close that was slow. */
void faults_end_close(uint32_t index);

#endif
