#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "autoglm.h"
#include "client/error.h"
#include "tests/support/test.h"

static void every_error_has_a_sentence(void **state)
{
    for (int error = -200; error <= 200; error++)
        assert_true(strlen(agl_strerror(error)) > 0);
    assert_string_equal(agl_strerror(-EPIPE), "The daemon is gone");
    assert_string_equal(agl_strerror(-ESHUTDOWN), "The daemon stops");
    assert_string_equal(agl_strerror(EPIPE), agl_strerror(-EPIPE));
    assert_string_equal(agl_strerror(-99999), "Unknown error");
    assert_true(strlen(agl_strerror(INT_MIN)) > 0);
}

static void error_set_keeps_the_detail_and_returns_the_error(void **state)
{
    assert_int_equal(error_set(-EINVAL, "field %s is %d", "x", 7), -EINVAL);
    assert_string_equal(agl_error_detail(), "field x is 7");
    assert_int_equal(error_set(-EIO, "around: %s", agl_error_detail()), -EIO);
    assert_string_equal(agl_error_detail(), "around: field x is 7");
}

static void a_long_detail_is_cut(void **state)
{
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    error_set(-EINVAL, "%s", text);
    assert_int_equal(strlen(agl_error_detail()), 511);
}

static void *set_another(void *argument)
{
    *(int *)argument = agl_error_detail()[0];
    error_set(-EIO, "of the other thread");
    return NULL;
}

static void each_thread_has_its_own_detail(void **state)
{
    pthread_t thread;
    int first = -1;
    error_set(-EINVAL, "mine");
    assert_int_equal(pthread_create(&thread, NULL, set_another, &first), 0);
    pthread_join(thread, NULL);
    assert_int_equal(first, 0);
    assert_string_equal(agl_error_detail(), "mine");
}

static void the_version_is_that_of_the_header(void **state)
{
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", AGL_VERSION_MAJOR, AGL_VERSION_MINOR,
             AGL_VERSION_PATCH);
    assert_string_equal(agl_version(), version);
}

static void each_reason_has_its_own_word(void **state)
{
    for (uint32_t a = AGL_DONE_STOP; a <= AGL_DONE_OVERFLOW; a++)
        for (uint32_t b = a + 1; b <= AGL_DONE_OVERFLOW + 1; b++)
            assert_string_not_equal(agl_reason_name(a), agl_reason_name(b));
    assert_string_equal(agl_reason_name(0), "unknown");
}

static void the_clock_goes_forward(void **state)
{
    uint64_t before = agl_now_ns();
    assert_true(before > 0);
    assert_true(agl_now_ns() >= before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_has_a_sentence),
        cmocka_unit_test(error_set_keeps_the_detail_and_returns_the_error),
        cmocka_unit_test(a_long_detail_is_cut),
        cmocka_unit_test(each_thread_has_its_own_detail),
        cmocka_unit_test(the_version_is_that_of_the_header),
        cmocka_unit_test(each_reason_has_its_own_word),
        cmocka_unit_test(the_clock_goes_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
