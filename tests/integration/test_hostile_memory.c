/*
 * Attacks on the shared memory of a session with the real daemon: what a client cannot do to the
 * daemon's half and to the board, what it cannot do to its own half any more once that is sealed,
 * and halves that are odd but right.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/integration/scene.h"
#include "tests/support/test.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static const char *const echo_flags[] = {"--model", "echo=echo:", NULL};

static void enter(const struct scene *scene, struct stranger *ret_stranger, const char *name)
{
    struct message_hello hello = stranger_hello(name);
    scene_connect(scene, ret_stranger);
    int err = stranger_enter(ret_stranger, &hello);
    if (err < 0)
        fail_msg("\"%s\" is not let in: %s", name, strerror(-err));
}

/* The stranger's own request is answered: three tokens of the echo. */
static void expect_stranger_served(struct stranger *stranger, uint32_t id)
{
    struct event event = {.kind = 0};
    struct submission submission = stranger_request(stranger, id, 2, 3);
    uint32_t tokens = 0;
    assert_int_equal(stranger_submit(stranger, &submission), 0);
    while (event.kind != EVENT_DONE) {
        assert_int_equal(stranger_wait(stranger, &event, STRANGER_PATIENCE_MS), 0);
        assert_int_equal(event.request, id);
        for (uint32_t i = 0; event.kind == EVENT_TOKENS && i < event.count; i++)
            assert_int_equal(event.tokens[i].id, 1 + (event.index + i) % 2);
        tokens += event.kind == EVENT_TOKENS ? event.count : 0;
    }
    assert_int_equal(event.reason, DONE_LENGTH);
    assert_int_equal(tokens, 3);
}

/* ---- ways to change sealed memory ---------------------------------------------------------------
 */

/* What an attempt works on: a descriptor and a mapping of the same memory. */
struct target {
    int fd;
    uint8_t *map;
    size_t bytes;
};

enum { NOT_HERE = -1000 }; /* the machine does not know this way */

static int result(long got)
{
    return got < 0 ? -errno : 0;
}

static int map_for_writing(const struct target *target)
{
    void *map = mmap(NULL, target->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, target->fd, 0);
    return map == MAP_FAILED ? -errno : 0;
}

static int map_and_protect(const struct target *target)
{
    void *map = mmap(NULL, target->bytes, PROT_READ, MAP_SHARED, target->fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    int err = result(mprotect(map, target->bytes, PROT_READ | PROT_WRITE));
    munmap(map, target->bytes);
    return err;
}

static int open_and(const struct target *target, int flags,
                    int (*attempt)(const struct target *target))
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", target->fd);
    struct target again = {.fd = open(path, flags | O_CLOEXEC), .bytes = target->bytes};
    if (again.fd < 0)
        return -errno;
    int err = attempt(&again);
    close(again.fd);
    return err;
}

static int write_at_begin(const struct target *target)
{
    static const char junk[64] = "junk";
    return result(pwrite(target->fd, junk, sizeof junk, 0));
}

static int append(const struct target *target)
{
    static const char junk[64] = "junk";
    return result(pwrite(target->fd, junk, sizeof junk, (off_t)target->bytes));
}

static int open_and_map(const struct target *target)
{
    return open_and(target, O_RDWR, map_for_writing);
}

static int open_and_write(const struct target *target)
{
    return open_and(target, O_RDWR, write_at_begin);
}

static int open_empty(const struct target *target)
{
    return open_and(target, O_RDWR | O_TRUNC, map_for_writing);
}

static int shrink(const struct target *target)
{
    return result(ftruncate(target->fd, LAYOUT_PAGE_BYTES));
}

static int empty(const struct target *target)
{
    return result(ftruncate(target->fd, 0));
}

static int grow(const struct target *target)
{
    return result(ftruncate(target->fd, (off_t)target->bytes * 2));
}

static int shrink_by_path(const struct target *target)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", target->fd);
    return result(truncate(path, 0));
}

static int punch(const struct target *target)
{
    return result(
        fallocate(target->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LAYOUT_PAGE_BYTES));
}

static int zero_range(const struct target *target)
{
    return result(fallocate(target->fd, FALLOC_FL_ZERO_RANGE, 0, LAYOUT_PAGE_BYTES));
}

static int collapse(const struct target *target)
{
    return result(fallocate(target->fd, FALLOC_FL_COLLAPSE_RANGE, 0, LAYOUT_PAGE_BYTES));
}

static int allocate_more(const struct target *target)
{
    return result(fallocate(target->fd, 0, (off_t)target->bytes, LAYOUT_PAGE_BYTES));
}

static int seal_for_writing(const struct target *target)
{
    return result(fcntl(target->fd, F_ADD_SEALS, F_SEAL_WRITE));
}

static int seal_again(const struct target *target)
{
    return result(fcntl(target->fd, F_ADD_SEALS, F_SEAL_SHRINK));
}

static int remove_page(const struct target *target)
{
    return result(madvise(target->map, LAYOUT_PAGE_BYTES, MADV_REMOVE));
}

static int copy_from_file(const struct target *target)
{
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return NOT_HERE;
    lseek(target->fd, 0, SEEK_SET);
    int err = result(sendfile(target->fd, from, NULL, 64));
    close(from);
    return err;
}

static int splice_into(const struct target *target)
{
    static const char junk[64] = "junk";
    int ends[2];
    loff_t at = 0;
    if (pipe2(ends, O_CLOEXEC) < 0 || write(ends[1], junk, sizeof junk) < 0)
        return NOT_HERE;
    int err = result(splice(ends[0], NULL, target->fd, &at, sizeof junk, 0));
    close(ends[0]);
    close(ends[1]);
    return err;
}

/* ---- and such that need the mapping not to be for writing ---- */

static int protect(const struct target *target)
{
    return result(mprotect(target->map, target->bytes, PROT_READ | PROT_WRITE));
}

/* A debugger's way, which may write where the page table forbids it. */
static int write_own_memory(const struct target *target)
{
    static const char junk[64] = "junk";
    int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    if (mem < 0)
        return NOT_HERE;
    int err = result(pwrite(mem, junk, sizeof junk, (off_t)(uintptr_t)target->map));
    close(mem);
    return err;
}

static int write_own_process(const struct target *target)
{
    char junk[64] = "junk";
    struct iovec from = {.iov_base = junk, .iov_len = sizeof junk};
    struct iovec to = {.iov_base = target->map, .iov_len = sizeof junk};
    return result(process_vm_writev(getpid(), &from, 1, &to, 1, 0));
}

static int read_into(const struct target *target)
{
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int err = result(read(zero, target->map, 64));
    close(zero);
    return err;
}

/* To stop whoever touches a page, or to fill it. */
static int watch_faults(const struct target *target)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)target->map, .len = target->bytes},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
        return NOT_HERE;
    int err = result(ioctl(fd, UFFDIO_REGISTER, &range));
    close(fd);
    return err;
}

struct attempt {
    const char *what;
    int (*attempt)(const struct target *target);
};

/* On any sealed memory, one's own too. */
static const struct attempt on_sealed[] = {
    {"mmap for writing", map_for_writing},
    {"mmap for reading, then mprotect", map_and_protect},
    {"open again, mmap for writing", open_and_map},
    {"open again, write", open_and_write},
    {"open again, O_TRUNC", open_empty},
    {"write", write_at_begin},
    {"write behind the end", append},
    {"ftruncate to a page", shrink},
    {"ftruncate to nothing", empty},
    {"ftruncate to twice the size", grow},
    {"truncate by path", shrink_by_path},
    {"fallocate: punch a hole", punch},
    {"fallocate: zero a range", zero_range},
    {"fallocate: collapse a range", collapse},
    {"fallocate: more", allocate_more},
    {"seal against writing", seal_for_writing},
    {"seal once more", seal_again},
    {"madvise(MADV_REMOVE)", remove_page},
    {"sendfile", copy_from_file},
    {"splice", splice_into},
};

/* On memory that is mapped for reading. */
static const struct attempt on_read_only[] = {
    {"mprotect", protect},
    {"write /proc/self/mem", write_own_memory},
    {"process_vm_writev", write_own_process},
    {"read() into it", read_into},
    {"userfaultfd", watch_faults},
};

static void expect_all_to_fail(const char *name, const struct target *target,
                               const struct attempt *attempts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int err = attempts[i].attempt(target);
        if (err == NOT_HERE)
            fprintf(stderr, "*** SKIPPED here: %s of %s\n", attempts[i].what, name);
        else if (err >= 0)
            fail_msg("%s: %s works", name, attempts[i].what);
    }
}

/* ---- theirs -----------------------------------------------------------------------------------
 */

static void expect_untouchable(const char *name, int fd, size_t bytes)
{
    struct target target = {.fd = fd, .bytes = bytes};
    target.map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(target.map != MAP_FAILED);
    expect_all_to_fail(name, &target, on_sealed, sizeof on_sealed / sizeof *on_sealed);
    expect_all_to_fail(name, &target, on_read_only, sizeof on_read_only / sizeof *on_read_only);
    munmap(target.map, bytes);
}

static void what_the_daemon_gives_cannot_be_changed(void **state)
{
    struct scene scene;
    struct stranger stranger;
    scene_open(&scene, echo_flags);
    enter(&scene, &stranger, "remapper");
    expect_stranger_served(&stranger, 16);
    expect_untouchable("the daemon's half", stranger.daemon_fd,
                       daemon_half_bytes(&stranger.geometry));
    expect_untouchable("the board", stranger.board_fd, stranger.board_bytes);
    expect_stranger_served(&stranger, 32);
    scene_expect_served(&scene);
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* A private copy of the daemon's half can be had and written, and nobody else sees it. */
static void a_private_copy_stays_private(void **state)
{
    struct scene scene;
    struct stranger stranger;
    scene_open(&scene, echo_flags);
    enter(&scene, &stranger, "copier");
    size_t bytes = daemon_half_bytes(&stranger.geometry);
    uint8_t *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, stranger.daemon_fd, 0);
    if (copy != MAP_FAILED) {
        memset(copy, 0xff, bytes);
        assert_int_equal(ring_expected(&stranger.events), 1);
        assert_int_equal(*(const uint32_t *)(const void *)ring_next(&stranger.events), 0);
        munmap(copy, bytes);
    }
    expect_stranger_served(&stranger, 16);
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* ---- one's own --------------------------------------------------------------------------------
 */

static void a_half_cannot_be_cut_or_punched_once_it_is_given(void **state)
{
    struct scene scene;
    struct stranger stranger;
    scene_open(&scene, echo_flags);
    enter(&scene, &stranger, "cutter");
    struct target target = {
        .fd = stranger.half.fd, .map = stranger.half.base, .bytes = stranger.half.bytes};
    expect_all_to_fail("its own half", &target, on_sealed, sizeof on_sealed / sizeof *on_sealed);
    expect_stranger_served(&stranger, 16);
    scene_expect_served(&scene);
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* ---- odd, but right ----------------------------------------------------------------------------
 */

static void attach(struct stranger *stranger, int fd)
{
    const struct message_attach message = stranger_attach();
    struct stranger_answer answer;
    assert_int_equal(stranger_send(stranger->socket_fd, &message, sizeof message, &fd, 1),
                     sizeof message);
    assert_int_equal(stranger_receive(stranger->socket_fd, &answer, STRANGER_PATIENCE_MS), 0);
    if (answer.message.header.kind != MESSAGE_READY)
        fail_msg("refused: %s", answer.message.error.text);
}

static void enter_hall(const struct scene *scene, struct stranger *ret_stranger, const char *name)
{
    struct message_hello hello = stranger_hello(name);
    /* Both halves are of the same size then. */
    hello.geometry = (struct geometry){
        .submission_slots = 8, .event_slots = 64, .max_requests = 16, .arena_bytes = 4096};
    scene_connect(scene, ret_stranger);
    assert_int_equal(stranger_enter_hall(ret_stranger, &hello, NULL), 0);
}

/* Mapped for reading is all that the daemon needs. */
static void a_half_opened_for_reading_is_as_good(void **state)
{
    struct scene scene;
    struct stranger stranger;
    char path[64];
    scene_open(&scene, echo_flags);
    enter_hall(&scene, &stranger, "reader");
    size_t bytes = client_half_bytes(&stranger.geometry);
    assert_int_equal(region_create(&stranger.half, "reader", bytes), 0);
    stranger.daemon_half = mmap(NULL, daemon_half_bytes(&stranger.geometry), PROT_READ, MAP_SHARED,
                                stranger.daemon_fd, 0);
    assert_true(stranger.daemon_half != MAP_FAILED);
    stranger_place(&stranger);
    snprintf(path, sizeof path, "/proc/self/fd/%d", stranger.half.fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    attach(&stranger, fd);
    close(fd);
    expect_stranger_served(&stranger, 16);
    stranger_leave(&stranger);
    scene_close(&scene);
}

/* The daemon reads what it writes itself, or what belongs to another session: that leads nowhere,
 * and harms nobody. */
static void memory_of_another_is_a_half_like_any(void **state)
{
    struct scene scene;
    struct stranger mirror, victim, parasite;
    scene_open(&scene, echo_flags);
    enter_hall(&scene, &mirror, "mirror");
    assert_int_equal(client_half_bytes(&mirror.geometry), daemon_half_bytes(&mirror.geometry));
    attach(&mirror, mirror.daemon_fd);

    enter(&scene, &victim, "victim");
    scene_connect(&scene, &parasite);
    struct message_hello hello = stranger_hello("parasite");
    assert_int_equal(stranger_enter_hall(&parasite, &hello, NULL), 0);
    attach(&parasite, victim.half.fd); /* both sessions hear the same, maybe at other places */

    for (uint32_t id = 16; id < 16 * 20; id += 16) {
        expect_stranger_served(&victim, id);
        scene_expect_served(&scene);
    }
    stranger_leave(&parasite);
    stranger_leave(&mirror);
    expect_stranger_served(&victim, 16 * 20);
    stranger_leave(&victim);
    scene_close(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_daemon_gives_cannot_be_changed),
        cmocka_unit_test(a_private_copy_stays_private),
        cmocka_unit_test(a_half_cannot_be_cut_or_punched_once_it_is_given),
        cmocka_unit_test(a_half_opened_for_reading_is_as_good),
        cmocka_unit_test(memory_of_another_is_a_half_like_any),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
