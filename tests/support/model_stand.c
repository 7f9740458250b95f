#include "tests/support/model_stand.h"

#include "tests/support/test.h"

void model_stand_open(struct model_stand *stand, uint32_t threads)
{
    const struct backend_options options = {.device = "cpu", .threads = threads};
    const char *why = "";
    test_folder(stand->folder);
    if (backend_open(&stand->backend, &options, &why) < 0)
        fail_msg("%s", why);
}

void model_stand_close(struct model_stand *stand)
{
    backend_close(stand->backend);
    test_remove_folder(stand->folder);
}

int model_stand_set_up(void **state)
{
    static struct model_stand stand;
    model_stand_open(&stand, 1);
    *state = &stand;
    return 0;
}

int model_stand_tear_down(void **state)
{
    model_stand_close(*state);
    return 0;
}
