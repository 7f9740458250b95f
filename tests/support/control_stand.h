/*
 * A rig for one test of the control thread, and what was there before its clients came.
 */
#ifndef AGL_TESTS_SUPPORT_CONTROL_STAND_H
#define AGL_TESTS_SUPPORT_CONTROL_STAND_H

#include <sys/resource.h>

#include "tests/support/control_rig.h"

extern struct rig rig;
extern int descriptors; /* open ones after control_begin() */
extern struct rlimit descriptor_limit;

/* cmocka's, around each test; in between the test may change rig.config. */
int control_setup(void **state);
int control_teardown(void **state);

void control_begin(void);

/* Nobody is there any more, and nothing is left of anybody. */
void control_nothing_left(void);

/* What comes instead of a client half. */
enum half_kind {
    HALF_RIGHT,
    HALF_UNSEALED,
    HALF_HALF_SEALED,
    HALF_TOO_SMALL,
    HALF_TOO_LARGE,
    HALF_FILE,
    HALF_PIPE,
    HALF_SOCKET
};

/* The descriptor of a half of that kind; the caller closes it. */
int control_make_half(enum half_kind kind, uint64_t bytes);

#endif
