/*
 * What autoglm.h and the shared library say today against release 0.1, name by name: a program that
 * was built then must run with every later library of the same SOVERSION. Linked with the shared
 * library; what does not hold stops the compiler or the linker with the name, and a symbol that has
 * left its version is found when this runs.
 */
#include <assert.h>
#include <autoglm.h>
#include <dlfcn.h>

#include "tests/support/test.h"

#if UINTPTR_MAX == UINT64_MAX /* the record is of 64-bit machines */
#define STRUCT(type, bytes) \
    static_assert(sizeof(struct type) == (bytes), "struct " #type " has not its size of 0.1");
#define GROWING(type, bytes) \
    static_assert(sizeof(struct type) >= (bytes), "struct " #type " is smaller than in 0.1");
#define FIELD(type, field, offset, bytes)                           \
    static_assert(offsetof(struct type, field) == (offset) &&       \
                      sizeof(((struct type *)0)->field) == (bytes), \
                  #type "." #field " has not the place and size of 0.1");
#define RESERVED(type, field, offset, bytes)
#else
#define STRUCT(type, bytes)
#define GROWING(type, bytes)
#define FIELD(type, field, offset, bytes)
#define RESERVED(type, field, offset, bytes)
#endif
#define CONSTANT(name, value) static_assert(name == (value), #name " has not its value of 0.1");
#define FUNCTION(returned, name, taken)                                           \
    static_assert(__builtin_types_compatible_p(__typeof__(name), returned taken), \
                  #name "() is not what it was in 0.1");
#include "tests/abi/frozen/autoglm_0_1.inc"

/* The addresses make the loader find each function, and the linker before. */
static const struct {
    const char *name;
    void (*function)(void);
} functions[] = {
#define STRUCT(type, bytes)
#define GROWING(type, bytes)
#define FIELD(type, field, offset, bytes)
#define RESERVED(type, field, offset, bytes)
#define CONSTANT(name, value)
#define FUNCTION(returned, name, taken) {#name, (void (*)(void))name},
#include "tests/abi/frozen/autoglm_0_1.inc"
};

static void every_function_of_0_1_is_exported_in_its_version(void **state)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!dlvsym(RTLD_DEFAULT, functions[i].name, "AUTOGLM_0.1"))
            fail_msg("%s@AUTOGLM_0.1 is not exported", functions[i].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_function_of_0_1_is_exported_in_its_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
