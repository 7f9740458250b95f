#include "tests/support/control_stand.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm/region.h"
#include "tests/support/test.h"

struct rig rig;
int descriptors;
static int mappings;
struct rlimit descriptor_limit;

int control_setup(void **state)
{
    rig_init(&rig);
    return getrlimit(RLIMIT_NOFILE, &descriptor_limit);
}

int control_teardown(void **state)
{
    setrlimit(RLIMIT_NOFILE, &descriptor_limit);
    rig_fini(&rig);
    return 0;
}

void control_begin(void)
{
    rig_open(&rig);
    rig_turn(&rig);
    descriptors = test_open_descriptors();
    mappings = rig_mappings();
}

void control_nothing_left(void)
{
    rig_until_descriptors(&rig, descriptors);
    assert_int_equal(rig_mappings(), mappings);
    assert_int_equal(rig.engine.session_count, 0);
    assert_int_equal(rig.board.board->sessions, 0);
}

int control_make_half(enum half_kind kind, uint64_t bytes)
{
    int fd = -1, pair[2];
    struct region region;
    char path[4200];
    switch (kind) {
    case HALF_RIGHT:
    case HALF_TOO_SMALL:
    case HALF_TOO_LARGE:
        bytes += kind == HALF_TOO_SMALL ? -4096ul : kind == HALF_TOO_LARGE ? 4096 : 0;
        assert_int_equal(region_create(&region, "test-client", bytes), 0);
        fd = dup(region.fd);
        region_fini(&region);
        break;
    case HALF_UNSEALED:
    case HALF_HALF_SEALED:
        fd = memfd_create("test-client", MFD_ALLOW_SEALING);
        assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
        if (kind == HALF_HALF_SEALED)
            assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        break;
    case HALF_FILE:
        snprintf(path, sizeof path, "%s/half", rig.folder);
        fd = open(path, O_RDWR | O_CREAT, 0600);
        assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
        break;
    case HALF_PIPE:
        assert_int_equal(pipe(pair), 0);
        close(pair[1]);
        fd = pair[0];
        break;
    case HALF_SOCKET:
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        break;
    }
    return fd;
}
