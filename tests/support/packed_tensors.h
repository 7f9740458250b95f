/*
 * Packed tensors of a model whose file was filled with test_tensor_byte(), held against what each
 * row's bytes must become.
 */
#ifndef AGL_TESTS_SUPPORT_PACKED_TENSORS_H
#define AGL_TESTS_SUPPORT_PACKED_TENSORS_H

#include <stdint.h>

#include "formats/gguf.h"
#include "kernels/quant.h"

/* The tensor is rows [first_row, ...) of the file's tensor of that name and type, packed as
 * `packed`. Allocates nothing. */
void test_check_packed(const struct tensor *tensor, enum tensor_type packed, const char *name,
                       enum gguf_type type, uint32_t first_row);

#endif
