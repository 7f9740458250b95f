/*
 * The entry of every harness in this folder, by the name that libFuzzer calls.
 */
#ifndef AGL_TESTS_FUZZ_FUZZ_H
#define AGL_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Feeds the bytes to the parser; a crash or a failed assertion is a find. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
