/*
 * What shm/ says today against version 1.0 as it was released, name by name: as long as
 * LAYOUT_MAJOR is 1, a peer of version 1.0 must find everything where it looks for it. What does
 * not hold stops the compiler with the name; what a compiler cannot compare is compared when this
 * runs.
 *
 * A minor version may give a reserved field a meaning and add constants, flags and kinds. Nothing
 * here has to change for that.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/message.h"
#include "shm/region.h"
#include "tests/abi/frozen/layout_1_0.h"
#include "tests/abi/frozen/message_1_0.h"
#include "tests/support/test.h"

/* ---- by the compiler ------------------------------------------------------------------------- */

/* What two scalars, or the elements of two arrays, have in common besides their size. */
#define TYPE_OF(x)                                                                               \
    _Generic((x), uint8_t : 1, uint16_t : 2, int32_t : 3, uint32_t : 4, uint64_t : 5, float : 6, \
             char * : 7, uint8_t * : 8, uint32_t * : 9, default : 0)
#define NOW(type, field) ((struct type *)0)->field
#define THEN(type, field) ((struct v1_0_##type *)0)->field

enum { IS_MAJOR_1 = (int)LAYOUT_MAJOR == (int)V1_0_LAYOUT_MAJOR };
#define IN_MAJOR_1(condition, text) static_assert(!IS_MAJOR_1 || (condition), text)

#define SAME_SIZE(type)                                           \
    IN_MAJOR_1(sizeof(struct type) == sizeof(struct v1_0_##type), \
               "struct " #type " has not the size that version 1.0 knows");
#define NO_SMALLER(type)                                          \
    IN_MAJOR_1(sizeof(struct type) >= sizeof(struct v1_0_##type), \
               "struct " #type " is smaller than version 1.0 knows it");
#define SAME_PLACE(type, field)                                            \
    offsetof(struct type, field) == offsetof(struct v1_0_##type, field) && \
        sizeof(NOW(type, field)) == sizeof(THEN(type, field)) &&           \
        TYPE_OF(NOW(type, field)) == TYPE_OF(THEN(type, field))
#define SAME_FIELD(type, field)         \
    IN_MAJOR_1(SAME_PLACE(type, field), \
               #type "." #field " has not the place, size and type that version 1.0 knows");
#define SAME_CONSTANT(name) \
    IN_MAJOR_1((int)name == (int)V1_0_##name, #name " has not the value that version 1.0 knows");

#define STRUCT(type) SAME_SIZE(type)
#define GROWING(type) NO_SMALLER(type)
#define FIELD(type, field) SAME_FIELD(type, field)
#define RESERVED(type, field)
#define CONSTANT(name) SAME_CONSTANT(name)
#include "tests/abi/frozen/names_1_0.inc"

IN_MAJOR_1(((int)V1_0_SUBMISSION_FLAGS_ALL & ~(int)SUBMISSION_FLAGS_ALL) == 0,
           "SUBMISSION_FLAGS_ALL lacks a flag of version 1.0");

/* What no major may change: by this two sides find out that their majors differ, and say so. */
#define FOR_EVER(condition, text) static_assert(condition, text " in every major")
#define FIELD_FOR_EVER(type, field) \
    FOR_EVER(SAME_PLACE(type, field), #type "." #field " must stay where version 1.0 has it")
FIELD_FOR_EVER(message_header, magic);
FIELD_FOR_EVER(message_header, kind);
FIELD_FOR_EVER(message_header, bytes);
FIELD_FOR_EVER(message_hello, header);
FIELD_FOR_EVER(message_hello, major);
FIELD_FOR_EVER(message_hello, minor);
FIELD_FOR_EVER(message_error, error);
FIELD_FOR_EVER(message_error, major);
FIELD_FOR_EVER(message_error, minor);
FIELD_FOR_EVER(message_error, text);
FIELD_FOR_EVER(board, magic);
FIELD_FOR_EVER(board, version);
FIELD_FOR_EVER(board, bytes);
FOR_EVER(sizeof(struct message_error) == sizeof(struct v1_0_message_error),
         "struct message_error must keep its size");
FOR_EVER((int)MESSAGE_MAGIC == (int)V1_0_MESSAGE_MAGIC, "MESSAGE_MAGIC must stay");
FOR_EVER((int)BOARD_MAGIC == (int)V1_0_BOARD_MAGIC, "BOARD_MAGIC must stay");
FOR_EVER((int)MESSAGE_HELLO == (int)V1_0_MESSAGE_HELLO, "MESSAGE_HELLO must stay");
FOR_EVER((int)MESSAGE_ERROR == (int)V1_0_MESSAGE_ERROR, "MESSAGE_ERROR must stay");

/* ---- when it runs ---------------------------------------------------------------------------- */

struct part {
    const char *type, *field; /* field NULL: the struct itself begins */
    size_t offset, bytes;
};

#define STRUCT(type) {#type, NULL, 0, sizeof(struct v1_0_##type)},
#define GROWING(type) STRUCT(type)
#define FIELD(type, field) \
    {#type, #field, offsetof(struct v1_0_##type, field), sizeof(THEN(type, field))},
#define RESERVED(type, field) FIELD(type, field)
#define CONSTANT(name)
static const struct part parts[] = {
#include "tests/abi/frozen/names_1_0.inc"
};
enum { PARTS = sizeof parts / sizeof *parts, LARGEST = sizeof(struct v1_0_board) };

static void the_list_leaves_no_byte_of_any_struct_out(void **state)
{
    static uint8_t is_listed[LARGEST];
    for (size_t i = 0; i < PARTS;) {
        const struct part *whole = &parts[i++];
        memset(is_listed, 0, sizeof is_listed);
        for (; i < PARTS && parts[i].field; i++)
            memset(is_listed + parts[i].offset, 1, parts[i].bytes);
        for (size_t at = 0; at < whole->bytes; at++)
            if (!is_listed[at])
                fail_msg("struct %s: byte %zu belongs to no listed field", whole->type, at);
    }
}

static struct v1_0_geometry as_1_0(const struct geometry *geometry)
{
    struct v1_0_geometry copy;
    static_assert(sizeof copy == sizeof *geometry, "the same fields, see above");
    memcpy(&copy, geometry, sizeof copy);
    return copy;
}

#define SAME_RESULT(formula, now, then)                                                     \
    do {                                                                                    \
        uint64_t is = (uint64_t)formula(now), was = (uint64_t)v1_0_##formula(then);         \
        if (is != was)                                                                      \
            fail_msg("%s of %u, %u, %u, %u, %u, %u is %llu, in version 1.0 %llu", #formula, \
                     (now)->submission_slots, (now)->event_slots, (now)->max_requests,      \
                     (now)->arena_bytes, (now)->output_bytes, (now)->stagger,               \
                     (unsigned long long)is, (unsigned long long)was);                      \
    } while (0)

static void compare_formulas(const struct geometry *geometry)
{
    const struct v1_0_geometry then = as_1_0(geometry);
    SAME_RESULT(geometry_is_valid, geometry, &then);
    SAME_RESULT(client_half_words, geometry, &then);
    SAME_RESULT(client_half_ring, geometry, &then);
    SAME_RESULT(client_half_arena, geometry, &then);
    SAME_RESULT(client_half_bytes, geometry, &then);
    SAME_RESULT(daemon_half_words, geometry, &then);
    SAME_RESULT(daemon_half_ring, geometry, &then);
    SAME_RESULT(daemon_half_arena, geometry, &then);
    SAME_RESULT(daemon_half_bytes, geometry, &then);
}

/* Valid ones, and those just beyond each limit. */
static const uint32_t slot_counts[] = {0, 4, 8, 16, 33, 64, 1024, 4096, 8192};
static const uint32_t request_counts[] = {0, 1, 2, 3, 16, 1024, 2048};
static const uint32_t sizes[] = {0, 1, 4095, 4096, 8192, 131072, 64 << 20, (64 << 20) + 4096};
static const uint32_t staggers[] = {0, 1, 31, 63, 64};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void compare_rings(uint32_t submission_slots, uint32_t event_slots, uint32_t max_requests)
{
    for (size_t i = 0; i < COUNT(sizes) * COUNT(sizes) * COUNT(staggers); i++) {
        const struct geometry geometry = {
            .submission_slots = submission_slots,
            .event_slots = event_slots,
            .max_requests = max_requests,
            .arena_bytes = sizes[i % COUNT(sizes)],
            .output_bytes = sizes[i / COUNT(sizes) % COUNT(sizes)],
            .stagger = staggers[i / COUNT(sizes) / COUNT(sizes)],
        };
        compare_formulas(&geometry);
    }
}

static void every_formula_gives_what_it_gave_in_1_0(void **state)
{
    if (!IS_MAJOR_1)
        test_skip("the layout is another one by now");
    for (size_t i = 0; i < COUNT(slot_counts); i++)
        for (size_t j = 0; j < COUNT(slot_counts); j++)
            for (size_t k = 0; k < COUNT(request_counts); k++)
                compare_rings(slot_counts[i], slot_counts[j], request_counts[k]);
}

static int make_1_0_region(int seals, uint64_t bytes)
{
    int fd = memfd_create("version-1.0", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(fallocate(fd, 0, 0, (off_t)bytes), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void the_seals_are_those_of_1_0(void **state)
{
    enum { BYTES = 3 * V1_0_LAYOUT_PAGE_BYTES };
    struct region ours, theirs;
    const char *why = NULL;
    if (!IS_MAJOR_1)
        test_skip("the layout is another one by now");
    assert_int_equal(region_create(&ours, "today", BYTES), 0);
    int seals = fcntl(ours.fd, F_GET_SEALS);
    if ((seals & V1_0_REGION_SEALS) != V1_0_REGION_SEALS)
        fail_msg("our seals are %#x, version 1.0 refuses less than %#x", (unsigned)seals,
                 (unsigned)V1_0_REGION_SEALS);
    region_fini(&ours);
    int err = region_map_peer(&theirs, make_1_0_region(V1_0_REGION_SEALS, BYTES), BYTES, &why);
    if (err < 0)
        fail_msg("what version 1.0 makes is refused: %s", why ? why : strerror(-err));
    region_fini(&theirs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_list_leaves_no_byte_of_any_struct_out),
        cmocka_unit_test(every_formula_gives_what_it_gave_in_1_0),
        cmocka_unit_test(the_seals_are_those_of_1_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
