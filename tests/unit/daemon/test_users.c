#include "daemon/users.h"

#include "tests/support/test.h"

static void all_connections_of_a_uid_share_one_entry(void **state)
{
    struct users users = {.first = NULL};
    struct user *first = users_enter(&users, 7);
    struct user *other = users_enter(&users, 8);
    assert_non_null(first);
    assert_non_null(other);
    assert_ptr_not_equal(first, other);
    assert_ptr_equal(users_enter(&users, 7), first);
    assert_int_equal(first->connections, 2);
    assert_int_equal(other->connections, 1);
    users_leave(&users, first);
    users_leave(&users, first);
    users_leave(&users, other);
    assert_null(users.first);
}

static void an_entry_is_new_after_its_last_connection(void **state)
{
    struct users users = {.first = NULL};
    struct user *user = users_enter(&users, 7);
    user->queue.requests = 3; /* the engine was stopped before it could take that back */
    users_leave(&users, user);
    user = users_enter(&users, 7);
    assert_int_equal(user->queue.requests, 0);
    assert_int_equal(user->connections, 1);
    users_leave(&users, user);
    users_leave(&users, NULL);
}

static void entries_leave_from_any_place_of_the_list(void **state)
{
    enum { COUNT = 5 };
    for (uid_t gone = 0; gone < COUNT; gone++) {
        struct users users = {.first = NULL};
        struct user *all[COUNT];
        for (uid_t uid = 0; uid < COUNT; uid++)
            all[uid] = users_enter(&users, uid);
        users_leave(&users, all[gone]);
        for (uid_t uid = 0; uid < COUNT; uid++) {
            if (uid == gone)
                continue;
            assert_ptr_equal(users_enter(&users, uid), all[uid]);
            users_leave(&users, all[uid]);
            users_leave(&users, all[uid]);
        }
        assert_null(users.first);
    }
}

/* The queue is the engine's thread's: it shares no cache line with what the control thread counts.
 */
static void what_the_engine_counts_has_lines_of_its_own(void **state)
{
    assert_int_equal(offsetof(struct user, queue) % LAYOUT_PAIR_BYTES, 0);
    assert_true(sizeof(struct user) % LAYOUT_PAIR_BYTES == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_connections_of_a_uid_share_one_entry),
        cmocka_unit_test(an_entry_is_new_after_its_last_connection),
        cmocka_unit_test(entries_leave_from_any_place_of_the_list),
        cmocka_unit_test(what_the_engine_counts_has_lines_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
