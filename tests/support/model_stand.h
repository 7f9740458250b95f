/*
 * What tests of the loader stand on: a folder for a model's files, and a backend to load it into.
 */
#ifndef AGL_TESTS_SUPPORT_MODEL_STAND_H
#define AGL_TESTS_SUPPORT_MODEL_STAND_H

#include "kernels/backend.h"

struct model_stand {
    char folder[4096];
    struct backend *backend;
};

/* Fails the test if it cannot. */
void model_stand_open(struct model_stand *stand, uint32_t threads);

/* Removes the folder, too. */
void model_stand_close(struct model_stand *stand);

/* For cmocka: a stand with one thread is the state. */
int model_stand_set_up(void **state);
int model_stand_tear_down(void **state);

#endif
